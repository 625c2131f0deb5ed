"""Per-image rate control: for each image the operating point of fewest bytes that keeps a classifier's answer.

One quality for all wastes bytes, as an easy image is recognized at a tenth of what a hard one needs. Here each
image is encoded at several points (strength of the pre-filter, scale, quality), decoded, and shown to one or more
*witness* classifiers; the smallest bitstream whose decoded image keeps their own answers is returned. Labels have no
part in it.
"""

from foveate.rate_control._bench import Controlled, Spent, spent
from foveate.rate_control._calibration import Calibration, OperatingPoint
from foveate.rate_control._control import RateControl, default_qualities
from foveate.rate_control._criteria import CRITERIA, Criterion, CriterionKind, Keep, as_criteria, register_criterion
from foveate.rate_control._witness import Witness

__all__ = [
    "CRITERIA",
    "Calibration",
    "Controlled",
    "Criterion",
    "CriterionKind",
    "Keep",
    "OperatingPoint",
    "RateControl",
    "Spent",
    "Witness",
    "as_criteria",
    "default_qualities",
    "register_criterion",
    "spent",
]
