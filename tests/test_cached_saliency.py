"""Maps on disk: as the network makes them, served without it, and safe among processes."""

import json
import pickle
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import RECIPES
from exporting import NET, scenes_tree, snapshot
from PIL import Image
from safetensors import safe_open
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from foveate import ActivationMap, CachedSaliency, CaptumAttribution, Compressor, GradCam, Prefilter
from foveate.demo import PREPROCESS, Scenes
from foveate.export import Cached, cache_maps, compress_dataset
from foveate.images import as_tensor, picture_hash
from foveate.saliency import MapCache, from_spec
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


@pytest.fixture
def cache(tmp_path):
    cache_maps(Scenes(5, 8), tmp_path / "cache", CAM)
    return tmp_path / "cache"


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

    def test_grey_pictures(self, tmp_path):
        grey = as_tensor(Scenes(1)[0][0].convert("L"))
        cache_maps([grey], tmp_path, CAM)
        prefilter, cached = Prefilter(CAM), Prefilter(CachedSaliency(tmp_path))
        assert (prefilter(grey[None]).int() - cached(grey[None]).int()).abs().max() <= 1

    def test_a_photo_on_its_side_is_found_as_it_is_seen_and_as_it_is_stored(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        scene = Scenes(1)[0][0].resize((96, 64))
        (tmp_path / "in").mkdir()
        scene.save(tmp_path / "in" / "turned.png", exif=exif)
        assert cache_maps(tmp_path / "in", tmp_path / "cache", CAM).pictures == 2
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
        assert cache_maps(tmp_path / "tars", tmp_path / "b", CAM, workers=workers, progress=seen.append).made == 10
        assert sum(seen) == 4
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
        maps = from_spec({"method": "CachedSaliency", "cache": str(cache)})
        assert torch.equal(maps(pictures), CachedSaliency(cache)(pictures))


class TestWhatDoesNotFit:
    def test_a_picture_that_is_not_there(self, cache, pictures):
        with pytest.raises(LookupError, match="no map of this 159x160 picture; run 'foveate saliency'"):
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
        assert cache_maps(Scenes(1), tmp_path, ActivationMap(net, layer="1")).made == 1
        assert cache_maps(Scenes(1), tmp_path, ActivationMap(net, layer="0")).made == 1
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
        assert held(broken) == held(whole)

    def test_the_source_is_only_read(self, tmp_path):
        tree = scenes_tree(tmp_path / "tree")
        before = snapshot(tree)
        cache_maps(tree, tmp_path / "cache", CAM)
        assert snapshot(tree) == before


def held(cache):
    """The maps of the scenes in a cache."""
    (folder,) = (p.parent for p in cache.glob("*/saliency.json"))
    maps = MapCache(folder)
    return [maps.get(picture_hash(as_tensor(scene))).tolist() for scene, _ in Scenes(64, 8)]
