"""The pre-filter that edits images by gradient, so that a codec spends its bits on what networks see."""

from foveate.preedit._objective import Objective
from foveate.preedit._preedit import DEFAULT_MODELS, ModelSpec, PreEdit

__all__ = ["DEFAULT_MODELS", "ModelSpec", "Objective", "PreEdit"]
