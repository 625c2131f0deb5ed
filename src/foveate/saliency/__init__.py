"""Where a classifier looks: images in, maps out.

To add a kind, subclass :class:`Saliency` and decorate it with :func:`register_saliency`. For a Captum layer method,
subclass ``LayerSaliency`` and override one method. ``CaptumAttribution`` covers all other Captum methods.
"""

from foveate.saliency._baselines import Baseline, Center, Shuffled
from foveate.saliency._cache import MapCache
from foveate.saliency._cached import CachedSaliency, MissingMapError
from foveate.saliency._captum import CaptumAttribution
from foveate.saliency._eigen import EigenCam
from foveate.saliency._layer import ActivationMap, GradCam, LayerSaliency
from foveate.saliency._protocol import Saliency, check_maps, normalize, saliency_maps
from foveate.saliency._spec import SALIENCIES, SaliencySpec, as_saliency, register_saliency
from foveate.saliency._union import Union

__all__ = [
    "SALIENCIES",
    "ActivationMap",
    "Baseline",
    "CachedSaliency",
    "CaptumAttribution",
    "Center",
    "EigenCam",
    "GradCam",
    "LayerSaliency",
    "MapCache",
    "MissingMapError",
    "Saliency",
    "SaliencySpec",
    "Shuffled",
    "Union",
    "as_saliency",
    "check_maps",
    "normalize",
    "register_saliency",
    "saliency_maps",
]
