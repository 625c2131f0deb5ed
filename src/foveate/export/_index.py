"""Sets and listings of names on disk, so that the memory a run takes does not grow with the dataset."""

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Self


class Index:
    r"""Names, each with a text, in a temporary SQLite database that is removed with this object.

    Example:
        >>> index = Index([("b", "1"), ("a", "2")])
        >>> list(index), "b" in index, index.pop("a"), index.pop("a"), len(index)
        ([('a', '2'), ('b', '1')], True, '2', None, 1)
        >>> index.add("b"), index.add("\udcff", "\udcfe"), index.get("\udcff") == "\udcfe"
        (False, True, True)
    """

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        # Python's sqlite3 serializes the calls of several threads. The name "" stands for a temporary file.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-16384"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute("CREATE TABLE names (name BLOB PRIMARY KEY, text BLOB) WITHOUT ROWID")
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT OR REPLACE INTO names VALUES (?, ?)", ((_raw(name), _raw(text)) for name, text in items)
        )

    def add(self, name: str, text: str = "") -> bool:
        """Add a name; return whether it is new."""
        return (
            self._database.execute("INSERT OR IGNORE INTO names VALUES (?, ?)", (_raw(name), _raw(text))).rowcount == 1
        )

    def get(self, name: str) -> str | None:
        """Return the text of a name, or None if it is not there."""
        row = self._database.execute("SELECT text FROM names WHERE name = ?", (_raw(name),)).fetchone()
        return None if row is None else _text(row[0])

    def pop(self, name: str) -> str | None:
        """Take a name out; return its text, or None if it is not there."""
        text = self.get(name)
        if text is not None:
            self._database.execute("DELETE FROM names WHERE name = ?", (_raw(name),))
        return text

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __len__(self) -> int:
        count: int = self._database.execute("SELECT count(*) FROM names").fetchone()[0]
        return count

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield names and texts, sorted by name; meanwhile this index must not change."""
        return self._sorted("name")

    def by_number(self) -> Iterator[tuple[str, str]]:
        """Yield names and texts, sorted by the numbers that the names are."""
        return self._sorted("length(name), name")

    def _sorted(self, by: str) -> Iterator[tuple[str, str]]:
        for name, text in self._database.execute(f"SELECT name, text FROM names ORDER BY {by}"):
            yield _text(name), _text(text)

    def close(self) -> None:
        """Free the disk space."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")  # a file's name may be any bytes, which Python shows as surrogates


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")
