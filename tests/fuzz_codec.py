"""Decode mutations of real bitstreams of one codec: ``python fuzz_codec.py CODEC CASES``.

Every case must give an image within the limits or a CodecError. Memory is limited and time is measured; prints JSON.
Stops early after 60 s.
"""

import json
import re
import resource
import sys
import time
from pathlib import Path

import numpy as np

from foveate.codecs import MAX_PIXELS, CodecError, as_codec

SECONDS = 60


def main() -> None:
    name, cases = sys.argv[1], int(sys.argv[2])
    random = np.random.default_rng(0)
    codec = as_codec(name)
    sources = [
        random.integers(0, 255, (33, 47, 3), np.uint8),
        np.repeat(np.linspace(0, 255, 90).astype(np.uint8)[None], 61, 0)[..., None].repeat(3, 2),
        np.full((20, 20, 1), 90, np.uint8),
    ]
    valid = [codec.with_quality(q).encode(source) for source in sources for q in (codec.ladder[0], codec.ladder[-1])]
    for data in valid:
        codec.decode(data)
    # Several times what decoding the largest allowed image takes; the address space includes the libraries.
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    began, done, refused, slowest = time.monotonic(), 0, 0, 0.0
    while done < cases and time.monotonic() - began < SECONDS:
        data = bytearray(valid[done % len(valid)])
        for _ in range(random.integers(1, 9)):
            data[random.integers(len(data))] = random.integers(256)
        if done % 3 == 0:  # truncated
            data = data[: random.integers(len(data))]
        elif done % 7 == 0:  # a piece of another bitstream
            other = valid[random.integers(len(valid))]
            at = random.integers(min(len(data), len(other)))
            data[at:] = other[at:]
        elif done % 11 == 0:
            data += random.bytes(20)
        start = time.monotonic()
        try:
            image = codec.decode(bytes(data))
        except CodecError:
            refused += 1
        else:
            assert image.dtype == np.uint8
            assert image.shape[2] in (1, 3)
            assert 0 < image[..., 0].size <= MAX_PIXELS
        slowest = max(slowest, time.monotonic() - start)
        done += 1
    print(json.dumps({"cases": done, "refused": refused, "slowest_s": slowest, "peak_mib": peak_mib()}))


def peak_mib() -> float:
    """Return the peak memory of this process; getrusage would include that of the process that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
