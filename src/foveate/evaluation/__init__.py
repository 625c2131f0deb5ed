"""What compression does to classifiers: rate–accuracy curves over real bitstreams, with several judges at once."""

from foveate.evaluation.photos import Photo, PhotoFolder, read
from foveate.evaluation.rate_accuracy import Exhibit, Judge, Measurement, measure
from foveate.evaluation.results import Judgement, Point, Results, Saving, summarise
from foveate.evaluation.savings import saved_at_equal

__all__ = [
    "Exhibit",
    "Judge",
    "Judgement",
    "Measurement",
    "Photo",
    "PhotoFolder",
    "Point",
    "Results",
    "Saving",
    "measure",
    "read",
    "saved_at_equal",
    "summarise",
]
