"""The result of an evaluation: what ``results.json`` holds, with its schema, checked on loading.

The file is one JSON object: ``"schema": 4`` and the fields of :class:`Results`, described by the dataclasses here and,
as a JSON Schema, by :func:`json_schema`. It has no times, and no paths but those in the settings, so equal runs give
equal text. ``records.jsonl`` beside it has the values of every image.
"""

import csv
import html
import io
import json
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from foveate._checks import check_number
from foveate._files import write_text
from foveate.evaluation._bootstrap import Interval
from foveate.evaluation._versions import versions
from foveate.evaluation._vocabulary import STEERED, BaselineKind, Metric, Verdict

__all__ = [
    "SCHEMA",
    "Choices",
    "Clean",
    "Comparison",
    "Judgment",
    "PointResult",
    "Results",
    "Saving",
    "json_schema",
]

SCHEMA = 4
"""The version of the schema of ``results.json``."""


@dataclass(frozen=True)
class Judgment:
    """The answers of one judge at one point, as shares of the images, in [0, 1].

    Attributes:
        known: whether this classifier made the saliency maps, or was a witness of a rate control.
        top1: answers that equal the label.
        top5: labels among the five best answers; None for a judge of at most five classes.
        agreement: answers that equal the judge's own on the untouched image.
        kl: mean Kullback–Leibler divergence from its output on the untouched image, in nats.
        top1_interval: 95 %, by bootstrap over the images.
        agreement_interval: 95 %, by bootstrap over the images.
    """

    known: bool
    top1: float
    top5: float | None
    agreement: float
    kl: float
    top1_interval: Interval
    agreement_interval: Interval

    def share(self, metric: Metric) -> float:
        """Return the share of right answers by ``"agreement"`` or ``"top1"``."""
        return self.top1 if metric == Metric.TOP1 else self.agreement

    def interval(self, metric: Metric) -> Interval:
        """Return the interval of :meth:`share`."""
        return self.top1_interval if metric == Metric.TOP1 else self.agreement_interval


@dataclass(frozen=True)
class Clean:
    """The answers of one judge on the untouched images.

    Attributes:
        known: as of :class:`Judgment`.
        key: of its values in ``records.jsonl``.
        top1, top5: as of :class:`Judgment`.
    """

    known: bool
    key: str
    top1: float
    top5: float | None


