"""Two evaluations compared picture by picture: did a change help?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveate.evaluation.bootstrap import Bootstrap, Interval, interval
from foveate.evaluation.rate_accuracy import is_right
from foveate.evaluation.records import Records
from foveate.evaluation.results import PointResult, Results
from foveate.evaluation.summary import METRICS, Resampled, compare_curves


@dataclass(frozen=True)
class PointChange:
    """One operating point in run B against the same in run A, over the pictures of both.

    Attributes:
        curve, quality, keep: the point's.
        bytes: B's mean over A's, less 1: -0.05 where B needs 5 % fewer; with its 95 % interval.
        judges: by name, what became of ``"agreement"`` and ``"top1"``: B's share less A's; with its interval.
    """

    curve: str
    quality: float | None
    keep: str | None
    bytes: tuple[float, Interval]
    judges: dict[str, dict[str, tuple[float, Interval]]]


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
    metric: str
    compared: dict[str, Any]


@dataclass(frozen=True)
class Changes:
    """What differs between two runs.

    Attributes:
        n: number of pictures in both.
        points: those in both.
        curves: those of at least two points in both.
        only_a, only_b: names of curves with no counterpart.
    """

    n: int
    points: list[PointChange]
    curves: list[CurveChange]
    only_a: list[str]
    only_b: list[str]


@dataclass(frozen=True)
class _Run:
    results: Results
    records: Records

    def counts(
        self, pictures: Sequence[str], point: PointResult, judges: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Bytes (n,) of a point, and for each judge bool (metrics, n): whether it answers right."""
        held = [self.records.pictures[p] for p in pictures]
        cells = [picture["points"][point.key] for picture in held]
        labels = torch.tensor([picture["label"] for picture in held])
        right = {}
        for judge in judges:
            key = self.results.clean[judge].key
            answers = torch.tensor([cell["judges"][key][0] for cell in cells])
            clean = torch.tensor([picture["clean"][key] for picture in held])
            right[judge] = torch.stack([is_right(answers, clean, labels, metric) for metric in METRICS])
        return torch.tensor([cell["bytes"] for cell in cells]), right

    def pictures(self) -> set[str]:
        """Those with values for every point and judge of the results."""
        points = [p.key for p in self.results.points]
        judges = [c.key for c in self.results.clean.values()]
        return {
            name
            for name, picture in self.records.pictures.items()
            if all(j in picture["clean"] for j in judges)
            and all(p in picture["points"] and all(j in picture["points"][p]["judges"] for j in judges) for p in points)
        }


def compare_runs(a: Path | str, b: Path | str, seed: int = 0, resamples: int = 1000) -> Changes:
    """Compare two runs of :func:`foveate.evaluation.evaluate` on the pictures that both have.

    Points are taken for the same where their curves have one name and quality and criterion are the same; judges where
    their names are.

    Args:
        a: ``results.json`` of the first run, with its ``records.jsonl`` beside it.
        b: that of the second.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        The changes, from A to B, with paired intervals.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file does not follow its schema, or the runs have no picture, judge or point in common.
    """
    first, second = _open(Path(a)), _open(Path(b))
    pictures = sorted(first.pictures() & second.pictures())
    judges = [name for name in first.results.clean if name in second.results.clean]
    others = {_which(p): p for p in second.results.points}
    pairs = [(p, others[_which(p)]) for p in first.results.points if _which(p) in others]
    for what, found in (("picture", pictures), ("judge", judges), ("operating point", pairs)):
        if not found:
            raise ValueError(f"compare: {a} and {b} have no {what} in common")
    draws = Bootstrap(len(pictures), seed, resamples)
    sizes: list[Tensor] = []
    rights: dict[str, list[Tensor]] = {judge: [] for judge in judges}
    for pair in pairs:
        for run, point in zip((first, second), pair, strict=True):
            size, right = run.counts(pictures, point, judges)
            sizes.append(size)
            for judge in judges:
                rights[judge].append(right[judge])
    sample = {
        (judge, metric): Resampled(torch.stack(sizes), torch.stack([r[k] for r in rights[judge]]), draws)
        for judge in judges
        for k, metric in enumerate(METRICS)
    }
    points = []
    for k, (point, _) in enumerate(pairs):
        rates = next(iter(sample.values())).rates[:, [2 * k, 2 * k + 1]]
        growth = rates[:, 1] / rates[:, 0] - 1
        changes: dict[str, dict[str, tuple[float, Interval]]] = {judge: {} for judge in judges}
        for (judge, metric), one in sample.items():
            gain = one.accuracies[:, 2 * k + 1] - one.accuracies[:, 2 * k]
            changes[judge][metric] = float(gain[0]), interval(gain[1:])
        points.append(
            PointChange(point.curve, point.quality, point.keep, (float(growth[0]), interval(growth[1:])), changes)
        )
    groups: dict[str, list[int]] = {}
    for k, (point, _) in enumerate(pairs):
        groups.setdefault(point.curve, []).append(2 * k)
    curves = [
        CurveChange(curve, judge, metric, compare_curves(one, [k + 1 for k in ks], ks))
        for curve, ks in groups.items()
        if len(ks) >= 2
        for (judge, metric), one in sample.items()
    ]
    names = [list(dict.fromkeys(p.curve for p in run.results.points)) for run in (first, second)]
    return Changes(
        len(pictures),
        points,
        curves,
        [n for n in names[0] if n not in groups],
        [n for n in names[1] if n not in groups],
    )


def _which(point: PointResult) -> tuple[Any, ...]:
    return point.curve, point.quality, point.keep


def _open(path: Path) -> _Run:
    if path.is_dir():
        path = path / "results.json"
    records = path.with_name("records.jsonl")
    if not path.is_file():
        raise FileNotFoundError(f"compare: there is no {path}")
    if not records.is_file():
        raise FileNotFoundError(f"compare: there is no {records}; it holds the values picture by picture")
    return _Run(Results.read(path), Records.read(records))


def text(changes: Changes) -> str:
    """Return the changes as text: each curve's verdict, then each point."""
    lines = [f"B against A on the {changes.n} pictures of both; intervals are 95 %, paired."]
    for only, name in ((changes.only_a, "A"), (changes.only_b, "B")):
        if only:
            lines.append(f"only in {name}: {'; '.join(only)}")
    lines.append("")
    for c in changes.curves:
        at = f"{c.curve}, {c.judge}, at equal {'top-1' if c.metric == 'top1' else c.metric}"
        rate = c.compared["bd_rate"]
        if rate is None:
            lines.append(f"{at}: no comparison: {c.compared['reason']}")
            continue
        said = {"saves": "B is better", "costs": "B is worse", "open": "no difference is shown"}[c.compared["verdict"]]
        lines.append(f"{at}: {said}: {_percent(rate)} bytes ({_span(c.compared['bd_rate_interval'])} %)")
    for p in changes.points:
        lines += [
            "",
            f"{p.curve}, {p.keep or f'quality {p.quality:g}'}: {_percent(p.bytes[0])} bytes ({_span(p.bytes[1])} %)",
        ]
        for judge, metrics in p.judges.items():
            told = (
                f"{'top-1' if metric == 'top1' else metric} {_signed(100 * gain)} points ({_span(ends)})"
                for metric, (gain, ends) in metrics.items()
            )
            lines.append(f"  {judge}: {', '.join(told)}")
    return "\n".join(lines)


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _percent(share: float) -> str:
    return f"{_signed(100 * share)} %"


def _span(ends: Interval) -> str:
    low, high = ("…" if end is None else _signed(100 * end) for end in ends)
    return f"{low} to {high}"
