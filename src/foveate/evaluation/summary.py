"""From a measurement to results: means over the pictures, and every setting compared, with intervals."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foveate.compressor import Compressor
from foveate.evaluation.bootstrap import Bootstrap, interval, resampled
from foveate.evaluation.curves import NoOverlapError, bd_accuracy, bd_rate, overlap, saved_or_beyond
from foveate.evaluation.rate_accuracy import Measurement
from foveate.evaluation.results import Choices, Clean, Comparison, Judgment, PointResult, Results, Saving
from foveate.identity import identity_in_memory
from foveate.saliency import Baseline, Center, Shuffled

METRICS = ("agreement", "top1")
"""What is held equal when bytes are compared."""
CONTROLS = ("even", "center", "other picture")


@dataclass(frozen=True)
class Setting:
    """What the points of one rate–accuracy curve share: all but the quality."""

    codec: str
    strength: float = 0.0
    scale: float = 1.0
    map: str | None = None
    keep: str | None = None

    @classmethod
    def of(cls, compressor: Compressor) -> "Setting":
        """The setting of an operating point."""
        prefilter, control = compressor.prefilter, compressor.control
        if control is not None:
            kept = control.family
            return cls(compressor.codec.family, keep=kept + (" without pre-filter" if prefilter is None else ""))
        if prefilter is None or not compressor.filters:
            return cls(compressor.codec.family, 0.0, compressor.scale)
        kind = "even" if prefilter.even else "saliency"
        if isinstance(prefilter.saliency, Baseline):
            kind = {Center: "center", Shuffled: "other picture"}.get(
                type(prefilter.saliency), type(prefilter.saliency).__name__
            )
        return cls(compressor.codec.family, prefilter.strength, compressor.scale, kind)

    @property
    def name(self) -> str:
        """A name that a reader understands: ``"jpeg alone"``, ``"jpeg, strength 0.5"``, ``"jpeg, scale 0.7"``."""
        parts = [f"strength {self.strength:g}"] * (self.strength > 0) + [f"scale {self.scale:g}"] * (self.scale < 1)
        words = {"even": "spread evenly", "center": "center-weighted", "other picture": "another picture's map"}
        parts += [words.get(self.map, self.map)] if self.map not in (None, "saliency") else []
        parts += [f"keep {self.keep}"] if self.keep else []
        return ", ".join([self.codec, *parts]) if parts else f"{self.codec} alone"


def check_settings(compressors: Sequence[Compressor]) -> None:
    """Raise a ValueError if points that differ would count as one of the same curve, having the same setting by name.

    Two saliencies, say, or two criteria that are functions of one name: each takes an evaluation of its own.
    """
    there: dict[tuple[object, ...], str] = {}
    for compressor in compressors:
        setting, target, control = Setting.of(compressor), compressor.target, compressor.control
        point = (setting, compressor.codec.quality, target, None if control is None else control.keeps)
        identity = identity_in_memory(compressor)
        if there.setdefault(point, identity) != identity:
            at = f"quality {compressor.codec.quality:g}" if control is None else control.keeps
            raise ValueError(
                f"compressors: two that differ are both {setting.name!r} at {at}, and would be drawn as one curve; "
                "evaluate them one by one"
            )


class Resampled:
    """Rates and accuracies of points before one judge by one metric, for all pictures and in each resample.

    Args:
        sizes: (points, n) bytes.
        right: bool (points, n).
        draws: the resamples.

    Attributes:
        rates, accuracies: (1 + resamples, points): means of all pictures in row 0, of resample k in row k + 1.
    """

    def __init__(self, sizes: Tensor, right: Tensor, draws: Bootstrap) -> None:
        both = torch.cat([sizes.double(), right.double()])
        means = np.vstack([both.mean(1).numpy()[None], draws.means(both)])
        self.rates, self.accuracies = means[:, : len(sizes)], means[:, len(sizes) :]
        self.resamples = draws.resamples

    def __call__(self, row: int, points: Sequence[int]) -> tuple[Any, Any]:
        """Rates and accuracies of some points in one row."""
        return self.rates[row, points], self.accuracies[row, points]


def summarize(measured: Measurement, settings: dict[str, Any], seed: int = 0, resamples: int = 1000) -> Results:
    """Average a measurement over its pictures and compare every setting with its codec alone and with its controls.

    Args:
        measured: the counts.
        settings: what to record as asked for; JSON-able.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        The results.
    """
    of_points = [Setting.of(compressor) for compressor in measured.compressors]
    draws = Bootstrap(len(measured.labels), seed, resamples)
    curves = {
        (judge.name, metric): Resampled(measured.bytes, measured.right(judge.name, metric), draws)
        for judge in measured.judges
        for metric in METRICS
    }
    points = [_point(measured, k, setting, curves) for k, setting in enumerate(of_points)]
    clean = {
        judge.name: Clean(
            judge.known,
            key,
            _share(measured.clean[judge.name][:, 0] == measured.labels),
            _top5(measured.clean[judge.name], measured.labels),
        )
        for judge, key in zip(measured.judges, measured.judge_keys, strict=True)
    }
    groups: dict[Setting, list[int]] = {}
    for k, setting in enumerate(of_points):
        groups.setdefault(setting, []).append(k)
    plain = {setting: Setting(measured.compressors[ks[0]].codec.plain.family) for setting, ks in groups.items()}
    savings, comparisons = [], []
    for judge in measured.judges:
        for metric in METRICS:
            sample = curves[judge.name, metric]
            savings += [
                _saving(sample, judge.name, metric, points[k], k, reference, others)
                for k, setting in enumerate(of_points)
                for control, reference, others in _references(setting, plain[setting], groups)
                if (control == "codec alone" or (setting.keep and control == "downscaling")) and len(others) >= 2
            ]
            for setting, ks in groups.items():
                for control, reference, others in _references(setting, plain[setting], groups):
                    if len(ks) >= 2 and len(others) >= 2:
                        compared = compare_curves(sample, ks, others)
                        comparisons.append(
                            Comparison(judge.name, judge.known, metric, setting.name, reference, control, **compared)
                        )
    return Results(settings, clean, points, savings, comparisons, list(measured.skipped))


def _references(setting: Setting, plain: Setting, groups: dict[Setting, list[int]]) -> list[tuple[str, str, list[int]]]:
    """What a curve is compared with: which question that answers, the reference's name, and its points."""
    if setting == plain:
        return []
    found = [("codec alone", plain.name, groups.get(plain, []))]
    if setting.map == "saliency" and setting.scale == 1:
        for control in CONTROLS:
            rival = Setting(setting.codec, setting.strength, setting.scale, control)
            found.append((control, rival.name, groups.get(rival, [])))
    if (setting.map == "saliency" and setting.scale == 1) or setting.keep:
        scales = [k for other, ks in groups.items() if other == Setting(plain.codec, 0, other.scale) for k in ks]
        if len(scales) > len(groups.get(plain, [])):
            found.append(("downscaling", f"{plain.codec}, best scale", scales))
    return found


