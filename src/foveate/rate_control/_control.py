"""The search for the cheapest operating point of each image."""

import math
from collections.abc import Iterable, Sequence, Sized
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from foveate._checks import check_count, check_number
from foveate._progress import Listener, Progress
from foveate.codecs import Codec
from foveate.compressor import Compressor, Control, Encoded
from foveate.identity import identity, refuse_subclass
from foveate.images import ImageLike, as_tensor
from foveate.models import Classifier
from foveate.rate_control._bench import Bench, Controlled
from foveate.rate_control._calibration import Calibration, OperatingPoint
from foveate.rate_control._criteria import MEASURES, Keep, KeepSpec, Measure, as_criteria
from foveate.rate_control._evidence import Evidence
from foveate.rate_control._expectation import Expectation
from foveate.rate_control._fidelity import Fidelity
from foveate.rate_control._keep_model import OF_ONE, Answers, KeepModel
from foveate.rate_control._robust import Robust, RobustGrid
from foveate.rate_control._search import Belief, Exhaustive, Expected, Search, Seen, search
from foveate.rate_control._witness import Witness, WitnessSpec, as_witness
from foveate.saliency import check_maps


@dataclass(frozen=True)
class RateControl(Control):
    """Choose for each image the cheapest point that keeps the witnesses' answers, verified on the decoded image.

    Give it to a :class:`foveate.Compressor` or a :class:`foveate.transforms.Compress` as ``control``.

    **The search.** Answers are not monotone in quality, and scales and strengths have no common order, so bisection
    does not work. Instead, a joint Gaussian of each point's slack (how far it is inside the criteria) and bytes is
    learned from a calibration and conditioned on the candidates decoded so far. The next candidate is the one with the
    greatest expected improvement (Jones, Schonlau and Welch 1998): the probability that it meets the criteria times the
    bytes it saves. The search ends when no candidate is expected to save ``worth`` of the bytes. All unfinished images
    take their next step in one batch. A candidate is returned only after its decoded image met the criteria. Without a
    calibration, every candidate is encoded, which costs time but no forward passes, and the Gaussian simply assumes
    that slack rises with the bytes. ``exhaustive`` tries the candidates in order of increasing bytes until one meets
    the criteria, which is the optimum on the grid.

    **Classifiers that nobody asks.** At the cheapest point where a witness keeps its answer, another classifier often
    does not. ``keep="robust0.2"`` therefore sets no limit but a price: it maximizes the probability that a classifier
    that is not a witness keeps its answer, minus 0.2 times the bits, relative to those usual at the finest point. The
    probability is a :class:`foveate.rate_control.KeepModel` that :meth:`calibrate` learns: what each witness does,
    given the others' answers, the distances of fidelity witnesses such as ``"lpips"``, and what is usual at the point.
    For a single witness it is one that four ImageNet classifiers taught. A higher price gives fewer bytes and fewer
    kept answers. ``keep="robust95"`` takes the price at which the calibration expects 95 % of the answers to be kept by
    a classifier left out, see :meth:`expectation`. It decodes at most 8 candidates an image, and ``expected`` is the
    probability for each. ``met`` then says whether the witnesses kept their answers. What is covered are classifiers of
    the witnesses' kind: the more and the less alike these are, the better it holds. Another task is not.

    Args:
        witnesses: the classifiers, all of which must keep their answers: recipes (``"resnet18"``), :class:`Witness` for
            one that needs its own preprocessing, or :class:`foveate.models.Classifier`; for ``robust`` also
            :class:`foveate.rate_control.Fidelity`, such as ``"lpips"``. In a DataLoader worker, use recipes on the CPU.
        keep: the criteria to meet, see :func:`as_criteria`.
        qualities: the qualities to choose from; None takes nine around the codec's ladder (:func:`default_qualities`).
        scales: the scales to choose from, in (0, 1].
        strengths: the pre-filter strengths to choose from, in [0, 1]; None takes 0, 0.5 and 0.8 if the compressor has a
            pre-filter, else 0.
        floor: the coarsest quality allowed, on the codec's own scale; None sets no limit.
        calibration: the result of :meth:`calibrate`, or the path where it was saved.
        worth: the share of the image's bytes that another candidate must be expected to save to be tried.
        tries: the maximum number of candidates decoded per image, plus the finest point if none met the criteria.
        exhaustive: search the whole grid.
        batch: the maximum number of images searched at once and held in memory.
        as_stored: show the witnesses each image at its stored size, as a reader of the file gets it, instead of resized
            to source size as by :meth:`foveate.Compressor.decode`. Only matters for scales below 1.
        evidence: for ``robust``, what the probability is read from: an :class:`foveate.rate_control.Evidence` or its
            value; all but ``"witnesses"`` are controls of a comparison, see
            :func:`foveate.evaluation.baselines_for`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of range, there is no classifier among the witnesses, or the calibration does
            not fit.

    Example:
        >>> from foveate import Compressor
        >>> from foveate.demo import PREPROCESS, Scenes
        >>> control = RateControl(Witness("foveate.demo:scene_net", PREPROCESS), keep="top1")
        >>> chosen = Compressor("jpeg", control=control).encode([Scenes(1)[0][0]])[0]
        >>> chosen.met, chosen.tried <= 16, chosen.codec.name
        (True, True, 'jpeg')
    """

    witnesses: tuple[Witness | Fidelity, ...]
    keep: tuple[Keep, ...] = "top1"  # type: ignore[assignment]  # converted by as_criteria
    _: KW_ONLY
    qualities: Sequence[float] | None = None
    scales: Sequence[float] = (1.0, 0.7, 0.5)
    strengths: Sequence[float] | None = None
    floor: float | None = None
    calibration: Calibration | str | Path | None = field(default=None, repr=False)
    worth: float = 0.05
    tries: int = 16
    exhaustive: bool = False
    batch: int = 64
    as_stored: bool = False
    evidence: Evidence = Evidence.WITNESSES

    if TYPE_CHECKING:  # the constructor accepts more types than the fields hold

        def __init__(
            self,
            witnesses: WitnessSpec | Sequence[WitnessSpec],
            keep: KeepSpec | Sequence[KeepSpec] = "top1",
            *,
            qualities: float | Sequence[float] | None = None,
            scales: float | Sequence[float] = (1.0, 0.7, 0.5),
            strengths: float | Sequence[float] | None = None,
            floor: float | None = None,
            calibration: Calibration | str | Path | None = None,
            worth: float = 0.05,
            tries: int = 16,
            exhaustive: bool = False,
            batch: int = 64,
            as_stored: bool = False,
            evidence: Evidence | str = Evidence.WITNESSES,
        ) -> None: ...

    def __post_init__(self) -> None:
        specs: Any = self.witnesses
        specs = (specs,) if isinstance(specs, str | Witness | Classifier | Fidelity) else tuple(specs)
        self._set("witnesses", tuple(as_witness(spec) for spec in specs))
        if not self.classifiers:
            raise ValueError("witnesses: expected at least one classifier, such as 'resnet18'")
        self._set("keep", as_criteria(self.keep))
        if self.fidelities and not self.robust:
            raise ValueError(
                f"witnesses: {self.fidelities[0].name!r} has no classes, which {self.keeps!r} asks for; leave it out, "
                "or give keep='robust0.2'"
            )
        if self.fidelities and len(self.classifiers) == 1:
            raise ValueError(
                f"witnesses: what {self.fidelities[0].name!r} says is learned with two classifiers or more; give "
                "another, or leave it out"
            )
        names = [witness.name for witness in self.witnesses]
        if self.robust and len(set(names)) < len(names):
            raise ValueError(
                f"witnesses: {self.keeps!r} tells them apart by name, and two of {', '.join(names)} have the same; "
                "rename the function in one's recipe"
            )
        if len(self.keep) > 1 and self.robust:
            raise ValueError(
                f"keep: {self.keeps!r}: 'robust' weighs bytes against answers and goes with no other criterion"
            )
        self._set_evidence()
        for name in ("scales", "strengths", "qualities"):
            values = getattr(self, name)
            if values is not None:
                values = tuple(values) if isinstance(values, Iterable) else (values,)
                if not values:
                    raise ValueError(f"{name}: expected at least one")
                self._set(name, values)
        for scale in self.scales:
            check_number("scales", scale, 0, 1, above=True)
        for strength in self.strengths or ():
            check_number("strengths", strength, 0, 1)
        check_number("worth", self.worth, 0)
        for name in ("tries", "batch"):
            self._set(name, check_count(name, getattr(self, name)))
        if isinstance(self.calibration, str | Path):
            self._set("calibration", Calibration.load(self.calibration))
        if self.calibration is not None:
            if not isinstance(self.calibration, Calibration):
                raise TypeError(f"calibration: expected one or a path, got {type(self.calibration).__name__}")
            self.calibration.slack(self.keep)  # raises if it does not cover a criterion
            if self.robust:
                self._check_model(self.calibration)

    def _set_evidence(self) -> None:
        """Convert the evidence, and raise a ValueError if these witnesses or criteria do not go with it."""
        if self.evidence not in [*Evidence]:
            values = ", ".join(repr(evidence.value) for evidence in Evidence)
            raise ValueError(f"evidence: expected one of {values}, got {self.evidence!r}")
        self._set("evidence", Evidence(self.evidence))
        if self.evidence != Evidence.WITNESSES and not self.robust:
            raise ValueError(f"evidence: {self.evidence.value!r} is for keep='robust', not for {self.keeps!r}")
        if self.evidence == Evidence.OTHER_DISTANCES and not self.fidelities:
            raise ValueError(
                f"evidence: {self.evidence.value!r} takes a fidelity witness, such as 'lpips', and there is none"
            )

    def _check_model(self, calibration: Calibration) -> None:
        """Raise a ValueError if a calibration's model is not for these witnesses."""
        missing = [w.name for w in self.classifiers if w.name not in calibration.witnesses]
        names = tuple(witness.name for witness in self.fidelities)
        if missing or names != calibration.fidelities:
            raise ValueError(
                f"calibration: its witnesses are {', '.join(calibration.witnesses + calibration.fidelities)}, not "
                f"{', '.join(witness.name for witness in self.witnesses)}, whose answers {self.keeps!r} has to know; "
                "calibrate again with these"
            )

    @property
    def classifiers(self) -> tuple[Witness, ...]:
        """The witnesses that have classes."""
        return tuple(witness for witness in self.witnesses if isinstance(witness, Witness))

    @property
    def fidelities(self) -> tuple[Fidelity, ...]:
        """The witnesses that have none."""
        return tuple(witness for witness in self.witnesses if isinstance(witness, Fidelity))

    @property
    def robust(self) -> bool:
        """Whether the criteria set no limit, but a price or a share of answers."""
        return any(criterion.price is not None or criterion.agreement is not None for criterion in self.keep)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def to(self, device: str | torch.device) -> Self:
        """Move the witnesses to a device and return this control; recipes are built now."""
        for witness in self.classifiers:
            witness.classifier.model.to(device)
        for fidelity in self.fidelities:
            fidelity.to(device)
        return self

    @property
    def keeps(self) -> str:
        """The criteria as a short string, for results; :func:`as_criteria` parses it if all are built in."""
        return "+".join(map(str, self.keep))

    @property
    def family(self) -> str:
        """A name shared by controls that differ only in their bounds: ``"kl for mobilenet_v2"``."""
        kinds = "+".join(criterion.family for criterion in self.keep)
        return f"{kinds} for {' and '.join(witness.name for witness in self.witnesses)}"

    @property
    def identity(self) -> str:
        """Everything the choices depend on, as one line of text that is the same in every process."""
        refuse_subclass(self, RateControl)
        calibration = self.calibration.digest if isinstance(self.calibration, Calibration) else None
        keep = ", ".join(identity(criterion, "keep") for criterion in self.keep)
        witnesses = ", ".join(witness.identity for witness in self.witnesses)
        grid = f"qualities={self.qualities} scales={self.scales} strengths={self.strengths} floor={self.floor}"
        search = f"worth={self.worth:g} tries={self.tries} exhaustive={self.exhaustive} calibration={calibration}"
        search += " as_stored=True" if self.as_stored else ""
        search += "" if self.evidence == Evidence.WITNESSES else f" evidence={self.evidence.value!r}"
        return f"keep=({keep}) {grid} {search} witnesses=({witnesses})"

    def __hash__(self) -> int:
        # Criteria and calibration may not be hashable.
        return hash((self.keeps, self.witnesses, self.qualities, self.scales, self.strengths, self.floor))

    def points(self, compressor: Compressor) -> tuple[OperatingPoint, ...]:
        """Return the grid for a compressor, finest point last: lowest strength, then highest scale and quality.

        Raises:
            ValueError: if the codec does not have a quality, or a strength above 0 is given without a pre-filter.
        """
        codec = compressor.codec
        sign = 1 if codec.scale[0] < codec.scale[-1] else -1
        chosen = default_qualities(codec) if self.qualities is None else self.qualities
        chosen = sorted({codec.with_quality(q).quality for q in chosen}, key=lambda q: sign * q)
        if self.floor is not None:
            floor = sign * codec.with_quality(self.floor).quality
            chosen = [q for q in chosen if sign * q >= floor]
            if not chosen:
                raise ValueError(f"floor: no quality is as fine as {self.floor:g}; give finer qualities")
        strengths = self.strengths
        if strengths is None:
            strengths = (0.0,) if compressor.prefilter is None else (0.0, 0.5, 0.8)
        elif max(strengths) > 0 and compressor.prefilter is None:
            raise ValueError(f"strengths: {strengths} need a prefilter; give the Compressor one")
        by_fineness = product(sorted({*strengths}, reverse=True), sorted({*self.scales}), chosen)
        return tuple(OperatingPoint(float(t), float(s), q) for t, s, q in by_fineness)

    def check(self, compressor: Compressor) -> None:
        """Raise a ValueError if the grid, the floor or the calibration does not fit this compressor."""
        points = self.points(compressor)
        if self.robust and (self.calibration is None or self.exhaustive):
            raise ValueError(f"calibration: {self.keeps!r} needs one, to know what is usual; make it by calibrate()")
        if isinstance(self.calibration, Calibration):
            if self.calibration.codec != compressor.codec.family:
                raise ValueError(
                    f"calibration: it is of {self.calibration.codec!r}, not of {compressor.codec.family!r}; calibrate "
                    "again"
                )
            missing = [tuple(point) for point in points if point not in self.calibration.points]
            if missing:
                raise ValueError(
                    f"calibration: it has no (strength, scale, quality) = {missing[0]}; calibrate again with this grid"
                )

    def encode(
        self, compressor: Compressor, images: Sequence[Tensor], maps: Sequence[Tensor] | None = None
    ) -> list[Encoded]:
        """Compress images, each at its own point; :meth:`foveate.Compressor.encode` calls this.

        Args:
            compressor: provides the codec, pre-filter and saliency.
            images: (C, H, W) tensors, uint8 or float in [0, 1], C 3 or 1.
            maps: (1, h, w), one per image, to use instead of asking the saliency.

        Returns:
            One :class:`Controlled` per image, in order.

        Raises:
            ValueError: if there is not one map per image, or a map is not in [0, 1].
        """
        if maps is not None:
            if len(maps) != len(images):
                raise ValueError(f"maps: expected one per image, {len(images)}, got {len(maps)}")
            for saliency_map in maps:
                check_maps(saliency_map[None], 1)
        out: list[Encoded] = []
        for start in range(0, len(images), self.batch):
            part = slice(start, start + self.batch)
            bench = Bench(compressor, self.points(compressor), images[part], None if maps is None else maps[part])
            out += self._search(bench)
        return out

    def calibrate(
        self,
        compressor: Compressor,
        images: Iterable[ImageLike],
        progress: Listener | None = None,
    ) -> Calibration:
        """Measure the whole grid on sample images and return the calibration.

        Args:
            compressor: the compressor that will be used, with or without this control.
            images: 200 or more images like those to compress, of any sizes, read one by one; see
                :meth:`foveate.Compressor.encode`. Labels are not used.
            progress: called after each image, see :class:`foveate.Progress`; the stage is ``"calibrate"``.

        Returns:
            A ``calibration`` for controls with these witnesses, any built-in criterion and any subset of the grid.

        Raises:
            ValueError: if there are fewer than two images.
        """
        points = self.points(compressor)
        bits: list[Tensor] = []
        values: list[Tensor] = []
        leads: list[Tensor] = []
        distances: list[Tensor] = []
        measures = MEASURES | {criterion.measure_name: criterion.measure for criterion in self.keep}
        total = len(images) if isinstance(images, Sized) else None
        for image in images:
            bench = Bench(compressor, points, [as_tensor(image)], None)
            encoded = bench.encode([(0, k) for k in range(len(points))])
            decoded = bench.plain.decode(encoded, self.as_stored)
            answers = self._logits(decoded)
            clean = self._logits(bench.images)
            repeated = [answer.expand(len(points), -1) for answer in clean]
            bits.append(torch.tensor([math.log(candidate.bpp) for candidate in encoded], dtype=torch.float64))
            values.append(torch.stack([_each(measure, repeated, answers) for measure in measures.values()]).double())
            leads.append(_each(MEASURES["lead"], clean, clean).double()[:, 0])
            distances.append(self._distances(bench.images * len(points), decoded))
            if progress is not None:
                progress(Progress("calibrate", len(bits), total))
        if len(bits) < 2:
            raise ValueError(f"images: calibration takes two or more, better 200, got {len(bits)}")
        calibration = Calibration(
            codec=compressor.codec.family,
            witnesses=tuple(witness.name for witness in self.classifiers),
            points=points,
            bits=torch.stack(bits),
            values=dict(zip(measures, torch.stack(values, 2), strict=True)),
            clean=torch.stack(leads, 1),
            fidelities=tuple(witness.name for witness in self.fidelities),
            distances=torch.stack(distances, 1),
            model=OF_ONE,
        )
        return replace(calibration, model=KeepModel.fit(calibration.tables()))

    def _search(self, bench: Bench) -> list[Controlled]:
        """Return every image of a bench at the best point found."""
        candidates = _Candidates(self, bench)
        if self.exhaustive or self.calibration is None:
            candidates.encode([(i, k) for i in range(len(bench.images)) for k in range(len(bench.points))])
        searches: Sequence[Search]
        if candidates.robust is not None:
            priced = candidates.robust.search(self.tries, self.worth)
            searches = [priced] * len(candidates.seen)
        else:
            searches = self._searches(candidates.seen, bench.points)
        search(candidates.seen, searches, candidates.look)
        chosen = [candidates.chosen(i, searches[i].best(seen)) for i, seen in enumerate(candidates.seen)]
        if candidates.robust is None:
            return chosen
        expected = [priced.expected(seen)[priced.best(seen)] for seen in candidates.seen]
        return [replace(image, expected=p) for image, p in zip(chosen, expected, strict=True)]

    def _searches(self, seen: Sequence[Seen], points: tuple[OperatingPoint, ...]) -> Sequence[Search]:
        """Return a search for each image; without a calibration it is based on the bits of all its candidates."""
        if self.exhaustive:
            return [Exhaustive()] * len(seen)
        if not isinstance(self.calibration, Calibration):
            tables = [torch.tensor([s.bits[k] for k in range(len(points))], dtype=torch.float64) for s in seen]
            return [Expected(Belief.plain(bits), self.worth, self.tries) for bits in tables]
        columns = [self.calibration.points.index(point) for point in points]
        slack, bits = self.calibration.slack(self.keep, self._names)[:, columns], self.calibration.bits[:, columns]
        return [Expected(Belief.learned(slack, bits), self.worth, self.tries)] * len(seen)

    @property
    def _names(self) -> list[str]:
        return [witness.name for witness in self.classifiers]

    def _grid(self, points: tuple[OperatingPoint, ...]) -> RobustGrid:
        assert isinstance(self.calibration, Calibration)  # check() sees to it
        return RobustGrid(self.calibration, self._names, points)

    def _robust(self, points: tuple[OperatingPoint, ...]) -> Robust | None:
        """Return what ``keep="robust"`` needs on these points, made once; None for criteria with limits."""
        if not self.robust:
            return None
        cache: dict[Any, Robust] = self.__dict__.setdefault("_robust_by_points", {})
        if points not in cache:
            cache[points] = self._grid(points).priced(self.keep[0], self.evidence)
        return cache[points]

    def expectation(self, compressor: Compressor) -> Expectation:
        """Return how many answers a classifier that is not a witness is expected to keep, and how sure that is.

        Args:
            compressor: the compressor that will be used.

        Raises:
            ValueError: if ``keep`` is not ``robust``, there is no calibration, a classifier that was left out keeps
                fewer answers even at the finest points, or the evidence is that of a control.
        """
        if self.evidence != Evidence.WITNESSES:
            raise ValueError(f"evidence: {self.evidence.value!r} is that of a control, of which nothing is expected")
        if not self.robust:
            raise ValueError(f"keep: {self.keeps!r} says nothing of classifiers that are not witnesses; 'robust' does")
        self.check(compressor)
        return self._grid(self.points(compressor)).expectation(self.keep[0])

    def _logits(self, images: Sequence[Tensor]) -> list[Tensor]:
        return [witness.logits(images) for witness in self.classifiers]

    def _distances(self, sources: Sequence[Tensor], decoded: Sequence[Tensor]) -> Tensor:
        """Return (D, N) distances by the fidelity witnesses."""
        rows = [witness.distance(sources, decoded).double() for witness in self.fidelities]
        return torch.stack(rows) if rows else torch.zeros(0, len(decoded), dtype=torch.float64)


