"""Maps on disk: as the network makes them, served without it, and safe among processes."""

import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import RECIPES
from exporting import NET, scenes_tree, snapshot
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load, save
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from foveate import ActivationMap, CachedSaliency, CaptumAttribution, Compressor, GradCam, Prefilter
from foveate.demo import PREPROCESS, Scenes
from foveate.export import Cached, cache_maps, compress_dataset
from foveate.images import as_tensor, image_hash
from foveate.saliency import MapCache, MissingMapError, as_saliency
from foveate.transforms import Compress

CAM = GradCam(NET, preprocess=PREPROCESS)
SALIENCIES = {
    "grad-cam": CAM,
    "activation": ActivationMap(NET, preprocess=PREPROCESS),
    "captum": CaptumAttribution("Saliency", NET, preprocess=PREPROCESS),
}


@pytest.fixture
def pictures():
    return torch.stack([as_tensor(scene) for scene, _ in Scenes(5, 8)])


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "cache"
    cache_maps(Scenes(5, 8), folder, CAM)
    return folder


@pytest.fixture
def cache(tmp_path, made_once):
    return shutil.copytree(made_once, tmp_path / "cache")


class TestMaps:
    @pytest.mark.parametrize("name", SALIENCIES)
    def test_as_the_saliency_makes_them_to_255_steps(self, tmp_path, pictures, name):
        cache_maps(Scenes(5, 8), tmp_path, SALIENCIES[name])
        maps = CachedSaliency(tmp_path)(pictures)
        wanted = SALIENCIES[name](pictures)
        assert (maps.shape, maps.dtype) == (wanted.shape, torch.float32)
        assert (maps - wanted).abs().max() <= 0.5 / 255 + 1e-5
        assert maps.amax((1, 2, 3)).tolist() == [1.0] * 5

    def test_floats_are_the_same_pictures(self, cache, pictures):
        maps = CachedSaliency(cache)
        assert torch.equal(maps(pictures), maps(pictures / 255))
        assert torch.equal(maps(pictures), maps(pictures.double() / 255))
        assert torch.equal(maps(pictures[2:3]), maps(pictures)[2:3])
        assert maps(pictures[:0]).shape == (0, 1, 1, 1)

    def test_in_any_order_and_memory_format(self, cache, pictures):
        maps = CachedSaliency(cache)
        flipped = pictures.flip(0).to(memory_format=torch.channels_last)
        assert torch.equal(maps(flipped), maps(pictures).flip(0))

    def test_one_byte_a_value_mapped_from_the_file(self, cache):
        (shard,) = cache.glob("*/*.safetensors")
        with safe_open(shard, "pt") as file:
            assert file.get_tensor("maps").dtype == torch.uint8
            assert file.get_tensor("maps").numel() == 5 * 20 * 20

    def test_gray_pictures(self, tmp_path):
        gray = as_tensor(Scenes(1)[0][0].convert("L"))
        cache_maps([gray], tmp_path, CAM)
        prefilter, cached = Prefilter(CAM), Prefilter(CachedSaliency(tmp_path))
        assert (prefilter(gray[None]).int() - cached(gray[None]).int()).abs().max() <= 1

    def test_a_photo_on_its_side_is_found_as_it_is_seen_and_as_it_is_stored(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        scene = Scenes(1)[0][0].resize((96, 64))
        (tmp_path / "in").mkdir()
        scene.save(tmp_path / "in" / "turned.png", exif=exif)
        assert cache_maps(tmp_path / "in", tmp_path / "cache", CAM).images == 2
        maps = CachedSaliency(tmp_path / "cache")
        assert maps(as_tensor(scene)[None]).shape == (1, 1, 8, 12)
        assert maps(as_tensor(scene.rotate(-90, expand=True))[None]).shape == (1, 1, 12, 8)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_of_trees_and_shards(self, tmp_path, workers):
        tree = scenes_tree(tmp_path / "tree")
        found = cache_maps(tree, tmp_path / "a", CAM, workers=workers)
        assert found == Cached(10, 10, 1)
        compress_dataset(tree, tmp_path / "tars", Compressor("jpeg:90"), shards=True, part=4, workers=0)
        seen = []
        assert cache_maps(tmp_path / "tars", tmp_path / "b", CAM, workers=workers, progress=seen.append).computed == 10
        assert (seen[-1].done, seen[-1].total) == (4, 4)
        maps = CachedSaliency(tmp_path / "a")
        assert len(maps(torch.stack([as_tensor(p) for p, _ in ImageFolder(tree, is_valid_file=sound)]))) == 10


def sound(path):
    return path.endswith((".jpg", ".png")) and "broken" not in path


class TestWithoutTheNetwork:
    def test_workers_never_build_it(self, tmp_path):
        built, tree = tmp_path / "built", scenes_tree(tmp_path / "tree")
        built.mkdir()
        cache_maps(tree, tmp_path / "cache", GradCam(f"{RECIPES}:counted:{built}"))
        assert len(list(built.iterdir())) == 1
        prefilter = Prefilter(CachedSaliency(tmp_path / "cache"), 0.7)
        chain = v2.Compose([v2.ToImage(), Compress("jpeg:30", prefilter=prefilter, return_rate=True)])
        data = ImageFolder(tree, chain, is_valid_file=sound)
        loader = DataLoader(data, 2, num_workers=2, multiprocessing_context="spawn")
        batches = [images[0] for images, _ in loader]
        assert len(list(built.iterdir())) == 1
        assert torch.equal(torch.cat(batches), torch.stack([image for (image, _), _ in data]))

    def test_it_is_pickled_as_a_path(self, cache, pictures):
        maps = CachedSaliency(cache)
        wanted = maps(pictures)
        sent = pickle.dumps(maps)
        assert len(sent) < 500
        assert torch.equal(pickle.loads(sent)(pictures), wanted)

    def test_from_a_configuration_file(self, cache, pictures):
        maps = as_saliency({"method": "CachedSaliency", "cache": str(cache)})
        assert torch.equal(maps(pictures), CachedSaliency(cache)(pictures))


class TestWhatDoesNotFit:
    def test_a_picture_that_is_not_there(self, cache, pictures):
        with pytest.raises(MissingMapError, match="no map of this 159x160 image; run 'foveate saliency'"):
            CachedSaliency(cache)(pictures[..., 1:, :])

    def test_no_cache(self, tmp_path):
        with pytest.raises(ValueError, match=r"has 0 saliencies \(none\); run 'foveate saliency' first"):
            CachedSaliency(tmp_path / "none")

    def test_several_saliencies(self, cache, pictures):
        cache_maps(Scenes(5, 8), cache, SALIENCIES["activation"])
        with pytest.raises(ValueError, match="has 2 saliencies .*choose one by identity="):
            CachedSaliency(cache)
        chosen = CachedSaliency(cache, "ActivationMap")
        assert "ActivationMap" in chosen.identity
        assert not torch.equal(chosen(pictures), CachedSaliency(cache, "GradCam")(pictures))
        assert torch.equal(pickle.loads(pickle.dumps(chosen))(pictures), chosen(pictures))

    @pytest.mark.parametrize("images", [torch.zeros(3, 4, 4), torch.zeros(1, 1, 4, 4), torch.full((1, 3, 4, 4), 2.0)])
    def test_no_images(self, cache, images):
        with pytest.raises(ValueError, match="images: expected"):
            CachedSaliency(cache)(images)

    def test_maps_that_used_labels_say_so(self, tmp_path):
        cache_maps(Scenes(1), tmp_path, GradCam(NET, target=3, preprocess=PREPROCESS))
        assert CachedSaliency(tmp_path).uses_labels

    @pytest.mark.parametrize("how", [{"batch": 0}, {"workers": -1}, {"workers": True}])
    def test_numbers(self, tmp_path, how):
        with pytest.raises(ValueError, match="expected an integer of at least"):
            cache_maps(Scenes(1), tmp_path, CAM, **how)


class TestKeys:
    def test_other_weights_are_another_saliency(self, tmp_path, pictures):
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(5))
        net(pictures.float())
        net.eval()
        cache_maps(Scenes(1), tmp_path, ActivationMap(net, layer="1"))
        with torch.no_grad():
            net[0].weight.add_(0.1)
        assert cache_maps(Scenes(1), tmp_path, ActivationMap(net, layer="1")).computed == 1
        assert cache_maps(Scenes(1), tmp_path, ActivationMap(net, layer="0")).computed == 1
        assert len(list(tmp_path.iterdir())) == 3

    def test_what_its_folder_says(self, cache):
        (about,) = cache.glob("*/saliency.json")
        assert json.loads(about.read_text())["identity"] == CAM.identity

    def test_hashes_that_begin_alike(self, tmp_path):
        store = MapCache.of(tmp_path, CAM)
        keys = [f"{'ab' * 8}{k:016x}" for k in range(5)]
        store.add({key: torch.full((1, 2, 2), k / 255) for k, key in enumerate(keys)})
        assert [int(store.get(key)[0, 0, 0]) for key in keys] == [0, 1, 2, 3, 4]
        assert store.get(f"{'ab' * 8}{9:016x}") is None


