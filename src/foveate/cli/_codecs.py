"""``foveate codecs``."""

import argparse
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING

from foveate.cli._options import Commands

if TYPE_CHECKING:
    from foveate.codecs import Codec


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "codecs", help="the codecs, their settings, and which are installed", epilog="example: foveate codecs"
    )
    parser.set_defaults(prepare=prepare)


def prepare(args: argparse.Namespace) -> Callable[[], None]:
    """Return the job that lists them."""
    from foveate.codecs import CODECS

    def job() -> None:
        for name in CODECS.names():
            try:
                _describe(name, CODECS[name])
            except ImportError as error:
                print(f"{name:9} not usable: {error}")

    return job


def _describe(name: str, cls: "type[Codec]") -> None:
    codec = cls.parse("")
    knobs = ", ".join(f"{f.name}={f.default}" for f in fields(cls) if f.name != "quality")
    try:
        library = cls.library()
    except ImportError as error:
        library = f"not installed: {error}"
    print(f"{name:9} {library}")
    print(f"{'':9} quality {cls.scale[0]:g} (coarsest) to {cls.scale[-1]:g} (finest), {codec.quality:g} by default")
    if knobs:
        print(f"{'':9} {knobs}")
