"""Datasets from Python, Hugging Face's, and WebDataset's shards, each by the library that made the format."""

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import torch
from exporting import NET, snapshot
from PIL import Image
from torch.utils.data import IterableDataset
from torchvision.datasets import FakeData, ImageFolder

from foveate import Compressor, GradCam, Prefilter
from foveate.cli import main
from foveate.demo import PREPROCESS, Scenes
from foveate.export import compress_dataset, manifest, verify
from foveate.images import as_tensor

SCENES = [scene for scene, _ in Scenes(4)]


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def image_names(folder):
    """What is decoded from every WebP below a folder, by its path."""
    return {k: as_tensor(Image.open(io.BytesIO(v))) for k, v in snapshot(folder).items() if k.endswith(".webp")}


def alone(image):
    return Compressor("webp:60").encode([image])[0].data


class Grouped:
    """A Dataset of pairs with names of classes."""

    classes = ("cat", "dog")

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, k):
        if isinstance(self.items[k], Exception):
            raise self.items[k]
        return self.items[k], k % 2


class Labeled(list):
    """Pairs with whatever labels, and names of classes."""

    classes = ("cat", "dog")


class TestItems:
    @pytest.mark.parametrize(
        "make",
        [
            lambda scene: scene,
            as_tensor,
            np.asarray,
            lambda scene: as_tensor(scene).float() / 255,
        ],
        ids=["PIL", "tensor", "array", "float"],
    )
    def test_kinds_of_images(self, make, tmp_path):
        compress_dataset([make(scene) for scene in SCENES], tmp_path, Compressor("webp:60"), workers=0)
        assert (tmp_path / "00000002.webp").read_bytes() == alone(SCENES[2])

    def test_gray_stays_gray(self, tmp_path):
        gray = [SCENES[0].convert("L"), as_tensor(SCENES[0].convert("L"))]
        compress_dataset(gray, tmp_path, Compressor("jpeg"), workers=0)
        assert {Image.open(path).mode for path in tmp_path.glob("*.jpg")} == {"L"}

    def test_pairs_lie_in_folders_of_their_classes(self, tmp_path):
        summary = compress_dataset(Grouped(SCENES), tmp_path / "out", Compressor("webp:60"), workers=0)
        assert summary.classes == ("cat", "dog")
        data = ImageFolder(tmp_path / "out")
        assert data.classes == ["cat", "dog"]
        assert [line["label"] for line in manifest(tmp_path / "out")] == [0, 1, 0, 1]
        compress_dataset(Grouped(SCENES), tmp_path / "tars", Compressor("webp:60"), shards=True, workers=0)
        with tarfile.open(tmp_path / "tars" / "part-000000.tar") as tar:
            assert [tar.extractfile(m).read() for m in tar if m.name.endswith(".cls")] == [b"0", b"1", b"0", b"1"]

    def test_an_image_folder_of_torchvision_with_workers(self, tmp_path):
        for k, scene in enumerate(SCENES):
            path = tmp_path / "in" / "ab"[k % 2] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            scene.save(path)
        compress_dataset(ImageFolder(tmp_path / "in"), tmp_path / "out", Compressor("webp:60"), part=2, workers=1)
        assert sorted(image_names(tmp_path / "out")) == [
            "a/00000000.webp", "a/00000001.webp", "b/00000002.webp", "b/00000003.webp",
        ]  # fmt: skip
        assert (tmp_path / "out" / "b" / "00000002.webp").read_bytes() == alone(SCENES[1])

    def test_classes_without_names(self, tmp_path):
        data = FakeData(3, (3, 20, 30), 4)
        compress_dataset(data, tmp_path, Compressor("webp:60"), workers=0)
        assert {path.parent.name for path in tmp_path.rglob("*.webp")} == {str(int(label)) for _, label in data}

    @pytest.mark.parametrize("names", [("a/b", "../c"), ("..", ".")])
    def test_names_of_classes_that_are_no_folders(self, names, tmp_path):
        data = Grouped(SCENES)
        data.classes = names
        compress_dataset(data, tmp_path / "deep" / "out", Compressor("webp:60"), workers=0)
        assert len(image_names(tmp_path / "deep" / "out")) == 4
        assert verify(tmp_path / "deep" / "out") == []

    @pytest.mark.parametrize("label", [-1, None, np.int64(-1), torch.tensor(-1)])
    def test_without_a_label(self, label, tmp_path):
        """-1 is the usual mark of a label that is not told, and not the last class."""
        data = Labeled([(SCENES[0], label), (SCENES[1], 1)])
        compress_dataset(data, tmp_path / "out", Compressor("webp:60"), workers=0)
        assert sorted(image_names(tmp_path / "out")) == ["00000000.webp", "dog/00000001.webp"]
        assert [line.get("label") for line in manifest(tmp_path / "out")] == [None, 1]
        compress_dataset(data, tmp_path / "tars", Compressor("webp:60"), shards=True, workers=0)
        with tarfile.open(tmp_path / "tars" / "part-000000.tar") as tar:
            assert [m.name for m in tar] == ["00000000.webp", "dog/00000001.webp", "dog/00000001.cls"]

    @pytest.mark.parametrize("label", [1, True, np.uint8(1), np.True_, torch.tensor(1), np.array(1)])
    def test_labels_of_every_kind_of_integer(self, label, tmp_path):
        compress_dataset(Labeled([(SCENES[0], label)]), tmp_path, Compressor("webp:60"), workers=0)
        assert [line["label"] for line in manifest(tmp_path)] == [1]
        assert list(image_names(tmp_path)) == ["dog/00000000.webp"]

    @pytest.mark.parametrize("label", [0.7, 1.0, {"class": 1}, "1", -2, torch.tensor(0.7), [0, 1]])
    def test_what_is_no_label_is_refused(self, label, tmp_path):
        with pytest.raises(ValueError, match="label of item 0: expected an integer of at least -1, got"):
            compress_dataset(Labeled([(SCENES[0], label)]), tmp_path, Compressor("webp:60"), workers=0)

    def test_an_item_that_cannot_be_read_is_counted(self, tmp_path):
        data = Grouped([SCENES[0], OSError("truncated"), SCENES[2]])
        summary = compress_dataset(data, tmp_path, Compressor("webp:60"), workers=0)
        assert summary.kinds == {"compressed": 2, "unreadable": 1}
        assert list(manifest(tmp_path))[1]["reason"] == "truncated"
        assert verify(tmp_path) == []

    @pytest.mark.parametrize("item", ["cat.png", None, torch.zeros(7, 4, 4), torch.full((3, 4, 4), 1.5)])
    def test_an_item_that_is_not_an_image_is_an_error(self, item, tmp_path):
        with pytest.raises((TypeError, ValueError), match="image 1"):
            compress_dataset([SCENES[0], item], tmp_path, Compressor("webp:60"), workers=0)

    def test_what_cannot_be_sent_to_workers(self, tmp_path):
        data = Grouped(SCENES)
        data.transform = lambda image: image
        with pytest.raises(TypeError, match="cannot be sent to worker processes .* workers=0"):
            compress_dataset(data, tmp_path / "out", Compressor("webp"), workers=1)
        cam = GradCam(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), preprocess=PREPROCESS)
        with pytest.raises((TypeError, ValueError)):
            compress_dataset(SCENES, tmp_path / "two", Compressor("webp", Prefilter(cam)), workers=1)

    def test_an_iterable_dataset_is_refused(self, tmp_path):
        class Stream(IterableDataset):
            def __iter__(self):
                return iter(SCENES)

        with pytest.raises(TypeError, match="source: expected .* make a list of an iterable Dataset"):
            compress_dataset(Stream(), tmp_path, Compressor("webp"), workers=0)


