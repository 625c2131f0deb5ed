"""JPEG (ITU-T T.81) through Pillow's libjpeg-turbo."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from foveate.codecs import _pillow
from foveate.codecs._codec import Codec, check_integer, check_subsampling

Table = tuple[int, ...]


@dataclass(frozen=True)
class Jpeg(Codec):
    """Baseline or progressive JPEG with Huffman tables optimized for each picture.

    Args:
        quality: 1 (coarsest) to 95 (finest), the scale of libjpeg. Above 95 the bytes grow and the picture hardly.
        subsampling: of the chroma planes: ``"4:2:0"``, ``"4:2:2"`` or ``"4:4:4"``. Grayscale pictures have none.
        progressive: several scans of growing precision: about 2 % fewer bytes, slower.
        tables: one or two quantization tables (luma, chroma) of 64 integers 1 to 255 each, row by row, as they stand
            at quality 50; other qualities scale them by libjpeg's rule. None takes the tables of Annex K. A
            short string spells them as 128 hexadecimal digits a table: ``"jpeg:tables=100b0a..."``.

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
    scale: ClassVar[Sequence[float]] = range(1, 96)
    ladder: ClassVar[tuple[float, ...]] = (12, 25, 50, 75)

    def __post_init__(self) -> None:
        self._keep(quality=check_integer("quality: JPEG", self.quality, 1, 95))
        check_subsampling("JPEG", self.subsampling)
        if not isinstance(self.progressive, bool | np.bool_):
            raise TypeError(f"progressive: JPEG takes True or False, got {self.progressive!r}")
        self._keep(progressive=bool(self.progressive))
        if self.tables is not None:
            # Tuples all the way down, so that a codec given lists is as hashable as any other.
            tables = tuple(tuple(check_integer("tables: JPEG", v, 1, 255) for v in table) for table in self.tables)
            if len(tables) not in (1, 2) or any(len(table) != 64 for table in tables):
                raise ValueError("tables: JPEG takes one or two tables of 64 integers from 1 to 255")
            self._keep(tables=tables)

    def _encode(self, image: npt.NDArray[np.uint8], saliency: npt.NDArray[np.float32] | None) -> bytes:
        gray = image.shape[2] == 1
        how: dict[str, Any] = {} if gray else {"subsampling": self.subsampling}
        if self.tables is not None:  # libjpeg scales them to the quality as it does its own
            how["qtables"] = [list(table) for table in self.tables[: 1 if gray else 2]]
        return _pillow.encode(
            image, "JPEG", 65535, quality=self.quality, optimize=True, progressive=self.progressive, **how
        )

    @classmethod
    def _read(cls, key: str, kind: Any, text: str) -> Any:
        if key != "tables":
            return super()._read(key, kind, text)
        values = tuple(bytes.fromhex(text))
        return tuple(values[k : k + 64] for k in range(0, len(values), 64))

    @classmethod
    def _say(cls, value: Any) -> str:
        if isinstance(value, tuple):
            return "".join(f"{v:02x}" for table in value for v in table)
        return super()._say(value)

    def decode(self, data: bytes) -> npt.NDArray[np.uint8]:
        return _pillow.decode(data, "JPEG")

    @classmethod
    def library(cls) -> str:
        return _pillow.library("libjpeg-turbo", "libjpeg_turbo")
