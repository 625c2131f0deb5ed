"""Whole datasets on one machine: what is written, and that nothing is lost."""

import errno
import hashlib
import json
import math
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from functools import partial
from glob import glob
from pathlib import Path

import pytest
import torch
from exporting import NET, pack, scenes_tree, snapshot, unpacked, workers_of
from PIL import Image
from recipes import tiny
from torchvision.datasets import ImageFolder

import foveate
from foveate import CachedSaliency, Compressor, GradCam, Prefilter, RateControl, Witness
from foveate.cli import main
from foveate.codecs import CODECS
from foveate.demo import PREPROCESS, Scenes
from foveate.export import RefusedError, Summary, compress_dataset, is_image, load, manifest, verify
from foveate.images import as_tensor, read
from foveate.models import Preprocess
from foveate.saliency import Shuffled

WITNESS = Witness(NET, PREPROCESS)
CAM = GradCam(NET, preprocess=PREPROCESS)


@pytest.fixture
def tree(tmp_path):
    return scenes_tree(tmp_path / "tree")


def lines(target):
    return {line["source"]: line for line in manifest(target)}


class TestTree:
    def test_paths_labels_and_other_files(self, tree, tmp_path):
        before = snapshot(tree)
        summary = compress_dataset(tree, tmp_path / "out", Compressor("webp:40"), workers=0)
        assert snapshot(tree) == before
        assert summary.kinds == {"compressed": 10, "copied": 2, "unreadable": 1}
        names = {name for name in snapshot(tmp_path / "out") if not name.startswith("foveate-")}
        assert names == {
            str(Path(name).with_suffix(".webp")) if is_image(name) and "broken" not in name else name for name in before
        }
        shutil.rmtree(tmp_path / "out" / "dog" / "deep")  # ImageFolder alone reads what is left
        (tmp_path / "out" / "cat" / "broken.jpg").unlink()
        (tmp_path / "out" / "dog" / "one.webp").write_bytes((tmp_path / "out" / "cat" / "000.webp").read_bytes())
        data = ImageFolder(tmp_path / "out")
        assert data.classes == ["cat", "dog"]
        assert [label for _, label in data] == [0] * 5 + [1]

    def test_the_bytes_are_the_compressor_s(self, tree, tmp_path):
        compressor = Compressor("webp:40", Prefilter(CAM, 0.6), scale=0.8)
        compress_dataset(tree, tmp_path / "out", compressor, workers=0)
        for name in ("cat/000.jpg", "dog/deep/001.png"):
            wanted = compressor.encode([read(tree / name)])[0].data
            assert (tmp_path / "out" / name).with_suffix(".webp").read_bytes() == wanted

    @pytest.mark.parametrize("name", CODECS)
    def test_every_codec(self, tree, tmp_path, name):
        fast = {"avif": ":speed=10", "jxl": ":effort=3", "hevc": ":preset=ultrafast"}.get(name, "")
        compressor = Compressor(name + fast)
        compress_dataset(tree, tmp_path / "out", compressor, workers=0, others="skip")
        assert verify(tmp_path / "out") == []
        data = ImageFolder(tmp_path / "out", loader=load, is_valid_file=is_image)
        assert len(data) == 10
        decoded_image = as_tensor(data[0][0]).int()
        assert (decoded_image - read(tree / "cat" / "000.jpg").int()).abs().float().mean() < 12

    def test_images_that_share_a_name(self, tmp_path):
        source = tmp_path / "in"
        source.mkdir()
        for k, name in enumerate(("a.png", "a.bmp", "b.v2.png", "A.png")):
            Scenes(4)[k][0].save(source / name)
        compress_dataset(source, tmp_path / "out", Compressor("jpeg"), workers=0)
        assert {name for name in snapshot(tmp_path / "out") if name.endswith(".jpg")} == {
            "a.jpg", "a.png.jpg", "b.v2.jpg", "A.jpg",
        }  # fmt: skip
        for name, line in lines(tmp_path / "out").items():
            wanted = Compressor("jpeg").encode([read(source / name)])[0].data
            assert (tmp_path / "out" / line["target"]).read_bytes() == wanted

    def test_only_if_smaller(self, tmp_path):
        source = tmp_path / "in"
        source.mkdir()
        scene = Scenes(1)[0][0]
        scene.save(source / "tiny.jpg", quality=5)
        scene.save(source / "large.png")
        summary = compress_dataset(source, tmp_path / "out", Compressor("jpeg:90"), only_if_smaller=True, workers=0)
        assert summary.kinds == {"compressed": 1, "kept": 1}
        assert (tmp_path / "out" / "tiny.jpg").read_bytes() == (source / "tiny.jpg").read_bytes()
        assert verify(tmp_path / "out") == []

    def test_links_are_followed_but_not_in_circles(self, tree, tmp_path):
        (tree / "cat" / "up").symlink_to(tree)
        (tree / "linked").symlink_to(tree / "dog", target_is_directory=True)
        summary = compress_dataset(tree, tmp_path / "out", Compressor("jpeg"), workers=0)
        assert summary.kinds == {"compressed": 15, "copied": 3, "unreadable": 1}

    def test_gray_stays_gray_and_a_turned_photo_is_upright(self, tmp_path):
        source = tmp_path / "in"
        source.mkdir()
        Scenes(1)[0][0].convert("L").save(source / "gray.png")
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (40, 20)).save(source / "turned.jpg", exif=exif)
        compress_dataset(source, tmp_path / "out", Compressor("webp"), workers=0)
        assert lines(tmp_path / "out")["turned.jpg"]["size"] == [40, 20]
        assert Image.open(tmp_path / "out" / "turned.webp").size == (20, 40)
        compress_dataset(source, tmp_path / "jpeg", Compressor("jpeg"), workers=0)
        assert Image.open(tmp_path / "jpeg" / "gray.jpg").mode == "L"

    def test_an_image_that_the_codec_cannot_hold_is_copied(self, tmp_path):
        source = tmp_path / "in"
        source.mkdir()
        Image.new("L", (17000, 2)).save(source / "panorama.png")
        Scenes(1)[0][0].save(source / "other.png")
        summary = compress_dataset(source, tmp_path / "out", Compressor("webp"), workers=0)
        assert summary.kinds == {"compressed": 1, "unreadable": 1}
        assert "16383" in lines(tmp_path / "out")["panorama.png"]["reason"]
        assert (tmp_path / "out" / "panorama.png").read_bytes() == (source / "panorama.png").read_bytes()


