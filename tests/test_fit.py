import json
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foveate import Compressor, PreEdit, Sweep
from foveate.cli import main
from foveate.demo import PREPROCESS, Scenes
from foveate.images import as_tensor
from foveate.models import Classifier, LazyClassifier, Preprocess
from foveate.preedit import Editor, fit
from foveate.testing import PrefilterConformance, tiny_classifier

NET = LazyClassifier("foveate.demo:scene_net", PREPROCESS)
PREPROCESSING = ["--resize", "160", "--crop", "160", "--mean", "0.4,0.4,0.4", "--std", "0.25,0.25,0.25"]


@pytest.fixture(scope="module")
def scenes():
    return [as_tensor(image) for image, _ in Scenes(24, seed=31)]


@pytest.fixture(scope="module")
def editor():
    return fit([image for image, _ in Scenes(64, seed=32)], NET, steps=120)


@pytest.fixture(scope="module")
def file(editor, tmp_path_factory):
    path = tmp_path_factory.mktemp("editor") / "edit.safetensors"
    editor.save(path)
    return path


def mean_bytes(compressor, images):
    return sum(len(encoded.data) for encoded in compressor.encode(Sweep(images, None))) / len(images)


def divergence(compressor, images):
    decoded = compressor.decode(compressor.encode(Sweep(images, None)))
    clean, others = (NET.classifier.logits(torch.stack(list(x))).double().log_softmax(1) for x in (images, decoded))
    return float((clean.exp() * (clean - others)).sum(1).mean())


class TestProtocol(PrefilterConformance):
    @staticmethod
    def make(strength):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            editor = Editor()
            nn.init.normal_(editor.luma.weight, std=0.05)
        nn.init.constant_(editor.luma.bias, 0.5)
        return PreEdit(editor.eval().requires_grad_(False), strength, codec="jpeg:35")


class TestEditor:
    def test_untrained_it_changes_nothing(self, scenes):
        images = torch.stack(scenes[:2])
        assert (PreEdit(Editor().eval(), codec="jpeg:35", limit=None)(images).int() - images.int()).abs().max() <= 1

    @pytest.mark.parametrize("codec", ["jpeg:35", "jpeg:20,subsampling=4:4:4", "jpeg:20,subsampling=4:2:2", "webp:40"])
    @pytest.mark.parametrize(("channels", "size"), [(3, (37, 50)), (1, (8, 8)), (3, (1, 1))])
    def test_any_size(self, editor, codec, channels, size):
        images = torch.randint(256, (2, channels, *size), dtype=torch.uint8)
        assert PreEdit(editor, codec=codec)(images).shape == images.shape

    def test_it_is_small(self, file):
        assert file.stat().st_size < 300_000

    def test_a_file_is_what_was_saved(self, scenes, editor, file):
        images = torch.stack(scenes[:2])
        again = Editor.load(file)
        assert again.identity == editor.identity
        assert again.networks == ("scene_net",)
        apart = PreEdit(editor, codec="jpeg:35")(images).int() - PreEdit(str(file), codec="jpeg:35")(images).int()
        assert (apart.abs() > 1).float().mean() < 0.01  # half precision

    def test_what_is_no_editor(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"there is no file .*'foveate fit' makes one"):
            PreEdit("nowhere.safetensors")
        other = tmp_path / "other.safetensors"
        save_file({"x": torch.zeros(2)}, other)
        (tmp_path / "text.safetensors").write_text("no tensors")
        for path in (other, tmp_path / "text.safetensors"):
            with pytest.raises(ValueError, match="is not an editor that 'foveate fit' made"):
                PreEdit(path)

    @pytest.mark.parametrize("arguments", [{"steps": 30}, {"objective": "pixels"}, {"seed": 1}])
    def test_what_it_takes_none_of(self, editor, arguments):
        with pytest.raises(ValueError, match="an editor was trained already"):
            PreEdit(editor, **arguments)

    def test_settings(self, editor, file):
        edit = PreEdit(editor, codec="jpeg:35")
        assert editor.identity in edit.settings
        assert PreEdit(Editor.load(file), codec="jpeg:35").settings == edit.settings
        assert replace(edit, strength=0.7).settings != edit.settings
        assert PreEdit(Editor(), codec="jpeg:35").settings != edit.settings
        assert pickle.loads(pickle.dumps(edit)).settings == edit.settings

    def test_a_limit_holds(self, scenes, editor):
        images = torch.stack(scenes[:4])
        edited = PreEdit(editor, 1.0, codec="jpeg:10", limit=38.0)(images)
        errors = (edited.double() - images.double()).square().mean((1, 2, 3)) / 255**2
        assert (-10 * errors.log10() > 37.9).all()


