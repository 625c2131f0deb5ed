"""Images with labels for the commands that measure: those that can be read."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from foveate.cli._output import complain

if TYPE_CHECKING:
    import torch

    from foveate.evaluation import Sample, SampleFolder


def first_readable(samples: "SampleFolder") -> "Sample":
    """Return the first image that can be read."""
    from foveate.evaluation import UnreadableError

    unread: list[UnreadableError] = []
    for k in range(len(samples)):
        try:
            return samples[k]
        except UnreadableError as error:
            unread.append(error)
    raise ValueError(f"IMAGES: no file of {samples.root} is a readable image, such as {unread[0]}")


def readable(samples: "SampleFolder") -> "Iterator[torch.Tensor]":
    """Yield the images that can be read, and name the others."""
    from foveate.evaluation import UnreadableError

    for k in range(len(samples)):
        try:
            yield samples[k].image
        except UnreadableError as error:
            complain(f"skipped {error}")
