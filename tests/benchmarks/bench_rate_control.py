"""What per-image rate control saves: ``python tests/benchmarks/bench_rate_control.py PHOTOS --model M --judge J``.

Every photo goes once through every point of a grid (JPEG), before two classifiers; the table of bytes and logits is
kept in ``--table``, and all else is computed from it with the searches that the package ships, each calibrated on one
half of the photos and run on the other. The maps of the pre-filter are those of ``--model``, so where ``--judge`` is
the witness there is no pre-filter. Agreement is with the judge's own answer on the untouched photo; what is saved is
against fixed qualities without a pre-filter at the same agreement, with 95 % intervals from a paired bootstrap over
the photos. An agreement above all fixed points is compared with the finest of them, which flatters the fixed ones.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from foveate import Compressor, GradCam, Prefilter
from foveate.evaluation import SampleFolder, saved_at_equal
from foveate.models import Preprocess, load_classifier
from foveate.rate_control import Keep, OperatingPoint, as_criteria
from foveate.rate_control._bench import Bench
from foveate.rate_control._search import Belief, Exhaustive, Expected, Seen, search

QUALITIES, SCALES = (5, 8, 12, 18, 25, 35, 50, 70, 90), (1.0, 0.7, 0.5)
# Of strengths 0.3, 0.5 and 0.8 only those points that some criterion misses: 25 others cost 2 % when left out.
STRONG = {
    (0.3, 1.0): (35, 50, 70),
    (0.5, 1.0): (25, 35, 50, 70),
    (0.8, 1.0): (18, 25, 35, 50),
    (0.8, 0.7): (18, 25, 35, 50),
    (0.8, 0.5): (8, 12, 18, 25, 35, 50),
}
GRID = [OperatingPoint(0.0, s, q) for s in SCALES for q in QUALITIES] + [
    OperatingPoint(t, s, q) for (t, s), steps in STRONG.items() for q in steps
]
FINEST = OperatingPoint(0.0, 1.0, 90)


@dataclass
class Table:
    """Bytes (N, P), pixels (N,), and of each classifier the clean logits (N, C) and those at each point (N, P, C)."""

    points: list[OperatingPoint]
    bytes: Tensor
    pixels: Tensor
    clean: dict[str, Tensor]
    logits: dict[str, Tensor]

    def __post_init__(self) -> None:
        self._measured: dict[tuple[str, str], Tensor] = {}

    def measured(self, name: str, criterion: Keep) -> Tensor:
        key = name, criterion.measure_name
        if key not in self._measured:
            clean, logits = self.clean[name], self.logits[name]
            columns = [criterion.measure(clean, logits[:, k].float()) for k in range(len(self.points))]
            self._measured[key] = torch.stack(columns, 1)
        return self._measured[key]

    def slack(self, names: Sequence[str], keep: str) -> Tensor:
        slacks = [criterion.slack(self.measured(name, criterion)) for criterion in as_criteria(keep) for name in names]
        return torch.stack(slacks).amin(0).double()

    def agrees(self, name: str) -> Tensor:
        (same_answer,) = as_criteria("top1")
        return same_answer.slack(self.measured(name, same_answer)) >= 0

    @property
    def bits(self) -> Tensor:
        return (8 * self.bytes.double() / self.pixels.double()[:, None]).log()


def measure(folder: SampleFolder, recipes: Sequence[str]) -> Table:
    judges = {recipe: load_classifier(recipe) for recipe in recipes}
    first = judges[recipes[0]]
    compressor = Compressor("jpeg", Prefilter(GradCam(first.model, preprocess=Preprocess(256))))
    rows = []
    for photo in tqdm(folder, desc="photos"):
        if photo is None:
            continue
        encoded = Bench(compressor, tuple(GRID), [photo.image], None).encode([(0, k) for k in range(len(GRID))])
        shown = [photo.image, *compressor.decode(encoded)]
        logits = {name: judge.logits(shown) for name, judge in zip(("model", "judge"), judges.values(), strict=True)}
        rows.append((torch.tensor([len(e.data) for e in encoded]), encoded[0].pixels, logits))
    return Table(
        GRID,
        torch.stack([row[0] for row in rows]),
        torch.tensor([row[1] for row in rows]),
        {name: torch.stack([row[2][name][0] for row in rows]) for name in ("model", "judge")},
        {name: torch.stack([row[2][name][1:].half() for row in rows]) for name in ("model", "judge")},
    )


@dataclass
class Choice:
    """The points chosen (N,), and how many candidates were decoded (N,)."""

    points: Tensor
    tried: Tensor


def choose(
    table: Table,
    names: Sequence[str],
    keep: str,
    columns: Sequence[int],
    exhaustive: bool = False,
    worth: float = 0.05,
) -> Choice:
    """Run the package's search over some points of the table, calibrated on the other half of the photos."""
    columns = [k for k in columns if table.points[k] != FINEST] + [table.points.index(FINEST)]
    slack, bits = table.slack(names, keep)[:, columns], table.bits[:, columns]
    photos = torch.arange(len(slack))
    points, tried = torch.zeros(len(slack), dtype=torch.long), torch.zeros(len(slack))
    for half in (0, 1):
        here, other = photos[half::2], photos[1 - half :: 2]
        belief = Belief.learned(slack[other], bits[other])
        kind = Exhaustive() if exhaustive else Expected(belief, worth, 16)
        seen = [Seen() for _ in here]
        if exhaustive:
            for i, evidence in zip(here.tolist(), seen, strict=True):
                evidence.bits = dict(enumerate(bits[i].tolist()))

        def look(jobs, here=here, seen=seen):
            for j, k in jobs:
                i = int(here[j])
                seen[j].bits[k], seen[j].slack[k] = float(bits[i, k]), float(slack[i, k])

        search(seen, [kind] * len(seen), look)
        for i, evidence in zip(here.tolist(), seen, strict=True):
            best = kind.best(evidence)
            points[i], tried[i] = columns[-1 if best is None else best], len(evidence.slack)
    return Choice(points, tried)