@dataclass(frozen=True)
class Choices:
    """The choices of a rate control at one of its points, and their cost.

    Attributes:
        met: share of the images that met the criterion; the others are at the finest point.
        tried: candidates decoded, mean per image.
        encodes: candidates encoded, mean per image.
        forwards: images shown to the witnesses, the clean ones included, mean per image.
        settings: strength, scale, quality, and the number of images there.
        expected: for ``robust``, the share of answers that a classifier which is not a witness was expected to keep, by
            the images.
        promised: for ``robust``, the share that the calibration expected such a classifier to keep, and its 95 %
            interval over classifiers that were left out and images; None if there is only one witness to leave out.
    """

    met: float
    tried: float
    encodes: float
    forwards: float
    settings: list[tuple[float, float, float, int]]
    expected: float | None = None
    promised: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class PointResult:
    """One operating point over all images.

    Attributes:
        curve: the name of its rate–accuracy curve: codec and setting without the quality, as ``"jpeg, strength 0.5"``.
        key: of its values in ``records.jsonl``.
        codec: its name with its knobs, without the quality.
        quality: on the codec's own scale; None if a rate control chooses it (and the next two).
        strength: of the pre-filter, in [0, 1].
        scale: stored side over source side.
        map: what steers the pre-filter: ``"saliency"``; the baselines ``"even"`` (the same amount of smoothing spread
            evenly), ``"center"`` and ``"other image"``; ``"networks"`` for an edit; for a rate control ``robust``
            ``"witnesses"``, or what a control reads instead; None if nothing does.
        keep: what a rate control keeps, such as ``"top1"`` or ``"kl0.2"``; None if there is none.
        n: number of images.
        bytes: mean per image.
        bpp: bits per source pixel, pooled over the images.
        psnr: mean over the images, in dB, if it was measured (100 for an image that came back bit for bit).
        ms_ssim: mean over the images that are large enough, if it was measured.
        choices: of a rate control.
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

    @property
    def is_baseline(self) -> bool:
        """Whether it is only there to be compared with: what steers it is a control."""
        return self.map is not None and self.map not in STEERED

    @property
    def is_codec_alone(self) -> bool:
        """Whether nothing but the codec, at a fixed quality and full size, was at work."""
        return self.strength == 0 and self.scale == 1 and self.keep is None


@dataclass(frozen=True)
class Saving:
    """The bytes that a point saves against its codec alone at equal accuracy.

    Attributes:
        judge: whose answers are held equal.
        metric: ``"agreement"`` or ``"top1"``.
        key, curve, quality, keep: the point's.
        baseline: ``"codec alone"``, at full size and without saliency inside; for a rate control also
            ``"downscaling"``, the best of all scales.
        reference: the name of the baseline's curve, or ``"jpeg, best scale"``.
        saved: share of the bytes, negative if it costs more; None if the reference does not reach the accuracy within
            the qualities that were measured.
        interval: 95 %, by paired bootstrap; None for an end that is not within the qualities that were measured.
    """

    judge: str
    metric: Metric
    key: str
    curve: str
    quality: float | None
    keep: str | None
    baseline: BaselineKind
    reference: str
    saved: float | None
    interval: Interval


@dataclass(frozen=True)
class Comparison:
    """A whole curve against another, by one judge.

    Attributes:
        judge: whose answers are compared.
        known: as of :class:`Judgment`.
        metric: ``"agreement"`` or ``"top1"``.
        curve: what is judged.
        reference: what it is compared with: the name of a curve, or ``"jpeg, best scale"`` for the best of all scales.
        baseline: what kind of baseline that is: ``"codec alone"``, ``"even"``, ``"center"``, ``"other image"`` or
            ``"downscaling"``.
        bd_rate: Bjøntegaard delta rate, a share: -0.1 if the curve needs 10 % fewer bytes on average at equal accuracy;
            None if the accuracies have nothing in common.
        bd_rate_interval: 95 %, by paired bootstrap; None for an end outside what was measured.
        bd_accuracy: Bjøntegaard delta accuracy at equal rate, a share; None if the rates have nothing in common.
        bd_accuracy_interval: as that of the rate.
        overlap: the lowest and the highest accuracy over which the rate was averaged.
        reason: why there is no ``bd_rate``, or None.
        verdict: ``"saves"`` or ``"costs"`` if the whole interval of the rate is on one side of 0, else ``"open"``.
    """

    judge: str
    known: bool
    metric: Metric
    curve: str
    reference: str
    baseline: BaselineKind
    bd_rate: float | None
    bd_rate_interval: Interval
    bd_accuracy: float | None
    bd_accuracy_interval: Interval
    overlap: tuple[float, float] | None
    reason: str | None
    verdict: Verdict


@dataclass(frozen=True)
class Results:
    """An evaluation, ready for ``results.json`` and the report.

    Attributes:
        settings: of the evaluation, as its caller describes them.
        clean: the judges on the untouched images, by name.
        points: in the order of the compressors.
        savings: for every filtered or scaled point.
        comparisons: for every filtered or scaled curve.
        skipped: name and reason of each image that was left out.
        file_bytes: of the sources, mean per image, as they are on disk; None if they are not files.
        versions: of the packages that the results depend on.
    """

    settings: dict[str, Any]
    clean: dict[str, Clean]
    points: list[PointResult]
    savings: list[Saving]
    comparisons: list[Comparison]
    skipped: list[tuple[str, str]]
    file_bytes: float | None = None
    versions: dict[str, str] = field(default_factory=versions)

    def __repr__(self) -> str:
        curves, n = dict.fromkeys(point.curve for point in self.points), self.points[0].n if self.points else 0
        return f"Results({n} images before {', '.join(self.clean)}: {len(self.points)} points, {'; '.join(curves)})"

    def _repr_html_(self) -> str:
        """The answer, the curves and the table, for a notebook."""
        from foveate.evaluation.plots import rate_accuracy_of_all, to_svg
        from foveate.evaluation.report import table, text_answer

        heads, rows = table(self)
        head, *body = (
            "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
            for tag, row in [("th", heads), *(("td", row) for row in rows)]
        )
        lines = "".join(f"<tr>{row}</tr>" for row in body)
        svg = to_svg(rate_accuracy_of_all(self))
        return (
            f"<pre>{html.escape(text_answer(self))}</pre><div style='max-width: 36rem'>{svg}</div>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
        )

    def cheapest(self, keeping: float = 0.99) -> PointResult | None:
        """Return the point with the fewest bytes that keeps answers.

        Args:
            keeping: the least agreement, in [0, 1], of every judge that is known, or of all if none is.

        Returns:
            The point, which is not a baseline; None if no point keeps so many.

        Raises:
            ValueError: if ``keeping`` is outside [0, 1].
        """
        check_number("keeping", keeping, 0, 1)
        able = [point for point in self._offered() if self.kept(point) >= keeping]
        return min(able, key=lambda point: point.bytes, default=None)

    def safest(self) -> PointResult:
        """Return the point that keeps most answers, of several the one with the fewest bytes."""
        return min(self._offered() or self.points, key=lambda point: (-self.kept(point), point.bytes))

    def kept(self, point: PointResult) -> float:
        """Return the least agreement at a point of every judge that is known, or of all if none is."""
        known = [judgment.agreement for judgment in point.judges.values() if judgment.known]
        return min(known or [judgment.agreement for judgment in point.judges.values()])

    def _offered(self) -> list[PointResult]:
        """The points that are not baselines."""
        return [point for point in self.points if not point.is_baseline]

    def to_json(self) -> str:
        """Return the text of ``results.json``."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """Return the points as CSV with a head: a line for each point and judge.

        Shares are in [0, 1]; what was not measured or chosen is empty.

        Example:
            >>> Results({}, {}, [], [], [], []).to_csv().split(",")[:3]
            ['curve', 'codec', 'quality']
        """
        of_point = [name.name for name in fields(PointResult) if name.name not in ("key", "choices", "judges")]
        of_judge = ["known", "top1", "top5", "agreement", "kl"]
        ends = [f"{metric}_{end}" for metric in ("top1", "agreement") for end in ("low", "high")]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*of_point, "judge", *of_judge, *ends])
        for point in self.points:
            for name, judgment in point.judges.items():
                intervals = [*judgment.top1_interval, *judgment.agreement_interval]
                judged = [getattr(judgment, attribute) for attribute in of_judge]
                writer.writerow([*(getattr(point, attribute) for attribute in of_point), name, *judged, *intervals])
        return text.getvalue()

    def save(self, path: str | Path) -> None:
        """Write ``results.json``, whole or not at all."""
        write_text(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "Results":
        """Load ``results.json`` and check it against the schema.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it has another version of the schema, or a field is missing, unknown or of another type.
        """
        from pydantic import ValidationError

        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"results: {path} is not JSON: {error}") from error
        version = content.pop("schema", None) if isinstance(content, dict) else None
        if version != SCHEMA:
            raise ValueError(
                f"results: {path} has schema {version!r}, and this Foveate reads {SCHEMA}; evaluate again with it"
            )
        try:
            return _adapter().validate_json(json.dumps(content), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(
                f"results: {path} does not follow the schema at {where}: {first['msg']} ({error.error_count()} in all)"
            ) from error


@cache
def _adapter() -> Any:
    """The check of the fields of :class:`Results` by their types."""
    from pydantic import TypeAdapter, with_config

    for kind in (Judgment, Clean, Choices, PointResult, Saving, Comparison, Results):
        with_config({"extra": "forbid", "allow_inf_nan": False})(kind)
    return TypeAdapter(Results)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``results.json``.

    Example:
        >>> sorted(json_schema()["properties"])[:3]
        ['clean', 'comparisons', 'file_bytes']
    """
    schema: dict[str, Any] = _adapter().json_schema()
    schema["properties"]["schema"] = {"const": SCHEMA}
    schema["required"] = ["schema", *schema["required"]]
    return schema
