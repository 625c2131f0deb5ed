"""Pictures as users hold them, to the tensors that Foveate works on, and back."""

import errno
import hashlib
import io
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from foveate import _jxl
from foveate._checks import MAX_PIXELS
from foveate._extras import require

Picture: TypeAlias = "Tensor | npt.NDArray[np.uint8] | Image.Image"
"""A tensor (C, H, W), uint8 or float in [0, 1]; a uint8 array (H, W, C) or (H, W); or a PIL image, RGB or L."""


_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_tensor(images: Tensor, name: str = "images") -> None:
    """Raise unless ``images`` is (..., 3 or 1, H, W) with H, W >= 1, uint8 in 0..255 or float in [0, 1].

    Raises:
        TypeError: if it is no tensor, or of another dtype.
        ValueError: if its shape or its values do not fit.

    Example:
        >>> check_tensor(torch.full((3, 4, 4), 2.0))
        Traceback (most recent call last):
        ValueError: images: expected values in [0, 1], got 2 to 2; undo any normalization, and divide 0..255 by 255
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(images).__name__}")
    if images.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got one of layout {images.layout}; use .to_dense()")
    if images.dtype not in _DTYPES:
        raise TypeError(
            f"{name}: expected dtype uint8, or floating point of 16 bits or more, got {images.dtype}; scale "
            "to 0..255 and use .to(torch.uint8), or to [0, 1] and use .float()"
        )
    if images.ndim < 3 or images.shape[-3] not in (1, 3) or 0 in images.shape[-2:]:
        alpha = {2: "LA", 4: "RGBA"}.get(images.shape[-3]) if images.ndim >= 3 else None
        cure = "" if alpha is None else f"; if that is {alpha}, leave out the alpha channel: [..., :-1, :, :]"
        raise ValueError(f"{name}: expected shape (..., 3 or 1, H, W) with H, W >= 1, got {tuple(images.shape)}{cure}")
    if images.is_floating_point() and images.numel():
        low, high = (float(v) for v in torch.aminmax(images.detach()))
        if not (low >= 0 and high <= 1):  # written so that NaN is refused too
            raise ValueError(
                f"{name}: expected values in [0, 1], got {low:.4g} to {high:.4g}; undo any normalization, and divide "
                "0..255 by 255"
            )


def to_float(images: Tensor) -> Tensor:
    """Return uint8 images as float32 in [0, 1]; float images are returned as they are."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def to_uint8(images: Tensor) -> Tensor:
    """Return float images in [0, 1] rounded to uint8, clamped; uint8 images are returned as they are."""
    if images.dtype == torch.uint8:
        return images
    # By way of int16, which is several times as fast as from float to uint8.
    return images.float().mul(255).round_().clamp_(0, 255).to(torch.int16).to(torch.uint8)


