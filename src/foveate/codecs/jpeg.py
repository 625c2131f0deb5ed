"""JPEG (ITU-T T.81) through Pillow's libjpeg-turbo."""

import io
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from foveate.codecs._codec import MAX_PIXELS, Codec, CodecError, check_image

Table = tuple[int, ...]


@dataclass(frozen=True)
class Jpeg(Codec):
    """Baseline or progressive JPEG with Huffman tables optimised for each picture.

    Args:
        quality: 1 (coarsest) to 95 (finest), the scale of libjpeg. Above 95 the bytes grow and the picture hardly.
        subsampling: of the chroma planes: ``"4:2:0"``, ``"4:2:2"`` or ``"4:4:4"``. Greyscale pictures have none.
        progressive: several scans of growing precision: about 2 % fewer bytes, slower.
        tables: one or two quantisation tables (luma, chroma) of 64 integers 1 to 255 each, row by row, as they stand
            at quality 50; other qualities scale them by libjpeg's rule. None takes the tables of Annex K.

    Raises:
        TypeError: if ``quality`` is no integer.
        ValueError: if an argument is out of its range.

    Example:
        >>> import numpy as np
        >>> picture = np.full((40, 60, 3), 128, np.uint8)
        >>> data = Jpeg(50).encode(picture)
        >>> Jpeg().decode(data).shape
        (40, 60, 3)
    """

    quality: int = 50
    subsampling: Literal["4:2:0", "4:2:2", "4:4:4"] = "4:2:0"
    progressive: bool = False
    tables: tuple[Table, ...] | None = None

    name: ClassVar[str] = "jpeg"
    suffix: ClassVar[str] = ".jpg"
    media_type: ClassVar[str] = "image/jpeg"

    def __post_init__(self) -> None:
        if isinstance(self.quality, bool) or not isinstance(self.quality, int):
            raise TypeError(f"quality: JPEG takes an integer 1 to 95, got {self.quality!r}")
        if not 1 <= self.quality <= 95:
            raise ValueError(f"quality: JPEG takes 1 to 95, got {self.quality}")
        if self.subsampling not in ("4:2:0", "4:2:2", "4:4:4"):
            raise ValueError(f"subsampling: JPEG takes 4:2:0, 4:2:2 or 4:4:4, got {self.subsampling!r}")
        if self.tables is not None:
            # Tuples all the way down, so that a codec given lists is as hashable as any other.
            tables = tuple(tuple(int(v) for v in table) for table in self.tables)
            if len(tables) not in (1, 2) or any(len(t) != 64 or min(t) < 1 or max(t) > 255 for t in tables):
                raise ValueError("tables: JPEG takes one or two tables of 64 integers from 1 to 255")
            object.__setattr__(self, "tables", tables)

    def encode(self, image: npt.NDArray[np.uint8]) -> bytes:
        check_image(image)
        if max(image.shape[:2]) > 65535:
            raise ValueError(f"image: JPEG holds at most 65535 pixels a side, got {image.shape[:2]}")
        grey = image.shape[2] == 1
        # From an array, so that no EXIF, ICC profile or comment of a file can travel into the bitstream.
        picture = Image.fromarray(np.ascontiguousarray(image[..., 0] if grey else image))
        stream = io.BytesIO()
        how: dict[str, Any] = {} if grey else {"subsampling": self.subsampling}
        if self.tables is not None:  # libjpeg scales them to the quality as it does its own
            how["qtables"] = [list(table) for table in self.tables[: 1 if grey else 2]]
        picture.save(
            stream,
            "JPEG",
            optimize=True,
            progressive=self.progressive,
            quality=self.quality,
            **how,
        )
        return stream.getvalue()

    def decode(self, data: bytes) -> npt.NDArray[np.uint8]:
        try:
            with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise CodecError(f"data: {picture.width}x{picture.height} JPEG is over {MAX_PIXELS} pixels")
                pixels = np.asarray(picture if picture.mode == "L" else picture.convert("RGB"))
        except CodecError:
            raise
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise CodecError(f"data: not a whole and sound JPEG bitstream ({len(data)} bytes): {error}") from error
        return pixels[..., None] if pixels.ndim == 2 else pixels
