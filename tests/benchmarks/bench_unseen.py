"""What rate control saves before a network that nobody asked: ``python tests/benchmarks/bench_unseen.py PHOTOS OUT``.

    ... PHOTOS OUT --network M --network M --network M [...] --lpips M [--embedding M] --codec jpeg [--codec webp ...]
    ... PHOTOS OUT ... --into RESULTS.md

Every photo goes once through every scale and quality, before every network, which gives ``OUT/unseen-CODEC.npz`` (kept,
and read where it is there, ``--extend`` adds photos; that behind RESULTS.md is in ``records/``). All else is computed
from that with the model and the search that the package ships: each network is left out in turn, the others are the
witnesses, calibrated on one half of the photos and used on the other, both ways. Saved is against the cheapest fixed
(scale, quality) at the same agreement with the left-out network's own answers, averaged over the agreements from 0.75
to 0.95 (and 0.90 to 0.95) that both reach, with 95 % intervals by paired bootstrap over the photos. ``--edit`` adds
points after edits that the left-out network had no part in.
"""

import argparse
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from results_section import row
from torch import Tensor
from tqdm import tqdm

from foveate import Compressor, PreEdit
from foveate.codecs import as_codec
from foveate.evaluation import SampleFolder
from foveate.evaluation._bootstrap import Bootstrap
from foveate.models import LazyClassifier, Preprocess
from foveate.rate_control import Embedding, Fidelity, Lpips, OperatingPoint
from foveate.rate_control._bench import Bench
from foveate.rate_control._criteria import MEASURES
from foveate.rate_control._expectation import LeftOut
from foveate.rate_control._keep_model import KeepModel, KeepPrior, Tables, Usual
from foveate.rate_control._search import Priced, Seen, search

PREPROCESS = Preprocess(256, 224)
EDITED = {"jpeg": (20, 12, 18, 27, 40)}
"""The quality for which photos are edited, and those at which they are encoded then."""
EDITED_SCALES = (0.5, 0.7)
STEPS = 30
LADDERS = {
    "jpeg": (5, 8, 12, 18, 27, 40, 60, 80, 95),
    "webp": (1, 5, 12, 22, 36, 52, 70, 86, 95),
    "avif": (10, 18, 26, 34, 42, 50, 58, 68, 80),
}
SCALES = (0.35, 0.5, 0.7, 1.0)
"""Of the fixed points; those to choose from are 0.5 and above."""
PRICES = (0.01, 0.02, 0.03, 0.045, 0.06, 0.09, 0.13, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0)
SHARES = (0.75, 0.8, 0.85, 0.9, 0.93)
TRIES, WORTH = 8, 0.05
PART = 25
"""Photos that are measured before they are written."""
BY_PHOTO = ("names", "pixels", "bytes", "clean", "closeness", "lead", "distances")
"""Arrays whose first axis is the photos."""
_BATCH = 8
"""On a CPU small batches, and weights in channels-last order, are much faster."""
RANGES = ((0.75, 0.95), (0.9, 0.95))

Floats = npt.NDArray[np.float64]
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Arm:
    """A compressor and the points at which photos go through it.

    Attributes:
        left_out: the network that is not in the loss of its edit; empty where there is no edit.
    """

    compressor: Compressor
    points: tuple[OperatingPoint, ...]
    left_out: str = ""


def plain_arm(codec: str) -> Arm:
    """Return a codec at every scale and quality."""
    ladder = LADDERS[as_codec(codec).name]
    return Arm(Compressor(codec), tuple(OperatingPoint(0.0, scale, quality) for scale in SCALES for quality in ladder))


def edited_arms(codec: str, networks: dict[str, LazyClassifier], trunks: Sequence[LazyClassifier]) -> list[Arm]:
    """Return a codec after an edit by all networks but one, for each, made once a photo and scale."""
    name, (quality, *_) = as_codec(codec).name, EDITED[as_codec(codec).name]
    points = tuple(OperatingPoint(0.5, scale, q) for scale in EDITED_SCALES for q in EDITED[name][1:])
    arms = []
    for left_out in networks:
        models = [*(network for key, network in networks.items() if key != left_out), *trunks]
        arms.append(
            Arm(Compressor(codec, PreEdit(models, codec=f"{codec}:{quality:g}", steps=STEPS)), points, left_out)
        )
    return arms


