"""``foveate demo``."""

import argparse
from collections.abc import Callable
from pathlib import Path

from foveate.cli._options import Commands
from foveate.cli._output import print_where


def add_parser(commands: Commands) -> None:
    """Add the command."""
    demo = commands.add_parser(
        "demo",
        help="the main job on generated scenes, with no network and no data",
        epilog="example: foveate demo --scenes 50",
    )
    demo.add_argument(
        "--out", type=Path, default=Path("foveate-demo"), help="folder to write to (default: %(default)s)"
    )
    demo.add_argument("--scenes", type=int, default=200, help="number of scenes (default: %(default)s)")
    demo.add_argument(
        "--strength", type=float, default=0.5, help="of pre-filter and edit, 0 to 1 (default: %(default)s)"
    )
    demo.set_defaults(prepare=prepare)


def prepare(args: argparse.Namespace) -> Callable[[], None]:
    """Check the options; return the job."""
    from foveate.demo.run import run
    from foveate.evaluation.report import text_table

    if args.scenes < 10:
        raise ValueError(f"--scenes: expected at least 10, one a class, got {args.scenes}")
    if not 0 < args.strength <= 1:
        raise ValueError(f"--strength: expected a number in (0, 1], got {args.strength}")

    def job() -> None:
        results = run(args.out, args.scenes, strength=args.strength)
        print(text_table(results, metric="top1"))
        print_where(args.out)

    return job
