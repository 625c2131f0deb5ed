"""Files that are whole or not there, and on the disk when they are."""

import errno
import os
import stat
import threading

import pytest

from foveate import _files
from foveate._files import make_folder, sync, sync_folder, write_bytes, write_text


@pytest.fixture
def steps(monkeypatch):
    """What is made durable, and when a file takes its place: ('file', bytes in it), ('replace', name), ('folder',)."""
    done = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor):
        status = os.fstat(descriptor)
        done.append(("folder",) if stat.S_ISDIR(status.st_mode) else ("file", status.st_size))
        fsync(descriptor)

    def recorded_replace(source, target):
        done.append(("replace", os.path.basename(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    return done


def failing(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


class TestWriting:
    def test_the_bytes_are_on_the_disk_before_they_take_the_place_and_the_folder_after(self, tmp_path, steps):
        write_bytes(tmp_path / "a", bytes(70_000))
        assert steps == [("file", 70_000), ("replace", "a"), ("folder",)]
        assert (tmp_path / "a").read_bytes() == bytes(70_000)

    def test_a_text_is_utf_8(self, tmp_path, steps):
        write_text(tmp_path / "a.txt", "œil\n")
        assert (tmp_path / "a.txt").read_bytes() == "œil\n".encode()
        assert steps[0] == ("file", 5)

    def test_an_old_file_is_replaced_and_nothing_else_left(self, tmp_path):
        (tmp_path / "a").write_bytes(b"old and longer")
        write_bytes(tmp_path / "a", b"new")
        assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"new")]

    @pytest.mark.parametrize("name", ["n" * 255, "é" * 127])
    def test_the_longest_names(self, tmp_path, name):
        write_bytes(tmp_path / name, b"here")
        assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(name, b"here")]

    def test_threads_that_write_to_one_path(self, tmp_path):
        texts, failed = [bytes([k]) * 100_000 for k in range(6)], []
        together = threading.Barrier(len(texts))

        def write(data):
            together.wait()
            try:
                for _ in range(10):
                    write_bytes(tmp_path / "a", data)
            except OSError as error:
                failed.append(error)

        threads = [threading.Thread(target=write, args=(data,)) for data in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert (tmp_path / "a").read_bytes() in texts
        assert [p.name for p in tmp_path.iterdir()] == ["a"]


class TestWhatCannotBeWritten:
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
    def test_the_disk_says_so_late(self, tmp_path, monkeypatch, number):
        (tmp_path / "a").write_bytes(b"old")
        monkeypatch.setattr(os, "fsync", failing(number))
        with pytest.raises(OSError, match=os.strerror(number)) as raised:
            write_bytes(tmp_path / "a", b"new")
        assert (raised.value.errno, raised.value.filename) == (number, str(tmp_path / "a"))
        assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"old")]

    def test_no_room_for_all_of_it(self, tmp_path):
        resource = pytest.importorskip("resource")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
        try:
            with pytest.raises(OSError, match="too large") as raised:
                write_bytes(tmp_path / "a", bytes(1 << 21))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert raised.value.filename == str(tmp_path / "a")
        assert not list(tmp_path.iterdir())

    def test_no_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError) as raised:
            write_bytes(tmp_path / "none" / "a", b"")
        assert raised.value.filename == str(tmp_path / "none" / "a")

    def test_a_folder_in_its_place(self, tmp_path):
        (tmp_path / "a").mkdir()
        with pytest.raises(OSError, match=r".") as raised:
            write_bytes(tmp_path / "a", b"")
        assert raised.value.filename == str(tmp_path / "a")
        assert [p.name for p in tmp_path.iterdir()] == ["a"]


class TestSync:
    def test_a_file(self, tmp_path, steps):
        (tmp_path / "a").write_bytes(b"abc")
        (tmp_path / "a").chmod(0o400)
        sync(tmp_path / "a")
        assert steps == [("file", 3)]

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(FileNotFoundError) as raised:
            sync(tmp_path / "a")
        assert raised.value.filename == str(tmp_path / "a")

    def test_a_failing_disk_is_named(self, tmp_path, monkeypatch):
        (tmp_path / "a").touch()
        monkeypatch.setattr(os, "fsync", failing(errno.EIO))
        for function, path in ((sync, tmp_path / "a"), (sync_folder, tmp_path)):
            with pytest.raises(OSError, match=os.strerror(errno.EIO)) as raised:
                function(path)
            assert raised.value.filename == str(path)

    def test_folders_where_they_cannot_be_opened(self, tmp_path, monkeypatch):
        monkeypatch.setattr(_files.os, "open", failing(errno.EACCES))  # as on Windows
        sync_folder(tmp_path)

    @pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
    def test_folders_where_they_cannot_be_synced(self, tmp_path, monkeypatch, number):
        monkeypatch.setattr(os, "fsync", failing(number))
        sync_folder(tmp_path)

    def test_new_folders_are_on_the_disk_with_all_above_them(self, tmp_path, steps):
        make_folder(tmp_path / "a" / "b")
        assert steps == [("folder",)] * 2
        make_folder(tmp_path / "a" / "b")
        assert len(steps) == 2
        assert (tmp_path / "a" / "b").is_dir()

    def test_a_file_where_a_folder_should_be(self, tmp_path):
        (tmp_path / "a").touch()
        with pytest.raises(FileExistsError) as raised:
            make_folder(tmp_path / "a")
        assert raised.value.filename == str(tmp_path / "a")
