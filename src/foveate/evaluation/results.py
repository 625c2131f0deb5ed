"""The result of an evaluation: what ``results.json`` holds, with its schema, checked on reading.

The file is one JSON object: ``"schema": 2`` and the fields of :class:`Results`, made of the dataclasses here, as their
docstrings say. :func:`json_schema` gives the same as a JSON Schema. It carries no time, and no path but those in the
settings, so equal runs give equal text. ``records.jsonl`` beside it has the values picture by picture.
"""

import json
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from foveate._files import write_text
from foveate.evaluation.bootstrap import Interval
from foveate.evaluation.versions import versions

SCHEMA = 2


@dataclass(frozen=True)
class Judgment:
    """What one judge answers at one point: shares of the pictures, in [0, 1].

    Attributes:
        known: whether this classifier made the saliency maps, or was a witness of a rate control.
        top1: answers that equal the label.
        top5: labels among the five best answers; null for a judge of at most five classes.
        agreement: answers that equal the judge's own on the untouched picture.
        kl: mean Kullback–Leibler divergence from its output on the untouched picture, in nats.
        top1_interval: 95 %, by bootstrap over the pictures.
        agreement_interval: 95 %, by bootstrap over the pictures.
    """

    known: bool
    top1: float
    top5: float | None
    agreement: float
    kl: float
    top1_interval: Interval
    agreement_interval: Interval


@dataclass(frozen=True)
class Clean:
    """A judge on the untouched pictures.

    Attributes:
        known: as of :class:`Judgment`.
        key: what its values have in ``records.jsonl``.
        top1, top5: as of :class:`Judgment`.
    """

    known: bool
    key: str
    top1: float
    top5: float | None


@dataclass(frozen=True)
class Choices:
    """What a rate control chose at one of its points, and what choosing cost.

    Attributes:
        met: share of the pictures that met the criterion; the others are at the finest point.
        tried: candidates decoded, mean a picture.
        encodes: candidates encoded, mean a picture.
        forwards: pictures shown to the witnesses, the clean ones included, mean a picture.
        settings: strength, scale, quality, and the number of pictures at it.
    """

    met: float
    tried: float
    encodes: float
    forwards: float
    settings: list[tuple[float, float, float, int]]


@dataclass(frozen=True)
class PointResult:
    """One operating point over all pictures.

    Attributes:
        curve: the name of its rate–accuracy curve: codec and setting without the quality, as ``"jpeg, strength 0.5"``.
        key: what its values have in ``records.jsonl``.
        codec: its name with its knobs, without the quality.
        quality: on the codec's own scale; null where a rate control chooses it (and the next two).
        strength: of the pre-filter, in [0, 1].
        scale: stored side over source side.
        map: what steers the pre-filter: ``"saliency"``; the controls ``"even"`` (the same amount of smoothing spread
            evenly), ``"center"`` and ``"other picture"``; or null where there is none.
        keep: what a rate control keeps, such as ``"top1"`` or ``"kl0.2"``; null where there is none.
        n: number of pictures.
        bytes: mean a picture.
        bpp: bits a source pixel, pooled over the pictures.
        psnr: mean over the pictures, in dB, where it was asked for (100 for one that came back bit for bit).
        ms_ssim: mean over the pictures large enough for it, where it was asked for.
        choices: what a rate control chose.
        judges: by name.
    """

    curve: str
    key: str
    codec: str
    quality: float | None
    strength: float
    scale: float
    map: str | None
    keep: str | None
    n: int
    bytes: float
    bpp: float
    psnr: float | None
    ms_ssim: float | None
    choices: Choices | None
    judges: dict[str, Judgment]


@dataclass(frozen=True)
class Saving:
    """What a point saves against its codec alone at full size, where a judge answers as well.

    Attributes:
        judge: whose answers are held equal.
        metric: ``"agreement"`` or ``"top1"``.
        key, curve, quality, keep: the point's.
        reference: the curve it is compared with: the codec alone, without saliency inside; for a rate control also
            ``"jpeg, best scale"``, the best of all scales.
        saved: share of the bytes, negative where it costs more; null where the codec alone has no such accuracy within
            the qualities that were measured.
        interval: 95 %, by paired bootstrap; null for an end that is not within the qualities that were measured.
    """

    judge: str
    metric: str
    key: str
    curve: str
    quality: float | None
    keep: str | None
    reference: str
    saved: float | None
    interval: Interval


