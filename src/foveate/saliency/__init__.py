"""Where a classifier looks: images in, maps out.

A new kind joins as a callable that follows the :class:`Saliency` protocol; one on a Captum layer method joins as a
subclass of ``LayerSaliency`` with the one method that differs; ``CaptumAttribution`` takes all other methods of Captum.
"""

from foveate.saliency._baselines import Baseline, Center, Shuffled
from foveate.saliency._cache import CachedSaliency, MapCache
from foveate.saliency._captum import CaptumAttribution
from foveate.saliency._layer import ActivationMap, GradCam, LayerSaliency
from foveate.saliency._protocol import Maps, Saliency, as_saliency, check_maps, normalize
from foveate.saliency._spec import from_spec

__all__ = [
    "ActivationMap",
    "Baseline",
    "CachedSaliency",
    "CaptumAttribution",
    "Center",
    "GradCam",
    "LayerSaliency",
    "MapCache",
    "Maps",
    "Saliency",
    "Shuffled",
    "as_saliency",
    "check_maps",
    "from_spec",
    "normalize",
]
