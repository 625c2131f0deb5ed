"""Figures on matplotlib axes: each function takes ``ax=`` and returns ``(figure, axes)``."""

import io
import re
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from foveate.evaluation._bootstrap import wilson
from foveate.evaluation._exhibits import Exhibit
from foveate.evaluation._measurement import Measurement
from foveate.evaluation._settings import Setting
from foveate.evaluation._vocabulary import MapKind, Metric, metric_held_equal
from foveate.evaluation.results import PointResult, Results
from foveate.filters import resize
from foveate.images import to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "byte_distribution",
    "chosen_settings",
    "class_changes",
    "curves",
    "finish_rate_axis",
    "gallery",
    "overlay",
    "rate_accuracy",
    "rate_accuracy_of_all",
    "reliability",
    "to_svg",
]

_COLORS = ("#7d8597", "#e4572e", "#17a398", "#a06cd5", "#d8a100", "#2f7ed8", "#c2458f", "#5f9e3f")
"""Readable on white and on black; the first is for the codec alone."""
_MARKERS = "osD^vP<>"
"""Of curves, so that they can be told apart without color too."""
_LEGEND = 9
"""Points, of the text in legends."""
_LABEL = 60
"""Characters in a line of a legend."""
_INSIDE = 3
"""At most this many lines have their legend inside the axes."""
_GOOD, _BAD = "#17a398", "#e4572e"
_INK = "#010203"
_AXIS_LABELS = {Metric.AGREEMENT: "agreement with the clean answer, %", Metric.TOP1: "top-1, %"}


def rate_accuracy(
    results: Results,
    judge: str,
    metric: str = "agreement",
    *,
    codec: str | None = None,
    ax: "Axes | None" = None,
) -> "tuple[Figure, Axes]":
    """Draw a judge's accuracy over the mean bytes per image, one line a curve, 95 % intervals as bands.

    With one codec each line has its color; with several each codec has one, and the codec alone is dotted. Each line
    has its marker; a rate control has a star, with its bytes. Baselines are dashed. Bands are drawn for the codec alone
    and the curves that use saliency.

    Args:
        results: the results to draw.
        judge: whose answers.
        metric: ``"agreement"`` or ``"top1"``.
        codec: draw the curves of this codec only, by its name without the quality; None draws all.
        ax: axes to draw on; None creates a figure.

    Raises:
        ValueError: if there is no such judge, metric or codec.
    """
    if judge not in results.clean:
        raise ValueError(f"judge: expected one of {', '.join(results.clean)}, got {judge!r}")
    metric = metric_held_equal(metric)
    points = [p for p in results.points if codec in (None, p.codec)]
    if not points:
        raise ValueError(f"codec: expected one of {', '.join({p.codec for p in results.points})}, got {codec!r}")
    lines = _labeled(points)
    codecs = list(dict.fromkeys(p.codec for p in points))
    ax = _axes(ax, (5.6, _height([*lines])))
    for position, (label, line) in enumerate(lines.items()):
        number = position if len(codecs) == 1 else codecs.index(line[0].codec)
        color, marker = _COLORS[number % len(_COLORS)], _MARKERS[position % len(_MARKERS)]
        _draw_curve(ax, line, judge, metric, label, color, marker, dotted=len(codecs) > 1)
    ax.set_title(f"{judge} ({'known' if results.clean[judge].known else 'unseen'})", fontsize=10)
    finish_rate_axis(ax, _AXIS_LABELS[metric], len(lines))
    return _figure_of(ax), ax


def rate_accuracy_of_all(results: Results, metric: str = "agreement") -> "Figure":
    """Draw :func:`rate_accuracy` for every judge, one above the other.

    Args:
        results: the results to draw.
        metric: ``"agreement"`` or ``"top1"``.
    """
    from matplotlib.figure import Figure

    height = _height([*_labeled(results.points)])
    figure = Figure((5.6, height * len(results.clean)), layout="constrained")
    axes = figure.subplots(len(results.clean), squeeze=False)[:, 0]
    for judge, ax in zip(results.clean, axes, strict=True):
        rate_accuracy(results, judge, metric, ax=ax)
    return figure


