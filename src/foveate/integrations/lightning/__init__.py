"""Foveate in Lightning, as ``lightning`` or as ``pytorch_lightning``: ``pip install "foveate[lightning]"``.

:class:`CompressionRobustness` says during validation what compression does to the network in training,
:class:`SaliencyLogger` shows where it looks, and :class:`CompressOnTheFly` trains it on compressed images. The
callbacks are callbacks of both packages, whichever are installed, so that both Trainers and both LightningCLIs take
them. Every argument can stand in a YAML or JSON file.

Common to all three: images reach them as the module gets them, on its device, in batches ``(images, target, ...)`` of
float images (B, 3 or 1, H, W). How these were normalized is given as ``mean`` and ``std`` or read from the transforms
that the data set keeps, under whatever name (``Normalize`` of torchvision, Kornia or Albumentations); what is not
understood there, or is done by chance, is refused. Without either they are to be in [0, 1].
"""

from foveate._extras import require

require("torchmetrics", "lightning")

from foveate.integrations.lightning._on_the_fly import BatchCompressor, CompressOnTheFly  # noqa: E402
from foveate.integrations.lightning._robustness import CompressionRobustness  # noqa: E402
from foveate.integrations.lightning._saliency_logger import SaliencyLogger  # noqa: E402

__all__ = ["BatchCompressor", "CompressOnTheFly", "CompressionRobustness", "SaliencyLogger"]
