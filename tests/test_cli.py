import argparse
import json
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torchvision
from conftest import RECIPES
from PIL import Image

from foveate import Compressor, __version__
from foveate.cli import main
from foveate.cli._main import _parser
from foveate.cli._options import KEEP_NAMES, keep_name, networks_of_torchvision, number, numbers
from foveate.codecs import CODECS
from foveate.demo import Scenes
from foveate.evaluation import Results
from foveate.export import compress_dataset
from foveate.models import Classifier
from foveate.rate_control import as_criteria

NET = "foveate.demo:scene_net"
SMALL = "foveate.demo:scene_net:scene_net_small"
PREPROCESSING = ["--resize", "160", "--crop", "160", "--mean", "0.4,0.4,0.4", "--std", "0.25,0.25,0.25"]
SCENE = ["--resamples", "20", *PREPROCESSING]


@pytest.fixture
def tree(tmp_path):
    """An ImageFolder of ten scenes, one a class, in folders whose sorted order is the class order."""
    for scene, label in Scenes(10, seed=21):
        folder = tmp_path / "images" / Scenes.classes[label]
        folder.mkdir(parents=True)
        scene.save(folder / "scene.png")
    return tmp_path / "images"


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


class TestEvaluate:
    def test_two_judges_all_kinds_of_points(self, tree, tmp_path, capsys):
        out = tmp_path / "out"
        code, table, _ = run(
            capsys, "evaluate", tree, "--model", NET, "--judge", SMALL, "--codec", "jpeg", "--codec",
            "jpeg:subsampling=4:4:4", "--quality", "12,50", "--strength", "0,0.5", "--scale", "1,0.5", "--out", out,
            *SCENE,
        )  # fmt: skip
        assert code == 0
        results = json.loads((out / "results.json").read_text())
        assert len(results["points"]) == 16
        assert results["clean"]["scene_net"]["top1"] >= 0.9
        assert {p["codec"] for p in results["points"]} == {"jpeg", "jpeg:subsampling=4:4:4"}
        point = results["points"][0]
        assert (point["quality"], point["strength"], point["scale"], point["n"]) == (12, 0, 1, 10)
        assert {k: v["known"] for k, v in point["judges"].items()} == {"scene_net": True, "scene_net_small": False}
        assert results["settings"]["codec"][:2] == ["jpeg:12", "jpeg:50"]
        assert results["settings"]["layer"] == "features"
        assert "jpeg, strength 0.5, scale 0.5" in table
        html = (out / "report.html").read_text()
        assert "arrow/scene.png: arrow" in html
        unchanged = re.search("no class changed for (.*?), at", html)
        assert html.count("<svg") == 4 - (len(unchanged[1].split(" and ")) if unchanged else 0)

    def test_a_codec_s_own_quality_is_taken(self, tree, tmp_path, capsys):
        code, _, _ = run(
            capsys, "evaluate", tree, "--model", NET, "--codec", "jpeg:33", "--codec", "jpeg:quality=44", "--codec",
            "jpeg:subsampling=4:4:4", "--strength", "0", "--limit", 2, "--out", tmp_path, *SCENE,
        )  # fmt: skip
        assert code == 0
        points = json.loads((tmp_path / "results.json").read_text())["points"]
        qualities = [p["quality"] for p in points]
        assert qualities[:2] == [33, 44]
        assert qualities[-4:] == [12, 25, 50, 75]
        assert qualities[2:] == sorted(qualities[2:])  # coarser ones are tried where two images keep their answers

    def test_every_codec_and_saliency_inside_one(self, tree, tmp_path, capsys):
        strings = ["jpeg", "jpeg2000", "webp", "avif:speed=10", "jxl:effort=3", "hevc:preset=ultrafast"]
        strings += ["hevc:preset=ultrafast,roi=8"]
        codecs = [word for text in strings for word in ("--codec", text)]
        code, table, _ = run(
            capsys, "evaluate", tree, "--model", NET, *codecs, "--strength", "0,0.5", "--limit", 2, "--out", tmp_path,
            *SCENE,
        )  # fmt: skip
        assert code == 0
        results = json.loads((tmp_path / "results.json").read_text())
        assert list(dict.fromkeys(p["codec"] for p in results["points"])) == strings
        inside = [p for p in results["points"] if p["codec"] == strings[-1] and p["strength"] == 0]
        assert "av" in results["versions"]
        # The rival is compared with the same codec without a map, at no filter and full size.
        rivals = [s for s in results["savings"] if s["curve"] == "hevc:preset=ultrafast,roi=8 alone"]
        assert len(rivals) == 2 * len(inside) >= 2 * 4
        assert {s["reference"] for s in rivals} == {"hevc:preset=ultrafast alone"}
        others = {s["reference"] for s in results["savings"] if "roi" not in s["curve"]}
        assert others == {f"{text} alone" for text in strings[:-1]}
        assert "by hevc:preset=ultrafast,roi=8 alone" in table

    def test_a_missing_extra_is_told_before_anything_runs(self, tree, tmp_path, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "imagecodecs", None)
        code, _, complaint = run(
            capsys, "evaluate", tree, "--model", NET, "--codec", "jxl", "--out", tmp_path / "out", *SCENE
        )
        assert code == 2
        assert "imagecodecs is not installed; pip install " in complaint
        assert '"imagecodecs>=' in complaint
        assert not (tmp_path / "out").exists()

    def test_every_number_of_mean_and_std_counts(self, tree, tmp_path, capsys):
        clean = []
        for mean in ("0.4,0.4,0.4", "0.4,0.9,0.4"):
            options = ["--resize", "160", "--crop", "160", "--mean", mean, "--std", "0.25,0.25,0.25"]
            code, _, _ = run(capsys, "evaluate", tree, "--model", NET, "--quality", "20", "--out", tmp_path, *options)
            assert code == 0
            clean.append(json.loads((tmp_path / "results.json").read_text())["clean"]["scene_net"]["top1"])
        assert clean[0] > clean[1]

    def test_same_command_same_json(self, tree, tmp_path, capsys):
        texts = []
        for name in "ab":
            out = tmp_path / name
            code, _, _ = run(
                capsys, "evaluate", tree, "--model", NET, "--quality", "20", "--limit", 4, "--out", out, "--device",
                "cpu", *SCENE,
            )  # fmt: skip
            assert code == 0
            texts.append((out / "results.json").read_text())
        assert texts[0] == texts[1]

    def test_baselines_and_fidelity(self, tree, tmp_path, capsys):
        code, table, _ = run(
            capsys, "evaluate", tree, "--model", NET, "--judge", SMALL, "--quality", "8,40", "--baselines",
            "--fidelity", "--limit", 5, "--out", tmp_path, *SCENE,
        )  # fmt: skip
        assert code == 0
        results = Results.load(tmp_path / "results.json")
        assert {p.map for p in results.points} == {None, "saliency", "even", "center", "other image"}
        assert {p.scale for p in results.points} == {1.0, 0.7, 0.5}
        assert all(20 < p.psnr < 50 for p in results.points)
        for judge in ("scene_net (known)", "scene_net_small (unseen)"):
            assert f"jpeg, strength 0.5, before {judge}:" in table
        assert "the same smoothing spread evenly" in table
        assert results.settings["baselines"] is True

    def test_rate_control_beside_the_fixed_points(self, tree, tmp_path, capsys):
        options = ["--witness", NET, "--strength", "0,0.5", *PREPROCESSING]
        code, output, _ = run(capsys, "calibrate", tree, *options, "--limit", 6, "--out", tmp_path / "learned.json")
        assert code == 0
        assert "54 operating points on 6 images" in output
        code, table, _ = run(
            capsys, "evaluate", tree, "--model", NET, "--judge", SMALL, *options, "--quality", "10,50", "--scale",
            "0.7", "--keep", "top1,kl0.5,top1+p0.9", "--calibration", tmp_path / "learned.json", "--floor",
            "12", "--out", tmp_path / "out", "--resamples", "20",
        )  # fmt: skip
        assert code == 0
        results = Results.load(tmp_path / "out" / "results.json")
        kept = [p for p in results.points if p.keep]
        assert [p.keep for p in kept] == ["top1", "kl0.5", "top1+p0.9"]
        assert {(p.quality, p.n) for p in kept} == {(None, 10)}
        # The codec alone at full size is there, though only another scale was asked for.
        assert {(p.strength, p.scale) for p in results.points if not p.keep} == {
            (0, 1), (0, 0.7), (0.5, 1), (0.5, 0.7)
        }  # fmt: skip
        for point in kept:
            assert sum(count for *_, count in point.choices.settings) == 10
            assert all(quality >= 12 for _, _, quality, _ in point.choices.settings)
            assert point.choices.forwards == pytest.approx(point.choices.tried + 1)
            references = {s.reference for s in results.savings if s.key == point.key}
            assert references == {"jpeg alone", "jpeg, best scale"}
        assert kept[0].judges["scene_net"].agreement == kept[0].choices.met
        assert results.clean["scene_net"].known
        assert "jpeg, keep top1 for scene_net, top1: " in table
        assert "unseen: neither made the maps nor was a witness" in table
        html = (tmp_path / "out" / "report.html").read_text()
        assert "Rate control" in html
        assert "Most bytes: " in html
        lines = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
        chosen = lines[-1]["points"][kept[0].key]["chosen"]
        assert set(chosen) == {"quality", "strength", "scale", "met", "tried", "encodes", "clean", "final"}

    def test_rate_control_for_classifiers_that_nobody_asked(self, tree, tmp_path, capsys):
        witnesses = ["--witness", NET, "--witness", SMALL, "--witness", "ms-ssim", "--strength", "0", *PREPROCESSING]
        calibration, out = tmp_path / "learned.json", tmp_path / "out"
        code, output, _ = run(capsys, "calibrate", tree, *witnesses, "--limit", 8, "--out", calibration)
        assert (code, "27 operating points on 8 images" in output) == (0, True)
        code, table, _ = run(
            capsys, "evaluate", tree, "--model", NET, "--judge", SMALL, *witnesses, "--quality", "10,50", "--keep",
            "robust0.3,robust60", "--calibration", calibration, "--out", out, "--resamples", "20", "--baselines",
        )  # fmt: skip
        assert code == 0
        results = Results.load(out / "results.json")
        cheap, sure = [p.choices for p in results.points if p.map == "witnesses"]
        assert 0 < cheap.expected < 1
        assert cheap.promised[1] <= cheap.promised[0] <= cheap.promised[2]
        assert sure.promised[0] >= 0.6
        assert max(cheap.tried, sure.tried) <= 8
        assert "expected of a classifier that is not a witness: " in table
        controls = {"no network", "another image's distances", "least closeness"}
        assert {p.map for p in results.points if p.keep} == {"witnesses", *controls}
        assert controls <= {c.baseline for c in results.comparisons if c.curve.startswith("jpeg, keep robust")}
        assert "the same without any network" in table
        assert table.count("criterion met on ") == 2
        assert "answers expected to be kept, %" in (out / "report.html").read_text()

    def test_interrupted_it_says_how_to_go_on(self, tree, tmp_path, capsys, monkeypatch):
        forward = Classifier.forward
        looked = 2 * 2  # batches of 8 before a run: of the ten images, and of a copy of each
        left = [looked + 8]

        def interrupted(self, x):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return forward(self, x)

        words = ["evaluate", tree, "--model", NET, "--quality", "20", "--out", tmp_path / "out", *SCENE]
        monkeypatch.setattr(Classifier, "forward", interrupted)
        code, _, complaint = run(capsys, *words)
        assert code == 130
        assert "the same command goes on from here" in complaint
        asked = 100 - left[0]
        left[0] = 100
        assert run(capsys, *words)[0] == 0
        assert asked > 100 - left[0]  # it asked less than a whole run, of 10 and the count of classes
        assert 100 - left[0] == looked + 10 - 6 + 1

    def test_broken_files_are_named_counted_and_skipped(self, tree, tmp_path, capsys):
        (tree / "ring" / "scene.png").write_bytes(b"broken")
        (tree / "dots" / "readme.txt").write_text("not an image")
        code, table, complaints = run(
            capsys, "evaluate", tree, "--model", NET, "--quality", "20", "--strength", "0", "--out", tmp_path, *SCENE
        )
        assert code == 0
        assert "skipped ring/scene.png:" in complaints
        assert "skipped dots/readme.txt:" in complaints
        assert "2 of 11 files could not be read" in table
        results = json.loads((tmp_path / "results.json").read_text())
        assert results["points"][0]["n"] == 9
        assert [name for name, _ in results["skipped"]] == ["dots/readme.txt", "ring/scene.png"]

    def test_other_saliency_filter_and_layer(self, tree, tmp_path, capsys):
        code, _, _ = run(
            capsys, "evaluate", tree, "--model", NET, "--quality", "20", "--saliency", "ActivationMap",
            "--filter", "guided", "--layer", "features.8", "--limit", 3, "--out", tmp_path, *SCENE,
        )  # fmt: skip
        assert code == 0
        assert json.loads((tmp_path / "results.json").read_text())["settings"]["layer"] == "features.8"

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["nowhere", "--model", NET], "no folder nowhere"),
            (["{tree}", "--model", "resnet19"], "did you mean resnet18"),
            (["{tree}", "--model", f"{RECIPES}:nothing"], "no function 'nothing'"),
            (["{tree}", "--model", f"{RECIPES}:tiny"], "10 class folders and the model has 5 outputs"),
            (["{tree}", "--model", NET, "--judge", f"{RECIPES}:tiny"], "different numbers of classes: [5, 10]"),
            (
                ["{tree}", "--model", NET, "--judge", "foveate.demo.classifier:scene_net"],
                "the same name: scene_net, scene_net",
            ),
            (["{tree}", "--model", NET, "--quality", "0"], "1 to 95, got 0"),
            (["{tree}", "--model", NET, "--codec", "gif"], "there is no codec 'gif'"),
            (["{tree}", "--model", NET, "--strength", "2"], "strength"),
            (["{tree}", "--model", NET, "--scale", "2"], "scale"),
            (["{tree}", "--model", NET, "--filter", "median"], "filter"),
            (["{tree}", "--model", NET, "--layer", "stem"], "no submodule 'stem'"),
            (
                ["{tree}", "--model", NET, "--saliency", "grad-cam"],
                "there is no method 'grad-cam'; choose one of GradCam",
            ),
            (["{tree}", "--model", NET, "--saliency", "NoiseTunnel"], "as in 'NoiseTunnel:Saliency'"),
            (["{tree}", "--model", NET, "--saliency", "Saliency", "--layer", "features"], "layer: Saliency takes none"),
            (["{tree}", "--model", NET, "--saliency", "{{method: GradCam, n_steps: 3}}"], "argument 'n_steps'"),
            (
                ["{tree}", "--model", NET, "--saliency", "{{method: GradCam, target: 1}}"],
                "--saliency: the maps depend on a label",
            ),
            (
                ["{tree}", "--model", NET, "--saliency", "{{method: Saliency, arguments: {{n_steps: 3}}}}"],
                "argument 'n_steps'",
            ),
            (["{tree}", "--model", NET, "--limit", "0"], "limit"),
            (["{tree}", "--model", NET, "--layer", "head"], "no spatial map"),
            (["{tree}", "--model", f"{RECIPES}:fussy"], "mat1 and mat2 shapes"),
            (["{tree}", "--model", NET, "--mean", "0.5"], "mean"),
            (["{tree}", "--model", NET, "--keep", "all"], "there is no criterion 'all'"),
            (["{tree}", "--model", NET, "--keep", "robust0.2"], "calibration: 'robust0.2' needs one"),
            (["{tree}", "--model", NET, "--keep", "top1", "--witness", "resnet19"], "did you mean resnet18"),
            (
                ["{tree}", "--model", NET, "--keep", "top1", "--witness", NET, "--witness", "lpips"],
                "'lpips' has no classes",
            ),
            (["{tree}", "--model", NET, "--keep", "top1", "--floor", "94"], "floor: no quality is as fine as 94"),
            (["{tree}", "--model", NET, "--keep", "top1", "--calibration", "gone.json"], "gone.json"),
            (["{tree}", "--model", NET, "--device", "abacus"], "--device: cannot use 'abacus'"),
            (["{tree}/ring", "--model", NET], "no class folders"),
        ],
    )
    def test_input_at_fault_is_one_line_and_exit_code_2(self, arguments, words, tree, tmp_path, capsys):
        arguments = [a.format(tree=tree) for a in arguments]
        code, output, complaint = run(capsys, "evaluate", *arguments, "--out", tmp_path / "out")
        assert (code, output) == (2, "")
        assert re.match(r"foveate( evaluate)?: error: ", complaint)
        assert words in complaint
        assert complaint.count("\n") == 1
        assert not (tmp_path / "out").exists()

    def test_not_one_readable_image(self, tmp_path, capsys):
        for name in Scenes.classes:
            (tmp_path / "images" / name).mkdir(parents=True)
            (tmp_path / "images" / name / "a.jpg").write_bytes(b"broken")
        code, _, complaint = run(
            capsys, "evaluate", tmp_path / "images", "--model", NET, "--out", tmp_path / "out", *SCENE
        )
        assert code == 2
        assert "is a readable image" in complaint
        assert "arrow/a.jpg" in complaint

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["evaluate", "."], "--model"),
            (["evaluate", ".", "--model", "resnet18", "--quality", "a,b"], "--quality: expected numbers"),
            (["evaluate", ".", "--model", "resnet18", "--saliency", "{method"], "--saliency: neither YAML nor JSON"),
            (
                ["evaluate", ".", "--model", "resnet18", "--saliency", "{model: m}"],
                "--saliency: give the model by --model",
            ),
        ],
    )
    def test_wrong_usage(self, arguments, words, capsys):
        code, _, complaint = run(capsys, *arguments)
        assert code == 2
        assert complaint.startswith("foveate evaluate: error: ")
        assert words in complaint
        assert complaint.endswith("(see foveate evaluate --help)\n")

    def test_the_user_s_photos_are_untouched(self, tree, tmp_path, capsys):
        before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tree.rglob("*") if p.is_file()}
        run(capsys, "evaluate", tree, "--model", NET, "--quality", "20", "--out", tmp_path / "out", *SCENE)
        assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tree.rglob("*") if p.is_file()}


