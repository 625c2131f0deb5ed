"""The settings that a gain of saliency must beat, beside every setting that uses it."""

from collections.abc import Sequence
from dataclasses import replace

from foveate.compressor import Compressor
from foveate.preedit import Objective, PreEdit
from foveate.prefilter import Prefilter, PrefilterBase
from foveate.rate_control import Evidence, RateControl
from foveate.saliency import Baseline, Center, Shuffled

SCALES = (0.7, 0.5)
"""Stored side over source side, for the baseline of plain downscaling."""


def baselines_for(compressors: Sequence[Compressor], scales: Sequence[float] = SCALES) -> list[Compressor]:
    """Return the baselines of some operating points.

    Args:
        compressors: operating points, among them those with neither filter nor scale: they are the baseline of lower
            quality alone.
        scales: for the baseline of plain downscaling.

    Returns:
        For each point with a pre-filter at full size: the same amount of smoothing spread evenly, a center-weighted map
        and the map of another image; for an edit, the same with untrained networks, for pixels, for MS-SSIM and, where
        a map guides it, with the map of another image. For each rate control ``robust``: the same without any network,
        with another image's distances where a fidelity witness gives some, and by the least closeness of the
        witnesses. For each codec alone at full size: the smaller scales that are not there yet.

    Example:
        >>> from foveate import Prefilter
        >>> brightness = lambda images: images.mean(1, keepdim=True)
        >>> len(baselines_for([Compressor("jpeg:20"), Compressor("jpeg:20", Prefilter(brightness))]))
        5
    """
    baselines: list[Compressor] = []
    for compressor in compressors:
        prefilter, control = compressor.prefilter, compressor.control
        if isinstance(control, RateControl):
            baselines += [replace(compressor, control=rival) for rival in _controls(control)]
        if prefilter is None or not compressor.filters or compressor.scale != 1:
            continue
        baselines += [replace(compressor, prefilter=rival) for rival in _rivals(prefilter)]
    fixed = [compressor for compressor in compressors if compressor.control is None and not compressor.filters]
    present = {(c.codec, c.scale) for c in fixed}
    for compressor in fixed:
        if compressor.scale != 1 or compressor.codec.needs_saliency:
            continue
        for scale in scales:
            if (compressor.codec, scale) not in present:
                baselines.append(Compressor(compressor.codec, scale=scale, target=compressor.target))
    return baselines


def _controls(control: RateControl) -> list[RateControl]:
    """Return what ``robust`` must beat: what knows less; nothing for other criteria, or for one that is a control."""
    if not control.robust or control.evidence != Evidence.WITNESSES:
        return []
    others = [Evidence.NO_NETWORK, Evidence.LEAST_CLOSENESS]
    others += [Evidence.OTHER_DISTANCES] if control.fidelities else []
    return [replace(control, evidence=evidence) for evidence in others]


def _rivals(prefilter: PrefilterBase) -> list[PrefilterBase]:
    """Return what a pre-filter must beat at the same strength; nothing for one that is a baseline itself."""
    saliency = prefilter.saliency
    if isinstance(saliency, Baseline):
        return []
    if isinstance(prefilter, PreEdit):
        if prefilter.objective != Objective.NETWORKS:
            return []
        others = (Objective.UNTRAINED, Objective.PIXELS, Objective.MS_SSIM)
        edits: list[PrefilterBase] = [replace(prefilter, objective=objective) for objective in others]
        return edits if saliency is None else [*edits, prefilter.guided(Shuffled(saliency))]
    if not isinstance(prefilter, Prefilter) or saliency is None:
        return []
    return [replace(prefilter, even=True), prefilter.guided(Center(saliency)), prefilter.guided(Shuffled(saliency))]
