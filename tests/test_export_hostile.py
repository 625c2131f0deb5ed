"""Data sets that mean harm, and operators without luck: nothing outside the target, nothing lost, an end in time."""

import bz2
import contextlib
import ctypes
import errno
import gzip
import http.server
import io
import json
import os
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import uuid
import zipfile
from pathlib import Path
from urllib.parse import quote, unquote

import fsspec
import pytest
from exporting import content, snapshot, workers_of
from fsspec.implementations.memory import MemoryFile
from mutations import mutations
from PIL import Image

from foveate import Compressor, Prefilter
from foveate.cli import main
from foveate.export import compress_dataset, manifest, verify

WEBP = Compressor("webp")


def png(value=90, side=8):
    """The bytes of a small gray image; another value gives another image."""
    stream = io.BytesIO()
    Image.new("L", (side, side), value).save(stream, "PNG")
    return stream.getvalue()


def sources(target):
    return [line["source"] for line in manifest(target)]


def stamps(root):
    """What changes where a file is written again."""
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in Path(root).rglob("*") if p.name != ".foveate.lock"}


class CannotHoldError(Exception):
    """A backend has no way to hold such a name."""


def in_folder(root, names):
    for k, name in enumerate(names):
        parts = name.split("/")
        if "\0" in name or "" in parts or ".." in parts:
            raise CannotHoldError
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
            raise CannotHoldError  # a byte over 127 is a letter of code page 437 there: no other bytes can be meant
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
            wanted = [data for stored, data in self.files.items() if unquote(stored) == unquote(name)]
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
                raise CannotHoldError from None  # a key is a text in UTF-8
            if "\n" in name:
                raise CannotHoldError  # the server lists such a key and does not find it
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
    """Puts images by some names where a backend has them, and returns the path or URL of all."""
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
    except CannotHoldError:
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


