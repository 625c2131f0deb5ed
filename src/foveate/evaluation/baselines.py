"""The settings that a gain of saliency must beat, beside every setting that uses it."""

from collections.abc import Sequence
from dataclasses import replace

from foveate.compressor import Compressor
from foveate.saliency import Baseline, Center, Shuffled

SCALES = (0.7, 0.5)
"""Stored side over source side, for the control of plain downscaling."""


def baselines_for(compressors: Sequence[Compressor], scales: Sequence[float] = SCALES) -> list[Compressor]:
    """Return the controls of some operating points.

    Args:
        compressors: operating points. Those with neither filter nor scale are the control of lower quality alone, so
            they are to be among them.
        scales: for the control of plain downscaling.

    Returns:
        For each point with a pre-filter at full size: the same amount of smoothing spread evenly, a center-weighted map
        and the map of another picture. For each codec alone at full size: smaller scales that are not there yet.

    Example:
        >>> from foveate import Prefilter
        >>> where = lambda images: images.mean(1, keepdim=True)
        >>> len(baselines_for([Compressor("jpeg:20"), Compressor("jpeg:20", Prefilter(where))]))
        5
    """
    found: list[Compressor] = []
    for c in compressors:
        prefilter = c.prefilter
        if prefilter is not None and c.filters and c.scale == 1 and not isinstance(prefilter.saliency, Baseline):
            saliency = prefilter.saliency
            for other in (
                replace(prefilter, even=True),
                replace(prefilter, saliency=Center(saliency)),
                replace(prefilter, saliency=Shuffled(saliency)),
            ):
                found.append(Compressor(c.codec, other, 1.0, c.target, c.saliency))
    there = {(c.codec, c.scale) for c in compressors if not c.filters}
    for c in compressors:
        if not c.filters and c.scale == 1 and not c.codec.needs_saliency:
            for scale in scales:
                if (c.codec, scale) not in there:
                    found.append(Compressor(c.codec, None, scale, c.target))
    return found