def measure(
    samples: SampleFolder,
    chosen: Sequence[int],
    arms: Sequence[Arm],
    networks: dict[str, LazyClassifier],
    judges: Sequence[str],
    fidelities: Sequence[Fidelity],
) -> dict[str, Any]:
    """Return arrays of all that is measured of the chosen photos: see :class:`Table`."""
    columns: dict[str, list[Any]] = {name: [] for name in BY_PHOTO}
    for k in tqdm(chosen):
        image = samples[k].image
        encoded, decoded = [], []
        for arm in arms:
            jobs = [(0, point) for point in range(len(arm.points))]
            encoded += Bench(arm.compressor, arm.points, [image], None).encode(jobs)
            decoded += arm.compressor.decode(encoded[-len(jobs) :])
        shown = PREPROCESS.batch([image, *decoded]).split(_BATCH)
        logits = [torch.cat([network.classifier.forward(x) for x in shown]).float() for network in networks.values()]
        pairs = [(answers[:1], answers[1:]) for answers in logits]
        columns["names"].append(samples.paths[k].name)
        columns["pixels"].append(encoded[0].pixels)
        columns["bytes"].append([len(candidate.data) for candidate in encoded])
        columns["clean"].append([float(MEASURES["lead"](clean, clean)) for clean, _ in pairs])
        for measure_name in ("closeness", "lead"):
            values = [MEASURES[measure_name](clean.expand(len(answers), -1), answers) for clean, answers in pairs]
            columns[measure_name].append(torch.stack(values).numpy())
        distances = [fidelity.distance([image] * len(decoded), decoded) for fidelity in fidelities]
        columns["distances"].append(torch.stack(distances).numpy())
    small = {name: np.array(columns[name], np.float16) for name in ("clean", "closeness", "lead", "distances")}
    return small | {
        "names": np.array(columns["names"]),
        "pixels": np.array(columns["pixels"], np.int64),
        "bytes": np.array(columns["bytes"], np.int32),
        "points": np.array([point for arm in arms for point in arm.points], np.float64),
        "left_out": np.array([arm.left_out for arm in arms for _ in arm.points], np.str_),
        "networks": np.array([*networks]),
        "judges": np.array([*judges], np.str_),
        "fidelities": np.array([fidelity.name for fidelity in fidelities]),
    }


def complete(path: Path, samples: SampleFolder, limit: int | None, *context: Any) -> None:
    """Measure the photos that are missing from a file of arrays, some at a time, in an order drawn once."""
    order = [*range(len(samples))]
    random.Random(0).shuffle(order)
    arrays = dict(np.load(path)) if path.exists() else {}
    known = {*arrays["names"].tolist()} if arrays else set()
    missing = [k for k in order[:limit] if samples.paths[k].name not in known]
    for start in range(0, len(missing), PART):
        more = measure(samples, missing[start : start + PART], *context)
        arrays = {
            name: np.concatenate([arrays[name], more[name]]) if arrays and name in BY_PHOTO else more[name]
            for name in more
        }
        np.savez_compressed(path, **arrays)


def joined(edited: Arrays, plain: Arrays, left_out: str | None) -> Arrays:
    """Return arrays of the edited photos at the edited points of an arm or none, and at all plain points after it."""
    rows = [plain["names"].tolist().index(name) for name in edited["names"]]
    told = [plain["fidelities"].tolist().index(name) for name in edited["fidelities"]]
    columns = np.flatnonzero(edited["left_out"] == left_out) if left_out is not None else []
    both = {
        name: np.concatenate([edited[name][..., columns], plain[name][rows]], -1)
        for name in ("bytes", "closeness", "lead")
    }
    both["distances"] = np.concatenate([edited["distances"][..., columns], plain["distances"][rows][:, told]], -1)
    return edited | both | {"points": np.concatenate([edited["points"][columns], plain["points"]])}