def header(name, size=0, kind=tarfile.REGTYPE, linkname="", sizes=None):
    """A block of a tar, of its own making: whatever is said about what follows."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, linkname
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if sizes is not None:
        block[124:136] = sizes
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name, data, kind=tarfile.REGTYPE, linkname=""):
    return header(name, len(data), kind, linkname) + data + bytes(-len(data) % 512)


END = bytes(1024)
MUCH = 40 << 30


def pax(**records):
    """An extended header, before the one that it is about; each record begins with its own length."""
    text = ""
    for key, value in records.items():
        record = f" {key.replace('_', '.')}={value}\n"
        length = next(n for n in range(len(record), len(record) + 9) if len(f"{n}{record}") == n)
        text += f"{length}{record}"
    return member("pax", text.encode(), tarfile.XHDTYPE)


def gnu_sparse(name, size):
    """A member that says that a few bytes are all of so many that are not zero."""
    block = bytearray(header(name, 512, tarfile.GNUTYPE_SPARSE))
    block[386:398], block[398:410] = b"%011o\0" % 0, b"%011o\0" % 512
    block[483:495] = (b"\x80" + size.to_bytes(11, "big")) if size >= 1 << 33 else b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(512)


class TestTars:
    @pytest.fixture(params=[False, True], ids=["tree", "shards"])
    def run(self, request, tmp_path):
        """Exports one tar with these bytes; gives the kinds, and the sources with their reasons and targets."""
        (tmp_path / "in").mkdir()

        def export(*blocks, name="s.tar", end=END):
            (tmp_path / "in" / name).write_bytes(b"".join(blocks) + end)
            out = tmp_path / "out"
            summary = compress_dataset(tmp_path / "in", out, WEBP, shards=request.param, workers=0)
            assert verify(out) == []
            seen = stamps(out)
            assert compress_dataset(tmp_path / "in", out, WEBP, shards=request.param, workers=0) == summary
            assert stamps(out) == seen
            return summary.kinds, list(manifest(out))

        return export

    def test_names_that_come_twice_or_are_none(self, run):
        names = ["a.png", "a.png", "./a.png", "", "b.txt", "b.txt", "A.png"]
        kinds, lines = run(*(member(name, png(k)) for k, name in enumerate(names)))
        assert kinds == {"compressed": 4, "copied": 3}
        assert len({(line["target"], line.get("member")) for line in lines}) == len(names)
        assert len({line["sha256"] for line in lines}) == len(names)  # each has its own content

    def test_hard_links(self, run):
        links = [
            header(name, kind=tarfile.LNKTYPE, linkname=to) for name, to in (("b.png", "a.png"), ("c.png", "b.png"))
        ]
        nowhere = [
            header(name, kind=tarfile.LNKTYPE, linkname=to) for name, to in (("d.png", "d.png"), ("e.png", "../a"))
        ]
        kinds, lines = run(member("a.png", png()), *links, *nowhere)
        assert kinds == {"compressed": 3, "unreadable": 2}
        assert len({line["sha256"] for line in lines[:3]}) == 1
        assert all("is a link in a tar to a file that is not there" in line["reason"] for line in lines[3:])

    def test_a_hundred_thousand_hard_links_are_found_in_one_step_each(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tarfile.TarFile, "_getmember", None)  # it looks through all members
        links = b"".join(header(f"{k}.txt", kind=tarfile.LNKTYPE, linkname="a.txt") for k in range(2000))
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "s.tar").write_bytes(member("a.txt", b"text") + links + END)
        summary = compress_dataset(tmp_path / "in", tmp_path / "out", WEBP, shards=True, workers=0)
        assert summary.kinds == {"copied": 2001}

    def test_links_devices_and_fifos(self, run):
        kinds = {"a.png": tarfile.SYMTYPE, "b.txt": tarfile.SYMTYPE, "c.png": tarfile.CHRTYPE, "d.png": tarfile.BLKTYPE}
        kinds |= {"e.png": tarfile.FIFOTYPE, "f.txt": tarfile.FIFOTYPE, "g.png": tarfile.CONTTYPE}
        blocks = (header(name, kind=kind, linkname="/etc/passwd") for name, kind in kinds.items())
        counted, lines = run(*blocks, member("plain.png", png()))
        assert counted == {"compressed": 1, "unreadable": 7}
        assert ["target" in line for line in lines] == [False] * 6 + [True] * 2  # g is an empty file

    @pytest.mark.parametrize("name", ["big.png", "big.txt"])
    @pytest.mark.parametrize("linked", [False, True])
    def test_a_sparse_member_of_40_gigabytes(self, run, name, linked):
        links = [header(f"linked-{name}", kind=tarfile.LNKTYPE, linkname=name)] if linked else []
        kinds, lines = run(gnu_sparse(name, MUCH), *links, member("plain.png", png()))
        assert kinds == {"compressed": 1, "unreadable": 1 + linked}
        assert all("sparse file" in line["reason"] for line in lines[: 1 + linked])

    @pytest.mark.parametrize(
        "blocks",
        [
            [header("a.png", MUCH)],
            [header("a.txt", MUCH)],
            [header("a.png", sizes=b"\xff" * 10 + b"\xfc\0")],  # -1024: tarfile would read the same for ever
            [header("a.png", sizes=b"\x80" + b"\x7f" * 11)],
            [pax(size="-1024"), member("a.png", png())],
            [header("././@LongLink", MUCH, tarfile.GNUTYPE_LONGNAME)],
            [header("pax", MUCH, tarfile.XHDTYPE)],
            [member("././@LongLink", b"x" * (2 << 20), tarfile.GNUTYPE_LONGNAME), member("a.png", png())],
            [pax(path="b.png")] * 3000,
            [pax(GNU_sparse_map="none"), member("a.png", png())],
            [gzip.compress(bytes(64 << 20), mtime=0)],
            [bz2.compress(bytes(1 << 20))],
            [b"\x1f\x8b"],
        ],
        ids=lambda blocks: f"{blocks[0][:12]!r}x{len(blocks)}",
    )
    def test_damage_is_an_error_that_names_the_shard(self, run, blocks, tmp_path):
        with pytest.raises(ValueError, match="source: s.tar is not a whole tar file"):
            run(member("first.png", png()) if blocks[0][:2] not in (b"\x1f\x8b", b"BZ") else b"", *blocks)
        assert not (tmp_path / "out" / "foveate-manifest.jsonl.gz").exists()

    def test_a_long_name_is_cut(self, run):
        name = "x" * 5000 + ".png"
        kinds, lines = run(member("././@LongLink", name.encode() + b"\0", tarfile.GNUTYPE_LONGNAME), member("x", png()))
        assert kinds == {"compressed": 1}
        assert lines[0]["source"] == f"s.tar:{name}"

    def test_a_tar_in_a_name_and_a_name_in_a_tar(self, tmp_path):
        """``a.tar:b/0.png`` may be a member, and a file."""
        for name in ("a.tar", "a.tar:b", "a/b.tar"):
            path = tmp_path / "in" / f"{name}{'' if name.endswith('.tar') else '.tar'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(member("b/0.png" if name == "a.tar" else "0.png", png(len(name))) + END)
        out = tmp_path / "out"
        assert compress_dataset(tmp_path / "in", out, WEBP, workers=0).kinds == {"compressed": 3}
        assert len({line["target"] for line in manifest(out)}) == 3
        assert verify(out) == []
        path = tmp_path / "files" / "a.tar:b" / "0.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(png())
        assert compress_dataset(tmp_path / "files", tmp_path / "two", WEBP, workers=0).kinds == {"compressed": 1}
        assert sources(tmp_path / "two") == ["a.tar:b/0.png"]
        assert verify(tmp_path / "two") == []


class TestWhatFilesStandBeside:
    def test_an_image_of_40_gigabytes_of_nothing(self, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.png").write_bytes(png())
        with (tmp_path / "in" / "big.png").open("wb") as stream:
            stream.truncate(MUCH)
        summary = compress_dataset(tmp_path / "in", tmp_path / "out", WEBP, workers=0)
        assert summary.kinds == {"compressed": 1, "unreadable": 1}
        assert "over the limit" in list(manifest(tmp_path / "out"))[1]["reason"]
        assert verify(tmp_path / "out") == []

    def test_an_image_that_unpacks_to_more_than_an_image_has(self, tmp_path):
        from foveate.images import MAX_BYTES

        with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.png", png())
            with archive.open("big.png", "w", force_zip64=True) as stream:
                for _ in range(65):
                    stream.write(bytes(MAX_BYTES // 64))
        before = peak_memory()
        summary = compress_dataset(f"zip://::{tmp_path / 'in.zip'}", tmp_path / "out", WEBP, workers=0)
        assert summary.kinds == {"compressed": 1, "unreadable": 1}
        assert peak_memory() - before < MAX_BYTES // 2
        assert verify(tmp_path / "out") == []

    def test_many_large_files_that_are_not_images(self, tmp_path):
        """They are not held together: the memory of a worker does not grow with the part."""
        (tmp_path / "in").mkdir()
        for k in range(24):
            with (tmp_path / "in" / f"{k}.png").open("wb") as stream:
                stream.truncate(32 << 20)
        before = peak_memory()
        summary = compress_dataset(tmp_path / "in", tmp_path / "out", WEBP, workers=0, others="skip")
        assert summary.kinds == {"unreadable": 24}
        assert peak_memory() - before < 400 << 20

    @pytest.mark.parametrize("shards", [False, True])
    def test_a_file_and_a_folder_of_one_name(self, shards, tmp_path):
        source = in_memory(tmp_path, ["a", "a/b.png", "a.png", "a.png/c.png"])
        summary = compress_dataset(source, tmp_path / "out", WEBP, shards=shards, workers=0)
        fsspec.filesystem("memory").store.clear()
        assert summary.kinds == {"compressed": 3, "copied": 1}
        assert sorted(sources(tmp_path / "out")) == ["a", "a.png", "a.png/c.png", "a/b.png"]
        assert verify(tmp_path / "out") == []

    def test_on_s3_too(self, s3, tmp_path):
        source = s3(tmp_path, ["a", "a/b.png", "a.png", "a.png/c.png"])
        assert compress_dataset(source, tmp_path / "out", WEBP, workers=0).kinds == {"compressed": 3, "copied": 1}
        assert sorted(sources(tmp_path / "out")) == ["a", "a.png", "a.png/c.png", "a/b.png"]
        assert verify(tmp_path / "out") == []

    @pytest.mark.parametrize("shards", [False, True])
    def test_names_that_the_export_would_give(self, shards, tmp_path):
        names = ["x/a.png", "x/a.webp/b.png", "x/a.cls", "x/a.webp.txt", "x/a.jpg", "x/a"]
        source = in_folder(tmp_path, names)
        summary = compress_dataset(source, tmp_path / "out", WEBP, shards=shards, workers=0)
        assert sum(summary.kinds.values()) == len(names)
        assert sorted(sources(tmp_path / "out")) == sorted(names)
        assert verify(tmp_path / "out") == []
        if not shards:
            return
        with tarfile.open(tmp_path / "out" / "part-000000.tar") as tar:
            assert len(set(tar.getnames())) == len(tar.getnames()) == len(names) + 3
        for line in manifest(tmp_path / "out"):
            assert [put["member"] for put in line.get("sidecars", ())] == (
                [line["member"].removesuffix(".webp") + ".cls"] if line["kind"] == "compressed" else []
            )


def peak_memory():
    """The most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def fifo(path):
    os.mkfifo(path)


