import json
import os
import subprocess
import sys

import pytest
from conftest import RECIPES
from PIL import Image

from foveate import Compressor, __version__
from foveate.cli import main
from foveate.demo import Scenes
from foveate.evaluation import Results
from foveate.export import compress_dataset
from foveate.models import Classifier

NET = "foveate.demo:scene_net"
SMALL = "foveate.demo:scene_net:scene_net_small"
OWN = ["--resize", "160", "--crop", "160", "--mean", "0.4,0.4,0.4", "--std", "0.25,0.25,0.25"]
SCENE = ["--resamples", "20", *OWN]


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
    said = capsys.readouterr()
    return code, said.out, said.err


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
        assert html.count("<svg") == 4

    def test_a_codec_s_own_quality_is_taken(self, tree, tmp_path, capsys):
        code, _, _ = run(
            capsys, "evaluate", tree, "--model", NET, "--codec", "jpeg:33", "--codec", "jpeg:quality=44", "--codec",
            "jpeg:subsampling=4:4:4", "--strength", "0", "--limit", 2, "--out", tmp_path, *SCENE,
        )  # fmt: skip
        assert code == 0
        points = json.loads((tmp_path / "results.json").read_text())["points"]
        assert [p["quality"] for p in points] == [33, 44, 12, 25, 50, 75]

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
        assert [p["codec"] for p in results["points"][: 4 * 7 : 4]] == strings
        assert "av" in results["versions"]
        # The rival is compared with the same codec without a map, at no filter and full size.
        rivals = [s for s in results["savings"] if s["curve"] == "hevc:preset=ultrafast,roi=8 alone"]
        assert len(rivals) == 2 * 4
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
        assert 'pip install "foveate[codecs]"' in complaint
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
        how = ["--witness", NET, "--strength", "0,0.5", *OWN]
        code, said, _ = run(capsys, "calibrate", tree, *how, "--limit", 6, "--out", tmp_path / "learnt.json")
        assert code == 0
        assert "54 operating points on 6 images" in said
        code, table, _ = run(
            capsys, "evaluate", tree, "--model", NET, "--judge", SMALL, *how, "--quality", "10,50", "--scale", "0.7",
            "--keep", "top1,kl0.5,top1+p0.9,robust0.3", "--calibration", tmp_path / "learnt.json", "--floor", "12",
            "--out", tmp_path / "out", "--resamples", "20",
        )  # fmt: skip
        assert code == 0
        results = Results.load(tmp_path / "out" / "results.json")
        kept = [p for p in results.points if p.keep]
        assert [p.keep for p in kept] == ["top1", "kl0.5", "top1+p0.9", "robust0.3"]
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

    def test_interrupted_it_says_how_to_go_on(self, tree, tmp_path, capsys, monkeypatch):
        ask = Classifier.ask
        left = [8]

        def interrupted(self, x):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return ask(self, x)

        how = ["evaluate", tree, "--model", NET, "--quality", "20", "--out", tmp_path / "out", *SCENE]
        monkeypatch.setattr(Classifier, "ask", interrupted)
        code, _, complaint = run(capsys, *how)
        assert code == 130
        assert "the same command goes on from here" in complaint
        asked = 100 - left[0]
        left[0] = 100
        assert run(capsys, *how)[0] == 0
        assert asked > 100 - left[0]  # it asked less than a whole run, of 10 and the count of classes
        assert 100 - left[0] == 10 - 6 + 1

    def test_broken_files_are_named_counted_and_skipped(self, tree, tmp_path, capsys):
        (tree / "ring" / "scene.png").write_bytes(b"broken")
        (tree / "dots" / "readme.txt").write_text("no picture")
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
            capsys, "evaluate", tree, "--model", NET, "--quality", "20", "--saliency", "ActivationMap", "--filter",
            "guided", "--layer", "features.8", "--limit", 3, "--out", tmp_path, *SCENE,
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
            (["{tree}", "--model", NET, "--judge", "foveate.demo.classifier:scene_net"], "called alike"),
            (["{tree}", "--model", NET, "--quality", "0"], "1 to 95, got 0"),
            (["{tree}", "--model", NET, "--codec", "gif"], "there is no 'gif'"),
            (["{tree}", "--model", NET, "--strength", "2"], "strength"),
            (["{tree}", "--model", NET, "--scale", "2"], "scale"),
            (["{tree}", "--model", NET, "--filter", "median"], "filter"),
            (["{tree}", "--model", NET, "--layer", "stem"], "no submodule 'stem'"),
            (["{tree}", "--model", NET, "--limit", "0"], "limit"),
            (["{tree}", "--model", NET, "--layer", "head"], "no spatial map"),
            (["{tree}", "--model", f"{RECIPES}:fussy"], "mat1 and mat2 shapes"),
            (["{tree}", "--model", NET, "--mean", "0.5"], "mean"),
            (["{tree}", "--model", NET, "--keep", "all"], "keep: cannot read 'all'"),
            (["{tree}", "--model", NET, "--keep", "robust0.2"], "calibration: 'robust0.2' needs one"),
            (["{tree}", "--model", NET, "--keep", "top1", "--witness", "resnet19"], "did you mean resnet18"),
            (["{tree}", "--model", NET, "--keep", "top1", "--floor", "94"], "floor: no quality is as fine as 94"),
            (["{tree}", "--model", NET, "--keep", "top1", "--calibration", "gone.json"], "gone.json"),
            (["{tree}", "--model", NET, "--device", "abacus"], "--device: cannot use 'abacus'"),
            (["{tree}/ring", "--model", NET], "no class folders"),
        ],
    )
    def test_input_at_fault_is_one_line_and_exit_code_2(self, arguments, words, tree, tmp_path, capsys):
        arguments = [a.format(tree=tree) for a in arguments]
        code, said, complaint = run(capsys, "evaluate", *arguments, "--out", tmp_path / "out")
        assert (code, said) == (2, "")
        assert complaint.startswith("foveate: error: ")
        assert words in complaint
        assert complaint.count("\n") == 1
        assert not (tmp_path / "out").exists()

    def test_not_one_readable_picture(self, tmp_path, capsys):
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
        "arguments", [[], ["evaluate", "x"], ["evaluate", "x", "--model", "m", "--quality", "a,b"]]
    )
    def test_wrong_usage(self, arguments, capsys):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert "usage:" in capsys.readouterr().err

    def test_the_user_s_photos_are_untouched(self, tree, tmp_path, capsys):
        before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tree.rglob("*") if p.is_file()}
        run(capsys, "evaluate", tree, "--model", NET, "--quality", "20", "--out", tmp_path / "out", *SCENE)
        assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tree.rglob("*") if p.is_file()}


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


def test_another_pipe_that_breaks_is_told(monkeypatch):
    """An error of the network, say, is not taken for output that is not read."""

    def broken(args):
        raise BrokenPipeError(32, "of a server")

    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        monkeypatch.setattr("foveate.cli._main._run", broken)
        with pytest.raises(BrokenPipeError, match="of a server"):
            main(["codecs"])
    os.close(reader)


def test_version_and_help_load_nothing_heavy():
    code = (
        "import sys\nfrom foveate.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    )
    for flag, words in (("--version", __version__), ("--help", "evaluate")):
        done = subprocess.run([sys.executable, "-c", code, flag], capture_output=True, text=True, check=True)
        assert words in done.stdout
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
        for name, cls in CODECS.items():
            assert f"{name:9} {cls.library()}\n" in text
        assert "quality 51 (coarsest) to 0 (finest), 35 unless said" in text

    def test_says_how_to_install_what_is_missing(self, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "imagecodecs", None)
        assert main(["codecs"]) == 0
        assert 'not installed: imagecodecs is not installed; pip install "foveate[codecs]"' in capsys.readouterr().out
