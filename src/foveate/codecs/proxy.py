"""Differentiable stand-ins for codecs: what decoding gives, and an estimate of the bits, with gradients.

For optimization alone; bytes that count are always the real codec's. JPEG has its own color space, subsampling, block
transform and quantization tables. WebP, AVIF and HEVC predict blocks from their neighbors, choose among sizes and modes
and smooth what they decode, which has no gradient. Their stand-in has the codec itself decode, and gives that the
gradient of the identity (straight-through, as Bengio et al. 2013 do for a threshold); it estimates bits by a uniformly
quantized transform of blocks of 8x8 whose step was measured to leave the same error as the codec does.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from foveate.codecs._codec import Codec
from foveate.codecs._registered import as_codec
from foveate.codecs.avif import Avif
from foveate.codecs.hevc import Hevc
from foveate.codecs.jpeg import Jpeg
from foveate.codecs.webp import WebP
from foveate.images import from_array, to_array, to_float

__all__ = ["Proxy", "has_proxy", "proxy_for"]

_FROM_RGB = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))  # JFIF

_SIDE = 8
_JPEG = ((10, 2.05), (20, 2.20), (35, 2.32), (60, 2.43), (80, 2.40))
"""Bits per unit of the rate estimate, by quality, measured on 10 whole photos; bench_proxy.py measures it on others."""

_FLAT = {
    "webp": (
        (5, 68, 46, 1.47),
        (20, 44, 32, 1.82),
        (40, 29, 23, 2.06),
        (60, 22, 18, 2.20),
        (80, 13.9, 12.7, 2.35),
        (95, 4.9, 6.4, 2.63),
    ),
    "avif": (
        (15, 106, 53, 1.17),
        (30, 65, 36, 1.41),
        (45, 39, 22, 1.76),
        (60, 22, 14.4, 2.10),
        (75, 12.0, 10.3, 2.28),
        (90, 5.4, 7.7, 2.40),
    ),
    "hevc": (
        (18, 6.0, 7.3, 2.34),
        (24, 10.6, 11.9, 2.10),
        (30, 20, 19.5, 1.85),
        (36, 40, 33, 1.46),
        (42, 78, 46, 1.00),
        (48, 150, 77, 0.65),
    ),
}
"""By quality: the steps of luma and chroma that leave the codec's error, and bits per unit; measured on 8 photos whose
short side is 256."""
_SUBSAMPLING = {"4:2:0": (2, 2), "4:2:2": (1, 2), "4:4:4": (1, 1)}


@dataclass(frozen=True)
class Proxy:
    r"""A differentiable codec: YCbCr, subsampled chroma, a quantized block transform.

    Rounding is straight-through: the value is rounded, the gradient is that of the identity.

    Args:
        luma: quantization steps of a block's coefficients, row by row, in gray levels of an orthonormal transform.
        chroma: the same for both chroma planes.
        subsampling: how many luma rows and columns a chroma sample stands for.
        bits_per_unit: bits for each unit of the rate estimate, the sum of :math:`\log_2(1 + |c| / q)` over all
            coefficients :math:`c` of step :math:`q`.
        codec: decodes, where the quantized transform does not as the codec does; None: the transform decodes.

    Example:
        >>> images = torch.rand(2, 3, 40, 60, requires_grad=True)
        >>> decoded, bits = proxy_for("jpeg:35")(images)
        >>> decoded.shape, bits.shape
        (torch.Size([2, 3, 40, 60]), torch.Size([2]))
        >>> bits.sum().backward()
        >>> images.grad.shape
        torch.Size([2, 3, 40, 60])
    """

    luma: tuple[tuple[float, ...], ...]
    chroma: tuple[tuple[float, ...], ...]
    subsampling: tuple[int, int] = (2, 2)
    bits_per_unit: float = 1.0
    codec: Codec | None = None

    @property
    def multiple(self) -> tuple[int, int]:
        """The rows and columns of the smallest part of an image that is coded by itself."""
        side = max(len(self.luma), len(self.chroma))
        return side * self.subsampling[0], side * self.subsampling[1]

    def planes(self, images: Tensor) -> list[Tensor]:
        """Return the planes that are coded.

        Args:
            images: (B, 3, H, W) or (B, 1, H, W), float in [0, 1].

        Returns:
            Luma (B, 1, h, w) and, for color, chroma (B, 2, h / rows, w / columns), in gray levels around 0; h and w are
            H and W, padded by repeating the last row and column to whole blocks.
        """
        height, width = images.shape[-2:]
        rows, columns = self.multiple
        padded = F.pad(images, (0, -width % columns, 0, -height % rows), mode="replicate")
        if images.shape[1] == 1:
            return [padded * 255 - 128]
        matrix = 255 * _matrix(images)
        rows, columns = self.subsampling
        mean = (matrix[1:, :, None, None] / (rows * columns)).expand(-1, -1, rows, columns)
        return [_mixed(padded, matrix[:1]) - 128, F.conv2d(padded, mean, stride=self.subsampling)]

    def images(self, planes: Sequence[Tensor], size: tuple[int, int], smooth: bool = True) -> Tensor:
        """Return the images that planes stand for.

        Args:
            planes: as from :meth:`planes`.
            size: height and width of the images.
            smooth: whether chroma is interpolated, as decoders do; or repeated, as an encoder that averages it again
                gets the same planes.

        Returns:
            (B, 3 or 1, H, W) float in [0, 1].
        """
        return self.change([planes[0] + 128, *planes[1:]], size, smooth).clamp(0, 1)

    def change(self, change: Sequence[Tensor], size: tuple[int, int], smooth: bool = True) -> Tensor:
        """Return how images change by a change of their planes, (B, 3 or 1, H, W); arguments as of :meth:`images`."""
        luma, *chroma = change
        if not chroma:
            return luma[..., : size[0], : size[1]] / 255
        inverse = torch.linalg.inv(255 * _matrix(luma))
        colors = _mixed(chroma[0], inverse[:, 1:])
        shape = (luma.shape[-2], luma.shape[-1])
        if tuple(colors.shape[-2:]) != shape:
            colors = F.interpolate(colors, shape, mode="bilinear") if smooth else F.interpolate(colors, shape)
        return (luma * inverse[:, :1, None] + colors)[..., : size[0], : size[1]]

    def levels(self, planes: Sequence[Tensor]) -> list[Tensor]:
        """Return the coefficients of planes in quantization steps, (B, coefficients of a block, rows, columns).

        Those of the second chroma plane are behind those of the first.
        """
        levels = []
        for plane, table in zip(planes, (self.luma, self.chroma), strict=False):
            side, count = len(table), plane.shape[1]
            transform = _dct(side, plane.dtype, plane.device) / _steps(table, plane)[:, None]
            blocks = plane.unflatten(-1, (-1, side)).unflatten(-3, (-1, side)).permute(0, 1, 3, 5, 2, 4)
            levels.append(_mixed(blocks.flatten(1, 3), transform.repeat(count, 1), count))
        return levels

    def from_levels(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Return the planes whose :meth:`levels` these are."""
        planes = []
        for level, table in zip(levels, (self.luma, self.chroma), strict=False):
            side, count = len(table), level.shape[1] // len(table) ** 2
            transform = (_dct(side, level.dtype, level.device) * _steps(table, level)[:, None]).T
            blocks = _mixed(level, transform.repeat(count, 1), count).unflatten(1, (count, side, side))
            planes.append(blocks.permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3))
        return planes

    def code(self, planes: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Return the decoded planes, and the estimated bits (B,) of each image."""
        levels = self.levels(planes)
        units = torch.stack([torch.log2(1 + level.abs()).flatten(1).sum(1) for level in levels]).sum(0)
        rounded = [level + (level.round() - level).detach() for level in levels]
        return self.from_levels(rounded), units * self.bits_per_unit

    def coding_error(self, planes: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Return what :attr:`codec` adds to the images that planes stand for, (B, 3 or 1, H, W), without gradients.

        Args:
            planes: as from :meth:`planes`.
            size: height and width of the images.

        Raises:
            ValueError: if the codec is None.
        """
        if self.codec is None:
            raise ValueError("codec: expected a codec that decodes, got None; code() gives the decoded planes")
        with torch.no_grad():
            colors = self.images(planes, size, smooth=False).expand(-1, 3, -1, -1)
            decoded = [to_float(from_array(self.codec.decode(self.codec.encode(to_array(image))))) for image in colors]
            shown = self.images(planes, size)
            real = torch.stack(decoded).to(shown)
            return (real if len(planes) > 1 else real.mean(1, keepdim=True)) - shown

    def decode(self, planes: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the images that decoding gives of planes, (B, C, H, W) float in [0, 1], and the estimated bits (B,).

        Args:
            planes: as from :meth:`planes`.
            size: height and width of the images.
        """
        coded, bits = self.code(planes)
        if self.codec is None:
            return self.images(coded, size), bits
        return self.images(planes, size) + self.coding_error(planes, size), bits

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what decoding gives, (B, C, H, W) float in [0, 1], and the estimated bits (B,).

        Args:
            images: (B, 3, H, W) or (B, 1, H, W), float in [0, 1].
        """
        return self.decode(self.planes(images), (images.shape[-2], images.shape[-1]))


def _steps(table: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    return torch.tensor(table, dtype=like.dtype, device=like.device).flatten()


def _matrix(like: Tensor) -> Tensor:
    return torch.tensor(_FROM_RGB, dtype=like.dtype, device=like.device)


def _mixed(channels: Tensor, matrix: Tensor, groups: int = 1) -> Tensor:
    return F.conv2d(channels, matrix[..., None, None], groups=groups)


@lru_cache(32)
def _dct(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the orthonormal DCT-II of blocks, (side * side, side * side), row by row."""
    with torch.inference_mode(False):  # gradients cannot pass through inference tensors
        rows = torch.from_numpy(scipy.fft.dct(np.eye(side), norm="ortho", axis=0))
        return torch.kron(rows, rows).to(device, dtype)


def proxy_for(codec: str | Codec) -> Proxy:
    """Return the differentiable stand-in for a codec at its quality.

    Args:
        codec: a codec or its short string.

    Raises:
        ValueError: if there is no stand-in for the codec.

    Example:
        >>> proxy_for("jpeg:50,subsampling=4:2:2").subsampling
        (1, 2)
    """
    codec = as_codec(codec)
    subsampling = _SUBSAMPLING[getattr(codec, "subsampling", "4:2:0")]  # WebP has no other
    if isinstance(codec, Jpeg):
        luma, chroma = _jpeg_tables(codec)
        return Proxy(luma, chroma, subsampling, _at(_JPEG, codec.quality)[0])
    if has_proxy(codec):
        luma_step, chroma_step, bits = _at(_FLAT[codec.name], codec.quality)
        return Proxy(_flat(luma_step), _flat(chroma_step), subsampling, bits, codec.plain)
    raise ValueError(f"codec: there is no differentiable stand-in for {codec}; choose jpeg, webp, avif or hevc")


def _at(table: Sequence[tuple[float, ...]], quality: float) -> tuple[float, ...]:
    """Interpolate the logarithms of a table's columns at a quality."""
    qualities, *columns = zip(*table, strict=True)
    return tuple(float(np.exp(np.interp(quality, qualities, np.log(column)))) for column in columns)


def _flat(step: float) -> tuple[tuple[float, ...], ...]:
    return ((step,) * _SIDE,) * _SIDE


def has_proxy(codec: Codec) -> bool:
    """Return whether :func:`proxy_for` takes a codec.

    Example:
        >>> has_proxy(as_codec("jpeg")), has_proxy(as_codec("jxl"))
        (True, False)
    """
    return isinstance(codec, Jpeg) or type(codec) in (WebP, Avif, Hevc)


@lru_cache(256)
def _jpeg_tables(codec: Codec) -> tuple[tuple[tuple[float, ...], ...], tuple[tuple[float, ...], ...]]:
    """Return the tables that the encoder writes, row by row."""
    file = Image.open(io.BytesIO(codec.encode(np.zeros((8, 8, 3), np.uint8))))
    tables = file.quantization  # type: ignore[attr-defined]
    luma, chroma = (
        tuple(tuple(float(v) for v in tables[k][row : row + 8]) for row in range(0, 64, 8))
        for k in (0, 1 if 1 in tables else 0)
    )
    return luma, chroma
