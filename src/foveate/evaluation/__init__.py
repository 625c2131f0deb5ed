"""What compression does to classifiers: rate–accuracy curves over real bitstreams, with several judges at once.

:func:`evaluate` does it all. The parts are one module each: what is measured (``photos``, ``rate_accuracy``, kept
picture by picture in ``records``), how curves are compared (``comparison``, ``bootstrap``), what they must beat
(``controls``), what is written (``summary``, ``results``, ``plots``, ``report``), two runs compared (``compare``), and
metrics for a loop of one's own (``metrics``).
"""

from foveate.evaluation.baselines import baselines_for
from foveate.evaluation.bootstrap import Bootstrap, interval
from foveate.evaluation.curves import NoOverlapError, bd_accuracy, bd_rate, overlap, rate_at, saved_at_equal
from foveate.evaluation.exhibits import Exhibit, choose_exhibits
from foveate.evaluation.rate_accuracy import Judge, Measurement, measure
from foveate.evaluation.records import Records
from foveate.evaluation.results import Comparison, Judgment, PointResult, Results, Saving
from foveate.evaluation.run import Evaluation, evaluate
from foveate.evaluation.samples import Sample, SampleFolder, Samples, UnreadableError, as_samples
from foveate.evaluation.summary import summarize

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
]