def _point(measured: Measurement, k: int, setting: Setting, curves: dict[tuple[str, str], Resampled]) -> PointResult:
    fidelity = {what: _mean(values[k]) for what, values in measured.fidelity.items()}

    def judgment(name: str, known: bool) -> Judgment:
        intervals = {metric: interval(curves[name, metric].accuracies[1:, k]) for metric in METRICS}
        return Judgment(
            known,
            _share(measured.right(name, "top1")[k]),
            _top5(measured.answers[name][k], measured.labels),
            _share(measured.right(name, "agreement")[k]),
            round(measured.kl[name][k].mean().item(), 6),
            intervals["top1"],
            intervals["agreement"],
        )

    control = measured.compressors[k].control
    return PointResult(
        setting.name,
        measured.keys[k],
        setting.codec,
        None if setting.keep else measured.compressors[k].codec.quality,
        setting.strength,
        setting.scale,
        setting.map,
        None if control is None else control.keeps,
        len(measured.labels),
        measured.bytes[k].double().mean().item(),
        8 * measured.bytes[k].sum().item() / measured.pixels.sum().item(),
        fidelity.get("psnr"),
        fidelity.get("ms_ssim"),
        _choices(measured.chosen.get(k)),
        {judge.name: judgment(judge.name, judge.known) for judge in measured.judges},
    )


def _choices(chosen: Sequence[dict[str, Any]] | None) -> Choices | None:
    """What a control chose, over the pictures."""
    if chosen is None:
        return None
    n = len(chosen)
    settings = Counter((one["strength"], one["scale"], one["quality"]) for one in chosen)
    return Choices(
        sum(one["met"] for one in chosen) / n,
        sum(one["tried"] for one in chosen) / n,
        sum(one["encodes"] for one in chosen) / n,
        sum((one["tried"] + 1) * len(one["clean"]) for one in chosen) / n,
        [(float(t), float(s), float(q), count) for (t, s, q), count in sorted(settings.items())],
    )


def _saving(
    sample: Resampled, judge: str, metric: str, point: PointResult, k: int, reference: str, others: list[int]
) -> Saving:
    def saved(row: int) -> float:
        rate, accuracy = sample.rates[row, k], sample.accuracies[row, k]
        return saved_or_beyond(*sample(row, others), rate, accuracy)

    found = saved(0)
    return Saving(
        judge,
        metric,
        point.key,
        point.curve,
        point.quality,
        point.keep,
        reference,
        found if np.isfinite(found) else None,
        interval(resampled(lambda b: saved(b + 1), sample.resamples)),
    )


def compare_curves(sample: Resampled, test: Sequence[int], anchor: Sequence[int]) -> dict[str, Any]:
    """Return the fields of a :class:`Comparison` that two curves give, with intervals.

    Args:
        sample: both curves' rates and accuracies.
        test: the points of the curve that is judged.
        anchor: the points of the reference.
    """

    def rate(row: int) -> float:
        return bd_rate(*sample(row, anchor), *sample(row, test))

    def accuracy(row: int) -> float:
        return bd_accuracy(*sample(row, anchor), *sample(row, test))

    rate_delta = accuracy_delta = common = reason = None
    try:
        common = overlap(*sample(0, anchor), *sample(0, test))
        rate_delta = rate(0)
    except NoOverlapError as error:
        reason = str(error)
    try:
        accuracy_delta = accuracy(0)
    except NoOverlapError as error:
        reason = reason or str(error)
    low, high = interval(resampled(lambda b: rate(b + 1), sample.resamples, better=-1))
    verdict = "open"
    if rate_delta is not None:
        verdict = "saves" if high is not None and high < 0 else "costs" if low is not None and low > 0 else "open"
    return {
        "bd_rate": rate_delta,
        "bd_rate_interval": (low, high),
        "bd_accuracy": accuracy_delta,
        "bd_accuracy_interval": interval(resampled(lambda b: accuracy(b + 1), sample.resamples)),
        "overlap": common,
        "reason": reason,
        "verdict": verdict,
    }


def _share(right: Tensor) -> float:
    return float(right.double().mean())


def _top5(answers: Tensor, labels: Tensor) -> float | None:
    return _share((answers == labels[:, None]).any(-1)) if answers.shape[-1] == 5 else None


def _mean(values: Tensor) -> float | None:
    known: npt.NDArray[np.float64] = values[~values.isnan()].numpy()
    return round(float(known.mean()), 6) if known.size else None