class TestWhatAnImageShows:
    def test_sixteen_bits_are_exported_and_loaded_as_they_look(self, tmp_path):
        source = tmp_path / "in"
        source.mkdir()
        gray = Image.new("I;16", (40, 30), 70 * 257)
        gray.save(source / "a.png")
        gray.save(source / "b.tif")
        Image.new("F", (40, 30), 0.3).save(source / "c.tif")
        summary = compress_dataset(source, tmp_path / "out", Compressor("jpeg:90"), workers=0)
        assert summary.kinds == {"compressed": 2, "unreadable": 1}
        assert "mode F of TIFF" in lines(tmp_path / "out")["c.tif"]["reason"]
        assert verify(tmp_path / "out") == []
        for path in (source / "a.png", source / "b.tif", tmp_path / "out" / "a.jpg", tmp_path / "out" / "b.jpg"):
            assert as_tensor(load(path)).equal(torch.full((3, 30, 40), 70, dtype=torch.uint8))

    def test_load_shows_what_read_does(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        Scenes(1)[0][0].resize((40, 20)).save(tmp_path / "turned.jpg", exif=exif)
        Image.new("RGBA", (40, 20), (9, 99, 9, 50)).save(tmp_path / "clear.png")
        Image.new("LA", (40, 20), (9, 0)).save(tmp_path / "clear-gray.png")
        Image.new("CMYK", (40, 20), (9, 99, 9, 50)).save(tmp_path / "print.jpg")
        for path in tmp_path.iterdir():
            assert load(path).mode == "RGB"
            assert as_tensor(load(path)).equal(read(path)), path.name

    @pytest.mark.parametrize("workers", [0, 2])
    def test_of_several_frames_the_first_is_taken_and_that_is_said(self, tmp_path, workers, capsys):
        source, out = tmp_path / "in", tmp_path / "out"
        source.mkdir()
        scenes = [Scenes(3)[k][0] for k in range(3)]
        for name in ("a.gif", "b.tif", "c.webp"):
            scenes[0].save(source / name, save_all=True, append_images=scenes[1:])
        scenes[0].save(source / "d.png")
        words = ["compress", source, out, "--codec", "jpeg:90", "--workers", workers]
        assert main([str(word) for word in words]) == 0
        assert "3 have several frames, of which the first was taken" in capsys.readouterr().out
        assert [line.get("frames") for line in manifest(out)] == [3, 3, 3, None]
        assert (as_tensor(load(out / "b.jpg")).int() - as_tensor(scenes[0]).int()).abs().float().mean() < 6
        again = compress_dataset(source, out, Compressor("jpeg:90"), workers=0)
        assert again.multiframe == 3
        assert json.loads((out / "foveate-summary.json").read_text())["multiframe"] == 3
        scenes[1].save(source / "e.gif", save_all=True, append_images=scenes[2:])
        assert compress_dataset(source, out, Compressor("jpeg:90"), workers=0).multiframe == 4

    def test_a_file_that_is_kept_keeps_its_frames(self, tmp_path):
        source = tmp_path / "in"
        source.mkdir()
        scenes = [Scenes(3)[k][0] for k in range(3)]
        scenes[0].save(source / "a.webp", save_all=True, append_images=scenes[1:], quality=1)
        summary = compress_dataset(source, tmp_path / "out", Compressor("jpeg:95"), workers=0, only_if_smaller=True)
        assert (summary.kinds, summary.multiframe) == ({"kept": 1}, 0)
        assert "frames" not in next(manifest(tmp_path / "out"))

    def test_a_summary_of_before_frames_were_counted(self, tmp_path):
        first = compress_dataset(Scenes(1), tmp_path, Compressor("jpeg"), workers=0)
        path = tmp_path / "foveate-summary.json"
        text = json.loads(path.read_text())
        del text["multiframe"]
        path.write_text(json.dumps(text))
        assert compress_dataset(Scenes(1), tmp_path, Compressor("jpeg"), workers=0) == first

    @pytest.mark.parametrize("threads", [0, 2.0, True])
    def test_verify_with_no_threads(self, tmp_path, threads):
        with pytest.raises(ValueError, match="threads: expected an integer of at least 1"):
            verify(tmp_path, threads=threads)


class TestShards:
    def test_samples_with_class_numbers_in_order(self, tmp_path):
        source = tmp_path / "in"
        for k in range(5):
            (source / "ba"[k % 2]).mkdir(parents=True, exist_ok=True)
            Scenes(5)[k][0].save(source / "ba"[k % 2] / f"{k}.v1.png")
        summary = compress_dataset(source, tmp_path / "out", Compressor("webp"), shards=True, part=2, workers=0)
        assert summary.classes == ("a", "b")
        members = {}
        for path in sorted((tmp_path / "out").glob("*.tar")):
            with tarfile.open(path) as tar:
                members[path.name] = [(m.name, tar.extractfile(m).read()) for m in tar]
        assert [name for name, _ in members["part-000000.tar"]] == [
            "a/1_v1.webp", "a/1_v1.cls", "a/3_v1.webp", "a/3_v1.cls",
        ]  # fmt: skip
        assert members["part-000002.tar"][1] == ("b/4_v1.cls", b"1")
        assert verify(tmp_path / "out") == []

    def test_there_and_back(self, tree, tmp_path):
        compress_dataset(tree, tmp_path / "one", Compressor("webp:80"), shards=True, part=4, workers=0)
        compress_dataset(tmp_path / "one", tmp_path / "two", Compressor("jpeg"), shards=True, workers=0)
        compress_dataset(tmp_path / "one", tmp_path / "three", Compressor("jpeg"), workers=0)
        compress_dataset(tmp_path / "one" / "part-000001.tar", tmp_path / "four", Compressor("jpeg"), workers=0)
        assert {p.name for p in (tmp_path / "two").glob("*.tar")} == {p.name for p in (tmp_path / "one").glob("*.tar")}
        with tarfile.open(tmp_path / "two" / "part-000001.tar") as tar:
            contents = {f"part-000001/{m.name}": tar.extractfile(m).read() for m in tar}
        three, four = snapshot(tmp_path / "three"), snapshot(tmp_path / "four")
        assert contents.items() <= three.items()
        assert contents.items() <= four.items()
        for name in ("two", "three", "four"):
            assert verify(tmp_path / name) == []

    def test_large_files_beside_images_are_streamed(self, tmp_path):
        source = tmp_path / "in"
        source.mkdir()
        large = os.urandom(3 << 20)
        (source / "b.bin").write_bytes(large)
        for name in "ac":
            Scenes(1)[0][0].save(source / f"{name}.png")
        compress_dataset(source, tmp_path / "tree", Compressor("jpeg"), workers=0)
        compress_dataset(source, tmp_path / "tars", Compressor("jpeg"), shards=True, workers=0)
        compress_dataset(tmp_path / "tars", tmp_path / "again", Compressor("jpeg"), shards=True, workers=0)
        assert (tmp_path / "tree" / "b.bin").read_bytes() == large
        for name in ("tars", "again"):
            with tarfile.open(tmp_path / name / "part-000000.tar") as tar:
                assert [m.name for m in tar] == ["a.jpg", "b.bin", "c.jpg"]
                assert tar.extractfile("b.bin").read() == large
        sums = {line["source"].rpartition(":")[2]: line["sha256"] for line in manifest(tmp_path / "again")}
        assert sums["b.bin"] == hashlib.sha256(large).hexdigest()


class TestOthers:
    def test_skipped(self, tree, tmp_path):
        summary = compress_dataset(tree, tmp_path / "out", Compressor("jpeg"), others="skip", workers=0)
        assert summary.kinds == {"compressed": 10, "skipped": 2, "unreadable": 1}
        assert not (tmp_path / "out" / "notes.txt").exists()
        assert not (tmp_path / "out" / "cat" / "broken.jpg").exists()
        assert verify(tmp_path / "out") == []

    def test_refused(self, tree, tmp_path):
        with pytest.raises(RefusedError, match=r"cat/broken\.jpg: no"):
            compress_dataset(tree, tmp_path / "out", Compressor("jpeg"), others="refuse", workers=0)

    def test_an_item_of_a_dataset_is_refused_too(self, tmp_path):
        class Damaged(list):
            def __getitem__(self, k):
                raise ValueError("a damaged item")

        with pytest.raises(RefusedError, match="0: a damaged item"):
            compress_dataset(Damaged([1]), tmp_path / "a", Compressor("jpeg"), others="refuse", workers=0)
        summary = compress_dataset(Damaged([1]), tmp_path / "b", Compressor("jpeg"), others="skip", workers=0)
        assert summary.kinds == {"unreadable": 1}


class TestManifest:
    def test_what_it_says(self, tree, tmp_path):
        compressor = Compressor(
            "jpeg", Prefilter(CAM), control=RateControl(WITNESS, strengths=(0, 0.5), as_stored=True)
        )
        summary = compress_dataset(tree, tmp_path / "out", compressor, workers=0)
        entries = lines(tmp_path / "out")
        assert list(entries) == sorted(snapshot(tree))
        line = entries["cat/000.jpg"]
        data = (tmp_path / "out" / "cat" / "000.jpg").read_bytes()
        assert line["bytes"] == len(data)
        assert line["sha256"] == hashlib.sha256(data).hexdigest()
        assert line["source_bytes"] == (tree / "cat" / "000.jpg").stat().st_size
        assert line["size"] == [160, 160]
        assert line["settings"].keys() == {"codec", "strength", "scale"}
        decoded = [read(tmp_path / "out" / "cat" / "000.jpg")]
        answers = WITNESS.logits([read(tree / "cat" / "000.jpg"), *decoded]).softmax(1)
        top = int(answers[0].argmax())
        assert line["met"]
        assert line["clean"][0] == pytest.approx(float(answers[0, top]), abs=1e-3)
        assert line["final"][0] == pytest.approx(float(answers[1, top]), abs=1e-3)
        assert "reason" in entries["cat/broken.jpg"]
        total = sum(entry["bytes"] for entry in entries.values())
        assert (summary.bytes, summary.kinds["compressed"]) == (total, 10)
        assert json.loads((tmp_path / "out" / "foveate-summary.json").read_text())["kinds"] == summary.kinds

    def test_what_readers_get_is_what_the_witness_was_shown(self, tree, tmp_path):
        """At whatever size an image is stored: not brought back to its source size, as no plain reader does that."""
        witness = Witness(NET, Preprocess(160, 160, (0.4,) * 3, (0.25,) * 3))
        with pytest.raises(ValueError, match="as_stored=True"):
            compress_dataset(tree, tmp_path / "out", Compressor("jpeg", control=RateControl(witness)), workers=0)
        control = RateControl(witness, scales=(0.5, 0.6), as_stored=True)
        compress_dataset(tree, tmp_path / "out", Compressor("jpeg", control=control), workers=0)
        for name, line in lines(tmp_path / "out").items():
            if line["kind"] == "compressed":
                before, after = witness.logits([read(tree / name), read(tmp_path / "out" / line["target"])]).softmax(1)
                assert float(after[before.argmax()]) == pytest.approx(line["final"][0], abs=1e-3)
                assert line["met"] == bool(after.argmax() == before.argmax())

    def test_verify_finds_what_is_wrong(self, tree, tmp_path):
        out = tmp_path / "out"
        compress_dataset(tree, out, Compressor("jpeg"), workers=0)
        assert verify(out) == []
        (out / "cat" / "000.jpg").unlink()
        data = bytearray((out / "cat" / "002.jpg").read_bytes())
        data[len(data) // 2] ^= 1
        (out / "cat" / "002.jpg").write_bytes(data)
        (out / "cat" / "004.jpg").write_bytes(b"")
        (out / "cat" / "stray.jpg").write_bytes(b"")
        assert {p.name: p.description.split()[0] for p in verify(out)} == {
            "cat/000.jpg": "is", "cat/002.jpg": "holds", "cat/004.jpg": "has", "cat/stray.jpg": "does",
        }  # fmt: skip

    def test_verify_decodes(self, tmp_path):
        """A manifest that agrees with a file that is not an image is not enough."""
        compress_dataset(Scenes(1), tmp_path, Compressor("jpeg"), workers=0)
        path = tmp_path / "foveate-manifest.jsonl.gz"
        line = json.loads(unpacked(path))
        data = (tmp_path / line["target"]).read_bytes()[:200]
        (tmp_path / line["target"]).write_bytes(data)
        pack(path, json.dumps(line | {"bytes": 200, "sha256": hashlib.sha256(data).hexdigest()}).encode() + b"\n")
        assert any("cannot be decoded" in str(problem) for problem in verify(tmp_path))

    def test_verify_shards(self, tmp_path):
        compress_dataset(Scenes(4), tmp_path, Compressor("jpeg"), shards=True, part=2, workers=0)
        assert verify(tmp_path) == []
        whole = (tmp_path / "part-000000.tar").read_bytes()
        (tmp_path / "part-000000.tar").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "part-000001.tar").unlink()
        entries = {p.name for p in verify(tmp_path)}
        assert "part-000001.tar" in entries
        assert any("part-000000.tar" in name for name in entries)


class TestGoingOn:
    def test_a_second_call_does_nothing(self, tree, tmp_path):
        first = compress_dataset(tree, tmp_path / "out", Compressor("jpeg"), workers=0)
        times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.jpg")}
        assert compress_dataset(tree, tmp_path / "out", Compressor("jpeg"), workers=0) == first
        assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.jpg")} == times

    @pytest.mark.parametrize("shards", [False, True])
    def test_what_came_to_the_source_since_is_added(self, tree, tmp_path, shards):
        options = {"shards": shards, "workers": 0, "part": 4}
        compress_dataset(tree, tmp_path / "out", Compressor("jpeg"), **options)
        old = {k: v for k, v in snapshot(tmp_path / "out").items() if "foveate" not in k}
        (tree / "ant").mkdir()
        Scenes(1)[0][0].save(tree / "ant" / "new.png")
        Scenes(1)[0][0].save(tree / "cat" / "000.bmp")  # would be called as one that is there
        summary = compress_dataset(tree, tmp_path / "out", Compressor("jpeg"), **options)
        assert summary.kinds["compressed"] == 12
        assert old.items() <= snapshot(tmp_path / "out").items()
        assert len(lines(tmp_path / "out")) == 15
        assert verify(tmp_path / "out") == []
        if not shards:
            assert (tmp_path / "out" / "cat" / "000.bmp.jpg").exists()

    def test_other_settings_are_refused(self, tree, tmp_path):
        compress_dataset(tree, tmp_path / "out", Compressor("jpeg:50"), workers=0)
        with pytest.raises(ValueError, match="made with other settings .*jpeg:50.*jpeg:51"):
            compress_dataset(tree, tmp_path / "out", Compressor("jpeg:51"), workers=0)

    def test_more_formats_are_another_export(self, tmp_path):
        """What was unreadable without them would stay so."""
        source, out = tmp_path / "in", tmp_path / "out"
        source.mkdir()
        Scenes(1)[0][0].save(source / "a.png", "DDS")
        assert compress_dataset(source, out, Compressor("jpeg"), workers=0).kinds == {"unreadable": 1}
        with pytest.raises(ValueError, match="made with other settings .*formats.*DDS"):
            compress_dataset(source, out, Compressor("jpeg"), workers=0, formats=["dds"])
        summary = compress_dataset(source, tmp_path / "two", Compressor("jpeg"), workers=0, formats=["dds"])
        assert summary.kinds == {"compressed": 1}

    def test_files_of_the_user_are_not_overwritten(self, tree, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("mine")
        with pytest.raises(ValueError, match=r"files that no export wrote, such as mine\.txt"):
            compress_dataset(tree, tmp_path / "out", Compressor("jpeg"), workers=0)

    @pytest.mark.parametrize("place", ["tree", "tree/out", "."])
    def test_source_and_target_in_one_another(self, tree, tmp_path, place):
        before = snapshot(tmp_path)
        with pytest.raises(ValueError, match="lie in one another"):
            compress_dataset(tree, tmp_path / place, Compressor("jpeg"), workers=0)
        assert snapshot(tmp_path) == before

    @pytest.mark.parametrize("place", ["tree/maps", "out", "out/maps"])
    def test_a_cache_in_the_source_or_the_target(self, tree, tmp_path, place):
        before = snapshot(tmp_path)
        with pytest.raises(ValueError, match="cache: .* lie in one another"):
            compress_dataset(tree, tmp_path / "out", Compressor("jpeg", Prefilter(CAM)), cache=tmp_path / place)
        assert snapshot(tmp_path) == before

    def test_a_source_that_vanishes_and_comes_back(self, tree, tmp_path, monkeypatch):
        from foveate.export import _run

        gone = tree / "cat" / "002.png"
        data = gone.read_bytes()
        finish = _run.planned

        def planned(*args):
            plan = finish(*args)
            gone.unlink(missing_ok=True)
            return plan

        monkeypatch.setattr(_run, "planned", planned)
        summary = compress_dataset(tree, tmp_path / "out", Compressor("jpeg"), workers=0)
        assert summary.missing == ("cat/002.png",)
        assert "cat/002.png" not in lines(tmp_path / "out")
        monkeypatch.undo()
        gone.write_bytes(data)
        summary = compress_dataset(tree, tmp_path / "out", Compressor("jpeg"), workers=0)
        assert summary.kinds == {"compressed": 10, "copied": 2, "unreadable": 1}
        assert verify(tmp_path / "out") == []

    def test_two_runs_on_one_target(self, tree, tmp_path):
        from filelock import FileLock

        (tmp_path / "out").mkdir()
        with FileLock(tmp_path / "out" / ".foveate.lock"), pytest.raises(RuntimeError, match="another run is writing"):
            compress_dataset(tree, tmp_path / "out", Compressor("jpeg"), workers=0)
        complaints = []

        def again(progress):
            with pytest.raises(RuntimeError, match="another run is writing") as error:
                compress_dataset(tree, tmp_path / "out", Compressor("jpeg"), workers=0)
            complaints.append(str(error.value))

        compress_dataset(tree, tmp_path / "out", Compressor("jpeg"), workers=0, progress=again)
        assert f"(process {os.getpid()} on {socket.gethostname()}, since 2" in complaints[0]
        assert not (tmp_path / "out" / ".foveate").exists()

    def test_a_full_disk(self, tree, tmp_path):
        """A limit on the size of files is met by the same call that a full disk fails: write."""
        whole = tmp_path / "whole"
        compress_dataset(tree, whole, Compressor("jpeg:90"), workers=0, part=2)
        sizes = sorted(len(v) for k, v in snapshot(whole).items() if k.endswith(".jpg"))
        before, out = resource.getrlimit(resource.RLIMIT_FSIZE), tmp_path / "out"
        old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[-1] - 1, before[1]))
            with pytest.raises(OSError, match="File too large") as error:
                compress_dataset(tree, out, Compressor("jpeg:90"), workers=0, part=2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, old)
        assert error.value.errno == errno.EFBIG
        there = snapshot(out)
        assert there.items() < snapshot(whole).items()  # nothing half written
        assert list((out / ".foveate" / "tmp").iterdir()) == []
        compress_dataset(tree, out, Compressor("jpeg:90"), workers=0, part=2)
        assert snapshot(out) == snapshot(whole)


