"""Measuring during validation what compression does to the network in training."""

import csv
import html
import io
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric

from foveate._checks import check_count, check_number
from foveate._files import write_text
from foveate.codecs import Codec, as_codec
from foveate.compressor import Compressor
from foveate.evaluation import wilson
from foveate.evaluation.curves import rate_at
from foveate.evaluation.plots import to_svg
from foveate.images import to_uint8
from foveate.integrations.lightning import _figures
from foveate.integrations.lightning._callback import BaseCallback, is_due, log_figure, streams_of
from foveate.integrations.lightning._reader import Adapter, BatchReader, Forward, Listener, Numbers, SaliencySpec
from foveate.prefilter import Prefilter
from foveate.sweep import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


METRICS = ("agreement", "top1", "bpp", "bytes", "bytes_at_1pct_loss")
"""What the callback can log."""


class _Counts(Metric):
    """Counts of answers and bytes, summed over batches and processes; integers, so the order does not matter."""

    full_state_update = False
    images: Tensor
    pixels: Tensor
    labeled: Tensor
    clean: Tensor
    right: Tensor
    agree: Tensor
    bytes: Tensor

    def __init__(self, points: int) -> None:
        super().__init__()
        for name in ("images", "pixels", "labeled", "clean"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), "sum")
        for name in ("right", "agree", "bytes"):
            self.add_state(name, torch.zeros(points, dtype=torch.int64), "sum")

    def update(self, clean: Tensor, answers: Tensor, sizes: Tensor, pixels: int, target: Tensor | None) -> None:
        """Add a batch: answers (B,) and (points, B), bytes (points,)."""
        self.images += clean.numel()
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