class Table:
    """What was measured of N photos at P points, finest last.

    Attributes:
        networks: the names of W networks.
        judges: the names of those that are never witnesses.
        fidelities: the names of D fidelity witnesses.
        bytes: (N, P).
        tables: all of it at the points to choose from, which ``choice`` numbers among all.
        names: of the photos.
        kept: (W, N, P) at all points.
        fixed: bytes (N, P) and kept answers (W, N, P) of the fixed points: these, or those of another table.

    Args:
        arrays: what was measured.
        plain: has the fixed points; None stands for the same table.
    """

    def __init__(self, arrays: Arrays, plain: "Table | None" = None) -> None:
        self.names, self.judges = arrays["names"].tolist(), arrays["judges"].tolist()

        def tensor(name: str) -> Tensor:
            return torch.from_numpy(arrays[name].astype(np.float64))

        self.networks, self.fidelities = arrays["networks"].tolist(), arrays["fidelities"].tolist()
        self.bytes, pixels = tensor("bytes"), tensor("pixels")
        lead = tensor("lead").transpose(0, 1)
        self.kept = lead > 0
        whole = Tables(
            (8 * self.bytes / pixels[:, None]).log(),
            tensor("closeness").transpose(0, 1),
            lead,
            tensor("clean").T,
            tensor("distances").transpose(0, 1),
        )
        self.choice = torch.tensor([k for k, point in enumerate(arrays["points"]) if point[1] >= 0.5])
        self.tables = whole.at(self.choice.tolist())
        rows = range(len(self.names)) if plain is None else [plain.names.index(name) for name in self.names]
        source = self if plain is None else plain
        self.fixed = source.bytes[[*rows]], source.kept[:, [*rows]]
        self.halves = [torch.arange(len(pixels))[start::2] for start in (0, 1)]
        self.draws = Bootstrap(len(pixels))

    def others(self, network: int) -> list[int]:
        """Return the witnesses where a network is left out: judges are never asked."""
        return [k for k, name in enumerate(self.networks) if k != network and name not in self.judges]

    def asking(self, networks: Sequence[int], fidelities: Sequence[str] = (), *, shuffled: bool = False) -> Tables:
        """Return what some witnesses say; ``shuffled`` gives each photo the distances of another one."""
        rows = [self.fidelities.index(name) for name in fidelities]
        tables = self.tables.before(networks)
        distances = self.tables.distances[torch.tensor(rows, dtype=torch.long)]
        if shuffled:
            distances = distances[:, torch.randperm(len(self.bytes), generator=torch.Generator().manual_seed(0))]
        return replace(tables, distances=distances)


@dataclass
class Choices:
    """The points chosen at each price (N, K), among all, and the candidates decoded on average; NaN where all are."""

    points: Tensor
    decoded: float = math.nan


def choose(table: Table, asked: Tables, *, searched: bool = False, taught: Tables | None = None) -> Choices:
    """Choose for each photo at each price, by the shipped model: of all points, or as the shipped search does.

    Args:
        table: what was measured.
        asked: what the witnesses say.
        searched: decode as few candidates as the shipped search.
        taught: by whom the model is taught, if not by the witnesses.
    """
    points = torch.zeros(len(table.bytes), len(PRICES), dtype=torch.long)
    decoded = 0
    for learned, used in (table.halves, table.halves[::-1]):
        here, there = asked.of(used), asked.of(learned)
        model = KeepModel.fit((taught or asked).of(learned))
        prior, typical = KeepPrior.of(model, there), float(there.bits[:, -1].exp().mean())
        probabilities = prior.probabilities(here)
        for k, price in enumerate(PRICES):
            if not searched:
                points[used, k] = (probabilities - price * here.bits.exp() / typical).argmax(1)
                continue
            odds = model.log_odds(prior.usual.features(here)).view_as(here.bits)
            kind = Priced(prior.belief, model.probability, price, typical, TRIES, WORTH)
            seen = [Seen() for _ in used]

            search(seen, [kind] * len(seen), partial(_look, seen, here.bits, odds))
            for i, evidence in zip(used.tolist(), seen, strict=True):
                points[i, k] = kind.best(evidence)
                decoded += len(evidence.slack)
    return Choices(table.choice[points], decoded / points.numel() if searched else math.nan)


