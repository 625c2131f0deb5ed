"""Add your own codec: PNG with fewer levels per channel, which any program reads.

    python examples/add_a_codec.py

In a package, add an entry point so that the command line, workers and Ray find it:

    [project.entry-points."foveate.codecs"]
    png = "my_package:Png"

To test it, write one class: `class TestPng(foveate.testing.CodecConformance): codec_class = Png`.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, features

import foveate
from foveate.images import UNREADABLE, read, to_array


@foveate.register_codec
@dataclass(frozen=True)
class Png(foveate.Codec):
    """PNG with a quality of 1 to 8 bits per channel."""

    quality: int = 4

    name = "png"
    suffix = ".png"
    media_type = "image/png"
    scale = range(1, 9)
    ladder = (2, 3, 4, 5)

    def __post_init__(self):
        if self.quality not in self.scale:
            raise ValueError(f"quality: PNG takes 1 to 8 bits, got {self.quality!r}")

    def _encode(self, image, saliency):
        top = 2**self.quality - 1
        levels = np.round(np.round(image / 255 * top) / top * 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(levels[..., 0] if image.shape[2] == 1 else levels).save(stream, "PNG", optimize=True)
        return stream.getvalue()

    def decode(self, data):
        try:
            return to_array(read(data, gray=True))
        except UNREADABLE as error:
            raise foveate.CodecError(f"data: not a whole PNG ({len(data)} bytes): {error}") from error

    @classmethod
    def library(cls):
        return f"zlib {features.version('zlib')}"


def main() -> None:
    from foveate.demo import Scenes

    scene = Scenes(1)[0][0]
    for codec in ("png:3", "png:5", "jpeg:30"):
        encoded = foveate.Compressor(codec).encode([scene])[0]
        print(f"{codec:8} {len(encoded.data):6,} bytes, {encoded.bpp:.2f} bits a pixel")


if __name__ == "__main__":
    main()