def unix_socket(path):
    """A socket, which is made by a short name: Linux has 107 bytes for that."""
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(before)


def device(path):
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # zeros without end
    except OSError:
        pytest.skip("making devices is not allowed here")


SPECIAL = [fifo, unix_socket, device]


class TestSpecialFiles:
    @pytest.mark.parametrize("shards", [False, True])
    @pytest.mark.parametrize("make", SPECIAL)
    def test_in_a_source(self, make, shards, tmp_path):
        source = in_folder(tmp_path, ["a/plain.png"])
        make(source / "a" / "b.png")
        make(source / "c.txt")
        for _ in range(2):
            summary = compress_dataset(source, tmp_path / "out", WEBP, shards=shards, workers=0)
            assert summary.kinds == {"compressed": 1, "unreadable": 2}
            assert all(
                "not a regular file" in line["reason"] for line in manifest(tmp_path / "out") if "reason" in line
            )
            assert verify(tmp_path / "out") == []

    @pytest.mark.parametrize("make", SPECIAL)
    def test_in_a_target(self, make, tmp_path):
        source, out = in_folder(tmp_path, ["a/0.png", "a/1.png"]), tmp_path / "out"
        compress_dataset(source, out, WEBP, workers=0)
        whole = snapshot(out)
        make(out / "planted.webp")
        (out / "a" / "1.webp").unlink()
        make(out / "a" / "1.webp")
        assert {problem.name for problem in verify(out)} == {"planted.webp", "a/1.webp"}
        compress_dataset(source, out, WEBP, workers=0)
        assert snapshot(out) == whole
        assert [problem.name for problem in verify(out)] == ["planted.webp"]

    @pytest.mark.parametrize("name", ["foveate-manifest.jsonl.gz", "foveate-parts.jsonl.gz", "foveate-summary.json"])
    @pytest.mark.parametrize("make", [*SPECIAL, Path.mkdir])
    def test_for_the_bookkeeping(self, make, name, tmp_path):
        source, out = in_folder(tmp_path, ["a/0.png", "a/1.png"]), tmp_path / "out"
        compress_dataset(source, out, WEBP, workers=0)
        whole = snapshot(out)
        (out / name).unlink()
        make(out / name)
        assert name in {problem.name for problem in verify(out)}
        compress_dataset(source, out, WEBP, workers=0)
        assert snapshot(out) == whole
        assert verify(out) == []