class TestHuggingFace:
    @pytest.fixture
    def datasets(self):
        return pytest.importorskip("datasets", reason="datasets is not installed")

    @pytest.fixture
    def data(self, datasets, tmp_path):
        """Two images as bytes, two as paths, with labels and captions."""
        images = [{"bytes": encoded(scene), "path": None} for scene in SCENES[:2]]
        for k, scene in enumerate(SCENES[2:]):
            scene.save(tmp_path / f"{k}.jpg", quality=95)
            images.append({"bytes": None, "path": str(tmp_path / f"{k}.jpg")})
        return datasets.Dataset.from_dict(
            {"image": images, "label": [1, 0, 1, 1], "caption": ["one", "two", "drei é", None]},
            datasets.Features(
                {
                    "image": datasets.Image(),
                    "label": datasets.ClassLabel(names=["no", "yes"]),
                    "caption": datasets.Value("string"),
                }
            ),
        )

    def test_labels_and_further_columns(self, data, tmp_path):
        before = data[0]["image"]
        with pytest.raises(
            ValueError, match="names its image by the path .* outside of the dataset; follow_links=True"
        ):
            compress_dataset(data.select([2]), tmp_path / "none", Compressor("webp:60"), workers=0)
        summary = compress_dataset(data, tmp_path / "out", Compressor("webp:60"), workers=0, follow_links=True)
        assert data[0]["image"] == before
        assert summary.classes == ("no", "yes")
        files = snapshot(tmp_path / "out")
        assert {name for name in files if not name.startswith("foveate")} == {
            f"{folder}/0000000{k}.{ending}"
            for k, folder in enumerate(("yes", "no", "yes", "yes"))
            for ending in ("webp", "json")
        }
        assert json.loads(files["yes/00000002.json"]) == {"caption": "drei é"}
        assert files["no/00000001.webp"] == alone(SCENES[1])
        sizes = [line["source_bytes"] for line in manifest(tmp_path / "out")]
        assert sizes == [
            *(len(encoded(s)) for s in SCENES[:2]),
            *((tmp_path / f"{k}.jpg").stat().st_size for k in "01"),
        ]
        assert verify(tmp_path / "out") == []

    def test_bytes_that_are_fewer_are_kept(self, data, tmp_path):
        options = {"only_if_smaller": True, "workers": 0, "shards": True, "follow_links": True}
        compress_dataset(data, tmp_path / "out", Compressor("webp:100"), **options)
        with tarfile.open(tmp_path / "out" / "part-000000.tar") as tar:
            members = {m.name: tar.extractfile(m).read() for m in tar}
        kinds = [line["kind"] for line in manifest(tmp_path / "out")]
        kept = {k for k, kind in enumerate(kinds) if kind == "kept"}
        for k in kept:
            (name,) = (n for n in members if n.startswith((f"yes/{k:08}.jp", f"yes/{k:08}.png")))
            assert members[name] in (encoded(SCENES[k]), (tmp_path / f"{k - 2}.jpg").read_bytes())
        assert {"yes/00000003.cls", "yes/00000003.json"} <= members.keys()

    def test_a_saved_dataset_by_the_command(self, data, tmp_path, capsys):
        data.save_to_disk(tmp_path / "saved")
        before = snapshot(tmp_path / "saved")
        assert (
            main(["compress", str(tmp_path / "saved"), str(tmp_path / "out"), "--codec", "webp:60", "--workers", "1"])
            == 0
        )
        assert "4 images compressed" in capsys.readouterr().out
        assert snapshot(tmp_path / "saved") == before
        compress_dataset(data, tmp_path / "python", Compressor("webp:60"), workers=0)
        assert (
            snapshot(tmp_path / "out").items()
            >= {k: v for k, v in snapshot(tmp_path / "python").items() if not k.startswith("foveate")}.items()
        )
        words = ["saliency", str(tmp_path / "saved"), str(tmp_path / "maps"), "--model", NET]
        assert main(words) == 0
        assert "4 images have maps" in capsys.readouterr().out

    def test_several_columns_of_images(self, data, tmp_path):
        with pytest.raises(ValueError, match="one column of images, found .*image.*other.*select_columns"):
            compress_dataset(
                data.add_column("other", data.with_format(None)["caption"])
                .rename_column("caption", "c")
                .cast_column("other", __import__("datasets").Image()),
                tmp_path / "out",
                Compressor("webp"),
                workers=0,
            )

    def test_no_column_of_images(self, datasets, tmp_path):
        with pytest.raises(ValueError, match="one column of images, found none"):
            compress_dataset(datasets.Dataset.from_dict({"a": [1]}), tmp_path / "out", Compressor("webp"), workers=0)

    def test_a_row_without_an_image(self, datasets, data, tmp_path):
        rows = datasets.Dataset.from_list(
            [{"image": None, "label": 0}, {"image": {"bytes": b"no", "path": None}, "label": 1}]
        )
        rows = rows.cast_column("image", datasets.Image())
        summary = compress_dataset(rows, tmp_path / "out", Compressor("webp:60"), workers=0)
        assert summary.kinds == {"unreadable": 2}
        assert verify(tmp_path / "out") == []

    def test_rows_without_a_label(self, datasets, tmp_path):
        images = [{"bytes": encoded(scene), "path": None} for scene in SCENES[:3]]
        features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])}
        data = datasets.Dataset.from_dict({"image": images, "label": [-1, None, 0]}, datasets.Features(features))
        compress_dataset(data, tmp_path, Compressor("webp:60"), workers=0)
        assert sorted(image_names(tmp_path)) == ["00000000.webp", "00000001.webp", "no/00000002.webp"]
        assert ["label" in line for line in manifest(tmp_path)] == [False, False, True]

    def test_a_stream_is_refused(self, data, tmp_path):
        with pytest.raises(TypeError, match="source: expected"):
            compress_dataset(data.to_iterable_dataset(), tmp_path / "out", Compressor("webp"), workers=0)

    def test_splits_are_refused(self, datasets, data, tmp_path):
        with pytest.raises(TypeError, match="expected one Dataset, got those of train"):
            compress_dataset(datasets.DatasetDict({"train": data}), tmp_path / "out", Compressor("webp"), workers=0)
        datasets.DatasetDict({"train": data}).save_to_disk(tmp_path / "saved")
        with pytest.raises(ValueError, match="several splits"):
            compress_dataset(tmp_path / "saved", tmp_path / "out", Compressor("webp"), workers=0)


