"""Images with labels for the commands that measure: those that can be read."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from foveate.cli._models import ASSUMED
from foveate.cli._output import complain

if TYPE_CHECKING:
    import torch

    from foveate.evaluation import Sample, SampleFolder
    from foveate.models import Classifier

_LOOKED_AT = 32
"""Images that classifiers are asked about before a run."""
_BATCH = 8
_SUSPECT = 0.2
"""By how much the share of right answers may be below that of answers that survive mild compression."""


def first_readable(samples: "SampleFolder") -> "Sample":
    """Return the first image that can be read."""
    from foveate.evaluation import UnreadableError

    unread: list[UnreadableError] = []
    for k in range(len(samples)):
        try:
            return samples[k]
        except UnreadableError as error:
            unread.append(error)
    raise ValueError(f"IMAGES: no file of {samples.root} is a readable image, such as {unread[0]}")


def readable(samples: "SampleFolder") -> "Iterator[torch.Tensor]":
    """Yield the images that can be read, and name the others."""
    from foveate.evaluation import UnreadableError

    for k in range(len(samples)):
        try:
            yield samples[k].image
        except UnreadableError as error:
            complain(f"skipped {error}")


def say_answers(classifiers: "Iterable[tuple[Classifier, str]]", samples: "SampleFolder") -> None:
    """Print how each classifier is fed and how often it is right; warn where what was assumed looks wrong.

    A classifier that is fed as it was trained is right nearly as often as it is sure of itself: as often as it gives
    the same answer after mild compression.

    Args:
        classifiers: each with whose preprocessing it has.
        samples: some of them, spread evenly, are looked at.
    """
    from foveate.compressor import Compressor
    from foveate.evaluation import UnreadableError

    seen, count = [], min(_LOOKED_AT, len(samples))
    for k in range(count):
        with suppress(UnreadableError):  # the run names it
            seen.append(samples[k * len(samples) // count])
    if not seen:
        return
    images, mild = [sample.image for sample in seen], Compressor("jpeg:75")
    decoded = mild.decode(mild.encode(images))
    for classifier, source in classifiers:
        batch = _BATCH if classifier.preprocess.fixes_size else 1  # else they may differ in size
        clean, coded = (
            [answer for k in range(0, len(part), batch) for answer in classifier.logits(part[k : k + batch]).argmax(1)]
            for part in (images, decoded)
        )
        right = sum(int(a) == sample.label for a, sample in zip(clean, seen, strict=True)) / len(seen)
        same = sum(int(a) == int(b) for a, b in zip(clean, coded, strict=True)) / len(seen)
        complain(f"{classifier.name}: {classifier.preprocess}, {source}; top-1 {right:.0%} of {len(seen)} images")
        if source == ASSUMED and right < same - _SUSPECT:
            complain(
                f"warning: {classifier.name}: the preprocessing was assumed, and only {right:.0%} are right though "
                f"{same:.0%} of the answers survive JPEG at quality 75; if it was trained otherwise, give --resize, "
                "--crop, --mean and --std, or let its function return (model, transforms)"
            )
