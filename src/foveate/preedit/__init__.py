"""The pre-filter that edits images by gradient, so that a codec spends its bits on what networks see."""

from foveate.preedit._editor import Editor
from foveate.preedit._fit import fit
from foveate.preedit._models import ModelSpec
from foveate.preedit._objective import Objective
from foveate.preedit._preedit import DEFAULT_MODELS, PreEdit

__all__ = ["DEFAULT_MODELS", "Editor", "ModelSpec", "Objective", "PreEdit", "fit"]