def _draw_curve(
    ax: "Axes",
    line: list[PointResult],
    judge: str,
    metric: Metric,
    label: str,
    color: str,
    marker: str,
    *,
    dotted: bool,
) -> None:
    """Draw one curve; ``dotted`` dots the codec alone."""
    first = line[0]
    baseline = first.is_baseline or first.scale < 1
    controlled = first.keep is not None and not baseline
    judgments = [point.judges[judge] for point in line]
    kilobytes = [point.bytes / 1000 for point in line]
    ax.plot(
        kilobytes,
        [100 * judgment.share(metric) for judgment in judgments],
        marker="*" if controlled else marker,
        markersize=11 if controlled else 3.5 if baseline else 4.5,
        linewidth=1.2 if baseline else 1.8,
        linestyle="--" if baseline else ":" if first.is_codec_alone and dotted else "-",
        color=color,
        label=label,
    )
    if controlled:
        for point, x, judgment in zip(line, kilobytes, judgments, strict=True):
            text, at = f"{point.bytes:,.0f} B", (x, 100 * judgment.share(metric))
            ax.annotate(text, at, (0, -13), textcoords="offset points", ha="center", fontsize=_LEGEND, color=color)
    intervals = [judgment.interval(metric) for judgment in judgments]
    if not baseline and all(None not in ends for ends in intervals):
        ax.fill_between(kilobytes, *(np.array(intervals, float).T * 100), color=color, alpha=0.13, linewidth=0)