def flipped(at):
    """A change of one bit, at a share of the file's length, or in the tensor of that name."""

    def change(path):
        data = bytearray(path.read_bytes())
        if isinstance(at, float):
            place = int(at * (len(data) - 1))
        else:
            header = int.from_bytes(data[:8], "little")
            place = 8 + header + json.loads(data[8 : 8 + header])[at]["data_offsets"][0]
        data[place] ^= 4
        path.write_bytes(data)

    return change


def cut(share):
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def rewritten(change, keep=True):
    """A shard of other tensors, with the metadata as it was or with none."""

    def rewrite(path):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        tensors = load(path.read_bytes())
        path.write_bytes(save(tensors | change(tensors), metadata if keep else None))

    return rewrite


def without(path):
    tensors = load(path.read_bytes())
    del tensors["offsets"]
    with safe_open(path, "pt") as file:
        path.write_bytes(save(tensors, file.metadata()))


def earlier(path):
    """As shards were written before they had checksums."""
    tensors = load(path.read_bytes())
    path.write_bytes(save({name: tensors[name] for name in ("keys", "sizes", "offsets", "maps")}))


def instead(make):
    def replace(path):
        path.unlink()
        make(path)

    return replace


def folder_with_a_file(path):
    path.mkdir()
    (path / "mine.txt").write_text("mine")


