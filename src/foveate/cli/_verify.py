"""``foveate verify``."""

import argparse
from collections.abc import Callable

from foveate.cli._options import Commands
from foveate.cli._output import complain, progress_bars


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "verify",
        help="check what 'foveate compress' wrote, byte for byte, and decode it",
        epilog="example: foveate verify SMALL",
    )
    parser.add_argument("target", metavar="DST", help="folder or URL")
    parser.add_argument("--root", metavar="DIGEST", help="what 'foveate compress' printed, kept elsewhere")
    parser.add_argument("--threads", type=int, default=4, help="files read at once (default: %(default)s)")
    parser.set_defaults(prepare=prepare)


def prepare(args: argparse.Namespace) -> Callable[[], int]:
    """Count the files; return the job."""
    from foveate.export import Summary, count_files, verify

    total = count_files(args.target)

    def job() -> int:
        with progress_bars() as show:
            problems = verify(args.target, threads=args.threads, root=args.root, progress=show)
        for problem in problems:
            complain(str(problem))
        if problems:
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            print(f"{count} with {total} files; the same 'foveate compress' again repairs what it can")
            return 1
        print(f"{total} files are as the manifest says, 0 are not")
        summary = Summary.load(args.target)
        print(f"root {summary.root if summary else 'unknown'}")
        return 0

    return job
