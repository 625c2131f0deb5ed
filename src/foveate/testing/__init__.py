"""Conformance tests for codecs, filters, pre-filters, saliencies, criteria, witnesses and hosts, to subclass.

They need pytest.

To test your own part, subclass a test class and set its attributes::

    from foveate.testing import CodecConformance

    class TestMyCodec(CodecConformance):
        codec_class = MyCodec
"""

from foveate._extras import require

require("pytest", "testing")

from foveate.testing._codecs import CodecConformance  # noqa: E402
from foveate.testing._criteria import CriterionConformance  # noqa: E402
from foveate.testing._fidelities import FidelityConformance  # noqa: E402
from foveate.testing._filters import FilterConformance  # noqa: E402
from foveate.testing._hosts import HostConformance  # noqa: E402
from foveate.testing._images import noisy_image, psnr, tiny_classifier, wave_image  # noqa: E402
from foveate.testing._prefilters import PrefilterConformance  # noqa: E402
from foveate.testing._saliencies import SaliencyConformance  # noqa: E402

__all__ = [
    "CodecConformance",
    "CriterionConformance",
    "FidelityConformance",
    "FilterConformance",
    "HostConformance",
    "PrefilterConformance",
    "SaliencyConformance",
    "noisy_image",
    "psnr",
    "tiny_classifier",
    "wave_image",
]