def of_another_saliency(path):
    """A shard that is sound, of the same pictures, but not of this saliency."""
    other = path.parents[2] / "other"
    cache_maps(Scenes(5, 8), other, SALIENCIES["activation"])
    shutil.copyfile(next(other.glob(f"*/{path.name}")), path)


DAMAGES = {
    "empty": cut(0),
    "header cut": cut(0.01),
    "half": cut(0.5),
    "a byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a byte long": lambda path: path.write_bytes(path.read_bytes() + b"0"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "last block zeros": lambda path: path.write_bytes(path.read_bytes()[:-512] + bytes(512)),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 20),
    "text": lambda path: path.write_text("<html>404</html>" * 50),
    "bit in maps": flipped("maps"),
    "bit in the last map": flipped(1.0),
    "bit in keys": flipped("keys"),
    "bit in sizes": flipped("sizes"),
    "bit in offsets": flipped("offsets"),
    "bit in sums": flipped("sums"),
    "inverted, none stated": rewritten(lambda t: {"maps": 255 - t["maps"]}, keep=False),
    "inverted": rewritten(lambda t: {"maps": 255 - t["maps"]}),
    "maps of another dtype": rewritten(lambda t: {"maps": t["maps"].view(torch.int8)}),
    "maps in bfloat16": rewritten(lambda t: {"maps": t["maps"].bfloat16()}),
    "keys in bfloat16": rewritten(lambda t: {"keys": t["keys"].bfloat16()}),
    "too few keys": rewritten(lambda t: {"keys": t["keys"][:-1].clone()}),
    "no keys": rewritten(lambda t: {name: t[name][:0].clone() for name in t}),
    "a number for keys": rewritten(lambda t: {"keys": torch.tensor(3)}),
    "keys of another order": rewritten(lambda t: {"keys": t["keys"].flip(0)}),
    "maps of one another": rewritten(lambda t: {"maps": t["maps"].view(5, -1).flip(0).flatten()}),
    "sizes turned": rewritten(lambda t: {"sizes": t["sizes"] * torch.tensor([[2, 1]], dtype=torch.int32)}),
    "offsets past the end": rewritten(lambda t: {"offsets": t["offsets"] + 400}),
    "no offsets": without,
    "of an earlier version": earlier,
    "a folder": instead(lambda path: path.mkdir()),
    "a folder with a file": instead(folder_with_a_file),
    "a FIFO": instead(os.mkfifo),
    "a broken link": instead(lambda path: path.symlink_to("none")),
    "of another saliency": of_another_saliency,
}


