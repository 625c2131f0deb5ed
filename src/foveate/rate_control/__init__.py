"""Per-image rate control: for each picture the operating point of fewest bytes that keeps a classifier's answer.

One quality for all wastes bytes, as an easy picture is recognized at a tenth of what a hard one needs. Here each
picture is encoded at several points (strength of the pre-filter, scale, quality), decoded, and shown to one or more
*witness* classifiers; the smallest bitstream whose decoded picture keeps their own answers is returned. Labels have no
part in it.
"""

from foveate.rate_control._bench import Controlled, Spent, spent
from foveate.rate_control._calibration import Calibration, OperatingPoint
from foveate.rate_control._control import RateControl, default_qualities
from foveate.rate_control._criteria import KINDS, MEASURES, Criterion, as_criteria
from foveate.rate_control._witness import Witness

__all__ = [
    "KINDS",
    "MEASURES",
    "Calibration",
    "Controlled",
    "Criterion",
    "OperatingPoint",
    "RateControl",
    "Spent",
    "Witness",
    "as_criteria",
    "default_qualities",
    "spent",
]
