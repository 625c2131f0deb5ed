"""The measurement: pictures through compressors, before several classifiers at once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from foveate._threads import parallel_map
from foveate.codecs import TooLargeError
from foveate.compressor import Compressor, Encoded
from foveate.evaluation.records import Records, hash_of
from foveate.evaluation.samples import Sample, Samples, SampleSource, UnreadableError, as_samples
from foveate.evaluation.versions import versions
from foveate.identity import identity, identity_in_memory
from foveate.images import image_hash, to_float
from foveate.models import Classifier
from foveate.prefilter import Prefilter
from foveate.rate_control import Controlled
from foveate.saliency import Baseline, Saliency, Shuffled

METRICS = ("agreement", "top1", "top5")
_TOP = 5
_BATCH = 64
_IDENTICAL = 100.0
"""The PSNR, in dB, that counts for a picture that came back bit for bit."""


@dataclass(frozen=True)
class Judge:
    """A classifier that judges decoded pictures; ``known`` says that it made the maps or was a control's witness."""

    classifier: Classifier
    known: bool

    @property
    def name(self) -> str:
        """The name that results give it."""
        return self.classifier.name


@dataclass(frozen=True)
class Measurement:
    """What was counted, a picture at a time, at every operating point.

    Attributes:
        compressors: the operating points.
        keys: a key for each, see :mod:`foveate.evaluation.records`.
        judges: the classifiers.
        judge_keys: a key for each.
        positions: of the n pictures in the source.
        names: of the pictures.
        pixels: int64 (n,), of each source picture.
        labels: int64 (n,).
        bytes: int64 (points, n), length of each bitstream.
        clean: a judge's int64 (n, k) best classes on the untouched pictures, best first, by its name; k is 5, and
            fewer for a judge of at most 5 classes.
        answers: the same on the decoded pictures, int64 (points, n, k).
        kl: a judge's float64 (points, n) Kullback–Leibler divergence from its clean output, in nats.
        chosen: what a control chose for each picture, by the number of its point: see
            :mod:`foveate.evaluation.records`.
        fidelity: ``"psnr"`` (dB) and ``"ms_ssim"``, each float64 (points, n), where they were asked for; NaN where a
            picture is too small for MS-SSIM.
        skipped: what was left out: name and reason.
    """

    compressors: Sequence[Compressor]
    keys: Sequence[str]
    judges: Sequence[Judge]
    judge_keys: Sequence[str]
    positions: Sequence[int]
    names: Sequence[str]
    pixels: Tensor
    labels: Tensor
    bytes: Tensor
    clean: dict[str, Tensor]
    answers: dict[str, Tensor]
    kl: dict[str, Tensor]
    chosen: dict[int, list[dict[str, Any]]]
    fidelity: dict[str, Tensor]
    skipped: Sequence[tuple[str, str]]

    def right(self, judge: str, metric: str) -> Tensor:
        """Return bool (points, n): whether a judge answers right by ``"agreement"``, ``"top1"`` or ``"top5"``."""
        return is_right(self.answers[judge], self.clean[judge], self.labels, metric)


def is_right(answers: Tensor, clean: Tensor, labels: Tensor, metric: str) -> Tensor:
    """Return whether answers are right.

    Args:
        answers: int64 (..., n, k), best classes, best first.
        clean: int64 (n, k), the same on the untouched pictures.
        labels: int64 (n,).
        metric: ``"agreement"`` (the best class is the clean one), ``"top1"`` or ``"top5"`` (the label is among them).

    Returns:
        bool (..., n).

    Raises:
        ValueError: if there is no such metric.
    """
    if metric == "agreement":
        return answers[..., 0] == clean[..., 0]
    if metric == "top1":
        return answers[..., 0] == labels
    if metric == "top5":
        return (answers == labels[:, None]).any(-1)
    raise ValueError(f"metric: expected one of {', '.join(METRICS)}, got {metric!r}")


