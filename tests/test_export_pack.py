"""Finished exports as datasets of other formats: the images bit for bit, with labels and further columns."""

import io
import json
import sys
import tarfile
from pathlib import Path

import pytest
from exporting import scenes_tree, snapshot
from PIL import Image

from foveate import Compressor
from foveate.cli import main
from foveate.demo import Scenes
from foveate.export import compress_dataset, manifest, pack

datasets = pytest.importorskip("datasets")
CODEC = Compressor("webp:40")


@pytest.fixture
def tree(tmp_path):
    return scenes_tree(tmp_path / "tree")


@pytest.fixture
def webdataset(tmp_path):
    """A shard with pairs of image and class, one with a caption too."""
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "a.tar", "w") as tar:
        for k, (scene, label) in enumerate(Scenes(4)):
            stream = io.BytesIO()
            scene.save(stream, "PNG")
            beside = {"png": stream.getvalue(), "cls": str(label).encode()}
            beside |= {"json": b'{"caption": "two"}', "txt": b"?"} if k == 2 else {}
            for ending, data in beside.items():
                member = tarfile.TarInfo(f"deep/{k:03}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return tmp_path / "tars"


def stored(out):
    """The rows of a saved dataset, their images undecoded."""
    return list(datasets.load_from_disk(out).cast_column("image", datasets.Image(decode=False)))


class TestHuggingFace:
    @pytest.mark.parametrize("shards", [False, True])
    def test_a_folder(self, tree, tmp_path, shards):
        compress_dataset(tree, tmp_path / "small", CODEC, shards=shards, workers=0)
        packed = pack(tmp_path / "small", tmp_path / "packed", "huggingface")
        lines = {line["source"]: line for line in manifest(tmp_path / "small") if "size" in line}
        rows = stored(str(tmp_path / "packed"))
        assert packed.images == len(rows) == 10
        assert packed.bytes == sum(len(row["image"]["bytes"]) for row in rows)
        assert packed.left_out == 3
        for row in rows:
            assert row["image"]["bytes"] == CODEC.encode_one(Image.open(tree / row["name"]).convert("RGB")).data
            assert row["label"] == lines[row["name"]]["label"]
        data = datasets.load_from_disk(str(tmp_path / "packed"))
        assert data.features["label"].names == ["cat", "dog"]
        assert data[0]["image"].format == "WEBP"
        assert data.column_names == ["image", "label", "name"]

    @pytest.mark.parametrize("shards", [False, True])
    def test_webdataset_s_shards(self, webdataset, tmp_path, shards):
        compress_dataset(webdataset, tmp_path / "small", CODEC, shards=shards, workers=0)
        packed = pack(tmp_path / "small", tmp_path / "packed", "huggingface")
        assert (packed.images, packed.left_out) == (4, 1)
        rows = stored(str(tmp_path / "packed"))
        assert [row["label"] for row in rows] == [label for _, label in Scenes(4)]
        assert [row["json"] for row in rows] == [None, None, '{"caption": "two"}', None]
        assert [row["image"]["bytes"] for row in rows] == [CODEC.encode_one(scene).data for scene, _ in Scenes(4)]

    @pytest.mark.parametrize("shards", [False, True])
    def test_there_and_back(self, tmp_path, shards):
        """A dataset with a column of captions comes back with it, and its images are not compressed again."""
        scenes = [scene for scene, _ in Scenes(3)]
        captions = ["one", "zwei é", "three"]
        source = datasets.Dataset.from_dict(
            {"image": scenes, "label": [1, 0, 1], "caption": captions},
            datasets.Features(
                {
                    "image": datasets.Image(),
                    "label": datasets.ClassLabel(names=["no", "yes"]),
                    "caption": datasets.Value("string"),
                }
            ),
        )
        compress_dataset(source, tmp_path / "small", CODEC, shards=shards, workers=0)
        pack(tmp_path / "small", tmp_path / "packed", "huggingface")
        rows = stored(str(tmp_path / "packed"))
        assert [json.loads(row["json"])["caption"] for row in rows] == captions
        assert [row["label"] for row in rows] == [1, 0, 1]
        again = compress_dataset(
            datasets.load_from_disk(str(tmp_path / "packed")), tmp_path / "again", CODEC, workers=0
        )
        assert again.kinds == {"compressed": 3}

    def test_without_labels(self, tmp_path):
        compress_dataset([scene for scene, _ in Scenes(2)], tmp_path / "small", CODEC, workers=0)
        pack(tmp_path / "small", tmp_path / "packed", "huggingface")
        assert datasets.load_from_disk(str(tmp_path / "packed")).column_names == ["image", "name"]

    def test_a_damaged_file_is_refused_and_nothing_is_left(self, tree, tmp_path):
        compress_dataset(tree, tmp_path / "small", CODEC, workers=0)
        path = tmp_path / "small" / "cat" / "002.webp"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        before = snapshot(tmp_path)
        with pytest.raises(ValueError, match=r"cat/002.webp is not as it was written; 'foveate verify' tells more"):
            pack(tmp_path / "small", tmp_path / "packed", "huggingface")
        assert snapshot(tmp_path) == before

    def test_what_pillow_does_not_read_is_refused(self, tmp_path):
        pytest.importorskip("imagecodecs")
        compress_dataset(Scenes(2), tmp_path / "small", Compressor("jxl:3"), workers=0)
        with pytest.raises(ValueError, match=r"which does not read .jxl; compress to jpeg, webp, avif or jpeg2000"):
            pack(tmp_path / "small", tmp_path / "packed", "huggingface")


class TestArguments:
    def test_what_is_there_is_not_touched(self, tmp_path):
        compress_dataset(Scenes(1), tmp_path / "small", CODEC, workers=0)
        (tmp_path / "packed").mkdir()
        with pytest.raises(ValueError, match="packed is there already"):
            pack(tmp_path / "small", tmp_path / "packed", "huggingface")

    def test_an_unfinished_export(self, tmp_path):
        with pytest.raises(ValueError, match="is its export finished"):
            pack(tmp_path, tmp_path / "packed", "mds")

    def test_another_format(self, tmp_path):
        with pytest.raises(ValueError, match="packing: expected one of huggingface, mds, got 'zip'"):
            pack(tmp_path, tmp_path / "packed", "zip")

    def test_a_library_that_is_not_there(self, tmp_path, capsys, monkeypatch):
        compress_dataset(Scenes(1), tmp_path / "small", CODEC, workers=0)
        monkeypatch.setitem(sys.modules, "streaming", None)
        assert main(["pack", str(tmp_path / "small"), str(tmp_path / "packed"), "--as", "mds"]) == 1
        assert 'streaming is not installed; pip install "mosaicml-streaming' in capsys.readouterr().err
        assert {path.name for path in tmp_path.iterdir()} == {"small"}


def test_the_command(tree, tmp_path, capsys):
    compress_dataset(tree, tmp_path / "small", CODEC, workers=0)
    out = tmp_path / "packed"
    assert main(["pack", str(tmp_path / "small"), str(out), "--as", "huggingface"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("bytes packed; 3 other files are left out")
    assert len(eval(said[1].removeprefix("read with "), {"datasets": datasets})) == 10


def test_mds(tree, tmp_path):
    """By its own reader, where it is installed: it asks for older libraries than other tests do."""
    streaming = pytest.importorskip("streaming")
    compress_dataset(tree, tmp_path / "small", CODEC, workers=0)
    assert pack(tmp_path / "small", tmp_path / "packed", "mds").images == 10
    data = streaming.StreamingDataset(local=str(tmp_path / "packed"), shuffle=False, batch_size=1)
    lines = [line for line in manifest(tmp_path / "small") if "size" in line]
    for row, line in zip(data, lines, strict=True):
        assert row["image"] == (Path(tmp_path) / "small" / line["target"]).read_bytes()
        assert (row["name"], row["label"], row["json"]) == (line["source"], line["label"], "")
