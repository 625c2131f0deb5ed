"""Calibration: what to expect of a new image, measured on a sample of images."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor

from foveate._files import write_text
from foveate.identity import IdentityError, is_lasting
from foveate.rate_control._criteria import Keep


class OperatingPoint(NamedTuple):
    """An operating point: pre-filter strength, scale of the stored image and codec quality."""

    strength: float
    scale: float
    quality: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """Measurements of every grid point on a few hundred images, used as the prior of the search.

    It stores raw measurements, so one calibration serves every built-in criterion at every bound, and any subset of its
    grid. Create one with :meth:`RateControl.calibrate`.

    Attributes:
        codec: the codec's family.
        witnesses: the names of the witnesses.
        points: the grid, P points.
        bits: (N, P) logarithm of the bits per source pixel.
        values: (N, P) for each measure: the minimum over the witnesses. A custom criterion function is keyed by its
            identity; its values are 1 where it holds and -1 where it does not.
    """

    codec: str
    witnesses: tuple[str, ...]
    points: tuple[OperatingPoint, ...]
    bits: Tensor
    values: Mapping[str, Tensor]

    def slack(self, keep: Sequence[Keep]) -> Tensor:
        """Return (N, P) slack: 0 or more where an image meets every criterion.

        Raises:
            ValueError: if the calibration does not cover a criterion.
        """
        slacks = []
        for criterion in keep:
            name = criterion.measure_name
            if name not in self.values:
                raise ValueError(
                    f"calibration: it was made without {name!r}, only with {', '.join(self.values)}; calibrate again"
                )
            slacks.append(criterion.slack(self.values[name]))
        return torch.stack(slacks).amin(0)

    @property
    def digest(self) -> str:
        """A hash of the content, 16 hexadecimal digits."""
        return hashlib.blake2b(self._text().encode(), digest_size=8).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the calibration as JSON, atomically: ``"schema": 1`` followed by the fields of this class.

        Raises:
            IdentityError: if it covers a criterion without an identity that lasts beyond this process.
        """
        for name in self.values:
            if not is_lasting(name):
                raise IdentityError(
                    f"keep: the criterion {name} cannot be told from others once this calibration is read again; "
                    "define it at the top level of a module, or give it a property `identity`"
                )
        write_text(Path(path), self._text())

    def __eq__(self, other: object) -> bool:
        """Whether both have the same content."""
        return self._text() == other._text() if isinstance(other, Calibration) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.codec, self.witnesses, self.points))

    def _text(self) -> str:
        content = {
            "schema": 1,
            "codec": self.codec,
            "witnesses": self.witnesses,
            "points": self.points,
            "bits": _digits(self.bits),
            "values": {name: _digits(values) for name, values in self.values.items()},
        }
        return json.dumps(content, separators=(",", ":")) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a calibration written by :meth:`save`.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if the file is not a calibration.
        """
        text = Path(path).read_text()
        try:
            content = json.loads(text)
            if content["schema"] != 1:
                raise ValueError(f"schema {content['schema']}, expected 1")
            points = tuple(OperatingPoint(*point) for point in content["points"])
            tables = {"bits": content["bits"], **content["values"]}
            bits, *values = (torch.tensor(rows, dtype=torch.float64).view(-1, len(points)) for rows in tables.values())
            if any(table.shape != bits.shape for table in values):
                raise ValueError("its tables differ in size")
            kinds = dict(zip(content["values"], values, strict=True))
            return cls(content["codec"], tuple(content["witnesses"]), points, bits, kinds)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"calibration: {path} is not a calibration that RateControl saved: {error}") from error


def _digits(values: Tensor) -> list[list[float]]:
    """Round to two decimals: images of one kind differ by more than that."""
    return [[round(v, 2) for v in row] for row in values.tolist()]
