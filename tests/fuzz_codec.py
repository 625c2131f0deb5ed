"""Decode mutations of real bitstreams of one codec: ``python fuzz_codec.py CODEC CASES``.

Every case is to give a picture within the limits or a CodecError. Memory is bounded, time is measured; prints JSON. It
stops early after 60 s.
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
    one = as_codec(name)
    sources = [
        random.integers(0, 255, (33, 47, 3), np.uint8),
        np.repeat(np.linspace(0, 255, 90).astype(np.uint8)[None], 61, 0)[..., None].repeat(3, 2),
        np.full((20, 20, 1), 90, np.uint8),
    ]
    sound = [one.with_quality(q).encode(source) for source in sources for q in (one.ladder[0], one.ladder[-1])]
    for data in sound:
        one.decode(data)
    # Several times what the largest picture that is allowed takes to decode; the address space counts libraries too.
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    began, done, refused, slowest = time.monotonic(), 0, 0, 0.0
    while done < cases and time.monotonic() - began < SECONDS:
        data = bytearray(sound[done % len(sound)])
        for _ in range(random.integers(1, 9)):
            data[random.integers(len(data))] = random.integers(256)
        if done % 3 == 0:  # cut short
            data = data[: random.integers(len(data))]
        elif done % 7 == 0:  # a piece of another bitstream
            other = sound[random.integers(len(sound))]
            at = random.integers(min(len(data), len(other)))
            data[at:] = other[at:]
        elif done % 11 == 0:
            data += random.bytes(20)
        start = time.monotonic()
        try:
            picture = one.decode(bytes(data))
        except CodecError:
            refused += 1
        else:
            assert picture.dtype == np.uint8
            assert picture.shape[2] in (1, 3)
            assert 0 < picture[..., 0].size <= MAX_PIXELS
        slowest = max(slowest, time.monotonic() - start)
        done += 1
    print(json.dumps({"cases": done, "refused": refused, "slowest_s": slowest, "peak_mib": peak_mib()}))


def peak_mib() -> float:
    """The most memory that this program had, without what the process that started it had, which getrusage counts."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