def the_shard(cache):
    (path,) = cache.glob("*/*.safetensors")
    return path


def map_or_none(maps, picture):
    try:
        return maps(picture[None])[0]
    except LookupError:
        return None


def named(caplog):
    """How often the log names each file of a cache."""
    words = [word.rstrip(";") for one in caplog.records for word in one.getMessage().split()]
    return {path: words.count(path) for path in words if path.endswith((".safetensors", "saliency.json"))}


class TestDamagedShards:
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_the_same_command_names_it_and_makes_its_maps_anew(self, cache, pictures, caplog, damage):
        whole, path = CachedSaliency(cache)(pictures), the_shard(cache)
        data = path.read_bytes()
        DAMAGES[damage](path)
        assert cache_maps(Scenes(5, 8), cache, CAM) == Cached(5, 5, 0)
        assert named(caplog) == ({} if damage == "a broken link" else {str(path): 1})
        assert path.read_bytes() == data
        caplog.clear()
        assert torch.equal(CachedSaliency(cache)(pictures), whole)
        assert cache_maps(Scenes(5, 8), cache, CAM) == Cached(5, 0, 0)
        assert not caplog.records
        left = {p.name for p in path.parent.iterdir()} - {path.name, "saliency.json"}
        assert len(left) == damage.startswith("a folder")  # which is the user's, so it is only renamed
        assert all(name.startswith(path.name) and name.endswith(".damaged") for name in left)

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_who_only_reads_names_it_once_and_serves_none_of_its_damage(self, cache, pictures, caplog, damage):
        whole, path = CachedSaliency(cache)(pictures), the_shard(cache)
        DAMAGES[damage](path)
        maps = CachedSaliency(cache)
        for _ in range(2):
            found = [map_or_none(maps, picture) for picture in pictures]
            assert all(one is None or torch.equal(one, old) for one, old in zip(found, whole, strict=True))
        assert found == [None] * 5  # the second time, as what is damaged is found
        assert named(caplog) == ({} if damage == "a broken link" else {str(path): 1})

    def test_any_bit(self, tmp_path, caplog):
        keys = [f"{k:032x}" for k in range(3)]
        MapCache.of(tmp_path, CAM).add({key: torch.rand(1, 2, 3 + k) for k, key in enumerate(keys)})
        path = the_shard(tmp_path)
        whole, data = [MapCache(path.parent).get(key).clone() for key in keys], path.read_bytes()
        for place in range(len(data)):
            changed = bytearray(data)
            changed[place] ^= 1 << place % 8
            path.write_bytes(changed)
            maps = MapCache(path.parent)
            found = [maps.get(key) for key in keys]
            assert any(one is None for one in found), place
            assert all(one is None or torch.equal(one, old) for one, old in zip(found, whole, strict=True)), place
        assert len(caplog.records) == len(data)

    @pytest.mark.parametrize("damage", ["bit in maps", "half", "of an earlier version"])
    def test_maps_of_several_shards_that_come_back_in_one(self, tmp_path, pictures, caplog, damage):
        for count in (2, 4, 5):
            cache_maps(Scenes(count, 8), tmp_path, CAM)
        whole, paths = CachedSaliency(tmp_path)(pictures), sorted(tmp_path.glob("*/*.safetensors"))
        for path in paths[:2]:
            DAMAGES[damage](path)
        sound = paths[2].read_bytes()
        made = cache_maps(Scenes(5, 8), tmp_path, CAM).computed
        assert named(caplog) == {str(path): 1 for path in paths[:2]}
        assert not any(path.exists() for path in paths[:2])
        assert paths[2].read_bytes() == sound
        assert len(list(paths[0].parent.iterdir())) == 3
        assert torch.equal(CachedSaliency(tmp_path)(pictures), whole)
        assert made == 5 - len(load(sound)["keys"])

    def test_renamed_it_is_not_taken_for_another(self, cache, pictures, caplog):
        path = the_shard(cache)
        other = path.rename(path.with_name("0" * 16 + ".safetensors"))
        assert cache_maps(Scenes(5, 8), cache, CAM).computed == 5
        assert named(caplog) == {str(other): 1}
        assert [path.exists(), other.exists()] == [True, False]

    def test_a_map_that_another_shard_has_too_is_served_from_there(self, tmp_path, caplog):
        store, key = MapCache.of(tmp_path, CAM), "ab" * 16
        for other in ("01", "02"):
            store.add({key: torch.full((1, 2, 2), 0.2), other * 16: torch.zeros(1, 1, 1)})
        first, second = sorted(store.folder.glob("*.safetensors"))
        flipped(1.0)(first)
        flipped("maps")(first)
        for maps in (MapCache(store.folder), MapCache.of(tmp_path, CAM)):
            assert maps.get(key).tolist() == [[[51, 51], [51, 51]]]
        assert named(caplog) == {str(first): 2}
        flipped(1.0)(second)
        flipped("maps")(second)
        assert MapCache(store.folder).get(key) is None

    def test_an_open_one_sees_that_it_was_made_anew(self, cache, pictures, caplog):
        whole = CachedSaliency(cache)(pictures)
        DAMAGES["bit in maps"](the_shard(cache))
        maps, last = CachedSaliency(cache), len(pictures) - 1
        with pytest.raises(LookupError):
            maps(pictures)
        cache_maps(Scenes(5, 8), cache, CAM)
        assert torch.equal(maps(pictures[last:]), whole[last:])
        assert torch.equal(maps(pictures), whole)

    @pytest.mark.parametrize("maps", [{}, {"01" * 16: torch.zeros(1, 2, 2)}])
    def test_what_another_process_has_made_anew_is_not_removed(self, cache, pictures, maps):
        path, stale = the_shard(cache), MapCache.of(cache, CAM)
        data = path.read_bytes()
        DAMAGES["half"](path)
        assert stale.get("00" * 16) is None
        cache_maps(Scenes(5, 8), cache, CAM)
        touched = path.stat().st_ctime_ns
        stale.add(maps)
        assert (path.read_bytes(), path.stat().st_ctime_ns) == (data, touched)
        assert len(list(path.parent.glob("*.safetensors"))) == 1 + len(maps)

    def test_what_is_made_anew_between_the_look_and_the_removal_is_put_back(self, cache, monkeypatch):
        path, stale = the_shard(cache), MapCache.of(cache, CAM)
        data, refreshed = path.read_bytes(), stale._refresh
        DAMAGES["half"](path)
        refreshed()

        def meanwhile():
            found = refreshed()
            cache_maps(Scenes(5, 8), cache, CAM)
            return found

        monkeypatch.setattr(stale, "_refresh", meanwhile)
        stale.add({})
        assert path.read_bytes() == data
        assert {p.name for p in path.parent.iterdir()} == {path.name, "saliency.json"}

    def test_two_processes_that_make_its_maps_anew_at_once(self, tmp_path):
        for count in (8, 16, 24):
            cache_maps(Scenes(count, 8), tmp_path, CAM)
        whole, paths = held(tmp_path, 24), list(tmp_path.glob("*/*.safetensors"))
        for path, damage in zip(paths, ("bit in maps", "zeros", "half"), strict=True):
            DAMAGES[damage](path)
        both = [start(tmp_path, 24) for _ in range(2)]
        assert [process.wait(120) for process in both] == [0, 0]
        assert held(tmp_path, 24) == whole
        assert {p.suffix for p in tmp_path.glob("*/*")} == {".json", ".safetensors"}

    @pytest.mark.parametrize("damage", ["bit in maps", "empty", "inverted"])
    def test_a_run_with_a_cache(self, tmp_path, caplog, damage):
        tree, cache = scenes_tree(tmp_path / "tree"), tmp_path / "cache"
        compressor = Compressor("jpeg:40", prefilter=Prefilter(CAM, 0.8))
        compress_dataset(tree, tmp_path / "a", compressor, cache=cache, workers=0)
        path = the_shard(cache)
        data = path.read_bytes()
        DAMAGES[damage](path)
        compress_dataset(tree, tmp_path / "b", compressor, cache=cache, workers=0)
        assert named(caplog) == {str(path): 1}
        assert path.read_bytes() == data
        assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")

    def test_threads_that_find_it_at_once(self, tmp_path, caplog):
        MapCache.of(tmp_path, CAM).add({"01" * 16: torch.rand(1, 500, 500)})
        path = the_shard(tmp_path)
        DAMAGES["bit in maps"](path)
        for _ in range(20):
            caplog.clear()
            maps = MapCache(path.parent)
            assert len(maps) == 1
            with ThreadPoolExecutor(8) as pool:
                assert list(pool.map(maps.get, ["01" * 16] * 8)) == [None] * 8
            assert named(caplog) == {str(path): 1}

    def test_workers_of_a_loader_name_it(self, cache, tmp_path):
        path = the_shard(cache)
        DAMAGES["half"](path)
        asked = AskedFor(CachedSaliency(cache))
        loader = DataLoader(Scenes(5, 8), 1, num_workers=1, collate_fn=asked, multiprocessing_context="fork")
        logger, handler = logging.getLogger("foveate"), logging.FileHandler(tmp_path / "log")
        logger.addHandler(handler)
        try:
            with pytest.raises(LookupError, match="run 'foveate saliency'"):
                list(loader)
        finally:
            logger.removeHandler(handler)
            handler.close()
        assert (tmp_path / "log").read_text().count(str(path)) == 1

    def test_the_same_maps_are_the_same_bytes(self, tmp_path, pictures):
        maps = {f"{k:032x}": one for k, one in enumerate(CAM(pictures))}
        for name in ("a", "b"):
            MapCache.of(tmp_path / name, CAM).add(dict(reversed(maps.items())) if name == "b" else maps)
        assert the_shard(tmp_path / "a").read_bytes() == the_shard(tmp_path / "b").read_bytes()

    def test_maps_that_are_not_contiguous(self, tmp_path):
        wide = torch.rand(1, 4, 6)
        maps = {"01" * 16: wide.mT, "02" * 16: wide[:, ::2, ::3], "03" * 16: wide[:, :1, :1].expand(1, 3, 3)}
        MapCache.of(tmp_path, CAM).add(maps)
        held = MapCache.of(tmp_path, CAM)
        assert all(torch.equal(held.get(key), (one * 255).round().to(torch.uint8)) for key, one in maps.items())

    def test_what_cannot_be_written_is_named(self, tmp_path, monkeypatch):
        store = MapCache.of(tmp_path, CAM)
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device") as raised:
            store.add({"01" * 16: torch.zeros(1, 2, 2)})
        assert str(raised.value.filename).startswith(str(store.folder))
        assert raised.value.filename.endswith(".safetensors")