def _look(seen: list[Seen], bits: Tensor, odds: Tensor, jobs: list[tuple[int, int]]) -> None:
    """Show what the table holds, as decoding a candidate would."""
    for i, point in jobs:
        seen[i].bits[point], seen[i].slack[point] = float(bits[i, point]), float(odds[i, point])


def blind(table: Table, asked: Tables) -> Choices:
    """The same without any network: what is usual at a point, and the bits."""
    points = torch.zeros(len(table.bytes), len(PRICES), dtype=torch.long)
    for learned, used in (table.halves, table.halves[::-1]):
        there, bits = asked.of(learned), asked.bits[used]
        usual = Usual.of(there)
        features = usual.features(there)[:, :2].repeat(there.classifiers, 1)
        model = KeepModel.learn(features, there.kept.flatten(0, 1), there.bits.repeat(there.classifiers, 1))
        odds = model.log_odds(usual.features(asked.of(used))[:, :2]).view_as(bits)
        cost = bits.exp() / there.bits[:, -1].exp().mean()
        points[used] = torch.stack([(model.probability(odds) - price * cost).argmax(1) for price in PRICES], 1)
    return Choices(table.choice[points])


def of_one(table: Table) -> KeepModel:
    """Return what a single witness says of another network: every network here predicted from every other."""
    pairs = [(table.asking([a]), table.tables.kept[b]) for a, b in permutations(range(len(table.networks)), 2)]
    features = torch.cat([Usual.of(asked).features(asked) for asked, _ in pairs])
    kept = torch.cat([kept for _, kept in pairs])
    return KeepModel.learn(features, kept, table.tables.bits.repeat(len(pairs), 1))


def former(table: Table, asked: Tables) -> Choices:
    """What ``robust`` was before: half the witnesses' least closeness, half what is usual, an error of 1.5."""
    points = torch.zeros(len(table.bytes), len(PRICES), dtype=torch.long)
    slack = asked.closeness.amin(0).clamp(-6, 6)
    for learned, used in (table.halves, table.halves[::-1]):
        chance = torch.special.ndtr(0.5 * (slack[used] + slack[learned].mean(0)) / 1.5)
        cost = asked.bits[used].exp() / asked.bits[learned][:, -1].exp().mean()
        points[used] = torch.stack([(chance - price * cost).argmax(1) for price in PRICES], 1)
    return Choices(table.choice[points])


def own(table: Table, network: int) -> Choices:
    """The limit: the network's own answers at all points."""
    kept, cost = table.tables.kept[network].double(), table.tables.bits.exp()
    cost = cost / cost[:, -1].mean()
    points = torch.stack([(kept - price * cost).argmax(1) for price in (*PRICES, 10, 30, 100)], 1)
    return Choices(table.choice[points])


def savings(table: Table, network: int, choices: Choices) -> Floats:
    """Return (1 + resamples, ranges): what choices save against fixed points before a network; row 0 is measured."""
    kept = table.kept[network].double()
    fixed = torch.cat([table.fixed[0].T, table.fixed[1][network].double().T])
    chosen = torch.cat([table.bytes.gather(1, choices.points).T, kept.gather(1, choices.points).T])
    curves = [np.vstack([x.mean(1).numpy()[None], table.draws.means(x)]) for x in (fixed, chosen)]
    return np.array([[_mean_saving(a, b, *ends) for ends in RANGES] for a, b in zip(*curves, strict=True)])


def _mean_saving(fixed: Floats, chosen: Floats, low: float, high: float) -> float:
    reached = [_reached(*np.split(values, 2)) for values in (fixed, chosen)]
    low, high = (
        end(limit, *(accuracy[k] for _, accuracy in reached)) for end, limit, k in ((max, low, 0), (min, high, -1))
    )
    if low > high:
        return math.nan
    at = np.linspace(low, high, 41)
    logs = [np.interp(at, accuracy, rate) for rate, accuracy in reached]
    return float(1 - np.exp(logs[1] - logs[0]).mean())