def like(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return images, uint8 or float in [0, 1], in ``dtype``, itself uint8 or floating point."""
    return to_uint8(images) if dtype == torch.uint8 else to_float(images).to(dtype)


def as_batch(images: "Tensor | Sequence[Picture]") -> list[Tensor]:
    """Return one (C, H, W) tensor a picture, for a batch (B, C, H, W) or a sequence of pictures of any kinds.

    Raises:
        TypeError: if something in it is no picture.
        ValueError: if a shape, a mode or a value range does not fit.

    Example:
        >>> [tuple(t.shape) for t in as_batch([Image.new("L", (5, 4)), np.zeros((2, 3, 3), np.uint8)])]
        [(1, 4, 5), (3, 2, 3)]
    """
    if isinstance(images, Tensor):
        if images.ndim != 4:
            raise ValueError(
                f"images: expected a batch (B, C, H, W), got {tuple(images.shape)}; one picture is [picture]"
            )
        check_tensor(images)
        return list(images)
    if isinstance(images, str | bytes | np.ndarray | Image.Image) or not isinstance(images, Sequence):
        raise TypeError(f"images: expected a batch (B, C, H, W) or a list of pictures, got {type(images).__name__}")
    return [as_tensor(picture, f"images[{k}]") for k, picture in enumerate(images)]


def as_tensor(picture: Picture, name: str = "picture") -> Tensor:
    """Return one picture as a (C, H, W) tensor, C 3 or 1; a tensor is checked and returned as it is."""
    if isinstance(picture, Image.Image):
        if picture.mode not in ("RGB", "L"):
            cure = (
                "what its samples are in 0..255 is for you to say: scale them, and pass a uint8 array"
                if picture.mode in _NO_RANGE
                else "use foveate.images.render(picture)"
                if picture.mode in _SIXTEEN_BITS
                else "use .convert('RGB'), or foveate.images.render(picture), which shows what is transparent on white"
            )
            raise ValueError(f"{name}: expected a PIL image of mode RGB or L, got {picture.mode}; {cure}")
        with _decoding():  # it may be a file that is not read yet
            picture.load()
        picture = np.array(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8:
            raise TypeError(f"{name}: expected a uint8 array, got {picture.dtype}; pass floats as a tensor (C, H, W)")
        if picture.ndim == 2:
            picture = picture[..., None]
        if picture.ndim != 3:
            raise ValueError(f"{name}: expected an array (H, W, C) or (H, W), got {picture.shape}")
        if picture.shape[2] not in (1, 3):
            alpha = {2: "LA", 4: "RGBA"}.get(picture.shape[2])
            cure = "" if alpha is None else f"; if that is {alpha}, leave out the alpha channel: [..., :-1]"
            raise ValueError(f"{name}: expected an array (H, W, 3 or 1) or (H, W), got {picture.shape}{cure}")
        picture = from_array(picture)
    if not isinstance(picture, Tensor):
        raise TypeError(f"{name}: expected a tensor, a numpy array or a PIL image, got {type(picture).__name__}")
    if picture.ndim != 3:
        raise ValueError(f"{name}: expected a tensor (C, H, W), got {tuple(picture.shape)}")
    check_tensor(picture, name)
    return picture


def to_array(image: Tensor) -> npt.NDArray[np.uint8]:
    """Return a (C, H, W) tensor, uint8 or float in [0, 1], as a uint8 array (H, W, C)."""
    channels = to_uint8(image.detach()).cpu().unbind(0)
    array: npt.NDArray[np.uint8] = torch.stack(channels, -1).numpy()  # faster than a copy of the permuted tensor
    return array


def from_array(array: npt.NDArray[np.uint8]) -> Tensor:
    """Return a uint8 array (H, W, C) as a contiguous uint8 tensor (C, H, W) of its own memory."""
    # A copy: the tensor must neither share the caller's memory nor complain that it is read-only.
    return torch.from_numpy(array.transpose(2, 0, 1).copy(order="C"))


def same_size(pictures: Sequence[Tensor]) -> list[list[int]]:
    """Return the places of pictures that agree in shape, kind and device, so that they can be stacked."""
    groups: dict[Any, list[int]] = {}
    for i, picture in enumerate(pictures):
        groups.setdefault((picture.shape, picture.dtype, picture.device), []).append(i)
    return [*groups.values()]


_strict_lock = threading.Lock()
_strict_uses = 0
_lenient: Any = False


@contextmanager
def strictly() -> Iterator[None]:
    """Let Pillow refuse a file that breaks off, whatever ``ImageFile.LOAD_TRUNCATED_IMAGES`` says.

    That is one switch for the whole process, which training scripts like to leave on: it is off while any thread is in
    this block, for other threads too, and then as it was.
    """
    global _strict_uses, _lenient
    with _strict_lock:
        _strict_uses += 1
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            _lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        with _strict_lock:
            _strict_uses = max(0, _strict_uses - 1)  # 0 already where a fork came in between
            if _strict_uses == 0:
                _restore()


def _restore() -> None:
    global _lenient
    if _lenient:
        ImageFile.LOAD_TRUNCATED_IMAGES, _lenient = _lenient, False


def _after_fork() -> None:
    """In a forked process no other thread is left to leave the block, or to give the lock back."""
    global _strict_lock, _strict_uses
    _strict_lock, _strict_uses = threading.Lock(), 0
    _restore()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_NO_RANGE = ("I", "F")
_OPAQUE = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
_FULL_RANGE = (None, "PNG", "ICO", "ICNS", "JPEG2000", "IM", "TIFF")
"""Where 16-bit samples run from black at 0; those of FITS and McIDAS are measurements."""
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _TILE = 258, 262, 339, (322, 323)
"""Tags of TIFF (6.0, section 8)."""
_ORIENTATION = 0x0112
"""Tag of EXIF, and of TIFF."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def render(picture: Image.Image, gray: bool = False) -> Image.Image:
    """Return a PIL image of any mode as it is seen, in 8 bits a channel.

    Samples of 16 bits are scaled from the range of their file's format, which is 0 to 65535 in memory, and rounded.
    What is transparent is shown on white.

    Args:
        picture: in memory, or a file that was opened, at its present frame.
        gray: return modes 1, L and I;16 as L.

    Returns:
        An image of mode RGB, or L.

    Raises:
        ValueError: if it is not known which samples are black and white: modes I and F, signed samples, measurements.
        OSError, ValueError, SyntaxError, EOFError: if it is a file that cannot be read to its end.

    Example:
        >>> render(Image.new("I;16", (5, 4), 70 * 257)).getpixel((0, 0))
        (70, 70, 70)
    """
    rawmode = _rawmode(picture)
    with _decoding():
        picture.load()
    if 2 in _tags(picture, _SAMPLE_FORMAT):
        raise ValueError("a TIFF of signed samples, of which it is not known what is black; save it unsigned")
    if picture.mode in _SIXTEEN_BITS + _NO_RANGE:
        picture = _eight_bits(picture)
    elif _transparent(picture):
        return _on_white(picture, rawmode)
    elif picture.mode not in _OPAQUE:
        raise ValueError(f"a picture of mode {picture.mode}, which is not known; convert it to RGB")
    return picture.convert("L" if gray and picture.mode in ("1", "L") else "RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Scale gray samples of more than 8 bits to an image of mode L."""
    format = picture.format
    if not (format in _FULL_RANGE if picture.mode in _SIXTEEN_BITS else (picture.mode, format) == ("I", "PPM")):
        of = "" if format is None else f" of {format}"
        raise ValueError(f"samples of mode {picture.mode}{of}, whose range is not known; scale them to 8 bits first")
    bits = next(iter(_tags(picture, _BITS)), 16)  # 12 of a TIFF come as they are
    white, samples = 2**bits - 1, np.asarray(picture).astype(np.uint32)
    array = ((samples * 255 + white // 2) // white).astype(np.uint8)
    if 0 in _tags(picture, _PHOTOMETRIC):  # white is 0, which Pillow sees to up to 8 bits
        array = 255 - array
    key = picture.info.get("transparency")
    if isinstance(key, int):
        array[samples == key] = 255
    return Image.fromarray(array)


def _transparent(picture: Image.Image) -> bool:
    # Pillow's own has_transparency_data fails on the P of an ICNS, which has no palette object.
    palette = picture.palette.mode if picture.mode == "P" and picture.palette is not None else ""
    return picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info or palette.endswith("A")


def _on_white(picture: Image.Image, rawmode: str) -> Image.Image:
    """Show a picture with transparency on white: what lies under it is no part of the picture."""
    key = picture.info.get("transparency")
    if picture.mode == "RGB" and (rawmode == "RGB;16B" or (isinstance(key, tuple) and max(key) > 255)):
        raise ValueError("a transparent color of 16 bits, of which Pillow keeps 8; save it with an alpha channel")
    picture = picture.copy()  # a palette is given its alphas in place
    if rawmode in ("L;2", "L;4") and isinstance(key, int):  # Pillow scales the samples, and not the key
        picture.info["transparency"] = key * (85 if rawmode == "L;2" else 17)
    if picture.mode == "La":
        picture = picture.convert("LA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


def _rawmode(picture: Image.Image) -> str:
    """How the samples lie in a PNG; empty once it is loaded, and for other formats."""
    tile = getattr(picture, "tile", None) if picture.format == "PNG" else None
    return str(tile[0][3]) if tile else ""


def _tags(picture: Image.Image, tag: int) -> tuple[int, ...]:
    """The values of a TIFF's tag; none where there is no such tag, or the file is no TIFF."""
    value = getattr(picture, "tag_v2", {}).get(tag, ()) if picture.format == "TIFF" else ()
    return value if isinstance(value, tuple) else (value,)


UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
"""What :func:`read` raises, all in all, on a file that is no readable picture."""

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "JPEG2000", "JXL", "HEIF", "GIF", "BMP", "TIFF", "PPM")
"""The formats that files are read in unless more are asked for, by Pillow's names: MPO is of JPEGs, PPM also PBM, PGM.

Whatever a file is called, no other decoder looks at it: Pillow has many that are seldom used and little tried, and one
(EPS) that runs a program.
"""

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".gif", ".jp2", ".pgm", ".ppm", ".tif", ".tiff"),
        *(".jxl", ".heic", ".heif"),
    )
)
"""Endings of files in these formats."""

MAX_BYTES = 1 << 30
"""Larger files are refused unread."""

_MANY_SCANS = 1 << 33
"""Scans of a JPEG times its pixels: 1024 scans up to 8 megapixels, 128 at the most pixels there are.

A decoder goes over the whole picture once a scan. There are 10 or so, or some dozens in the several pictures of an MPO.
"""
_OFTEN = {
    b"\xff\xd8\xff": (b"Exif\0\0",),  # Pillow joins them, in time that goes with the square of their number
    b"\x89PNG": (b"zTXt", b"iTXt", b"iCCP"),  # each may unpack to 1 MiB
    **dict.fromkeys((b"P1", b"P2", b"P3"), (b"#",)),  # Pillow cuts comments out one by one
}
_MANY = 256
"""How often a part that takes time out of proportion to its bytes may stand in a file; a few times is usual."""
_WORK, _SEEK = 1 << 21, 24
"""How many reads Pillow may take for one file, or how many seeks, which stand for parsing. That is 1 to 4 seconds."""


def check_formats(formats: Sequence[str]) -> list[str]:
    """Return Pillow's names of the formats that Pillow is to read, ``FORMATS`` and further ones.

    Raises:
        ValueError: if Pillow reads no format of such a name.

    Example:
        >>> "DDS" in check_formats(["dds"]), "DDS" in check_formats([])
        (True, False)
    """
    if isinstance(formats, str):
        raise ValueError(f"formats: expected a list of names, got {formats!r}; one format is [{formats!r}]")
    further = [name for name in dict.fromkeys(map(str.upper, formats)) if name not in FORMATS]
    if further:
        Image.init()
    for name in further:
        if name not in Image.OPEN:
            raise ValueError(f"formats: Pillow reads no format {name!r}; those it reads are {', '.join(Image.OPEN)}")
    # Pillow itself finds out that a JPEG is an MPO.
    return [name for name in FORMATS if name not in ("MPO", "JXL", "HEIF")] + further


def read(file: str | Path | bytes, gray: bool = False, upright: bool = True, formats: Sequence[str] = ()) -> Tensor:
    """Read a picture file as uint8 RGB (3, H, W), as :func:`render` shows it; of several frames or pages the first.

    Args:
        file: its path, or what is in it; of any of ``FORMATS``, whatever it is called.
        gray: return a picture without colors as (1, H, W).
        upright: turn it as EXIF says it is to be seen, as people see it; many loaders of data sets do not. EXIF that
            cannot be made sense of turns nothing, as in browsers (but of an AVIF it is refused, by libavif). JPEG XL
            and HEIF are upright as they are.
        formats: names of further formats of Pillow to read, such as ``"PSD"``, for files that are trusted.

    Raises:
        OSError, ValueError, SyntaxError, EOFError: if it is no readable picture; ``UNREADABLE`` has them all, whatever
            a decoder raised.
        ValueError: if it is no regular file, has more than ``MAX_BYTES`` bytes or ``foveate.codecs.MAX_PIXELS`` pixels,
            would take time out of proportion, has samples that :func:`render` refuses, or needs a library that is not
            installed; or if Pillow knows no such format.

    Example:
        >>> stream = io.BytesIO()
        >>> Image.new("L", (5, 4)).save(stream, "PNG")
        >>> read(stream.getvalue()).shape, read(stream.getvalue(), gray=True).shape
        (torch.Size([3, 4, 5]), torch.Size([1, 4, 5]))
    """
    with _opened(file, formats) as picture:
        shown = render(picture, gray)
        turn = _UPRIGHT.get(_orientation(picture)) if upright else None
        array = np.asarray(shown if turn is None else shown.transpose(turn))
        return from_array(array[..., None] if array.ndim == 2 else array)


def lies_on_its_side(file: bytes, formats: Sequence[str] = ()) -> bool:
    """Whether EXIF says that a picture file is to be turned before it is seen.

    Raises:
        OSError, ValueError, SyntaxError, EOFError: if it cannot be opened; ``UNREADABLE`` has them all.
    """
    with _opened(file, formats) as picture:
        return _orientation(picture) in _UPRIGHT


def frames(file: bytes, formats: Sequence[str] = ()) -> int:
    """Return how many frames or pages a picture file has, of which :func:`read` takes the first.

    Of a file with so many that counting them would take long, as many as were counted by then.

    Raises:
        OSError, ValueError, SyntaxError, EOFError: if they cannot be counted; ``UNREADABLE`` has them all.
    """
    with _opened(file, formats) as picture:
        try:
            # Those of Photoshop are the layers of one picture.
            return 1 if picture.format == "PSD" else int(getattr(picture, "n_frames", 1))
        except _TooMuchWorkError:
            return picture.tell() + 1


def format_of(file: bytes) -> str | None:
    """Return Pillow's name of the format of a picture file, in small letters; None where it is of none of ``FORMATS``.

    Example:
        >>> format_of(b"P5 1 1 255 0"), format_of(b"%!PS-Adobe-3.0 EPSF-3.0")
        ('ppm', None)
    """
    try:
        with _opened(file, ()) as picture:
            return (picture.format or "").lower()
    except UNREADABLE:
        return None


@contextmanager
def _decoding() -> Iterator[None]:
    """Turn whatever a decoder may raise on damaged bytes into one of ``UNREADABLE``; see :func:`strictly` too."""
    with strictly():
        try:
            yield
        except UNREADABLE:
            raise
        except ImportError as error:
            raise ValueError(str(error)) from error
        except Exception as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


@contextmanager
def _opened(file: str | Path | bytes, formats: Sequence[str]) -> Iterator[Image.Image]:
    allowed = check_formats(formats)
    data = file if isinstance(file, bytes) else contents(file)
    _check_bytes(len(data))
    for begin, parts in _OFTEN.items():
        for part in parts if data.startswith(begin) else ():
            if (count := data.count(part)) > _MANY:
                raise ValueError(f"{count} parts of the kind {part.decode().strip(chr(0))}, of which a few are usual")
    with _decoding(), _open(data, allowed) as picture:
        _check_size(picture, data)
        yield picture


def contents(file: str | Path) -> bytes:
    """Return what is in a regular file; one of another kind could keep who reads it waiting for ever.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is a pipe, a socket or a device, or has more than ``MAX_BYTES`` bytes.
    """
    try:
        with open(file, "rb", opener=_at_once) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(_NO_REGULAR_FILE)
            _check_bytes(status.st_size)
            return stream.read()
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise ValueError(_NO_REGULAR_FILE) from error  # a socket, or a device that is not there


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


_NO_REGULAR_FILE = "not a regular file, but a pipe, a socket or a device"


def _check_bytes(count: int) -> None:
    if count > MAX_BYTES:
        raise ValueError(f"{count} bytes are over the limit of {MAX_BYTES}")


def _check_size(picture: Image.Image, data: bytes) -> None:
    """Raise a ValueError if decoding would take too much memory, or too long."""
    pixels = picture.width * picture.height
    if pixels > MAX_PIXELS:
        raise ValueError(f"{picture.width}x{picture.height} is over the limit of {MAX_PIXELS} pixels")
    tile = [next(iter(_tags(picture, tag)), 1) for tag in _TILE]
    if tile[0] * tile[1] > MAX_PIXELS:
        raise ValueError(f"tiles of {tile[0]}x{tile[1]} are over the limit of {MAX_PIXELS} pixels")
    if picture.format in ("JPEG", "MPO"):
        # Nowhere but before a scan: 0xff within one is followed by 0 or by the mark of a restart.
        scans = data.count(b"\xff\xda")
        if scans * max(pixels, 1 << 23) > _MANY_SCANS:
            raise ValueError(f"a JPEG of {scans} scans, which would take too long; some 10 are usual")


def _open(data: bytes, formats: list[str]) -> Image.Image:
    if _jxl.is_jxl(data):
        return _Jxl(io.BytesIO(data))
    if _is_heif(data):
        plugin: type[Image.Image] = require("pillow_heif", "codecs").HeifImageFile
        return plugin(io.BytesIO(data))  # type: ignore[call-arg]
    try:
        return Image.open(_Metered(data), formats=formats)
    except UnidentifiedImageError as error:  # whose own words have an address of the memory in them
        names = ", ".join([*FORMATS, *(name for name in formats if name not in FORMATS)])
        words = f"no picture of an allowed format, or damaged at its head ({names}; formats allows more)"
        raise UnidentifiedImageError(words) from error


class _TooMuchWorkError(ValueError):
    """A file that is small for the time it would take."""


class _Metered(io.BytesIO):
    """A file in memory that can be read so many times: chains and loops in it end."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = _WORK

    def _spend(self, work: int) -> None:
        self._left -= work
        if self._left < 0:
            self._left = _WORK  # for what is left to be done where it is caught
            raise _TooMuchWorkError("made of too many parts, which would take too long to read")

    def read(self, size: int | None = -1, /) -> bytes:
        self._spend(1)
        return super().read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._spend(_SEEK)
        return super().seek(offset, whence)


class _Jxl(ImageFile.ImageFile):
    """JPEG XL, for which Pillow has no plugin; its mode is right once it is loaded."""

    format = "JXL"

    def _open(self) -> None:
        assert self.fp is not None
        self._data: bytes | None = self.fp.read()
        height, width, *_ = _jxl.header(self._data)
        self._size, self._mode = (width, height), "RGB"

    def load(self) -> Any:
        if self._data is not None:
            pixels = _jxl.decode(self._data)
            decoded = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
            self._data, self._size, self._mode, self.im = None, decoded.size, decoded.mode, decoded.im
        return super().load()


def _is_heif(data: bytes) -> bool:
    """Whether a file begins with a box of HEIF's brands (ISO/IEC 23008-12); AVIF, which has them too, is Pillow's."""
    if data[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
    heif = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
    return data[8:12] in heif and not brands & {b"avif", b"avis"}


def _orientation(picture: Image.Image) -> int:
    """What EXIF says, as one of 1 to 8 if it is of use; 1, as stored, where it is damaged: the pixels are sound."""
    try:
        # Of a TIFF that is loaded it is 1: Pillow turns it by itself.
        return picture.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1


def image_hash(pixels: Tensor) -> str:
    """Return 32 hexadecimal digits that tell one picture (C, H, W) from another, by its pixels as uint8 (SHA-256).

    Example:
        >>> black = torch.zeros(3, 2, 2)
        >>> image_hash(black) == image_hash(black.byte()), image_hash(black) == image_hash(black.view(3, 4, 1))
        (True, False)
    """
    digest = hashlib.sha256(str(tuple(pixels.shape)).encode())
    digest.update(to_uint8(pixels.detach()).cpu().contiguous().numpy().data)
    return digest.hexdigest()[:32]
