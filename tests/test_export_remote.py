"""Sources and targets behind URLs: an object store in memory, a web server, and a server that speaks S3."""

import contextlib
import errno
import functools
import http.server
import shutil
import tarfile
import threading
import uuid

import fsspec
import pytest
from exporting import NET, content, scenes_tree, snapshot
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from foveate import Compressor, GradCam, Prefilter
from foveate.cli import main
from foveate.demo import PREPROCESS, Scenes
from foveate.export import cache_maps, compress_dataset, manifest, verify
from foveate.export._store import Store

COMPRESSOR = Compressor("webp:40", Prefilter(GradCam(NET, preprocess=PREPROCESS), 0.6))


@pytest.fixture
def tree(tmp_path):
    return scenes_tree(tmp_path / "tree")


@pytest.fixture
def memory():
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    fsspec.filesystem("memory").store.clear()


@pytest.fixture(scope="module")
def server():
    """The address of a server that speaks S3; real HTTP, real driver."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    moto = pytest.importorskip("moto.server", reason="moto's server is not installed")
    moto_server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto_server.start()
    host, port = moto_server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "none")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        yield
    moto_server.stop()


@pytest.fixture
def bucket(server):
    name = f"bucket-{uuid.uuid4().hex}"
    fsspec.filesystem("s3").mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def site(tmp_path):
    """The address of a folder's listing on a web server."""
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Silent, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def stored_files(url):
    """As ``snapshot``, of what is behind a URL, asked of the driver itself."""
    files, root = fsspec.core.url_to_fs(url)
    files.invalidate_cache()
    return {path.removeprefix(root).lstrip("/"): files.cat_file(path) for path in files.find(root)}


class TestMemory:
    @pytest.mark.parametrize("shards", [False, True])
    def test_there_and_back_is_as_on_disk(self, tree, memory, tmp_path, shards):
        options = {"shards": shards, "part": 4, "workers": 0}
        compress_dataset(tree, tmp_path / "disk", COMPRESSOR, **options)
        fsspec.filesystem("memory").put(f"{tree}/", f"{memory}/in/", recursive=True)
        summary = compress_dataset(f"{memory}/in", f"{memory}/out", COMPRESSOR, **options)
        assert summary.kinds == {"compressed": 10, "copied": 2, "unreadable": 1}
        assert content(stored_files(f"{memory}/out")) == content(snapshot(tmp_path / "disk"))
        assert stored_files(f"{memory}/in") == snapshot(tree)
        assert verify(f"{memory}/out") == []
        compress_dataset(f"{memory}/out", tmp_path / "back", Compressor("jpeg"), workers=0)
        assert verify(tmp_path / "back") == []

    def test_what_is_wrong_is_found(self, memory):
        scenes = [scene for scene, _ in Scenes(3)]
        compress_dataset(scenes, memory, Compressor("jpeg"), workers=0)
        files = fsspec.filesystem("memory")
        files.rm(f"{memory}/00000000.jpg")
        files.pipe(f"{memory}/00000001.jpg", b"")
        files.pipe(f"{memory}/mine.txt", b"mine")
        assert {problem.name for problem in verify(memory)} == {"00000000.jpg", "00000001.jpg", "mine.txt"}

    def test_source_and_target_in_one_another(self, memory, tree):
        fsspec.filesystem("memory").put(f"{tree}/", f"{memory}/in/", recursive=True)
        with pytest.raises(ValueError, match="lie in one another"):
            compress_dataset(f"{memory}/in", f"{memory}/in/out", Compressor("jpeg"), workers=0)

    def test_one_run_at_a_time(self, memory):
        errors = []

        def again(progress):
            if not errors:
                with pytest.raises(RuntimeError, match="another run is writing") as error:
                    compress_dataset(Scenes(2), memory, Compressor("jpeg"), workers=0)
                errors.append(error)

        compress_dataset(Scenes(2), memory, Compressor("jpeg"), workers=0, progress=again)
        assert errors


