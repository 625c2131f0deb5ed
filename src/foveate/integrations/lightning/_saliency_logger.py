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
    """Logs figures during training of where the network looks, and of what the pre-filter and a codec leave of images.

    Every ``every_n_epochs`` epochs, loggers that accept figures (TensorBoard, MLflow, and those with ``log_image``,
    such as Weights & Biases) get one row for each of a fixed set of validation images: the image, the map over it, the
    decoded image without and with the pre-filter, with bytes and the module's answers, and the difference between the
    two, amplified. The images are the first of different classes in the first validation loader, and other first ones
    if it has fewer classes or no targets; they are saved in the checkpoint, so that a resumed training shows the same
    ones. Only the first process works, so the module must not be sharded over several (FSDP).

    Args:
        images: number of images.
        every_n_epochs: number of ``fit`` epochs between figures; ``Trainer.validate`` and ``Trainer.test`` always log
            one.
        class_names: the names of the classes in the order of their numbers; None takes the ``classes`` of the loader's
            data set, if it has them.
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
        class_names: list[str] | tuple[str, ...] | None = None,
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
        if isinstance(class_names, str):
            raise TypeError(f"class_names: expected a list of names, got {class_names!r}")
        self.class_names = None if class_names is None else tuple(map(str, class_names))
        self.codec = as_codec(codec)
        self.strength = check_number("strength", strength, 0, 1)
        self.name = name
        self.images: Tensor | None = None
        """The images that are shown, uint8 (N, C, H, W), once they were seen. Part of the checkpoint."""
        self.labels: list[int | None] = []
        """Their class numbers, None where there is no target. Part of the checkpoint."""
        self._is_chosen = False
        self._reader = BatchReader(saliency, mean, std, adapter, forward_fn)
        self._normalization = Normalization()
        self._dtype = torch.float32
        self._names: tuple[str, ...] = ()

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint."""
        return self._generate_state_key(name=self.name)

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save in a checkpoint."""
        return {"images": self.images, "labels": [*self.labels]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.images = state_dict["images"]
        count = 0 if self.images is None else len(self.images)
        self.labels = state_dict.get("labels", [None] * count)  # which older checkpoints do not have
        self._is_chosen = count > 0

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first images of different classes."""
        if dataloader_idx != 0 or not trainer.is_global_zero:
            return
        if batch_idx == 0:
            stream = streams_of(trainer)[0]
            self._normalization = self._reader.normalization(stream)
            self._names = _classes_of(stream) if self.class_names is None else self.class_names
        if batch_idx == 0 or not self._is_chosen:
            images, target = self._reader.read(batch)
            self._dtype = images.dtype
            if not self._is_chosen:
                if batch_idx == 0:
                    self.images, self.labels = None, []  # those of the sanity check come again
                self._choose(images, _labels_of(target, len(images)))

    def _choose(self, images: Tensor, labels: list[int | None]) -> None:
        """Keep images of new classes, in place of those of a class that has another, and while there is room any."""
        for image, label in zip(images, labels, strict=True):
            if len(self.labels) == self.count:
                doubles = [k for k, other in enumerate(self.labels) if other is not None and other in self.labels[:k]]
                if not doubles:
                    self._is_chosen = True
                    return
                if label in self.labels:
                    continue
                del self.labels[doubles[-1]]
                assert self.images is not None
                self.images = torch.cat([self.images[: doubles[-1]], self.images[doubles[-1] + 1 :]])
            shown = to_uint8(self._normalization.undo(image[None])).cpu()
            self.images = shown if self.images is None else torch.cat([self.images, shown])
            self.labels.append(label)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Draw the images with their current maps."""
        self._is_chosen = self._is_chosen or (self.images is not None and not trainer.sanity_checking)
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
        encoded = [compressor.encode(Sweep(x.cpu(), maps.cpu())) for x in (images, filtered)]
        alone, after = (torch.stack(compressor.decode(group)) for group in encoded)
        answers = [
            self._reader.logits(trainer, module, self._inputs(x.to(module.device))).softmax(1).max(1)
            for x in (images, alone, after)
        ]

        def answer(part: int, k: int) -> str:
            return f"{self._name(int(answers[part].indices[k]))} ({answers[part].values[k]:.0%})"

        titles = [
            (
                (f"{self._name(label)}\n" if label is not None else "") + f"answer: {answer(0, k)}",
                "where the network looks",
                f"{self.codec}: {answer(1, k)}\n{len(encoded[0][k].data):,} bytes",
                f"strength {self.strength:g}, {self.codec}: {answer(2, k)}\n{len(encoded[1][k].data):,} bytes",
            )
            for k, label in enumerate(self.labels)
        ]
        return _figures.saliency_grid(images.cpu(), maps, alone, after, titles)

    def _name(self, number: int) -> str:
        return self._names[number] if 0 <= number < len(self._names) else f"class {number}"

    def _inputs(self, images: Tensor) -> Tensor:
        if self._dtype == torch.uint8:
            return images
        return self._normalization(images.float() / 255).to(self._dtype)


def _labels_of(target: Tensor | None, count: int) -> list[int | None]:
    """Return a class number for each of some images; None for all where the targets are not such numbers."""
    if target is None or target.is_floating_point() or target.is_complex() or len(target) != count:
        return [None] * count
    return [int(label) for label in target]


def _classes_of(stream: Any) -> tuple[str, ...]:
    """Return the names of the classes of a loader's data set, which may be a part of another; empty if it has none."""
    data = getattr(stream, "dataset", None)
    while data is not None and not hasattr(data, "classes"):
        data = getattr(data, "dataset", None)
    classes = getattr(data, "classes", None)
    return tuple(map(str, classes)) if isinstance(classes, list | tuple) else ()
