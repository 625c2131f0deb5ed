"""One picture from a file, or from standard input, into a file, or to standard output."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foveate._files import write_bytes
from foveate.cli._output import EXPECTED, complain

if TYPE_CHECKING:
    from foveate.compressor import Compressor

STANDARD = "-"
"""Standard input or output instead of a path."""


def is_picture(source: str) -> bool:
    """Whether a source is one picture and not a dataset: standard input, or a file that is not a tar."""
    return source == STANDARD or (Path(source).is_file() and not source.endswith(".tar"))


def codec_of(target: str) -> str:
    """Return the codec of a file to be written, by its ending.

    Raises:
        ValueError: if no codec writes such files.
    """
    from foveate.codecs import CODECS

    if target == STANDARD:
        return "webp"
    ending = Path(target).suffix.lower()
    for name, codec in CODECS.usable().items():
        if ending in (codec.suffix, *codec.suffixes()):
            return name
    raise ValueError(
        f"DST: no codec writes {ending or 'a file without an ending'}; give --codec, or one of its endings"
    )


def picture_job(source: str, target: str, compressor: "Compressor", formats: Sequence[str] = ()) -> Callable[[], int]:
    """Check the paths; return the job.

    Args:
        source: the path of a picture, or ``-``.
        target: the path of a new file, or ``-``.
        compressor: encodes it.
        formats: further formats of Pillow to read.

    Raises:
        ValueError: if there is such a file already, or its ending is another codec's.
    """
    suffixes = compressor.codec.suffixes()
    if target != STANDARD:
        path = Path(target)
        if path.exists():
            raise ValueError(f"DST: {target} is there already; choose another name, or remove it")
        if path.suffix.lower() not in (compressor.codec.suffix, *suffixes):
            raise ValueError(f"DST: {target} is to be {compressor.codec}, which is called {compressor.codec.suffix}")

    def run() -> int:
        from foveate.codecs import read_image

        data = sys.stdin.buffer.read() if source == STANDARD else Path(source).read_bytes()
        try:
            image = read_image(data, "" if source == STANDARD else Path(source).suffix.lower(), formats=formats)
        except (*EXPECTED, SyntaxError, EOFError) as error:
            complain(f"foveate: error: {source} is not a readable image: {error}")
            return 1
        try:
            encoded = compressor.encode_one(image)
            if target == STANDARD:
                sys.stdout.buffer.write(encoded.data)
                sys.stdout.buffer.flush()
            else:
                write_bytes(Path(target), encoded.data)
        except BrokenPipeError:  # the reader went away, which the entry point answers
            raise
        except EXPECTED as error:
            complain(f"foveate: error: {error}")
            return 1
        said = ", ".join(f"{name} {value}" for name, value in encoded.settings.items())
        saved = 1 - len(encoded.data) / len(data)
        complain(f"{len(data):,} bytes became {len(encoded.data):,}, {saved:.1%} fewer: {said}")
        return 0

    return run