class TestWorkers:
    @pytest.mark.parametrize("shards", [False, True])
    def test_as_one_process_writes(self, tree, tmp_path, shards):
        compressor = Compressor("webp:30", Prefilter(CAM, 0.5))
        line_ = compress_dataset(tree, tmp_path / "one", compressor, shards=shards, part=3, workers=0)
        two = compress_dataset(tree, tmp_path / "two", compressor, shards=shards, part=3, workers=2)
        assert line_ == two
        assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")

    def test_what_goes_wrong_in_one_is_raised_here(self, tree, tmp_path):
        with pytest.raises(RefusedError, match=r"broken\.jpg: no"):
            compress_dataset(tree, tmp_path / "out", Compressor("jpeg"), others="refuse", workers=1)

    def test_what_cannot_be_sent_is_said_at_once(self, tree, tmp_path):
        class Local:
            identity = "the red plane"

            def __call__(self, images):
                return images[:, :1] / 255

        with pytest.raises(TypeError, match="cannot be sent to worker processes.*workers=0"):
            compress_dataset(tree, tmp_path / "out", Compressor("jpeg", Prefilter(Local())), workers=1)

    def test_the_cache_spares_them_the_model(self, tree, tmp_path):
        builds = tmp_path / "built"
        builds.mkdir()
        recipes = Path(__file__).parent / "recipes.py"
        compressor = Compressor("webp:30", Prefilter(GradCam(f"{recipes}:counted:{builds}")))
        compress_dataset(tree, tmp_path / "out", compressor, cache=tmp_path / "cache", workers=2)
        assert {p.name.split("-")[0] for p in builds.iterdir()} == {str(os.getpid())}
        preprocess = Compressor("webp:30", Prefilter(CachedSaliency(tmp_path / "cache")))
        wanted = preprocess.encode([read(tree / "cat" / "000.jpg")])[0].data
        assert (tmp_path / "out" / "cat" / "000.webp").read_bytes() == wanted
        assert verify(tmp_path / "out") == []

    def test_an_image_that_kills_its_reader_is_set_aside(self, tmp_path):
        summary = compress_dataset(Deadly(), tmp_path / "out", Compressor("jpeg"), workers=1)
        assert summary.kinds == {"compressed": 1, "failed": 1}
        assert summary.failed == ("1: a worker process ended itself over it, with code 9",)
        assert verify(tmp_path / "out") == []


