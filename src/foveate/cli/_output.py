"""What the commands print besides their results: errors, where files are, and progress bars."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate._files import printable

if TYPE_CHECKING:
    from foveate._progress import Progress

EXPECTED = (ValueError, TypeError, OSError, RuntimeError, ImportError)
"""What bad input, a full disk or a missing library raises, reported in one line."""


def complain(text: str) -> None:
    """Print a line on standard error, whatever bytes a file's name in it has."""
    print(printable(text), file=sys.stderr)


def print_where(out: Path) -> None:
    """Print where a report was written."""
    print(printable(f"wrote {out / 'report.html'} and {out / 'results.json'}"))


@contextmanager
def progress_bars(unit: str) -> Iterator[Callable[["Progress"], None]]:
    """Yield a listener that draws a bar for each stage on standard error, with the bytes saved if they are counted."""
    from tqdm import tqdm

    with ExitStack() as stack:
        bars: dict[str, Any] = {}

        def show(progress: "Progress") -> None:
            if progress.stage not in bars:
                bars[progress.stage] = stack.enter_context(tqdm(desc=progress.stage, unit=unit))
            bar = bars[progress.stage]
            bar.total = progress.total
            if progress.source_bytes:
                saved = tqdm.format_sizeof(progress.source_bytes - progress.bytes, "B", 1000)
                share = 1 - progress.bytes / progress.source_bytes
                bar.set_postfix_str(f"{saved} saved, {share:.0%}", refresh=False)
            bar.update(progress.done - bar.n)

        yield show
