"""The measurement: images through compressors, shown to several classifiers at once."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foveate._progress import Listener, Progress
from foveate.codecs import TooLargeError
from foveate.compressor import Compressor
from foveate.evaluation._engine import Engine
from foveate.evaluation._measurement import Judge, Measurement
from foveate.evaluation._samples import Sample, Samples, SampleSource, UnreadableError, as_samples
from foveate.evaluation._versions import versions
from foveate.evaluation._vocabulary import Fidelity
from foveate.evaluation.records import Records
from foveate.identity import identity, identity_in_memory
from foveate.images import image_hash
from foveate.saliency import Saliency


def measure(
    source: SampleSource,
    judges: Sequence[Judge],
    compressors: Sequence[Compressor],
    *,
    records: Records | None = None,
    fidelity: bool = False,
    as_stored: bool = False,
    seed: int = 0,
    progress: Listener | None = None,
) -> Measurement:
    """Send every image through every compressor and show what comes back to every judge.

    The saliency map of an image is computed once, each filtered image once per strength, and each image is decoded once
    for all judges. Labels are only ever compared with answers. An image that cannot be read, or is too large for a
    codec, is left out.

    Args:
        source: whole images of any sizes: see :func:`foveate.evaluation.as_samples`. Those that have numbers are taken
            in a random order, so that what an interrupted run has is a fair sample.
        judges: with different names.
        compressors: the operating points.
        records: values found in it are not computed again, and what is computed is added to it; None starts empty.
        fidelity: measure PSNR and MS-SSIM too, at source size.
        as_stored: show the judges each image at its stored size, as a reader of the file gets it, instead of resized to
            source size as by :meth:`foveate.Compressor.decode`.
        seed: of the order.
        progress: called after each image, with the stage ``"measure"``.

    Returns:
        The counts, in the order of the source.

    Raises:
        ValueError: if there is nothing to measure, two judges have one name, a map uses labels, or a judge's output is
            not finite.
        IdentityError: if records are written to a file and a compressor or a judge has no identity.
    """
    _check(judges, compressors)
    records = Records() if records is None else records
    keys, judge_keys = _named_keys(records, judges, compressors, as_stored)
    engine = Engine(judges, judge_keys, compressors, keys, fidelity, as_stored)
    samples = as_samples(source)
    total = len(samples) if isinstance(samples, Samples) else None
    rows: dict[int, _Row] = {}
    skipped: dict[int, tuple[str, str]] = {}
    for position, sample, donor in _with_donors(_in_order(samples, seed, skipped), engine.needs_donor):
        try:
            rows[position] = _measure_image(engine, records, sample, donor)
        except TooLargeError as error:
            skipped[position] = sample.name, str(error)
        if progress is not None:
            progress(Progress("measure", len(rows) + len(skipped), total))
    if not rows:
        raise ValueError("source: not one image could be read and compressed")
    return Measurement(
        compressors,
        keys,
        judges,
        judge_keys,
        positions=sorted(rows),
        skipped=[skipped[position] for position in sorted(skipped)],
        **_gathered([rows[position] for position in sorted(rows)], records, keys, judges, judge_keys, fidelity),
    )


class _Row(NamedTuple):
    """An image that was measured: its hash, under which the records have its values."""

    digest: str
    name: str
    label: int
    file_bytes: int | None


def _check(judges: Sequence[Judge], compressors: Sequence[Compressor]) -> None:
    names = [judge.name for judge in judges]
    if len(set(names)) < len(names) or not names or not compressors:
        raise ValueError(f"judges, compressors: expected at least one of each, judges of different names; got {names}")
    for compressor in compressors:
        _refuse_labels(compressor.used_saliency)


def _refuse_labels(saliency: Saliency | None) -> None:
    if saliency is not None and saliency.uses_labels:
        raise ValueError(
            f"compressors: the maps of {saliency!r} make use of a label or of a class given from outside, so the gain "
            "would be a leak; use target=None, the classifier's own answer"
        )


def _named_keys(
    records: Records, judges: Sequence[Judge], compressors: Sequence[Compressor], as_stored: bool
) -> tuple[list[str], list[str]]:
    """The keys of the operating points and of the judges, written to the records."""
    libraries = " ".join(f"{name} {number}" for name, number in versions().items())
    text_of = identity if records.lasting else identity_in_memory
    shown = " as stored" if as_stored else ""
    texts = [text_of(compressor, "compressor") + shown for compressor in compressors]
    judge_texts = [text_of(judge.classifier, "judge") for judge in judges]
    if len(set(judge_texts)) < len(judges):
        names = ", ".join(judge.name for judge in judges)
        raise ValueError(f"judges: two of {names} are one classifier with two names")
    keys, judge_keys = ([_hash_of(f"{text} {libraries}") for text in group] for group in (texts, judge_texts))
    records.name_keys(dict(zip([*keys, *judge_keys], [*texts, *judge_texts], strict=True)))
    return keys, judge_keys


def _hash_of(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _in_order(
    samples: Samples | Iterable[Sample], seed: int, skipped: dict[int, tuple[str, str]]
) -> Iterator[tuple[int, Sample]]:
    """Position and sample, in random order if they have numbers; unreadable ones go to ``skipped``."""
    if not isinstance(samples, Samples):
        yield from enumerate(samples)
        return
    for position in torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed)).tolist():
        try:
            yield position, samples[position]
        except UnreadableError as error:
            skipped[position] = error.name, error.reason


def _with_donors(stream: Iterator[tuple[int, Sample]], needed: bool) -> Iterator[tuple[int, Sample, Sample | None]]:
    """Each sample with the one before it, whose map it takes as a baseline, and the first with the second."""
    if not needed:
        yield from ((position, sample, None) for position, sample in stream)
        return
    first = next(stream, None)
    previous: Sample | None = None
    for position, sample in stream:
        if first is not None and previous is None:
            yield *first, sample
            previous = first[1]
        yield position, sample, previous
        previous = sample
    if first is not None and previous is None:
        raise ValueError("source: a map from another image takes at least two images")


def _measure_image(engine: Engine, records: Records, sample: Sample, donor: Sample | None) -> _Row:
    """Add to the records what they lack of an image."""
    digest = image_hash(sample.image)
    values = engine.missing(sample, digest, donor, records.images.get(digest))
    if values or records.images[digest]["label"] != sample.label:
        about = {"name": sample.name, "label": sample.label, "size": list(sample.image.shape[-2:])}
        records.add(digest, {**about, **values})
    return _Row(digest, sample.name, sample.label, sample.file_bytes)


def _gathered(
    rows: Sequence[_Row],
    records: Records,
    keys: Sequence[str],
    judges: Sequence[Judge],
    judge_keys: Sequence[str],
    fidelity: bool,
) -> dict[str, Any]:
    """The fields of a :class:`Measurement` that are read off the records."""
    images = [records.images[row.digest] for row in rows]
    cells = [[image["points"][key] for image in images] for key in keys]
    named_keys = [(judge.name, key) for judge, key in zip(judges, judge_keys, strict=True)]
    sizes = [row.file_bytes for row in rows]

    def answers(key: str, part: int, dtype: torch.dtype) -> Tensor:
        return torch.tensor([[cell["judges"][key][part] for cell in line] for line in cells], dtype=dtype)

    def fidelities(kind: Fidelity) -> Tensor:
        values = [[float("nan") if cell[kind] is None else cell[kind] for cell in line] for line in cells]
        return torch.tensor(values, dtype=torch.float64)

    return {
        "names": [row.name for row in rows],
        "pixels": torch.tensor([image["size"][0] * image["size"][1] for image in images]),
        "labels": torch.tensor([row.label for row in rows]),
        "bytes": torch.tensor([[cell["bytes"] for cell in line] for line in cells]),
        "clean": {name: torch.tensor([image["clean"][key] for image in images]) for name, key in named_keys},
        "answers": {name: answers(key, 0, torch.int64) for name, key in named_keys},
        "kl": {name: answers(key, 1, torch.float64) for name, key in named_keys},
        "chosen": {k: [cell["chosen"] for cell in line] for k, line in enumerate(cells) if "chosen" in line[0]},
        "fidelity": {kind: fidelities(kind) for kind in Fidelity if fidelity},
        "file_bytes": None if None in sizes else torch.tensor(sizes),
    }