@pytest.fixture
def tiny_tree(tmp_path):
    """An ImageFolder of five gray images of 40x32, much noise in one part, one a class of the model ``tiny``."""
    for label in range(5):
        folder = tmp_path / "images" / str(label)
        folder.mkdir(parents=True)
        noise = np.random.default_rng(label).integers(-100, 101, (32, 40, 3))
        noise[:, 12:] //= 8
        Image.fromarray((120 + noise).astype(np.uint8)).save(folder / "noise.png")
    return tmp_path / "images"


class TestSaliency:
    """``--saliency`` takes what ``foveate.as_saliency`` takes as ``method``, or a mapping, in all commands."""

    TINY = ("--model", f"{RECIPES}:tiny", "--resize", "32", "--crop", "32")

    @pytest.mark.parametrize(
        ("saliency", "recorded"),
        [
            ("Saliency", "Saliency"),
            ("NoiseTunnel:Saliency", "NoiseTunnel:Saliency"),
            (
                '{"method": "IntegratedGradients", "arguments": {"n_steps": 3}}',
                {"method": "IntegratedGradients", "arguments": {"n_steps": 3}},
            ),
            ("{method: ActivationMap, layer: '3'}", {"method": "ActivationMap", "layer": "3"}),
        ],
    )
    def test_evaluate(self, saliency, recorded, tiny_tree, tmp_path, capsys):
        code, _, complaint = run(
            capsys, "evaluate", tiny_tree, *self.TINY, "--saliency", saliency, "--quality", "30", "--resamples", "5",
            "--baselines", "--out", tmp_path / "out",
        )  # fmt: skip
        assert code == 0, complaint
        results = json.loads((tmp_path / "out" / "results.json").read_text())
        assert results["settings"]["saliency"] == recorded
        assert results["settings"]["layer"] == ("3" if "layer" in recorded else None)
        assert {(p["strength"], p["map"]) for p in results["points"]} >= {(0, None), (0.5, "saliency"), (0.5, "center")}

    def test_without_the_option_it_is_grad_cam(self, tiny_tree, tmp_path, capsys):
        options = [*self.TINY, "--quality", "30", "--limit", "2", "--resamples", "5"]
        files = []
        for name, words in (("default", []), ("named", ["--saliency", "GradCam"])):
            assert run(capsys, "evaluate", tiny_tree, *options, *words, "--out", tmp_path / name)[0] == 0
            files.append((tmp_path / name / "results.json").read_text())
        assert files[0] == files[1]
        assert json.loads(files[0])["settings"]["saliency"] == "GradCam"

    @pytest.mark.parametrize("workers", [0, 2])
    def test_compress(self, workers, tiny_tree, tmp_path, capsys):
        sizes = []
        for saliency in ("{method: IntegratedGradients, arguments: {n_steps: 3}}", "NoiseTunnel:Saliency"):
            out = tmp_path / str(len(sizes))
            options = [*self.TINY, "--saliency", saliency, "--codec", "jpeg:80", "--sigma", 12, "--workers", workers]
            code, output, complaint = run(capsys, "compress", tiny_tree, out, *options)
            assert code == 0, complaint
            assert "5 images compressed" in output
            sizes.append(sum(path.stat().st_size for path in out.rglob("*.jpg")))
        # Integrated gradients are small where an image is close to gray, so that more of it is smoothed.
        assert sizes[0] < sizes[1]

    def test_maps_into_a_cache_and_from_it(self, tiny_tree, tmp_path, capsys):
        maps = tmp_path / "maps"
        code, output, _ = run(
            capsys, "saliency", tiny_tree, maps, *self.TINY, "--saliency", "Saliency", "--device", "cpu"
        )
        assert (code, output) == (0, f"5 images have maps in {maps}, 5 made now\n")
        words = ["--codec", "jpeg:40", "--workers", "0"]
        direct = ["compress", tiny_tree, tmp_path / "direct", *self.TINY, "--saliency", "Saliency", *words]
        assert run(capsys, *direct, "--cache", maps)[0] == 0
        cached = json.dumps({"method": "CachedSaliency", "cache": str(maps)})
        assert run(capsys, "compress", tiny_tree, tmp_path / "cached", "--saliency", cached, *words)[0] == 0
        for path in (tmp_path / "direct").rglob("*.jpg"):
            assert path.read_bytes() == (tmp_path / "cached" / path.relative_to(tmp_path / "direct")).read_bytes()

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--saliency", "activation", "--model", f"{RECIPES}:tiny"], "saliency: there is no method 'activation'"),
            (["--saliency", "activation"], "saliency: there is no method 'activation'"),
            (["--saliency", "IntegratedGradients"], "--model: 'IntegratedGradients' needs a model to explain"),
            (["--saliency", "{layer: '3'}"], "--model: 'GradCam' needs a model to explain"),
        ],
    )
    @pytest.mark.parametrize("command", ["compress", "saliency"])
    def test_what_does_not_fit(self, command, options, words, tiny_tree, tmp_path, capsys):
        code, _, complaint = run(capsys, command, tiny_tree, tmp_path / "out", *options)
        assert code == 2
        assert complaint.startswith("foveate: error: ")
        assert words in complaint
        assert complaint.count("\n") == 1


