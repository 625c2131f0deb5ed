"""What compression does to classifiers: rate–accuracy curves over real bitstreams, with several judges at once.

:func:`evaluate` does it all: it measures (:func:`measure`), compares the curves (:func:`summarize`) and writes a
report. Modules to import by themselves: ``curves`` compares two curves, ``metrics`` has torchmetrics for a loop of your
own, ``records`` and ``results`` describe the files that are written, ``plots`` and ``report`` show results, and
``runs`` compares two evaluations.
"""

from foveate.evaluation._baselines import baselines_for
from foveate.evaluation._bootstrap import Bootstrap, interval, wilson
from foveate.evaluation._evaluation import Evaluation, evaluate
from foveate.evaluation._exhibits import Exhibit, choose_exhibits
from foveate.evaluation._measurement import Judge, Measurement
from foveate.evaluation._measuring import measure
from foveate.evaluation._samples import Sample, SampleFolder, Samples, UnreadableError, as_samples
from foveate.evaluation._summary import summarize
from foveate.evaluation.curves import NoOverlapError, bd_accuracy, bd_rate, overlap, rate_at, saved_at_equal
from foveate.evaluation.records import Records
from foveate.evaluation.results import Comparison, Judgment, PointResult, Results, Saving

__all__ = [
    "Bootstrap",
    "Comparison",
    "Evaluation",
    "Exhibit",
    "Judge",
    "Judgment",
    "Measurement",
    "NoOverlapError",
    "PointResult",
    "Records",
    "Results",
    "Sample",
    "SampleFolder",
    "Samples",
    "Saving",
    "UnreadableError",
    "as_samples",
    "baselines_for",
    "bd_accuracy",
    "bd_rate",
    "choose_exhibits",
    "evaluate",
    "interval",
    "measure",
    "overlap",
    "rate_at",
    "saved_at_equal",
    "summarize",
    "wilson",
]
