"""What compression does to classifiers: rate–accuracy curves over real bitstreams, with several judges at once.

:func:`evaluate` does it all. The parts are one module each: what is measured (``photos``, ``rate_accuracy``, kept
picture by picture in ``records``), how curves are compared (``comparison``, ``bootstrap``), what they must beat
(``controls``), what is written (``summary``, ``results``, ``plots``, ``report``), two runs compared (``compare``), and
metrics for a loop of one's own (``metrics``).
"""

from foveate.evaluation.bootstrap import Bootstrap, interval
from foveate.evaluation.comparison import NoOverlap, bd_accuracy, bd_rate, overlap, rate_at, saved_at_equal
from foveate.evaluation.controls import controls_for
from foveate.evaluation.exhibits import Exhibit, choose_exhibits
from foveate.evaluation.photos import Photo, PhotoFolder, Photos, Unreadable, as_photos
from foveate.evaluation.rate_accuracy import Judge, Measurement, measure
from foveate.evaluation.records import Records
from foveate.evaluation.results import Comparison, Judgement, Point, Results, Saving
from foveate.evaluation.run import Evaluation, evaluate
from foveate.evaluation.summary import summarise

__all__ = [
    "Bootstrap",
    "Comparison",
    "Evaluation",
    "Exhibit",
    "Judge",
    "Judgement",
    "Measurement",
    "NoOverlap",
    "Photo",
    "PhotoFolder",
    "Photos",
    "Point",
    "Records",
    "Results",
    "Saving",
    "Unreadable",
    "as_photos",
    "bd_accuracy",
    "bd_rate",
    "choose_exhibits",
    "controls_for",
    "evaluate",
    "interval",
    "measure",
    "overlap",
    "rate_at",
    "saved_at_equal",
    "summarise",
]