@dataclass(frozen=True)
class Comparison:
    """A whole curve against another, before one judge.

    Attributes:
        judge: whose answers are compared.
        known: as of :class:`Judgment`.
        metric: ``"agreement"`` or ``"top1"``.
        curve: what is judged.
        reference: what it is compared with: the name of a curve, or ``"jpeg, best scale"`` for the best of all scales.
        control: which question it answers: ``"codec alone"``, ``"even"``, ``"center"``, ``"other picture"``,
            ``"downscaling"``.
        bd_rate: Bjøntegaard delta rate, a share: -0.1 where the curve needs 10 % fewer bytes on average at equal
            accuracy; null where there is nothing to compare.
        bd_rate_interval: 95 %, by paired bootstrap; null for an end beyond what was measured.
        bd_accuracy: Bjøntegaard delta accuracy at equal rate, a share; null where the rates have nothing in common.
        bd_accuracy_interval: as that of the rate.
        overlap: the accuracies, from and to, over which the rate was averaged.
        reason: why there is no ``bd_rate``, or null.
        verdict: ``"saves"`` or ``"costs"`` where the whole interval of the rate is on one side of 0, else ``"open"``.
    """

    judge: str
    known: bool
    metric: str
    curve: str
    reference: str
    control: str
    bd_rate: float | None
    bd_rate_interval: Interval
    bd_accuracy: float | None
    bd_accuracy_interval: Interval
    overlap: tuple[float, float] | None
    reason: str | None
    verdict: str


@dataclass(frozen=True)
class Results:
    """An evaluation, ready for ``results.json`` and the report.

    Attributes:
        settings: what was asked for.
        clean: the judges on the untouched pictures, by name.
        points: in the order they were asked for.
        savings: for every filtered or scaled point.
        comparisons: for every filtered or scaled curve.
        skipped: files that were no readable pictures: path and reason.
        versions: of the packages that took part.
    """

    settings: dict[str, Any]
    clean: dict[str, Clean]
    points: list[PointResult]
    savings: list[Saving]
    comparisons: list[Comparison]
    skipped: list[tuple[str, str]]
    versions: dict[str, str] = field(default_factory=versions)

    def to_json(self) -> str:
        """Return the text of ``results.json``."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, allow_nan=False) + "\n"

    def write(self, path: Path) -> None:
        """Write ``results.json``, at once or not at all."""
        write_text(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Read ``results.json`` and check it against the schema.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is of another version of the schema, or a field is missing, unknown or of another kind.
        """
        from pydantic import ValidationError

        try:
            held = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"results: {path} is no JSON: {error}") from error
        version = held.pop("schema", None) if isinstance(held, dict) else None
        if version != SCHEMA:
            raise ValueError(
                f"results: {path} has schema {version!r}, and this Foveate reads {SCHEMA}; evaluate again with it"
            )
        try:
            return _adapter().validate_json(json.dumps(held), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(
                f"results: {path} does not follow the schema at {where}: {first['msg']} ({error.error_count()} in all)"
            ) from error


@cache
def _adapter() -> Any:
    """What checks the fields of :class:`Results` by their types."""
    from pydantic import TypeAdapter, with_config

    for part in (Judgment, Clean, Choices, PointResult, Saving, Comparison, Results):
        with_config({"extra": "forbid", "allow_inf_nan": False})(part)
    return TypeAdapter(Results)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``results.json``.

    Example:
        >>> sorted(json_schema()["properties"])[:3]
        ['clean', 'comparisons', 'points']
    """
    schema: dict[str, Any] = _adapter().json_schema()
    schema["properties"]["schema"] = {"const": SCHEMA}
    schema["required"] = ["schema", *schema["required"]]
    return schema