def saved(table: Table, choice: Tensor, judge: str, reference: Sequence[int], rows: Tensor) -> float:
    """Share of the bytes saved at equal agreement, over some photos."""
    agrees, size = table.agrees(judge)[rows].double().numpy(), table.bytes[rows].double().numpy()
    chosen = choice[rows].numpy()
    photos = np.arange(len(rows))
    rates, answers = size[:, reference].mean(0), agrees[:, reference].mean(0)
    agreement = float(np.clip(agrees[photos, chosen].mean(), answers[rates.argmin()], answers.max()))
    return saved_at_equal(rates, answers, float(size[photos, chosen].mean()), agreement) or 0.0


def interval(table: Table, choice: Tensor, judge: str, reference: Sequence[int], rows: Tensor, draws: int = 500) -> str:
    generator = torch.Generator().manual_seed(0)
    shares = [
        saved(table, choice, judge, reference, rows[torch.randint(len(rows), (len(rows),), generator=generator)])
        for _ in range(draws)
    ]
    low, high = np.percentile(shares, [2.5, 97.5])
    return f"{100 * saved(table, choice, judge, reference, rows):5.0f} % [{100 * low:3.0f}, {100 * high:3.0f}]"


def report(table: Table) -> None:
    torch.set_num_threads(1)  # the searches are of small tensors
    points = table.points
    quality = [k for k, p in enumerate(points) if p.strength == 0 and p.scale == 1]
    plain = [k for k, p in enumerate(points) if p.strength == 0]
    full = [k for k, p in enumerate(points) if p.scale == 1]
    everything = list(range(len(points)))
    rows = torch.arange(len(table.pixels))
    print(f"{len(rows)} photos, {len(points)} points")

    def line(label: str, choice: Choice, judge: str, rows: Tensor = rows) -> None:
        agreement = table.agrees(judge)[rows, choice.points[rows]].double().mean()
        size = table.bytes[rows, choice.points[rows]].double().mean()
        against = " | ".join(interval(table, choice.points, judge, fixed, rows) for fixed in (quality, plain))
        tried = choice.tried[rows].mean()
        print(f"| {label} | {100 * agreement:.1f} % | {size:.0f} | {against} | {tried:.1f} |", flush=True)

    head = (
        "| {} | agreement | bytes | saved: best quality | saved: best (scale, quality) | decoded |\n" + "|---" * 6 + "|"
    )
    print("\n" + head.format("known: model is witness and judge"))
    for keep in ("top1", "p0.5", "p0.9", "kl0.5", "kl0.3", "kl0.1"):
        line(keep, choose(table, ["model"], keep, everything), "model")
    print("\n" + head.format("known: judge is witness and judge, no pre-filter"))
    for keep in ("top1", "kl0.2", "kl0.1"):
        line(keep, choose(table, ["judge"], keep, plain), "judge")
    print("\n" + head.format("ablation: kl0.3, model, exhaustive"))
    for label, columns in (
        ("quality alone", quality),
        ("with strength", full),
        ("with scale", plain),
        ("with all", everything),
    ):
        line(label, choose(table, ["model"], "kl0.3", columns, True), "model")
    for witness, judge in (("model", "judge"), ("judge", "model")):
        print("\n" + head.format(f"unseen: {witness} is witness, {judge} judge, no pre-filter; see bench_unseen.py"))
        for keep, floor in (("top1", 0), ("top1", 25), ("p0.9", 0), ("p0.9", 25), ("kl0.2", 0), ("kl0.2", 25),
                            ("kl0.1", 25), ("kl0.05", 35), ("margin2", 0)):  # fmt: skip
            columns = [k for k in plain if points[k].quality >= floor]
            line(f"{keep}, floor {floor}", choose(table, [witness], keep, columns, True), judge)
    print("\nThe search against the exhaustive one, the same grid, calibrated on the other half")
    for names, keep, columns in (
        (["model"], "top1", everything),
        (["model"], "kl0.2", everything),
        (["model"], "kl0.2", plain),
        (["judge"], "kl0.2", plain),
        (["model", "judge"], "kl0.2", plain),
    ):
        best = choose(table, names, keep, columns, True)
        least = table.bytes[rows, best.points].double().sum()
        for worth in (0.03, 0.05):
            quick = choose(table, names, keep, columns, worth=worth)
            loss = table.bytes[rows, quick.points].double().sum() / least - 1
            print(
                f"| {'+'.join(names)} | {keep} | {len(columns)} | worth {worth} | {quick.tried.mean():.2f} decoded "
                f"(exhaustive {best.tried.mean():.1f}) | {100 * loss:+.1f} % bytes |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--judge", required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--table", type=Path, help="written where it is missing, else read")
    args = parser.parse_args()
    if args.table is not None and args.table.exists():
        table = Table(**torch.load(args.table))
        table.points = [OperatingPoint(*point) for point in table.points]
    else:
        table = measure(SampleFolder(args.photos, args.limit), [args.model, args.judge])
        if args.table is not None:
            kept = {f.name: getattr(table, f.name) for f in fields(Table)}
            torch.save({**kept, "points": [tuple(p) for p in table.points]}, args.table)
    report(table)


if __name__ == "__main__":
    main()
