"""Generated photo-like scenes: a small sign in undergrowth, deterministic by seed, as a dataset.

The undergrowth is a dead-leaves image (Lee, Mumford, Huang, "Occlusion models for natural images", IJCV 2001): leaves
of power-law sizes that hide one another, which gives the edges and the spectrum of photos, over 1/f noise. The sign
covers a few percent of the image, so nearly all bits of a codec go to what the class does not depend on.
"""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch.utils.data import Dataset

__all__ = ["CLASSES", "Scenes"]

CLASSES = ("arrow", "bar", "bolt", "crescent", "cross", "dots", "heart", "ring", "square", "triangle")
"""The classes of the scenes; sorted, so that folders named by them are numbered alike."""

_LEAF_COLORS = np.array(
    [
        (62, 84, 38),
        (94, 116, 52),
        (44, 60, 34),
        (120, 108, 62),
        (88, 70, 48),
        (132, 128, 112),
        (70, 96, 84),
        (150, 132, 84),
    ],
    dtype=np.float32,
)
_FLOWER_COLORS = np.array([(196, 160, 60), (176, 92, 110), (206, 200, 190), (120, 110, 176)], dtype=np.float32)
_SIGN_COLORS = np.array([(168, 40, 44), (36, 78, 156), (206, 158, 32), (32, 112, 72), (96, 52, 128)], dtype=np.float32)
_SUPERSAMPLING = 2


class Scenes(Dataset[tuple[Any, int]]):
    """Scenes with a sign of one of ten kinds; the glyph on it is the class.

    Scene ``k`` of a seed is the same image for any length, worker or order of access. Neighboring
    indices have different classes in a fixed round, so every length is balanced.

    Args:
        length: number of scenes.
        seed: 0 to 2**31 - 1. The shipped classifier was trained on seeds 0 and 1: use others to test it.
        size: side of the square images in pixels, at least 96; the sign keeps its size.
        transform: applied to each PIL image.

    Raises:
        ValueError: if an argument is out of range.
        IndexError: if an index is outside the dataset.

    Example:
        >>> scenes = Scenes(20, seed=7)
        >>> image, label = scenes[3]
        >>> image.size, scenes.classes[label]
        ((160, 160), 'crescent')
    """

    classes = CLASSES

    def __init__(
        self, length: int, seed: int = 2, size: int = 160, transform: Callable[[Image.Image], Any] | None = None
    ) -> None:
        if length < 0:
            raise ValueError(f"length: expected at least 0, got {length}")
        if not 0 <= seed < 1 << 31:
            raise ValueError(f"seed: expected 0 to 2**31 - 1, got {seed}")
        if size < 96:
            raise ValueError(f"size: expected at least 96 pixels, got {size}")
        self.length, self.seed, self.size, self.transform = length, seed, size, transform

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if not -self.length <= index < self.length:
            raise IndexError(f"index: expected one of {self.length} scenes, got {index}")
        index %= self.length
        label = index % len(CLASSES)
        scene = _scene(label, _Draw(self.seed, index), self.size)
        return (scene if self.transform is None else self.transform(scene)), label