class TestWebDataset:
    @pytest.fixture
    def wds(self):
        return pytest.importorskip("webdataset", reason="webdataset is not installed")

    def test_it_reads_ours(self, wds, tmp_path):
        compress_dataset(Grouped(SCENES), tmp_path, Compressor("webp:60"), shards=True, part=3, workers=0)
        urls = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
        samples = list(wds.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("webp", "cls"))
        assert [label for _, label in samples] == [0, 1, 0, 1]
        for (image, _), scene in zip(samples, SCENES, strict=True):
            assert as_tensor(image).equal(as_tensor(Image.open(io.BytesIO(alone(scene)))))

    def test_we_read_its(self, wds, tmp_path):
        (tmp_path / "in").mkdir()
        with wds.ShardWriter(str(tmp_path / "in" / "train-%02d.tar"), maxcount=3, verbose=0) as writer:
            for k, scene in enumerate(SCENES):
                writer.write({"__key__": f"s{k}", "png": scene, "cls": k, "json": {"k": k}})
        before = snapshot(tmp_path / "in")
        compress_dataset(tmp_path / "in", tmp_path / "out", Compressor("webp:60"), shards=True, workers=1)
        assert snapshot(tmp_path / "in") == before
        urls = [str(tmp_path / "out" / f"train-{k:02}.tar") for k in range(2)]
        samples = list(wds.WebDataset(urls, shardshuffle=False).decode("pil"))
        assert [(s["__key__"], s["cls"], s["json"]) for s in samples] == [(f"s{k}", k, {"k": k}) for k in range(4)]
        with tarfile.open(urls[0]) as tar:
            assert tar.extractfile("s1.webp").read() == alone(SCENES[1])
        assert verify(tmp_path / "out") == []

    def test_two_images_in_a_sample_and_names_with_dots(self, wds, tmp_path):
        (tmp_path / "in").mkdir()
        with wds.TarWriter(str(tmp_path / "in" / "a.tar")) as writer:
            writer.write({"__key__": "x/1", "left.png": SCENES[0], "right.png": SCENES[1], "cls": 3})
            writer.write({"__key__": "x/2", "png": SCENES[2], "jpg": SCENES[3], "cls": 4})
        compress_dataset(tmp_path / "in", tmp_path / "out", Compressor("webp:60"), shards=True, workers=0)
        first, second = wds.WebDataset(str(tmp_path / "out" / "a.tar"), shardshuffle=False)
        assert {k for k in first if not k.startswith("__")} == {"left.webp", "right.webp", "cls"}
        assert first["left.webp"] == alone(SCENES[0])
        assert first["right.webp"] == alone(SCENES[1])
        assert len({k for k in second if not k.startswith("__")}) == 3
        assert second["__key__"] == "x/2"
        assert second["cls"] == b"4"
        assert verify(tmp_path / "out") == []

    def test_members_with_odd_names(self, tmp_path):
        def tar(*names):
            (tmp_path / "in").mkdir(exist_ok=True)
            with tarfile.open(tmp_path / "in" / "a.tar", "w") as tar:
                for name in names:
                    info = tarfile.TarInfo(name)
                    info.size = len(encoded(SCENES[0]))
                    tar.addfile(info, io.BytesIO(encoded(SCENES[0])))

        tar("./1.png", "./1.cls", "/abs/2.png")
        compress_dataset(tmp_path / "in", tmp_path / "out", Compressor("webp:60"), workers=0)
        names = {name for name in snapshot(tmp_path / "out") if not name.startswith("foveate")}
        assert names == {"a/1.webp", "a/1.cls", "a/abs/2.webp"}
        for name in ("../../away.png", "x/../../../away.txt"):
            tar("ok.png", name)
            for shards in (False, True):
                with pytest.raises(ValueError, match=r"source: a\.tar has a member \S*, which leads out"):
                    compress_dataset(
                        tmp_path / "in", tmp_path / "two" / "out", Compressor("webp"), workers=0, shards=shards
                    )
                shutil.rmtree(tmp_path / "two" / "out")
            assert not list(tmp_path.rglob("away.*"))

    @pytest.mark.parametrize("shards", [False, True])
    @pytest.mark.parametrize("where", ["header", "data", "end", "flip", "nothing"])
    def test_a_damaged_shard_is_an_error_and_harms_nothing(self, shards, where, tmp_path):
        (tmp_path / "in").mkdir()
        path = tmp_path / "in" / "b.tar"
        for name in ("a", "b"):
            with tarfile.open(tmp_path / "in" / f"{name}.tar", "w") as tar:
                for k, scene in enumerate(SCENES):
                    info = tarfile.TarInfo(f"{k}.png")
                    info.size = len(encoded(scene))
                    tar.addfile(info, io.BytesIO(encoded(scene)))
        with tarfile.open(path) as tar:
            third = tar.getmembers()[2]
        whole = path.read_bytes()
        path.write_bytes(
            {
                "header": whole[: third.offset + 100],
                "data": whole[: third.offset_data + 100],
                "end": whole[: third.offset],
                "flip": whole[: third.offset] + b"~" + whole[third.offset + 1 :],
                "nothing": b"",
            }[where]
        )
        before = snapshot(tmp_path / "in")

        def run():
            return compress_dataset(tmp_path / "in", tmp_path / "out", Compressor("webp:60"), shards=shards, workers=0)

        with pytest.raises(ValueError, match=r"source: b\.tar is not a whole tar file .*fetch it again"):
            run()
        assert snapshot(tmp_path / "in") == before
        if shards:
            assert [name for name in snapshot(tmp_path / "out") if not name.startswith("foveate")] == ["a.tar"]
        path.write_bytes(whole)
        assert run().kinds == {"compressed": 8}
        assert verify(tmp_path / "out") == []
