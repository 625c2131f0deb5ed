"""Training on compressed images: batches are compressed after they reach the device."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from foveate._checks import check_number
from foveate._threads import parallel_map
from foveate.codecs import TargetSize, as_codec
from foveate.compressor import Control
from foveate.draws import CompressDraws, Draw, as_prefilter, plain
from foveate.images import to_uint8
from foveate.integrations.lightning._reader import Adapter, BatchReader, Forward, Numbers, SaliencySpec
from foveate.prefilter import Prefilter
from foveate.sweep import Sweep


class BatchCompressor:
    """Compresses and decodes the images of a batch, each with its own quality and strength.

    Args:
        codec: a codec as a short string.
        quality: on the codec's own scale, or a pair to draw it from uniformly for each image, both ends included; None
            takes that of ``codec``.
        prefilter: a :class:`foveate.Prefilter` or a mapping of its arguments; guided by ``saliency`` if it has no
            saliency of its own.
        saliency: see :class:`CompressionRobustness`; None explains the module in training.
        strength: strength of the pre-filter, in [0, 1], or a pair to draw it from uniformly for each image. None takes
            that of ``prefilter``; with only a ``saliency`` 0.5, or 0 if the codec takes maps itself; with neither 0,
            the codec alone.
        scale: side of the stored image divided by that of the source; decoding resizes back to source size.
        target: a :class:`foveate.TargetSize` or a mapping of its arguments, which then chooses the quality.
        control: a :class:`foveate.RateControl` or a mapping of its arguments, which then chooses strength, scale and
            quality of each image.
        p: probability of compressing an image.
        mean: see :class:`CompressionRobustness`.
        std: see :class:`CompressionRobustness`.
        adapter: from a batch to (images, target), where ``images`` must be the same tensor object as in the batch; see
            :class:`CompressionRobustness`.
        forward_fn: see :class:`CompressionRobustness`.

    Raises:
        TypeError, ValueError: if an argument is invalid or, while running, a batch does not fit.

    Example:
        >>> compress = BatchCompressor("jpeg", quality=(5, 40))
        >>> images, labels = compress((torch.rand(4, 3, 32, 32), torch.arange(4)))
        >>> images.shape, labels.tolist()
        (torch.Size([4, 3, 32, 32]), [0, 1, 2, 3])
    """

    def __init__(
        self,
        codec: str = "jpeg",
        *,
        quality: int | float | list[int] | list[float] | tuple[float, ...] | None = None,
        prefilter: dict[str, Any] | Prefilter | None = None,
        saliency: SaliencySpec = None,
        strength: float | list[float] | tuple[float, ...] | None = None,
        scale: float = 1.0,
        target: dict[str, Any] | TargetSize | None = None,
        control: dict[str, Any] | Control | None = None,
        p: float = 1.0,
        mean: Numbers = None,
        std: Numbers = None,
        adapter: Adapter = None,
        forward_fn: Forward = None,
    ) -> None:
        guided = as_prefilter(prefilter)
        if guided is None and (saliency is not None or control is not None or plain(strength) not in (None, 0)):
            guided = Prefilter()
        if guided is not None:
            saliency = saliency if guided.saliency is None else guided.saliency
            guided = guided.guided(None)  # maps are passed with each batch: they may come from the module
        if strength is None and prefilter is None and control is None and as_codec(codec).needs_saliency:
            guided = None
        # Arguments are parsed as in all hosts.
        self._draws = CompressDraws.of(
            codec, quality=quality, prefilter=guided, strength=strength, scale=scale, target=target, control=control
        )
        # An edit is guided by maps only where a saliency was given.
        self._guides = saliency is not None and (control is not None or self._draws.filters)
        self.p = check_number("p", p, 0, 1)
        self._reader = BatchReader(saliency, mean, std, adapter, forward_fn)

    def __call__(self, batch: Any, module: Any = None, data: Any = None) -> Any:
        """Return the batch with its images compressed and decoded, and everything else unchanged.

        Args:
            batch: see the class; images are float, normalized or not, or uint8.
            module: the LightningModule, explained if no saliency was given.
            data: the loader or data set whose transforms give the normalization.
        """
        images, _ = self._reader.read(batch)
        out = self.compress(images, module, data)
        replaced = tree_map(lambda leaf: out if leaf is images else leaf, batch)
        if self._reader.read(replaced)[0] is not out:
            raise ValueError(f"adapter: the images it gives are no part of the batch, a {type(batch).__name__}")
        return replaced

    def compress(self, images: Tensor, module: Any = None, data: Any = None) -> Tensor:
        """Return images (B, 3 or 1, H, W), normalized or not, compressed and decoded; the input is not changed."""
        chosen = torch.rand(len(images)) < self.p
        draws = [self._draws.draw() for _ in range(int(chosen.sum()))]
        if not draws:
            return images
        normalization = self._reader.normalization(data)
        sources = normalization.undo(images[chosen.to(images.device)])
        uses_maps = self._draws.uses_maps or self._guides
        maps = self._reader.maps(module, sources, normalization) if uses_maps else None
        decoded = torch.stack(self._decoded(sources, maps, draws))
        if images.dtype != torch.uint8:
            decoded = normalization(decoded.to(images.device).float() / 255)
        out = images.clone()
        out[chosen.to(images.device)] = decoded.to(images)
        return out

    def _decoded(self, images: Tensor, maps: Tensor | None, draws: list[Draw]) -> list[Tensor]:
        """Return each image, uint8 on the CPU, compressed and decoded with its draw or as the control chooses."""
        compressor, rows = self._draws.compressor, None if maps is None else maps.cpu()
        if compressor.control is not None:
            return compressor.decode(compressor.encode(Sweep(to_uint8(images).cpu(), rows)))
        prefilter = compressor.prefilter
        if prefilter is not None and not prefilter.after_scaling:
            if self._draws.filters:  # all images at once
                strengths = torch.tensor([draw["strength"] for draw in draws], device=images.device)
                images = prefilter(images, maps, strengths)
            compressor = replace(compressor, prefilter=None)
        sources = to_uint8(images).cpu()

        def through(k: int) -> Tensor:
            strength = None if compressor.prefilter is None else draws[k]["strength"]
            point = compressor.at(draws[k]["quality"], strength)
            return point.decode(point.encode(Sweep([sources[k]], None if rows is None else [rows[k]])))[0]

        return parallel_map(through, range(len(draws)))

    def __repr__(self) -> str:
        draws = self._draws
        name = draws.compressor.codec.family
        return f"BatchCompressor({name!r}, quality={draws.quality}, strength={draws.strength}, p={self.p:g})"


class CompressOnTheFly:
    """A mixin for a LightningModule or LightningDataModule that compresses training batches on the device.

    Put it before the Lightning class and set ``compress``; None leaves batches alone. It works in
    ``on_after_batch_transfer``, after the base class's own hook, and does not affect validation or test. Lightning
    calls that hook of either the data module or the module: mix it into the one with your other augmentations.

    Example:
        >>> from lightning.pytorch import LightningDataModule
        >>> class Samples(CompressOnTheFly, LightningDataModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.compress = BatchCompressor("jpeg", quality=(10, 60), strength=(0.0, 0.5))
        >>> Samples().compress
        BatchCompressor('jpeg', quality=(10, 60), strength=(0.0, 0.5), p=1)
    """

    compress: BatchCompressor | None = None

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Compress a training batch; called by Lightning."""
        batch = super().on_after_batch_transfer(batch, dataloader_idx)  # type: ignore[misc]
        trainer = self.trainer  # type: ignore[attr-defined]
        if self.compress is None or not trainer.training:
            return batch
        return self.compress(batch, trainer.lightning_module, trainer.train_dataloader)
