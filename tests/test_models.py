import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import captum.attr
import pytest
import torch
import torchvision
from conftest import RECIPES
from recipes import tiny
from torch import nn
from torchvision.transforms import v2

from foveate import CaptumAttribution, GradCam, RateControl, Witness
from foveate.identity import structure
from foveate.models import Classifier, LazyModel, Preprocess, build_model, load_classifier


class TestPreprocess:
    @pytest.mark.parametrize("size", [(300, 400), (400, 300), (256, 256), (123, 301), (100, 90), (9, 400)])
    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
    def test_torchvision_agrees(self, size, interpolation):
        image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
        ours = Preprocess(128, 112, interpolation=interpolation)
        theirs = v2.Compose(
            [
                v2.Resize(128, v2.InterpolationMode(interpolation), antialias=True),
                v2.CenterCrop(112),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(ours.mean, ours.std),
            ]
        )
        torch.testing.assert_close(ours(image), theirs(image))
        torch.testing.assert_close(ours(image / 255), theirs(image / 255))

    def test_without_crop_keeps_the_whole_image(self):
        assert Preprocess(64, 56).without_crop()(torch.rand(1, 3, 100, 200)).shape == (1, 3, 64, 128)

    def test_picklable(self):
        assert pickle.loads(pickle.dumps(Preprocess(64))) == Preprocess(64)

    @pytest.mark.parametrize(
        "settings", [{"resize": 0}, {"crop": 2.5}, {"std": (1, 0, 1)}, {"mean": (0,)}, {"interpolation": "cubic"}]
    )
    def test_wrong_settings(self, settings):
        with pytest.raises(ValueError, match=next(iter(settings))):
            Preprocess(**settings)


class TestBuild:
    def test_a_file_s_function(self):
        assert isinstance(build_model(f"{RECIPES}:tiny"), torch.nn.Module)

    def test_a_package_s_function_with_an_argument(self):
        assert build_model("foveate.demo:scene_net:scene_net_small").head.weight.shape[0] == 10

    def test_a_file_finds_its_neighbors_and_pickles_its_classes(self, tmp_path):
        (tmp_path / "neighbor.py").write_text("width = 3\n")
        (tmp_path / "net.py").write_text(
            "import neighbor, torch\n"
            "class Net(torch.nn.Linear):\n    pass\n"
            "def make(out):\n    return Net(neighbor.width, int(out))\n"
        )
        before = list(sys.path)
        model = build_model(f"{tmp_path}/net.py:make:7")
        assert model.out_features == 7
        assert sys.path == before
        assert isinstance(pickle.loads(pickle.dumps(model)), type(model))

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ("resnet19", "no 'resnet19'; did you mean resnet18"),
            ("nonsense.module:make", "cannot import 'nonsense.module'"),
            ("nowhere.py:make", "no file nowhere.py"),
            (f"{RECIPES}:nothing", "no function 'nothing'"),
            (f"{RECIPES}:broken", "RuntimeError: no such checkpoint"),
            (f"{RECIPES}:tiny:5", "TypeError"),
            ("a.py:b:c:d::", "no file a.py"),
            (":", "cannot read"),
            ("raft_small", "not an image classifier"),
        ],
    )
    def test_specs_that_cannot_be_built(self, spec, words):
        with pytest.raises(ValueError, match=words):
            build_model(spec)

    def test_not_a_model(self):
        with pytest.raises(ValueError, match="gave a int"):
            LazyModel(f"{RECIPES}:number").get()

    def test_pretrained_weights_are_loaded_from_torch_s_cache(self, tmp_path):
        """The real download code, with the file already where a download would have put it."""
        url = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT.url
        (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
        torch.manual_seed(3)
        torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "hub/checkpoints" / url.split("/")[-1])
        code = (  # our file has a hash of its own
            "import torch, torchvision.models._api as api\n"
            "load = api.load_state_dict_from_url\n"
            "api.load_state_dict_from_url = lambda url, check_hash, **kw: load(url, **kw)\n"
            "from foveate.models import load_classifier\n"
            "classifier = load_classifier('squeezenet1_1')\n"
            "settings = classifier.preprocess\n"
            "print(classifier.name, settings.resize, settings.crop, classifier.model.training)\n"
            "torch.manual_seed(3)\n"
            "import torchvision\n"
            "same = torchvision.models.squeezenet1_1()\n"
            "print(torch.equal(same.features[0].weight, classifier.model.features[0].weight))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={"TORCH_HOME": str(tmp_path)}
        )
        assert done.stdout.split() == ["squeezenet1_1", "256", "224", "False", "True"], done.stderr


