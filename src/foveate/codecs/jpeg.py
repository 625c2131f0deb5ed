"""JPEG (ITU-T T.81) with Pillow's libjpeg-turbo."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from foveate.codecs import _pillow
from foveate.codecs._codec import Codec, check_integer, check_subsampling

__all__ = ["Jpeg", "QuantizationTable"]

QuantizationTable: TypeAlias = tuple[int, ...]
"""64 integers from 1 to 255, row by row."""

# Found by the search of tests/benchmarks/bench_tables.py. Fixed: a better pair gets another name, as names are kept in
# manifests and caches.
_MACHINE: tuple[QuantizationTable, ...] = (
    (
        *(9, 8, 10, 16, 24, 40, 52, 63),
        *(9, 12, 14, 19, 26, 59, 62, 57),
        *(14, 13, 16, 24, 41, 58, 71, 58),
        *(14, 17, 22, 30, 52, 90, 83, 65),
        *(18, 22, 38, 57, 70, 113, 108, 81),
        *(24, 36, 56, 66, 84, 109, 119, 98),
        *(50, 66, 81, 91, 108, 128, 128, 108),
        *(74, 95, 99, 103, 118, 106, 110, 107),
    ),
    (
        *(5, 6, 8, 17, 37, 38, 40, 42),
        *(6, 7, 9, 24, 38, 40, 42, 44),
        *(8, 9, 21, 38, 40, 42, 44, 46),
        *(17, 24, 38, 40, 42, 44, 46, 48),
        *(37, 38, 40, 42, 44, 46, 48, 51),
        *(38, 40, 42, 44, 46, 48, 51, 53),
        *(40, 42, 44, 46, 48, 51, 53, 55),
        *(42, 44, 46, 48, 51, 53, 55, 58),
    ),
)
_NAMED = {"machine": _MACHINE}


@dataclass(frozen=True)
class Jpeg(Codec):
    """Baseline or progressive JPEG with Huffman tables optimized for each image.

    Args:
        quality: 1 (coarsest) to 95 (finest), the scale of libjpeg. Above 95 the bytes grow, and the image hardly
            improves.
        subsampling: of the chroma planes: ``"4:2:0"``, ``"4:2:2"`` or ``"4:4:4"``. Grayscale images have none.
        progressive: several scans of growing precision: about 2 % fewer bytes, slower.
        tables: one or two quantization tables (luma, chroma) of 64 integers 1 to 255 each, row by row, for
            quality 50; other qualities scale them by libjpeg's rule. None takes the tables of Annex K; ``"machine"``
            a pair found by a search for four classifiers, finer in color and in the lowest luma frequencies. In a short
            string they are that name, or 128 hexadecimal digits a table: ``"jpeg:tables=100b0a..."``.

    Raises:
        TypeError: if ``quality`` or a table entry is not an integer.
        ValueError: if an argument is out of its range.

    Example:
        >>> import numpy as np
        >>> image = np.full((40, 60, 3), 128, np.uint8)
        >>> data = Jpeg(50).encode(image)
        >>> Jpeg().decode(data).shape
        (40, 60, 3)
    """

    quality: int = 50
    subsampling: Literal["4:2:0", "4:2:2", "4:4:4"] = "4:2:0"
    progressive: bool = False
    tables: tuple[QuantizationTable, ...] | Literal["machine"] | None = None

    name: ClassVar[str] = "jpeg"
    suffix: ClassVar[str] = ".jpg"
    media_type: ClassVar[str] = "image/jpeg"
    scale: ClassVar[Sequence[float]] = range(1, 96)
    ladder: ClassVar[tuple[float, ...]] = (12, 25, 50, 75)

    def __post_init__(self) -> None:
        self._store(quality=check_integer("quality: JPEG", self.quality, 1, 95))
        check_subsampling("JPEG", self.subsampling)
        if not isinstance(self.progressive, bool | np.bool_):
            raise TypeError(f"progressive: JPEG takes True or False, got {self.progressive!r}")
        self._store(progressive=bool(self.progressive))
        if isinstance(self.tables, str):
            if self.tables not in _NAMED:
                raise ValueError(f"tables: expected 'machine' or one or two tables of 64 integers, got {self.tables!r}")
            self._store(tables=_NAMED[self.tables])
        elif self.tables is not None:
            # Nested tuples, so that a codec that was given lists is hashable too.
            tables = tuple(tuple(check_integer("tables: JPEG", v, 1, 255) for v in table) for table in self.tables)
            if len(tables) not in (1, 2) or any(len(table) != 64 for table in tables):
                raise ValueError("tables: JPEG takes one or two tables of 64 integers from 1 to 255")
            self._store(tables=tables)

    def _encode(self, image: npt.NDArray[np.uint8], saliency: npt.NDArray[np.float32] | None) -> bytes:
        gray = image.shape[2] == 1
        settings: dict[str, Any] = {} if gray else {"subsampling": self.subsampling}
        if self.tables is not None:  # libjpeg scales them to the quality as it does its own
            settings["qtables"] = [list(table) for table in self.tables[: 1 if gray else 2]]
        return _pillow.encode(
            image, "JPEG", 65535, quality=self.quality, optimize=True, progressive=self.progressive, **settings
        )

    @classmethod
    def _parse_value(cls, key: str, kind: Any, text: str) -> Any:
        if key != "tables":
            return super()._parse_value(key, kind, text)
        if text in _NAMED:
            return text
        values = tuple(bytes.fromhex(text))
        return tuple(values[k : k + 64] for k in range(0, len(values), 64))

    @classmethod
    def _takes(cls, key: str, kind: Any) -> str:
        return "'machine' or hexadecimal digits" if key == "tables" else super()._takes(key, kind)

    @classmethod
    def _format_value(cls, value: Any) -> str:
        if isinstance(value, tuple):
            names = [name for name, tables in _NAMED.items() if tables == value]
            return names[0] if names else "".join(f"{v:02x}" for table in value for v in table)
        return super()._format_value(value)

    def decode(self, data: bytes) -> npt.NDArray[np.uint8]:
        return _pillow.decode(data, "JPEG")

    @classmethod
    def library(cls) -> str:
        return _pillow.library("libjpeg-turbo", "libjpeg_turbo")