class _Candidates:
    """The candidates encoded, decoded and classified so far on one bench."""

    def __init__(self, control: RateControl, bench: Bench) -> None:
        self.control, self.bench = control, bench
        self.robust = control._robust(bench.points)
        self.seen = [Seen() for _ in bench.images]
        self._clean = control._logits(bench.images)
        self._other_distances = None if self.robust is None else self.robust.other_distances(bench.images)
        self._encoded: list[dict[int, Encoded]] = [{} for _ in bench.images]
        self._final: list[dict[int, tuple[float, ...]]] = [{} for _ in bench.images]
        self._kept: list[dict[int, bool]] = [{} for _ in bench.images]

    def encode(self, jobs: list[tuple[int, int]]) -> None:
        """Encode (image, point) pairs, given as indices, that are not encoded yet."""
        new = [(i, k) for i, k in jobs if k not in self._encoded[i]]
        for (i, k), candidate in zip(new, self.bench.encode(new), strict=True):
            self._encoded[i][k], self.seen[i].bits[k] = candidate, math.log(candidate.bpp)

    def look(self, jobs: list[tuple[int, int]]) -> None:
        """Encode and decode (image, point) pairs and show them to the witnesses."""
        self.encode(jobs)
        control = self.control
        decoded = self.bench.plain.decode([self._encoded[i][k] for i, k in jobs], control.as_stored)
        logits = control._logits(decoded)
        images = torch.tensor([i for i, _ in jobs])
        clean = [answer[images] for answer in self._clean]
        if self.robust is None:
            slacks = [criterion.slack(_each(criterion.measure, clean, logits).amin(0)) for criterion in control.keep]
            slack = torch.stack(slacks).amin(0)
            met = slack >= 0
        else:
            answers = _answers(clean, logits, self._distances(jobs, decoded))
            bits = torch.tensor([self.seen[i].bits[k] for i, k in jobs], dtype=torch.float64)
            slack = self.robust.reading.slack(torch.tensor([k for _, k in jobs]), bits, answers)
            met = (answers.lead > 0).all(0)
        for j, (i, k) in enumerate(jobs):
            self.seen[i].slack[k] = slack[j].item()
            self._kept[i][k] = bool(met[j])
            self._final[i][k] = tuple(_confidence(b[j], a[j]) for b, a in zip(clean, logits, strict=True))

    def _distances(self, jobs: list[tuple[int, int]], decoded: Sequence[Tensor]) -> Tensor:
        """Return (D, N) distances of decoded images, or those that a control takes instead."""
        if self._other_distances is not None:
            return torch.stack([self._other_distances[i][:, k] for i, k in jobs], 1)
        return self.control._distances([self.bench.images[i] for i, _ in jobs], decoded)

    def chosen(self, i: int, point: int | None) -> Controlled:
        """Return an image at a point; None stands for the finest."""
        k = len(self.bench.points) - 1 if point is None else point
        encoded = self._encoded[i][k]
        settings = {f.name: getattr(encoded, f.name) for f in fields(Encoded)} | {"met": self._kept[i][k]}
        return Controlled(
            **settings,
            clean=tuple(_confidence(answer[i], answer[i]) for answer in self._clean),
            final=self._final[i][k],
            tried=len(self._final[i]),
            encodes=len(self._encoded[i]),
        )


