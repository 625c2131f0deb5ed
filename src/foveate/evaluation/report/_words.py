"""What results show, in sentences."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from foveate.evaluation._bootstrap import Interval
from foveate.evaluation._vocabulary import BaselineKind, Metric, Verdict, metric_held_equal
from foveate.evaluation.results import Comparison, PointResult, Results, Saving

_BASELINES = {
    BaselineKind.CODEC_ALONE: "lower quality alone",
    BaselineKind.EVEN: "the same smoothing spread evenly",
    BaselineKind.CENTER: "a center-weighted map",
    BaselineKind.OTHER_IMAGE: "another image's map",
    BaselineKind.UNTRAINED: "an edit for untrained networks",
    BaselineKind.PIXELS: "an edit for pixels",
    BaselineKind.MS_SSIM: "an edit for MS-SSIM",
    BaselineKind.EDIT_BY_OTHER_IMAGE: "an edit by another image's map",
    BaselineKind.NO_NETWORK: "the same without any network",
    BaselineKind.OTHER_DISTANCES: "the same with another image's distances",
    BaselineKind.LEAST_CLOSENESS: "the least closeness of the witnesses",
    BaselineKind.DOWNSCALING: "plain downscaling at its best scale",
}


class Tone(StrEnum):
    """How a sentence is colored on the page."""

    GOOD = "good"
    BAD = "bad"
    DIM = "dim"


_TONES = {Verdict.SAVES: Tone.GOOD, Verdict.COSTS: Tone.BAD, Verdict.OPEN: Tone.DIM}


@dataclass(frozen=True)
class Card:
    """A figure, the sentence that explains it, and what else there is to say."""

    figure: str
    text: str
    tone: Tone
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Line:
    """A sentence and its tone."""

    text: str
    tone: Tone = Tone.DIM


@dataclass(frozen=True)
class Section:
    """Sentences under a title."""

    title: str
    lines: Sequence[Line]


def headlines(results: Results, metric: str = "agreement") -> list[Card]:
    """Return, for each judge and each setting against its codec alone, a figure and the sentence that explains it.

    The figure is that of the whole curve (BD-rate), not of its best point.
    """
    metric = metric_held_equal(metric)
    # At full size a curve differs from the codec alone by saliency, before the codec or in it, or it is a baseline.
    steered = {p.curve for p in results.points if not p.is_baseline and p.scale == 1}
    mapped = {p.curve for p in results.points if p.map}
    against = [c for c in results.comparisons if c.metric == metric and c.baseline == BaselineKind.CODEC_ALONE]
    # Scaled curves are a headline only if nothing uses saliency.
    chosen = [c for c in against if c.curve in steered] or [c for c in against if c.curve not in mapped]
    return [_headline(results, comparison, metric) for comparison in chosen]


def _headline(results: Results, c: Comparison, metric: Metric) -> Card:
    judge = f"{c.judge}, {role(results, c.known)}"
    if c.bd_rate is None or c.overlap is None or c.bd_rate_interval == (None, None):
        return _headline_of_points(results, c, metric, judge)
    low, high = (f"{100 * end:.0f}" for end in c.overlap)
    interval = f"95 %: {span(_saved(c.bd_rate_interval))}"
    text = f"by {c.curve} at equal {metric.label}, over {low} to {high} % of it ({interval}; {judge})"
    return Card(_more_or_fewer(c.bd_rate), text, _TONES[c.verdict])


def _headline_of_points(results: Results, c: Comparison, metric: Metric, judge: str) -> Card:
    """The headline of curves that have too little in common to be averaged: of their cheapest good points."""
    why = c.reason or "they have too little in common for an interval"
    test = [point for point in results.points if point.curve == c.curve]
    best = max(point.judges[c.judge].share(metric) for point in test)
    good = [point for point in test if point.judges[c.judge].share(metric) >= best - 0.01]
    point = min(good, key=lambda point: point.bytes)
    share = point.judges[c.judge].share(metric)
    rivals = [
        other for other in results.points if other.curve == c.reference and other.judges[c.judge].share(metric) >= share
    ]
    if not rivals:
        text = f"{c.reference} reaches {share:.1%} {metric.label} at no quality that was measured; {why}"
        return Card("no comparison", f"by {c.curve} ({judge}): {text}", Tone.DIM)
    rival = min(rivals, key=lambda other: other.bytes)
    text = (
        f"by {c.curve}, {point.bytes:,.0f} at {share:.1%} {metric.label}, than {c.reference} at quality "
        f"{rival.quality:g}, {rival.bytes:,.0f}, the cheapest measured that reaches as much ({judge}); no average over "
        f"the curves: {why}"
    )
    return Card(_more_or_fewer(point.bytes / rival.bytes - 1), text, Tone.DIM)


def rate_controls(results: Results, metric: str = "agreement") -> list[Section]:
    """Return the savings of each point of a rate control, against both references, and the cost of choosing."""
    metric = metric_held_equal(metric)
    sections = []
    for point in results.points:
        if point.choices is None or point.is_baseline:
            continue
        lines = [_rate_control_line(results, point, judge, metric) for judge in point.judges]
        cost = point.choices
        lines.append(
            f"criterion met on {cost.met:.1%} of the images; an image took {cost.tried:.1f} decoded candidates, "
            f"{cost.encodes:.1f} encodes and {cost.forwards:.1f} forwards of a witness"
        )
        if cost.expected is not None:
            line = f"expected of a classifier that is not a witness: {cost.expected:.1%} of its answers kept"
            if cost.promised is not None:
                agreement, low, high = (f"{100 * share:.1f}" for share in cost.promised)
                line += f"; by classifiers left out of the calibration, {agreement} % ({low} to {high} %)"
            lines.append(line)
        title = f"{point.curve}, {point.keep}: {point.bytes:,.0f} bytes per image"
        sections.append(Section(title, [Line(line) for line in lines]))
    return sections


def _rate_control_line(results: Results, point: PointResult, judge: str, metric: Metric) -> str:
    judgment = point.judges[judge]
    parts = [f"{judge} ({_known(judgment.known)}): {judgment.share(metric):.1%} {metric.label}"]
    for saving in results.savings:
        if (saving.key, saving.judge, saving.metric) == (point.key, judge, metric):
            best = "quality" if saving.baseline == BaselineKind.CODEC_ALONE else "scale and quality"
            share = saved_share(saving)
            ends = "" if saving.saved is None else f" ({span(saving.interval)})"
            parts.append(f"saved against the best {best} {share}{ends}")
    return "; ".join(parts)


def saved_share(saving: Saving | None) -> str:
    """Return a saving as a signed percentage; a dash if there is none."""
    return "–" if saving is None or saving.saved is None else f"{saving.saved:+.1%}".replace("-", "−")


def verdicts(results: Results, metric: str = "agreement") -> list[Section]:
    """Return, for each judge and each setting that uses saliency, whether it beats each baseline."""
    compared = {c.curve for c in results.comparisons if c.baseline != BaselineKind.CODEC_ALONE}
    compared -= {p.curve for p in results.points if p.is_baseline}
    lines: dict[str, list[Line]] = {}
    for c in results.comparisons:
        if c.metric == metric and c.curve in compared:
            title = f"{c.curve}, before {c.judge} ({_known(c.known)})"
            lines.setdefault(title, []).append(Line(verdict(c), _TONES[c.verdict]))
    return [Section(title, sentences) for title, sentences in lines.items()]


def verdict(c: Comparison) -> str:
    """Return what a comparison shows as a sentence without its subject."""
    baseline = _BASELINES[c.baseline]
    if c.bd_rate is None:
        return f"cannot be compared with {baseline}: {c.reason}"
    verb = {Verdict.SAVES: "beats", Verdict.COSTS: "loses to", Verdict.OPEN: "is not shown to differ from"}[c.verdict]
    return f"{verb} {baseline}: {_more_or_fewer(c.bd_rate)} (95 %: {span(_saved(c.bd_rate_interval))} saved)"


def role(results: Results, known: bool) -> str:
    """Return whether a judge had a part in what is judged."""
    if any(p.keep for p in results.points):
        return (
            "known: it made the maps or was a witness" if known else "unseen: neither made the maps nor was a witness"
        )
    return "known: it made the map" if known else "unseen: it did not make the map"


def span(ends: Interval) -> str:
    """Return an interval of shares as text, with ``…`` for an end outside what was measured.

    Example:
        >>> span((0.034, 0.128)), span((None, 0.2))
        ('3 to 13 %', '… to 20 %')
    """
    low, high = ("…" if end is None else f"{100 * end:.0f}".replace("-", "−") for end in ends)
    return f"{low} to {high} %"


def _known(known: bool) -> str:
    return "known" if known else "unseen"


def _saved(ends: Interval) -> Interval:
    """From the interval of a BD-rate to that of the bytes saved."""
    low, high = ends
    return (None if high is None else -high, None if low is None else -low)


def _more_or_fewer(bd_rate: float) -> str:
    return f"{abs(bd_rate):.1%} {'fewer' if bd_rate <= 0 else 'more'} bytes"
