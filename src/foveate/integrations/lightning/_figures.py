"""Figures for loggers: each function returns a matplotlib figure made without pyplot."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foveate.evaluation.plots import finish_rate_axis
from foveate.filters import resize
from foveate.images import to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = tuple[Sequence[float], Sequence[float]]
Ends = Sequence[tuple[float, float]]
"""Of an interval at each point."""


def rate_accuracy(
    curves: Mapping[str, Curve],
    metric: str,
    clean: float | None = None,
    ax: "Axes | None" = None,
    intervals: Mapping[str, Ends] | None = None,
) -> "tuple[Figure, Axes]":
    """Draw accuracy over kilobytes.

    Args:
        curves: (kB per image, accuracy in [0, 1]) of each point, by curve label. Curves with labels that start with
            ``"_"`` are drawn faintly and left out of the legend.
        metric: the name of the accuracy, for the axis.
        clean: the accuracy on untouched images, drawn as a line.
        ax: axes to draw on; None makes a figure.
        intervals: of the accuracies, by curve label, drawn as bars.

    Returns:
        The figure and its axes.
    """
    from matplotlib.figure import Figure

    if ax is None:
        ax = Figure(figsize=(5.6, 3.8), layout="constrained").subplots()
    if clean is not None:
        ax.axhline(100 * clean, color="#7d8597", linewidth=1, linestyle="--", label="untouched")
    names = list(dict.fromkeys(label.removeprefix("_") for label in curves))
    for label, (kilobytes, accuracies) in curves.items():
        faint = label.startswith("_")
        shares = 100 * np.asarray(accuracies)
        ends = (intervals or {}).get(label)
        ax.errorbar(
            kilobytes,
            shares,
            None if ends is None else np.abs(100 * np.asarray(ends).T - shares),
            capsize=2,
            marker="o",
            markersize=3 if faint else 4,
            linewidth=1.0 if faint else 1.8,
            alpha=0.35 if faint else 1.0,
            color=f"C{names.index(label.removeprefix('_')) % 10}",
            label="_" if faint else label,
        )
    finish_rate_axis(ax, f"{metric}, %", len(names))
    return ax.get_figure(), ax  # type: ignore[return-value]


def saliency_grid(
    images: Tensor, maps: Tensor, alone: Tensor, filtered: Tensor, titles: Sequence[Sequence[str]]
) -> "Figure":
    """Draw one row per image: the original, its map as an overlay, decoded, decoded after the filter, their difference.

    Args:
        images: (N, C, H, W), uint8.
        maps: (N, 1, h, w) in [0, 1].
        alone: decoded without the pre-filter, like the images.
        filtered: decoded after it, like the images.
        titles: four texts per image; that of the difference says how it is amplified.
    """
    from matplotlib.figure import Figure

    count, (height, width) = len(images), images.shape[-2:]
    figure = Figure(figsize=(13, count * (2.5 * height / width + 0.45)), layout="constrained", dpi=100)
    rows = figure.subplots(count, 5, squeeze=False)
    upsampled = resize(maps.float(), (height, width)).clamp(0, 1).cpu()
    for k, row in enumerate(rows):
        difference, gain = _amplified(filtered[k], alone[k])
        texts = (*titles[k], f"difference, ×{gain}" if gain else "no difference")
        for panel, image, title in zip(
            row, (images[k], images[k], alone[k], filtered[k], difference), texts, strict=True
        ):
            panel.imshow(to_array(image.expand(3, -1, -1)))
            panel.set_title(title, fontsize=9)
            panel.axis("off")
        row[1].imshow(torch.ones(height, width), cmap="gray", vmin=0, vmax=2, alpha=0.55)
        row[1].imshow(upsampled[k, 0], cmap="inferno", alpha=0.6, vmin=0, vmax=1)
    return figure


def _amplified(image: Tensor, other: Tensor) -> tuple[Tensor, int]:
    """Return what differs between two uint8 images, around gray, and how many times it is amplified; 0 for nothing."""
    difference = image.float() - other.float()
    largest = float(difference.abs().flatten().quantile(0.99)) or float(difference.abs().max())
    gain = max(1, int(127 / largest)) if largest else 0
    return (128 + gain * difference).clamp(0, 255).byte(), gain


def pixels(figure: "Figure") -> npt.NDArray[np.uint8]:
    """Return a figure as an array (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