class TestDemo:
    @pytest.mark.parametrize("arguments", [["--scenes", "3"], ["--strength", "0"], ["--strength", "1.5"]])
    def test_wrong_settings(self, arguments, tmp_path, capsys):
        code, _, complaint = run(capsys, "demo", *arguments, "--out", tmp_path)
        assert code == 2
        assert arguments[0] in complaint


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("arguments", [["codecs"], ["--help"], ["verify", "{out}"]])
def test_who_reads_the_output_may_go_away(arguments, buffered, tmp_path):
    """As ``foveate codecs | head -1`` does: no traceback, and the exit code of a program that the signal ended."""
    compress_dataset(Scenes(1), tmp_path, Compressor("jpeg"), workers=0)
    reader, writer = os.pipe()
    os.close(reader)
    words = [word.format(out=tmp_path) for word in arguments]
    environment = os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"}
    command = [sys.executable, "-m", "foveate", *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(writer)
    assert "Error" not in done.stderr
    assert "Traceback" not in done.stderr
    # Without a buffer, argparse passes over that its help is not read.
    assert done.returncode == (0 if arguments == ["--help"] and not buffered else 141)


def test_another_pipe_that_breaks_is_an_error(monkeypatch):
    """An error of the network, say, is not taken for output that is not read."""

    def broken(words):
        raise BrokenPipeError(32, "of a server")

    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        monkeypatch.setattr("foveate.cli._main._run", broken)
        with pytest.raises(BrokenPipeError, match="of a server"):
            main(["codecs"])
    os.close(reader)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--version"], __version__),
        (["--help"], "evaluate"),
        (["evaluate", "--help"], "image"),
        (["compress", "a", "b", "--wrong"], "--wrong"),
    ],
)
def test_version_help_and_wrong_options_load_nothing_heavy(arguments, words):
    code = (
        "import sys\nfrom foveate.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert words in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "False"


def test_a_photo_with_everything_a_camera_writes(tree, tmp_path, capsys):
    """Metadata, odd sizes and grayscale on the way in; none of it in the bytes that are counted."""
    image = Image.open(tree / "ring" / "scene.png").resize((161, 97)).convert("L")
    exif = image.getexif()
    exif[0x010E] = "x" * 20_000
    image.save(tree / "ring" / "scene.jpg", exif=exif, icc_profile=b"p" * 3000)
    os.remove(tree / "ring" / "scene.png")
    code, _, _ = run(capsys, "evaluate", tree, "--model", NET, "--quality", "20", "--out", tmp_path / "out", *SCENE)
    assert code == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["points"][0]["bytes"] < 5000


class TestCodecs:
    def test_lists_all_with_versions(self, capsys):
        from foveate.codecs import CODECS

        assert main(["codecs"]) == 0
        text = capsys.readouterr().out
        for name, cls in CODECS.usable().items():
            assert f"{name:9} {cls.library()}\n" in text
        assert "quality 51 (coarsest) to 0 (finest), 35 by default" in text

    def test_says_how_to_install_what_is_missing(self, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "imagecodecs", None)
        assert main(["codecs"]) == 0
        assert re.search(
            r'not installed: imagecodecs is not installed; pip install .*"imagecodecs>=', capsys.readouterr().out
        )


class TestEdit:
    EDIT = ("--edit-with", NET, "--edit-steps", "3")

    def test_evaluate(self, tree, tmp_path, capsys):
        out = tmp_path / "out"
        options = ["--model", SMALL, "--judge", NET, *self.EDIT, "--quality", "12,30", "--baselines", "--out", out]
        code, printed, _ = run(capsys, "evaluate", tree, *options, "--edit-cache", tmp_path / "edits", *SCENE)
        assert code == 0
        assert "jpeg, edit, strength 0.5" in printed
        results = Results.load(out / "results.json")
        assert {c.baseline for c in results.comparisons} >= {"untrained", "pixels", "ms_ssim", "downscaling"}
        assert results.clean["scene_net"].known
        assert len([*(tmp_path / "edits").rglob("*.png")]) == 10 * 2 * 4

    def test_compress_in_workers(self, tree, tmp_path, capsys):
        edit = [*self.EDIT, "--codec", "jpeg:35", *PREPROCESSING]
        code, _, _ = run(capsys, "compress", tree, tmp_path / "edited", *edit, "--workers", "2")
        assert code == 0
        run(capsys, "compress", tree, tmp_path / "plain", "--codec", "jpeg:35", "--workers", "0")
        sizes = [sum(path.stat().st_size for path in (tmp_path / name).rglob("*.jpg")) for name in ("edited", "plain")]
        assert 0 < sizes[0] < sizes[1]
        assert run(capsys, "verify", tmp_path / "edited")[0] == 0

    def test_guided_by_a_map(self, tree, tmp_path, capsys):
        options = ["--model", NET, "--edit-by-map", "--edit-limit", "36,28", *self.EDIT, "--codec", "jpeg:35"]
        code, _, _ = run(capsys, "compress", tree, tmp_path / "out", *options, "--workers", "0", *PREPROCESSING)
        assert code == 0

    def test_calibrate_and_keep(self, tree, tmp_path, capsys):
        calibration = tmp_path / "calibration.json"
        options = ["--witness", NET, *self.EDIT, *PREPROCESSING]
        assert run(capsys, "calibrate", tree, *options, "--limit", "3", "--out", calibration)[0] == 0
        keep = [*options, "--keep", "top1", "--codec", "jpeg", "--calibration", calibration, "--workers", "0"]
        assert run(capsys, "compress", tree, tmp_path / "out", *keep)[0] == 0

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--prefilter", "smooth", "--edit-with", NET], "--edit-with: is for --prefilter edit"),
            (["--edit-with", NET, "--edit-by-map"], "--edit-by-map: needs --model"),
            (["--edit-with", "nothing.py:here"], "nothing.py"),
            (["--edit-with", NET, "--edit-steps", "0"], "steps"),
        ],
    )
    def test_wrong_options(self, tree, tmp_path, capsys, options, words):
        code, _, error = run(capsys, "compress", tree, tmp_path / "out", *options, "--workers", "0")
        assert code != 0
        assert words in error


