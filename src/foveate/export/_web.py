"""Listing the files of a web server by the links of its pages."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit

_DEPTH = 64
"""How deep folders may be nested: a server can make them up without end."""


@dataclass(frozen=True)
class WebListing:
    """Lists a folder of a web server.

    Args:
        url: of the folder, for error messages.
        address: returns the address of a name in the folder.
        fetch: returns the text of the page at an address; raises FileNotFoundError if there is none.
        check: raises ValueError if a name leads out of the folder.
    """

    url: str
    address: Callable[[str], str]
    fetch: Callable[[str], str]
    check: Callable[[str], object]

    def files(self, folder: str = "") -> Iterator[str]:
        """Yield the names of the files below a folder, which is empty or ends in ``/``.

        Raises:
            ValueError: if a name leads out of the folder, or folders are nested too deep.
        """
        page = self.address(f"{folder}x").removesuffix("x")
        try:
            links = _links(self.fetch(page))
        except FileNotFoundError:
            return
        for link in dict.fromkeys(links):
            name = self._name(folder, page, link)
            if name is None:
                continue
            self.check(name.removesuffix("/"))
            if not name.endswith("/"):
                yield name
            elif name.count("/") > _DEPTH:
                raise ValueError(f"{self.url}: its folders are more than {_DEPTH} deep, such as {name:.60}…")
            else:
                yield from self.files(name)

    def _name(self, folder: str, page: str, link: str) -> str | None:
        """Return the name that a link leads to, with a final ``/`` for a folder; None if it leads elsewhere."""
        parts = urlsplit(link)
        path, target = unquote(parts.path), urljoin(page, link)
        if "%2f" in parts.path.lower() or "//" in path:
            raise ValueError(f"{self.url}: it has a file whose name {parts.path!r} is not the name of a file")
        is_folder = path.endswith(("/", "/..")) or path == ".."
        if parts.query or target == page or not target.startswith(page):  # the same page sorted, or another place
            if ".." in path.split("/") and not is_folder:
                self.check(path)
            return None
        name = folder + unquote(target.partition("#")[0].removeprefix(page), errors="surrogateescape")
        return name.removesuffix("/") + "/" if is_folder else name


class _Anchors(HTMLParser):
    """Collects the links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the link of an anchor."""
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]


def _links(page: str) -> list[str]:
    anchors = _Anchors()
    anchors.feed(page)
    return anchors.links