def _reached(rates: Floats, accuracies: Floats) -> tuple[Floats, Floats]:
    """Logarithms of the rates, and the accuracy that is reached with each, where it rises."""
    order = np.lexsort((-accuracies, rates))
    best = np.maximum.accumulate(accuracies[order])
    rising = np.concatenate([[True], np.diff(best) > 0])
    return np.log(rates[order])[rising], best[rising]


def share(values: Floats) -> str:
    """Return a saving with its interval as text, in percent; bold where all of it is on one side.

    A dash stands where the curves have no accuracy in common.
    """
    if np.isnan(values[0]):
        return "–"
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    text = f"{100 * values[0]:.0f} % ({100 * low:.0f} to {100 * high:.0f})".replace("-", "−")
    return f"**{text}**" if low > 0 or high < 0 else text


def policies(table: Table, network: int, thorough: bool) -> dict[str, list[Choices]]:
    """Return the choices of each policy if a network is left out: several, where it depends on who is asked.

    Args:
        table: what was measured.
        network: the one that is left out.
        thorough: add those that the shipped one is compared with.
    """
    others = table.others(network)
    lpips, embedding = [name for name in table.fidelities if name == "lpips"], table.fidelities[:2]

    def asking(count: int, fidelities: Sequence[str]) -> list[Choices]:
        return [choose(table, table.asking(who, fidelities)) for who in combinations(others, count)]

    everyone = table.asking(others, lpips)
    shipped = {
        "P(keep) by all others and LPIPS, as shipped": [choose(table, everyone, searched=True)],
        "the same, all points decoded": [choose(table, everyone)],
    }
    if not thorough:
        return shipped
    return shipped | {
        "by 1 of them, taught by the others": [
            choose(table, table.asking([who]), taught=table.asking(others)) for who in others
        ],
        **{f"by {count} of them and LPIPS": asking(count, lpips) for count in range(2, len(others))},
        "by all and LPIPS and an embedding": asking(len(others), embedding),
        "by all, without LPIPS": asking(len(others), []),
        "by all, another photo's LPIPS": [choose(table, table.asking(others, lpips, shuffled=True))],
        "by no network at all": [blind(table, table.asking(others))],
        "`robust` as it was before": [former(table, table.asking(others))],
        "its own answers, all points decoded": [own(table, network)],
    }


def section(table: Table, codec: str) -> tuple[str, dict[str, list[Floats]]]:
    """Return the figures of a codec as Markdown, and the savings of each policy before each network."""
    thorough = ":" not in codec
    chosen = [policies(table, network, thorough) for network in range(len(table.networks))]
    saved = {
        name: [
            np.mean([savings(table, network, choices) for choices in policy[name]], 0)
            for network, policy in enumerate(chosen)
        ]
        for name in chosen[0]
    }
    decoded = {
        name: float(np.mean([choices.decoded for policy in chosen for choices in policy[name]])) for name in chosen[0]
    }
    lines = figures(codec, table, saved, decoded)
    return "\n".join([*lines, *(["", *promises(table, codec)] if thorough else [])]), saved


def figures(codec: str, table: Table, saved: dict[str, list[Floats]], decoded: dict[str, float]) -> list[str]:
    """Return what each policy saves before each network that is left out as a table in Markdown."""
    above = [f"above 0.90: {ending}" for ending in ("least of them", "mean")]
    heads = [f"{codec.upper()}, n = {len(table.names)}: left out", *table.networks, "mean", *above, "decoded"]
    lines = [row(heads), "|---|" + "--:|" * (len(heads) - 1)]
    for name, values in saved.items():
        mean, least = np.mean(values, 0), min(values, key=lambda value: value[0, 1])
        cells = [*(share(value[:, 0]) for value in values), share(mean[:, 0]), share(least[:, 1]), share(mean[:, 1])]
        lines.append(row([name, *cells, "–" if math.isnan(decoded[name]) else f"{decoded[name]:.1f}"]))
    return lines


