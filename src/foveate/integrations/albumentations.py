"""Foveate in an Albumentations pipeline: ``pip install "albumentations<3"``.

Both transforms change only images (``image``, ``images``, ``volume``...), HWC or HW, uint8 or float32 in [0, 1]; masks,
boxes and key points pass through unchanged. By default they are always applied (``p=1``). Every argument is JSON-able,
so ``A.to_dict``, ``A.save`` and ``A.load`` work: models are given by recipe and built once per process.

All draws, including that for ``p``, come from torch's random generator, which a DataLoader reseeds for each worker and
epoch (Albumentations' own generator, in 2.0.8, repeats itself there). ``Compose(seed=...)`` does not affect them;
``ReplayCompose`` replays them. Each call draws once.
"""

from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pydantic
import torch

from foveate._extras import require
from foveate.draws import CompressDraws, PrefilterDraws, check_channels, plain
from foveate.images import check_tensor

require("albumentations", "albumentations")
import albumentations as A  # noqa: E402

__all__ = ["Compress", "Prefilter"]

Image = npt.NDArray[Any]
Number = int | float
Pair = tuple[int, int] | tuple[float, float]

_IMAGE_KEYS = {"image", "images", "volume", "volumes"}
_NO_IMAGE = np.empty(0)


class _PlainNumbers(A.BasicTransform.InitSchema):  # type: ignore[misc]
    """Converts NumPy and torch numbers to Python's, which can be saved."""

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        return plain(value)


