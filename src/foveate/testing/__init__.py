"""What every codec, filter, saliency and criterion does, as test classes to subclass: ``pip install pytest``.

A part of one's own is tested by one class with one attribute::

    from foveate.testing import CodecConformance

    class TestMyCodec(CodecConformance):
        codec_class = MyCodec
"""

from foveate._extras import require

require("pytest", "testing")

from foveate.testing._codecs import CodecConformance  # noqa: E402
from foveate.testing._criteria import CriterionConformance  # noqa: E402
from foveate.testing._filters import FilterConformance  # noqa: E402
from foveate.testing._hosts import HostConformance  # noqa: E402
from foveate.testing._images import noisy_image, psnr, tiny_classifier, wave_image  # noqa: E402
from foveate.testing._saliencies import SaliencyConformance  # noqa: E402

__all__ = [
    "CodecConformance",
    "CriterionConformance",
    "FilterConformance",
    "HostConformance",
    "SaliencyConformance",
    "noisy_image",
    "psnr",
    "tiny_classifier",
    "wave_image",
]