def finish_rate_axis(ax: "Axes", label: str, lines: int) -> None:
    """Give axes of kB against accuracy their scale, labels, grid and legend.

    Args:
        ax: the axes.
        label: of the vertical axis.
        lines: the number of lines; more than three have their legend below.
    """
    ax.set_xscale("log")
    ticks = _round_ticks(*ax.get_xlim())
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("kB per image (log scale)")
    ax.set_ylabel(label)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, linewidth=0.6)
    if lines > _INSIDE:
        ax.legend(frameon=False, fontsize=_LEGEND, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    else:
        ax.legend(frameon=False, fontsize=_LEGEND, loc="lower right")


def _height(labels: list[str]) -> float:
    """The height of a figure of rate against accuracy, in inches, with room for its legend."""
    return 3.8 if len(labels) <= _INSIDE else 3.8 + 0.19 * sum(label.count("\n") + 1 for label in labels)


def _labeled(points: list[PointResult]) -> dict[str, list[PointResult]]:
    """The curves by their names, in lines that a legend has room for."""
    return {textwrap.fill(name, _LABEL): line for name, line in curves(points).items()}


def class_changes(
    measured: Measurement,
    judge: str,
    point: int,
    reference: int,
    *,
    class_names: Mapping[int, str] | None = None,
    metric: str = "agreement",
    most: int = 10,
    ax: "Axes | None" = None,
) -> "tuple[Figure, Axes]":
    """Draw which classes gain and lose the most right answers at one operating point against another.

    Args:
        measured: the counts.
        judge: whose answers.
        point: number of the operating point.
        reference: number of the one it is compared with.
        class_names: a name for each class number.
        metric: ``"agreement"``, ``"top1"`` or ``"top5"``.
        most: at most this many classes of each kind.
        ax: axes to draw on; None creates a figure.

    Returns:
        The figure and its axes: bars of the change in the share of right answers, in points, with the number of images
        of the class.
    """
    right = measured.right(judge, metric).double()
    change = right[point] - right[reference]
    classes, index, count = measured.labels.unique(return_inverse=True, return_counts=True)
    mean = torch.zeros(len(classes), dtype=torch.float64).index_add_(0, index, change) / count
    order = mean.argsort(stable=True).tolist()
    losses = [k for k in order[:most] if mean[k] < 0]
    gains = [k for k in order[::-1][:most] if mean[k] > 0][::-1]
    rows = losses + gains
    ax = _axes(ax, (5.6, 1.1 + 0.24 * len(rows)))
    names = class_names or {}
    labels = [
        f"{textwrap.shorten(names.get(int(classes[k]), str(int(classes[k]))), 28, placeholder='…')} ({int(count[k])})"
        for k in rows
    ]
    values = [100 * float(mean[k]) for k in rows]
    ax.barh(range(len(rows)), values, color=[_GOOD if v > 0 else _BAD for v in values], height=0.7)
    ax.set_yticks(range(len(rows)), labels, fontsize=8)
    ax.axvline(0, color="black", linewidth=0.8)
    if not rows:
        ax.set_xlim(-1, 1)
        ax.text(0.5, 0.5, "no class changed", transform=ax.transAxes, ha="center", va="center")
    ax.set_xlabel(f"change in {Metric(metric).label}, points (images of the class)")
    better, worse = int((mean > 0).sum()), int((mean < 0).sum())
    settings = [
        f"{Setting.of(c).name}, quality {c.codec.quality:g}"
        for c in (measured.compressors[k] for k in (point, reference))
    ]
    ax.set_title(f"{judge}: {better} classes gain, {worse} lose\n{settings[0]}, against {settings[1]}", fontsize=9)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.grid(axis="x", alpha=0.25, linewidth=0.6)
    return _figure_of(ax), ax


def byte_distribution(
    measured: Measurement, point: int, reference: int | None = None, *, ax: "Axes | None" = None
) -> "tuple[Figure, Axes]":
    """Draw how the bytes of the images are spread at one operating point, beside another.

    Args:
        measured: the counts.
        point: number of the operating point.
        reference: number of another; None takes the codec alone at full size where it keeps as many answers in the
            fewest bytes, or else where it keeps the most.
        ax: axes to draw on; None creates a figure.
    """
    settings = [Setting.of(c) for c in measured.compressors]
    means = measured.bytes.double().mean(1)
    kept = _kept(measured)
    if reference is None:
        plain = Setting(measured.compressors[point].codec.plain.family)
        alone = [k for k, setting in enumerate(settings) if setting == plain]
        reference = min(alone, key=lambda k: (-min(kept[k], kept[point]), float(means[k])), default=None)
    ax = _axes(ax, (5.6, 3.4))
    numbers = [k for k in (reference, point) if k is not None]
    low, high = float(measured.bytes[numbers].min()), float(measured.bytes[numbers].max())
    bins = np.geomspace(max(low, 1) / 1000, max(high, low * 1.01 + 1) / 1000, 31).tolist()
    for k, color in zip(numbers, _COLORS[2 - len(numbers) :], strict=False):
        control = measured.compressors[k].control
        level = f"quality {measured.compressors[k].codec.quality:g}" if control is None else control.keeps
        label = f"{settings[k].name}, {level}:\n{means[k] / 1000:.1f} kB in the mean, {kept[k]:.1%} of answers kept"
        ax.hist(measured.bytes[k].numpy() / 1000, bins, color=color, alpha=0.6, label=label)
    finish_rate_axis(ax, "images", len(numbers))
    ax.legend(frameon=False, fontsize=_LEGEND, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return _figure_of(ax), ax


def _kept(measured: Measurement) -> list[float]:
    """The share of answers kept at each point: the least of the judges that are known, or of all if none is."""
    judges = [judge for judge in measured.judges if judge.known] or measured.judges
    shares = torch.stack([measured.right(judge.name, Metric.AGREEMENT).double().mean(1) for judge in judges])
    return [float(share) for share in shares.amin(0)]


def chosen_settings(measured: Measurement, point: int, *, ax: "Axes | None" = None) -> "tuple[Figure, Axes]":
    """Draw how many images a rate control gave each quality, scale and strength.

    Args:
        measured: the counts.
        point: number of an operating point with a rate control.
        ax: axes to draw on; None creates a figure.

    Returns:
        The figure and its axes: a bar for each quality, from coarse to fine, divided by scale and strength.

    Raises:
        ValueError: if the point has no rate control.
    """
    if point not in measured.chosen:
        raise ValueError(f"point: expected one with a rate control ({sorted(measured.chosen)}), got {point}")
    chosen = measured.chosen[point]
    scale = measured.compressors[point].codec.scale
    finer = 1 if scale[0] < scale[-1] else -1
    qualities = sorted({choice["quality"] for choice in chosen}, key=lambda q: finer * q)
    kinds = sorted({(-choice["scale"], choice["strength"]) for choice in chosen})
    ax = _axes(ax, (5.6, 3.4))
    below = np.zeros(len(qualities))
    for number, (smaller, strength) in enumerate(kinds):
        counts = [
            sum((c["quality"], -c["scale"], c["strength"]) == (quality, smaller, strength) for c in chosen)
            for quality in qualities
        ]
        label = f"scale {-smaller:g}, strength {strength:g}"
        ax.bar(range(len(qualities)), counts, bottom=below, color=_COLORS[number % len(_COLORS)], label=label)
        below += counts
    ax.set_xticks(range(len(qualities)), [f"{q:g}" for q in qualities])
    ax.set_xlabel("quality chosen")
    ax.set_ylabel("images")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=_LEGEND)
    return _figure_of(ax), ax


def reliability(measured: Measurement, point: int, *, ax: "Axes | None" = None) -> "tuple[Figure, Axes]":
    """Draw how often judges keep their answers where a rate control for unseen classifiers expects it.

    (DeGroot and Fienberg 1983, "The comparison and evaluation of forecasters".)

    Args:
        measured: the counts.
        point: number of an operating point with ``keep="robust"``.
        ax: axes to draw on; None creates a figure.

    Returns:
        The figure and its axes: for each judge, the share of kept answers against the expected one, over the images in
        up to five groups of as many, from the least to the most certain, with 95 % intervals by Wilson's method.

    Raises:
        ValueError: if the point has no such rate control.
    """
    chosen = measured.chosen.get(point, [])
    if not chosen or "expected" not in chosen[0]:
        raise ValueError(f"point: expected one with keep='robust', got {point}")
    expected = torch.tensor([choice["expected"] for choice in chosen], dtype=torch.float64)
    groups = expected.argsort(stable=True).tensor_split(max(1, min(5, len(expected) // 8)))
    ax = _axes(ax, (5.6, 4.2))
    ax.plot([0, 100], [0, 100], color="0.6", linewidth=0.8, label="as expected")
    least = 100.0
    for number, judge in enumerate(measured.judges):
        kept = measured.right(judge.name, Metric.AGREEMENT)[point].double()
        at = np.array([100 * float(expected[group].mean()) for group in groups])
        shares = np.array([100 * float(kept[group].mean()) for group in groups])
        ends = 100 * np.array([wilson(int(kept[group].sum()), len(group)) for group in groups]).T
        least = min(least, float(at.min()), float(ends.min()))
        ax.errorbar(
            at + 0.4 * number,  # beside one another
            shares,
            np.abs(ends - shares),
            color=_COLORS[number % len(_COLORS)],
            marker="o" if judge.known else "s",
            markersize=5,
            linewidth=1.2,
            linestyle=":" if judge.known else "-",
            capsize=2,
            label=f"{judge.name} ({'known' if judge.known else 'unseen'})",
        )
    ax.set_xlim(10 * (least // 10), 102)
    ax.set_ylim(10 * (least // 10), 102)
    ax.set_xlabel("answers expected to be kept, %")
    ax.set_ylabel("answers kept, %")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.legend(frameon=False, fontsize=_LEGEND, loc="upper left")
    return _figure_of(ax), ax


def gallery(
    exhibit: Exhibit, class_names: Mapping[int, str] | None = None, *, most: int = 6, ax: "Axes | None" = None
) -> "tuple[Figure, Axes]":
    """Draw an image, its map, its filtered and its decoded versions, side by side with bytes and answers.

    Args:
        exhibit: the image.
        class_names: a name for each class number.
        most: at most this many decoded versions, the coarser first.
        ax: axes to draw on; None creates a figure.
    """
    names = class_names or {}

    def captions(answers: Mapping[str, int]) -> list[str]:
        return [
            f"{judge}: {textwrap.shorten(names.get(k, str(k)), 24, placeholder='…')}" for judge, k in answers.items()
        ]

    original = exhibit.sample.image
    panels: list[tuple[Tensor, list[str]]] = [(original, ["original", *captions(exhibit.clean)])]
    if exhibit.saliency is not None:
        panels.append((overlay(original, exhibit.saliency), ["saliency"]))
    panels += [(image, textwrap.wrap(name, 24)) for name, image in exhibit.filtered.items()]
    for point in exhibit.points[:most]:
        setting = f"{point.curve}, {point.encoded.codec.quality:g}"
        panels.append((point.decoded, [setting, f"{len(point.encoded.data):,} bytes", *captions(point.answers)]))
    height, width = original.shape[-2:]
    gap = round(0.06 * width)
    ax = _axes(ax, (1.9 * len(panels), 1.9 * height / width + 1.0))
    for position, (image, lines) in enumerate(panels):
        left = position * (width + gap)
        ax.imshow(to_array(image), extent=(left, left + width, height, 0))
        ax.text(left, height * 1.04, "\n".join(lines), fontsize=7, va="top", ha="left", linespacing=1.3)
    ax.set_xlim(0, len(panels) * (width + gap) - gap)
    ax.set_ylim(height, 0)
    ax.set_axis_off()
    ax.set_title(f"{exhibit.kind}: {exhibit.sample.name}".removeprefix(": "), fontsize=9, loc="left")
    return _figure_of(ax), ax


def overlay(image: Tensor, saliency: Tensor) -> Tensor:
    """Return an image in gray, brightened and colored where its map is high.

    Args:
        image: uint8 (3, H, W).
        saliency: (1, h, w) in [0, 1].

    Returns:
        Float32 (3, H, W) in [0, 1].

    Example:
        >>> overlay(torch.zeros(3, 4, 6, dtype=torch.uint8), torch.ones(1, 2, 3)).shape
        torch.Size([3, 4, 6])
    """
    from matplotlib import colormaps

    height, width = image.shape[-2:]
    heat = resize(saliency[None].cpu(), (height, width))[0, 0].clamp(0, 1)
    colors = torch.from_numpy(colormaps["inferno"](heat.numpy())[..., :3].astype(np.float32)).permute(2, 0, 1)
    gray = image.float().mean(0, keepdim=True) / 255
    return 0.4 * gray + 0.6 * colors


def curves(points: list[PointResult]) -> dict[str, list[PointResult]]:
    """Group points into curves by name, each sorted by rate; the codec alone comes first, its baselines last."""
    kinds: tuple[str | None, ...] = (None, *MapKind)

    def order(point: PointResult) -> tuple[object, ...]:
        kind = kinds.index(point.map) if point.map in kinds else len(kinds)
        return point.codec, kind, point.strength, -point.scale, point.keep is not None, point.curve, point.bytes

    groups: dict[str, list[PointResult]] = {}
    for point in sorted(points, key=order):
        groups.setdefault(point.curve, []).append(point)
    return groups


def to_svg(figure: "Figure") -> str:
    """Return a figure as inline SVG whose ink takes the color of the page around it, light or dark."""
    import matplotlib
    from matplotlib.text import Text

    for text in figure.findobj(match=lambda artist: isinstance(artist, Text)):
        if isinstance(text, Text) and text.get_color() in ("black", "k"):
            text.set_color(_INK)
    for ax in figure.axes:
        ax.patch.set_visible(False)
        ax.tick_params(colors=_INK, which="both")
        for spine in ax.spines.values():
            spine.set_color(_INK)
        for line in ax.lines:
            if line.get_color() == "black":
                line.set_color(_INK)
    stream = io.StringIO()
    # Text stays text, and the element names do not change from run to run.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "foveate"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'width="100%" role="img"', svg, count=1)


def _axes(ax: "Axes | None", size: tuple[float, float]) -> "Axes":
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained").subplots()


def _figure_of(ax: "Axes") -> "Figure":
    return ax.get_figure()  # type: ignore[return-value]  # axes always are on a figure


def _round_ticks(low: float, high: float) -> list[float]:
    ticks = [m * 10.0**e for e in range(-3, 6) for m in (1, 2, 3, 5, 7)]
    return [tick for tick in ticks if low <= tick <= high]
