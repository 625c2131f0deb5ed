"""Images for a report to show: the best, the typical and the worst, chosen by rule, not by eye."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.compressor import Compressor, Encoded
from foveate.evaluation._engine import encode_image
from foveate.evaluation._measurement import Measurement
from foveate.evaluation._samples import Sample, Samples, SampleSource, as_samples
from foveate.evaluation._settings import Setting
from foveate.evaluation._vocabulary import STEERED, ExhibitKind, Metric
from foveate.images import to_uint8
from foveate.preedit import PreEdit

_MOST_POINTS = 20
"""At most this many compressed copies of an exhibit; with more points, each curve shows its middle quality alone."""


@dataclass(frozen=True)
class ExhibitPoint:
    """An exhibit at one operating point.

    Attributes:
        curve: the name of its setting.
        encoded: the bitstream.
        decoded: the decoded image, uint8 (3, H, W).
        answers: the class that each judge gives it.
    """

    curve: str
    encoded: Encoded
    decoded: Tensor
    answers: dict[str, int]


@dataclass(frozen=True)
class Exhibit:
    """One image, for a report to show.

    Attributes:
        kind: ``"best"``, ``"typical"``, ``"worst"``, or ``""`` if there is no pre-filter to choose by.
        sample: the image itself.
        saliency: its map (1, h, w), or None if no operating point uses one.
        filtered: what the pre-filters left of it, by a text that says which: uint8 (3, H, W). For an edit also what it
            changed, doubled, on gray.
        clean: the class that each judge gives the untouched image.
        points: the compressed image, curve by curve from coarse to fine.
    """

    kind: ExhibitKind
    sample: Sample
    saliency: Tensor | None
    filtered: dict[str, Tensor]
    clean: dict[str, int]
    points: list[ExhibitPoint]


def choose_exhibits(source: SampleSource, measured: Measurement, *, per_kind: int = 2) -> list[Exhibit]:
    """Choose images of a measurement to show.

    They are chosen at the middle quality of the first pre-filtered curve. *Best* are those with the most bytes saved
    against the codec alone at the same quality, among those whose answers every judge keeps; *typical* those whose
    saving is nearest the median; *worst* those where the pre-filter lost an answer that the codec alone kept, ordered
    by the KL divergence summed over the judges. Without a pre-filter they are spread evenly.

    Args:
        source: the source of the measurement.
        measured: the counts.
        per_kind: how many of each kind.

    Returns:
        The exhibits, each image once, so fewer if there are few images, and none if all points are baselines.
    """
    settings = [Setting.of(c) for c in measured.compressors]
    numbers = [k for k, s in enumerate(settings) if s.map is None or s.map in STEERED]  # baselines are not worth a look
    if len(numbers) > _MOST_POINTS:
        groups = [[k for k in numbers if settings[k] == s] for s in dict.fromkeys(settings[k] for k in numbers)]
        numbers = [group[len(group) // 2] for group in groups]
    if not numbers:
        return []
    chosen = _choose(measured, per_kind)
    samples = _pick(source, {measured.positions[n] for n in chosen})
    return [
        _exhibit(kind, samples[measured.positions[n]], n, measured, settings, numbers) for n, kind in chosen.items()
    ]


def _choose(measured: Measurement, per_kind: int) -> dict[int, ExhibitKind]:
    """Numbers of images, and the kind of each."""
    count = len(measured.labels)
    pair = focus(measured.compressors)
    if pair is None:
        wanted = min(count, 3 * per_kind)
        return {k * count // wanted: ExhibitKind.UNRANKED for k in range(wanted)}
    alone, filtered = pair
    saved = 1 - measured.bytes[filtered] / measured.bytes[alone]
    kept, lost = torch.ones(count, dtype=torch.bool), torch.zeros(count, dtype=torch.bool)
    divergence = torch.zeros(count)
    for judge in measured.judges:
        right = measured.right(judge.name, Metric.AGREEMENT)
        kept &= right[filtered]
        lost |= right[alone] & ~right[filtered]
        divergence = divergence + measured.kl[judge.name][filtered]
    orders = {
        ExhibitKind.BEST: torch.argsort(saved - 10.0 * ~kept, descending=True, stable=True),
        ExhibitKind.TYPICAL: torch.argsort((saved - saved.median()).abs(), stable=True),
        ExhibitKind.WORST: torch.argsort(divergence + 1e6 * lost, descending=True, stable=True),
    }
    chosen: dict[int, ExhibitKind] = {}
    for kind, order in orders.items():
        chosen |= dict.fromkeys([n for n in order.tolist() if n not in chosen][:per_kind], kind)
    return chosen


def focus(compressors: Sequence[Compressor]) -> tuple[int, int] | None:
    """Return the numbers of the codec alone and of the first pre-filtered curve, at the middle quality they share.

    Returns:
        None if there are no such points.
    """
    settings = [Setting.of(c) for c in compressors]
    first = next((s for s in settings if s.is_steered), None)
    if first is None:
        return None
    plain = {
        c.codec: k
        for k, (c, s) in enumerate(zip(compressors, settings, strict=True))
        if s == Setting(c.codec.plain.family)
    }
    curve = [k for k, s in enumerate(settings) if s == first]
    pairs = [(plain[compressors[k].codec.plain], k) for k in curve if compressors[k].codec.plain in plain]
    return pairs[len(pairs) // 2] if pairs else None


def _pick(source: SampleSource, positions: set[int]) -> dict[int, Sample]:
    samples = as_samples(source)
    if isinstance(samples, Samples):
        return {position: samples[position] for position in positions}
    return {position: sample for position, sample in enumerate(samples) if position in positions}


def _exhibit(
    kind: ExhibitKind,
    sample: Sample,
    n: int,
    measured: Measurement,
    settings: Sequence[Setting],
    numbers: Sequence[int],
) -> Exhibit:
    """The exhibit of image n at the points with these numbers."""
    compressors = [measured.compressors[k] for k in numbers]
    saliency, encoded, stored = encode_image(sample, compressors)
    decoded = compressors[0].decode(encoded)
    points = [
        ExhibitPoint(settings[k].name, e, d, {j.name: int(measured.answers[j.name][k, n, 0]) for j in measured.judges})
        for k, e, d in zip(numbers, encoded, decoded, strict=True)
    ]
    filtered: dict[str, Tensor] = {}
    for compressor, image in zip(compressors, stored, strict=True):
        filtered |= _shown(compressor, sample.image, image)
    clean = {judge.name: int(measured.clean[judge.name][n, 0]) for judge in measured.judges}
    return Exhibit(kind, sample, saliency, filtered, clean, points)


def _shown(compressor: Compressor, source: Tensor, stored: Tensor) -> dict[str, Tensor]:
    """What a pre-filter left of an image, and for an edit at full size what it changed."""
    prefilter = compressor.prefilter
    if prefilter is None or compressor.control is not None or prefilter.strength == 0:
        return {}
    if not isinstance(prefilter, PreEdit):
        return {f"filtered, strength {prefilter.strength:g}": stored}
    if stored.shape != source.shape:
        return {}
    change = stored.double() - source.double()
    psnr = 20 * math.log10(255) - 10 * math.log10(max(float(change.square().mean()), 1e-9))
    codec = prefilter.before(compressor.codec).codec
    name = f"edited for {codec}, strength {prefilter.strength:g}"
    return {
        f"{name}: {psnr:.1f} dB": stored,
        f"{name}: its change, doubled": to_uint8((0.5 + change / 127.5).clamp(0, 1)),
    }
