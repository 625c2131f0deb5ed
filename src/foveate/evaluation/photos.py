"""Photos from an ImageFolder tree, with the class number that a classifier gives their folder."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from foveate.codecs import MAX_PIXELS
from foveate.images import from_array


@dataclass(frozen=True)
class Photo:
    """One picture: uint8 (3, H, W) as a person sees it, its class number, and a name for reports."""

    pixels: Tensor
    label: int
    name: str


@dataclass
class PhotoFolder:
    """The photos below a folder with one subfolder a class, read one by one as they are iterated.

    A file that is no readable picture is left out and noted in ``skipped``, by its path and the reason.

    Args:
        root: the folder.
        limit: at most this many photos, spread evenly over all (so over the classes); None takes all.

    Raises:
        ValueError: if there is no such folder, no class folder or no file in one, or the limit is not positive.
    """

    root: Path
    limit: int | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root = Path(self.root)
        if not self.root.is_dir():
            raise ValueError(f"IMAGES: there is no folder {self.root}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: expected at least 1, got {self.limit}")
        self.classes = sorted(p.name for p in self.root.iterdir() if p.is_dir() and not p.name.startswith("."))
        if not self.classes:
            raise ValueError(f"IMAGES: {self.root} has no class folders; expected {self.root}/<class>/<photo>")
        found = [p for c in self.classes for p in sorted((self.root / c).rglob("*")) if p.is_file()]
        found = [p for p in found if not p.name.startswith(".")]
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
        return {number: name for name, number in self._labels.items()}

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Photo | None]:
        """Yield each photo in turn, and None for a file that is no readable picture; ``skipped`` starts anew."""
        self.skipped.clear()
        for path in self.paths:
            name = path.relative_to(self.root).as_posix()
            try:
                yield Photo(read(path), self._labels[name.partition("/")[0]], name)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                self.skipped.append((name, str(error)))
                yield None


def read(path: Path) -> Tensor:
    """Read a picture file as uint8 RGB (3, H, W), turned upright where EXIF says it lies on its side.

    Raises:
        OSError: if it is no readable picture.
        ValueError: if it has more than ``foveate.codecs.MAX_PIXELS`` pixels.
    """
    with Image.open(path) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{picture.width}x{picture.height} is over the limit of {MAX_PIXELS} pixels")
        upright = ImageOps.exif_transpose(picture)
        if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
            # What lies under full transparency is no part of the picture: show it on white.
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
        return from_array(np.asarray(upright.convert("RGB")))


def wnids() -> Sequence[str]:
    """The WordNet ids of the 1000 classes of ImageNet-1k, in the usual order (from timm, Apache-2.0)."""
    return (files("foveate.evaluation") / "imagenet_wnids.txt").read_text().split()
