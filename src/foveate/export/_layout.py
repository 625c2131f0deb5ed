"""The names of an export's bookkeeping in a target."""

STATE = ".foveate"
"""The folder with what an unfinished run needs; removed when the run is finished."""
MANIFEST = "foveate-manifest.jsonl.gz"
PARTS = "foveate-parts.jsonl.gz"
SUMMARY = "foveate-summary.json"
LOCK = ".foveate.lock"


def is_bookkeeping(name: str) -> bool:
    """Whether a name in a folder belongs to an export's bookkeeping."""
    return name in (MANIFEST, PARTS, SUMMARY, LOCK) or name.partition("/")[0] == STATE
