"""What a measurement holds: the judges and, image by image, the bytes and the answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from foveate.compressor import Compressor
from foveate.evaluation._vocabulary import Metric
from foveate.models import Classifier


@dataclass(frozen=True)
class Judge:
    """A classifier that judges decoded images.

    Attributes:
        classifier: the classifier; it resizes and crops what was decoded as it needs it.
        known: whether it made the saliency maps or was a witness of a rate control.
    """

    classifier: Classifier
    known: bool

    @property
    def name(self) -> str:
        """The name of the classifier, by which results refer to the judge."""
        return self.classifier.name


@dataclass(frozen=True)
class Measurement:
    """Bytes and answers of n images at every operating point.

    Attributes:
        compressors: the operating points.
        keys: the key of each operating point, see :mod:`foveate.evaluation.records`.
        judges: the classifiers.
        judge_keys: the key of each judge.
        positions: of the images in the source.
        names: of the images.
        pixels: int64 (n,), the number of pixels of each source image.
        labels: int64 (n,).
        bytes: int64 (points, n), the length of each bitstream.
        clean: by the judge's name, int64 (n, k): the best classes on the untouched images, best first; k is 5, or
            fewer for a judge of at most 5 classes.
        answers: by the judge's name, int64 (points, n, k): the same on the decoded images.
        kl: by the judge's name, float64 (points, n): Kullback–Leibler divergence from the clean output, in nats.
        chosen: by the number of an operating point with a rate control: what it chose for each image, see
            :mod:`foveate.evaluation.records`.
        fidelity: ``"psnr"`` (dB) and ``"ms_ssim"``, each float64 (points, n), if they were measured; NaN for an image
            that is too small for MS-SSIM.
        skipped: name and reason of each image that was left out.
        file_bytes: int64 (n,), the size of each source file; None if that is not known of every image.
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
    file_bytes: Tensor | None = None

    def right(self, judge: str, metric: Metric | str) -> Tensor:
        """Return bool (points, n): whether a judge answers right by ``"agreement"``, ``"top1"`` or ``"top5"``."""
        return right_answers(self.answers[judge], self.clean[judge], self.labels, metric)


def right_answers(answers: Tensor, clean: Tensor, labels: Tensor, metric: Metric | str) -> Tensor:
    """Return bool (..., n): whether answers are right.

    Args:
        answers: int64 (..., n, k), best classes, best first.
        clean: int64 (n, k), the same on the untouched images.
        labels: int64 (n,).
        metric: ``"agreement"``, ``"top1"`` or ``"top5"``.

    Raises:
        ValueError: if there is no such metric.
    """
    if metric == Metric.AGREEMENT:
        return answers[..., 0] == clean[..., 0]
    if metric == Metric.TOP1:
        return answers[..., 0] == labels
    if metric == Metric.TOP5:
        return (answers == labels[:, None]).any(-1)
    raise ValueError(f"metric: expected one of {', '.join(Metric)}, got {metric!r}")