class TestLinks:
    @pytest.fixture
    def tree(self, tmp_path):
        """A source with an image, and a folder of secrets beside it."""
        in_folder(tmp_path, ["a/plain.png"])
        (tmp_path / "secrets").mkdir()
        (tmp_path / "secrets" / "key.txt").write_text("secret")
        (tmp_path / "secrets" / "face.png").write_bytes(png(7))
        return tmp_path / "in"

    @pytest.mark.parametrize("shards", [False, True])
    @pytest.mark.parametrize("to", ["key.txt", "face.png", ".", "none.png"])
    def test_out_of_the_source(self, tree, to, shards, tmp_path):
        (tree / "a" / "link.png").symlink_to(tmp_path / "secrets" / to)
        options, out = {"shards": shards, "workers": 0}, tmp_path / "out"
        if to == "none.png":  # nothing is there to be had
            assert compress_dataset(tree, out, WEBP, **options).kinds == {"compressed": 1, "unreadable": 1}
            assert "outside of the folder" in next(manifest(out))["reason"]
            return
        with pytest.raises(ValueError, match=r"a/link\.png is a link .* outside .* follow_links=True .* leave it out"):
            compress_dataset(tree, out, WEBP, **options)
        assert snapshot(out) == {}
        kinds = {"key.txt": {"compressed": 1, "unreadable": 1}, "face.png": {"compressed": 2}}
        kinds["."] = {"compressed": 2, "copied": 1}
        assert compress_dataset(tree, out, WEBP, follow_links=True, **options).kinds == kinds[to]
        assert verify(out) == []

    @pytest.mark.parametrize("follow_links", [False, True])
    def test_in_circles(self, tree, follow_links, tmp_path):
        (tree / "b").mkdir()
        (tree / "b" / "x.png").write_bytes(png(3))
        for path, to in (("a/x", "b"), ("b/y", "a"), ("a/up", "."), ("b/me", "b")):
            (tree / path).symlink_to(tree / to, target_is_directory=True)
        (tree / "self.png").symlink_to(tree / "self.png")
        (tree / "one.png").symlink_to(tree / "two.png")
        (tree / "two.png").symlink_to(tree / "one.png")
        (tree / "dangling").symlink_to(tree / "nowhere", target_is_directory=True)
        options = {"workers": 0, "follow_links": follow_links}
        summary = compress_dataset(tree, tmp_path / "out", WEBP, **options)
        assert summary.kinds == {"compressed": 4, "missing": 4}
        assert sorted(summary.missing) == ["dangling", "one.png", "self.png", "two.png"]
        (tree / "self.png").unlink()
        (tree / "self.png").write_bytes(png(9))
        assert compress_dataset(tree, tmp_path / "out", WEBP, **options).kinds == {"compressed": 5, "missing": 3}
        assert verify(tmp_path / "out") == []

    def test_a_few_links_that_stand_for_a_billion_files(self, tree, tmp_path, monkeypatch):
        """Two links in each of thirty folders to the next one."""
        monkeypatch.setattr("foveate.export._local_files._VISITS", 50)
        for k in range(30):
            (tree / f"{k}").mkdir()
            for name in "xy":
                (tree / f"{k}" / name).symlink_to(tree / f"{k + 1}", target_is_directory=True)
        (tree / "30").mkdir()
        (tree / "30" / "a.png").write_bytes(png())
        with pytest.raises(ValueError, match="links lead to .* again and again"):
            compress_dataset(tree, tmp_path / "out", WEBP, workers=0)
        assert snapshot(tmp_path / "out") == {}

    def test_in_a_target(self, tree, tmp_path):
        (tree / "b.txt").write_text("text")
        out = tmp_path / "out"
        compress_dataset(tree, out, WEBP, workers=0)
        whole = snapshot(out)
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "same.webp").write_bytes((out / "a" / "plain.webp").read_bytes())
        for to in (outside / "same.webp", out / "same.webp"):
            (out / "a" / "plain.webp").replace(out / "same.webp")
            (out / "a" / "plain.webp").symlink_to(to)
            (out / "b.txt").unlink()
            (out / "b.txt").symlink_to(tmp_path / "secrets" / "key.txt")
            assert {problem.name for problem in verify(out)} == {"a/plain.webp", "b.txt", "same.webp"}
            compress_dataset(tree, out, WEBP, workers=0)
            (out / "same.webp").unlink()
            assert snapshot(out) == whole
            assert verify(out) == []
        (out / "planted").symlink_to(outside, target_is_directory=True)
        (out / "stray").write_bytes(b"")
        assert {problem.name for problem in verify(out)} == {"planted", "stray"}
        assert (tmp_path / "secrets" / "key.txt").read_text() == "secret"
        assert [path.name for path in outside.iterdir()] == ["same.webp"]

    def test_a_folder_of_a_target_that_leads_elsewhere(self, tree, tmp_path):
        out, outside = tmp_path / "out", tmp_path / "outside"
        compress_dataset(tree, out, WEBP, workers=0)
        (out / "a").rename(outside)
        (out / "a").symlink_to(outside, target_is_directory=True)
        before = snapshot(outside)
        assert "a/plain.webp" in {problem.name for problem in verify(out)}
        (outside / "plain.webp").write_bytes(b"")
        with pytest.raises(ValueError, match="outside of the folder"):
            compress_dataset(tree, out, WEBP, workers=0)
        assert snapshot(outside) == dict.fromkeys(before, b"")

    def test_rows_of_hugging_face_with_paths(self, tree, tmp_path):
        datasets = pytest.importorskip("datasets", reason="datasets is not installed")
        paths = [tmp_path / "secrets" / "face.png", tree / "a" / "plain.png", tmp_path / "none.png", "../../face.png"]
        rows = [{"image": {"bytes": png(k), "path": str(path)}} for k, path in enumerate(paths)]
        data = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
        out = tmp_path / "bytes"
        assert compress_dataset(data, out, WEBP, workers=0).kinds == {"compressed": 4}  # a path is but a name here
        for row in rows:
            row["image"]["bytes"] = None
        data = datasets.Dataset.from_list([{"image": {"bytes": png(9), "path": None}}, *rows])
        data = data.cast_column("image", datasets.Image())
        summary = compress_dataset(data, tmp_path / "out", WEBP, workers=0)
        assert summary.kinds == {"compressed": 1, "unreadable": 4}
        assert all("follow_links=True" in line["reason"] for line in manifest(tmp_path / "out") if "reason" in line)
        summary = compress_dataset(data, tmp_path / "followed", WEBP, workers=0, follow_links=True)
        assert summary.kinds == {"compressed": 3, "missing": 2}


