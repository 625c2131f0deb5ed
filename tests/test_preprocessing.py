"""The preprocessing that models bring, in the forms in which users have it."""

import sys
import textwrap

import numpy as np
import pytest
import timm
import torch
import torchvision.transforms as v1
from PIL import Image
from recipes import tiny
from torchvision.models import MobileNet_V2_Weights
from torchvision.transforms import InterpolationMode, v2

from foveate import GradCam, PreEdit
from foveate.cli import main
from foveate.demo import Scenes, scene_net
from foveate.identity import IdentityError, identity
from foveate.images import as_tensor
from foveate.models import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LazyClassifier,
    LazyModel,
    PictureTransform,
    Preprocess,
    as_preprocess,
    load_classifier,
)
from foveate.rate_control import Witness

NORMALIZE = v1.Normalize(IMAGENET_MEAN, IMAGENET_STD)
CHAINS = {
    "of one's own": (v1.Compose([v1.Resize(96), v1.CenterCrop(80), v1.ToTensor(), NORMALIZE]), Preprocess(96, 80)),
    "squashing": (
        v1.Compose([v1.Resize((96, 80)), v1.ToTensor()]),
        Preprocess((96, 80), None, (0.0,) * 3, (1.0,) * 3),
    ),
    "bicubic": (
        v1.Compose([v1.Resize(64, InterpolationMode.BICUBIC), v1.CenterCrop(64), v1.ToTensor(), NORMALIZE]),
        Preprocess(64, 64, interpolation="bicubic"),
    ),
    "v2": (
        v2.Compose(
            [
                v2.ToImage(),
                v2.Resize(96),
                v2.CenterCrop(80),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD),
            ]
        ),
        Preprocess(96, 80),
    ),
    "nested": (v1.Compose([v1.Compose([v1.CenterCrop(60), v1.ToTensor()]), NORMALIZE]), Preprocess(None, 60)),
    "of weights": (MobileNet_V2_Weights.IMAGENET1K_V2.transforms(), Preprocess(232, 224)),
    "timm's": (
        timm.data.create_transform((3, 96, 96), interpolation="bicubic", crop_pct=0.9),
        Preprocess(106, 96, interpolation="bicubic"),
    ),
}


def photo():
    """A photo's size, and smooth enough that two ways to resize it agree."""
    rows, columns = np.mgrid[:150, :200] / 200
    return Image.fromarray((255 * np.stack([rows, columns, 0.5 + 0.4 * np.sin(9 * rows)], 2)).astype(np.uint8))


