"""Figures on matplotlib axes: each function takes ``ax=`` and returns ``(figure, axes)``."""

import io
import re
from typing import TYPE_CHECKING

from foveate.evaluation.results import Point, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#7d8597", "#e4572e", "#17a398", "#a06cd5", "#d8a100", "#2f7ed8", "#c2458f", "#5f9e3f")
"""Readable on white and on black; the first is for the codec alone."""
_INK = "#010203"


def rate_accuracy(
    results: Results, judge: str, metric: str = "agreement", ax: "Axes | None" = None
) -> "tuple[Figure, Axes]":
    """Draw a judge's accuracy over the mean bytes a picture, one line for each (codec, strength, scale).

    With one codec each line has its colour; with several each codec has one, and the codec alone is dotted.

    Args:
        results: what to draw.
        judge: whose answers.
        metric: ``"agreement"`` or ``"top1"``.
        ax: axes to draw on; None makes a figure.

    Returns:
        The figure and its axes.
    """
    from matplotlib.figure import Figure

    lines = curves(results.points)
    codecs = list(dict.fromkeys(points[0].codec for points in lines.values()))
    many = len(lines) > 6
    if ax is None:
        ax = Figure(figsize=(5.6, 5.4 if many else 3.8), layout="constrained").subplots()
    for position, (label, points) in enumerate(lines.items()):
        alone = points[0].strength == 0 and points[0].scale == 1
        colour = COLOURS[(position if len(codecs) == 1 else codecs.index(points[0].codec)) % len(COLOURS)]
        ax.plot(
            [p.bytes / 1000 for p in points],
            [100 * getattr(p.judges[judge], metric) for p in points],
            marker="o",
            markersize=4,
            linewidth=1.8,
            linestyle=":" if alone and len(codecs) > 1 else "-",
            color=colour,
            label=label,
        )
    known = results.points[0].judges[judge].known
    ax.set_title(f"{judge} ({'made the map' if known else 'did not make the map'})", fontsize=10)
    ax.set_xscale("log")
    ticks = _round_ticks(*ax.get_xlim())
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("kB a picture (log scale)")
    ax.set_ylabel({"agreement": "agreement with the clean answer, %", "top1": "top-1, %"}[metric])
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, linewidth=0.6)
    if many:
        ax.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    else:
        ax.legend(frameon=False, fontsize=8, loc="lower right")
    return ax.get_figure(), ax  # type: ignore[return-value]


def curves(points: list[Point]) -> dict[str, list[Point]]:
    """Group points into curves by a name a reader understands, each sorted by rate; the codec alone comes first."""
    groups: dict[tuple[str, float, float], list[Point]] = {}
    for point in sorted(points, key=lambda p: (p.codec, p.strength, -p.scale, p.bytes)):
        groups.setdefault((point.codec, point.strength, point.scale), []).append(point)
    return {setting(*key): group for key, group in groups.items()}


def setting(codec: str, strength: float, scale: float) -> str:
    """Name a curve: ``"jpeg alone"``, ``"jpeg, strength 0.5"``, ``"jpeg, scale 0.7"``."""
    parts = [f"strength {strength:g}"] * (strength > 0) + [f"scale {scale:g}"] * (scale < 1)
    return ", ".join([codec, *parts]) if parts else f"{codec} alone"


def to_svg(figure: "Figure") -> str:
    """Return a figure as inline SVG whose ink takes the colour of the page around it, light or dark."""
    for text in figure.findobj(match=lambda artist: hasattr(artist, "set_fontfamily")):
        if text.get_color() in ("black", "k"):  # type: ignore[attr-defined]
            text.set_color(_INK)  # type: ignore[attr-defined]
    for ax in figure.axes:
        ax.patch.set_visible(False)
        ax.tick_params(colors=_INK, which="both")
        for spine in ax.spines.values():
            spine.set_color(_INK)
    stream = io.StringIO()
    import matplotlib

    # Text stays text, and the element names do not change from run to run.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "foveate"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'width="100%" role="img"', svg, count=1)


def _round_ticks(low: float, high: float) -> list[float]:
    steps = [m * 10.0**e for e in range(-3, 6) for m in (1, 2, 3, 5, 7)]
    return [s for s in steps if low <= s <= high]
