"""What computes the values of one image: maps, filters, bitstreams and answers, each once."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from foveate._threads import parallel_map
from foveate.compressor import Compressor, Encoded
from foveate.evaluation._measurement import Judge
from foveate.evaluation._samples import Sample
from foveate.images import image_hash, to_float
from foveate.rate_control import Controlled
from foveate.saliency import Baseline, Shuffled, saliency_maps
from foveate.sweep import Sweep

_TOP = 5
_BATCH = 64
_IDENTICAL = 100.0
"""The PSNR, in dB, that counts for an image that came back bit for bit."""


class Engine:
    """Computes the values of one image that are not known yet.

    Args:
        judges: the classifiers.
        judge_keys: a key for each.
        compressors: the operating points.
        keys: a key for each.
        fidelity: measure PSNR and MS-SSIM too.
        as_stored: show the judges images at their stored size.
    """

    def __init__(
        self,
        judges: Sequence[Judge],
        judge_keys: Sequence[str],
        compressors: Sequence[Compressor],
        keys: Sequence[str],
        fidelity: bool,
        as_stored: bool = False,
    ) -> None:
        self.judges = dict(zip(judge_keys, judges, strict=True))
        self.points = dict(zip(keys, compressors, strict=True))
        self.fidelity, self.as_stored = fidelity, as_stored
        self.needs_donor = any(map(_takes_another, compressors))
        # The maps of this image and of the one before it: a donor's are seldom computed twice.
        self._maps: Callable[[Any, str, str], Tensor] = lru_cache(maxsize=8)(self._map)
        self._samples: dict[str, Sample] = {}

    def missing(
        self, sample: Sample, digest: str, donor: Sample | None, known: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Return the ``clean`` and ``points`` of an image's record that ``known`` lacks; nothing if it has all.

        Args:
            sample: the image.
            digest: its hash.
            donor: the sample whose map :class:`foveate.saliency.Shuffled` takes.
            known: the image's record so far.
        """
        known = known or {"clean": {}, "points": {}}
        points: dict[str, Compressor] = {}
        judges = {key: judge for key, judge in self.judges.items() if key not in known["clean"]}
        donor_digest = None if donor is None else image_hash(donor.image)
        for key, compressor in self.points.items():
            cell = known["points"].get(key)
            if cell is not None and _takes_another(compressor) and cell.get("donor") != donor_digest:
                cell = None  # the map of another image than the one before it now
            unanswered = [j for j in self.judges if cell is None or j not in cell["judges"]]
            if unanswered or (self.fidelity and cell is not None and "psnr" not in cell):
                points[key] = compressor
                judges |= {j: self.judges[j] for j in unanswered}
        if not points and not judges:
            return {}
        samples = {digest: sample} if donor is None else {digest: sample, str(donor_digest): donor}
        return self._compute(sample, samples, points, judges)

    def _compute(
        self,
        sample: Sample,
        samples: dict[str, Sample],
        points: dict[str, Compressor],
        judges: dict[str, Judge],
    ) -> dict[str, Any]:
        preprocesses = list(dict.fromkeys(judge.classifier.preprocess for judge in judges.values()))
        sweep = self.sweep(samples)
        for compressor in points.values():
            prepare(compressor, sweep)  # on this thread: those that follow only read

        def work(compressor: Compressor) -> tuple[dict[str, Any], list[Tensor]]:
            encoded = compressor.encode(sweep)[0]
            decoded = compressor.decode([encoded], self.as_stored)[0]
            cell: dict[str, Any] = {"bytes": len(encoded.data), "judges": {}}
            if _takes_another(compressor):
                cell["donor"] = list(samples)[-1]
            if isinstance(encoded, Controlled):
                cell["chosen"] = _chosen(encoded)
            if self.fidelity:
                cell |= _fidelity(sample.image, compressor.decode([encoded])[0] if self.as_stored else decoded)
            return cell, [preprocess(decoded[None]) for preprocess in preprocesses]

        outcomes = parallel_map(work, points.values())
        cells = dict(zip(points, (cell for cell, _ in outcomes), strict=True))
        views = {
            preprocess: [preprocess(sample.image[None]), *(views[k] for _, views in outcomes)]
            for k, preprocess in enumerate(preprocesses)
        }
        clean = {}
        for key, judge in judges.items():
            best, kl = _answers(judge, views[judge.classifier.preprocess])
            clean[key] = best[0]
            for cell, classes, divergence in zip(cells.values(), best[1:], kl, strict=True):
                cell["judges"][key] = [classes, divergence]
        return {"clean": clean, "points": cells}

    def sweep(self, samples: dict[str, Sample]) -> Sweep:
        """Return an image to be sent through compressors, with the maps that each of their saliencies gives it.

        Args:
            samples: by hash: the image and after it, for :class:`foveate.saliency.Shuffled`, the one with the map.
        """
        self._samples = samples
        digest, *rest = samples
        donor = rest[0] if rest else digest  # the image itself, also if its double came before it
        return Sweep(samples[digest].image[None], lambda saliency: list(self._maps(saliency, digest, donor)))

    def _map(self, saliency: Any, digest: str, donor: str) -> Tensor:
        if isinstance(saliency, Shuffled):
            return self._maps(saliency.saliency, donor, "")
        if isinstance(saliency, Baseline):
            return saliency.derive(self._maps(saliency.saliency, digest, ""))
        if donor:
            return self._maps(saliency, digest, "")
        return saliency_maps(saliency, self._samples[digest].image[None])