class TestForms:
    @pytest.mark.parametrize("name", CHAINS)
    def test_a_chain_is_read_as_what_it_does(self, name):
        chain, wanted = CHAINS[name]
        read = as_preprocess(chain)
        assert read == wanted
        tensor = chain(photo())
        ours = read(as_tensor(photo())[None])[0]
        assert ours.shape == tensor.shape
        assert float((ours - tensor).abs().max()) < 0.06  # two gray levels: Pillow and torch round differently

    @pytest.mark.parametrize(
        "config",
        [timm.data.resolve_data_config({}, model=timm.create_model(name)) for name in ("resnet10t", "test_vit")],
    )
    def test_timm_s_configuration_does_what_its_transforms_do(self, config):
        chain = timm.data.create_transform(**config)
        assert as_preprocess(config) == as_preprocess(chain)

    def test_timm_s_squash(self):
        config = {"input_size": (3, 80, 80), "crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bicubic"}
        ours = as_preprocess(config)(as_tensor(photo())[None])[0]
        wanted = timm.data.create_transform(**config)(photo())
        assert float((ours - wanted).abs().max()) < 0.06

    @pytest.mark.parametrize(
        "chain",
        [
            v1.Compose([v1.Pad(20), v1.CenterCrop(150), v1.ToTensor()]),
            v1.Compose([v1.CenterCrop(90), v1.Resize(60), v1.ToTensor()]),
            v1.Compose([v1.Resize(60), v1.CenterCrop((60, 40)), v1.ToTensor()]),
            v1.Compose([v1.Resize(60, max_size=70), v1.CenterCrop(60), v1.ToTensor()]),
            v1.Compose([v1.CenterCrop(90), v1.ToTensor(), v1.Lambda(lambda x: 1 - x)]),
            v2.Compose([v2.ToImage(), v2.CenterCrop(90), v2.ToDtype(torch.float32)]),  # stays in 0 to 255
            v2.Compose([v2.ToImage(), v2.ToDtype(torch.uint8, scale=True), v2.ToDtype(torch.float32)]),
        ],
        ids=["pads", "crops first", "not square", "longest side", "more", "not scaled", "scaled to integers"],
    )
    def test_any_other_is_called_with_the_picture(self, chain):
        read = as_preprocess(chain)
        assert isinstance(read, PictureTransform)
        tensor = chain(photo())
        torch.testing.assert_close(read(as_tensor(photo())[None])[0], tensor.as_subclass(torch.Tensor))
        torch.testing.assert_close(read(as_tensor(photo())[None] / 255)[0], tensor.as_subclass(torch.Tensor))

    @pytest.mark.parametrize(
        ("transforms", "error", "words"),
        [
            (3, TypeError, "got int"),
            (v1.Compose([v1.RandomResizedCrop(60), v1.ToTensor()]), ValueError, "RandomResizedCrop draws at random"),
            (v2.Compose([v2.RandomApply([v2.CenterCrop(9)])]), ValueError, "RandomApply draws at random"),
            (v2.Compose([v2.RandAugment(), v2.ToImage()]), ValueError, "RandAugment draws at random"),
            ({"mean": (0.5, 0.5, 0.5)}, ValueError, "with input_size, got"),
            ({"input_size": (3, 64, 64), "size": 3}, ValueError, "'size' is not in timm's"),
            ({"input_size": (3, 64, 64), "crop_mode": "border"}, ValueError, "crop_mode 'border'"),
            ({"input_size": (3, 64, 32)}, ValueError, "of 64x32"),
        ],
    )
    def test_what_cannot_be_read_is_refused(self, transforms, error, words):
        with pytest.raises(error, match=words):
            as_preprocess(transforms)

    def test_a_function_that_fails_is_named(self):
        def halved(picture):
            return picture.resize((8, 8))

        def failing(picture):
            raise OSError("no table")

        with pytest.raises(ValueError, match=r"halved is to return a float tensor \(3, h, w\), got Image"):
            as_preprocess(halved)(torch.zeros(1, 3, 9, 9))
        with pytest.raises(ValueError, match="failing failed: OSError: no table"):
            as_preprocess(failing)(torch.zeros(1, 3, 9, 9))


def squared(picture):
    return v1.functional.to_tensor(picture.resize((40, 40)))


def test_the_identity_of_a_chain_is_that_of_its_steps():
    def of(*steps):
        return identity(as_preprocess(v1.Compose([*steps, v1.ToTensor()])))

    assert of(v1.Pad(3)) == of(v1.Pad(3))
    assert len({of(v1.Pad(3)), of(v1.Pad(4)), of(v1.Pad(3), v1.Compose([v1.Pad(4)])), of(v1.Grayscale(3))}) == 4
    with pytest.raises(IdentityError, match="top level"):
        of(v1.Lambda(lambda picture: picture))


