"""Pictures for a report to show: the best, the typical and the worst, chosen by rule, not by eye."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.compressor import Compressor, Encoded
from foveate.evaluation.rate_accuracy import Measurement, encode_photo
from foveate.evaluation.samples import Sample, Samples, SampleSource, as_samples
from foveate.evaluation.summary import Setting

_PICTURES = 20
"""At most so many compressed copies of one exhibit; with more points, each curve shows its middle quality alone."""


@dataclass(frozen=True)
class Shown:
    """An exhibit at one operating point.

    Attributes:
        curve: the name of its setting.
        encoded: the bitstream.
        decoded: the decoded picture, uint8 (3, H, W).
        answers: the class that each judge gives it.
    """

    curve: str
    encoded: Encoded
    decoded: Tensor
    answers: dict[str, int]


@dataclass(frozen=True)
class Exhibit:
    """One picture, for a report to show.

    Attributes:
        kind: ``"best"``, ``"typical"``, ``"worst"``, or ``""`` where there is no pre-filter to choose by.
        photo: the picture itself.
        saliency: its map (1, h, w), or None where nothing asked for one.
        filtered: the pre-filtered picture, uint8 (3, H, W), a strength.
        clean: the class that each judge gives the untouched picture.
        points: the picture compressed, curve by curve from coarse to fine.
    """

    kind: str
    photo: Sample
    saliency: Tensor | None
    filtered: dict[float, Tensor]
    clean: dict[str, int]
    points: list[Shown]


def choose_exhibits(source: SampleSource, measured: Measurement, each: int = 2) -> list[Exhibit]:
    """Return pictures of a measurement to show.

    They are chosen at the middle quality of the first pre-filtered curve. *Best* are those with the most bytes saved
    against the codec alone at the same quality, of all whose answers every judge keeps; *typical* those whose saving is
    nearest the median; *worst* those where the pre-filter lost an answer that the codec alone kept, the output furthest
    from the clean one first (by the KL divergence summed over the judges). Without a pre-filter they are spread evenly.

    Args:
        source: what was measured.
        measured: the counts.
        each: how many of each kind.

    Returns:
        The exhibits, without doubles, so fewer where there are few pictures, and none where all points are controls.
    """
    settings = [Setting.of(c) for c in measured.compressors]
    shown = [k for k, s in enumerate(settings) if s.map in (None, "saliency")]  # the controls are no eyeful
    if len(shown) > _PICTURES:
        groups = [[k for k in shown if settings[k] == s] for s in dict.fromkeys(settings[k] for k in shown)]
        shown = [group[len(group) // 2] for group in groups]
    if not shown:
        return []
    chosen = _choose(measured, each)
    pictures = _pick(source, {measured.positions[n] for n in chosen})
    return [_exhibit(kind, pictures[measured.positions[n]], n, measured, settings, shown) for n, kind in chosen.items()]


def _choose(measured: Measurement, each: int) -> dict[int, str]:
    """Numbers of pictures, and of which kind each is."""
    count = len(measured.labels)
    pair = focus(measured.compressors)
    if pair is None:
        wanted = min(count, 3 * each)
        return {k * count // wanted: "" for k in range(wanted)}
    alone, filtered = pair
    saved = 1 - measured.bytes[filtered] / measured.bytes[alone]
    kept, lost, far = torch.ones(count, dtype=torch.bool), torch.zeros(count, dtype=torch.bool), torch.zeros(count)
    for judge in measured.judges:
        right = measured.right(judge.name, "agreement")
        kept &= right[filtered]
        lost |= right[alone] & ~right[filtered]
        far = far + measured.kl[judge.name][filtered]
    orders = {
        "best": torch.argsort(saved - 10.0 * ~kept, descending=True, stable=True),
        "typical": torch.argsort((saved - saved.median()).abs(), stable=True),
        "worst": torch.argsort(far + 1e6 * lost, descending=True, stable=True),
    }
    chosen: dict[int, str] = {}
    for kind, order in orders.items():
        chosen |= dict.fromkeys([n for n in order.tolist() if n not in chosen][:each], kind)
    return chosen


def focus(compressors: Sequence[Compressor]) -> tuple[int, int] | None:
    """The numbers of the codec alone and the first pre-filtered curve, at the middle quality they share; or None."""
    settings = [Setting.of(c) for c in compressors]
    first = next((s for s in settings if s.map == "saliency" and s.scale == 1), None)
    if first is None:
        return None
    plain = {
        c.codec: k
        for k, (c, s) in enumerate(zip(compressors, settings, strict=True))
        if s == Setting(c.codec.plain.family)
    }
    curve = [k for k, s in enumerate(settings) if s == first]
    both = [(plain[compressors[k].codec.plain], k) for k in curve if compressors[k].codec.plain in plain]
    return both[len(both) // 2] if both else None


def _pick(source: SampleSource, positions: set[int]) -> dict[int, Sample]:
    found = as_samples(source)
    if isinstance(found, Samples):
        return {position: found[position] for position in positions}
    return {position: photo for position, photo in enumerate(found) if position in positions}


def _exhibit(
    kind: str, photo: Sample, n: int, measured: Measurement, settings: Sequence[Setting], shown: Sequence[int]
) -> Exhibit:
    compressors = [measured.compressors[k] for k in shown]
    saliency, encoded, stored = encode_photo(photo, compressors)
    decoded = compressors[0].decode(encoded)
    points = [
        Shown(settings[k].name, e, d, {j.name: int(measured.answers[j.name][k, n, 0]) for j in measured.judges})
        for k, e, d in zip(shown, encoded, decoded, strict=True)
    ]
    filtered = {settings[k].strength: s for k, s in zip(shown, stored, strict=True) if settings[k].strength}
    clean = {judge.name: int(measured.clean[judge.name][n, 0]) for judge in measured.judges}
    return Exhibit(kind, photo, saliency, filtered, clean, points)
