"""Data sets that mean harm, and operators without luck: nothing outside the target, nothing lost, an end in time."""

import contextlib
import http.server
import io
import os
import re
import tarfile
import threading
import uuid
import zipfile
from pathlib import Path
from urllib.parse import quote, unquote

import fsspec
import pytest
from exporting import snapshot
from fsspec.implementations.memory import MemoryFile
from PIL import Image

from foveate import Compressor
from foveate.export import compress_dataset, manifest, verify

WEBP = Compressor("webp")


def png(value=90, side=8):
    """The bytes of a small grey picture; another value gives another picture."""
    stream = io.BytesIO()
    Image.new("L", (side, side), value).save(stream, "PNG")
    return stream.getvalue()


def sources(target):
    return [line["source"] for line in manifest(target)]


def stamps(root):
    """What changes where a file is written again."""
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in Path(root).rglob("*") if p.name != ".foveate.lock"}


class CannotHold(Exception):
    """A backend has no way to hold such a name."""


def in_folder(root, names):
    for k, name in enumerate(names):
        parts = name.split("/")
        if "\0" in name or "" in parts or ".." in parts:
            raise CannotHold
        path = root / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(k))
    return root / "in"


def in_tar(root, names):
    (root / "in").mkdir()
    with tarfile.open(root / "in" / "s.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for k, name in enumerate(names):
            info = tarfile.TarInfo(name.replace("\0", "0"))
            info.size = len(png(k))
            if "\0" in name:
                info.pax_headers = {"path": name}
            tar.addfile(info, io.BytesIO(png(k)))
    return root / "in"


def in_zip(root, names):
    """Names are put in as bytes: Python's own writer would clean them."""
    stand_ins = {
        f"{k:02}".ljust(len(os.fsencode(name)), "@").encode(): os.fsencode(name) for k, name in enumerate(names)
    }
    path = root / "in.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for k, stand_in in enumerate(stand_ins):
            archive.writestr(stand_in.decode(), png(k))
    data = path.read_bytes()
    for stand_in, name in stand_ins.items():
        if name.isascii():
            data = data.replace(stand_in, name)
        else:
            raise CannotHold  # a byte over 127 is a letter of code page 437 there: no other bytes can be meant
    path.write_bytes(data)
    return f"zip://::{path}"


def in_memory(root, names):
    files, folder = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    for k, name in enumerate(names):
        files.store[f"{folder}/{name}"] = MemoryFile(files, f"{folder}/{name}", png(k))
    return f"memory:/{folder}"


class Listing(http.server.BaseHTTPRequestHandler):
    """Serves what it is given by its quoted name, and a page that links to all of it."""

    files: dict[str, bytes] = {}  # noqa: RUF012

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == "/in/":
            links = "".join(f'<li><a href="{name}">a file</a></li>' for name in self.files)
            self._answer(f'<a href="?C=N;O=D">Name</a> <a href="/">Parent Directory</a>{links}'.encode(), "text/html")
        elif path == "/":
            self._answer(b'<a href="/in/">in</a>', "text/html")
        else:
            name = path.removeprefix("/in/")
            wanted = [data for known, data in self.files.items() if unquote(known) == unquote(name)]
            self._answer(wanted[0] if wanted else None, "image/png")

    def _answer(self, data, kind):
        self.send_response(200 if data is not None else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data or b"")))
        self.send_header("ETag", f'"{hash(data)}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data or b"")

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving(files):
    """Serve files by their quoted names; give the address of the page that lists them."""
    handler = type("Serving", (Listing,), {"files": files})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/in/"
        server.shutdown()


@pytest.fixture
def web():
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    with contextlib.ExitStack() as stack:

        def put(root, names):
            files = {quote(name, errors="surrogateescape"): png(k) for k, name in enumerate(names)}
            return stack.enter_context(serving(files))

        yield put


@pytest.fixture(scope="module")
def s3():
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    moto = pytest.importorskip("moto.server", reason="moto's server is not installed")
    from moto.backends import get_backend

    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()

    s3fs.S3FileSystem.clear_instance_cache()  # those of other tests speak to servers that are gone

    def put(root, names):
        """Into the server's own memory: clients clean the names that they send."""
        bucket = f"bucket-{uuid.uuid4().hex}"
        fsspec.filesystem("s3").mkdir(bucket)
        for k, name in enumerate(names):
            try:
                name.encode()
            except UnicodeEncodeError:
                raise CannotHold from None  # a key is a text in UTF-8
            if "\n" in name:
                raise CannotHold  # the server lists such a key and does not find it
            get_backend("s3")["123456789012"]["aws"].put_object(bucket, f"in/{name}", png(k))
        return f"s3://{bucket}/in"

    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "none")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        yield put
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def place(request):
    """Puts pictures by some names where a backend has them, and returns the path or URL of all."""
    written_here = {"folder": in_folder, "tar": in_tar, "zip": in_zip, "memory": in_memory}
    yield written_here.get(request.param) or request.getfixturevalue(request.param)
    fsspec.filesystem("memory").store.clear()