def prepare(compressor: Compressor, sweep: Sweep) -> None:
    """Make the maps and the filtered image that a compressor needs, so that threads may encode."""
    if compressor.control is None:
        compressor.prepare(sweep, [0])
    elif compressor.used_saliency is not None:  # it filters on its own, at the strengths that it tries
        sweep.maps(compressor.used_saliency)


def encode_image(
    sample: Sample, compressors: Sequence[Compressor]
) -> tuple[Tensor | None, list[Encoded], list[Tensor]]:
    """Send one image through compressors, as :func:`foveate.evaluation.measure` does.

    Args:
        sample: the image.
        compressors: the operating points, none of them with the map of another image.

    Returns:
        Its map (1, h, w), that of the first compressor that uses one, or None; the bitstreams; and what each
        compressor stored, (3, H, W).
    """
    sweep = Engine([], [], [], [], False).sweep({image_hash(sample.image): sample})
    for compressor in compressors:
        prepare(compressor, sweep)
    encoded = parallel_map(lambda compressor: compressor.encode(sweep)[0], compressors)
    saliency = next(filter(None, (compressor.used_saliency for compressor in compressors)), None)
    stored = [compressor.filtered(sweep, 0) for compressor in compressors]
    return None if saliency is None else sweep.maps(saliency)[0], encoded, stored


def _takes_another(compressor: Compressor) -> bool:
    """Whether an image is given the map of another one."""
    return isinstance(compressor.used_saliency, Shuffled)


def _chosen(encoded: Controlled) -> dict[str, Any]:
    """What a rate control chose for an image, and what that rests on, for the records."""
    expected = {} if encoded.expected is None else {"expected": round(encoded.expected, 6)}
    return expected | {
        "quality": encoded.codec.quality,
        "strength": encoded.strength,
        "scale": encoded.scale,
        "met": encoded.met,
        "tried": encoded.tried,
        "encodes": encoded.encodes,
        "clean": [round(p, 6) for p in encoded.clean],
        "final": [round(p, 6) for p in encoded.final],
    }


def _answers(judge: Judge, views: Sequence[Tensor]) -> tuple[list[list[int]], list[float]]:
    """The best classes of each view (1, 3, h, w), best first, and the divergence of all but the first from it."""
    rows: dict[int, Tensor] = {}
    for size in dict.fromkeys(view.shape for view in views):  # stored sizes differ where the preprocessing keeps them
        numbers = [k for k, view in enumerate(views) if view.shape == size]
        batches = torch.cat([views[k] for k in numbers]).split(_BATCH)
        logits = torch.cat([judge.classifier.forward(batch).float().cpu() for batch in batches])
        rows |= dict(zip(numbers, logits, strict=True))
    logits = torch.stack([rows[k] for k in range(len(views))])
    if not bool(torch.isfinite(logits).all()):
        raise ValueError(f"judges: {judge.name} gave values that are not finite; check its weights and preprocessing")
    best = logits.topk(max(1, min(_TOP, logits.shape[1] - 1)), dim=1).indices
    log = logits.double().log_softmax(1)
    kl = (log[:1].exp() * (log[:1] - log[1:])).sum(1).clamp_min(0)
    # Rounded, so that the last bits, in which a batch of another size may differ, do not show.
    return best.tolist(), [round(value, 6) for value in kl.tolist()]


def _fidelity(source: Tensor, decoded: Tensor) -> dict[str, float | None]:
    """PSNR in dB and MS-SSIM (Wang, Simoncelli, Bovik 2003) of one image, by torchmetrics."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

    error = float((source.double() - decoded.double()).square().mean())
    psnr = (
        _IDENTICAL
        if error == 0
        else min(_IDENTICAL, 10 * float(torch.log10(torch.tensor(255**2 / error, dtype=torch.float64))))
    )
    similarity = None
    if min(source.shape[-2:]) > 160:  # what five scales of an 11-pixel window need
        similarity = round(float(ms_ssim(to_float(decoded)[None], to_float(source)[None], data_range=1.0)), 6)
    return {"psnr": round(psnr, 4), "ms_ssim": similarity}
