"""Two evaluations compared image by image: did a change help?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from foveate.evaluation._bootstrap import Bootstrap, Interval, interval
from foveate.evaluation._measurement import right_answers
from foveate.evaluation._summary import CurveFields, Resampled, compare_curves
from foveate.evaluation._vocabulary import HELD_EQUAL, Metric, Verdict
from foveate.evaluation.records import Records
from foveate.evaluation.results import PointResult, Results

__all__ = ["Changes", "CurveChange", "PointChange", "compare_runs", "text"]


@dataclass(frozen=True)
class PointChange:
    """One operating point in run B against the same in run A, over the images of both.

    Attributes:
        curve, quality, keep: the point's.
        bytes: B's mean over A's, less 1 (-0.05 if B needs 5 % fewer), with its 95 % interval.
        judges: by name, the change of ``"agreement"`` and ``"top1"``: B's share less A's, with its interval.
    """

    curve: str
    quality: float | None
    keep: str | None
    bytes: tuple[float, Interval]
    judges: dict[str, dict[Metric, tuple[float, Interval]]]


@dataclass(frozen=True)
class CurveChange:
    """One curve in run B against the same in run A.

    Attributes:
        curve: its name.
        judge, metric: what is held equal.
        compared: ``bd_rate`` and the other fields of :class:`foveate.evaluation.Comparison` that two curves give.
    """

    curve: str
    judge: str
    metric: Metric
    compared: CurveFields


@dataclass(frozen=True)
class Changes:
    """The differences between two runs.

    Attributes:
        n: number of images in both.
        points: those in both.
        curves: those with at least two points in both.
        only_a, only_b: names of curves that the other run lacks.
    """

    n: int
    points: list[PointChange]
    curves: list[CurveChange]
    only_a: list[str]
    only_b: list[str]


_PointPair = tuple[PointResult, PointResult]
_Samples = dict[tuple[str, Metric], Resampled]
"""By judge and metric: pair k of points has the columns 2 k (run A) and 2 k + 1 (run B)."""


@dataclass(frozen=True)
class _Run:
    results: Results
    records: Records

    @classmethod
    def load(cls, path: Path) -> "_Run":
        if path.is_dir():
            path = path / "results.json"
        records = path.with_name("records.jsonl")
        if not path.is_file():
            raise FileNotFoundError(f"compare: there is no {path}")
        if not records.is_file():
            raise FileNotFoundError(f"compare: there is no {records}; it holds the values of every image")
        return cls(Results.load(path), Records.load(records))

    def counts(
        self, digests: Sequence[str], point: PointResult, judges: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Bytes (n,) of a point, and for each judge bool (metrics, n): whether it answers right."""
        images = [self.records.images[digest] for digest in digests]
        cells = [image["points"][point.key] for image in images]
        labels = torch.tensor([image["label"] for image in images])
        right = {}
        for judge in judges:
            key = self.results.clean[judge].key
            answers = torch.tensor([cell["judges"][key][0] for cell in cells])
            clean = torch.tensor([image["clean"][key] for image in images])
            right[judge] = torch.stack([right_answers(answers, clean, labels, metric) for metric in HELD_EQUAL])
        return torch.tensor([cell["bytes"] for cell in cells]), right

    def digests(self) -> set[str]:
        """The images with values for every point and judge of the results."""
        points = [p.key for p in self.results.points]
        judges = [c.key for c in self.results.clean.values()]
        return {
            digest
            for digest, image in self.records.images.items()
            if all(j in image["clean"] for j in judges)
            and all(p in image["points"] and all(j in image["points"][p]["judges"] for j in judges) for p in points)
        }

    def curve_names(self) -> list[str]:
        return list(dict.fromkeys(point.curve for point in self.results.points))