def full(_):
    raise OSError(28, "No space left on device")


class AskedFor:
    """Has a worker ask for the maps of its pictures."""

    def __init__(self, maps):
        self.maps = maps

    def __call__(self, batch):
        return self.maps(torch.stack([as_tensor(scene) for scene, _ in batch]))


def about_with(**changed):
    def change(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return change


ABOUTS = {
    "empty": cut(0),
    "cut": cut(0.7),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "bytes": lambda path: path.write_bytes(b"\xff\xfe\x80"),
    "a list": lambda path: path.write_text("[1]"),
    "a key less": lambda path: path.write_text('{"identity": "x"}'),
    "another identity": about_with(identity="GradCam()"),
    "another version": about_with(foveate="0.0.1"),
    "no identity": about_with(identity=None),
    "labels of another kind": about_with(uses_labels="no"),
    "a bit": flipped(0.3),
    "a folder": instead(lambda path: path.mkdir()),
    "a folder with a file": instead(folder_with_a_file),
    "a FIFO": instead(os.mkfifo),
}


class TestDamagedAbouts:
    @pytest.mark.parametrize("damage", [*ABOUTS, "other labels"])
    def test_the_same_command_names_and_rewrites_it(self, cache, pictures, caplog, damage):
        (path,) = cache.glob("*/saliency.json")
        whole, text = CachedSaliency(cache)(pictures), path.read_text()
        (about_with(uses_labels=True) if damage == "other labels" else ABOUTS[damage])(path)
        assert cache_maps(Scenes(5, 8), cache, CAM) == Cached(5, 0, 0)
        assert named(caplog) == {str(path): 1}
        assert path.read_text() == text
        caplog.clear()
        assert torch.equal(CachedSaliency(cache)(pictures), whole)
        assert not caplog.records

    @pytest.mark.parametrize("damage", ABOUTS)
    def test_alone_it_is_refused_by_who_only_reads(self, cache, damage):
        (path,) = cache.glob("*/saliency.json")
        ABOUTS[damage](path)
        with pytest.raises(ValueError, match="run 'foveate saliency' again to rewrite it") as raised:
            CachedSaliency(cache)
        assert f"{path} is damaged" in str(raised.value)
        with pytest.raises(ValueError, match="is damaged"):
            MapCache(path.parent)

    @pytest.mark.parametrize("damage", ABOUTS)
    def test_beside_others_it_is_named_and_left_out(self, cache, pictures, caplog, damage):
        (path,) = cache.glob("*/saliency.json")
        cache_maps(Scenes(5, 8), cache, SALIENCIES["activation"])
        whole = CachedSaliency(cache, "ActivationMap")(pictures)
        ABOUTS[damage](path)
        maps = CachedSaliency(cache, "ActivationMap")
        assert named(caplog) == {str(path): 1}
        assert torch.equal(maps(pictures), whole)
        with pytest.raises(ValueError, match=r"has 0 saliencies whose identity has 'GradCam\('.* is damaged"):
            CachedSaliency(cache, "GradCam(")

    def test_a_copy_of_a_folder_under_another_name(self, cache):
        (path,) = cache.glob("*/saliency.json")
        shutil.copytree(path.parent, cache / "copy")
        shutil.rmtree(path.parent)
        with pytest.raises(ValueError, match="its identity is not that which the folder is named by"):
            CachedSaliency(cache)

    def test_a_folder_by_any_path(self, cache, pictures, monkeypatch):
        (path,) = cache.glob("*/saliency.json")
        monkeypatch.chdir(path.parent)
        assert len(MapCache(path.parent.relative_to(path.parent))) == 5


PASS = """
import sys
from foveate import GradCam
from foveate.demo import PREPROCESS, Scenes
from foveate.export import _maps
_maps._SHARD = 8
print("begun", flush=True)
source = Scenes(int(sys.argv[2]), 8)
print(_maps.cache_maps(source, sys.argv[1], GradCam("foveate.demo:scene_net", preprocess=PREPROCESS), batch=4))
"""


def start(cache, count):
    return subprocess.Popen([sys.executable, "-c", PASS, str(cache), str(count)], stdout=subprocess.PIPE, text=True)


class TestProcesses:
    def test_two_write_at_once_and_an_open_one_sees_it(self, tmp_path, pictures):
        cache_maps(Scenes(1, 8), tmp_path, CAM)
        maps = CachedSaliency(tmp_path)
        assert len(maps(pictures[:1])) == 1
        both = [start(tmp_path, 24) for _ in range(2)]
        assert [process.wait(120) for process in both] == [0, 0]
        assert len(maps(pictures)) == 5
        assert cache_maps(Scenes(24, 8), tmp_path, CAM) == Cached(24, 0, 0)
        assert not list(tmp_path.glob("*/.*"))

    def test_killed_it_goes_on_and_ends_with_the_same_maps(self, tmp_path):
        whole, broken = tmp_path / "whole", tmp_path / "broken"
        assert start(whole, 64).wait(120) == 0
        kills = 0
        for shards in (1, 3):
            process = start(broken, 64)
            while process.poll() is None and len(list(broken.glob("*/*.safetensors"))) < shards:
                time.sleep(0.002)
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.wait()
            for path in broken.glob("*/*.safetensors"):
                with safe_open(path, "pt") as file:  # whole
                    assert len(file.get_tensor("keys")) == len(file.get_tensor("sizes"))
        assert kills
        assert start(broken, 64).wait(120) == 0
        assert held(broken, 64) == held(whole, 64)

    def test_the_source_is_only_read(self, tmp_path):
        tree = scenes_tree(tmp_path / "tree")
        before = snapshot(tree)
        cache_maps(tree, tmp_path / "cache", CAM)
        assert snapshot(tree) == before


def held(cache, count):
    """The maps of so many scenes in a cache."""
    (folder,) = (p.parent for p in cache.glob("*/saliency.json"))
    maps = MapCache(folder)
    return [maps.get(image_hash(as_tensor(scene))).tolist() for scene, _ in Scenes(count, 8)]