class CompressionRobustness(BaseCallback):  # type: ignore[misc]
    """Measures during validation what compression does to the network in training.

    After each validation batch (in ``fit``, ``Trainer.validate`` and ``Trainer.test``) it compresses the batch at every
    point and runs the module again. At the end it logs through ``pl_module.log`` those of these that are asked for as
    ``metrics``:

    - ``{name}/{point}/agreement``: the share of images with the same answer as on the untouched image,
    - ``{name}/{point}/top1`` and ``{name}/clean/top1``, if there are targets,
    - ``{name}/{point}/bpp`` and ``{name}/{point}/bytes``: bits per pixel and mean bytes per image, at the size the
      module gets,
    - ``{name}/bytes_at_1pct_loss``: the mean bytes at which top-1 (without targets: agreement) is one percentage point
      below that of the untouched images, interpolated between a codec's points linearly in the logarithm of the bytes;
      the minimum over codecs. It is the bytes of the coarsest point if even that loses less, and infinite if every
      point loses more (an ``EarlyStopping`` on it needs ``check_finite=False``).

    So ``EarlyStopping`` and ``ModelCheckpoint`` can monitor ``robustness/jpeg:30/agreement``. All are measured in any
    case, and are in :meth:`results`, :meth:`to_csv` and :meth:`plot`. With several loaders, nested or not, names end in
    ``/dataloader_idx_{i}``, like those that ``validation_step`` logs. A ``CombinedLoader`` that returns the batches of
    all loaders together gets no suffix; ``adapter`` then picks one batch. Loggers that accept figures (TensorBoard,
    MLflow, and those with ``log_image``, such as Weights & Biases) get the rate–accuracy curves, with the first of the
    training faintly behind. Training is bit for bit the same as without the callback: the module, its metrics and the
    random state are restored. Results are summed over processes; as with every metric, images that a sampler repeats as
    padding count twice. Sanity checks are skipped.

    Args:
        points: codecs with qualities, as short strings.
        metrics: names of what is logged: ``"agreement"``, ``"top1"``, ``"bpp"``, ``"bytes"``, ``"bytes_at_1pct_loss"``.
        strength: strength of the pre-filter, in [0, 1]; 0 is the codec alone. It is not part of the names.
        saliency: for the pre-filter: a model's recipe for its Grad-CAM, a mapping (see
            :func:`foveate.saliency.as_saliency`), or a saliency. A mapping without a model explains the module in
            training; None takes that module's Grad-CAM.
        every_n_epochs: number of ``fit`` epochs between measurements; callbacks that monitor a value must not check
            more often.
        limit_batches: number of batches to measure of each loader, in each process; None for all.
        mean: mean of the images' normalization, a number per channel or one for all; None reads it from the data set's
            transforms.
        std: standard deviation, likewise.
        adapter: from a batch to (images, target), target (B,) class numbers or None: a function or
            ``"package.module:name"``. None takes the first two of a tuple or list.
        forward_fn: from (pl_module, images) to logits (B, classes): a function or ``"package.module:name"``. None calls
            the module.
        name: prefix of all logged names; it must differ between callbacks.

    Raises:
        TypeError, ValueError: if an argument is invalid or, while running, batches or logits do not fit.

    Example:
        >>> callback = CompressionRobustness(["jpeg:10", "jpeg:30"], every_n_epochs=2)
        >>> [str(point) for point in callback.points]
        ['jpeg:10', 'jpeg:30']
    """

    def __init__(
        self,
        points: list[str] | tuple[str, ...] = ("jpeg:10", "jpeg:30", "webp:20"),
        *,
        metrics: list[str] | tuple[str, ...] = ("agreement",),
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
        if not isinstance(metrics, list | tuple) or not {*metrics} <= {*METRICS}:
            raise ValueError(f"metrics: expected a list of some of {', '.join(METRICS)}, got {metrics!r}")
        self.metrics = tuple(metrics)
        self.strength = check_number("strength", strength, 0, 1)
        self.every_n_epochs = check_count("every_n_epochs", every_n_epochs)
        self.limit_batches = None if limit_batches is None else check_count("limit_batches", limit_batches)
        self.name = name
        self.history: list[dict[str, Any]] = []
        """What was measured: stage (fit, validate or test), epoch, step, loader, n images and values.

        It is part of the checkpoint; :meth:`results` has it as rows, :meth:`plot` draws it.
        """
        self._reader = BatchReader(saliency, mean, std, adapter, forward_fn)
        self._counts: dict[int, _Counts] = {}
        self._listener: Listener | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({[str(point) for point in self.points]}, {len(self.history)} measurements)"

    def _repr_html_(self) -> str:
        """The curves as last measured, for a notebook."""
        if not self.history:
            return f"<p>{html.escape(repr(self))}</p>"
        return f"<div style='max-width: 36rem'>{to_svg(self.plot(self.history[-1]['loader'])[0])}</div>"

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint."""
        return self._generate_state_key(name=self.name)

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save in a checkpoint."""
        return {"history": [dict(entry) for entry in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.history = [{"stage": "fit", **entry} for entry in state_dict["history"]]  # older checkpoints hold only fit

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_counts": {}, "_listener": None}  # state of a running validation

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start counting."""
        self._counts = {}

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Record the module's logits in its own step, to avoid running it again."""
        if self._measures(trainer, batch_idx) and self._reader.asks_module:
            self._listener = Listener(pl_module)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Compress the batch and run the module again."""
        listener = self._stop_listening()
        if self._measures(trainer, batch_idx):
            self._measure(trainer, pl_module, batch, dataloader_idx, listener)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Remove the hooks."""
        self._stop_listening()

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the results."""
        if is_due(trainer, self.every_n_epochs):
            self._log(trainer, pl_module)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def _measures(self, trainer: Any, batch_idx: int) -> bool:
        return is_due(trainer, self.every_n_epochs) and (self.limit_batches is None or batch_idx < self.limit_batches)

    def _stop_listening(self) -> Listener | None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.handle.remove()
        return listener

    def _measure(self, trainer: Any, module: Any, batch: Any, loader: int, listener: Listener | None) -> None:
        inputs, target = self._reader.read(batch)
        normalization = self._reader.normalization(streams_of(trainer)[loader])
        images = normalization.undo(inputs)
        maps = None
        if self.strength or any(point.needs_saliency for point in self.points):
            maps = self._reader.maps(module, images, normalization)
        filtered = Prefilter(strength=self.strength)(images, maps)
        sweep = Sweep(to_uint8(filtered).cpu(), None if maps is None else maps.cpu())  # once for all points
        logits = None if listener is None else listener.answer(inputs)
        clean = (self._reader.logits(trainer, module, inputs) if logits is None else logits).argmax(1)
        answers, sizes = [], []
        for point in self.points:
            compressor = Compressor(point)
            encoded = compressor.encode(sweep)
            decoded = torch.stack(compressor.decode(encoded)).to(inputs.device)
            seen = decoded if inputs.dtype == torch.uint8 else normalization(decoded.float() / 255).to(inputs.dtype)
            answers.append(self._reader.logits(trainer, module, seen).argmax(1))
            sizes.append(sum(len(e.data) for e in encoded))
        pixels = len(images) * images.shape[-2] * images.shape[-1]
        counts = self._counts.setdefault(loader, _Counts(len(self.points)).to(inputs.device))
        with torch.no_grad():
            counts.update(clean, torch.stack(answers), torch.tensor(sizes), pixels, target)

    def _log(self, trainer: Any, module: Any) -> None:
        streams = len(streams_of(trainer))
        for loader in range(streams):
            # Every process takes part in the sum, even one without a batch.
            counts = self._counts.setdefault(loader, _Counts(len(self.points)).to(module.device)).compute()
            if counts["images"] == 0:
                continue
            tail = f"/dataloader_idx_{loader}" if streams > 1 else ""
            values = self._values(counts)
            for key, value in values.items():
                if key.rpartition("/")[2] not in self.metrics:
                    continue
                module.log(f"{self.name}/{key}{tail}", value, add_dataloader_idx=False, batch_size=1, sync_dist=True)
            entry = {"stage": trainer.state.fn.value, "epoch": trainer.current_epoch, "step": trainer.global_step}
            n = counts["labeled"] or counts["images"]
            self.history.append({**entry, "loader": loader, "n": n, "values": values})
            log_figure(trainer, f"{self.name}/rate_accuracy{tail}", lambda: self.plot(loader)[0])  # noqa: B023
        self._counts = {}

    def _values(self, counts: dict[str, Any]) -> dict[str, float]:
        images, labeled = counts["images"], counts["labeled"]
        values: dict[str, float] = {}
        if labeled:
            values["clean/top1"] = counts["clean"] / labeled
        for k, point in enumerate(map(str, self.points)):
            if labeled:
                values[f"{point}/top1"] = counts["right"][k] / labeled
            values[f"{point}/agreement"] = counts["agree"][k] / images
            values[f"{point}/bpp"] = 8 * counts["bytes"][k] / counts["pixels"]
            values[f"{point}/bytes"] = counts["bytes"][k] / images
        floor = values.get("clean/top1", 1.0) - 0.01
        curves = self._curves(values).values()
        values["bytes_at_1pct_loss"] = min(1000 * rate_at(*curve, floor) for curve in curves)
        return values

    def _curves(self, values: Mapping[str, float]) -> dict[str, tuple[list[float], list[float]]]:
        """Return kB and accuracy of each codec's points."""
        metric = "top1" if "clean/top1" in values else "agreement"
        curves = {}
        for family, points in groupby(sorted(self.points, key=lambda p: p.family), key=lambda p: p.family):
            rows = sorted((values[f"{p}/bytes"] / 1000, values[f"{p}/{metric}"]) for p in points)
            curves[family] = ([kilobytes for kilobytes, _ in rows], [accuracy for _, accuracy in rows])
        return curves

    def _intervals(self, entry: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
        """Return the 95 % interval (Wilson 1927) of each accuracy of :meth:`_curves`."""
        n = entry.get("n")  # which older checkpoints do not have
        if n is None:
            return {}
        curves = self._curves(entry["values"]).items()
        return {family: [wilson(round(share * n), n) for share in shares] for family, (_, shares) in curves}

    def results(self) -> list[dict[str, Any]]:
        """Return what was measured, a row for each measurement and point, such as a table of pandas takes.

        Returns:
            ``stage``, ``epoch``, ``step``, ``loader``, ``n`` (images; None from an older checkpoint), ``point``; as
            shares ``clean_top1``, ``top1`` (None without targets) and ``agreement``; ``bpp`` and ``bytes`` an image.

        Example:
            >>> CompressionRobustness(["jpeg:10"]).results()
            []
        """
        rows = []
        for entry in self.history:
            values = entry["values"]
            about = {name: entry.get(name) for name in ("stage", "epoch", "step", "loader", "n")}
            for point in map(str, self.points):
                measured = {name: values.get(f"{point}/{name}") for name in ("top1", "agreement", "bpp", "bytes")}
                rows.append({**about, "point": point, "clean_top1": values.get("clean/top1"), **measured})
        return rows

    def to_csv(self, path: str | Path) -> None:
        """Write :meth:`results` as CSV with a head.

        Raises:
            ValueError: if nothing was measured yet.
        """
        rows = self.results()
        if not rows:
            raise ValueError("to_csv: nothing was measured yet; run fit, validate or test first")
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(Path(path), text.getvalue())

    def plot(self, loader: int = 0, ax: "Axes | None" = None) -> "tuple[Figure, Axes]":
        """Draw accuracy over bytes as last measured, with 95 % intervals, and the first epoch of training faintly.

        Args:
            loader: number of the loader.
            ax: axes to draw on; None makes a figure.

        Returns:
            The figure and its axes.

        Raises:
            ValueError: if nothing was measured on this loader yet.
        """
        entries = [entry for entry in self.history if entry["loader"] == loader]
        if not entries:
            raise ValueError(f"loader: nothing was measured on {loader} yet; run fit, validate or test first")
        last, values = entries[-1], entries[-1]["values"]
        curves: dict[str, Any] = dict(self._curves(values))
        metric = "top-1" if "clean/top1" in values else "agreement"
        when = f"epoch {last['epoch']}" if last["stage"] == "fit" else last["stage"]
        title = f"{metric} after compression, {when}"
        first = next((entry for entry in entries if entry["stage"] == "fit"), last)
        if first is not last and set(first["values"]) == set(values):
            curves |= {f"_{label}": curve for label, curve in self._curves(first["values"]).items()}
            title += f" (faintly epoch {first['epoch']})"
        if "n" in last:
            title += f"\n{last['n']:,} images, 95 % intervals"
        figure, ax = _figures.rate_accuracy(curves, metric, values.get("clean/top1"), ax, self._intervals(last))
        ax.set_title(title, fontsize=10)
        return figure, ax
