"""A map without a class: the principal component of a layer's activations."""

import torch
from torch import Tensor, nn

from foveate.saliency._layer import LayerSaliency
from foveate.saliency._spec import register_saliency


@register_saliency
class EigenCam(LayerSaliency):
    """Eigen-CAM (Muhammad and Yeasin, IJCNN 2020): a layer's activations along their first principal direction.

    Like :class:`foveate.ActivationMap`, whose mean over the channels of the last features is LaFAM (Karjauv and
    Albayrak, 2024), it needs no class and no gradient; the singular value decomposition weights the channels by what
    they have in common. As the sign of a singular vector is arbitrary, that is taken with which the map's sum is
    positive.

    Args:
        model: see :class:`foveate.saliency.LayerSaliency`, as all others.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
        >>> EigenCam(net, layer="1")(torch.rand(1, 3, 12, 12)).shape
        torch.Size([1, 1, 10, 10])
    """

    def _attribute(self, model: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
        from captum.attr import LayerActivation

        activations = LayerActivation(model, layer).attribute(x)
        if not isinstance(activations, Tensor) or activations.ndim != 4:
            return activations  # the next check rejects it by its shape
        if not bool(torch.isfinite(activations).all()):
            return activations.sum(1, keepdim=True)  # the next check rejects it by its values
        values = activations.flatten(2).transpose(1, 2).double()  # one row a position
        left, sizes, _ = torch.linalg.svd(values, full_matrices=False)
        along = left[..., :1] * sizes[:, None, :1]
        along = along * torch.where(along.sum(1, keepdim=True) < 0, -1, 1)
        return along.transpose(1, 2).unflatten(2, activations.shape[2:]).to(activations.dtype)
