"""Small images of every format that is read, and mutations of their bytes, the same for the same seed."""

import functools
import io

import torch
from PIL import Image

from foveate.codecs import as_codec
from foveate.demo import Scenes
from foveate.images import read, to_array

SIDE = 48


@functools.cache
def sound():
    """The bytes of sound images of every allowed format, by a name of their kind with the usual ending."""
    scene = Scenes(1)[0][0].resize((SIDE, SIDE - 7))
    others = [scene.transpose(Image.Transpose.ROTATE_180), scene.convert("L").convert("RGB")]
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a scene"

    def saved(kind, image=scene, **options):
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        return stream.getvalue()

    several = {"save_all": True, "append_images": others}
    images = {
        "plain.jpg": saved("JPEG", quality=80),
        "progressive.jpg": saved("JPEG", progressive=True, quality=70, exif=exif),
        "gray.jpg": saved("JPEG", scene.convert("L")),
        "plain.png": saved("PNG"),
        "palette.png": saved("PNG", scene.convert("P"), transparency=3),
        "deep.png": saved("PNG", Image.new("I;16", (SIDE, 9), 30000)),
        "animated.png": saved("PNG", **several),
        "lossy.webp": saved("WEBP", quality=50, exif=exif),
        "lossless.webp": saved("WEBP", lossless=True),
        "animated.webp": saved("WEBP", **several),
        "plain.avif": saved("AVIF", speed=10),
        "plain.jp2": saved("JPEG2000"),
        "plain.gif": saved("GIF"),
        "animated.gif": saved("GIF", **several),
        "plain.bmp": saved("BMP"),
        "plain.tif": saved("TIFF"),
        "packed.tif": saved("TIFF", compression="tiff_lzw"),
        "jpeg.tif": saved("TIFF", compression="jpeg"),
        "pages.tif": saved("TIFF", compression="tiff_deflate", **several),
        "plain.ppm": saved("PPM"),
        "gray.pgm": saved("PPM", scene.convert("L")),
        "text.ppm": b"P3 # text\n" + f"{SIDE} 9 255\n".encode() + b"12 34 56 " * (9 * SIDE),
    }
    array = to_array(read(images["plain.png"]))
    for name, spec in (("plain.jxl", "jxl:effort=1"), ("plain.heic", "hevc:container=heif,preset=ultrafast")):
        try:
            as_codec(spec).library()
        except ImportError:
            continue
        images[name] = as_codec(spec).encode(array)
    return images


def mutations(count, seed):
    """Yield names and bytes of mutated images; the kinds of images and of mutations take turns."""
    generator = torch.Generator().manual_seed(seed)

    def draw(end):
        return int(torch.randint(max(1, end), (), generator=generator))

    images = list(sound().items())
    for k in range(count):
        name, data = images[k % len(images)]
        mutated = bytearray(data)
        for _ in range(1 + draw(3)):
            _MUTATIONS[draw(len(_MUTATIONS))](mutated, draw)
        yield f"{k:06}-{name}", bytes(mutated)


def _flip(data, draw):
    for _ in range(1 + draw(8)):
        if data:
            data[draw(len(data))] ^= 1 << draw(8)


def _set(data, draw):
    """Bytes that say "much" and "none", wherever they are numbers."""
    at = draw(len(data))
    data[at : at + 4] = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80\0\0\0")[draw(4)][: 1 + draw(4)]


def _head(data, draw):
    for _ in range(1 + draw(4)):
        at = draw(min(64, len(data)))
        data[at : at + 1] = bytes([draw(256)])


def _cut(data, draw):
    del data[draw(len(data)) :]


def _remove(data, draw):
    at = draw(len(data))
    del data[at : at + 1 + draw(64)]


def _double(data, draw):
    at = draw(len(data))
    data[at:at] = data[at : at + 1 + draw(512)]


def _insert(data, draw):
    at = draw(len(data))
    data[at:at] = bytes(draw(256) for _ in range(1 + draw(32)))


def _swap(data, draw):
    """Two stretches of one length, as where chunks of a file change places."""
    length = 1 + draw(len(data) // 3)
    a, b = sorted((draw(len(data)), draw(len(data))))
    if a + length <= b and b + length <= len(data):
        data[a : a + length], data[b : b + length] = data[b : b + length], data[a : a + length]


def _other(data, draw):
    """The rest of another image, of whatever format."""
    other = list(sound().values())[draw(len(sound()))]
    at = draw(len(data))
    data[at:] = other[min(at, draw(len(other))) :]


def _end(data, draw):
    data += bytes(draw(256) for _ in range(1 + draw(64)))


_MUTATIONS = (_flip, _flip, _set, _set, _head, _cut, _remove, _double, _insert, _swap, _other, _end)
