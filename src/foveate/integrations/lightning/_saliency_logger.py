"""Figures of where the network in training looks, and of filtered and decoded images."""

from typing import Any

import torch
from torch import Tensor

from foveate._checks import check_count, check_number
from foveate.codecs import as_codec
from foveate.compressor import Compressor
from foveate.images import to_uint8
from foveate.integrations.lightning import _figures
from foveate.integrations.lightning._callback import BaseCallback, is_due, log_figure, streams_of
from foveate.integrations.lightning._normalization import Normalization
from foveate.integrations.lightning._reader import Adapter, BatchReader, Forward, Numbers, SaliencySpec
from foveate.prefilter import Prefilter
from foveate.sweep import Sweep


class SaliencyLogger(BaseCallback):  # type: ignore[misc]
    """Logs figures during training of where the network looks, and of filtered and decoded images.

    Every ``every_n_epochs`` epochs, loggers that accept figures (TensorBoard, and those with ``log_image``) get one row
    for each of a fixed set of validation images: the image, the map over it, the filtered and the decoded image, with
    the bytes of the codec alone and after the filter, and the module's answers. The images are the first of the first
    validation loader; they are saved in the checkpoint, so that a resumed training shows the same ones. Only the first
    process works, so the module must not be sharded over several (FSDP).

    Args:
        images: number of images.
        every_n_epochs: number of ``fit`` epochs between figures; ``Trainer.validate`` and ``Trainer.test`` always log
            one.
        codec: a codec as a short string.
        strength: strength of the pre-filter, in [0, 1].
        saliency: see :class:`CompressionRobustness`.
        mean: see :class:`CompressionRobustness`.
        std: see :class:`CompressionRobustness`.
        adapter: see :class:`CompressionRobustness`.
        forward_fn: see :class:`CompressionRobustness`.
        name: name of the figure; it must differ between callbacks.

    Raises:
        TypeError, ValueError: if an argument is invalid or, while running, batches or logits do not fit.

    Example:
        >>> SaliencyLogger(images=2, codec="webp:20", saliency={"method": "ActivationMap"}).codec
        WebP(quality=20, method=4)
    """

    def __init__(
        self,
        images: int = 4,
        *,
        every_n_epochs: int = 1,
        codec: str = "jpeg:30",
        strength: float = 0.5,
        saliency: SaliencySpec = None,
        mean: Numbers = None,
        std: Numbers = None,
        adapter: Adapter = None,
        forward_fn: Forward = None,
        name: str = "saliency",
    ) -> None:
        super().__init__()
        self.count = check_count("images", images)
        self.every_n_epochs = check_count("every_n_epochs", every_n_epochs)
        self.codec = as_codec(codec)
        self.strength = check_number("strength", strength, 0, 1)
        self.name = name
        self.images: Tensor | None = None
        """The images that are shown, uint8 (N, C, H, W), once they were seen. Part of the checkpoint."""
        self._reader = BatchReader(saliency, mean, std, adapter, forward_fn)
        self._normalization = Normalization()
        self._dtype = torch.float32

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint."""
        return self._generate_state_key(name=self.name)

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save in a checkpoint."""
        return {"images": self.images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.images = state_dict["images"]

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first images."""
        if dataloader_idx != 0 or not trainer.is_global_zero:
            return
        if batch_idx == 0:
            self._normalization = self._reader.normalization(streams_of(trainer)[0])
        kept = 0 if self.images is None else len(self.images)
        if batch_idx == 0 or kept < self.count:
            images = self._reader.read(batch)[0]
            self._dtype = images.dtype
            if kept < self.count:
                more = to_uint8(self._normalization.undo(images[: self.count - kept])).cpu()
                self.images = more if self.images is None else torch.cat([self.images, more])

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Draw the images with their current maps."""
        if self.images is not None and is_due(trainer, self.every_n_epochs):
            log_figure(trainer, self.name, lambda: self._figure(trainer, pl_module))

    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def _figure(self, trainer: Any, module: Any) -> Any:
        assert self.images is not None
        images = self.images.to(module.device)
        maps = self._reader.maps(module, images, self._normalization)
        filtered = Prefilter(strength=self.strength)(images, maps)
        compressor = Compressor(self.codec)
        unfiltered, encoded = (compressor.encode(Sweep(x.cpu(), maps.cpu())) for x in (images, filtered))
        decoded = torch.stack(compressor.decode(encoded)).to(module.device)
        before, after = (
            self._reader.logits(trainer, module, self._inputs(x)).softmax(1).max(1) for x in (images, decoded)
        )
        titles = [
            (
                f"class {before.indices[k]} ({before.values[k]:.0%})",
                "where the network looks",
                f"pre-filter, strength {self.strength:g}",
                f"{self.codec}: class {after.indices[k]} ({after.values[k]:.0%})\n"
                f"{len(encoded[k].data):,} bytes ({len(unfiltered[k].data):,} unfiltered)",
            )
            for k in range(len(images))
        ]
        return _figures.saliency_grid(images.cpu(), maps, filtered.cpu(), decoded.cpu(), titles)

    def _inputs(self, images: Tensor) -> Tensor:
        if self._dtype == torch.uint8:
            return images
        return self._normalization(images.float() / 255).to(self._dtype)
