"""From a measurement to results: means over the images, and every setting compared, with intervals."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foveate.compressor import Compressor
from foveate.evaluation._bootstrap import Bootstrap, Interval, interval, resampled
from foveate.evaluation._measurement import Measurement
from foveate.evaluation._settings import Setting
from foveate.evaluation._vocabulary import HELD_EQUAL, STEERED, BaselineKind, Fidelity, Metric, Verdict
from foveate.evaluation.curves import NoOverlapError, bd_accuracy, bd_rate, overlap, saved_or_beyond
from foveate.evaluation.results import Choices, Clean, Comparison, Judgment, PointResult, Results, Saving
from foveate.rate_control import Evidence, RateControl

_Groups = dict[Setting, list[int]]
"""The numbers of the points of each curve."""
_Reference = tuple[BaselineKind, str, list[int]]
"""What a curve is compared with: the kind of baseline, its name, and the numbers of its points."""


class Resampled:
    """Rates and accuracies of points by one judge and one metric, for all images and in each resample.

    Args:
        sizes: (points, n) bytes.
        right: bool (points, n).
        draws: the resamples.

    Attributes:
        rates, accuracies: (1 + resamples, points): means of all images in row 0, of resample k in row k + 1.
    """

    def __init__(self, sizes: Tensor, right: Tensor, draws: Bootstrap) -> None:
        stacked = torch.cat([sizes.double(), right.double()])
        means = np.vstack([stacked.mean(1).numpy()[None], draws.means(stacked)])
        self.rates, self.accuracies = means[:, : len(sizes)], means[:, len(sizes) :]
        self.resamples = draws.resamples

    def curve(self, row: int, points: Sequence[int]) -> tuple[Any, Any]:
        """Return rates and accuracies of some points in one row."""
        return self.rates[row, points], self.accuracies[row, points]


def summarize(measured: Measurement, settings: dict[str, Any], *, seed: int = 0, resamples: int = 1000) -> Results:
    """Average a measurement over its images and compare every setting with its codec alone and with its baselines.

    Args:
        measured: the counts.
        settings: to be written with the results; JSON-able.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        The results.
    """
    draws = Bootstrap(len(measured.labels), seed, resamples)
    samples = {
        (judge.name, metric): Resampled(measured.bytes, measured.right(judge.name, metric), draws)
        for judge in measured.judges
        for metric in HELD_EQUAL
    }
    of_points = [Setting.of(compressor) for compressor in measured.compressors]
    points = [_point(measured, k, setting, samples) for k, setting in enumerate(of_points)]
    groups: _Groups = {}
    for k, setting in enumerate(of_points):
        groups.setdefault(setting, []).append(k)
    references = {
        setting: _references(setting, Setting(measured.compressors[numbers[0]].codec.plain.family), groups)
        for setting, numbers in groups.items()
    }
    savings, comparisons = [], []
    for (judge, metric), sample in samples.items():
        known = next(j.known for j in measured.judges if j.name == judge)
        savings += [
            _saving(sample, judge, metric, points[k], k, reference)
            for k, setting in enumerate(of_points)
            for reference in references[setting]
            if _is_saving(setting, reference)
        ]
        comparisons += [
            Comparison(judge, known, metric, setting.name, name, baseline, **compare_curves(sample, numbers, others))
            for setting, numbers in groups.items()
            for baseline, name, others in references[setting]
            if len(numbers) >= 2 and len(others) >= 2
        ]
    sizes = measured.file_bytes
    file_bytes = None if sizes is None else sizes.double().mean().item()
    return Results(settings, _clean(measured), points, savings, comparisons, list(measured.skipped), file_bytes)


def _references(setting: Setting, plain: Setting, groups: _Groups) -> list[_Reference]:
    if setting == plain:
        return []
    references = [(BaselineKind.CODEC_ALONE, plain.name, groups.get(plain, []))]
    if setting.is_steered:
        for kind in STEERED[setting.map]:
            rival = replace(setting, map=kind)
            references.append((BaselineKind(kind), rival.name, groups.get(rival, [])))
    if setting.is_steered or setting.keep:
        scales = [k for other, ks in groups.items() if other == Setting(plain.codec, 0, other.scale) for k in ks]
        if len(scales) > len(groups.get(plain, [])):
            references.append((BaselineKind.DOWNSCALING, f"{plain.codec}, best scale", scales))
    return references


def _is_saving(setting: Setting, reference: _Reference) -> bool:
    """Whether a point's bytes are compared with a reference: the codec alone, or any scale for a rate control."""
    baseline, _, others = reference
    if len(others) < 2:
        return False
    return baseline == BaselineKind.CODEC_ALONE or (setting.keep is not None and baseline == BaselineKind.DOWNSCALING)


def _clean(measured: Measurement) -> dict[str, Clean]:
    return {
        judge.name: Clean(
            known=judge.known,
            key=key,
            top1=_share(measured.clean[judge.name][:, 0] == measured.labels),
            top5=_top5(measured.clean[judge.name], measured.labels),
        )
        for judge, key in zip(measured.judges, measured.judge_keys, strict=True)
    }


