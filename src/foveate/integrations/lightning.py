"""Foveate in Lightning, as ``lightning`` or as ``pytorch_lightning``: ``pip install "foveate[lightning]"``.

:class:`CompressionRobustness` says during validation what compression does to the network in training,
:class:`SaliencyLogger` shows where it looks, and :class:`CompressOnTheFly` trains it on compressed pictures. The
callbacks are callbacks of both packages, whichever are installed, so that both Trainers and both LightningCLIs take
them. Every argument can stand in a YAML or JSON file.

Common to all three: pictures reach them as the module gets them, on its device, in batches ``(images, target, ...)`` of
float images (B, 3 or 1, H, W). How these were normalized is given as ``mean`` and ``std`` or read from the transforms
that the data set keeps, under whatever name (``Normalize`` of torchvision, Kornia or Albumentations); what is not
understood there, or is done by chance, is refused. Without either they are to be in [0, 1].
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from foveate._checks import check_count, check_number
from foveate._extras import require
from foveate._threads import parallel_map
from foveate.codecs import Codec, as_codec
from foveate.compressor import Compressor
from foveate.evaluation.curves import rate_at
from foveate.images import to_uint8
from foveate.integrations import _figures
from foveate.integrations._batches import Normalization, chosen, normalization_of
from foveate.models import check_logits, import_object, undisturbed
from foveate.prefilter import Prefilter, strength_map
from foveate.saliency import Saliency, from_spec
from foveate.transforms import Compress

require("torchmetrics", "lightning")
from torchmetrics import Metric  # noqa: E402

__all__ = ["BatchCompressor", "CompressOnTheFly", "CompressionRobustness", "SaliencyLogger"]

# Callables without their types, at which LightningCLI's help would list every subclass of Tensor.
SaliencySpec: TypeAlias = str | dict[str, Any] | Callable[..., Any] | None
Adapter: TypeAlias = str | Callable[..., Any] | None
Forward: TypeAlias = str | Callable[..., Any] | None
Numbers: TypeAlias = float | list[float] | tuple[float, ...] | None


def _callbacks() -> tuple[type, ...]:
    bases = []
    for name in ("lightning.pytorch", "pytorch_lightning"):
        try:
            bases.append(importlib.import_module(name).Callback)
        except ModuleNotFoundError as error:
            if error.name not in ("lightning", "lightning.pytorch", "pytorch_lightning"):
                raise  # it is there, but not whole
    if not bases:
        raise ImportError('neither lightning nor pytorch_lightning is installed; pip install "foveate[lightning]"')
    return tuple(bases)


# Each package's CLI and type checks want its own Callback: one class can be both.
_Callback: Any = type("_Callback", _callbacks(), {"__module__": __name__, "__doc__": "A callback of every Lightning."})


@dataclass(frozen=True)
class _Shown:
    """Normalizes what a saliency is shown, which is RGB, for a module that may want one channel."""

    how: Normalization
    channels: int

    def __call__(self, images: Tensor) -> Tensor:
        return self.how(images[:, : self.channels])


class _Reader:
    """What is known of a module's batches, and what is asked of the module."""

    def __init__(
        self, saliency: SaliencySpec, mean: Numbers, std: Numbers, adapter: Adapter, forward_fn: Forward
    ) -> None:
        self._spec = saliency
        self._given = chosen(mean, std)
        self._adapter = _function("adapter", adapter)
        self._forward = _function("forward_fn", forward_fn)
        self._saliency: tuple[Any, _Shown, Saliency] | None = None
        if isinstance(saliency, Mapping | str):
            from_spec(saliency, model=nn.Identity)  # so that a wrong description is named before the training

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_saliency": None}  # it holds the module, and is made anew

    @property
    def asks_module(self) -> bool:
        """Whether logits are what a call of the module gives."""
        return self._forward is None

    def read(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """The images and the targets of a batch."""
        if self._adapter is not None:
            images, target = self._adapter(batch)
        elif isinstance(batch, list | tuple) and len(batch) >= 1:
            images, target = batch[0], batch[1] if len(batch) > 1 else None
        else:
            raise TypeError(
                f"adapter: a batch is a {type(batch).__name__}; give a function that returns its images and target"
            )
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] not in (1, 3):
            got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(
                f"adapter: expected images (B, 3 or 1, H, W), got {got}; give a function that returns them"
            )
        if target is not None and (not isinstance(target, Tensor) or target.ndim not in (1, 2)):
            target = None
        return images, target if target is None or target.ndim == 1 else target.argmax(1)

    def normalization(self, data: Any) -> Normalization:
        """As given, or as read from the transforms of a loader, or none."""
        return self._given or normalization_of(data) or Normalization()

    def logits(self, trainer: Any, module: Any, images: Tensor) -> Tensor:
        """Ask the module, in the trainer's precision, leaving it and the random state as they are."""
        devices = [images.device] if images.device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices),
            undisturbed(module),
            torch.no_grad(),
            trainer.precision_plugin.forward_context(),
        ):
            out = module(images) if self._forward is None else self._forward(module, images)
        return check_logits(out).float()

    def maps(self, module: Any, pictures: Tensor, how: Normalization) -> Tensor:
        """The maps of pictures in [0, 1], by what was asked for; of the module itself where that names no model."""
        shown = _Shown(how, pictures.shape[1])
        if self._saliency is None or self._saliency[0] is not module or self._saliency[1] != shown:
            self._saliency = (module, shown, self._make(module, shown))
        return Prefilter(self._saliency[2]).maps(pictures)

    def _make(self, module: Any, shown: _Shown) -> Saliency:
        spec = {} if self._spec is None else self._spec
        if not isinstance(spec, Mapping) or "model" in spec:
            return from_spec(spec)
        if module is None:
            raise ValueError("saliency: it names no model and there is no module; give one of the two")
        spec = {"preprocess": shown, **spec}
        if self._forward is None:
            return from_spec(spec, model=module)
        if isinstance(spec.get("layer"), str):
            spec["layer"] = f"module.{spec['layer']}"
        return from_spec(spec, model=_Through(module, self._forward))