def test_models_go_to_a_device_wherever_they_are_held():
    first, second = tiny(), tiny()
    prefilter = Prefilter(Shuffled(GradCam(first)))
    control = RateControl(Witness(second, Preprocess(32, 32)), strengths=(0, 0.5))
    compressor = Compressor("jpeg", prefilter, control=control)
    assert compressor.to("meta") is compressor
    assert {p.device.type for net in (first, second) for p in net.parameters()} == {"meta"}
    assert Compressor("jpeg").to("meta").codec.name == "jpeg"


class Deadly:
    """A Dataset whose second image ends the process."""

    def __len__(self):
        return 2

    def __getitem__(self, k):
        if k:
            os._exit(9)
        return Scenes(1)[0][0]


KILLED = """
import sys
from foveate import Compressor
from foveate.export import compress_dataset
if __name__ == "__main__":
    compressor, shards = Compressor("webp:60,method=6"), sys.argv[3] == "shards"
    compress_dataset(sys.argv[1], sys.argv[2], compressor, workers=int(sys.argv[4]), part=3, shards=shards)
"""


def start(*words, workers=2):
    command = [sys.executable, "-c", KILLED, *map(str, words), str(workers)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc to find workers")
@pytest.mark.parametrize("kind", ["tree", "shards"])
def test_killed_again_and_again_it_ends_as_an_undisturbed_run(tmp_path, kind):
    source = tmp_path / "in"
    for k, (scene, _) in enumerate(Scenes(48, 5)):
        path = source / f"{k % 3}" / f"{k:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene.resize((320, 320)).save(path, compress_level=1)
    before = snapshot(source)
    assert start(source, tmp_path / "whole", kind, workers=0).wait(300) == 0
    whole, out = snapshot(tmp_path / "whole"), tmp_path / "out"

    def done():
        return len(list((out / ".foveate" / "parts").glob("*")))

    # Whom to kill, how many parts further on, and how many seconds later.
    deaths = [("parent", 0, 0.06), ("worker", 1, 0.03), ("parent", 1, 0.01), ("worker", 0, 0), ("parent", 2, 0.05)]
    midway, process = 0, start(source, out, kind)
    for victim, further, wait in deaths:
        while True:
            parts, deadline = done() + further, time.monotonic() + 60
            while process.poll() is None and not (workers_of(process.pid) and done() >= parts):
                assert time.monotonic() < deadline
                time.sleep(0.005)
            time.sleep(wait)
            workers = workers_of(process.pid)
            if process.poll() is None and workers:
                break
            if process.poll() is not None:
                if process.returncode == 0:
                    shutil.rmtree(out)  # it got to the end: from the start again
                process = start(source, out, kind)
        os.kill(workers[-1] if victim == "worker" else process.pid, signal.SIGKILL)
        if victim == "parent":
            process.wait()
            while any(map(alive, workers)):  # none waits for work for ever
                assert time.monotonic() < deadline
                time.sleep(0.01)
        there = snapshot(out)
        assert there.items() <= whole.items()  # no half file is to be seen
        midway += 0 < len(there) < len(whole)
        if victim == "parent":
            process = start(source, out, kind)
    assert midway
    if process.wait(300) != 0:
        assert start(source, out, kind).wait(300) == 0
    assert snapshot(out) == whole
    assert not (out / ".foveate").exists()
    assert snapshot(source) == before


class TestCommand:
    def run(self, capsys, *words):
        code = main([str(w) for w in words])
        output = capsys.readouterr()
        return code, output.out, output.err

    def test_compress_verify_and_go_on(self, tree, tmp_path, capsys):
        preprocess = ["--mean", "0.4,0.4,0.4", "--std", "0.25,0.25,0.25", "--resize", "160", "--crop", "160"]
        options = ["--codec", "webp:40", "--model", NET, "--strength", "0.4", "--workers", 0, *preprocess]
        code, output, bar = self.run(capsys, "compress", tree, tmp_path / "out", *options, "--cache", tmp_path / "maps")
        assert code == 0
        assert "10 images compressed, 2 other files copied, 1 image unreadable" in output
        assert "saved" in bar
        code, output, _ = self.run(capsys, "verify", tmp_path / "out")
        root = json.loads((tmp_path / "out" / "foveate-summary.json").read_text())["root"]
        assert (code, output) == (0, f"13 files are as the manifest says, 0 are not\nroot {root}\n")
        (tmp_path / "out" / "cat" / "000.webp").write_bytes(b"x")
        code, output, complaint = self.run(capsys, "verify", tmp_path / "out")
        assert code == 1
        assert "cat/000.webp: has 1 bytes" in complaint
        code, output, _ = self.run(capsys, "saliency", tree, tmp_path / "maps", "--model", NET, *preprocess)
        assert output.startswith("10 images have maps in")
        assert "0 made now" in output

    def test_keep(self, tree, tmp_path, capsys):
        preprocess = ["--mean", "0.4,0.4,0.4", "--std", "0.25,0.25,0.25", "--resize", "160", "--crop", "160"]
        words = ["compress", tree, tmp_path / "out", "--codec", "jpeg", "--model", NET, "--keep", "top1", *preprocess]
        assert self.run(capsys, *words, "--workers", 0)[0] == 0
        entries = lines(tmp_path / "out")
        assert all(line["met"] for line in entries.values() if line["kind"] == "compressed")
        assert len({line["settings"]["codec"] for line in entries.values() if "settings" in line}) > 1

    @pytest.mark.parametrize(
        ("words", "complaint"),
        [
            (["--strength", "0.5"], "--strength: the pre-filter needs --model"),
            (["--model", NET, "--strength", "0,0.5"], "--strength: several are for --keep"),
            (["--keep", "top1"], "--keep: whose answer"),
            (["--codec", "jepg"], "there is no codec 'jepg' in 'jepg'; did you mean jpeg?"),
            (["--keep", "top1", "--model", NET, "--scale", "0.5"], "--scale: --keep chooses it"),
        ],
    )
    def test_what_does_not_fit(self, tree, tmp_path, capsys, words, complaint):
        code, _, output = self.run(capsys, "compress", tree, tmp_path / "out", *words)
        assert code == 2
        assert complaint in output
        assert not (tmp_path / "out").exists()

    def test_a_disk_that_fails(self, tree, tmp_path, capsys, monkeypatch):
        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("foveate.export._store.Store.write", full)
        code, _, output = self.run(capsys, "compress", tree, tmp_path / "out", "--workers", 0)
        assert code == 1
        assert "No space left on device; the same command goes on from here" in output

    def test_no_such_source(self, tmp_path, capsys):
        code, _, output = self.run(capsys, "compress", tmp_path / "none", tmp_path / "out", "--workers", 0)
        assert code == 1
        assert "there is no file in" in output

    @pytest.mark.parametrize("codec", ["jpeg", "webp", "jpeg2000", "avif", "jxl", "hevc"])
    def test_the_line_that_reads_shards(self, tree, tmp_path, capsys, codec):
        """As it is printed, by WebDataset itself."""
        wds = pytest.importorskip("webdataset")
        out = tmp_path / "out"
        words = ["compress", tree, out, "--codec", codec, "--shards", "--others", "skip", "--workers", 0]
        code, output, _ = self.run(capsys, *words)
        assert code == 0
        line = next(line for line in output.splitlines() if line.startswith("read with "))
        names = {"wds": wds, "webdataset": wds, "glob": lambda p: sorted(glob(p)), "partial": partial}
        samples = list(eval(line.removeprefix("read with "), {**names, "foveate": foveate}))
        assert len(samples) == 10
        for picture, label in samples:
            size = picture.shape[-2:] if codec in ("avif", "jxl", "hevc") else picture.size
            assert tuple(size) == (160, 160)
            assert label in (0, 1)

    def test_files_smaller_than_a_block_of_the_disk(self, tree, tmp_path, capsys):
        words = ["compress", tree, tmp_path / "out", "--codec", "webp:5", "--workers", 0]
        code, output, _ = self.run(capsys, *words)
        sizes = [len(data) for name, data in snapshot(tmp_path / "out").items() if not name.startswith("foveate-")]
        blocks = sum(math.ceil(size / 4096) * 4096 for size in sizes)
        assert code == 0
        assert f"these files take {blocks:,} bytes on a disk with blocks of 4 KiB; --shards packs them" in output
        assert Summary.load(tmp_path / "out").disk_bytes == blocks
        code, output, _ = self.run(capsys, *words[:2], tmp_path / "tars", *words[3:], "--shards")
        assert "these files take" not in output
        tars = [path.stat().st_size for path in (tmp_path / "tars").glob("*.tar")]
        assert Summary.load(tmp_path / "tars").disk_bytes == sum(math.ceil(size / 4096) * 4096 for size in tars)

    def test_no_bar_above_a_complaint(self, tree, tmp_path, capsys):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("mine")
        code, _, output = self.run(capsys, "compress", tree, tmp_path / "out", "--workers", 0)
        assert code == 1
        assert output.startswith("foveate: error: target: ")
        assert "compress:" not in output

    def test_the_bar_counts_images_of_shards(self, tree, tmp_path, capsys):
        words = ["--shards", "--part", 4, "--workers", 0]
        assert self.run(capsys, "compress", tree, tmp_path / "tars", *words)[0] == 0
        code, _, bar = self.run(capsys, "compress", tmp_path / "tars", tmp_path / "out", "--workers", 0)
        assert code == 0
        assert re.search(r"compress: .*11/11 .*shard 4 of 4", bar)

    def test_names_can_be_kept(self, tree, tmp_path, capsys):
        words = ["compress", tree, tmp_path / "out", "--codec", "webp:40", "--keep-names", "--workers", 0]
        assert self.run(capsys, *words)[0] == 0
        assert (tmp_path / "out" / "cat" / "000.jpg").read_bytes()[8:12] == b"WEBP"
        code, _, output = self.run(capsys, *words[:2], tmp_path / "raw", "--codec", "hevc", "--keep-names")
        assert code == 1
        assert "keep_names: hevc is read by its ending .hevc, which it must have" in output
        assert not (tmp_path / "raw").exists()


class TestKeptNames:
    """Files keep the endings that they had, whatever is in them."""

    @pytest.fixture
    def source(self, tree):
        Scenes(1)[0][0].save(tree / "cat" / "000.PNG")
        return tree

    def export(self, source, out, **options):
        return compress_dataset(source, out, Compressor("webp:40"), keep_names=True, **{"workers": 0, **options})

    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_tree(self, source, tmp_path, workers):
        out = tmp_path / "out"
        assert self.export(source, out, workers=workers, part=3).kinds["compressed"] == 11
        names = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
        assert {Path(name) for name in snapshot(out) if not name.startswith("foveate-")} == names
        assert {Image.open(out / "cat" / name).format for name in ("000.jpg", "000.PNG", "002.png")} == {"WEBP"}
        assert verify(out) == []

        def is_picture(path):
            return is_image(path) and "broken" not in path

        assert [label for _, label in ImageFolder(out, is_valid_file=is_picture)] == [0] * 6 + [1] * 5
        before = snapshot(out)
        self.export(source, out, part=3)
        assert snapshot(out) == before

    def test_what_came_since_is_added(self, source, tmp_path):
        self.export(source, tmp_path / "out")
        Scenes(1)[0][0].save(source / "cat" / "000.bmp")
        assert self.export(source, tmp_path / "out").kinds["compressed"] == 12
        assert (tmp_path / "out" / "cat" / "000.bmp").read_bytes()[8:12] == b"WEBP"
        assert verify(tmp_path / "out") == []

    def test_shards(self, source, tmp_path):
        """Of an ImageFolder, and of shards, whose members keep their whole names."""
        summary = self.export(source, tmp_path / "tars", shards=True, others="skip")
        assert summary.sample == ("PNG", "cls")
        assert verify(tmp_path / "tars") == []
        compress_dataset(source, tmp_path / "plain", Compressor("jpeg:95"), shards=True, others="skip", workers=0)
        self.export(tmp_path / "plain", tmp_path / "again", shards=True)
        before, after = (
            {line["member"] for line in manifest(tmp_path / name) if "size" in line} for name in ("plain", "again")
        )
        assert after == before
        assert verify(tmp_path / "again") == []

    def test_a_dataset_has_no_names_to_keep(self, tmp_path):
        self.export(Scenes(2), tmp_path / "out")
        assert {path.suffix for path in (tmp_path / "out").rglob("0000*")} == {".webp"}
        assert verify(tmp_path / "out") == []

    def test_other_names_are_another_export(self, source, tmp_path):
        self.export(source, tmp_path / "out")
        with pytest.raises(ValueError, match="keep_names: True, now False"):
            compress_dataset(source, tmp_path / "out", Compressor("webp:40"), workers=0)


def test_a_manifest_is_small_beside_small_images(tmp_path):
    """A tenth of the bytes of images at a kilobyte each."""
    source = tmp_path / "in"
    for k, (scene, _) in enumerate(Scenes(200, 4)):
        path = source / f"{k % 4}" / f"photo_{k:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene.save(path)
    control = RateControl(WITNESS, keep="top1", as_stored=True)
    summary = compress_dataset(source, tmp_path / "out", Compressor("webp", control=control), workers=0)
    files = {k: len(data) for k, data in snapshot(tmp_path / "out").items() if k.startswith("foveate-")}
    assert sum(files.values()) < 0.1 * summary.bytes + 4096


@pytest.mark.parametrize("shards", [False, True])
def test_progress_has_images(tmp_path, shards):
    """As they are done, of shards too, not only when a shard is."""
    compress_dataset(Scenes(10), tmp_path / "tars", Compressor("jpeg:95"), shards=True, part=5, workers=0)
    steps = []
    source = tmp_path / "tars" if shards else Scenes(10)
    options = {"progress": steps.append, "workers": 1, "part": None if shards else 5}
    compress_dataset(source, tmp_path / "out", Compressor("jpeg"), **options)
    assert {step.unit for step in steps} == {"shard" if shards else "image"}
    images = [step.images for step in steps]
    assert images == sorted(images)
    assert (images[0], images[-1], steps[-1].done) == (0, 10, 2 if shards else 10)