def _point(
    measured: Measurement, k: int, setting: Setting, samples: dict[tuple[str, Metric], Resampled]
) -> PointResult:
    compressor = measured.compressors[k]

    def judgment(name: str, known: bool) -> Judgment:
        intervals = {metric: interval(samples[name, metric].accuracies[1:, k]) for metric in HELD_EQUAL}
        return Judgment(
            known=known,
            top1=_share(measured.right(name, Metric.TOP1)[k]),
            top5=_top5(measured.answers[name][k], measured.labels),
            agreement=_share(measured.right(name, Metric.AGREEMENT)[k]),
            kl=round(measured.kl[name][k].mean().item(), 6),
            top1_interval=intervals[Metric.TOP1],
            agreement_interval=intervals[Metric.AGREEMENT],
        )

    fidelity = {kind: _mean(values[k]) for kind, values in measured.fidelity.items()}
    return PointResult(
        curve=setting.name,
        key=measured.keys[k],
        codec=setting.codec,
        quality=None if setting.keep else compressor.codec.quality,
        strength=setting.strength,
        scale=setting.scale,
        map=setting.map,
        keep=None if compressor.control is None else compressor.control.keeps,
        n=len(measured.labels),
        bytes=measured.bytes[k].double().mean().item(),
        bpp=8 * measured.bytes[k].sum().item() / measured.pixels.sum().item(),
        psnr=fidelity.get(Fidelity.PSNR),
        ms_ssim=fidelity.get(Fidelity.MS_SSIM),
        choices=_choices(measured.chosen.get(k), compressor),
        judges={judge.name: judgment(judge.name, judge.known) for judge in measured.judges},
    )


def _choices(chosen: Sequence[dict[str, Any]] | None, compressor: Compressor) -> Choices | None:
    """The choices of a rate control, over the images."""
    if chosen is None:
        return None
    n = len(chosen)
    settings = Counter((choice["strength"], choice["scale"], choice["quality"]) for choice in chosen)
    return Choices(
        met=sum(choice["met"] for choice in chosen) / n,
        tried=sum(choice["tried"] for choice in chosen) / n,
        encodes=sum(choice["encodes"] for choice in chosen) / n,
        forwards=sum((choice["tried"] + 1) * len(choice["clean"]) for choice in chosen) / n,
        settings=[(float(t), float(s), float(q), count) for (t, s, q), count in sorted(settings.items())],
        expected=sum(choice["expected"] for choice in chosen) / n if "expected" in chosen[0] else None,
        promised=_promised(compressor),
    )


def _promised(compressor: Compressor) -> tuple[float, float, float] | None:
    """What a calibration expects of a classifier that is not a witness, with its interval."""
    control = compressor.control
    if not isinstance(control, RateControl) or not control.robust or len(control.classifiers) == 1:
        return None
    if control.evidence != Evidence.WITNESSES:
        return None
    expectation = control.expectation(compressor)
    return expectation.agreement, expectation.low, expectation.high


def _saving(sample: Resampled, judge: str, metric: Metric, point: PointResult, k: int, reference: _Reference) -> Saving:
    baseline, name, others = reference

    def saved_in(row: int) -> float:
        rate, accuracy = sample.rates[row, k], sample.accuracies[row, k]
        return saved_or_beyond(*sample.curve(row, others), rate, accuracy)

    saved = saved_in(0)
    return Saving(
        judge=judge,
        metric=metric,
        key=point.key,
        curve=point.curve,
        quality=point.quality,
        keep=point.keep,
        baseline=baseline,
        reference=name,
        saved=saved if np.isfinite(saved) else None,
        interval=interval(resampled(lambda b: saved_in(b + 1), sample.resamples)),
    )


class CurveFields(TypedDict):
    """The fields of a :class:`Comparison` that follow from two curves."""

    bd_rate: float | None
    bd_rate_interval: Interval
    bd_accuracy: float | None
    bd_accuracy_interval: Interval
    overlap: tuple[float, float] | None
    reason: str | None
    verdict: Verdict


def compare_curves(sample: Resampled, test: Sequence[int], anchor: Sequence[int]) -> CurveFields:
    """Compare two curves, with intervals.

    Args:
        sample: both curves' rates and accuracies.
        test: the points of the curve that is judged.
        anchor: the points of the reference.
    """

    def rate(row: int) -> float:
        return bd_rate(*sample.curve(row, anchor), *sample.curve(row, test))

    def accuracy(row: int) -> float:
        return bd_accuracy(*sample.curve(row, anchor), *sample.curve(row, test))

    rate_delta = accuracy_delta = common = reason = None
    try:
        common = overlap(*sample.curve(0, anchor), *sample.curve(0, test))
        rate_delta = rate(0)
    except NoOverlapError as error:
        reason = str(error)
    try:
        accuracy_delta = accuracy(0)
    except NoOverlapError as error:
        reason = reason or str(error)
    rate_interval = interval(resampled(lambda b: rate(b + 1), sample.resamples, better=-1))
    return {
        "bd_rate": rate_delta,
        "bd_rate_interval": rate_interval,
        "bd_accuracy": accuracy_delta,
        "bd_accuracy_interval": interval(resampled(lambda b: accuracy(b + 1), sample.resamples)),
        "overlap": common,
        "reason": reason,
        "verdict": Verdict.OPEN if rate_delta is None else _verdict(rate_interval),
    }


def _verdict(rate_interval: Interval) -> Verdict:
    low, high = rate_interval
    if high is not None and high < 0:
        return Verdict.SAVES
    if low is not None and low > 0:
        return Verdict.COSTS
    return Verdict.OPEN


def _share(right: Tensor) -> float:
    return float(right.double().mean())


def _top5(answers: Tensor, labels: Tensor) -> float | None:
    return _share((answers == labels[:, None]).any(-1)) if answers.shape[-1] == 5 else None


def _mean(values: Tensor) -> float | None:
    measured: npt.NDArray[np.float64] = values[~values.isnan()].numpy()
    return round(float(measured.mean()), 6) if measured.size else None