def measure(
    source: SampleSource,
    judges: Sequence[Judge],
    compressors: Sequence[Compressor],
    records: Records | None = None,
    fidelity: bool = False,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> Measurement:
    """Send every picture through every compressor and ask every judge.

    The saliency map of a picture is computed once, each filtered picture once a strength, and each picture is decoded
    once for all judges. Labels are only ever compared with answers. A picture that cannot be read, or is too large for
    a codec, is left out.

    Args:
        source: the pictures, whole, of any sizes: see :func:`foveate.evaluation.as_samples`. Those that have numbers
            are taken in a random order, so that what an interrupted run has is a fair sample.
        judges: with different names; each resizes and crops what was decoded as it wants it.
        compressors: the operating points.
        records: values found in it are not computed again, and what is computed is added to it; None starts from none.
        fidelity: measure PSNR and MS-SSIM too.
        seed: of the order.
        progress: called after each picture.

    Returns:
        The counts, in the order of the source.

    Raises:
        ValueError: if there is nothing to measure, two judges have one name, a map makes use of labels, or a judge's
            output is not finite.
        IdentityError: if records are written and a compressor or a judge has no identity.
    """
    names = [judge.name for judge in judges]
    if len(set(names)) < len(names) or not names or not compressors:
        raise ValueError(f"judges, compressors: expected at least one of each, judges of different names; got {names}")
    for compressor in compressors:
        _refuse_labels(compressor.used_saliency)
    records = Records() if records is None else records
    around = " ".join(f"{name} {number}" for name, number in versions().items())
    text_of = identity if records.lasting else identity_in_memory
    identities = [text_of(compressor, "compressor") for compressor in compressors]
    keys = [hash_of(f"{text} {around}") for text in identities]
    answering = [text_of(judge.classifier, "judge") for judge in judges]
    judge_texts = {hash_of(f"{text} {around}"): text for text in answering}
    judge_keys = list(judge_texts)
    if len(judge_keys) < len(judges):
        raise ValueError(f"judges: two of {', '.join(names)} are one classifier with two names")
    records.name_keys(dict(zip(keys, identities, strict=True)) | judge_texts)

    engine = _Engine(judges, judge_keys, compressors, keys, fidelity)
    skipped: dict[int, tuple[str, str]] = {}
    taken: dict[int, tuple[str, str, int]] = {}
    stream = _in_order(as_samples(source), seed, skipped)
    pairs = _with_donors(stream) if engine.needs_donor else ((position, photo, None) for position, photo in stream)
    for position, photo, donor in pairs:
        picture = image_hash(photo.pixels)
        try:
            found = engine.missing(photo, picture, donor, records.pictures.get(picture))
        except TooLargeError as error:
            skipped[position] = photo.name, str(error)
            continue
        if found or records.pictures[picture]["label"] != photo.label:
            about = {"name": photo.name, "label": photo.label, "size": list(photo.pixels.shape[-2:])}
            records.add(picture, {**about, **found})
        taken[position] = (picture, photo.name, photo.label)
        progress()
    if not taken:
        raise ValueError("photos: not one picture could be read, and compressed")
    rows = [(position, *taken[position]) for position in sorted(taken)]
    return _gather(
        rows, judges, judge_keys, compressors, keys, records, fidelity, [skipped[k] for k in sorted(skipped)]
    )


def _takes_another(compressor: Compressor) -> bool:
    """Whether a picture is given the map of another one."""
    return isinstance(compressor.used_saliency, Shuffled)


def _refuse_labels(saliency: Saliency | None) -> None:
    if saliency is not None and saliency.uses_labels:
        raise ValueError(
            f"compressors: the maps of {saliency!r} make use of a label or of a class given from outside, so the gain "
            "would be a leak; use target=None, the classifier's own answer"
        )


def _in_order(
    source: Samples | Iterable[Sample], seed: int, skipped: dict[int, tuple[str, str]]
) -> Iterator[tuple[int, Sample]]:
    """Position and photo, in random order where the source has numbers; unreadable ones go to ``skipped``."""
    if not isinstance(source, Samples):
        yield from enumerate(source)
        return
    for position in torch.randperm(len(source), generator=torch.Generator().manual_seed(seed)).tolist():
        try:
            yield position, source[position]
        except UnreadableError as error:
            skipped[position] = error.name, error.reason


def _with_donors(stream: Iterator[tuple[int, Sample]]) -> Iterator[tuple[int, Sample, Sample | None]]:
    """Each photo with the one before it, whose map it is given as a control; the first with the second."""
    first = next(stream, None)
    previous: Sample | None = None
    for position, photo in stream:
        if first is not None and previous is None:
            yield *first, photo
            previous = first[1]
        yield position, photo, previous
        previous = photo
    if first is not None and previous is None:
        raise ValueError("photos: a map from another picture takes at least two pictures")


_Job = tuple[Compressor, Tensor, Tensor | None]


class _Engine:
    """What computes the values of one picture that are not known yet."""

    def __init__(
        self,
        judges: Sequence[Judge],
        judge_keys: Sequence[str],
        compressors: Sequence[Compressor],
        keys: Sequence[str],
        fidelity: bool,
    ) -> None:
        self.judges = dict(zip(judge_keys, judges, strict=True))
        self.points = dict(zip(keys, compressors, strict=True))
        self.fidelity = fidelity
        self.needs_donor = any(map(_takes_another, compressors))
        # The maps of this picture and of the one before it: a donor's are seldom computed twice.
        self._maps: Callable[[Any, str, str], Tensor] = lru_cache(maxsize=8)(self._map)
        self._pictures: dict[str, Sample] = {}

    def missing(
        self, photo: Sample, picture: str, donor: Sample | None, known: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Return the ``clean`` and ``points`` of a picture's record that ``known`` lacks; nothing if it has all."""
        known = known or {"clean": {}, "points": {}}
        points: dict[str, Compressor] = {}
        judges = {key: judge for key, judge in self.judges.items() if key not in known["clean"]}
        other = None if donor is None else image_hash(donor.pixels)
        for key, compressor in self.points.items():
            cell = known["points"].get(key)
            if cell is not None and _takes_another(compressor) and cell.get("donor") != other:
                cell = None  # the map of another picture than the one before it now
            without = [j for j in self.judges if cell is None or j not in cell["judges"]]
            if without or (self.fidelity and cell is not None and "psnr" not in cell):
                points[key] = compressor
                judges |= {j: self.judges[j] for j in without}
        if not points and not judges:
            return {}
        pictures = {picture: photo} if donor is None else {picture: photo, str(other): donor}
        return self._compute(photo, pictures, points, judges)

    def _compute(
        self,
        photo: Sample,
        pictures: dict[str, Sample],
        points: dict[str, Compressor],
        judges: dict[str, Judge],
    ) -> dict[str, Any]:
        wanted = list(dict.fromkeys(judge.classifier.preprocess for judge in judges.values()))
        maps = self.maps(pictures, points.values())
        jobs = _filtered(photo, points.values(), maps)

        def work(job: _Job) -> tuple[dict[str, Any], list[Tensor]]:
            encoded = _encode(job)
            decoded = job[0].decode([encoded])[0]
            cell: dict[str, Any] = {"bytes": len(encoded.data), "judges": {}}
            if _takes_another(job[0]):
                cell["donor"] = list(pictures)[-1]
            if isinstance(encoded, Controlled):
                cell["chosen"] = _chosen(encoded)
            if self.fidelity:
                cell |= _fidelity(photo.pixels, decoded)
            return cell, [preprocess(decoded[None]) for preprocess in wanted]

        done = parallel_map(work, jobs)
        cells = dict(zip(points, (cell for cell, _ in done), strict=True))
        views = {
            preprocess: torch.cat([preprocess(photo.pixels[None]), *(views[k] for _, views in done)])
            for k, preprocess in enumerate(wanted)
        }
        clean = {}
        for key, judge in judges.items():
            best, kl = _answers(judge, views[judge.classifier.preprocess])
            clean[key] = best[0]
            for cell, classes, divergence in zip(cells.values(), best[1:], kl, strict=True):
                cell["judges"][key] = [classes, divergence]
        return {"clean": clean, "points": cells}

    def maps(self, pictures: dict[str, Sample], compressors: Iterable[Compressor]) -> dict[Saliency, Tensor]:
        """The map (1, 1, h, w) of each saliency that a compressor makes use of.

        Args:
            pictures: by hash: the picture, and behind it, for :class:`foveate.saliency.Shuffled`, the one whose map it
                is given.
            compressors: the operating points.
        """
        self._pictures = pictures
        picture, *rest = pictures
        other = rest[0] if rest else picture  # one and the same, too, where a double came before it
        found: dict[Saliency, Tensor] = {}
        for saliency in filter(None, (compressor.used_saliency for compressor in compressors)):
            if saliency not in found:
                found[saliency] = self._maps(saliency, picture, other)
        return found

    def _map(self, saliency: Any, picture: str, other: str) -> Tensor:
        if isinstance(saliency, Shuffled):
            return self._maps(saliency.saliency, other, "")
        if isinstance(saliency, Baseline):
            return saliency.derive(self._maps(saliency.saliency, picture, ""))
        if other:
            return self._maps(saliency, picture, "")
        return Prefilter(saliency).maps(self._pictures[picture].pixels[None])


def _encode(job: _Job) -> Encoded:
    compressor, source, given = job
    if compressor.control is not None:
        return compressor.encode(source, given)[0]
    return compressor.store(source, None if given is None else list(given))[0]


def _chosen(encoded: Controlled) -> dict[str, Any]:
    """What a control chose for a picture, and what that rests on, for the records."""
    return {
        "quality": encoded.codec.quality,
        "strength": encoded.strength,
        "scale": encoded.scale,
        "met": encoded.met,
        "tried": encoded.tried,
        "encodes": encoded.encodes,
        "clean": [round(p, 6) for p in encoded.clean],
        "final": [round(p, 6) for p in encoded.final],
    }


def _filtered(photo: Sample, compressors: Iterable[Compressor], maps: dict[Saliency, Tensor]) -> list[_Job]:
    """A compressor, the picture (1, 3, H, W) that it stores, filtered once a pre-filter, and the codec's map, each."""
    batch = photo.pixels[None]
    filtered: dict[Prefilter, Tensor] = {}
    jobs: list[_Job] = []
    for compressor in compressors:
        saliency = compressor.used_saliency
        given = None if saliency is None else maps[saliency]
        if compressor.control is not None:  # it filters on its own, at the strengths that it tries
            jobs.append((compressor, batch, given))
            continue
        prefilter, source = compressor.prefilter, batch
        if prefilter is not None and compressor.filters:
            if prefilter not in filtered:
                filtered[prefilter] = prefilter(batch, given)
            source = filtered[prefilter]
        jobs.append((compressor, source, given if compressor.codec.needs_saliency else None))
    return jobs


def _answers(judge: Judge, views: Tensor) -> tuple[list[list[int]], list[float]]:
    """The best classes of each picture, best first, and the divergence of all but the first from the first."""
    logits = torch.cat([judge.classifier.forward(batch).float().cpu() for batch in views.split(_BATCH)])
    if not bool(torch.isfinite(logits).all()):
        raise ValueError(f"judges: {judge.name} gave values that are not finite; check its weights and preprocessing")
    best = logits.topk(max(1, min(_TOP, logits.shape[1] - 1)), dim=1).indices
    log = logits.double().log_softmax(1)
    kl = (log[:1].exp() * (log[:1] - log[1:])).sum(1).clamp_min(0)
    # Rounded, so that the last bits, in which a batch of another size may differ, do not show.
    return best.tolist(), [round(value, 6) for value in kl.tolist()]


def _fidelity(source: Tensor, decoded: Tensor) -> dict[str, float | None]:
    """PSNR in dB and MS-SSIM (Wang, Simoncelli, Bovik 2003) of one picture, by torchmetrics."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

    error = float((source.double() - decoded.double()).square().mean())
    psnr = (
        _IDENTICAL
        if error == 0
        else min(_IDENTICAL, 10 * float(torch.log10(torch.tensor(255**2 / error, dtype=torch.float64))))
    )
    similarity = None
    if min(source.shape[-2:]) > 160:  # five scales of an 11-pixel window take as much
        similarity = round(float(ms_ssim(to_float(decoded)[None], to_float(source)[None], data_range=1.0)), 6)
    return {"psnr": round(psnr, 4), "ms_ssim": similarity}


def _gather(
    rows: Sequence[tuple[int, str, str, int]],
    judges: Sequence[Judge],
    judge_keys: Sequence[str],
    compressors: Sequence[Compressor],
    keys: Sequence[str],
    records: Records,
    fidelity: bool,
    skipped: list[tuple[str, str]],
) -> Measurement:
    pictures = [records.pictures[row[1]] for row in rows]
    cells = [[picture["points"][key] for picture in pictures] for key in keys]
    named = [(judge.name, key) for judge, key in zip(judges, judge_keys, strict=True)]
    return Measurement(
        compressors,
        keys,
        judges,
        judge_keys,
        [row[0] for row in rows],
        [row[2] for row in rows],
        torch.tensor([picture["size"][0] * picture["size"][1] for picture in pictures]),
        torch.tensor([row[3] for row in rows]),
        torch.tensor([[cell["bytes"] for cell in line] for line in cells]),
        {name: torch.tensor([picture["clean"][key] for picture in pictures]) for name, key in named},
        {name: torch.tensor([[cell["judges"][key][0] for cell in line] for line in cells]) for name, key in named},
        {
            name: torch.tensor([[cell["judges"][key][1] for cell in line] for line in cells], dtype=torch.float64)
            for name, key in named
        },
        {k: [cell["chosen"] for cell in line] for k, line in enumerate(cells) if "chosen" in line[0]},
        {
            what: torch.tensor(
                [[float("nan") if cell[what] is None else cell[what] for cell in line] for line in cells],
                dtype=torch.float64,
            )
            for what in ("psnr", "ms_ssim")
            if fidelity
        },
        skipped,
    )


def encode_photo(photo: Sample, compressors: Sequence[Compressor]) -> tuple[Tensor | None, list[Encoded], list[Tensor]]:
    """Send one picture through compressors, as :func:`measure` does.

    Args:
        photo: the picture.
        compressors: the operating points, none of them a control with the map of another picture.

    Returns:
        Its map (1, h, w), that of the first compressor with one, or None; the bitstreams; and what each compressor
        stored, (3, H, W).
    """
    engine = _Engine([], [], [], [], False)
    maps = engine.maps({image_hash(photo.pixels): photo}, compressors)
    jobs = _filtered(photo, compressors, maps)
    encoded = parallel_map(_encode, jobs)
    first = next(iter(maps.values()), None)
    return None if first is None else first[0], encoded, [source[0] for _, source, _ in jobs]
