"""The evaluation as one call: measure, compare, and leave a report behind."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate._files import write_text
from foveate.compressor import Compressor
from foveate.evaluation.exhibits import choose_exhibits
from foveate.evaluation.rate_accuracy import Judge, Measurement, measure
from foveate.evaluation.records import Records
from foveate.evaluation.results import Results
from foveate.evaluation.samples import SampleFolder, Samples, SampleSource, as_samples
from foveate.evaluation.summary import check_settings, summarize


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation gives: the figures, and the counts picture by picture that they are from."""

    results: Results
    measured: Measurement


def evaluate(
    source: SampleSource,
    judges: Sequence[Judge],
    compressors: Sequence[Compressor],
    out: Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
    fidelity: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    title: str = "Rate and accuracy",
    lead: str | None = None,
    class_names: Mapping[int, str] | None = None,
    metric: str = "agreement",
) -> Evaluation:
    """Compress pictures, decode them, ask classifiers again, and compare every setting with its controls.

    Args:
        source: a :class:`SampleFolder`, a Dataset or a DataLoader: see :func:`foveate.evaluation.as_samples`.
        judges: the classifiers, each with a name of its own. They run where their models are, on a GPU too.
        compressors: the operating points; :func:`baselines_for` gives the controls to add.
        out: a folder for ``results.json``, ``report.html`` and ``records.jsonl``, made where it is missing. A run that
            was interrupted goes on from its records, and one with more points computes those alone. None
            writes nothing.
        settings: what to record as asked for; JSON-able.
        fidelity: measure PSNR and MS-SSIM too.
        seed: of the order of the pictures and of the bootstrap.
        resamples: of the bootstrap; each curve with an interval takes about a second for a thousand.
        title: of the report.
        lead: a sentence or two at the head of the report; None says what was measured.
        class_names: a name for each class number; None takes those of the source where it has ``classes``.
        metric: ``"agreement"`` or ``"top1"``: what the report holds equal when bytes are compared.

    Returns:
        The results and the measurement.

    Raises:
        ValueError: as :func:`measure` does, or if two points differ in what results have no word for.
        IdentityError: with ``out``, if a compressor or a judge has no identity to find its figures again by.
        RuntimeError: if another evaluation is writing to ``out``.

    Example:
        >>> from foveate.demo import PREPROCESS, Scenes, scene_net
        >>> from foveate.models import Classifier
        >>> judge = Judge(Classifier("scene_net", scene_net(), PREPROCESS), known=False)
        >>> found = evaluate(Scenes(10), [judge], [Compressor("jpeg:5"), Compressor("jpeg:50")])
        >>> [point.quality for point in found.results.points]
        [5, 50]
    """
    from tqdm import tqdm

    from foveate.evaluation.report import page

    check_settings(compressors)
    pictures = as_samples(source)
    total = len(pictures) if isinstance(pictures, Samples) else None
    folder = None if out is None else Path(out)

    def measured_with(records: Records | None) -> Measurement:
        with tqdm(total=total, desc="pictures", unit="picture", file=sys.stderr) as bar:
            return measure(pictures, judges, compressors, records, fidelity, seed, bar.update)

    if folder is None:
        measured = measured_with(None)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with Records.on_disk(folder / "records.jsonl") as records:
            measured = measured_with(records)
    results = summarize(measured, dict(settings or {}), seed, resamples)
    if folder is not None:
        results.write(folder / "results.json")
        names = _class_names(source) if class_names is None else class_names
        text = lead if lead is not None else _lead(measured)
        html = page(results, measured, choose_exhibits(pictures, measured), title, text, names, metric)
        # Paths among the settings may be no UTF-8.
        write_text(folder / "report.html", html.encode(errors="backslashreplace").decode())
    return Evaluation(results, measured)


def _lead(measured: Measurement) -> str:
    names = [judge.name for judge in measured.judges]
    return f"{len(measured.labels)} pictures, compressed, decoded, and shown to {' and '.join(names)}."


def _class_names(source: SampleSource) -> Mapping[int, str]:
    if isinstance(source, SampleFolder):
        return source.class_names()
    names = getattr(source, "classes", getattr(getattr(source, "dataset", None), "classes", ()))
    return {number: str(name) for number, name in enumerate(names)}