def compare_runs(a: str | Path, b: str | Path, *, seed: int = 0, resamples: int = 1000) -> Changes:
    """Compare two runs of :func:`foveate.evaluation.evaluate` on the images that both have.

    Points correspond if their curves have one name and their quality and criterion are equal; judges if their names
    are.

    Args:
        a: ``results.json`` of the first run, with its ``records.jsonl`` beside it, or their folder.
        b: that of the second.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        The changes, from A to B, with paired intervals.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file does not follow its schema, or the runs have no image, judge or point in common.
    """
    first, second = _Run.load(Path(a)), _Run.load(Path(b))
    digests = sorted(first.digests() & second.digests())
    judges = [name for name in first.results.clean if name in second.results.clean]
    pairs = _pairs(first.results, second.results)
    for kind, shared in (("image", digests), ("judge", judges), ("operating point", pairs)):
        if not shared:
            raise ValueError(f"compare: {a} and {b} have no {kind} in common")
    samples = _resampled(first, second, digests, judges, pairs, Bootstrap(len(digests), seed, resamples))
    numbers: dict[str, list[int]] = {}
    for k, (point, _) in enumerate(pairs):
        numbers.setdefault(point.curve, []).append(k)
    curves = [
        CurveChange(curve, judge, metric, compare_curves(sample, [2 * k + 1 for k in ks], [2 * k for k in ks]))
        for curve, ks in numbers.items()
        if len(ks) >= 2
        for (judge, metric), sample in samples.items()
    ]
    return Changes(
        n=len(digests),
        points=[_point_change(point, k, samples) for k, (point, _) in enumerate(pairs)],
        curves=curves,
        only_a=[name for name in first.curve_names() if name not in numbers],
        only_b=[name for name in second.curve_names() if name not in numbers],
    )


def _pairs(a: Results, b: Results) -> list[_PointPair]:
    """The points that correspond."""
    others = {(point.curve, point.quality, point.keep): point for point in b.points}
    keys = [(point.curve, point.quality, point.keep) for point in a.points]
    return [(point, others[key]) for point, key in zip(a.points, keys, strict=True) if key in others]


def _resampled(
    first: _Run,
    second: _Run,
    digests: Sequence[str],
    judges: Sequence[str],
    pairs: Sequence[_PointPair],
    draws: Bootstrap,
) -> _Samples:
    sizes: list[Tensor] = []
    rights: dict[str, list[Tensor]] = {judge: [] for judge in judges}
    for pair in pairs:
        for run, point in zip((first, second), pair, strict=True):
            size, right = run.counts(digests, point, judges)
            sizes.append(size)
            for judge in judges:
                rights[judge].append(right[judge])
    return {
        (judge, metric): Resampled(torch.stack(sizes), torch.stack([right[k] for right in rights[judge]]), draws)
        for judge in judges
        for k, metric in enumerate(HELD_EQUAL)
    }


def _point_change(point: PointResult, k: int, samples: _Samples) -> PointChange:
    rates = next(iter(samples.values())).rates
    growth = rates[:, 2 * k + 1] / rates[:, 2 * k] - 1
    judges: dict[str, dict[Metric, tuple[float, Interval]]] = {judge: {} for judge, _ in samples}
    for (judge, metric), sample in samples.items():
        gain = sample.accuracies[:, 2 * k + 1] - sample.accuracies[:, 2 * k]
        judges[judge][metric] = float(gain[0]), interval(gain[1:])
    return PointChange(point.curve, point.quality, point.keep, (float(growth[0]), interval(growth[1:])), judges)


_CONCLUSIONS = {
    Verdict.SAVES: "B is better",
    Verdict.COSTS: "B is worse",
    Verdict.OPEN: "no difference is shown",
}


def text(changes: Changes) -> str:
    """Return the changes as text: each curve's verdict, then each point."""
    lines = [f"B against A on the {changes.n} images of both; intervals are 95 %, paired."]
    for only, name in ((changes.only_a, "A"), (changes.only_b, "B")):
        if only:
            lines.append(f"only in {name}: {'; '.join(only)}")
    lines.append("")
    lines += [_curve_line(change) for change in changes.curves]
    for point in changes.points:
        setting = point.keep or f"quality {point.quality:g}"
        growth, ends = point.bytes
        lines += ["", f"{point.curve}, {setting}: {_percent(growth)} bytes ({_span(ends)} %)"]
        for judge, metrics in point.judges.items():
            gains = (
                f"{metric.label} {_signed(100 * gain)} points ({_span(ends)})"
                for metric, (gain, ends) in metrics.items()
            )
            lines.append(f"  {judge}: {', '.join(gains)}")
    return "\n".join(lines)


def _curve_line(change: CurveChange) -> str:
    head = f"{change.curve}, {change.judge}, at equal {change.metric.label}"
    rate, ends = change.compared["bd_rate"], change.compared["bd_rate_interval"]
    if rate is None:
        return f"{head}: no comparison: {change.compared['reason']}"
    return f"{head}: {_CONCLUSIONS[change.compared['verdict']]}: {_percent(rate)} bytes ({_span(ends)} %)"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _percent(share: float) -> str:
    return f"{_signed(100 * share)} %"


def _span(ends: Interval) -> str:
    low, high = ("…" if end is None else _signed(100 * end) for end in ends)
    return f"{low} to {high}"