class TestSlips:
    """Typical mistakes are told in one line, with the cure, before torch is imported."""

    @pytest.mark.parametrize(
        ("words", "cure"),
        [
            (["evaluate", "nowhere", "--model", "resnet18"], "IMAGES: there is no folder nowhere"),
            (["evaluate", ".", "--model", "nowhere.py:make"], "--model: there is no file nowhere.py"),
            (["evaluate", ".", "--model", "net.py"], "name a function in it that returns the model: net.py:NAME"),
            (["evaluate", ".", "--model", "resnet18", "--codec", "jpg:30"], "did you mean jpeg?"),
            (["evaluate", ".", "--model", "resnet18", "--codec", "png"], "choose one of jpeg, jpeg2000, webp"),
            (["evaluate", ".", "--model", "resnet18", "--keep", "top1,kll0.3"], "did you mean kl?"),
            (["evaluate", ".", "--model", "resnet18", "--quality", "20-60"], "numbers separated by commas, or FIRST:"),
            (
                ["evaluate", ".", "--model", "resnet18", "--quality", "60:20:10"],
                "numbers separated by commas, or FIRST:",
            ),
            (["evaluate", ".", "--model", "resnet18", "--calibration", "none.json"], "there is no file none.json"),
            (["evaluate", "."], "the following arguments are required: --model"),
            (["compress", ".", "out", "--witness", "lpips:none.py:net"], "--witness: there is no file none.py"),
            (["compress", ".", "out", "--edit-with", "none.safetensors"], "there is no file none.safetensors"),
            (["compres", ".", "out"], "invalid choice: 'compres'"),
            (["evaluate", ".", "--model", "resnet19"], "--model: torchvision has no 'resnet19'; did you mean resnet1"),
            (["evaluate", ".", "--model", "resnet18", "--judge", "vgg-16"], "--judge: torchvision has no 'vgg-16'"),
            (["compress", ".", "out", "--witness", "mobilenetv2"], "did you mean mobilenet_v2"),
            (["compress", ".", "out", "--codec", "webp:400"], "--codec: 'webp:400': quality: WebP takes 0 to 100"),
            (["compress", ".", "out", "--codec", "jpeg:qualty=3"], "it has quality, subsampling"),
            (["evaluate", ".", "--model", "resnet18", "--codec", "jpeg:0"], "quality: JPEG takes 1 to 95, got 0"),
            (["compress", ".", "out", "--quality", "300"], "quality: WebP takes 0 to 100, got 300"),
            (["evaluate", ".", "--model", "resnet18", "--quality", "20,300"], "quality: JPEG takes 1 to 95, got 300"),
            (["compress", ".", "out", "--scale", "2"], "--scale: expected a number above 0, at most 1, got 2"),
            (["compress", ".", "out", "--strength", "50"], "--strength: expected a number from 0 to 1, got 50"),
            (["compress", ".", "out", "--strength", "0.5"], "--strength: the pre-filter needs --model"),
            (["compress", ".", "out", "--keep", "same"], "--keep: whose answer?"),
            (["compress", ".", "out", "--keep", "p90"], "--keep: p takes a share above 0, up to 1, such as p0.9"),
            (["compress", ".", "out", "--keep", "kl"], "--keep: kl takes a number, such as kl0.3, got 'kl'"),
            (["compress", ".", "out", "--keep", "robust30"], "or a share of answers from 50 to below 100, such as"),
            (["compress", ".", "out", "--keep", "same1"], "--keep: same takes no number, got 'same1'"),
            (["compress", ".", "out", "--keep", "top5"], "there is no criterion 'top' in 'top5'; did you mean top1?"),
        ],
    )
    def test_is_told_at_once(self, words, cure):
        code = (
            "import sys\n"
            "sys.modules['torch'] = None  # cannot be imported, nor what needs it\n"
            "from foveate.cli import main\n"
            f"sys.exit(main({words!r}))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 2
        assert cure in done.stderr
        assert done.stderr.count("\n") == 1

    def test_its_names_are_those_of_the_package(self):
        from foveate.cli._options import CODEC_NAMES
        from foveate.rate_control._criteria import CRITERIA, PRESETS

        assert set(CODEC_NAMES) <= set(CODECS.names())
        assert {name for name in CODECS.names() if CODECS[name].__module__.startswith("foveate.")} == set(CODEC_NAMES)
        assert set(KEEP_NAMES) <= {*CRITERIA.names(), *PRESETS}
        assert set(PRESETS) < set(KEEP_NAMES)

    @pytest.mark.parametrize("name", KEEP_NAMES)
    @pytest.mark.parametrize("bound", ["", "0", "0.2", "1", "1.5", "10", "11", "49", "50", "99.5", "100"])
    def test_a_bound_is_taken_where_the_library_takes_it(self, name, bound):
        try:
            as_criteria(f"{name}{bound}")
        except ValueError:
            with pytest.raises(argparse.ArgumentTypeError):
                keep_name(f"{name}{bound}")
        else:
            assert keep_name(f"{name}{bound}") == f"{name}{bound}"

    def test_networks_of_torchvision_are_known(self):
        assert networks_of_torchvision() == set(torchvision.models.list_models())

    def test_ranges(self):
        assert numbers(number)("20:60:10,75") == [20, 30, 40, 50, 60, 75]
        assert numbers(float)("0:0.3:0.1") == [0, 0.1, 0.2, 0.3]

    def test_alone_it_helps(self, capsys):
        code, text, complaint = run(capsys)
        assert code == 0
        assert text.startswith("usage: foveate ")
        assert complaint == ""


class TestPicture:
    @pytest.fixture
    def photo(self, tmp_path):
        path = tmp_path / "photo.png"
        Scenes(1)[0][0].save(path)
        return path

    def test_into_a_file_of_the_codec_of_its_ending(self, photo, tmp_path, capsys):
        code, _, told = run(capsys, "compress", photo, tmp_path / "small.avif", "--quality", 40)
        assert code == 0
        with Image.open(tmp_path / "small.avif") as small:
            assert (small.format, small.size) == ("AVIF", Scenes(1)[0][0].size)
        assert f"became {(tmp_path / 'small.avif').stat().st_size:,}, " in told
        assert "codec avif:40" in told
        expected = Compressor("avif:40").encode_one(Scenes(1)[0][0])
        assert (tmp_path / "small.avif").read_bytes() == expected.data

    def test_keeps_the_answer_of_a_witness(self, photo, tmp_path, capsys):
        code, _, told = run(
            capsys, "compress", photo, tmp_path / "a.jpg", "--keep", "same", "--witness", NET, *PREPROCESSING
        )
        assert code == 0
        assert (tmp_path / "a.jpg").stat().st_size < 2000, told

    def test_from_input_to_output(self, photo):
        command = [sys.executable, "-m", "foveate", "compress", "-", "-", "--codec", "jpeg:30"]
        done = subprocess.run(command, input=photo.read_bytes(), capture_output=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout == Compressor("jpeg:30").encode_one(Scenes(1)[0][0]).data
        assert b"codec jpeg:30" in done.stderr

    @pytest.mark.parametrize(
        ("target", "more", "cure"),
        [
            ("photo.png", ["--codec", "webp"], "is there already; choose another name"),
            ("small.jpg", ["--codec", "webp"], "which is called .webp"),
            ("small.gif", [], "no codec writes .gif"),
            ("small.webp", ["--shards"], "--shards: is for a dataset"),
            ("small.webp", ["--only-if-smaller"], "--only-if-smaller: is for a dataset"),
            ("small.webp", ["--device", "abacus"], "--device: cannot use 'abacus'"),
        ],
    )
    def test_is_refused(self, photo, tmp_path, capsys, target, more, cure):
        before = photo.read_bytes()
        path = tmp_path / target
        code, _, complaint = run(capsys, "compress", photo, path, *more)
        assert code == 2
        assert cure in complaint
        assert photo.read_bytes() == before
        assert not (tmp_path / "small.jpg").exists()

    def test_what_is_no_picture_is_named(self, tmp_path, capsys):
        (tmp_path / "notes.txt").write_text("no picture")
        code, _, complaint = run(capsys, "compress", tmp_path / "notes.txt", tmp_path / "small.webp")
        assert code == 1
        assert "notes.txt is not a readable image" in complaint
        assert not (tmp_path / "small.webp").exists()


@pytest.mark.parametrize(
    "command", ["demo", "evaluate", "compress", "verify", "saliency", "calibrate", "fit", "compare", "codecs"]
)
def test_help_has_an_example_that_parses(command, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    example = re.search("example: (foveate .*)$", text)
    assert example, text
    monkeypatch.chdir(tmp_path)
    (tmp_path / "PHOTOS").mkdir()
    words = shlex.split(example[1])[1:]
    assert words[0] == command
    assert _parser().parse_args(words).prepare is not None


class TestCompletion:
    """As bash itself does it, with the script that is printed."""

    @pytest.fixture(scope="class")
    def complete(self, tmp_path_factory):
        pytest.importorskip("shtab")
        script = tmp_path_factory.mktemp("completion") / "foveate.bash"
        done = subprocess.run([sys.executable, "-m", "foveate", "completion", "bash"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        asked = ['COMP_WORDS=("$@")', "COMP_CWORD=$(($#-1))", "_shtab_foveate", 'printf "%s\\n" "${COMPREPLY[@]}"']
        script.write_text("\n".join([done.stdout, *asked]))

        def run(*words):
            done = subprocess.run(
                ["bash", script, "foveate", *words], capture_output=True, text=True, cwd=script.parent
            )
            assert done.returncode == 0, done.stderr
            return set(done.stdout.split())

        return run

    @pytest.mark.parametrize(
        ("words", "completed"),
        [
            (["comp"], {"compress", "compare", "completion"}),
            (["compress", "a", "b", "--keep-"], {"--keep-names"}),
            (["compress", "a", "b", "--codec", "jpeg"], {"jpeg", "jpeg2000"}),
            (["compress", "a", "b", "--keep", "s"], {"same", "safe"}),
            (["compress", "a", "b", "--engine", ""], {"local", "ray"}),
            (["verify", "fov"], {"foveate.bash"}),
        ],
    )
    def test_of_bash(self, complete, words, completed):
        assert complete(*words) == completed

    @pytest.mark.parametrize("shell", ["zsh", "tcsh"])
    def test_other_shells_have_the_commands(self, capsys, shell):
        pytest.importorskip("shtab")
        code, script, _ = run(capsys, "completion", shell)
        assert code == 0
        assert all(word in script for word in ("compress", "keep-names", "calibrate"))

    def test_without_the_library(self, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "shtab", None)
        code, _, complaint = run(capsys, "completion", "bash")
        assert code == 2
        assert 'shtab is not installed; pip install "shtab' in complaint