def _each(measure: Measure, clean: Sequence[Tensor], logits: Sequence[Tensor]) -> Tensor:
    """Return (W, N) values of a measure, for each classifier."""
    return torch.stack([measure(before, after) for before, after in zip(clean, logits, strict=True)])


def _answers(clean: Sequence[Tensor], logits: Sequence[Tensor], distances: Tensor) -> Answers:
    closeness, lead = (_each(MEASURES[name], clean, logits).double() for name in ("closeness", "lead"))
    return Answers(closeness, lead, _each(MEASURES["lead"], clean, clean).double(), distances)


def _confidence(clean: Tensor, logits: Tensor) -> float:
    return float(logits.softmax(0)[clean.argmax()])


def default_qualities(codec: Codec) -> tuple[float, ...]:
    """Return nine qualities to choose from: the codec's ladder, its geometric middles, and half a step at both ends.

    Example:
        >>> from foveate import Jpeg
        >>> default_qualities(Jpeg())
        (8, 12, 17, 25, 35, 50, 61, 75, 92)
    """
    ladder = codec.ladder
    steps = [ladder[0] * (ladder[0] / ladder[1]) ** 0.5, ladder[0]]
    for coarse, fine in pairwise(ladder):
        steps += [(coarse * fine) ** 0.5, fine]
    steps.append(ladder[-1] * (ladder[-1] / ladder[-2]) ** 0.5)
    nearest = (min(codec.scale, key=lambda q: abs(q - step)) for step in steps)
    return tuple(dict.fromkeys(nearest))
