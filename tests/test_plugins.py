"""A package outside the tree that adds a codec, a saliency, a filter and a criterion, and is found by every process."""

import gzip
import json
import math
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import foveate
from foveate._registry import Registry
from foveate.codecs import CODECS
from foveate.demo import Scenes
from foveate.prefilter import FILTERS
from foveate.rate_control import CRITERIA
from foveate.saliency import SALIENCIES

EXAMPLES = Path(__file__).parents[1] / "examples"
PARTS = {
    "foveate.codecs": "png = add_a_codec:Png",
    "foveate.saliencies": "EdgeEnergy = add_a_saliency:EdgeEnergy",
    "foveate.filters": "box = add_a_filter:box",
    "foveate.criteria": "top5 = add_a_criterion:top5",
}
CHECKS = """
import numpy as np

from add_a_codec import Png
from add_a_criterion import top5
from add_a_filter import box
from add_a_host import CompressImages
from add_a_saliency import EdgeEnergy
from foveate.testing import CodecConformance, CriterionConformance, FilterConformance
from foveate.testing import HostConformance, SaliencyConformance


class TestPng(CodecConformance):
    codec_class = Png


class TestEdgeEnergy(SaliencyConformance):
    make = staticmethod(lambda model: EdgeEnergy())
    asks_model = False


class TestBox(FilterConformance):
    filter = "box"


class TestTop5(CriterionConformance):
    criterion = "top5"


class TestCompressImages(HostConformance):
    make = CompressImages
    call = staticmethod(lambda transform, image: np.asarray(transform({"image": [image]})["image"][0]))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The examples as an installed package, with entry points."""
    site = tmp_path_factory.mktemp("site")
    for name in ("add_a_codec", "add_a_saliency", "add_a_filter", "add_a_criterion", "add_a_host"):
        shutil.copy(EXAMPLES / f"{name}.py", site)
    about = site / "parts-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: parts\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("\n".join(f"[{group}]\n{line}\n" for group, line in PARTS.items()))
    (site / "test_parts.py").write_text(CHECKS)
    return site


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    for k, (scene, label) in enumerate(Scenes(4)):
        (folder / str(label)).mkdir(exist_ok=True)
        scene.save(folder / str(label) / f"{k}.png")
    return folder


def run(package, *words, timeout=300):
    paths = os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        timeout=timeout,
    )


def manifest(target):
    lines = gzip.decompress((target / "foveate-manifest.jsonl.gz").read_bytes()).splitlines()
    return [line for line in map(json.loads, lines) if "source" in line]