class _Draw:
    """Numbers for one scene, from torch's generator alone."""

    def __init__(self, seed: int, index: int) -> None:
        # torch's CPU generator takes 32 bits of a seed and drops the rest, so both numbers are hashed into those.
        mixed = hashlib.blake2b(f"{seed} {index}".encode(), digest_size=4).digest()
        self._generator = torch.Generator().manual_seed(int.from_bytes(mixed, "big"))

    def uniform(self, low: float, high: float, shape: tuple[int, ...] = ()) -> npt.NDArray[np.float32]:
        drawn = torch.rand(shape, generator=self._generator, dtype=torch.float32) * (high - low) + low
        array: npt.NDArray[np.float32] = drawn.numpy()
        return array

    def normal(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        array: npt.NDArray[np.float32] = torch.randn(shape, generator=self._generator).numpy()
        return array

    def pick(self, colors: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
        chosen = torch.randint(len(colors), (count,), generator=self._generator).numpy()
        return colors[chosen]


def _scene(label: int, draw: _Draw, size: int) -> Image.Image:
    pixels = _undergrowth(draw, size)
    _put_sign(pixels, label, draw)
    exposure = float(draw.uniform(0.8, 1.15))
    noisy = pixels * exposure + draw.normal(pixels.shape) * float(draw.uniform(1.5, 4))
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


def _undergrowth(draw: _Draw, size: int) -> npt.NDArray[np.float32]:
    side = size * _SUPERSAMPLING
    ground = Image.new("RGB", (side, side), _rgb(draw.pick(_LEAF_COLORS, 1)[0] * 0.7))
    pen = ImageDraw.Draw(ground)
    count = round(170 * (size / 160) ** 2)
    # Radii of density ~ r^-3 between 4 and 36 pixels, the law that makes dead leaves scale-free; big ones lie below.
    radii = (
        np.sort((1 / (draw.uniform(0, 1, (count,)) * (4.0**-2 - 36.0**-2) + 36.0**-2)) ** 0.5)[::-1] * _SUPERSAMPLING
    )
    centers = draw.uniform(0, side, (count, 2))
    shapes = draw.uniform(0, 1, (count, 3))
    colors = draw.pick(_LEAF_COLORS, count) * draw.uniform(0.6, 1.3, (count, 1))
    flowers = draw.pick(_FLOWER_COLORS, count)
    turn = np.linspace(0, 2 * math.pi, 18, endpoint=False)
    for radius, center, (slender, angle, kind), color, flower in zip(
        radii, centers, shapes, colors, flowers, strict=True
    ):
        blossom = kind > 0.93 and radius < 8 * _SUPERSAMPLING
        # A leaf: a closed curve, slender and pointed at both ends.
        along = radius * np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** 0.8
        across = radius * (0.25 + 0.55 * slender) * np.sin(turn) ** (1 if kind < 0.4 else 3)
        outline = _turned(np.stack([along, across], 1), angle * 2 * math.pi) + center
        paint = flower if blossom else color
        pen.polygon([tuple(p) for p in outline.tolist()], fill=_rgb(paint))
        tip = _turned(np.array([[-radius, 0.0], [radius, 0.0]]), angle * 2 * math.pi) + center
        pen.line([tuple(p) for p in tip.tolist()], fill=_rgb(paint * 0.75), width=1)
    leaves = np.asarray(ground.reduce(_SUPERSAMPLING), np.float32)
    texture = _pink_noise(draw, size)
    light = np.linspace(float(draw.uniform(0.8, 1.2)), float(draw.uniform(0.8, 1.2)), size, dtype=np.float32)
    return leaves * (1 + 0.16 * texture[..., None]) * light[:, None, None]


def _pink_noise(draw: _Draw, size: int) -> npt.NDArray[np.float32]:
    """Noise of zero mean and unit variance whose amplitude falls as one over frequency, as in photos."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(draw.normal((size, size))) / frequency**0.8
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, (size, size))
    return (noise / noise.std()).astype(np.float32)


def _put_sign(pixels: npt.NDArray[np.float32], label: int, draw: _Draw) -> None:
    """Draw a sign into a scene, in place."""
    size = pixels.shape[0]
    radius = float(draw.uniform(12, 18))
    x, y = draw.uniform(radius + 6, size - radius - 6, (2,))
    tilt, squash = float(draw.uniform(-0.3, 0.3)), float(draw.uniform(0.82, 1))
    board = draw.pick(_SIGN_COLORS, 1)[0] * draw.uniform(0.85, 1.1)
    pale = np.array([232, 230, 222], np.float32)
    glyph_color = pale if float(draw.uniform(0, 1)) < 0.6 else board * 0.25

    scale = 4
    side = round(2 * (radius + 4)) * scale
    tile = Image.new("RGBA", (side, side))
    pen = ImageDraw.Draw(tile)

    def disc(r: float, color: npt.NDArray[np.float32], at: tuple[float, float] = (0, 0)) -> None:
        cx, cy = side / 2 + at[0], side / 2 + at[1]
        pen.ellipse([cx - r, cy - r, cx + r, cy + r], fill=_rgb(color))

    disc(radius * scale, pale)
    disc(radius * 0.88 * scale, board)
    _glyph(pen, CLASSES[label], side / 2, radius * 0.52 * scale, _rgb(glyph_color), _rgb(board))
    tile = tile.rotate(math.degrees(tilt), Image.Resampling.BICUBIC)
    tile = tile.resize((max(1, round(side * squash / scale)), side // scale), Image.Resampling.BOX)
    sign = np.asarray(tile, np.float32)
    cover = sign[..., 3:] / 255
    height, width = sign.shape[:2]
    left, top = round(float(x) - width / 2), round(float(y) - height / 2)
    # A post below and a soft shadow beside the sign tie it into the scene.
    post = slice(max(0, round(float(x)) - 1), round(float(x)) + 2)
    pixels[round(float(y)) : min(size, round(float(y) + 3.2 * radius)), post] = (96, 92, 86)
    shade = pixels[top + 2 : top + 2 + height, left + 2 : left + 2 + width]
    shade *= 1 - 0.45 * cover[: shade.shape[0], : shade.shape[1]]
    window = pixels[top : top + height, left : left + width]
    relief = np.linspace(1.08, 0.9, height, dtype=np.float32)[:, None, None]
    window *= 1 - cover
    window += cover * sign[..., :3] * relief


def _glyph(
    pen: ImageDraw.ImageDraw, name: str, c: float, r: float, ink: tuple[int, ...], paper: tuple[int, ...]
) -> None:
    """Draw a glyph of radius ``r`` around (c, c)."""

    def poly(*points: tuple[float, float]) -> None:
        pen.polygon([(c + r * x, c + r * y) for x, y in points], fill=ink)

    def disc(x: float, y: float, radius: float, color: tuple[int, ...]) -> None:
        pen.ellipse(
            [c + r * (x - radius), c + r * (y - radius), c + r * (x + radius), c + r * (y + radius)], fill=color
        )

    if name == "arrow":
        poly((0, -1), (0.9, 0), (0.35, 0), (0.35, 1), (-0.35, 1), (-0.35, 0), (-0.9, 0))
    elif name == "bar":
        poly((-1, -0.3), (1, -0.3), (1, 0.3), (-1, 0.3))
    elif name == "bolt":
        poly((0.3, -1), (-0.6, 0.15), (-0.05, 0.15), (-0.3, 1), (0.6, -0.2), (0.05, -0.2))
    elif name == "cross":
        w = 0.32
        poly((-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w), (w, 1), (-w, 1), (-w, w), (-1, w), (-1, -w), (-w, -w))
    elif name == "crescent":
        disc(0, 0, 0.95, ink)
        disc(0.45, -0.1, 0.75, paper)
    elif name == "dots":
        for x, y in ((-0.55, -0.5), (0.55, -0.5), (0, 0.55)):
            disc(x, y, 0.36, ink)
    elif name == "heart":
        disc(-0.43, -0.3, 0.48, ink)
        disc(0.43, -0.3, 0.48, ink)
        poly((-0.86, -0.08), (0.86, -0.08), (0, 0.95))
    elif name == "ring":
        disc(0, 0, 0.95, ink)
        disc(0, 0, 0.52, paper)
    elif name == "square":
        poly((-0.75, -0.75), (0.75, -0.75), (0.75, 0.75), (-0.75, 0.75))
    else:
        poly((0, -0.95), (0.95, 0.75), (-0.95, 0.75))


def _turned(points: npt.NDArray[Any], angle: float) -> npt.NDArray[Any]:
    cos, sin = math.cos(angle), math.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def _rgb(color: npt.NDArray[np.float32]) -> tuple[int, ...]:
    return tuple(int(v) for v in color.clip(0, 255))