class TestS3:
    @pytest.mark.parametrize("shards", [False, True])
    def test_there_and_back_with_worker_processes(self, tree, bucket, tmp_path, shards):
        options = {"shards": shards, "part": 4}
        compress_dataset(tree, tmp_path / "disk", COMPRESSOR, workers=0, **options)
        fsspec.filesystem("s3").put(f"{tree}/", f"{bucket}/in/", recursive=True)
        summary = compress_dataset(f"{bucket}/in", f"{bucket}/out", COMPRESSOR, workers=2 - shards, **options)
        assert summary.kinds == {"compressed": 10, "copied": 2, "unreadable": 1}
        assert content(stored_files(f"{bucket}/out")) == content(snapshot(tmp_path / "disk"))
        assert stored_files(f"{bucket}/in") == snapshot(tree)
        assert verify(f"{bucket}/out") == []

    def test_a_whole_bucket(self, tree, bucket, tmp_path):
        fsspec.filesystem("s3").put(f"{tree}/", f"{bucket}/", recursive=True)
        compress_dataset(bucket, tmp_path / "out", Compressor("jpeg"), workers=0)
        compress_dataset(tree, tmp_path / "disk", Compressor("jpeg"), workers=0)
        assert content(snapshot(tmp_path / "out")) == content(snapshot(tmp_path / "disk"))

    def test_a_run_that_failed_goes_on(self, tree, bucket, tmp_path, monkeypatch):
        calls = []
        write = Store.write

        def failing(self, name, data, bookkeeping=False):
            calls.append(name)
            if len(calls) == 9:
                raise OSError("the network is gone")
            write(self, name, data, bookkeeping)

        def run(url):
            return compress_dataset(tree, url, Compressor("jpeg"), workers=0, part=3)

        with monkeypatch.context() as patch:
            patch.setattr(Store, "write", failing)
            with pytest.raises(OSError, match="the network is gone"):
                run(f"{bucket}/out")
        begun = stored_files(f"{bucket}/out")
        assert ".foveate/parts/000000.jsonl" in begun
        assert "foveate-manifest.jsonl.gz" not in begun
        with pytest.raises(ValueError, match="is its export finished"):
            verify(f"{bucket}/out")
        run(tmp_path / "disk")
        run(f"{bucket}/out")
        assert stored_files(f"{bucket}/out") == snapshot(tmp_path / "disk")
        assert verify(f"{bucket}/out") == []

    def test_listings_are_not_remembered(self, bucket):
        store = Store(f"{bucket}/folder")
        store.write("a", b"1")
        assert sorted(name for name, _ in store.files()) == ["a"]
        assert not store.exists("b")
        other = fsspec.filesystem("s3", skip_instance_cache=True)  # as if of another process
        other.pipe_file(f"{bucket}/folder/b", b"2")
        other.pipe_file(f"{bucket}/folder/a", b"longer")
        assert store.exists("b")
        assert sorted(name for name, _ in store.files()) == ["a", "b"]
        with store.open("a") as stream:
            assert stream.read() == b"longer"
        assert store.read("a") == b"longer"

    def test_the_commands(self, tree, bucket, tmp_path, capsys):
        fsspec.filesystem("s3").put(f"{tree}/", f"{bucket}/in/", recursive=True)
        model = ["--model", NET, "--resize", "160", "--crop", "160"]
        assert main(["saliency", f"{bucket}/in", str(tmp_path / "maps"), *model]) == 0
        assert "10 images have maps" in capsys.readouterr().out
        words = ["compress", f"{bucket}/in", f"{bucket}/out", "--workers", "1", "--cache", str(tmp_path / "maps")]
        assert main([*words, *model]) == 0
        assert "10 images compressed" in capsys.readouterr().out
        assert main(["verify", f"{bucket}/out"]) == 0
        assert main(["verify", f"{bucket}/in"]) == 2
        assert "is its export finished?" in capsys.readouterr().err

    def test_a_bucket_that_is_not_there(self, server, tmp_path, capsys):
        assert main(["compress", "s3://no-such-bucket/in", str(tmp_path / "out"), "--workers", "0"]) == 1
        assert _one_line(capsys)

    def test_reading_in_worker_processes(self, tree, bucket, tmp_path):
        fsspec.filesystem("s3").put(f"{tree}/", f"{bucket}/in/", recursive=True)
        cam = GradCam(NET, preprocess=PREPROCESS)
        assert cache_maps(f"{bucket}/in", tmp_path / "maps", cam, workers=1).computed == 10