class TestDenied:
    @pytest.mark.parametrize("shards", [False, True])
    def test_a_file(self, shards, tmp_path, monkeypatch):
        source, out = in_folder(tmp_path, ["a/0.png", "a/1.png"]), tmp_path / "out"
        (source / "c.txt").write_text("text")
        open_, denied = os.open, {str(source / "a" / "1.png"), str(source / "c.txt")}

        def opening(path, *args, **options):
            if str(path) in denied:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return open_(path, *args, **options)

        def run():
            return compress_dataset(source, out, WEBP, shards=shards, workers=0)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", opening)
            for _ in range(2):
                assert run().kinds == {"compressed": 1, "unreadable": 2}
                assert all("Permission denied" in line["reason"] for line in manifest(out) if "reason" in line)
                assert verify(out) == []
        assert run().kinds == {"compressed": 2, "copied": 1}
        assert verify(out) == []

    def test_a_folder(self, shards, tmp_path, monkeypatch):
        source, scandir = in_folder(tmp_path, ["a/0.png", "b/1.png"]), os.scandir

        def listing(path):
            if str(path).endswith("/b"):
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return scandir(path)

        def run():
            return compress_dataset(source, tmp_path / "out", WEBP, shards=shards, workers=0)

        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", listing)
            for _ in range(2):
                assert run().kinds == {"compressed": 1, "unreadable": 1}
                (line,) = (line for line in manifest(tmp_path / "out") if "reason" in line)
                assert (line["source"], line["reason"]) == ("b/*", "Permission denied")
                assert verify(tmp_path / "out") == []
        assert run().kinds == {"compressed": 2}
        assert sorted(line["source"] for line in manifest(tmp_path / "out")) == ["a/0.png", "b/1.png"]
        assert verify(tmp_path / "out") == []

    def test_a_folder_of_shards(self, tmp_path, monkeypatch):
        source, scandir = in_folder(tmp_path, ["a/0.png"]), os.scandir
        for name in "bc":
            (tmp_path / "tars" / name).mkdir(parents=True)
            with tarfile.open(tmp_path / "tars" / name / "x.tar", "w") as tar:
                tar.add(source / "a" / "0.png", "0.png")

        def listing(path):
            if str(path).endswith("/b"):
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", listing)
        with pytest.raises(PermissionError, match="tars/b"):  # how many are in it is not known
            compress_dataset(tmp_path / "tars", tmp_path / "out", WEBP, workers=0)
        assert snapshot(tmp_path / "out") == {}

    @pytest.mark.parametrize("make", SPECIAL)
    def test_a_shard_that_is_no_file(self, make, shards, tmp_path):
        source = in_folder(tmp_path, ["a/0.png"])
        (tmp_path / "tars").mkdir()
        with tarfile.open(tmp_path / "tars" / "b.tar", "w") as tar:
            tar.add(source / "a" / "0.png", "0.png")
        make(tmp_path / "tars" / "a.tar")
        for _ in range(2):
            summary = compress_dataset(tmp_path / "tars", tmp_path / "out", WEBP, shards=shards, workers=0)
            assert summary.kinds == {"compressed": 1, "unreadable": 1}
            assert verify(tmp_path / "out") == []

    def test_a_shard(self, shards, tmp_path, monkeypatch):
        source, out, open_ = in_folder(tmp_path, ["a/0.png"]), tmp_path / "out", os.open
        (tmp_path / "tars").mkdir()
        for name in "ab":
            with tarfile.open(tmp_path / "tars" / f"{name}.tar", "w") as tar:
                tar.add(source / "a" / "0.png", "0.png")

        def opening(path, *args, **options):
            if str(path) == str(tmp_path / "tars" / "a.tar"):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return open_(path, *args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", opening)
            for _ in range(2):
                summary = compress_dataset(tmp_path / "tars", out, WEBP, shards=shards, workers=0)
                assert summary.kinds == {"compressed": 1, "unreadable": 1}
                assert verify(out) == []
        assert compress_dataset(tmp_path / "tars", out, WEBP, shards=shards, workers=0).kinds == {"compressed": 2}
        assert verify(out) == []


@pytest.fixture(params=[False, True], ids=["tree", "shards"])
def shards(request):
    return request.param


class TestSourcesThatChange:
    @pytest.fixture
    def source(self, tmp_path):
        return in_folder(tmp_path, [f"{'ab'[k % 2]}/{k}.png" for k in range(7)])

    def run(self, source, out, shards=False, **options):
        return compress_dataset(source, out, WEBP, shards=shards, part=3, workers=0, **options)

    def undisturbed(self, source, tmp_path, shards):
        """What an export of the source as it is now comes to."""
        self.run(source, tmp_path / "undisturbed", shards)
        return content(snapshot(tmp_path / "undisturbed"))

    def test_an_image_that_changed(self, source, shards, tmp_path):
        out = tmp_path / "out"
        self.run(source, out, shards)
        seen = stamps(out)
        (source / "a" / "2.png").write_bytes(png(77))
        (source / "b" / "3.png").write_bytes(b"no image any more")
        self.run(source, out, shards)
        assert content(snapshot(out)) == self.undisturbed(source, tmp_path, shards)
        assert verify(out) == []
        assert any(seen.get(path) == stamp for path, stamp in stamps(out).items() if path.is_file())  # of other parts
        (source / "b" / "3.png").write_bytes(png(3))
        self.run(source, out, shards)
        shutil.rmtree(tmp_path / "undisturbed")
        assert content(snapshot(out)) == self.undisturbed(source, tmp_path, shards)
        assert verify(out) == []

    def test_one_of_its_time_is_not_seen_to_have_changed(self, source, tmp_path):
        """Of files a change is seen by size and time, as is said."""
        path, out = source / "a" / "2.png", tmp_path / "out"
        self.run(source, out)
        before, stat_before = snapshot(out), path.stat()
        data = bytearray(path.read_bytes())
        data[-20] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(stat_before.st_atime_ns, stat_before.st_mtime_ns))
        self.run(source, out)
        assert snapshot(out) == before

    def test_an_image_that_is_gone_is_kept(self, source, shards, tmp_path):
        out = tmp_path / "out"
        self.run(source, out, shards)
        before = snapshot(out)
        (source / "a" / "2.png").unlink()
        self.run(source, out, shards)
        assert snapshot(out) == before

    def test_a_shard_that_is_gone_when_one_of_its_files_is_damaged(self, tmp_path):
        """What cannot be made again and is sound stays."""
        out = tmp_path / "out"
        (tmp_path / "in").mkdir()
        for k, name in enumerate("ab"):
            blocks = (member(f"{n}.png", png(10 * k + n)) for n in range(3))
            (tmp_path / "in" / f"{name}.tar").write_bytes(b"".join(blocks) + END)
        self.run(tmp_path / "in", out)
        before = snapshot(out)
        (tmp_path / "in" / "b.tar").unlink()
        (out / "b" / "1.webp").write_bytes(b"damaged")
        assert self.run(tmp_path / "in", out).kinds == {"compressed": 6}
        assert {problem.name for problem in verify(out)} == {"b/1.webp"}
        assert {name: before[name] for name in ("b/0.webp", "b/2.webp")}.items() <= snapshot(out).items()

    def test_another_source_is_refused(self, source, shards, tmp_path):
        out, other = tmp_path / "out", tmp_path / "other"
        self.run(source, out, shards)
        before = snapshot(out)
        shutil.copytree(source, other)
        with pytest.raises(ValueError, match="made from another source .*moved=True"):
            self.run(other, out, shards)
        with pytest.raises(ValueError, match="made from another source"):
            self.run([Image.new("L", (8, 8))], out, shards)
        assert snapshot(out) == before
        assert self.run(other, out, shards, moved=True).kinds == {"compressed": 7}
        assert content(snapshot(out)) == content(before)
        assert verify(out) == []
        with pytest.raises(ValueError, match="made from another source"):
            self.run(source, out, shards)  # it is bound to where it is now

    @pytest.mark.parametrize("options", [{"others": "skip"}, {"only_if_smaller": True}, {"shards": True}, {"part": 4}])
    def test_other_settings_are_refused(self, source, options, tmp_path):
        out = tmp_path / "out"
        self.run(source, out)
        before = snapshot(out)
        with pytest.raises(ValueError, match=f"made with other settings .*{next(iter(options))}"):
            compress_dataset(source, out, WEBP, **{"part": 3, "workers": 0, **options})
        assert snapshot(out) == before

    def test_without_parts_and_manifest_it_is_made_anew(self, source, shards, tmp_path):
        out = tmp_path / "out"
        self.run(source, out, shards)
        before = snapshot(out)
        for name in ("foveate-manifest.jsonl.gz", "foveate-parts.jsonl.gz"):
            (out / name).unlink()
        self.run(source, out, shards)
        assert snapshot(out) == before
        assert verify(out) == []

    def test_without_all_bookkeeping_the_files_are_somebody_s(self, source, shards, tmp_path):
        out = tmp_path / "out"
        self.run(source, out, shards)
        for path in out.glob("foveate-*"):
            path.unlink()
        before = snapshot(out)
        with pytest.raises(ValueError, match="holds files that no export wrote, .* choose an empty folder"):
            self.run(source, out, shards)
        assert snapshot(out) == before

    def test_parts_lost_after_something_was_added(self, source, shards, tmp_path):
        """Names are given anew; what has one that nothing has now is left, and named."""
        out = tmp_path / "out"
        self.run(source, out, shards)
        (source / "a" / "0.bmp").write_bytes(png(50))
        (source / "a" / "00.png").write_bytes(png(51))
        self.run(source, out, shards)
        (out / "foveate-parts.jsonl.gz").unlink()
        assert self.run(source, out, shards).kinds == {"compressed": 9}
        strays = {problem.name for problem in verify(out)}
        assert strays == ({"part-000003.tar"} if shards else {"a/0.bmp.webp"})
        assert {problem.description for problem in verify(out)} == {"does not belong to this export"}
        for name in strays:
            (out / name).unlink()
        assert content(snapshot(out)) == self.undisturbed(source, tmp_path, shards)

    def test_a_folder_with_files_in_place_of_an_image(self, source, tmp_path):
        out = tmp_path / "out"
        self.run(source, out)
        (out / "a" / "2.webp").unlink()
        (out / "a" / "2.webp").mkdir()
        (out / "a" / "2.webp" / "mine.txt").write_text("mine")
        with pytest.raises(OSError, match=re.escape("a/2.webp")):
            self.run(source, out)
        assert (out / "a" / "2.webp" / "mine.txt").read_text() == "mine"
        assert "a/2.webp/mine.txt" in {problem.name for problem in verify(out)}


