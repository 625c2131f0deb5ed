"""Metrics for a loop of your own, on torchmetrics: they clone, pickle, and add up over processes like any other."""

from collections.abc import Sequence
from typing import Any

import torch
import torchmetrics
from torch import Tensor

from foveate.compressor import Encoded
from foveate.evaluation._vocabulary import Metric, metric_held_equal
from foveate.evaluation.curves import bd_rate

__all__ = ["BDRate", "BitsPerPixel", "RateAccuracy"]


class BitsPerPixel(torchmetrics.Metric):
    """Bits per pixel of the source images, pooled: all bits over all pixels, not the mean over the images.

    Example:
        >>> import foveate
        >>> metric = BitsPerPixel()
        >>> metric.update(foveate.Compressor("jpeg:30").encode(torch.zeros(2, 3, 40, 50)))
        >>> metric.update(torch.tensor([100]), torch.tensor([800]))
        >>> bool(metric.compute() > 0)
        True
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0
    bits: Tensor
    pixels: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("bits", torch.zeros((), dtype=torch.int64), "sum")
        self.add_state("pixels", torch.zeros((), dtype=torch.int64), "sum")

    def update(self, encoded: Sequence[Encoded] | Tensor | int, pixels: Tensor | int | None = None) -> None:
        """Count images.

        Args:
            encoded: the bitstreams from :meth:`foveate.Compressor.encode`, or the length of each in bytes.
            pixels: of each source image; only with lengths, and as many.

        Raises:
            ValueError: if lengths come without pixels, or with another number of them.
        """
        sizes, areas = _sizes(encoded, pixels)
        self.bits += 8 * sizes.sum().to(self.bits.device)
        self.pixels += areas.sum().to(self.pixels.device)

    def compute(self) -> Tensor:
        """Return the bits per pixel, float32; NaN if nothing was counted."""
        return self.bits / self.pixels


class RateAccuracy(torchmetrics.Metric):
    """Rate and accuracy at several operating points.

    Args:
        points: their names, such as ``["jpeg:10", "jpeg:30"]``.
        kwargs: those of every ``torchmetrics.Metric``.

    Raises:
        ValueError: if there is no name, or one is repeated.

    Example:
        >>> metric = RateAccuracy(["jpeg:10", "jpeg:30"])
        >>> logits, labels = torch.eye(4), torch.tensor([0, 1, 2, 0])
        >>> metric.update("jpeg:10", logits, labels, torch.tensor([100] * 4), torch.tensor([800] * 4))
        >>> metric.update("jpeg:30", logits, labels, torch.tensor([200] * 4), torch.tensor([800] * 4), clean=logits)
        >>> curve = metric.compute()
        >>> curve["top1"].tolist(), curve["bpp"].tolist(), curve["agreement"].tolist()
        ([0.75, 0.75], [1.0, 2.0], [nan, 1.0])
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counts: Tensor

    def __init__(self, points: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.points = list(points)
        if not self.points or len(set(self.points)) < len(self.points):
            raise ValueError(f"points: expected different names, at least one, got {self.points}")
        # The columns: images, bytes, pixels, right by the label, compared with clean, equal to clean.
        self.add_state("counts", torch.zeros(len(self.points), 6, dtype=torch.int64), "sum")

    def update(
        self,
        point: str,
        logits: Tensor,
        target: Tensor,
        encoded: Sequence[Encoded] | Tensor,
        pixels: Tensor | None = None,
        clean: Tensor | None = None,
    ) -> None:
        """Count images at one point.

        Args:
            point: its name.
            logits: (N, classes) of the decoded images.
            target: (N,) labels.
            encoded: the N bitstreams, or their lengths in bytes (N,).
            pixels: (N,) of the source images; only with lengths.
            clean: (N, classes) logits of the untouched images, for the agreement.

        Raises:
            ValueError: if there is no such point, or the shapes do not fit.
        """
        if point not in self.points:
            raise ValueError(f"point: expected one of {', '.join(self.points)}, got {point!r}")
        sizes, areas = _sizes(encoded, pixels)
        if logits.ndim != 2 or target.shape != logits.shape[:1] or sizes.shape != logits.shape[:1]:
            raise ValueError(
                f"logits, target, encoded: expected (N, classes), (N,) and N bitstreams, got {tuple(logits.shape)}, "
                f"{tuple(target.shape)} and {len(sizes)}"
            )
        if clean is not None and clean.shape != logits.shape:
            raise ValueError(f"clean: expected {tuple(logits.shape)} as the logits, got {tuple(clean.shape)}")
        answers = logits.argmax(1)
        row = [len(sizes), int(sizes.sum()), int(areas.sum()), int((answers == target).sum())]
        row += [0, 0] if clean is None else [len(sizes), int((answers == clean.argmax(1)).sum())]
        self.counts[self.points.index(point)] += torch.tensor(row, device=self.counts.device)

    def compute(self) -> dict[str, Tensor]:
        """Return the curve, float32 in the order of the points, NaN if nothing was counted.

        Returns:
            ``"bytes"``, the mean per image; ``"bpp"``, pooled; ``"top1"`` and ``"agreement"``, shares.
        """
        n, sizes, pixels, right, compared, equal = self.counts.double().unbind(1)
        curve = {"bytes": sizes / n, "bpp": 8 * sizes / pixels, "top1": right / n, "agreement": equal / compared}
        return {name: value.float() for name, value in curve.items()}


class BDRate(RateAccuracy):
    """Bjøntegaard delta rate between two curves that are counted side by side; see :func:`foveate.evaluation.bd_rate`.

    Args:
        anchor: names of the operating points of the reference curve, at least two.
        test: those of the curve that is compared with it.
        metric: ``"top1"`` or ``"agreement"``: what is held equal.
        kwargs: those of every ``torchmetrics.Metric``.

    Raises:
        ValueError: if a curve has fewer than two points, a name is repeated, or there is no such metric.

    Example:
        >>> metric = BDRate(["a:1", "a:2"], ["b:1", "b:2"])
        >>> labels, pixels = torch.tensor([0, 1]), torch.tensor([800, 800])
        >>> half, whole = torch.tensor([[1.0, 0], [1, 0]]), torch.eye(2)
        >>> for name, logits, size in [("a:1", half, 100), ("a:2", whole, 400), ("b:1", half, 80), ("b:2", whole, 320)]:
        ...     metric.update(name, logits, labels, torch.tensor([size, size]), pixels)
        >>> round(float(metric.compute()), 4)
        -0.2
    """

    higher_is_better = False

    def __init__(self, anchor: Sequence[str], test: Sequence[str], metric: str = "top1", **kwargs: Any) -> None:
        super().__init__([*anchor, *test], **kwargs)
        if min(len(anchor), len(test)) < 2:
            raise ValueError(f"anchor, test: expected at least two points each, got {len(anchor)} and {len(test)}")
        self.split, self.metric = len(anchor), metric_held_equal(metric)

    def compute(self) -> Tensor:  # type: ignore[override]  # one figure instead of a curve
        """Return the delta rate, a float32 share: -0.1 if the test curve needs 10 % fewer bytes.

        Raises:
            NoOverlapError: if the curves have no accuracy in common.
            ValueError: if a point was not counted.
        """
        n, sizes, _, right, compared, equal = self.counts.double().unbind(1)
        if bool((n == 0).any()) or (self.metric == Metric.AGREEMENT and bool((compared == 0).any())):
            raise ValueError(f"points: not all were counted: {dict(zip(self.points, n.int().tolist(), strict=True))}")
        rates = (sizes / n).tolist()
        shares = (right / n if self.metric == Metric.TOP1 else equal / compared).tolist()
        k = self.split
        return torch.tensor(bd_rate(rates[:k], shares[:k], rates[k:], shares[k:]))


def _sizes(encoded: Sequence[Encoded] | Tensor | int, pixels: Tensor | int | None) -> tuple[Tensor, Tensor]:
    """Bytes and pixels, int64 (N,) each."""
    if isinstance(encoded, Tensor | int):
        if pixels is None:
            raise ValueError(
                "pixels: expected the pixels of the source images beside the lengths of bitstreams, got None"
            )
        sizes, areas = torch.as_tensor(encoded).reshape(-1).long(), torch.as_tensor(pixels).reshape(-1).long()
        if sizes.shape != areas.shape:
            raise ValueError(f"pixels: expected {len(sizes)}, as many as bitstreams, got {len(areas)}")
        return sizes, areas
    if pixels is not None:
        raise ValueError("pixels: expected None, as bitstreams hold the pixels of their sources")
    return torch.tensor([len(item.data) for item in encoded]), torch.tensor([item.pixels for item in encoded])
