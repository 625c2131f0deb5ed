import pickle
import subprocess
import sys

import pytest
import torch
import torchvision
from conftest import RECIPES
from torchvision.transforms import v2

from foveate.models import Classifier, Model, Preprocess, build, classifier


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

    def test_whole_keeps_the_whole_picture(self):
        assert Preprocess(64, 56).whole()(torch.rand(1, 3, 100, 200)).shape == (1, 3, 64, 128)

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
        assert isinstance(build(f"{RECIPES}:tiny"), torch.nn.Module)

    def test_a_package_s_function_with_an_argument(self):
        assert build("foveate.demo:scene_net:scene_net_small").head.weight.shape[0] == 10

    def test_a_file_finds_its_neighbours_and_pickles_its_classes(self, tmp_path):
        (tmp_path / "neighbour.py").write_text("width = 3\n")
        (tmp_path / "net.py").write_text(
            "import neighbour, torch\n"
            "class Net(torch.nn.Linear):\n    pass\n"
            "def make(out):\n    return Net(neighbour.width, int(out))\n"
        )
        before = list(sys.path)
        model = build(f"{tmp_path}/net.py:make:7")
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
            ("raft_small", "no image classifier"),
        ],
    )
    def test_what_cannot_be_built(self, spec, words):
        with pytest.raises(ValueError, match=words):
            build(spec)

    def test_not_a_model(self):
        with pytest.raises(ValueError, match="gave a int"):
            Model(f"{RECIPES}:number").get()

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
            "from foveate.models import classifier\n"
            "made = classifier('squeezenet1_1')\n"
            "print(made.name, made.preprocess.resize, made.preprocess.crop, made.model.training)\n"
            "torch.manual_seed(3)\n"
            "import torchvision\n"
            "same = torchvision.models.squeezenet1_1()\n"
            "print(torch.equal(same.features[0].weight, made.model.features[0].weight))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={"TORCH_HOME": str(tmp_path)}
        )
        assert done.stdout.split() == ["squeezenet1_1", "256", "224", "False", "True"], done.stderr


class TestClassifier:
    def test_named_by_its_last_part(self):
        assert classifier(f"{RECIPES}:tiny").name == "tiny"
        assert classifier("foveate.demo:scene_net:scene_net_small").name == "scene_net_small"

    def test_logits_of_pictures_of_any_size(self):
        one = classifier(f"{RECIPES}:tiny", Preprocess(64, 56))
        pictures = [torch.rand(3, 40, 90), torch.randint(0, 256, (3, 70, 65), dtype=torch.uint8)]
        assert one.logits(pictures).shape == (2, 5)
        assert one.classes() == 5

    def test_pictures_that_cannot_be_batched(self):
        with pytest.raises(ValueError, match="crop"):
            classifier(f"{RECIPES}:tiny", Preprocess(64)).logits([torch.rand(3, 40, 90), torch.rand(3, 40, 40)])

    def test_no_logits(self):
        with pytest.raises(ValueError, match="logits"):
            Classifier("conv", torch.nn.Conv2d(3, 3, 1), Preprocess()).logits([torch.rand(3, 8, 8)])
