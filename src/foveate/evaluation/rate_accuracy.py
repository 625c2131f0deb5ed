"""The measurement: pictures through compressors, before several classifiers at once."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate._threads import spread
from foveate.compressor import Compressor, Encoded
from foveate.evaluation.photos import Photo
from foveate.models import Classifier
from foveate.prefilter import Prefilter


@dataclass(frozen=True)
class Judge:
    """A classifier that judges decoded pictures; ``known`` says that it also made the saliency maps."""

    classifier: Classifier
    known: bool

    @property
    def name(self) -> str:
        """The name that results give it."""
        return self.classifier.name


@dataclass(frozen=True)
class Exhibit:
    """One picture through every operating point, for a report to show.

    Attributes:
        photo: the picture itself.
        saliency: its map (1, h, w), or None where nothing asked for one.
        filtered: the pre-filtered picture, uint8 (3, H, W), a strength.
        encoded: the bitstream a point.
        clean: the class that each judge gives the untouched picture.
        answers: the class that each judge gives each point's picture.
    """

    photo: Photo
    saliency: Tensor | None
    filtered: dict[float, Tensor]
    encoded: list[Encoded]
    clean: dict[str, int]
    answers: dict[str, list[int]]


@dataclass(frozen=True)
class Measurement:
    """What was counted, per picture: bytes and answers at every operating point.

    Attributes:
        compressors: the operating points.
        judges: the classifiers.
        bytes: int64 (points, n), length of each bitstream.
        pixels: int64 (n,), of each source picture.
        labels: int64 (n,).
        clean: a judge's int64 (n,) answers on the untouched pictures, by its name.
        answers: a judge's int64 (points, n) answers on the decoded pictures, by its name.
        exhibits: the pictures kept to be shown.
    """

    compressors: Sequence[Compressor]
    judges: Sequence[Judge]
    bytes: Tensor
    pixels: Tensor
    labels: Tensor
    clean: dict[str, Tensor]
    answers: dict[str, Tensor]
    exhibits: Sequence[Exhibit]


def measure(
    photos: Iterable[Photo | None],
    judges: Sequence[Judge],
    compressors: Sequence[Compressor],
    exhibits: Sequence[int] = (),
    progress: Callable[[], object] = lambda: None,
) -> Measurement:
    """Send every picture through every compressor and ask every judge.

    The saliency map of a picture is computed once, each filtered picture once a strength, and each decoded picture is
    shown to all judges. Labels are only ever compared with answers.

    Args:
        photos: the pictures, whole, of any sizes; None is passed over.
        judges: with different names; each resizes and crops what was decoded as it wants it.
        compressors: the operating points. Those that use a saliency map are to share one saliency.
        exhibits: positions of the pictures to keep for a report.
        progress: called after each picture.

    Returns:
        The counts.

    Raises:
        ValueError: if there is nothing to measure, or two judges have one name.
    """
    names = [judge.name for judge in judges]
    if len(set(names)) < len(names) or not names or not compressors:
        raise ValueError(f"judges, compressors: expected at least one of each, judges of different names; got {names}")
    sizes: list[list[int]] = []
    pixels: list[int] = []
    labels: list[int] = []
    answers: dict[str, list[Tensor]] = {name: [] for name in names}
    kept: list[Exhibit] = []
    for position, photo in enumerate(photos):
        if photo is not None:
            saliency, filtered, encoded = _through(photo, compressors)
            shown = [photo.pixels, *compressors[0].decode(encoded)]
            sizes.append([len(one.data) for one in encoded])
            pixels.append(encoded[0].pixels)
            labels.append(photo.label)
            for judge in judges:
                answers[judge.name].append(judge.classifier.logits(shown).argmax(1).cpu())
            if position in exhibits:
                last = {name: answers[name][-1].tolist() for name in names}
                clean, after = {k: v[0] for k, v in last.items()}, {k: v[1:] for k, v in last.items()}
                kept.append(Exhibit(photo, saliency, filtered, encoded, clean, after))
        progress()
    if not sizes:
        raise ValueError("photos: not one picture could be read")
    table = {name: torch.stack(rows, dim=1) for name, rows in answers.items()}
    return Measurement(
        compressors,
        judges,
        torch.tensor(sizes).T,
        torch.tensor(pixels),
        torch.tensor(labels),
        {name: rows[0] for name, rows in table.items()},
        {name: rows[1:] for name, rows in table.items()},
        kept,
    )


def _through(
    photo: Photo, compressors: Sequence[Compressor]
) -> tuple[Tensor | None, dict[float, Tensor], list[Encoded]]:
    """The map, the filtered pictures and the bitstreams of one picture."""
    batch = photo.pixels[None]
    maps: Tensor | None = None
    filtered: dict[Prefilter, Tensor] = {}
    jobs: list[tuple[Compressor, Tensor]] = []
    for compressor in compressors:
        prefilter, source = compressor.prefilter, batch
        if maps is None:
            maps = compressor.maps(batch)
        if prefilter is not None and compressor.filters:
            if prefilter not in filtered:
                filtered[prefilter] = prefilter(batch, maps)
            source = filtered[prefilter]
        jobs.append((compressor, source))
    given = None if maps is None else list(maps)
    encoded = spread(lambda job: job[0].store(job[1], given)[0], jobs)
    return (
        None if maps is None else maps[0],
        {prefilter.strength: picture[0] for prefilter, picture in filtered.items()},
        encoded,
    )
