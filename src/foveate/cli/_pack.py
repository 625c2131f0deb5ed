"""``foveate pack``."""

import argparse
from collections.abc import Callable
from pathlib import Path

from foveate.cli._options import Commands
from foveate.cli._output import EXPECTED, complain, progress_bars

_READERS = {
    "huggingface": "datasets.load_from_disk({out!r})",
    "mds": "streaming.StreamingDataset(local={out!r}), whose images PIL.Image.open(io.BytesIO(...)) decodes",
}


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "pack",
        help="copy what 'foveate compress' wrote into a dataset of Hugging Face or MosaicML's streaming",
        description="Copy the images of a finished export, bit for bit, with labels and further columns.",
        epilog="example: foveate pack SMALL PACKED --as huggingface",
    )
    parser.add_argument("target", metavar="DST", help="what 'foveate compress' wrote, a folder or URL")
    parser.add_argument("out", metavar="OUT", type=Path, help="a new folder")
    parser.add_argument("--as", dest="packing", choices=tuple(_READERS), required=True)
    parser.set_defaults(prepare=prepare)


def prepare(args: argparse.Namespace) -> Callable[[], int]:
    """Return the job."""
    from foveate.export import pack

    def job() -> int:
        try:
            with progress_bars() as show:
                packed = pack(args.target, args.out, args.packing, progress=show)
        except EXPECTED as error:
            complain(f"foveate: error: {error}")
            return 1
        print(packed)
        print(f"read with {_READERS[args.packing].format(out=str(args.out))}")
        return 0

    return job
