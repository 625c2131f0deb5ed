"""The pictures of an evaluation: an ImageFolder tree, a Dataset, or what a DataLoader gives."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from foveate._checks import check_count
from foveate._files import printable
from foveate.images import as_tensor, check_formats, read, to_uint8


@dataclass(frozen=True)
class Sample:
    """One picture: uint8 (3, H, W) as a person sees it, its class number, and a name for reports."""

    pixels: Tensor
    label: int
    name: str


class UnreadableError(ValueError):
    """A file that is no readable picture: an evaluation leaves it out and says so.

    Attributes:
        name: of the file.
        reason: why it could not be read.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


@runtime_checkable
class Samples(Protocol):
    """Samples by number, such as a list of :class:`Sample`; one that cannot be read raises :class:`UnreadableError`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


SampleSource: TypeAlias = "Samples | torch.utils.data.Dataset[Any] | Iterable[Any]"
"""What can be evaluated: see :func:`as_samples`."""


def as_samples(source: SampleSource) -> Samples | Iterable[Sample]:
    """Return the photos of whatever holds pictures and labels.

    Args:
        source: a folder (:class:`SampleFolder`) or a list of :class:`Sample`; a map-style ``torch.utils.data.Dataset``
            of pairs (image, label); or a ``DataLoader``, an iterable Dataset or any other iterable of pairs (images,
            labels), batched or not, that gives the same pictures in the same order each time. A picture is a PIL image,
            a uint8 array (H, W, C) or a tensor (C, H, W), uint8 or float in [0, 1] and not normalized, C 3 or 1.

    Returns:
        Samples by number where the source has numbers, else photos in its order, named by their number.

    Raises:
        TypeError: if the source is neither; on reading, if it gives anything but such pairs.
        ValueError: on reading, if a label is not an integer of at least 0.

    Example:
        >>> from foveate.demo import Scenes
        >>> as_samples(Scenes(3))[2].pixels.shape
        torch.Size([3, 160, 160])
    """
    if isinstance(source, SampleFolder | _DatasetSamples | _Stream) or (
        isinstance(source, Sequence) and all(isinstance(item, Sample) for item in source)
    ):
        return source
    if isinstance(source, torch.utils.data.DataLoader | torch.utils.data.IterableDataset):
        return _Stream(source)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return _DatasetSamples(source)
    if isinstance(source, Iterable):
        return _Stream(source)
    raise TypeError(f"source: expected a SampleFolder, a Dataset or a DataLoader, got {type(source).__name__}")


@dataclass(frozen=True)
class _DatasetSamples:
    source: Any

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"index: these are {len(self)} pictures, got {index}")
        picture, label = _pair(self.source[index])
        return _photo(picture, label, index)


@dataclass(frozen=True)
class _Stream:
    source: Iterable[Any]

    def __iter__(self) -> Iterator[Sample]:
        number = 0
        for item in self.source:
            pictures, labels = _pair(item)
            if not (isinstance(pictures, list | tuple) or (isinstance(pictures, Tensor) and pictures.ndim == 4)):
                pictures, labels = [pictures], [labels]
            for picture, label in zip(pictures, labels, strict=True):
                yield _photo(picture, label, number)
                number += 1


def _pair(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, list | tuple) or len(item) != 2:
        raise TypeError(
            f"source: expected pairs (picture, label), got {type(item).__name__}; wrap the Dataset to give such"
        )
    return item[0], item[1]


def _photo(picture: Any, label: Any, number: int) -> Sample:
    pixels = to_uint8(as_tensor(picture, f"picture {number}").detach().cpu())
    if isinstance(label, bool | np.bool_):
        label = int(label)
    # Refused rather than never right: -1 marks a hidden label.
    return Sample(
        pixels.expand(3, -1, -1).contiguous(), check_count(f"label of picture {number}", label, 0), f"{number}"
    )


@dataclass
class SampleFolder:
    """The photos below a folder with one subfolder a class, each read when it is asked for.

    Getting what is not a readable image raises :class:`UnreadableError`: all that stands in a class folder counts,
    pipes and folders that may not be read too.

    Args:
        root: the folder.
        limit: at most this many photos, spread evenly over all (so over the classes); None takes all.
        formats: further formats of Pillow to read, see :func:`foveate.images.read`.

    Raises:
        ValueError: if there is no such folder, no class folder or no file in one, the limit is not an integer of at
            least 1, or Pillow knows no such format.
        OSError: if the folder may not be read.
    """

    root: Path
    limit: int | None = None
    formats: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.root = Path(self.root)
        if not self.root.is_dir():
            raise ValueError(f"IMAGES: there is no folder {self.root}")
        if self.limit is not None:
            self.limit = check_count("limit", self.limit)
        check_formats(self.formats)
        self.classes = sorted(p.name for p in self.root.iterdir() if p.is_dir() and not p.name.startswith("."))
        if not self.classes:
            raise ValueError(f"IMAGES: {self.root} has no class folders; expected {self.root}/<class>/<photo>")
        found = [p for c in self.classes for p in sorted(_below(self.root / c)) if not p.name.startswith(".")]
        if not found:
            raise ValueError(f"IMAGES: the class folders of {self.root} are empty")
        count = len(found) if self.limit is None else min(self.limit, len(found))
        self.paths = [found[k * len(found) // count] for k in range(count)]
        self._labels = {name: k for k, name in enumerate(self.classes)}
        self._outputs = len(self.classes)

    def number_classes(self, outputs: int) -> None:
        """Give each class folder its number among a classifier's outputs.

        Folders named as ImageNet wnids (``n01440764``) take the usual 1000-class index, also when only some are there.
        Other folders are numbered in sorted order, and must then be as many as the outputs.

        Raises:
            ValueError: if neither fits.
        """
        if outputs == 1000 and all(re.fullmatch(r"n\d{8}", c) for c in self.classes):
            index = {wnid: k for k, wnid in enumerate(wnids())}
            strange = [c for c in self.classes if c not in index]
            if strange:
                raise ValueError(
                    f"IMAGES: folder {strange[0]!r} is no class of ImageNet-1k ({len(strange)} such folders)"
                )
            self._labels = {c: index[c] for c in self.classes}
        elif len(self.classes) == outputs:
            self._labels = {c: k for k, c in enumerate(self.classes)}
        else:
            raise ValueError(
                f"IMAGES: {self.root} has {len(self.classes)} class folders and the model has {outputs} outputs; they "
                "must be as many, or the folders be named by ImageNet wnids and the outputs be 1000"
            )
        self._outputs = outputs

    def class_names(self) -> dict[int, str]:
        """Return a name for each numbered class: the folder's, or for ImageNet's 1000 classes the English one."""
        if self._outputs == 1000 and wnids()[self._labels[self.classes[0]]] == self.classes[0]:
            from torchvision.models import ResNet18_Weights  # any ImageNet weights know the names

            return dict(enumerate(ResNet18_Weights.DEFAULT.meta["categories"]))
        return {number: printable(name) for name, number in self._labels.items()}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """Read a photo.

        Raises:
            UnreadableError: if the file is no readable picture.
            IndexError: if there are not so many.
        """
        path = self.paths[index]
        relative = path.relative_to(self.root)
        name = printable(relative.as_posix().replace("\\", r"\\"))  # doubled, so that no two names become one
        try:
            return Sample(read(path, formats=self.formats), self._labels[relative.parts[0]], name)
        except Exception as error:
            raise UnreadableError(name, printable(str(error)) or type(error).__name__) from error


def _below(folder: Path) -> Iterator[Path]:
    """All that is no folder below one, and the folders that may not be read."""
    unread: list[str] = []
    for parent, _, names in os.walk(folder, onerror=lambda error: unread.append(error.filename)):
        yield from (Path(parent, name) for name in names)
    yield from map(Path, unread)


def wnids() -> Sequence[str]:
    """The WordNet ids of the 1000 classes of ImageNet-1k, in the usual order (from timm, Apache-2.0)."""
    return (files("foveate.evaluation") / "imagenet_wnids.txt").read_text().split()
