"""Add your own host: a transform for a Hugging Face dataset.

    dataset.set_transform(CompressImages("jpeg", quality=(10, 60)))

    python examples/add_a_host.py

`foveate.draws` parses the arguments as in all hosts, draws with torch's generator and compresses; the host only finds
the images. To test it, subclass `foveate.testing.HostConformance` with `make = CompressImages` and `call`.
"""

from typing import Any

import numpy as np
import PIL.Image
import torch

from foveate.draws import CompressDraws
from foveate.images import as_tensor, to_array


class CompressImages:
    """Compress and decode the images in a batch of rows, each with its own draw.

    Args:
        codec: a codec or its short string.
        column: the column that holds PIL images, or arrays (H, W, 3).
        arguments: as in every host: quality, prefilter, saliency, strength, scale, target, control.
    """

    def __init__(self, codec: str = "jpeg", *, column: str = "image", **arguments: Any) -> None:
        self.draws, self.column = CompressDraws.of(codec, **arguments), column

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {**rows, self.column: [self._compress(image) for image in rows[self.column]]}

    def _compress(self, image: Any) -> PIL.Image.Image:
        decoded = self.draws.apply(as_tensor(image)[None], self.draws.draw())[0]
        array = to_array(decoded)
        return PIL.Image.fromarray(np.squeeze(array, 2) if array.shape[2] == 1 else array)


def main() -> None:
    from foveate import Compressor
    from foveate.demo import Scenes

    torch.manual_seed(0)
    rows = {"image": [scene for scene, _ in Scenes(4)], "label": [0, 1, 2, 3]}
    decoded = CompressImages("jpeg", quality=(10, 40))(rows)
    bits = [encoded.bpp for encoded in Compressor("jpeg:25").encode(rows["image"])]
    print(f"{len(decoded['image'])} images, {sum(bits) / len(bits):.2f} bits a pixel at quality 25")


if __name__ == "__main__":
    main()
