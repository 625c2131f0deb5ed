"""Per-image rate control: find the cheapest operating point that keeps a classifier's answer.

A single quality for all images wastes bytes: an easy image is recognized at a tenth of the bytes a hard one needs. Here
each image is encoded at several points (pre-filter strength, scale, quality), decoded, and shown to one or more
*witness* classifiers; the smallest bitstream whose decoded image keeps their own answers is returned. Labels are not
used.
"""

from foveate.rate_control._bench import Controlled, Spent, spent
from foveate.rate_control._calibration import Calibration, OperatingPoint
from foveate.rate_control._control import RateControl, default_qualities
from foveate.rate_control._criteria import CRITERIA, Criterion, CriterionKind, Keep, as_criteria, register_criterion
from foveate.rate_control._evidence import Evidence
from foveate.rate_control._expectation import Expectation
from foveate.rate_control._fidelity import Embedding, Fidelity, Lpips, MsSsim
from foveate.rate_control._keep_model import KeepModel
from foveate.rate_control._witness import Witness, as_witness

__all__ = [
    "CRITERIA",
    "Calibration",
    "Controlled",
    "Criterion",
    "CriterionKind",
    "Embedding",
    "Evidence",
    "Expectation",
    "Fidelity",
    "Keep",
    "KeepModel",
    "Lpips",
    "MsSsim",
    "OperatingPoint",
    "RateControl",
    "Spent",
    "Witness",
    "as_criteria",
    "as_witness",
    "default_qualities",
    "register_criterion",
    "spent",
]
