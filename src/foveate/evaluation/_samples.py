"""The images of an evaluation: an ImageFolder tree, a Dataset, or what a DataLoader gives."""

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
from foveate.codecs import read_image
from foveate.images import as_tensor, check_formats, read_bytes, to_uint8


@dataclass(frozen=True)
class Sample:
    """An image with its class and its name.

    Attributes:
        image: uint8 (3, H, W), whole and not normalized.
        label: the class number.
        name: for reports.
        file_bytes: of the file that it was read from; None if that is not known.
    """

    image: Tensor
    label: int
    name: str
    file_bytes: int | None = None


class UnreadableError(ValueError):
    """A file is not a readable image; an evaluation leaves it out and reports it.

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
    """Return the samples of anything that holds images and labels.

    Args:
        source: a folder (:class:`SampleFolder`) or a list of :class:`Sample`; a map-style ``torch.utils.data.Dataset``
            of pairs (image, label); or a ``DataLoader``, an iterable Dataset or any other iterable of pairs (images,
            labels), batched or not, that gives the same images in the same order each time. An image is a PIL image, a
            uint8 array (H, W, C) or a tensor (C, H, W), uint8 or float in [0, 1] and not normalized, C 3 or 1.

    Returns:
        Samples by number if the source has numbers, else samples in its order, named by their number.

    Raises:
        TypeError: if the source is none of these; on reading, if it gives anything but such pairs.
        ValueError: on reading, if a label is not an integer of at least 0.

    Example:
        >>> from foveate.demo import Scenes
        >>> as_samples(Scenes(3))[2].image.shape
        torch.Size([3, 160, 160])
    """
    if isinstance(source, SampleFolder | _DatasetSamples | _Stream) or (
        isinstance(source, Sequence) and all(isinstance(item, Sample) for item in source)
    ):
        return source
    if isinstance(source, torch.utils.data.DataLoader | torch.utils.data.IterableDataset):
        return _Stream(source)
    if isinstance(source, Samples):  # by its methods alone: a Dataset, whose items may be anything
        return _DatasetSamples(source)
    if isinstance(source, Iterable):
        return _Stream(source)
    raise TypeError(f"source: expected a SampleFolder, a Dataset or a DataLoader, got {type(source).__name__}")


@dataclass(frozen=True)
class _DatasetSamples:
    """The samples of a map-style Dataset."""

    source: Any

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"index: expected 0 to {len(self) - 1}, got {index}")
        image, label = _pair(self.source[index])
        return _sample(image, label, index)


@dataclass(frozen=True)
class _Stream:
    """The samples of an iterable of images or batches."""

    source: Iterable[Any]

    def __iter__(self) -> Iterator[Sample]:
        number = 0
        for item in self.source:
            images, labels = _pair(item)
            if not (isinstance(images, list | tuple) or (isinstance(images, Tensor) and images.ndim == 4)):
                images, labels = [images], [labels]
            for image, label in zip(images, labels, strict=True):
                yield _sample(image, label, number)
                number += 1


def _pair(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, list | tuple) or len(item) != 2:
        raise TypeError(
            f"source: expected pairs (image, label), got {type(item).__name__}; wrap the Dataset so that it gives them"
        )
    return item[0], item[1]


def _sample(image: Any, label: Any, number: int) -> Sample:
    tensor = to_uint8(as_tensor(image, f"image {number}").detach().cpu())
    if isinstance(label, bool | np.bool_):
        label = int(label)
    # Refused rather than never right: -1 marks a hidden label.
    count = check_count(f"label of image {number}", label, 0)
    return Sample(tensor.expand(3, -1, -1).contiguous(), count, f"{number}")


class SampleFolder:
    """The images below a folder with one subfolder per class, each read when it is needed.

    Everything in a class folder counts, pipes and folders without permission to read too: getting what is not a
    readable image raises :class:`UnreadableError`.

    Args:
        root: the folder.
        limit: at most this many images, spread evenly over all (so over the classes); None takes all.
        formats: further formats of Pillow to read, see :func:`foveate.images.read`.

    Attributes:
        root: the folder.
        classes: the names of the class folders, sorted.
        paths: of the images.
        labels: the number of each class folder.

    Raises:
        ValueError: if there is no such folder, no class folder or no file in one, the limit is not an integer of at
            least 1, or Pillow knows no such format.
        OSError: if the folder may not be read.
    """

    def __init__(self, root: str | Path, limit: int | None = None, formats: Sequence[str] = ()) -> None:
        self.root = Path(root)
        self.formats = formats
        if not self.root.is_dir():
            raise ValueError(f"root: there is no folder {self.root}")
        if limit is not None:
            limit = check_count("limit", limit)
        check_formats(formats)
        self.classes = sorted(p.name for p in self.root.iterdir() if p.is_dir() and not p.name.startswith("."))
        if not self.classes:
            raise ValueError(f"root: {self.root} has no class folders; expected {self.root}/<class>/<image>")
        paths = [p for c in self.classes for p in sorted(_below(self.root / c)) if not p.name.startswith(".")]
        if not paths:
            raise ValueError(f"root: the class folders of {self.root} are empty")
        count = len(paths) if limit is None else min(limit, len(paths))
        self.paths = [paths[k * len(paths) // count] for k in range(count)]
        self.labels = {name: k for k, name in enumerate(self.classes)}
        self._outputs = len(self.classes)
        self._names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"SampleFolder({str(self.root)!r}: {len(self.paths)} images, {len(self.classes)} classes)"

    def number_classes(self, outputs: int, names: Sequence[str] = ()) -> None:
        """Give each class folder its number among a classifier's outputs.

        Folders named by ImageNet wnids (``n01440764``) take the usual 1000-class index, even if only some are present;
        folders named as the classifier's classes take those. Others are numbered in sorted order, and there must be as
        many of them as outputs.

        Args:
            outputs: how many classes the classifier has.
            names: of its classes in order, if they are known.

        Raises:
            ValueError: if none of these fits, or some folders are named as classes and others are not.
        """
        numbers = {name: k for k, name in enumerate(names)}
        named = [c for c in self.classes if c in numbers]
        if outputs == 1000 and all(re.fullmatch(r"n\d{8}", c) for c in self.classes):
            index = {wnid: k for k, wnid in enumerate(wnids())}
            unknown = [c for c in self.classes if c not in index]
            if unknown:
                raise ValueError(
                    f"root: folder {unknown[0]!r} is not a class of ImageNet-1k ({len(unknown)} such folders)"
                )
            self.labels = {c: index[c] for c in self.classes}
        elif named:
            others = [c for c in self.classes if c not in numbers]
            if others:
                raise ValueError(
                    f"root: folder {named[0]!r} is named as a class of the model, and {others[0]!r} is not "
                    f"({len(others)} such folders); its classes are {', '.join(names[:10])}{', …' * (len(names) > 10)}"
                )
            self.labels = {c: numbers[c] for c in self.classes}
        elif len(self.classes) == outputs:
            self.labels = {c: k for k, c in enumerate(self.classes)}
        else:
            raise ValueError(
                f"root: {self.root} has {len(self.classes)} class folders and the model has {outputs} outputs; "
                "expected as many folders as outputs, folders named as the model's classes, or by ImageNet wnids and "
                "1000 outputs"
            )
        self._outputs, self._names = outputs, tuple(names)

    def class_names(self) -> dict[int, str]:
        """Return a name for each class number: the classifier's, or the folder's; for ImageNet the English one."""
        if self._outputs == 1000 and wnids()[self.labels[self.classes[0]]] == self.classes[0]:
            from torchvision.models import ResNet18_Weights  # any ImageNet weights know the names

            return dict(enumerate(ResNet18_Weights.DEFAULT.meta["categories"]))
        named = {number: printable(name) for name, number in self.labels.items()}
        return {number: printable(name) for number, name in enumerate(self._names)} | named

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """Read an image.

        Raises:
            UnreadableError: if the file is not a readable image.
            IndexError: if there are not that many.
        """
        path = self.paths[index]
        relative = path.relative_to(self.root)
        name = printable(relative.as_posix().replace("\\", r"\\"))  # doubled, so that names stay different
        try:
            data = read_bytes(path)
            image = read_image(data, path.suffix, formats=self.formats)
            return Sample(image, self.labels[relative.parts[0]], name, len(data))
        except Exception as error:
            raise UnreadableError(name, printable(str(error)) or type(error).__name__) from error


def _below(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is not a folder, and the folders that may not be read."""
    unread: list[str] = []
    for parent, _, names in os.walk(folder, onerror=lambda error: unread.append(error.filename)):
        yield from (Path(parent, name) for name in names)
    yield from map(Path, unread)


def wnids() -> Sequence[str]:
    """Return the WordNet ids of the 1000 classes of ImageNet-1k, in the usual order (from timm, Apache-2.0)."""
    return (files("foveate.evaluation") / "imagenet_wnids.txt").read_text().split()
