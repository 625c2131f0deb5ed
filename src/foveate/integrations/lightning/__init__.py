"""Foveate in Lightning (``lightning`` or ``pytorch_lightning``): ``pip install pytorch-lightning``.

During validation, :class:`CompressionRobustness` measures what compression does to the network in training and
:class:`SaliencyLogger` shows where it looks, and :class:`CompressOnTheFly` trains it on compressed images. The
callbacks work with the Trainers and LightningCLIs of both packages. Every argument can be given in a YAML or JSON file.

All three get images as the module does: on its device, in batches ``(images, target, ...)`` of float images (B, 3 or 1,
    H, W). Their normalization is given as ``mean`` and ``std``, or read from the data set's transforms in any of its
    attributes (``Normalize`` of torchvision, Kornia or Albumentations); unknown or random normalization is rejected.
    Otherwise images must be in [0, 1].
"""

from foveate._extras import require

require("torchmetrics", "lightning")

from foveate.integrations.lightning._on_the_fly import BatchCompressor, CompressOnTheFly  # noqa: E402
from foveate.integrations.lightning._robustness import CompressionRobustness  # noqa: E402
from foveate.integrations.lightning._saliency_logger import SaliencyLogger  # noqa: E402

__all__ = ["BatchCompressor", "CompressOnTheFly", "CompressionRobustness", "SaliencyLogger"]
