import json
import os
import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from foveate.demo import CLASSES, PREPROCESS, SceneNet, Scenes, scene_net
from foveate.demo.classifier import train
from foveate.evaluation import Results
from foveate.images import as_tensor

TO_TENSOR = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


class TestScenes:
    def test_deterministic_by_seed_for_any_order_and_length(self):
        a, b = Scenes(30, seed=4), Scenes(1000, seed=4)
        torch.manual_seed(99)
        assert b[17][0].tobytes() == a[17][0].tobytes()
        assert a[-13][0].tobytes() == a[17][0].tobytes()
        assert a[17][0].tobytes() != Scenes(30, seed=5)[17][0].tobytes()

    def test_the_random_state_is_not_touched(self):
        before = torch.get_rng_state()
        Scenes(3)[1]
        assert torch.equal(before, torch.get_rng_state())

    def test_the_images_do_not_change_from_release_to_release(self):
        """The shipped classifier, README's figures and users' own numbers rest on these very pixels."""
        scene = np.asarray(Scenes(5, seed=2)[4][0]).astype(float)
        assert scene.mean((0, 1)).round(1).tolist() == pytest.approx(MEANS, abs=0.3)

    def test_balanced_and_complete(self):
        scenes = Scenes(20)
        labels = [scenes[k][1] for k in range(len(scenes))]
        assert sorted(labels) == sorted([*range(10)] * 2)
        assert scenes.classes == CLASSES
        assert len(set(CLASSES)) == 10

    def test_workers_draw_the_same_scenes(self):
        alone, spread = (list(DataLoader(Scenes(8, transform=TO_TENSOR), 4, num_workers=w)) for w in (0, 2))
        for (a, la), (b, lb) in zip(alone, spread, strict=True):
            assert torch.equal(a, b)
            assert torch.equal(la, lb)

    def test_sizes(self):
        assert Scenes(1, size=256)[0][0].size == (256, 256)

    @pytest.mark.parametrize("settings", [{"length": -1}, {"length": 1, "seed": -1}, {"length": 1, "size": 20}])
    def test_wrong_settings(self, settings):
        with pytest.raises(ValueError, match=list(settings)[-1]):
            Scenes(**settings)

    def test_the_end(self):
        with pytest.raises(IndexError, match="3 scenes, got 3"):
            Scenes(3)[3]
        assert len(list(Scenes(3))) == 3


MEANS = [52.9, 58.6, 37.4]


class TestClassifier:
    @pytest.mark.parametrize(("name", "at_least"), [("scene_net", 0.97), ("scene_net_small", 0.88)])
    def test_it_knows_unseen_scenes(self, name, at_least):
        net = scene_net(name)
        right = 0
        with torch.inference_mode():
            for images, labels in DataLoader(Scenes(200, seed=31, transform=TO_TENSOR), 50):
                right += int((net(PREPROCESS(images)).argmax(1) == labels).sum())
        assert right / 200 >= at_least

    def test_weights_are_small_and_frozen_in_eval_mode(self):
        weights = [f for f in files("foveate.demo").iterdir() if f.name.endswith(".safetensors")]
        assert len(weights) == 3
        assert sum(len(f.read_bytes()) for f in weights) < 600_000
        assert not scene_net().training

    def test_unknown_weights(self):
        with pytest.raises(ValueError, match="'scene_net_large'"):
            scene_net("scene_net_large")

    def test_the_script_that_trained_it_trains(self, capsys):
        net = train(width=4, seed=0, scenes=128, epochs=2)
        assert isinstance(net, SceneNet)
        assert "top-1 on" in capsys.readouterr().out


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    process = subprocess.run(
        [sys.executable, "-m", "foveate", "demo", "--out", str(out), "--scenes", "60"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"},
    )
    return out, process


class TestDemo:
    def test_the_table(self, demo):
        _, process = demo
        lines = process.stdout.splitlines()
        assert sum(line.startswith("jpeg alone") for line in lines) == 6
        assert sum(line.startswith("jpeg, strength 0.5") for line in lines) == 6
        assert sum(line.startswith("jpeg, edit, strength 0.5 ") for line in lines) == 6
        assert "fewer bytes by jpeg, strength 0.5 at equal top-1" in process.stdout
        assert "known: it made the maps or was a witness" in process.stdout
        assert "unseen: neither made the maps nor was a witness" in process.stdout
        assert sum(line.startswith("jpeg, keep top1 for scene_net with PreEdit ") for line in lines) == 1
        assert "100%" in process.stderr  # the progress bar

    def test_pre_filter_and_edit_pay_for_both_judges(self, demo):
        out, _ = demo
        results = json.loads((out / "results.json").read_text())
        for judge in ("scene_net", "scene_net_small"):
            blend, edit = (c for c in results["comparisons"] if (c["judge"], c["metric"]) == (judge, "top1"))
            assert edit["bd_rate"] < blend["bd_rate"] < -0.08
            assert blend["verdict"] == edit["verdict"] == "saves"

    def test_each_scene_at_its_own_point_keeps_nearly_all_answers_for_far_fewer_bytes(self, demo):
        out, _ = demo
        points = Results.load(out / "results.json").points
        kept = next(p for p in points if p.keep)
        fixed = [p for p in points if not p.keep and p.judges["scene_net"].agreement >= 0.95]
        assert kept.judges["scene_net"].agreement >= 0.98
        assert kept.bytes < 0.7 * min(p.bytes for p in fixed)
        assert kept.n == 60

    def test_the_page(self, demo):
        out, _ = demo
        html = (out / "report.html").read_text()
        assert html.count("<svg") == 6
        assert html.count("data:image/jpeg;base64,") == 6 * 19
        assert "<script" not in html
        written = sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
        assert written == ["records.jsonl", "report.html", "results.json"]

    def test_a_scene_is_a_tensor_away(self):
        assert as_tensor(Scenes(1)[0][0]).shape == (3, 160, 160)