def section_edited(edited: Arrays, plain: Arrays, codec: str) -> str:
    """Return the figures where the points to choose from include edits, as Markdown."""
    without = Table(joined(edited, plain, None))
    tables = [Table(joined(edited, plain, name), without) for name in without.networks]
    at_fixed = torch.arange(tables[0].bytes.shape[1] - without.bytes.shape[1]).expand(len(without.names), -1)
    saved: dict[str, list[Floats]] = {}
    decoded: dict[str, list[float]] = {}
    for network, table in enumerate(tables):
        others, lpips = table.others(network), table.fidelities[:1]
        for name, measured, choices in (
            ("the edit alone, at fixed points", table, Choices(at_fixed)),
            ("P(keep) with the edit, as shipped", table, choose(table, table.asking(others, lpips), searched=True)),
            ("P(keep) without it", without, choose(without, without.asking(others, lpips), searched=True)),
        ):
            saved.setdefault(name, []).append(savings(measured, network, choices))
            decoded.setdefault(name, []).append(choices.decoded)
    heading = f"{codec} with an edit"
    return "\n".join(figures(heading, tables[0], saved, {name: float(np.mean(n)) for name, n in decoded.items()}))


def draw(path: Path, networks: Sequence[str], saved: dict[str, list[Floats]]) -> None:
    """Draw what is saved against the number of witnesses."""
    from matplotlib.figure import Figure

    rows = [name for name in saved if re.match(r"by \d of them", name)]
    rows += ["the same, all points decoded", "by all and LPIPS and an embedding"]
    figure = Figure((5.6, 3.6), layout="constrained")
    ax = figure.subplots()
    for number, network in enumerate([*networks, "mean"]):
        values = [saved[name][number] if number < len(networks) else np.mean(saved[name], 0) for name in rows]
        middle = np.array([100 * v[0, 0] for v in values])
        ends = np.array([100 * np.nanpercentile(v[1:, 0], [2.5, 97.5]) for v in values]).T
        thick = network == "mean"
        ax.errorbar(
            np.arange(1, len(rows) + 1) + 0.06 * (number - len(networks) / 2),
            middle,
            np.abs(ends - middle),
            marker="os^Dv"[number % 5],
            color="black" if thick else None,
            linewidth=2.2 if thick else 1,
            capsize=2,
            label=network if thick else f"{network} left out",
        )
    counts = len(rows) - 1
    ax.set_xticks(range(1, len(rows) + 1), [*map(str, range(1, counts + 1)), f"{counts} and an\nembedding"])
    ax.set_xlim(0.7, len(rows) + 0.5)
    ax.set_ylim(top=1.25 * ax.get_ylim()[1])  # for the legend
    ax.set_xlabel("witnesses, from two on with LPIPS")
    ax.set_ylabel("bytes saved at equal agreement, %")
    ax.axhline(0, color="0.6", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", alpha=0.25, linewidth=0.6)
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    figure.savefig(path, dpi=150)


def promises(table: Table, codec: str) -> list[str]:
    """Return what ``robust75`` and so on promise for a network left out, and what it kept."""
    heads = [f"{codec.upper()}: kept, of the answers asked for", *(f"{100 * wish:g} %" for wish in SHARES)]
    lines = [row(heads), "|---|" + "--:|" * len(SHARES)]
    for network, name in enumerate(table.networks):
        others = table.others(network)
        asked = table.asking(others, table.fidelities[:1])
        lines.append(row([name, *(_promise(table, network, asked, wish) for wish in SHARES)]))
    return lines


def _promise(table: Table, network: int, asked: Tables, wish: float) -> str:
    """Return what a network kept that was left out, and the interval that was expected for it."""
    kept, ends = [], []
    for learned, used in (table.halves, table.halves[::-1]):
        here, there = asked.of(used), asked.of(learned)
        typical = float(there.bits[:, -1].exp().mean())
        try:
            left_out = LeftOut(there, tuple(str(k) for k in range(there.classifiers)), typical).for_agreement(wish)
        except ValueError:  # not even the finest points keep so many
            return "–"
        prior = KeepPrior.of(KeepModel.fit(there), there)
        points = (prior.probabilities(here) - left_out.price * here.bits.exp() / typical).argmax(1)
        kept.append(table.tables.kept[network][used].gather(1, points[:, None]).double().mean())
        ends.append((left_out.low, left_out.high))
    low, high = np.mean(ends, 0)
    return f"{100 * float(torch.stack(kept).mean()):.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def main(options: argparse.Namespace) -> None:
    """Measure what is missing, and print the figures or write them into a page."""
    torch.set_num_threads(1)
    specs = [*options.network, *options.judge]
    networks = {LazyClassifier(spec).name: LazyClassifier(spec, PREPROCESS) for spec in specs}
    judges = [*networks][len(options.network) :]
    for network in networks.values():
        network.classifier.model.to(memory_format=torch.channels_last)
    fidelities: list[Fidelity] = [Lpips(model=options.lpips)] if options.lpips else []
    fidelities += [Embedding(model=spec) for spec in options.embedding]
    options.out.mkdir(parents=True, exist_ok=True)
    sections, tables = [], {}

    def measured(codec: str, arms: Sequence[Arm], witnesses: Sequence[Fidelity], edited: bool = False) -> Arrays:
        path = options.out / f"unseen-{'edit-' if edited else ''}{re.sub('[:=,]', '-', codec)}.npz"
        if options.extend or not path.exists():
            complete(path, SampleFolder(options.photos), options.limit, arms, networks, judges, witnesses)
        return dict(np.load(path))

    for codec in options.codec:
        tables[codec] = Table(measured(codec, [plain_arm(codec)], fidelities), tables.get(as_codec(codec).name))
        if options.of_one:
            print(of_one(tables[codec]))
            continue
        text, saved = section(tables[codec], codec)
        sections.append(text)
        if options.plot is not None and len(sections) == 1:
            draw(options.plot, tables[codec].networks, saved)
    if options.of_one:
        return
    trunks = [LazyClassifier(spec, PREPROCESS) for spec in options.trunk]
    for trunk in trunks:
        trunk.classifier.model.to(memory_format=torch.channels_last)
    for codec in options.edit:
        edited = measured(codec, edited_arms(codec, networks, trunks), fidelities[:1], edited=True)
        sections.append(section_edited(edited, measured(codec, [plain_arm(codec)], fidelities), codec))
    text = "\n\n".join(sections)
    if options.into is None:
        print(text)
        return
    page = options.into.read_text(encoding="utf-8")
    new, count = re.subn(
        r"(<!-- unseen -->\n).*?(<!-- /unseen -->)", lambda m: f"{m[1]}{text}\n{m[2]}", page, flags=re.S
    )
    if count != 1:
        raise SystemExit(f"{options.into} has {count} places for these figures, expected one")
    options.into.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder with one subfolder of images a class")
    parser.add_argument("out", type=Path, help="a folder for what was measured")
    parser.add_argument("--network", action="append", required=True, help="three or more; each is left out in turn")
    parser.add_argument("--judge", action="append", default=[], help="judges, and is never a witness")
    parser.add_argument("--lpips", help="a SqueezeNet 1.1, for LPIPS")
    parser.add_argument("--embedding", action="append", default=[], help="a network without classes")
    parser.add_argument(
        "--codec",
        action="append",
        required=True,
        help=f"one of {', '.join(LADDERS)}; one with settings, as jpeg:tables=machine, after the plain one, whose "
        "fixed points it is compared with",
    )
    parser.add_argument(
        "--edit",
        action="append",
        default=[],
        choices=[*EDITED],
        help="a codec that is among the others; measures it after edits too, by all networks but the one left out",
    )
    parser.add_argument("--trunk", action="append", default=[], help="in the loss of edits, and nowhere else")
    parser.add_argument("--limit", type=int, help="at most this many photos, from an order drawn once")
    parser.add_argument("--extend", action="store_true", help="measure what photos a table that is there lacks")
    parser.add_argument("--of-one", action="store_true", help="print the model for a single witness, and end")
    parser.add_argument("--plot", type=Path, help="draw what the first codec saves against the number of witnesses")
    parser.add_argument("--into", type=Path, help="write there, between its marks, instead of printing")
    main(parser.parse_args())