class TestModels:
    def test_a_function_returns_it_beside_the_model(self):
        recipe = LazyClassifier(lambda: (tiny(), CHAINS["squashing"][0]))
        assert recipe.classifier.preprocess == CHAINS["squashing"][1]
        assert recipe.classifier.logits([torch.rand(3, 50, 70)]).shape == (1, 5)

    @pytest.mark.parametrize("form", ["returned", "of the function", "of the model"])
    def test_of_a_file(self, form, tmp_path):
        lines = {
            "returned": "def make():\n    return tiny(), chain",
            "of the function": "def make():\n    return tiny()\nmake.preprocess = chain",
            "of the model": "def make():\n    model = tiny()\n    model.preprocess = chain\n    return model",
        }
        head = f"""
            import sys; sys.path.insert(0, {str(sys.path[0])!r})
            from recipes import tiny
            from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor
            chain = Compose([Resize(48), CenterCrop(40), ToTensor()])
        """
        (tmp_path / "net.py").write_text(textwrap.dedent(head) + lines[form])
        spec, wanted = f"{tmp_path}/net.py:make", Preprocess(48, 40, (0.0,) * 3, (1.0,) * 3)
        assert load_classifier(spec).preprocess == wanted
        assert Witness(spec).classifier.preprocess == wanted
        assert load_classifier(spec, Preprocess(99, 90)).preprocess == Preprocess(99, 90)
        images, guided = torch.rand(2, 3, 60, 90), GradCam(spec, preprocess=wanted.without_crop())
        torch.testing.assert_close(GradCam(spec)(images), guided(images))
        assert GradCam(spec).identity == guided.identity

    def test_a_method_or_a_part_of_the_network_is_not_it(self):
        class Net(torch.nn.Module):
            def preprocess(self, x):
                return x

        class Normalizing(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.preprocess = torch.nn.InstanceNorm2d(3)

        assert LazyModel(Net()).preprocess is None
        assert LazyModel(Normalizing()).preprocess is None
        assert LazyModel(tiny()).preprocess is None
        assert load_classifier("torchvision.models:squeezenet1_1").preprocess == Preprocess(256, 224)

    def test_a_timm_model_brings_its_own(self):
        model = timm.create_model("test_vit")
        wanted = as_preprocess(timm.data.resolve_model_data_config(model))
        assert LazyClassifier(model).classifier.preprocess == wanted
        assert wanted.crop == 160

    def test_a_function_judges_and_is_a_witness_and_makes_no_maps(self):
        recipe = LazyClassifier(tiny(), squared)
        image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
        wanted = tiny().eval()(squared(Image.fromarray(image.permute(1, 2, 0).numpy()))[None])
        torch.testing.assert_close(recipe.classifier.logits([image]), wanted)
        assert identity(recipe.classifier.preprocess).count("squared") == 1
        witness = Witness(tiny(), squared)
        assert witness.logits([image, image[:, :20]]).shape == (2, 5)
        with pytest.raises(ValueError, match="what part of an image squared shows to the network is not known"):
            GradCam(lambda: (tiny(), squared))(torch.rand(1, 3, 50, 70))
        GradCam(lambda: (tiny(), squared))  # as commands do that need no map in the end
        with pytest.raises(ValueError, match="what part of an image squared shows"):
            PreEdit([recipe], steps=2)(torch.rand(1, 3, 64, 64))


def untold():
    """A classifier of the demo that wants scenes of half their size, and does not say so."""
    return torch.nn.Sequential(torch.nn.Upsample(scale_factor=2), scene_net())


def small_judge():
    """The same, which says so."""
    return untold(), v1.Compose([v1.Resize((80, 80)), v1.ToTensor(), v1.Normalize((0.4,) * 3, (0.25,) * 3)])


def test_each_judge_of_the_command_has_its_own(tmp_path, capsys):
    for k in range(20):
        image, label = Scenes(20)[k]
        path = tmp_path / "photos" / str(label) / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.resize((240, 160)).save(path)
    judge = f"{__file__}:small_judge"
    options = ["--strength", "0", "--quality", "30", "--mean", "0.4,0.4,0.4", "--std", "0.25,0.25,0.25"]
    model = ["--model", "foveate.demo:scene_net", "--judge", judge, "--resize", "160", "--crop", "160"]
    main(["evaluate", str(tmp_path / "photos"), *model, *options, "--out", str(tmp_path / "out")])
    lines = capsys.readouterr().err.splitlines()
    numbers = "mean 0.4 0.4 0.4, std 0.25 0.25 0.25"
    assert any(
        line.startswith(f"scene_net: resize 160 (bilinear), crop 160, {numbers}, as the options say; top-1 ")
        for line in lines
    )
    assert any(line.startswith(f"small_judge: resize 80×80 (bilinear), {numbers}, its own; top-1 ") for line in lines)
    assert not any("warning" in line for line in lines)


@pytest.mark.parametrize("assumed", [True, False])
def test_a_model_that_is_fed_wrongly_is_noticed(assumed, tmp_path, capsys):
    for k in range(40):
        image, label = Scenes(40, seed=3)[k]
        path = tmp_path / "photos" / Scenes.classes[label] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    given = [] if assumed else ["--resize", "80", "--crop", "80", "--mean", "0.4,0.4,0.4", "--std", "0.25,0.25,0.25"]
    options = ["--strength", "0", "--quality", "30", *given, "--out", str(tmp_path / "out")]
    main(["evaluate", str(tmp_path / "photos"), "--model", f"{__file__}:untold", *options])
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: untold")]
    assert len(warnings) == assumed
    if assumed:
        assert "assumed" in warnings[0]
        assert "return (model, transforms)" in warnings[0]