def test_they_pass_the_conformance_classes(package):
    done = run(package, "-m", "pytest", "-q", "-p", "no:cacheprovider", package / "test_parts.py", timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "failed" not in done.stdout


def test_the_command_line_lists_them(package):
    done = run(package, "-m", "foveate", "codecs")
    assert "png" in done.stdout, done.stderr
    assert "zlib" in done.stdout


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_an_export_uses_them_in_every_process(package, scenes, tmp_path, engine):
    if engine == "ray":
        pytest.importorskip("ray")
    words = ["--codec", "png:4", "--saliency", "EdgeEnergy", "--strength", "0.4", "--filter", "box"]
    done = run(
        package, "-m", "foveate", "compress", scenes, tmp_path / "small", *words, "--workers", 2, "--engine", engine
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = manifest(tmp_path / "small")
    assert [line["settings"]["codec"] for line in lines] == ["png:4"] * 4
    done = run(package, "-m", "foveate", "verify", tmp_path / "small")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_criterion_without_a_bound_is_kept(package, scenes, tmp_path):
    words = ["--codec", "jpeg", "--keep", "top5", "--witness", "foveate.demo:scene_net"]
    done = run(package, "-m", "foveate", "compress", scenes, tmp_path / "small", *words, "--workers", 2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(line["met"] for line in manifest(tmp_path / "small"))


class TestRegistry:
    @pytest.fixture
    def colors(self, monkeypatch):
        points = [EntryPoint("red", "colors_of_a_package:red", "colors"), EntryPoint("math", "math:pi", "colors")]
        monkeypatch.setattr("foveate._registry.entry_points", lambda group: points if group == "colors" else [])
        return Registry("color", "colors", lambda name, color: color)

    def test_an_entry_point_is_loaded_when_it_is_asked_for(self, colors):
        assert colors.names() == ("red", "math")
        assert colors["math"] == pytest.approx(3.14159, abs=1e-5)

    def test_one_that_cannot_be_loaded_is_named_and_leaves_the_others(self, colors):
        with pytest.raises(
            ImportError, match=r"color: the entry point red = colors_of_a_package:red of colors .*No module"
        ):
            colors["red"]
        with pytest.warns(RuntimeWarning, match="red = colors_of_a_package:red"):
            assert list(colors.usable()) == ["math"]

    def test_threads_find_them_from_the_start(self, monkeypatch):
        def slow(group):
            yield EntryPoint("pi", "math:pi", "colors")
            time.sleep(0.05)
            yield EntryPoint("e", "math:e", "colors")

        monkeypatch.setattr("foveate._registry.entry_points", slow)
        colors = Registry("color", "colors", lambda name, color: color)
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _: colors["e"], range(8))) == {math.e}

    def test_a_name_that_is_not_there_says_what_is(self, colors):
        with pytest.raises(ValueError, match="color: there is no 'blue'; choose one of red, math, or add it"):
            colors["blue"]

    def test_one_name_is_of_one_thing(self, colors):
        def scarlet():
            pass

        def crimson():
            pass

        colors.add("color", scarlet)
        colors.add("color", scarlet)
        with pytest.raises(ValueError, match=r"'color' is .*scarlet already; choose another for .*crimson"):
            colors.add("color", crimson)
        with pytest.raises(TypeError, match="name: expected a string"):
            colors.add(3, crimson)

    def test_two_packages_of_one_name_are_told(self, monkeypatch):
        points = [EntryPoint("red", f"{module}:red", "colors") for module in ("a", "b")]
        monkeypatch.setattr("foveate._registry.entry_points", lambda group: points)
        with pytest.raises(ValueError, match="a:red and b:red of colors are both called 'red'"):
            Registry("color", "colors", lambda name, color: color)["red"]

    def test_a_name_of_foveate_s_own_is_not_taken_over(self, monkeypatch):
        points = [EntryPoint("jpeg", "package:Jpeg", "foveate.codecs")]
        monkeypatch.setattr("foveate._registry.entry_points", lambda group: points)
        colors = Registry("codec", "foveate.codecs", lambda name, codec: codec)
        colors.add("jpeg", foveate.Jpeg)
        with pytest.raises(ValueError, match="package:Jpeg of foveate.codecs is called 'jpeg', as one of"):
            colors["webp"]


class TestRegistering:
    def test_a_codec_is_a_codec(self):
        with pytest.raises(TypeError, match=r"codec: expected a subclass of foveate\.Codec"):
            CODECS.add("nothing", int)

        class Mine(foveate.Jpeg):
            name = "a:b"

        with pytest.raises(ValueError, match="without any of"):
            foveate.register_codec(Mine)

    def test_a_codec_of_a_taken_name_is_refused(self):
        class Mine(foveate.Jpeg):
            name = "jpeg"

        with pytest.raises(ValueError, match=r"'jpeg' is foveate\..*Jpeg already"):
            foveate.register_codec(Mine)

    @pytest.mark.parametrize("register", [foveate.register_filter("x"), foveate.register_saliency])
    def test_what_cannot_be_called_is_refused(self, register):
        with pytest.raises(TypeError, match="got 3"):
            register(3)

    def test_defaults_of_a_saliency_are_its_own(self):
        def halved(images):
            return images / 2

        @foveate.register_saliency
        class Halved(foveate.Saliency):
            def __init__(self, model=None, preprocess=halved):
                self.model, self.preprocess = model, preprocess

            def __call__(self, images):
                return self.preprocess(images.float()[:, :1])

        assert foveate.as_saliency("Halved").preprocess is halved
        assert foveate.as_saliency("Halved").model is None
        given = foveate.as_saliency({"method": "Halved", "model": "resnet18", "preprocess": {"resize": 32}})
        assert (given.model, given.preprocess.resize) == ("resnet18", 32)

    def test_names_of_criteria(self):
        with pytest.raises(ValueError, match="lower-case"):
            foveate.register_criterion("Top 5")(max)
        with pytest.raises(TypeError, match="function of"):
            foveate.register_criterion("nothing")(3)

    def test_all_four_are_registries_of_entry_points(self):
        groups = [registry.group for registry in (CODECS, SALIENCIES, FILTERS, CRITERIA)]
        assert groups == ["foveate.codecs", "foveate.saliencies", "foveate.filters", "foveate.criteria"]