class TestWeb:
    def test_a_folder(self, tree, site, tmp_path):
        (tree / "cat" / "two words & 50%.png").write_bytes((tree / "cat" / "002.png").read_bytes())
        compress_dataset(tree, tmp_path / "disk", Compressor("jpeg"), workers=0)
        for url, workers in ((f"{site}/tree", 0), (f"{site}/tree/", 1)):
            compress_dataset(url, tmp_path / "out", Compressor("jpeg"), workers=workers)
            assert content(snapshot(tmp_path / "out")) == content(snapshot(tmp_path / "disk"))
            shutil.rmtree(tmp_path / "out")

    def test_shards(self, tree, site, tmp_path):
        compress_dataset(tree, tmp_path / "tars", Compressor("webp:90"), shards=True, part=7, workers=0)
        compress_dataset(tmp_path / "tars", tmp_path / "disk", Compressor("jpeg"), workers=0)
        (tmp_path / "tars" / "foveate-manifest.jsonl.gz").unlink()
        compress_dataset(f"{site}/tars", tmp_path / "out", Compressor("jpeg"), workers=0)
        assert content(snapshot(tmp_path / "out")) == content(snapshot(tmp_path / "disk"))
        compress_dataset(f"{site}/tars/part-000001.tar", tmp_path / "one", Compressor("jpeg"), workers=0)
        assert {line["source"].partition(":")[0] for line in manifest(tmp_path / "one")} == {"part-000001.tar"}

    def test_a_server_that_breaks_off(self, tree, tmp_path, site, monkeypatch):
        """An image that cannot be fetched is not an unreadable image: the run stops, and goes on later."""
        from fsspec.implementations.http import HTTPFileSystem

        fetch = HTTPFileSystem._cat_file

        async def failing(self, path, *args, **kwargs):
            if path.endswith("004.png"):
                raise TimeoutError
            return await fetch(self, path, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(HTTPFileSystem, "_cat_file", failing)
            HTTPFileSystem.clear_instance_cache()
            with pytest.raises(OSError, match="TimeoutError"):
                compress_dataset(f"{site}/tree", tmp_path / "out", Compressor("jpeg"), workers=0, part=2)
        HTTPFileSystem.clear_instance_cache()
        compress_dataset(f"{site}/tree", tmp_path / "out", Compressor("jpeg"), workers=0, part=2)
        compress_dataset(tree, tmp_path / "disk", Compressor("jpeg"), workers=0, part=2)
        assert content(snapshot(tmp_path / "out")) == content(snapshot(tmp_path / "disk"))


@pytest.mark.parametrize("kind", ["listing", "image", "shard"])
def test_a_server_that_stalls(kind, tree, tmp_path, site, monkeypatch):
    """It is asked three times, for so long each, and then that is an error of the network; the next run goes on."""
    compress_dataset(tree, tmp_path / "tars", Compressor("webp:90"), shards=True, part=7, workers=0)
    for name in ("manifest.jsonl.gz", "parts.jsonl.gz", "summary.json"):
        (tmp_path / "tars" / f"foveate-{name}").unlink()
    source = f"{site}/tars" if kind == "shard" else f"{site}/tree"
    path = {"listing": "/tree/", "image": "/tree/cat/004.png", "shard": "/tars/part-000001.tar"}[kind]
    requests, go_on, send_head = [], threading.Event(), http.server.SimpleHTTPRequestHandler.send_head

    def stalled(self):
        if self.path == path and self.command == "GET":
            requests.append(path)
            go_on.wait(60)
        return send_head(self)

    with monkeypatch.context() as patch:
        patch.setattr("foveate.export._driver.PATIENCE", 1.0)
        patch.setattr(http.server.SimpleHTTPRequestHandler, "send_head", stalled)
        with pytest.raises(OSError, match=r"no answer within 1 s.*http://127\.0\.0\.1"):
            compress_dataset(source, tmp_path / "out", Compressor("jpeg"), workers=0)
        go_on.set()
    assert len(requests) >= 3
    summary = compress_dataset(source, tmp_path / "out", Compressor("jpeg"), workers=0)
    assert (summary.kinds["compressed"], summary.kinds["unreadable"]) == (10, 1)
    assert verify(tmp_path / "out") == []


class Plain(MemoryFileSystem):
    """Files as on FTP: they are seen while they are written, and a write may break off."""

    protocol = "plain"
    store = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    failing = False
    seen = []  # noqa: RUF012

    def pipe_file(self, path, value, **kwargs):
        self.seen.append(path)
        super().pipe_file(path, value[: len(value) // 2] if self.failing else value)
        if self.failing:
            raise TimeoutError

    def put_file(self, lpath, rpath, **kwargs):
        with open(lpath, "rb") as stream:
            self.pipe_file(rpath, stream.read())


class TestWholeOrNotThere:
    @pytest.fixture(autouse=True)
    def _plain(self):
        fsspec.register_implementation("plain", Plain, clobber=True)
        yield
        Plain.store.clear()
        Plain.failing = False

    @pytest.mark.parametrize("streamed", [False, True])
    def test_what_is_half_written_is_not_seen(self, streamed):
        def write(data):
            if not streamed:
                store.write("deep/a", data)
                return
            with store.writing("deep/a") as stream:
                stream.write(data)

        store = Store("plain://root")
        write(b"the first")
        assert store.read("deep/a") == b"the first"
        Plain.failing = True
        with pytest.raises(OSError, match="TimeoutError"):
            write(b"the second")
        assert store.read("deep/a") == b"the first"
        assert sorted(name for name, _ in store.files()) == ["deep/a"]
        assert all("/.foveate/tmp/" in path for path in Plain.seen)

    @pytest.mark.parametrize("protocol", ["memory", "plain"])
    def test_a_block_that_fails(self, protocol):
        store = Store(f"{protocol}://root-{uuid.uuid4().hex}")
        with contextlib.suppress(KeyError), store.writing("a") as stream:
            stream.write(b"half")
            raise KeyError
        assert sorted(name for name, _ in store.files()) == []

    def test_a_stream_that_breaks_off(self, monkeypatch):
        """With a number, so that nobody takes it for damage of the image."""
        store = Store("plain://root")
        store.write("a", b"1")
        with store.open("a") as stream:
            monkeypatch.setattr(MemoryFile, "read", lambda *args: (_ for _ in ()).throw(TimeoutError()))
            with pytest.raises(OSError, match="TimeoutError") as error:
                stream.read()
        assert error.value.errno == errno.EIO

    def test_an_export(self, tree, tmp_path):
        compress_dataset(tree, "plain://out", Compressor("jpeg"), shards=True, part=4, workers=0)
        compress_dataset(tree, tmp_path / "disk", Compressor("jpeg"), shards=True, part=4, workers=0)
        assert stored_files("plain://out") == snapshot(tmp_path / "disk")


def _one_line(capsys):
    """What a command said last on standard error, which was one line and no traceback."""
    output = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()
    assert [line for line in output if not line.startswith(("compress:", "saliency:"))] == output[-1:]
    return output[-1]


@pytest.mark.parametrize("command", ["compress", "saliency", "verify"])
@pytest.mark.parametrize(
    ("url", "output"),
    [
        ("gs://bucket/in", 'its driver is not installed; pip install "gcsfs>=2024.2"'),
        ("nosuch://in", "Protocol not known: nosuch"),
    ],
)
def test_drivers_that_are_not_there(command, url, output, tmp_path, capsys):
    words = [command, url] if command == "verify" else [command, url, str(tmp_path / "out")]
    words += ["--model", NET] if command == "saliency" else []
    assert main(words) in (1, 2)
    line = _one_line(capsys)
    assert line.startswith("foveate: error: ")
    assert output in line


def test_a_shard_that_is_damaged_on_the_way(site, tmp_path):
    compress_dataset(Scenes(4), tmp_path / "tars", Compressor("jpeg"), shards=True, workers=0)
    path = tmp_path / "tars" / "part-000000.tar"
    with tarfile.open(path) as tar:
        second = tar.getmembers()[2].offset
    path.write_bytes(path.read_bytes()[: second + 100])
    with pytest.raises(ValueError, match=r"source: part-000000\.tar is not a whole tar file"):
        compress_dataset(f"{site}/tars", tmp_path / "out", Compressor("jpeg"), workers=0)
    assert [name for name in snapshot(tmp_path / "out") if not name.startswith("foveate")] == []
