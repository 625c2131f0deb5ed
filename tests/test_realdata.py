"""On real photos with real classifiers, where they are to be had."""

import json
import re
from html import unescape

import pytest
import torch
from torchvision.models import ResNet18_Weights

import foveate
from foveate.cli import main
from foveate.evaluation import SampleFolder
from foveate.evaluation._samples import wnids
from foveate.models import Preprocess, load_classifier

pytestmark = pytest.mark.realdata


@pytest.fixture
def photos(realdata):
    folder = SampleFolder(realdata / "images", 24)
    folder.number_classes(1000)
    return [folder[k] for k in range(len(folder))]


@pytest.mark.parametrize(("name", "at_least"), [("mobilenet_v2", 0.85), ("squeezenet1_1", 0.5)])
def test_classifiers_know_the_photos(realdata, name, at_least):
    """91 % and 64 % on 250 of them: labels, resizing, cropping and normalization are right."""
    folder = SampleFolder(realdata / "images", 60)
    folder.number_classes(1000)
    judge = load_classifier(f"{realdata}/zoo.py:load:{name}")
    right = [int(judge.logits([p.image]).argmax()) == p.label for p in map(folder.__getitem__, range(60))]
    assert sum(right) / len(right) >= at_least


@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_1"])
def test_maps_of_whole_photos_of_any_shape(realdata, photos, name):
    cam = foveate.GradCam(f"{realdata}/zoo.py:load:{name}", preprocess=Preprocess(256))
    for photo in photos[:6]:
        maps = cam(photo.image[None])
        height, width = photo.image.shape[-2:]
        assert maps.shape[3] / maps.shape[2] == pytest.approx(width / height, rel=0.25)
        assert float(maps.max()) == 1
    assert cam.layer_name == "features"


def test_the_map_is_on_the_object_that_matters(realdata, photos):
    """Covering what a map marks changes more answers than covering as much of what it does not."""
    judge = load_classifier(f"{realdata}/zoo.py:load:mobilenet_v2")
    cam = foveate.GradCam(judge.model, preprocess=Preprocess(256))
    marked = unmarked = 0
    for photo in photos:
        saliency = foveate.filters.resize(cam(photo.image[None]), tuple(photo.image.shape[-2:]))[0]
        order = saliency.flatten().argsort()
        quarter = len(order) // 4
        before = int(judge.logits([photo.image]).argmax())
        for cover, key in ((order[-quarter:], "marked"), (order[:quarter], "unmarked")):
            covered = photo.image.flatten(1).clone()
            covered[:, cover] = 128
            changed = int(judge.logits([covered.view_as(photo.image)]).argmax()) != before
            marked, unmarked = marked + changed * (key == "marked"), unmarked + changed * (key == "unmarked")
    assert marked >= unmarked + 5


def test_the_pre_filter_saves_bytes_on_every_photo(realdata, photos):
    cam = foveate.GradCam(f"{realdata}/zoo.py:load:mobilenet_v2", preprocess=Preprocess(256))
    plain, filtered = foveate.Compressor("jpeg:50"), foveate.Compressor("jpeg:50", foveate.Prefilter(cam, 0.5))
    pictures = [p.image for p in photos]
    ratio = [len(b.data) / len(a.data) for a, b in zip(plain.encode(pictures), filtered.encode(pictures), strict=True)]
    assert max(ratio) <= 1.01
    assert sum(ratio) / len(ratio) < 0.92
    assert all(d.shape == p.shape for d, p in zip(filtered.decode(filtered.encode(pictures)), pictures, strict=True))


def test_evaluate_on_real_photos(realdata, tmp_path):
    arguments = [
        "evaluate", realdata / "images", "--model", f"{realdata}/zoo.py:load:mobilenet_v2", "--judge",
        f"{realdata}/zoo.py:load:squeezenet1_1", "--quality", "25,75", "--strength", "0,0.5", "--limit", "20",
        "--out", tmp_path,
    ]  # fmt: skip
    assert main([str(a) for a in arguments]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    judges = results["points"][0]["judges"]
    assert {name: judge["known"] for name, judge in judges.items()} == {"mobilenet_v2": True, "squeezenet1_1": False}
    coarse, fine = results["points"][0], results["points"][1]
    assert coarse["bytes"] < fine["bytes"]
    assert results["points"][2]["bytes"] < coarse["bytes"]
    shown = re.findall(r"</span>\s*(n\d{8})/[^:<]+: ([^<]+)</summary>", (tmp_path / "report.html").read_text())
    names = dict(zip(wnids(), ResNet18_Weights.DEFAULT.meta["categories"], strict=True))
    assert len(shown) == 6
    assert all(unescape(name) == names[wnid] for wnid, name in shown)


def test_rate_control_for_a_classifier_that_nobody_asked(realdata, photos):
    """It learns from two others and LPIPS: what it expects comes true about as often, and fineness has its price."""
    recipes = [f"{realdata}/zoo.py:load:{name}" for name in ("squeezenet1_1", "mobilenet_v1_050")]
    witnesses = [*recipes, f"lpips:{recipes[0]}"]
    grid = {"qualities": (8, 20, 45, 85), "scales": (1.0, 0.6)}
    pictures = [p.image for p in photos]
    learned = foveate.RateControl(witnesses, "robust1", **grid).calibrate(foveate.Compressor("jpeg"), pictures[::2])
    stranger = load_classifier(f"{realdata}/zoo.py:load:mobilenet_v2")
    clean = stranger.logits(pictures[1::2]).argmax(1)
    sizes, kept, expected = [], [], []
    for price in (0.05, 0.5, 2):
        control = foveate.RateControl(witnesses, f"robust{price:g}", calibration=learned, **grid)
        compressor = foveate.Compressor("jpeg", control=control)
        encoded = compressor.encode(pictures[1::2])
        sizes.append(sum(len(e.data) for e in encoded))
        kept.append(stranger.logits(compressor.decode(encoded)).argmax(1) == clean)
        expected.append(torch.tensor([e.expected for e in encoded]))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 0.5 * sizes[0]
    assert float(torch.stack(kept).float().mean()) == pytest.approx(float(torch.stack(expected).mean()), abs=0.2)


def test_gradients_reach_through_filter_and_classifier(realdata, photos):
    judge = load_classifier(f"{realdata}/zoo.py:load:squeezenet1_1")
    prefilter = foveate.Prefilter(foveate.GradCam(judge.model, preprocess=Preprocess(256)), 0.5)
    image = (photos[0].image[None] / 255).requires_grad_()
    judge.model(judge.preprocess(prefilter(image))).amax().backward()
    assert torch.isfinite(image.grad).all()
    assert float(image.grad.abs().sum()) > 0
