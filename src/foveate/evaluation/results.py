"""The result of an evaluation: what ``results.json`` holds."""

import json
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from foveate.evaluation.rate_accuracy import Measurement
from foveate.evaluation.savings import saved_at_equal

SCHEMA = 1


@dataclass(frozen=True)
class Judgement:
    """What one judge answers at one point: shares of the pictures, in [0, 1].

    Attributes:
        known: whether this classifier made the saliency maps.
        top1: answers that equal the label.
        agreement: answers that equal the judge's own on the untouched picture.
    """

    known: bool
    top1: float
    agreement: float


@dataclass(frozen=True)
class Point:
    """One operating point over all pictures.

    Attributes:
        codec: its name with its knobs, without the quality.
        quality: on the codec's own scale.
        strength: of the pre-filter, in [0, 1].
        scale: stored side over source side.
        n: number of pictures.
        bytes: mean a picture.
        bpp: bits a source pixel, pooled over the pictures.
        judges: by name.
    """

    codec: str
    quality: float
    strength: float
    scale: float
    n: int
    bytes: float
    bpp: float
    judges: dict[str, Judgement]


@dataclass(frozen=True)
class Saving:
    """What a point saves against its codec alone at full size, where a judge answers as well.

    The points are those with a filter, a smaller scale, or saliency inside the codec.

    Attributes:
        judge: whose answers are held equal.
        metric: ``"agreement"`` or ``"top1"``.
        codec, quality, strength, scale: the point.
        reference: the codec it is compared with, at strength 0 and scale 1: its own, without saliency inside.
        saved: share of the bytes, negative where it costs more; None where the codec alone has no such accuracy within
            the qualities that were measured.
    """

    judge: str
    metric: str
    codec: str
    quality: float
    strength: float
    scale: float
    reference: str
    saved: float | None


@dataclass(frozen=True)
class Results:
    """An evaluation, ready for ``results.json`` and the report.

    Attributes:
        settings: what was asked for.
        versions: of the packages that took part.
        points: in the order they were asked for.
        clean: a judge's top-1 on the untouched pictures, by its name.
        savings: for every filtered or scaled point.
        skipped: files that were no readable pictures: path and reason.
    """

    settings: dict[str, Any]
    points: list[Point]
    clean: dict[str, float]
    savings: list[Saving]
    skipped: list[tuple[str, str]]
    versions: dict[str, str] = field(default_factory=lambda: versions())

    def to_json(self) -> str:
        """Return the text of ``results.json``: the fields of this class, with ``"schema": 1`` before them.

        It carries no time and no path but those in the settings, so equal runs give equal text.
        """
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n"

    def write(self, path: Path) -> None:
        """Write ``results.json``, at once or not at all."""
        partial = path.with_name(path.name + ".partial")
        partial.write_text(self.to_json())
        partial.replace(path)


def summarise(measured: Measurement, settings: dict[str, Any], skipped: list[tuple[str, str]] | None = None) -> Results:
    """Average a measurement over its pictures and compare every point with its codec alone.

    Args:
        measured: the counts.
        settings: what to record as asked for; JSON-able.
        skipped: what to record as left out.

    Returns:
        The results.
    """
    n = len(measured.labels)
    points = []
    for k, compressor in enumerate(measured.compressors):
        prefilter = compressor.prefilter
        points.append(
            Point(
                compressor.codec.family,
                compressor.codec.quality,
                0.0 if prefilter is None else prefilter.strength,
                compressor.scale,
                n,
                measured.bytes[k].double().mean().item(),
                8 * measured.bytes[k].sum().item() / measured.pixels.sum().item(),
                {
                    judge.name: Judgement(
                        judge.known,
                        _share(measured.answers[judge.name][k] == measured.labels),
                        _share(measured.answers[judge.name][k] == measured.clean[judge.name]),
                    )
                    for judge in measured.judges
                },
            )
        )
    clean = {judge.name: _share(measured.clean[judge.name] == measured.labels) for judge in measured.judges}
    return Results(
        settings, points, clean, _savings(points, [c.codec.plain.family for c in measured.compressors]), skipped or []
    )


def _share(right: Any) -> float:
    return float(right.double().mean())


def _savings(points: list[Point], plain: list[str]) -> list[Saving]:
    """What each point saves against its plain codec: the one with neither filter, scale nor saliency inside."""
    savings = []
    for judge in points[0].judges:
        for metric in ("agreement", "top1"):
            for point, reference in zip(points, plain, strict=True):
                if point.strength == 0 and point.scale == 1 and point.codec == reference:
                    continue
                alone = [p for p in points if p.codec == reference and p.strength == 0 and p.scale == 1]
                saved = None
                if len(alone) >= 2:
                    saved = saved_at_equal(
                        [p.bytes for p in alone],
                        [getattr(p.judges[judge], metric) for p in alone],
                        point.bytes,
                        getattr(point.judges[judge], metric),
                    )
                savings.append(
                    Saving(judge, metric, point.codec, point.quality, point.strength, point.scale, reference, saved)
                )
    return savings


def versions() -> dict[str, str]:
    """Versions of Python, Foveate and the libraries a result can depend on; those not installed are left out."""
    found = {"python": platform.python_version()}
    for name in (
        "foveate",
        "torch",
        "torchvision",
        "kornia",
        "captum",
        "pillow",
        "numpy",
        "imagecodecs",
        "av",
        "pillow-heif",
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
