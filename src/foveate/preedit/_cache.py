"""Finished edits on disk, as lossless PNG: one subfolder for each kind of edit, one file for each image."""

import hashlib
import io
import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from foveate._files import make_folder, write_bytes, write_text
from foveate.images import UNREADABLE, from_array, image_hash, strict_decoding, to_array

logger = logging.getLogger(__name__)


class EditCache:
    """A folder of finished edits that any number of processes read and add to.

    Args:
        folder: of the cache.
        edit: all that an edit depends on beside the image, as one line of text.
    """

    def __init__(self, folder: Path, edit: str) -> None:
        self._folder = folder / hashlib.sha256(edit.encode()).hexdigest()[:16]
        self._edit = edit

    def get(self, image: Tensor, extra: str) -> Tensor | None:
        """Return the edit of an image (C, H, W) uint8; None if it is not there, or is damaged."""
        path = self._path(image, extra)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            with strict_decoding(), Image.open(io.BytesIO(data), formats=["PNG"]) as file:
                array = np.asarray(file)
        except UNREADABLE as error:
            logger.warning("edits: %s is damaged and is made anew: %s", path, error)
            return None
        edited = from_array(array if array.ndim == 3 else array[..., None])
        return edited if edited.shape == image.shape else None

    def put(self, image: Tensor, extra: str, edited: Tensor) -> None:
        """Add the edit of an image."""
        make_folder(self._folder)
        about = self._folder / "edit.txt"
        if not about.exists():
            write_text(about, self._edit + "\n")
        out = io.BytesIO()
        array = to_array(edited)
        Image.fromarray(array if array.shape[2] == 3 else array[..., 0]).save(out, "PNG")
        write_bytes(self._path(image, extra), out.getvalue())

    def _path(self, image: Tensor, extra: str) -> Path:
        name = image_hash(image)
        return self._folder / f"{name}{'-' if extra else ''}{extra}.png"


def map_digest(saliency_map: Tensor) -> str:
    """Return a text that identifies a map (1, h, w)."""
    values = saliency_map.detach().to("cpu", torch.float32).contiguous()
    return hashlib.sha256(str(tuple(values.shape)).encode() + values.numpy().tobytes()).hexdigest()[:16]
