"""Coarser qualities for curves that are flat where they were measured."""

from collections.abc import Collection, Sequence

from foveate.compressor import Compressor
from foveate.evaluation._measurement import Measurement
from foveate.evaluation._settings import Setting
from foveate.evaluation._vocabulary import Metric

FLAT = 0.98
"""The agreement of a curve's coarsest point from which on coarser ones are worth a look."""


def coarser_points(measured: Measurement, families: Collection[str]) -> list[Compressor]:
    """Return a coarser point for each curve whose coarsest point keeps nearly all answers.

    Args:
        measured: the counts; the answers are those of the first judge.
        families: the codecs whose curves may go on, without their quality.

    Returns:
        Compressors half as far from the coarsest end of their codec's scale; none of a codec that is there already.
    """
    agreement = measured.right(measured.judges[0].name, Metric.AGREEMENT).double().mean(1).tolist()
    added = []
    for numbers in _curves(measured.compressors).values():
        coarsest = min(numbers, key=lambda k: measured.compressors[k].codec.step())
        compressor = measured.compressors[coarsest]
        step = compressor.codec.step()
        if compressor.codec.family in families and agreement[coarsest] >= FLAT and step > 0:
            added.append(compressor.at(compressor.codec.scale[step // 2]))
    return added


def in_curves(compressors: Sequence[Compressor]) -> list[Compressor]:
    """Return compressors curve by curve, each from coarse to fine; those without a fixed quality last."""
    curves = [[compressors[k] for k in numbers] for numbers in _curves(compressors).values()]
    fixed = [compressor for curve in curves for compressor in sorted(curve, key=lambda c: c.codec.step())]
    return [*fixed, *(compressor for compressor in compressors if not _is_fixed(compressor))]


def _curves(compressors: Sequence[Compressor]) -> dict[Setting, list[int]]:
    """The numbers of the points of each curve of fixed qualities."""
    curves: dict[Setting, list[int]] = {}
    for number, compressor in enumerate(compressors):
        if _is_fixed(compressor):
            curves.setdefault(Setting.of(compressor), []).append(number)
    return curves


def _is_fixed(compressor: Compressor) -> bool:
    return compressor.control is None and compressor.target is None
