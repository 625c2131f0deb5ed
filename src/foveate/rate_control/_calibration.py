"""Calibration: what to expect of a new image, measured on a sample of images."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from foveate._files import write_text
from foveate.identity import IdentityError, is_lasting
from foveate.rate_control._criteria import Keep
from foveate.rate_control._keep_model import Answers, KeepModel, Tables


class OperatingPoint(NamedTuple):
    """An operating point: pre-filter strength, scale of the stored image and codec quality."""

    strength: float
    scale: float
    quality: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """Measurements of every grid point on a few hundred images, used as the prior of the search.

    It stores raw measurements, so one calibration serves every built-in criterion at every bound, any subset of its
    grid, and any of its classifiers. Create one with :meth:`RateControl.calibrate`.

    Attributes:
        codec: the codec's family.
        witnesses: the names of the classifiers, W of them.
        points: the grid, P points.
        bits: (N, P) logarithm of the bits per source pixel.
        values: (W, N, P) for each measure. A custom criterion function is keyed by its identity; its values are 1 where
            it holds and -1 where it does not.
        clean: (W, N) lead of each classifier's answer on the clean image: its logit minus the best other.
        fidelities: the names of the fidelity witnesses, D of them.
        distances: (D, N, P) of the decoded images from their sources.
        model: for ``keep="robust"``.
    """

    codec: str
    witnesses: tuple[str, ...]
    points: tuple[OperatingPoint, ...]
    bits: Tensor
    values: Mapping[str, Tensor]
    clean: Tensor
    fidelities: tuple[str, ...]
    distances: Tensor
    model: KeepModel

    def slack(self, keep: Sequence[Keep], witnesses: Sequence[str] = ()) -> Tensor:
        """Return (N, P) slack: 0 or more where an image meets every criterion, for all of these classifiers.

        Args:
            keep: the criteria.
            witnesses: names of classifiers; if the calibration lacks one of them, those that it has count.

        Raises:
            ValueError: if the calibration does not cover a criterion.
        """
        rows = [*range(len(self.witnesses))]
        if witnesses and set(witnesses) <= set(self.witnesses):
            rows = [self.witnesses.index(name) for name in witnesses]
        slacks = []
        for criterion in keep:
            name = criterion.measure_name
            if name not in self.values:
                raise ValueError(
                    f"calibration: it was made without {name!r}, only with {', '.join(self.values)}; calibrate again"
                )
            slacks.append(criterion.slack(self.values[name][rows].amin(0)))
        return torch.stack(slacks).amin(0)

    def tables(self) -> Tables:
        """Return what ``keep="robust"`` learns from."""
        return Tables(self.bits, self.values["closeness"], self.values["lead"], self.clean, self.distances)

    @property
    def digest(self) -> str:
        """A hash of the content, 16 hexadecimal digits."""
        return hashlib.blake2b(self._text().encode(), digest_size=8).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the calibration as JSON, atomically: ``"schema": 2`` followed by the fields of this class.

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
            "schema": 2,
            "codec": self.codec,
            "witnesses": self.witnesses,
            "points": self.points,
            "bits": _digits(self.bits),
            "values": {name: _digits(values) for name, values in self.values.items()},
            "clean": _digits(self.clean),
            "fidelities": self.fidelities,
            "distances": _digits(self.distances, 4),
            "model": asdict(self.model),
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
            if content["schema"] != 2:
                raise ValueError(f"schema {content['schema']}, expected 2; calibrate again")
            points = tuple(OperatingPoint(*point) for point in content["points"])
            bits = torch.tensor(content["bits"], dtype=torch.float64).view(-1, len(points))

            def table(rows: list[Any], names: Sequence[str]) -> Tensor:
                return torch.tensor(rows, dtype=torch.float64).view(len(names), *bits.shape)

            witnesses, fidelities = tuple(content["witnesses"]), tuple(content["fidelities"])
            model = KeepModel(**content["model"])
            if len(model.weights) != Answers.FEATURES + len(fidelities):
                raise ValueError(f"its model has {len(model.weights)} weights")
            return cls(
                content["codec"],
                witnesses,
                points,
                bits,
                {name: table(rows, witnesses) for name, rows in content["values"].items()},
                torch.tensor(content["clean"], dtype=torch.float64).view(len(witnesses), len(bits)),
                fidelities,
                table(content["distances"], fidelities),
                model,
            )
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"calibration: {path} is not a calibration that RateControl saved: {error}") from error


def _digits(values: Tensor, digits: int = 2) -> list[Any]:
    """Round to some decimals: images of one kind differ by more than that."""
    if values.ndim > 1:
        return [_digits(row, digits) for row in values]
    return [round(v, digits) for v in values.tolist()]