class Hostile:
    """Pictures with labels, of which some do something to the process that asks for them.

    Args:
        faults: what items do, by their number.
        markers: a folder of files that say that they did, and will not do so again; None lets them each time.
    """

    classes = ("even", "odd")

    def __init__(self, faults=(), markers=None):
        self.faults, self.markers = dict(faults), markers

    def __len__(self):
        return 8

    def __getitem__(self, k):
        marker = None if self.markers is None else Path(self.markers) / str(k)
        if k in self.faults and not (marker is not None and marker.exists()):
            if marker is not None:
                marker.touch()
            {
                "exit": lambda: os._exit(3),
                "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
                "fault": lambda: ctypes.string_at(0),
                "sleep": lambda: time.sleep(3600),
                "raise": lambda: 1 // 0,
            }[self.faults[k]]()
        return Image.open(io.BytesIO(png(10 * k))), k % 2


class Odd:
    """A saliency that raises on images of some width, or on all, or takes forever."""

    def __init__(self, width=None, forever=False):
        self.width, self.forever, self.identity = width, forever, "odd"

    def __call__(self, images):
        if self.width in (None, images.shape[-1]):
            if self.forever:
                time.sleep(3600)
            raise ArithmeticError("no map of such an image")
        return images[:, :1].float() / 255