NAMES = {
    "above": ["../../x.png"],
    "absolute": ["/abs/y.png"],
    "up within": ["a/../../b.png"],
    "dots": [".."],
    "empty part": ["a//b.png"],
    "drive": ["C:/w.png"],
    "drive and backslash": ["C:\\w.png"],
    "bookkeeping": [".foveate-x.png", "foveate-photo.png", ".foveate.tar", "foveate-manifest.jsonl.png"],
    "too long": ["x" * 251 + ".png", "x" * 251 + ".bmp", "y" * 255],
    "no UTF-8": [os.fsdecode(b"caf\xe9.png"), os.fsdecode(b"caf\xe8.png"), "caf\u00e9.png"],
    "newline": ["new\nline.png"],
    "control": ["bell\x07.png", "tab\t.png", "esc\x1b[2J.png"],
    "colon": ["x.tar:y.png", "x.tar_y.png"],
    "NUL": ["a\0b.png"],
    "trailing": ["dot..png", "end.png.", "blank .png", "x.png "],
    "case": ["A.png", "a.png", "a.PNG", "Dir/a.png", "dir/a.png"],
}
LEADING_OUT = {"above", "up within", "dots"}
REFUSED = {
    "folder": set(),
    "tar": LEADING_OUT | {"NUL"},
    "zip": LEADING_OUT | {"absolute", "empty part"},
    "memory": LEADING_OUT | {"absolute", "empty part", "NUL"},
    "web": {"above", "up within", "empty part", "NUL"},  # absolute ones and ".." are links to elsewhere
    "s3": LEADING_OUT | {"absolute", "empty part", "NUL"},
}


@pytest.mark.parametrize("shards", [False, True], ids=["tree", "shards"])
@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("place", REFUSED, indirect=True)
def test_names(place, kind, shards, tmp_path, request):
    backend, names = request.node.callspec.params["place"], [*NAMES[kind], "plain.png"]
    count = 1 if backend == "web" and kind in ("absolute", "dots") else len(names)
    try:
        source = place(tmp_path, names)
    except CannotHold:
        pytest.skip(f"{backend} cannot hold such a name")
    out = tmp_path / "around" / "deep" / "out"
    for canary in (tmp_path / "x.png", tmp_path / "around" / "b.png", out.parent / "b.png", out.parent / "x.png"):
        canary.parent.mkdir(parents=True, exist_ok=True)
        canary.write_bytes(b"canary")

    def outside():
        return {name: data for name, data in snapshot(tmp_path).items() if not name.startswith("around/deep/out/")}

    def run():
        return compress_dataset(source, out, WEBP, shards=shards, part=2, workers=0)

    before = outside()
    if kind in REFUSED[backend]:
        hostile = {"NUL": "a\\x00b.png", "absolute": "abs/y.png", "dots": "'..'"}.get(kind, NAMES[kind][0])
        with pytest.raises(ValueError, match=re.escape(hostile)):
            run()
        assert snapshot(out) == {}
        assert outside() == before
        return
    summary = run()
    assert sum(summary.kinds.values()) == count
    assert set(summary.kinds) <= {"compressed", "copied"}
    assert len(set(sources(out))) == count
    written = [(line["target"], line.get("member")) for line in manifest(out)]
    assert len(set(written)) == count
    seen, again = stamps(out), run()
    assert again == summary
    assert stamps(out) == seen
    assert verify(out) == []
    assert outside() == before
    assert not Path("/abs").exists()
