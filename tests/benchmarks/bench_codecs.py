"""What Foveate's codecs cost compared with calling the libraries directly: ``python tests/benchmarks/bench_codecs.py``.

Both encode and decode the same image in turn, A B A B ...; the ratio is taken pair by pair. Also: how much faster a
batch is on two threads than on codec, which shows whether a library releases the GIL. Prints one JSON object.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import av
import imagecodecs
import numpy as np
import torch
from PIL import Image
from timing import compare

from foveate._threads import parallel_map
from foveate.codecs import CODECS


def pink_noise(height: int, width: int) -> np.ndarray:
    """Return an image with the spectrum of photos: noise of amplitude 1/f."""
    random = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) + 1 / width
    planes = [np.fft.irfft2(np.fft.rfft2(random.normal(size=(height, width))) / frequency) for _ in range(3)]
    luma = planes[0] / planes[0].std() * 45 + 120
    return np.stack([luma + p / p.std() * 12 for p in planes], -1).clip(0, 255).astype(np.uint8)


def pillow(format: str, **settings: object) -> tuple[Callable[[np.ndarray], bytes], Callable[[bytes], np.ndarray]]:
    def encode(image: np.ndarray) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, format, **settings)
        return stream.getvalue()

    return encode, lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def hevc_encode(image: np.ndarray) -> bytes:
    context = av.CodecContext.create("libx265", "w")
    context.width, context.height, context.pix_fmt = image.shape[1], image.shape[0], "yuv420p"
    context.time_base = Fraction(1, 25)
    context.options = {
        "x265-params": "log-level=none:keyint=1:pools=none:frame-threads=1:info=0:qp=35:ipratio=1:range=full"
    }
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p", dst_color_range="JPEG")
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def hevc_decode(data: bytes) -> np.ndarray:
    context = av.CodecContext.create("hevc", "r")
    context.thread_count = 1
    frames = [f for p in [*context.parse(data), *context.parse(None), None] for f in context.decode(p)]
    return frames[0].to_ndarray(format="rgb24")


BY_HAND = {
    "jpeg": pillow("JPEG", quality=50, optimize=True, subsampling="4:2:0"),
    "jpeg2000": pillow("JPEG2000", quality_mode="dB", quality_layers=[34], irreversible=True, mct=1),
    "webp": pillow("WEBP", quality=50, method=4),
    "avif": pillow("AVIF", quality=50, speed=8, subsampling="4:2:0", max_threads=1),
    "jxl": (
        lambda image: imagecodecs.jpegxl_encode(image, distance=4.0, effort=7, numthreads=1, usecontainer=False),
        lambda data: imagecodecs.jpegxl_decode(data, numthreads=1),
    ),
    "hevc": (hevc_encode, hevc_decode),
}


def thread_gain(function: Callable, items: list) -> float:
    """Return how many times as fast two threads are as one, the median of five pairs."""
    gains = []
    for _ in range(5):
        times = []
        for count in (1, 2):
            torch.set_num_threads(count)
            began = time.perf_counter()
            parallel_map(function, items)
            times.append(time.perf_counter() - began)
        gains.append(times[0] / times[1])
    return round(statistics.median(gains), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--size", type=int, nargs=2, default=(400, 500), metavar=("HEIGHT", "WIDTH"))
    args = parser.parse_args()
    image = pink_noise(*args.size)
    rows = {}
    for name, cls in CODECS.items():
        codec, (encode, decode) = cls(), BY_HAND[name]
        ours = codec.encode(image)
        theirs = encode(image)
        row: dict[str, object] = {"library": cls.library(), "bytes": [len(ours), len(theirs)]}
        for direction, a, b in (
            ("encode", partial(codec.encode, image), partial(encode, image)),
            ("decode", partial(codec.decode, ours), partial(decode, theirs)),
        ):
            ratio = compare(a, b, args.repeats)
            ratio["ours_MB_per_s"] = round(image.nbytes / 1e3 / ratio["ours_ms"], 1)
            row[direction] = ratio
        row["two threads"] = {
            "encode": thread_gain(codec.encode, [image] * 8),
            "decode": thread_gain(codec.decode, [ours] * 8),
        }
        rows[name] = row
    print(json.dumps({"size": args.size, "repeats": args.repeats, "codecs": rows}, indent=1))


if __name__ == "__main__":
    main()
