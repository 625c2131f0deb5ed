"""HEVC intra (ITU-T H.265) with PyAV's libx265, or in a HEIF container with pillow-heif; extra ``codecs``."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from foveate._checks import MAX_PIXELS, check_number
from foveate._extras import require
from foveate.codecs._codec import Codec, CodecError, check_integer

__all__ = ["Hevc"]

_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
_BLOCK = 16
"""Side of the smallest block that takes a QP of its own, x265's ``qg-size``."""
_END_OF_STREAM = bytes.fromhex("0000014a01")
"""End-of-bitstream NAL unit (H.265, 7.3.1): the mark that a stream is complete."""
_CROP = bytes.fromhex("0000016001")
"""NAL unit of the unspecified type 48, which decoders ignore; a byte follows: columns << 4 | rows to crop."""


@dataclass(frozen=True)
class Hevc(Codec):
    """One HEVC intra frame of 8 bits a channel, full range, at an exact QP.

    The bare stream (Annex B) ends with an end-of-bitstream unit, without which it is refused as truncated; streams from
    other encoders need it too. H.265 has no odd sizes at 4:2:0, and x265 refuses sides under 16 pixels: such images are
    padded, and a unit that other decoders ignore says what to crop (they show the padding).

    Args:
        quality: the QP, 0 (finest) to 51 (coarsest): lower is finer.
        preset: the effort of x265, ``"ultrafast"`` to ``"placebo"``; slower mostly means fewer bytes.
        subsampling: of the chroma planes: ``"4:2:0"`` or ``"4:4:4"``.
        roi: QP added where the saliency is 0, from 0 to 25, decreasing to 0 where the saliency is 1, in blocks of 16
            pixels (x265 averages them over a coding block that it does not split): saliency inside the encoder instead
            of a filter before it. Above 0, :meth:`encode` needs a map.
        container: ``"none"`` for the bare stream, or ``"heif"``, which holds every size and costs a tiny image
            about 330 bytes more; it does not support ``roi``.

    Raises:
        TypeError: if ``quality`` is not an integer.
        ValueError: if an argument is out of its range.

    Example:
        >>> str(Hevc(30, preset="fast", roi=8))
        'hevc:30,preset=fast,roi=8'
    """

    quality: int = 35
    preset: str = "medium"
    subsampling: Literal["4:2:0", "4:4:4"] = "4:2:0"
    roi: float = 0.0
    container: Literal["none", "heif"] = "none"

    name: ClassVar[str] = "hevc"
    scale: ClassVar[Sequence[float]] = range(51, -1, -1)
    ladder: ClassVar[tuple[float, ...]] = (42, 37, 32, 27)

    def __post_init__(self) -> None:
        self._store(
            quality=check_integer("quality: HEVC's QP", self.quality, 0, 51),
            roi=check_number("roi: HEVC", self.roi, 0, 25),
        )
        if self.preset not in _PRESETS:
            raise ValueError(f"preset: HEVC takes {', '.join(_PRESETS)}, got {self.preset!r}")
        if self.subsampling not in ("4:2:0", "4:4:4"):
            raise ValueError(f"subsampling: HEVC takes 4:2:0 or 4:4:4, got {self.subsampling!r}")
        if self.container not in ("none", "heif"):
            raise ValueError(f"container: HEVC takes none or heif, got {self.container!r}")
        if self.roi and self.container == "heif":
            raise ValueError("roi: libheif does not support regions of interest; use container='none'")

    @classmethod
    def suffixes(cls) -> tuple[str, ...]:
        return (".hevc", ".heic")

    @property
    def suffix(self) -> str:  # type: ignore[override]  # the same for all instances of other codecs
        """The file suffix: ``.hevc`` or ``.heic``."""
        return ".heic" if self.container == "heif" else ".hevc"

    @property
    def media_type(self) -> str:  # type: ignore[override]
        """The media type: ``video/H265`` or ``image/heic``."""
        return "image/heic" if self.container == "heif" else "video/H265"

    @property
    def needs_saliency(self) -> bool:
        return self.roi > 0

    @property
    def plain(self) -> "Hevc":
        return self.with_settings(roi=0.0)

    def _encode(self, image: npt.NDArray[np.uint8], saliency: npt.NDArray[np.float32] | None) -> bytes:
        if self.container == "heif":
            return self._encode_heif(image)
        height, width = image.shape[:2]
        rows, columns = max(16, height + height % 2) - height, max(16, width + width % 2) - width
        padded = np.pad(image, ((0, rows), (0, columns), (0, 0)), mode="edge")
        offsets = None if saliency is None else self.roi * (1 - _blocks(saliency, *padded.shape[:2]))
        crop = _CROP + bytes([columns << 4 | rows]) if rows or columns else b""
        return self._encode_stream(padded, offsets) + (crop or _END_OF_STREAM)

    def _encode_stream(self, image: npt.NDArray[np.uint8], offsets: npt.NDArray[np.float32] | None) -> bytes:
        av = require("av", "codecs")
        height, width = image.shape[:2]
        gray = image.shape[2] == 1
        layout = "gray" if gray else {"4:2:0": "yuv420p", "4:4:4": "yuv444p"}[self.subsampling]
        # ipratio=1, since x265's QP is that of P frames, and an I frame gets 3 less; range and matrix, so that decoders
        # know what the samples mean; one thread, so that the bytes do not depend on the machine.
        settings = "log-level=none:keyint=1:pools=none:frame-threads=1:info=0:ipratio=1:range=full:colormatrix=bt470bg"
        if offsets is None:
            settings += f":qp={self.quality}"
        else:
            # x265 takes offsets only with adaptive quantization and without a fixed QP: at a negligible strength of it,
            # and with qcomp=1, the base is the fixed QP again.
            settings += f":crf={self.quality}:qcomp=1:aq-mode=1:aq-strength=0.0001:qg-size={_BLOCK}"
        context = av.CodecContext.create("libx265", "w")
        context.width, context.height, context.pix_fmt = width, height, layout
        context.time_base = Fraction(1, 25)
        context.options = {"preset": self.preset, "x265-params": settings}
        frame = av.VideoFrame.from_ndarray(image[..., 0] if gray else image, format="gray" if gray else "rgb24")
        frame = frame.reformat(format=layout, dst_colorspace="ITU601", dst_color_range="JPEG")
        if offsets is not None:
            frame = _with_regions(frame, offsets)
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])

    def _encode_heif(self, image: npt.NDArray[np.uint8]) -> bytes:
        library = require("pillow_heif", "codecs")
        mode = "L" if image.shape[2] == 1 else "RGB"
        stream = io.BytesIO()
        library.from_bytes(mode, (image.shape[1], image.shape[0]), image.tobytes()).save(
            stream,
            quality=50,  # no effect when a QP is given; but -1, the default, is lossless
            chroma=int(self.subsampling.replace(":", "")),
            enc_params={"preset": self.preset, "x265:qp": str(self.quality), "x265:ipratio": "1", "x265:pools": "none"},
        )
        return stream.getvalue()

    def decode(self, data: bytes) -> npt.NDArray[np.uint8]:
        pixels = _decode_heif(data) if data[4:8] == b"ftyp" else _decode_stream(data)
        return pixels[..., None] if pixels.ndim == 2 else pixels

    @classmethod
    def library(cls) -> str:
        av = require("av", "codecs")
        return f"libx265 of FFmpeg {av.ffmpeg_version_info} (av {av.__version__})"