class _Through(nn.Module):
    """A module seen through a function."""

    def __init__(self, module: nn.Module, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self._function = module, forward

    def forward(self, images: Tensor) -> Tensor:
        return self._function(self.module, images)


class _Heard:
    """The logits that a module gives while this listens, by the very tensor that it was given."""

    def __init__(self, module: nn.Module) -> None:
        self._answers: list[tuple[Any, Any]] = []
        self.handle = module.register_forward_hook(self._hear)

    def _hear(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if len(inputs) == 1 and isinstance(output, Tensor):
            self._answers.append((inputs[0], output.detach()))

    def answer(self, images: Tensor) -> Tensor | None:
        """The logits (B, classes) of these images, or None where the module was not asked just that."""
        found = next((output for given, output in self._answers if given is images), None)
        return found if found is not None and found.ndim == 2 and len(found) == len(images) else None


class _Counts(Metric):
    """Counts of answers and bytes, summed over batches and processes; all integers, so the order does not matter."""

    full_state_update = False
    pictures: Tensor
    pixels: Tensor
    labeled: Tensor
    clean: Tensor
    right: Tensor
    agree: Tensor
    bytes: Tensor

    def __init__(self, points: int) -> None:
        super().__init__()
        for name in ("pictures", "pixels", "labeled", "clean"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), "sum")
        for name in ("right", "agree", "bytes"):
            self.add_state(name, torch.zeros(points, dtype=torch.int64), "sum")

    def update(self, clean: Tensor, answers: Tensor, sizes: Tensor, pixels: int, target: Tensor | None) -> None:
        """Add a batch: answers (B,) and (points, B), bytes (points,)."""
        self.pictures += clean.numel()
        self.pixels += pixels
        self.agree += (answers == clean).sum(1)
        self.bytes += sizes.to(self.bytes)
        if target is not None:
            self.labeled += clean.numel()
            self.clean += (clean == target).sum()
            self.right += (answers == target).sum(1)

    def compute(self) -> dict[str, Any]:
        """Return all counts as numbers."""
        return {name: getattr(self, name).tolist() for name in self._defaults}


class CompressionRobustness(_Callback):  # type: ignore[misc]
    """Says during validation what compression does to the network in training.

    After each validation batch (in ``fit``, ``Trainer.validate`` and ``Trainer.test``) it compresses the batch, which
    is on the device already, at every point, runs the module again, and at the end logs through ``pl_module.log``:

    - ``{name}/{point}/top1`` and ``{name}/clean/top1``, where there are targets,
    - ``{name}/{point}/agreement``: the share of pictures whose answer is that on the untouched picture,
    - ``{name}/{point}/bpp`` and ``/bytes``: bits a pixel and mean bytes a picture of the batch as the module gets it,
    - ``{name}/bytes_at_1pct_loss``: the mean bytes at which top-1 (without targets: agreement) is one point below that
      of the untouched pictures, read from the points of one codec with the logarithm of the bytes linear between them,
      the fewest of all codecs. The coarsest point's where even that loses less; infinite where every point loses more
      (an ``EarlyStopping`` on it needs ``check_finite=False``).

    So ``EarlyStopping`` and ``ModelCheckpoint`` can monitor ``robustness/jpeg:30/top1``. With several loaders, nested
    or not, names end in ``/dataloader_idx_{i}`` where those that ``validation_step`` logs do: not where a
    ``CombinedLoader`` gives the batches of all loaders together, out of which ``adapter`` then takes one. Loggers that
    take figures (TensorBoard, and those with ``log_image``) get the rate–accuracy curves, the first of the training
    faintly behind. Training goes on bit for bit as it would without: the module, its metrics and the random state are
    left as they were. Processes are summed up (pad-free: as with every metric, a sampler that repeats pictures to fill
    up counts them twice). Sanity checks are passed over.

    Args:
        points: codecs at their qualities, as short strings.
        strength: of the pre-filter before them, in [0, 1]; 0 is the codec alone. It has no part in the names.
        saliency: for the pre-filter: a model's recipe for its Grad-CAM, or a mapping (see
            :func:`foveate.saliency.from_spec`), or a saliency. Without a model it is the module in training that is
            explained; None takes its Grad-CAM.
        every_n_epochs: measure after every so many epochs of ``fit``; what monitors a value is to look no more often.
        limit_batches: measure so many batches of each loader, in each process; None for all.
        mean: how pictures were normalized, a number a channel or one for all; None reads it from the transforms of
            the data set.
        std: likewise.
        adapter: from a batch to (images, target), target (B,) class numbers or None: a function or
            ``"package.module:name"``. None takes the first two of a tuple or list.
        forward_fn: from (pl_module, images) to logits (B, classes): a function or ``"package.module:name"``. None calls
            the module.
        name: what the names of all values begin with; two callbacks need two.

    Raises:
        TypeError, ValueError: if an argument does not fit; while running, if batches or logits do not.

    Example:
        >>> callback = CompressionRobustness(["jpeg:10", "jpeg:30"], every_n_epochs=2)
        >>> [str(point) for point in callback.points]
        ['jpeg:10', 'jpeg:30']
    """

    def __init__(
        self,
        points: list[str] | tuple[str, ...] = ("jpeg:10", "jpeg:30", "webp:20"),
        strength: float = 0.0,
        saliency: SaliencySpec = None,
        every_n_epochs: int = 1,
        limit_batches: int | None = None,
        mean: Numbers = None,
        std: Numbers = None,
        adapter: Adapter = None,
        forward_fn: Forward = None,
        name: str = "robustness",
    ) -> None:
        super().__init__()
        if not isinstance(points, list | tuple) or not points:
            raise ValueError(f"points: expected a list of codecs such as ['jpeg:10', 'jpeg:30'], got {points!r}")
        self.points: list[Codec] = [as_codec(point) for point in points]
        if len(set(self.points)) < len(self.points):
            raise ValueError(f"points: expected different ones, got {list(points)}")
        self.strength = check_number("strength", strength, 0, 1)
        self.every_n_epochs = check_count("every_n_epochs", every_n_epochs)
        self.limit_batches = None if limit_batches is None else check_count("limit_batches", limit_batches)
        self.name = name
        self.history: list[dict[str, Any]] = []
        """What was measured: stage (fit, validate or test), epoch, step, loader and values. Part of the checkpoint."""
        self._reader = _Reader(saliency, mean, std, adapter, forward_fn)
        self._counts: dict[int, _Counts] = {}
        self._heard: _Heard | None = None

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint."""
        return self._generate_state_key(name=self.name)

    def state_dict(self) -> dict[str, Any]:
        """What goes into a checkpoint."""
        return {"history": [dict(entry) for entry in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a checkpoint."""
        self.history = [{"stage": "fit", **entry} for entry in state_dict["history"]]  # older ones had no other

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_counts": {}, "_heard": None}  # of a validation that is going on

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to count."""
        self._counts = {}

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Listen to what the module answers in its own step, which need not be asked again."""
        if self._measures(trainer, batch_idx) and self._reader.asks_module:
            self._heard = _Heard(pl_module)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Compress the batch and run the module again."""
        heard = self._stop_listening()
        if self._measures(trainer, batch_idx):
            self._measure(trainer, pl_module, batch, dataloader_idx, heard)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave no hook behind."""
        self._stop_listening()

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log what was counted."""
        if _due(trainer, self.every_n_epochs):
            self._log(trainer, pl_module)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def _measures(self, trainer: Any, batch_idx: int) -> bool:
        return _due(trainer, self.every_n_epochs) and (self.limit_batches is None or batch_idx < self.limit_batches)

    def _stop_listening(self) -> "_Heard | None":
        heard, self._heard = self._heard, None
        if heard is not None:
            heard.handle.remove()
        return heard

    def _measure(self, trainer: Any, module: Any, batch: Any, loader: int, heard: "_Heard | None") -> None:
        images, target = self._reader.read(batch)
        how = self._reader.normalization(_streams(trainer)[loader])
        pictures = how.undo(images)
        compressors = [Compressor(point, saliency=_unused if point.needs_saliency else None) for point in self.points]
        maps = None
        if self.strength or any(point.needs_saliency for point in self.points):
            maps = self._reader.maps(module, pictures, how)
        source = pictures
        if maps is not None and self.strength:
            source = Prefilter(_unused, self.strength).smooth(
                pictures, strength_map(maps, _size(pictures), self.strength)
            )
        source = to_uint8(source).cpu()  # once for all points
        rows = None if maps is None else list(maps.cpu())
        logits = None if heard is None else heard.answer(images)
        clean = (self._reader.logits(trainer, module, images) if logits is None else logits).argmax(1)
        answers, sizes = [], []
        for compressor in compressors:
            encoded = compressor.store(source, rows)
            decoded = torch.stack(compressor.decode(encoded)).to(images.device).float() / 255
            view = decoded if images.dtype == torch.uint8 else how(decoded).to(images.dtype)
            view = (decoded * 255).to(torch.uint8) if images.dtype == torch.uint8 else view
            answers.append(self._reader.logits(trainer, module, view).argmax(1))
            sizes.append(sum(len(one.data) for one in encoded))
        pixels = len(pictures) * pictures.shape[-2] * pictures.shape[-1]
        counts = self._counts.setdefault(loader, _Counts(len(self.points)).to(images.device))
        with torch.no_grad():
            counts.update(clean, torch.stack(answers), torch.tensor(sizes), pixels, target)

    def _log(self, trainer: Any, module: Any) -> None:
        streams = len(_streams(trainer))
        for loader in range(streams):
            # Every process takes part in the sum, also one without a batch.
            counts = self._counts.setdefault(loader, _Counts(len(self.points)).to(module.device)).compute()
            if counts["pictures"] == 0:
                continue
            tail = f"/dataloader_idx_{loader}" if streams > 1 else ""
            values = self._values(counts)
            for key, value in values.items():
                module.log(f"{self.name}/{key}{tail}", value, add_dataloader_idx=False, batch_size=1, sync_dist=True)
            entry = {"stage": trainer.state.fn.value, "epoch": trainer.current_epoch, "step": trainer.global_step}
            self.history.append({**entry, "loader": loader, "values": values})
            _log_figure(trainer, f"{self.name}/rate_accuracy{tail}", lambda: self._figure(values, loader))  # noqa: B023
        self._counts = {}

    def _values(self, counts: dict[str, Any]) -> dict[str, float]:
        pictures, labeled = counts["pictures"], counts["labeled"]
        values: dict[str, float] = {}
        if labeled:
            values["clean/top1"] = counts["clean"] / labeled
        for k, point in enumerate(map(str, self.points)):
            if labeled:
                values[f"{point}/top1"] = counts["right"][k] / labeled
            values[f"{point}/agreement"] = counts["agree"][k] / pictures
            values[f"{point}/bpp"] = 8 * counts["bytes"][k] / counts["pixels"]
            values[f"{point}/bytes"] = counts["bytes"][k] / pictures
        floor = values.get("clean/top1", 1.0) - 0.01
        curves = self._curves(values).values()
        values["bytes_at_1pct_loss"] = min(1000 * rate_at(*curve, floor) for curve in curves)
        return values

    def _curves(self, values: Mapping[str, float]) -> dict[str, tuple[list[float], list[float]]]:
        """KB and accuracy of the points of each codec."""
        what = "top1" if "clean/top1" in values else "agreement"
        curves = {}
        for family, points in groupby(sorted(self.points, key=lambda p: p.family), key=lambda p: p.family):
            rows = sorted((values[f"{p}/bytes"] / 1000, values[f"{p}/{what}"]) for p in points)
            curves[family] = ([kilobytes for kilobytes, _ in rows], [accuracy for _, accuracy in rows])
        return curves

    def _figure(self, values: Mapping[str, float], loader: int) -> Any:
        curves = self._curves(values)
        last = self.history[-1]
        title = f"epoch {last['epoch']}" if last["stage"] == "fit" else last["stage"]
        fits = (entry for entry in self.history if entry["loader"] == loader and entry["stage"] == "fit")
        first = next(fits, None)
        if first is not None and first["values"] is not values and set(first["values"]) == set(values):
            curves |= {f"_{label}": curve for label, curve in self._curves(first["values"]).items()}
            title += f", faintly epoch {first['epoch']}"
        what = "top-1" if "clean/top1" in values else "agreement"
        figure, ax = _figures.rate_accuracy(curves, what, values.get("clean/top1"))
        ax.set_title(title)
        return figure


class SaliencyLogger(_Callback):  # type: ignore[misc]
    """Shows, as the training goes on, where the network looks and what the pre-filter and the codec leave of it.

    Every so many epochs it gives loggers that take figures (TensorBoard, and those with ``log_image``) a row for each
    of the same few validation pictures: the picture, the map over it, the filtered and the decoded picture, with the
    bytes of the codec alone and after the filter and the module's answers. The pictures are the first that the first
    validation loader gives; they are kept in the checkpoint, so that a resumed training shows the same ones. Only the
    first process does anything, so the module must not be spread over several (FSDP).

    Args:
        pictures: how many.
        every_n_epochs: of ``fit``; ``Trainer.validate`` and ``Trainer.test`` always show them.
        codec: a codec as a short string.
        strength: of the pre-filter, in [0, 1].
        saliency: see :class:`CompressionRobustness`.
        mean: see :class:`CompressionRobustness`.
        std: see :class:`CompressionRobustness`.
        adapter: see :class:`CompressionRobustness`.
        forward_fn: see :class:`CompressionRobustness`.
        name: the figure's; two callbacks need two.

    Raises:
        TypeError, ValueError: if an argument does not fit; while running, if batches or logits do not.

    Example:
        >>> SaliencyLogger(pictures=2, codec="webp:20", saliency={"method": "ActivationMap"}).codec
        WebP(quality=20, method=4)
    """

    def __init__(
        self,
        pictures: int = 4,
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
        self.count = check_count("pictures", pictures)
        self.every_n_epochs = check_count("every_n_epochs", every_n_epochs)
        self.codec = as_codec(codec)
        self.strength = check_number("strength", strength, 0, 1)
        self.name = name
        self.pictures: Tensor | None = None
        """The pictures that are shown, uint8 (N, C, H, W), once they were seen. Part of the checkpoint."""
        self._reader = _Reader(saliency, mean, std, adapter, forward_fn)
        self._how = Normalization()
        self._dtype = torch.float32

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint."""
        return self._generate_state_key(name=self.name)

    def state_dict(self) -> dict[str, Any]:
        """What goes into a checkpoint."""
        return {"pictures": self.pictures}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a checkpoint."""
        self.pictures = state_dict["pictures"]

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first pictures."""
        if dataloader_idx != 0 or not trainer.is_global_zero:
            return
        if batch_idx == 0:
            self._how = self._reader.normalization(_streams(trainer)[0])
        kept = 0 if self.pictures is None else len(self.pictures)
        if batch_idx == 0 or kept < self.count:
            images = self._reader.read(batch)[0]
            self._dtype = images.dtype
            if kept < self.count:
                more = to_uint8(self._how.undo(images[: self.count - kept])).cpu()
                self.pictures = more if self.pictures is None else torch.cat([self.pictures, more])

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Draw the pictures with the maps of now."""
        if self.pictures is not None and _due(trainer, self.every_n_epochs):
            _log_figure(trainer, self.name, lambda: self._figure(trainer, pl_module))

    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def _figure(self, trainer: Any, module: Any) -> Any:
        assert self.pictures is not None
        pictures = self.pictures.to(module.device)
        maps = self._reader.maps(module, pictures, self._how)
        filtered = Prefilter(_unused, self.strength)(pictures, maps)
        compressor = Compressor(self.codec, saliency=_unused if self.codec.needs_saliency else None)
        rows = list(maps.cpu())
        alone, encoded = compressor.store(pictures.cpu(), rows), compressor.store(filtered.cpu(), rows)
        decoded = torch.stack(compressor.decode(encoded)).to(module.device)
        before, after = (
            self._reader.logits(trainer, module, self._images(x)).softmax(1).max(1) for x in (pictures, decoded)
        )
        titles = [
            (
                f"class {before.indices[k]} ({before.values[k]:.0%})",
                "where the network looks",
                f"pre-filter, strength {self.strength:g}",
                f"{self.codec}: class {after.indices[k]} ({after.values[k]:.0%})\n"
                f"{len(encoded[k].data):,} bytes ({len(alone[k].data):,} unfiltered)",
            )
            for k in range(len(pictures))
        ]
        return _figures.saliency_grid(pictures.cpu(), maps, filtered.cpu(), decoded.cpu(), titles)

    def _images(self, pictures: Tensor) -> Tensor:
        if self._dtype == torch.uint8:
            return pictures
        return self._how(pictures.float() / 255).to(self._dtype)


class BatchCompressor:
    """Compresses and decodes the images of a batch where it is, each at a quality and strength of its own.

    Args:
        codec: a codec as a short string.
        quality: on the codec's own scale, or a pair to draw it from evenly for each picture, both ends included; None
            takes that of ``codec``.
        strength: of the pre-filter, in [0, 1], or a pair to draw it from evenly for each picture; 0 is the codec alone.
        saliency: see :class:`CompressionRobustness`.
        filter: see :class:`foveate.Prefilter`.
        sigma: see :class:`foveate.Prefilter`.
        scale: sides of the stored picture over those of the source; it comes back at source size.
        p: the share of pictures that is compressed.
        mean: see :class:`CompressionRobustness`.
        std: see :class:`CompressionRobustness`.
        adapter: from a batch to (images, target), images being the very tensor in the batch: see
            :class:`CompressionRobustness`.
        forward_fn: see :class:`CompressionRobustness`.

    Raises:
        TypeError, ValueError: if an argument does not fit; while running, if a batch does not.

    Example:
        >>> compress = BatchCompressor("jpeg", quality=(5, 40))
        >>> images, labels = compress((torch.rand(4, 3, 32, 32), torch.arange(4)))
        >>> images.shape, labels.tolist()
        (torch.Size([4, 3, 32, 32]), [0, 1, 2, 3])
    """

    def __init__(
        self,
        codec: str = "jpeg",
        quality: int | float | list[int] | list[float] | tuple[float, ...] | None = None,
        strength: float | list[float] | tuple[float, ...] = 0.0,
        saliency: SaliencySpec = None,
        filter: str = "blend",
        sigma: float = 1.5,
        scale: float = 1.0,
        p: float = 1.0,
        mean: Numbers = None,
        std: Numbers = None,
        adapter: Adapter = None,
        forward_fn: Forward = None,
    ) -> None:
        plain = Prefilter(_unused, filter=filter, sigma=sigma)
        # Draws and checks are the torchvision transform's.
        self._draws = Compress(codec, quality, plain, strength, scale)
        self._filters = max(self._draws.strength or (0,)) > 0
        self._prefilter, self._scale = plain, scale
        self.p = check_number("p", p, 0, 1)
        self._reader = _Reader(saliency, mean, std, adapter, forward_fn)

    def __call__(self, batch: Any, module: Any = None, data: Any = None) -> Any:
        """Return the batch with its images compressed and decoded, all else as it was.

        Args:
            batch: see the class; images are float, normalized or not, or uint8.
            module: the LightningModule, whose own saliency is taken where none was given.
            data: the loader or data set whose transforms say how the images are normalized.
        """
        images, _ = self._reader.read(batch)
        out = self.compress(images, module, data)
        replaced = tree_map(lambda leaf: out if leaf is images else leaf, batch)
        if self._reader.read(replaced)[0] is not out:
            raise ValueError(f"adapter: the images it gives are no part of the batch, a {type(batch).__name__}")
        return replaced

    def compress(self, images: Tensor, module: Any = None, data: Any = None) -> Tensor:
        """Compress and decode images (B, 3 or 1, H, W), normalized or not; the result is a new tensor like them."""
        chosen = torch.rand(len(images)) < self.p
        drawn = [self._draws.make_params([]) for _ in range(int(chosen.sum()))]
        if not drawn:
            return images
        how = self._reader.normalization(data)
        pictures = how.undo(images[chosen.to(images.device)])
        codecs = [self._draws.compressor.codec.with_quality(draw["quality"]) for draw in drawn]
        maps = None
        if self._filters or codecs[0].needs_saliency:
            maps = self._reader.maps(module, pictures, how)
        if maps is not None and self._filters:
            strengths = torch.tensor([draw["strength"] for draw in drawn], device=pictures.device)
            pictures = self._prefilter.smooth(pictures, strength_map(maps, _size(pictures), strengths))
        rows = [None] * len(drawn) if maps is None else list(maps.cpu())

        def through(job: tuple[Codec, Tensor, Tensor | None]) -> Tensor:
            compressor = Compressor(job[0], scale=self._scale, saliency=_unused if job[0].needs_saliency else None)
            return compressor.decode(compressor.store([job[1]], [job[2]]))[0]

        decoded = torch.stack(parallel_map(through, zip(codecs, to_uint8(pictures).cpu(), rows, strict=True)))
        if images.dtype != torch.uint8:
            decoded = how(decoded.to(images.device).float() / 255)
        out = images.clone()
        out[chosen.to(images.device)] = decoded.to(images)
        return out

    def __repr__(self) -> str:
        draws = self._draws
        name = draws.compressor.codec.family
        return f"BatchCompressor({name!r}, quality={draws.quality}, strength={draws.strength}, p={self.p:g})"


class CompressOnTheFly:
    """A mixin for a LightningModule or a LightningDataModule: training batches are compressed on the device.

    Put it before the Lightning class and set ``compress``; None leaves batches alone. It works in
    ``on_after_batch_transfer``, after a hook of the class's own, and touches neither validation nor test. Lightning
    calls that hook of the data module or of the module, not of both: mix it into the one with your other augmentations.

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


def _due(trainer: Any, every_n_epochs: int) -> bool:
    if trainer.sanity_checking:
        return False
    return trainer.state.fn != "fit" or (trainer.current_epoch + 1) % every_n_epochs == 0


def _streams(trainer: Any) -> list[Any]:
    """Where the batches of this stage come from: every loader, or all of them together where they take turns.

    So many are the ``dataloader_idx`` that Lightning counts; ``trainer.val_dataloaders`` tells neither how nested
    loaders are counted nor whether they are combined.
    """
    combined = trainer._evaluation_loop._combined_loader
    return combined.flattened if combined._mode == "sequential" else [combined.flattened]


def _log_figure(trainer: Any, tag: str, draw: Callable[[], Any]) -> None:
    """Give a figure to every logger that takes one; it is drawn only if one does, in the first process only."""
    if not trainer.is_global_zero:
        return
    figure = None
    for logger in trainer.loggers:
        add_figure = getattr(logger.experiment, "add_figure", None)
        log_image = getattr(logger, "log_image", None)
        if add_figure is None and log_image is None:
            continue
        figure = draw() if figure is None else figure
        if add_figure is not None:
            add_figure(tag, figure, global_step=trainer.global_step, close=False)
        elif log_image is not None:
            log_image(tag, [_figures.pixels(figure)], step=trainer.global_step)


def _function(name: str, value: str | Callable[..., Any] | None) -> Callable[..., Any] | None:
    if isinstance(value, str):
        try:
            value = import_object(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    if value is not None and not callable(value):
        raise TypeError(f"{name}: expected a function or 'package.module:name', got {type(value).__name__}")
    return value


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _unused(images: Tensor) -> Tensor:
    raise RuntimeError("maps are given; this saliency only stands for them")
