"""Where a classifier looks: images in, maps out.

A new kind is a subclass of :class:`Saliency` with the decorator :func:`register_saliency`; one on a Captum layer method
is a subclass of ``LayerSaliency`` with the one method that differs; ``CaptumAttribution`` takes all other methods of
Captum.
"""

from foveate.saliency._baselines import Baseline, Center, Shuffled
from foveate.saliency._cache import MapCache
from foveate.saliency._cached import CachedSaliency
from foveate.saliency._captum import CaptumAttribution
from foveate.saliency._layer import ActivationMap, GradCam, LayerSaliency
from foveate.saliency._protocol import Saliency, check_maps, normalize, saliency_maps
from foveate.saliency._spec import SALIENCIES, SaliencySpec, as_saliency, register_saliency

__all__ = [
    "SALIENCIES",
    "ActivationMap",
    "Baseline",
    "CachedSaliency",
    "CaptumAttribution",
    "Center",
    "GradCam",
    "LayerSaliency",
    "MapCache",
    "Saliency",
    "SaliencySpec",
    "Shuffled",
    "as_saliency",
    "check_maps",
    "normalize",
    "register_saliency",
    "saliency_maps",
]
