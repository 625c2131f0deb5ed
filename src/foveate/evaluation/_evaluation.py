"""The evaluation as one call: measure, compare, and write a report."""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from foveate._files import write_text
from foveate._progress import Progress
from foveate.compressor import Compressor
from foveate.evaluation._exhibits import choose_exhibits
from foveate.evaluation._ladder import coarser_points, in_curves
from foveate.evaluation._measurement import Judge, Measurement
from foveate.evaluation._measuring import measure
from foveate.evaluation._samples import SampleFolder, SampleSource, as_samples
from foveate.evaluation._settings import check_settings
from foveate.evaluation._summary import summarize
from foveate.evaluation.records import Records
from foveate.evaluation.results import Results


@dataclass(frozen=True)
class Evaluation:
    """The figures of an evaluation, and the counts of every image behind them."""

    results: Results
    measured: Measurement

    def __repr__(self) -> str:
        return repr(self.results).replace("Results", "Evaluation", 1)

    def _repr_html_(self) -> str:
        """That of its results."""
        return self.results._repr_html_()

    def cheapest(self, keeping: float = 0.99) -> Compressor | None:
        """Return the compressor of :meth:`foveate.evaluation.Results.cheapest`; None if no point keeps so many."""
        point = self.results.cheapest(keeping)
        return None if point is None else self.measured.compressors[self.measured.keys.index(point.key)]


def evaluate(
    source: SampleSource,
    judges: Sequence[Judge],
    compressors: Sequence[Compressor],
    out: str | Path | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    fidelity: bool = False,
    as_stored: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    title: str = "Rate and accuracy",
    lead: str | None = None,
    class_names: Mapping[int, str] | None = None,
    metric: str = "agreement",
    coarser: Collection[str] = (),
    command: Callable[[Compressor], str] | None = None,
    progress: bool = True,
) -> Evaluation:
    """Compress images, decode them, ask classifiers again, and compare every setting with its baselines.

    Args:
        source: a :class:`SampleFolder`, a Dataset or a DataLoader: see :func:`foveate.evaluation.as_samples`.
        judges: the classifiers, with different names. They run on the devices of their models.
        compressors: the operating points; :func:`baselines_for` gives the baselines to add.
        out: a folder for ``results.json``, ``report.html`` and ``records.jsonl``, created if missing; an interrupted
            run continues from its records, and one with more points computes only those. None writes nothing.
        settings: to be written with the results; JSON-able.
        fidelity: measure PSNR and MS-SSIM too, at source size.
        as_stored: show the judges each image at its stored size, as a reader of the file gets it, instead of resized to
            source size.
        seed: of the order of the images and of the bootstrap.
        resamples: of the bootstrap; each curve with an interval takes about a second for a thousand.
        title: of the report.
        lead: a sentence or two at the head of the report; None describes the measurement.
        class_names: a name for each class number; None takes the ``classes`` of the source, if it has them.
        metric: ``"agreement"`` or ``"top1"``: what the report holds equal when bytes are compared.
        coarser: codecs without their quality (``"jpeg"``), to whose curves coarser qualities are added while the
            coarsest keeps 98 % of the first judge's answers and the codec has one: on an easy task the cheapest point
            that is good enough lies there.
        command: gives the command line that compresses as a compressor does, for the report to show.
        progress: draw a bar on standard error.

    Raises:
        ValueError: as :func:`measure` does, or if two points that differ have the same setting and quality.
        IdentityError: with ``out``, if a compressor or a judge has no identity to find its figures again by.
        RuntimeError: if another evaluation is writing to ``out``.

    Example:
        >>> from foveate.demo import PREPROCESS, Scenes, scene_net
        >>> from foveate.models import Classifier
        >>> judge = Judge(Classifier("scene_net", scene_net(), PREPROCESS), known=False)
        >>> evaluation = evaluate(Scenes(10), [judge], [Compressor("jpeg:5"), Compressor("jpeg:50")])
        >>> [point.quality for point in evaluation.results.points]
        [5, 50]
    """
    check_settings(compressors)
    samples = as_samples(source)
    folder = None if out is None else Path(out)
    measured_as = partial(measure, fidelity=fidelity, as_stored=as_stored, seed=seed)
    measured = _measure_with_bar(measured_as, samples, judges, compressors, folder, coarser, progress)
    results = summarize(measured, dict(settings or {}), seed=seed, resamples=resamples)
    evaluation = Evaluation(results, measured)
    if folder is not None:
        results.save(folder / "results.json")
        names = _class_names(source) if class_names is None else class_names
        text = _report(samples, evaluation, title=title, lead=lead, class_names=names, metric=metric, command=command)
        write_text(folder / "report.html", text)
    return evaluation


def _measure_with_bar(
    measured_as: Callable[..., Measurement],
    source: SampleSource,
    judges: Sequence[Judge],
    compressors: Sequence[Compressor],
    folder: Path | None,
    coarser: Collection[str],
    progress: bool,
) -> Measurement:
    """Measure with a progress bar, and with records if there is a folder."""
    from tqdm import tqdm

    def measure_points(records: Records, points: Sequence[Compressor], stage: str) -> Measurement:
        with tqdm(desc=stage, unit="image", file=sys.stderr, disable=not progress) as bar:

            def show(state: Progress) -> None:
                bar.total = state.total
                bar.update(state.done - bar.n)

            return measured_as(source, judges, points, records=records, progress=show)

    def measure_with(records: Records) -> Measurement:
        measured = measure_points(records, compressors, "images")
        while added := coarser_points(measured, coarser):
            measured = measure_points(records, in_curves([*measured.compressors, *added]), "coarser qualities")
        return measured

    if folder is None:
        return measure_with(Records())
    folder.mkdir(parents=True, exist_ok=True)
    with Records.on_disk(folder / "records.jsonl") as records:
        return measure_with(records)


def _report(
    source: SampleSource,
    evaluation: Evaluation,
    *,
    title: str,
    lead: str | None,
    class_names: Mapping[int, str],
    metric: str,
    command: Callable[[Compressor], str] | None,
) -> str:
    from foveate.evaluation.report import page

    measured = evaluation.measured
    if lead is None:
        names = " and ".join(judge.name for judge in measured.judges)
        lead = f"{len(measured.labels)} images, compressed, decoded, and shown to {names}."
    exhibits = choose_exhibits(source, measured)
    cheapest = evaluation.cheapest()
    text = page(
        evaluation.results,
        measured,
        exhibits,
        title=title,
        lead=lead,
        class_names=class_names,
        metric=metric,
        command=None if command is None or cheapest is None else command(cheapest),
    )
    # Paths among the settings may not be UTF-8.
    return text.encode(errors="backslashreplace").decode()


def _class_names(source: SampleSource) -> Mapping[int, str]:
    if isinstance(source, SampleFolder):
        return source.class_names()
    # Datasets of torchvision have `classes`, and a DataLoader has its `dataset`.
    names = getattr(source, "classes", getattr(getattr(source, "dataset", None), "classes", ()))
    return {number: str(name) for number, name in enumerate(names)}