class _ImageTransform(A.ImageOnlyTransform):  # type: ignore[misc]  # untyped
    """Applies ``_draws`` to images, with the draw kept in the call's params."""

    _draws: PrefilterDraws | CompressDraws

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """Reject positional use of keyword-only arguments, which Albumentations' wrapper of ``__init__`` permits."""
        if len(args) > 1:
            raise TypeError(
                f"{cls.__name__}: expected one positional argument, got {len(args)}; give the others by name"
            )
        return super().__new__(cls)

    def should_apply(self, force_apply: bool = False) -> bool:
        """Draw whether to apply the transform, with torch's generator."""
        return force_apply or self.p >= 1 or float(torch.rand(())) < self.p

    def update_transform_params(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Add the draw of one call, so that a replay can repeat it.

        Raises:
            TypeError: if the sample has no image, or ``image`` is not an array.
        """
        if not _IMAGE_KEYS & data.keys():
            raise TypeError(f"image: expected image=, images=, volume= or volumes=, got {', '.join(data) or 'nothing'}")
        if not isinstance(data.get("image", _NO_IMAGE), np.ndarray):
            raise TypeError(f"image: expected an array (H, W, C) or (H, W), got {type(data['image']).__name__}")
        return {**super().update_transform_params(params, data), "draw": self._draws.draw()}

    def apply(self, img: Image, draw: dict[str, Any] | None = None, **params: Any) -> Image:
        """Transform one image (H, W, C) or (H, W)."""
        return self.apply_to_images(img[None], draw=draw, **params)[0]

    def apply_to_images(self, images: Image, draw: dict[str, Any] | None = None, **params: Any) -> Image:
        """Transform images (N, H, W, C) or (N, H, W) as one batch."""
        array = np.asarray(images)
        if array.dtype != np.uint8 and array.dtype.kind != "f":
            raise TypeError(f"image: expected uint8, or floating point in [0, 1], got {array.dtype}")
        # torch needs native byte order and no negative strides, as of image[..., ::-1].
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
        array = array if array.flags.writeable else array.copy()  # else torch warns, although nothing is written
        batch = torch.from_numpy(array if array.ndim == 4 else array[..., None]).movedim(-1, 1)
        check_channels(batch.shape[1], "drop it by image[..., :3], or convert it as cv2.COLOR_BGRA2RGB does")
        check_tensor(batch, "image")
        if batch.numel() == 0:
            return array
        out = self._draws.apply(batch, self._draws.draw() if draw is None else draw)
        return np.ascontiguousarray(out.movedim(1, -1).numpy()).reshape(array.shape)


class Prefilter(_ImageTransform):
    """The pre-filter alone, for pipelines that store the images later; an ``ImageOnlyTransform``.

    Args:
        saliency: a model's recipe like ``"resnet18"`` for its Grad-CAM, or a mapping: see
            :func:`foveate.saliency.as_saliency`.
        strength: in [0, 1], or a pair to draw it from uniformly.
        filter: the name of a filter, see :class:`foveate.Prefilter`.
        sigma: see :class:`foveate.Prefilter`.
        p: probability of applying the transform.

    Raises:
        ValueError: if an argument is invalid.

    Example:
        >>> import numpy as np
        >>> chain = A.Compose([Prefilter("foveate.demo:scene_net", strength=(0.2, 0.6))])
        >>> chain(image=np.zeros((64, 96, 3), np.uint8))["image"].shape
        (64, 96, 3)
    """

    class InitSchema(_PlainNumbers):  # noqa: D106
        saliency: str | dict[str, Any]
        strength: Number | Pair
        filter: str
        sigma: Number

    def __init__(
        self,
        saliency: str | dict[str, Any],
        *,
        strength: Number | Pair = 0.5,
        filter: str = "blend",
        sigma: Number = 1.5,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self._draws = PrefilterDraws.of(saliency, strength=strength, filter=filter, sigma=sigma)
        self.saliency, self.strength, self.filter, self.sigma = saliency, strength, filter, sigma


class Compress(_ImageTransform):
    """Compress and decode images, as a classifier gets them from storage; an ``ImageOnlyTransform``.

    Args:
        codec: a codec's short string like ``"jpeg:30"``.
        quality: on the codec's own scale, or a pair to draw it from uniformly, both ends included; None takes that of
            ``codec``.
        prefilter: a mapping of the arguments of :class:`foveate.Prefilter`, or with ``models`` of
            :class:`foveate.PreEdit`, applied before the codec; guided by ``saliency`` if it has no saliency of its own.
        saliency: makes the maps, as for :class:`Prefilter`, for ``prefilter`` or a pre-filter with default settings,
            and for a codec that takes maps itself.
        strength: strength of the pre-filter, in [0, 1], or a pair to draw it from uniformly. None takes that of
            ``prefilter``; with only a ``saliency`` 0.5, or 0 if the codec takes maps itself.
        scale: side of the stored image divided by that of the source; decoding resizes back to source size.
        target: a mapping of the arguments of :class:`foveate.TargetSize`, for example ``{"bpp": 0.5}``.
        control: a mapping of the arguments of :class:`foveate.RateControl`, for example ``{"witnesses": "resnet18"}``.
        p: probability of applying the transform.

    Raises:
        TypeError: if the codec takes another type of quality.
        ValueError: if an argument is invalid, or a strength is given without a saliency.

    Example:
        >>> import numpy as np
        >>> chain = A.Compose([Compress("webp", quality=(10, 60))])
        >>> chain(image=np.zeros((64, 96, 3), np.float32))["image"].dtype
        dtype('float32')
    """

    class InitSchema(_PlainNumbers):  # noqa: D106
        codec: str
        quality: Number | Pair | None
        prefilter: dict[str, Any] | None
        saliency: str | dict[str, Any] | None
        strength: Number | Pair | None
        scale: Number
        target: dict[str, Any] | None
        control: dict[str, Any] | None

    def __init__(
        self,
        codec: str = "jpeg",
        *,
        quality: Number | Pair | None = None,
        prefilter: dict[str, Any] | None = None,
        saliency: str | dict[str, Any] | None = None,
        strength: Number | Pair | None = None,
        scale: Number = 1.0,
        target: dict[str, Any] | None = None,
        control: dict[str, Any] | None = None,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self._draws = CompressDraws.of(
            codec,
            quality=quality,
            prefilter=prefilter,
            saliency=saliency,
            strength=strength,
            scale=scale,
            target=target,
            control=control,
        ).require_maps()
        self.codec, self.quality, self.prefilter, self.saliency = codec, quality, prefilter, saliency
        self.strength, self.scale, self.target, self.control = strength, scale, target, control
