"""``foveate compare``."""

import argparse
from collections.abc import Callable
from pathlib import Path

from foveate.cli._options import Commands


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "compare",
        help="the difference between two evaluations, with intervals",
        description="Compare two evaluations on the images of both, paired: did a change help?",
        epilog="example: foveate compare BEFORE AFTER",
    )
    parser.add_argument("a", metavar="A", type=Path, help="results.json of the first, or its folder")
    parser.add_argument("b", metavar="B", type=Path, help="results.json of the second, or its folder")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    parser.set_defaults(prepare=prepare)


def prepare(args: argparse.Namespace) -> Callable[[], None]:
    """Compare; return the job that prints it."""
    from foveate.evaluation.runs import compare_runs, text

    changes = compare_runs(args.a, args.b, seed=args.seed)
    return lambda: print(text(changes))