STOPPED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which is off where the tests run in the background
from test_export_hostile import Hostile, WEBP
from foveate.export import compress_dataset
if __name__ == "__main__":
    def say(progress):
        print("begun", flush=True)
    compress_dataset(Hostile({3: "sleep"}), sys.argv[1], WEBP, workers=2, part=1, progress=say)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc to find workers")
class TestWorkers:
    def run(self, source, out, **options):
        return compress_dataset(source, out, WEBP, **{"workers": 2, "part": 2, **options})

    @pytest.fixture
    def undisturbed(self, tmp_path):
        self.run(Hostile(), tmp_path / "undisturbed", workers=0)
        return content(snapshot(tmp_path / "undisturbed"))

    def test_images_that_end_their_reader_are_set_aside(self, undisturbed, tmp_path):
        out = tmp_path / "out"
        summary = self.run(Hostile({0: "exit", 2: "kill", 3: "fault", 6: "sleep"}), out, timeout=2)
        assert summary.kinds == {"compressed": 4, "failed": 4}
        assert [reason.partition(":")[0] for reason in summary.failed] == ["0", "2", "3", "6"]
        for reason, words in zip(
            summary.failed,
            (
                "ended itself over it, with code 3",
                "ended by SIGKILL over it, as when memory runs out",
                "ended by SIGSEGV over it",
                "took more than 2 s; timeout= allows more",
            ),
            strict=True,
        ):
            assert words in reason
        images = {name for name in snapshot(out) if name.endswith(".webp")}
        assert images == {f"{'even' if k % 2 == 0 else 'odd'}/0000000{k}.webp" for k in (1, 4, 5, 7)}
        assert verify(out) == []
        assert not workers_of(os.getpid())
        assert self.run(Hostile(), out, workers=0).kinds == {"compressed": 8}  # they are tried again
        assert content(snapshot(out)) == undisturbed
        assert verify(out) == []

    def test_deaths_by_chance_leave_no_trace(self, undisturbed, tmp_path):
        (tmp_path / "markers").mkdir()
        summary = self.run(Hostile({0: "exit", 3: "kill", 7: "fault"}, tmp_path / "markers"), tmp_path / "out")
        assert len(list((tmp_path / "markers").iterdir())) == 3
        assert summary.kinds == {"compressed": 8}
        assert content(snapshot(tmp_path / "out")) == undisturbed

    def test_the_command_says_what_failed(self, tmp_path, capsys, monkeypatch):
        """Files end no reader that Foveate has; it is the reading that is made to."""
        source = in_folder(tmp_path, ["0.png", "1.png"])
        (tmp_path / "sitecustomize.py").write_text(
            "import foveate.export._reading as reading, os\n"
            "read = reading.read_image\n"
            "def deadly(data, suffix, **options):\n"
            f"    return os._exit(5) if data == {png(1)!r} else read(data, suffix, **options)\n"
            "reading.read_image = deadly\n"
        )
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        words = ["compress", str(source), str(tmp_path / "out"), "--workers", "1"]
        assert main(words) == 1
        output = capsys.readouterr()
        assert "1 image compressed, 1 image failed" in output.out
        assert "failed 1.png: a worker process ended itself over it, with code 5" in output.err
        monkeypatch.undo()
        assert main([*words[:-1], "0"]) == 0

    def test_interrupted(self, tmp_path):
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
        command = [sys.executable, "-c", STOPPED, str(tmp_path / "out")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env) as process:
            try:
                process.stdout.readline()  # at the start
                process.stdout.readline()  # of an image that is done, so that workers are there
                below = workers_of(process.pid)
                assert below
                process.send_signal(signal.SIGINT)
                assert process.wait(60) != 0
            finally:
                process.kill()
        deadline = time.monotonic() + 60
        while any(Path(f"/proc/{pid}").exists() for pid in below) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(Path(f"/proc/{pid}").exists() for pid in below)

    def test_a_process_that_starts_while_the_run_ends(self, monkeypatch, tmp_path):
        """None is left, for which the interpreter would wait at its end, and never end."""
        from foveate.export._items import Items
        from foveate.export._plan import Part, Unit
        from foveate.export._store import Store
        from foveate.export._supervisor import _CONTEXT, Supervisor
        from foveate.export._work import pickled
        from foveate.export._worker import Job

        starting, ending, start = threading.Event(), threading.Event(), _CONTEXT.Process.start

        def start_late(process):
            starting.set()
            assert ending.wait(60)
            time.sleep(0.2)  # until the other thread is at it
            start(process)

        monkeypatch.setattr(_CONTEXT.Process, "start", start_late)
        supervisor = Supervisor(pickled(Job(Items(Hostile()), Store(tmp_path / "out"), WEBP)), 60)
        outcomes = []

        def work():
            try:
                outcomes.append(supervisor(Part(0, (Unit("0", "00000000", ""),))))
            except RuntimeError as error:
                outcomes.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        assert starting.wait(60)
        ending.set()
        supervisor.close()
        thread.join(60)
        assert not workers_of(os.getpid())
        assert isinstance(outcomes[0], RuntimeError)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
    def test_stopped_by_who_looks_on(self, error, undisturbed, tmp_path):
        def look(progress):
            if progress.done:
                raise error

        with pytest.raises(error) as raised:  # which is kept, as an interpreter keeps its last error
            self.run(Hostile(), tmp_path / "out", part=1, progress=look)
        assert not workers_of(os.getpid())
        del raised
        self.run(Hostile(), tmp_path / "out", part=1, workers=0)
        assert verify(tmp_path / "out") == []

    def test_a_generator_that_is_left(self, tmp_path):
        from foveate.export import _local
        from foveate.export._items import Items
        from foveate.export._plan import Part, Unit
        from foveate.export._store import Store
        from foveate.export._worker import Job

        job = Job(Items(Hostile()), Store(tmp_path / "out"), WEBP)
        parts = (Part(k, (Unit(str(k), f"{k:08}", ""),)) for k in range(8))
        reports = _local.run(job, parts, 2)
        next(reports)
        assert workers_of(os.getpid())
        reports.close()
        assert not workers_of(os.getpid())

    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_compressor_that_fails_on_every_image_stops_the_run(self, workers, tmp_path):
        with pytest.raises(ArithmeticError, match="no map of such an image"):
            compress_dataset(Hostile(), tmp_path / "out", Compressor("webp", Prefilter(Odd())), workers=workers)
        assert not [name for name in snapshot(tmp_path / "out") if name.endswith(".webp")]

    @pytest.mark.parametrize("workers", [0, 1])
    def test_one_that_fails_on_an_odd_image_sets_that_aside(self, workers, tmp_path):
        images = [Image.new("RGB", (16 + (k == 2), 16), (k, k, k)) for k in range(4)]
        compressor = Compressor("webp", Prefilter(Odd(17)))
        summary = compress_dataset(images, tmp_path / "out", compressor, workers=workers)
        assert summary.kinds == {"compressed": 3, "failed": 1}
        assert summary.failed == ("2: it cannot be compressed: ArithmeticError: no map of such an image",)
        assert verify(tmp_path / "out") == []

    @pytest.mark.parametrize("width", [17, 16], ids=["a later one", "the first"])
    def test_one_that_never_ends_is_set_aside(self, width, tmp_path):
        """Also where it is the first of a process, which is given time to build its models."""
        images = [Image.new("RGB", (16 + bool(k), 16), (k, k, k)) for k in range(2)]
        compressor = Compressor("webp", Prefilter(Odd(width, forever=True)))
        summary = compress_dataset(images, tmp_path / "out", compressor, workers=1, part=2, timeout=0.5)
        assert summary.kinds == {"compressed": 1, "failed": 1}
        assert "took more than 0.5 s" in summary.failed[0]

    def test_an_item_that_raises_is_unreadable(self, tmp_path):
        summary = self.run(Hostile({3: "raise"}), tmp_path / "out", workers=0)
        assert summary.kinds == {"compressed": 7, "unreadable": 1}
        assert "ZeroDivisionError" in list(manifest(tmp_path / "out"))[3]["reason"]


