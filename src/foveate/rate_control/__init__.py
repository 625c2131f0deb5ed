"""Per-image rate control: for each picture the operating point of fewest bytes that keeps a classifier's answer.

One quality for all wastes bytes, as an easy picture is recognised at a tenth of what a hard one needs. Here each
picture is encoded at several points (strength of the pre-filter, scale, quality), decoded, and shown to one or more
*witness* classifiers; the smallest bitstream whose decoded picture keeps their own answers is returned. Labels have no
part in it.
"""

from foveate.rate_control._bench import Controlled, Spent, spent
from foveate.rate_control._calibration import Calibration, Point
from foveate.rate_control._control import RateControl, qualities
from foveate.rate_control._criteria import KINDS, MEASURES, Criterion, criteria
from foveate.rate_control._witness import Witness

__all__ = [
    "KINDS",
    "MEASURES",
    "Calibration",
    "Controlled",
    "Criterion",
    "Point",
    "RateControl",
    "Spent",
    "Witness",
    "criteria",
    "qualities",
    "spent",
]