class TestFit:
    def test_fewer_bytes_at_the_same_answers(self, scenes, editor):
        edited = Compressor("jpeg:35", PreEdit(editor))
        target = mean_bytes(edited, scenes)
        assert target < 0.95 * mean_bytes(Compressor("jpeg:35"), scenes)
        coarser = next(q for q in range(35, 1, -1) if mean_bytes(Compressor(f"jpeg:{q}"), scenes) <= target)
        assert divergence(edited, scenes) < divergence(Compressor(f"jpeg:{coarser}"), scenes)

    def test_the_same_each_time_and_the_random_state_stays(self):
        images = [image for image, _ in Scenes(4, seed=33)]
        state = torch.get_rng_state()
        editors = [fit(images, NET, steps=2) for _ in range(2)]
        assert torch.equal(torch.get_rng_state(), state)
        assert editors[0].identity == editors[1].identity
        assert fit(images, NET, steps=2, seed=1).identity != editors[0].identity

    def test_the_limit_is_in_the_loss(self):
        images = [image for image, _ in Scenes(4, seed=34)]
        free, bound = (fit(images, NET, steps=3, limit=limit) for limit in (None, 70.0))
        assert free.identity != bound.identity
        assert all(p.isfinite().all() for p in bound.parameters())

    def test_models_are_as_they_were(self):
        model = tiny_classifier().train().requires_grad_(True)
        images = [torch.randint(256, (channels, 40, 56), dtype=torch.uint8) for channels in (1, 3)]
        fit(images, [Classifier("tiny", model, Preprocess(crop=32))], "webp", steps=2)
        assert model.training
        assert all(p.requires_grad and p.grad is None for p in model.parameters())

    @pytest.mark.parametrize(
        ("arguments", "error", "words"),
        [
            (([], NET), ValueError, "images: expected at least one"),
            (([torch.zeros(3, 8, 8)], []), ValueError, "models: expected at least one"),
            (([torch.zeros(3, 8, 8)], NET, "jxl"), ValueError, "no differentiable stand-in"),
        ],
    )
    def test_wrong_arguments(self, arguments, error, words):
        with pytest.raises(error, match=words):
            fit(*arguments, steps=1)

    def test_wrong_limit(self):
        with pytest.raises(ValueError, match="limit: expected"):
            fit([torch.zeros(3, 8, 8)], NET, steps=1, limit=-1.0)


class TestCommand:
    @pytest.fixture
    def tree(self, tmp_path):
        for k, (scene, label) in enumerate(Scenes(10, seed=21)):
            folder = tmp_path / "images" / Scenes.classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            scene.save(folder / f"{k}.png")
        (folder / "broken.png").write_text("no image")
        return tmp_path / "images"

    def test_fit_then_evaluate_and_compress(self, tree, tmp_path, capsys):
        net, file = "foveate.demo:scene_net", tmp_path / "edit.safetensors"
        assert main(["fit", str(tree), "--model", net, "--steps", "3", "--out", str(file), *PREPROCESSING]) == 0
        assert f"wrote {file}" in capsys.readouterr().out
        out = tmp_path / "out"
        command = ["evaluate", str(tree), "--model", "foveate.demo:scene_net:scene_net_small", "--judge", net]
        command += ["--edit-with", str(file), "--quality", "30", "--strength", "0,0.5", "--resamples", "5"]
        assert main([*command, "--out", str(out), *PREPROCESSING]) == 0
        judges = json.loads((out / "results.json").read_text())["points"][0]["judges"]
        assert {name: judge["known"] for name, judge in judges.items()} == {"scene_net_small": True, "scene_net": True}
        command = ["compress", str(tree), str(tmp_path / "small"), "--codec", "jpeg:30", "--edit-with", str(file)]
        assert main([*command, "--others", "skip", *PREPROCESSING]) == 0
        assert len([*(tmp_path / "small").rglob("*.jpg")]) == 10

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--out", "edit.pt"], "--out: expected a file that ends in .safetensors"),
            (["--codec", "jxl"], "no differentiable stand-in"),
            (["--steps", "0"], "steps: expected"),
            (["--edit-limit", "-1"], "--edit-limit: expected"),
        ],
    )
    def test_wrong_options(self, tree, capsys, options, words):
        assert main(["fit", str(tree), "--model", "foveate.demo:scene_net", *options, *PREPROCESSING]) == 2
        assert words in capsys.readouterr().err

    def test_an_editor_edits_alone(self, tree, file, tmp_path, capsys):
        command = ["compress", str(tree), str(tmp_path / "small"), "--codec", "jpeg:30", "--edit-with", str(file)]
        assert main([*command, "--edit-with", "foveate.demo:scene_net", *PREPROCESSING]) == 2
        assert "edits alone" in capsys.readouterr().err