def _blocks(saliency: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
    """Return the map with one value a block, in [0, 1]."""
    size = -(-width // _BLOCK), -(-height // _BLOCK)
    resized = Image.fromarray(saliency.astype(np.float32), "F").resize(size, Image.Resampling.BICUBIC)
    return np.asarray(resized).clip(0, 1)


def _with_regions(frame: Any, offsets: npt.NDArray[np.float32]) -> Any:
    """Return the frame with a QP offset for each block, as FFmpeg's regions of interest."""
    from av.filter import Graph

    graph = Graph()
    last = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25))
    for row, line in enumerate(np.rint(offsets).astype(int)):
        starts = [0, *(np.flatnonzero(np.diff(line)) + 1).tolist(), len(line)]
        for begin, end in pairwise(starts):
            if line[begin]:  # one region for a run of blocks; FFmpeg takes offsets as shares of the QP's range
                region = f"{begin * _BLOCK}:{row * _BLOCK}:{(end - begin) * _BLOCK}:{_BLOCK}:{line[begin] / 51:.6f}"
                node = graph.add("addroi", region)
                last.link_to(node)
                last = node
    sink = graph.add("buffersink")
    last.link_to(sink)
    graph.configure()
    frame.pts, frame.time_base = 0, Fraction(1, 25)
    graph.push(frame)
    return graph.pull()


def _decode_stream(data: bytes) -> npt.NDArray[np.uint8]:
    av = require("av", "codecs")
    rows = columns = 0
    if data[-len(_CROP) - 1 : -1] == _CROP:
        rows, columns = data[-1] & 15, data[-1] >> 4
    elif not data.endswith(_END_OF_STREAM):  # FFmpeg decodes what there is of a truncated frame
        raise CodecError(f"data: not a complete HEVC bitstream ({len(data)} bytes): it has no end-of-bitstream unit")
    context = av.CodecContext.create("hevc", "r")
    context.thread_count = 1
    context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
    try:
        frame = next((f for p in [*context.parse(data), *context.parse(None), None] for f in context.decode(p)), None)
        if frame is None or frame.is_corrupt:
            raise CodecError(f"data: not a valid HEVC bitstream ({len(data)} bytes): it has no intact frame")
        gray = frame.format.name.startswith("gray")
        pixels = frame.to_ndarray(format="gray" if gray else "rgb24")
    except (av.FFmpegError, ValueError, EOFError) as error:
        if isinstance(error, CodecError):
            raise
        raise CodecError(f"data: not a complete and valid HEVC bitstream ({len(data)} bytes): {error}") from error
    if rows >= pixels.shape[0] or columns >= pixels.shape[1]:
        raise CodecError(f"data: not a valid HEVC bitstream ({len(data)} bytes): cropping leaves nothing of it")
    return np.ascontiguousarray(pixels[: pixels.shape[0] - rows, : pixels.shape[1] - columns])


def _decode_heif(data: bytes) -> npt.NDArray[np.uint8]:
    library = require("pillow_heif", "codecs")
    try:
        image = library.open_heif(data)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise CodecError(f"data: {width}x{height} HEIF is over {MAX_PIXELS} pixels")
        return np.asarray(image.to_pillow().convert("L" if image.mode == "L" else "RGB"))
    except (ValueError, OSError, EOFError, RuntimeError, SyntaxError, IndexError) as error:
        if isinstance(error, CodecError):
            raise
        raise CodecError(f"data: not a complete and valid HEIF file ({len(data)} bytes): {error}") from error