class TestClassifier:
    def test_named_by_its_last_part(self):
        assert load_classifier(f"{RECIPES}:tiny").name == "tiny"
        assert load_classifier("foveate.demo:scene_net:scene_net_small").name == "scene_net_small"

    def test_logits_of_images_of_any_size(self):
        classifier = load_classifier(f"{RECIPES}:tiny", Preprocess(64, 56))
        images = [torch.rand(3, 40, 90), torch.randint(0, 256, (3, 70, 65), dtype=torch.uint8)]
        assert classifier.logits(images).shape == (2, 5)
        assert classifier.num_classes() == 5

    def test_images_that_cannot_be_batched(self):
        with pytest.raises(ValueError, match="crop"):
            load_classifier(f"{RECIPES}:tiny", Preprocess(64)).logits([torch.rand(3, 40, 90), torch.rand(3, 40, 40)])

    def test_no_logits(self):
        with pytest.raises(ValueError, match="logits"):
            Classifier("conv", torch.nn.Conv2d(3, 3, 1), Preprocess()).logits([torch.rand(3, 8, 8)])


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


class TestForward:
    """A classifier gives the same logits, and is left as it was, in whatever form it and its images come."""

    @pytest.fixture
    def images(self):
        return [torch.rand(3, 40, 50), torch.rand(3, 33, 60)]

    def wanted(self, images):
        net = tiny().eval()
        with torch.no_grad():
            return net(Preprocess(40, 32).batch(images))

    def test_in_eval_mode(self, images):
        net = tiny().train()
        before = structure(net)
        classifier = Classifier("net", net, Preprocess(40, 32))
        torch.testing.assert_close(classifier.logits(images), self.wanted(images))
        torch.testing.assert_close(classifier.logits(images[:1]), self.wanted(images)[:1])
        torch.testing.assert_close(classifier.forward(Preprocess(40, 32).batch(images)), self.wanted(images))
        assert structure(net) == before
        assert all(module.training for module in net.modules())

    @pytest.mark.parametrize("model_dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("dtype", [torch.uint8, *DTYPES], ids=str)
    def test_in_any_precision(self, dtype, model_dtype):
        images = [torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8) for _ in range(2)]
        converted = [image if dtype == torch.uint8 else (image / 255).to(dtype) for image in images]
        for logits in (
            Classifier("net", tiny().to(model_dtype), Preprocess(40, 32)).logits(converted),
            Witness(tiny().to(model_dtype), Preprocess(40, 32)).logits(converted),
        ):
            torch.testing.assert_close(logits.float(), self.wanted(images), atol=0.02, rtol=0.05)
        maps = GradCam(tiny().to(model_dtype), "3", preprocess=Preprocess(40))(torch.stack(converted))
        wanted = GradCam(tiny(), "3", preprocess=Preprocess(40))(torch.stack(images))
        torch.testing.assert_close(maps, wanted, atol=0.1, rtol=0.1)

    def test_under_autocast_as_without(self, images):
        classifier = Classifier("net", tiny(), Preprocess(40, 32))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = classifier.logits(images)
        torch.testing.assert_close(logits, self.wanted(images))

    @pytest.mark.parametrize("compiled", ["torch.compile", "module.compile", "a part"])
    @pytest.mark.parametrize("before", ["fresh", "after answers", "after answers with gradients"])
    def test_compiled_models_are_explained_uncompiled(self, compiled, before):
        torch._dynamo.reset()
        net, images = tiny().eval(), torch.rand(2, 3, 32, 32)
        layers = {"torch.compile": "3", "module.compile": "3", "a part": "0.3"}
        wanted = GradCam(tiny().eval(), layer="3")(images)
        if compiled == "torch.compile":
            model = torch.compile(net, backend="eager")
        elif compiled == "module.compile":
            net.compile(backend="eager")
            model = net
        else:
            model = nn.Sequential(torch.compile(net, backend="eager"))
            layers["a part"] = "0._orig_mod.3"
        if before != "fresh":
            with torch.set_grad_enabled("gradients" in before):
                answer = model(images)
        cam = GradCam(model, layer=layers[compiled])
        torch.testing.assert_close(cam(images), wanted)
        torch.testing.assert_close(GradCam(model)(images), GradCam(tiny().eval())(images))
        if before != "fresh":
            torch.testing.assert_close(model(images), answer)
        assert net._compiled_call_impl is not None or compiled != "module.compile"

    def test_a_compiled_model_takes_its_layers_by_either_name_or_as_modules(self):
        net = tiny().eval()
        model = torch.compile(net, backend="eager")
        images = torch.rand(1, 3, 32, 32)
        for layer in ("3", "_orig_mod.3", net[3]):
            assert torch.equal(GradCam(model, layer=layer)(images), GradCam(tiny().eval(), layer="3")(images))
        with pytest.raises(TypeError, match="explains a compiled module"):
            CaptumAttribution(captum.attr.Saliency(model))

    def test_models_that_share_a_module_in_threads(self):
        net = tiny()
        models = [net, nn.Sequential(net), nn.Sequential(nn.Identity(), net)]
        net.train()
        images = torch.rand(2, 3, 32, 32)
        cams = [GradCam(model) for model in models]
        wanted = GradCam(tiny())(images)
        for _ in range(3):
            with ThreadPoolExecutor(6) as pool:
                maps = list(pool.map(lambda cam: cam(images), cams * 4))
            for map_ in maps:
                torch.testing.assert_close(map_, wanted)
        assert all(module.training for module in net.modules())

    @pytest.mark.parametrize("frozen", [False, True])
    def test_a_recipe_without_a_hash(self, frozen):
        @dataclass(frozen=frozen)
        class Recipe:
            classes: int
            names: list = field(default_factory=list)  # which a frozen one cannot hash either

            def __call__(self):
                return nn.Sequential(nn.Conv2d(3, self.classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

        three, four = Recipe(3), Recipe(4)
        assert [LazyModel(r).get()(torch.rand(1, 3, 9, 9)).shape[1] for r in (three, four, three)] == [3, 4, 3]
        assert LazyModel(three).get() is LazyModel(three).get()
        control = RateControl(Witness(three, Preprocess(9, 9)))
        assert hash(control) == hash(RateControl(Witness(three, Preprocess(9, 9))))

    def test_a_scripted_model(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that scripting is deprecated
            net = torch.jit.script(tiny().train())
        classifier = Classifier("net", net, Preprocess(40, 32))
        images = [torch.rand(3, 40, 50)]
        torch.testing.assert_close(classifier.logits(images), self.wanted(images))
        assert net.training


def test_with_another_default_dtype():
    """In a process of its own, because constants are computed only once."""
    script = """
import torch
torch.set_default_dtype(torch.float64)
from foveate import ActivationMap, Compressor, GradCam, Prefilter, RateControl, Witness
from foveate.demo import PREPROCESS, Scenes
from foveate.evaluation import Judge, evaluate
from foveate.filters import guided_filter, gaussian_scale_space
from foveate.images import as_tensor
from foveate.models import load_classifier
from foveate.prefilter import FILTERS
net = "foveate.demo:scene_net"
scenes = [as_tensor(Scenes(2)[k][0]) for k in range(2)]
for dtype in (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64):
    shown = torch.stack([s if dtype == torch.uint8 else (s.float() / 255).to(dtype) for s in scenes])
    for name in FILTERS:
        prefilter = Prefilter(GradCam(net, preprocess=PREPROCESS), 0.8, filter=name)
        assert prefilter(shown).dtype == dtype
    control = RateControl(Witness(net, PREPROCESS), qualities=(5, 60), strengths=(0, 0.5))
    for compressor in (Compressor("jpeg:30", prefilter, scale=0.5), Compressor("webp", prefilter, control=control)):
        assert compressor.decode(compressor.encode(shown))[0].dtype == torch.uint8
calibration = control.calibrate(compressor, scenes)
judge = Judge(load_classifier(net, PREPROCESS), True)
evaluate(Scenes(3), [judge], [Compressor("jpeg:5"), Compressor("jpeg:30", prefilter)], fidelity=True)
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
