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
def progress_bars() -> Iterator[Callable[["Progress"], None]]:
    """Yield a listener that draws a bar for each stage on standard error, with the bytes saved if they are counted.

    A bar is drawn once something was done, so that none stands above a complaint about what cannot be begun. Where
    steps are shards it counts the images in them, of a total that is estimated by the shards that are done.
    """
    from tqdm import tqdm

    with ExitStack() as stack:
        bars: dict[str, Any] = {}
        starts: dict[str, int] = {}

        def show(progress: "Progress") -> None:
            start = starts.setdefault(progress.stage, progress.done if progress.done < (progress.total or 0) else 0)
            if progress.done == start and not progress.images:
                return
            in_shards = progress.unit == "shard"
            if progress.stage not in bars:
                bar = tqdm(desc=progress.stage, unit="image" if in_shards else progress.unit)
                bar.initial = bar.n = 0 if in_shards else start
                bars[progress.stage] = stack.enter_context(bar)
            bar = bars[progress.stage]
            notes = []
            if in_shards:
                notes = [f"shard {progress.done} of {progress.total}"]
                ended = progress.done - start
                left = (progress.total or 0) - start
                bar.total = round(progress.images * left / ended) if ended else None
            else:
                bar.total = progress.total
            if progress.source_bytes:
                saved = tqdm.format_sizeof(progress.source_bytes - progress.bytes, "B", 1000)
                share = 1 - progress.bytes / progress.source_bytes
                notes.append(f"{saved} saved, {share:.0%}")
            bar.set_postfix_str(", ".join(notes), refresh=False)
            bar.update((progress.images if in_shards else progress.done) - bar.n)

        yield show