MUTATED = """
import json, resource, sys
from test_export_hostile import Compressor, compress_dataset
if __name__ == "__main__":
    options = {"workers": 2, "memory": 2 << 30, "shards": sys.argv[3] == "shards", "part": 100}
    kinds = compress_dataset(sys.argv[1], sys.argv[2], Compressor("webp:40,method=0"), **options).kinds
    print(json.dumps([kinds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10]))
"""
WATCHING = """
import os, sys
def watch(event, arguments):
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.fork", "os.startfile", "pty.spawn"):
        # Importing torch has ldconfig asked for a library, before there are images.
        if "spawn_main" in " ".join(sys.orig_argv) and "ldconfig" not in str(arguments):
            open(os.path.join(os.path.dirname(__file__), "started"), "a").write(event)
sys.addaudithook(watch)
"""


def test_two_thousand_mutated_images(shards, tmp_path):
    """None stops the run, each is counted, and no worker starts a program or takes more memory than it may."""
    (tmp_path / "in").mkdir()
    for name, data in mutations(1000, 1 + shards):
        (tmp_path / "in" / name).write_bytes(data)
    (tmp_path / "sitecustomize.py").write_text(WATCHING)
    (tmp_path / "bin").mkdir()
    for program in ("gs", "gswin32c", "djpeg", "dwebp", "sh", "convert"):
        (tmp_path / "bin" / program).write_text(f"#!{sys.executable}\nopen({str(tmp_path / 'started')!r}, 'w')\n")
        (tmp_path / "bin" / program).chmod(0o755)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", MUTATED, tmp_path / "in", tmp_path / "out", "shards" if shards else "tree"]
    env = {**os.environ, "PYTHONPATH": path, "PATH": str(tmp_path / "bin")}
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env, check=True)
    kinds, peak = json.loads(ended.stdout)
    assert sum(kinds.values()) == 1000
    assert kinds.keys() <= {"compressed", "unreadable", "failed"}
    assert min(kinds["compressed"], kinds["unreadable"]) > 100  # a mutation is neither always seen nor never
    assert len(sources(tmp_path / "out")) == 1000 - kinds.get("failed", 0)
    assert peak < 2 << 30
    assert not (tmp_path / "started").exists()
    assert verify(tmp_path / "out") == []
