"""The benchmark suite at settings too small to mean anything, so that it cannot rot."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from foveate.demo import Scenes

BENCHMARKS = Path(__file__).parent / "benchmarks"
SUITE = BENCHMARKS / "suite.py"
RECIPES = Path(__file__).parent / "recipes.py"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is measured on Linux only")
def test_the_suite_runs_and_writes_its_table(tmp_path):
    out, page = tmp_path / "bench.json", tmp_path / "RESULTS.md"
    page.write_text("before\n<!-- cost -->\nold\n<!-- /cost -->\nafter\n")
    parts = ["saliency", "guided", "codec", "epoch", "rate_control", "size", "cuda"]  # imports take long
    command = [sys.executable, str(SUITE), "--quick", "--out", str(out), "--into", str(page), "--only", *parts]
    subprocess.run(command, check=True, timeout=280)
    found = json.loads(out.read_text())["parts"]
    assert list(found) == parts
    for part in ("saliency", "guided", "codec", "size"):
        for rows in found[part].values():
            assert all(math.isfinite(row["ratio"]) and row["ms"] > 0 for name, row in rows.items() if name != "skipped")
    assert all(row["ratio"] > 0 for row in found["epoch"].values())
    assert found["epoch"]["0 workers"]["with"]["peak_MB"] >= 0  # of a small epoch next to nothing
    assert all(math.isfinite(row["peak_MB"]) for rows in found["size"].values() for row in rows.values())
    assert all(row["forwards"] >= 2 for row in found["rate_control"].values())
    assert out.with_suffix(".png").stat().st_size > 1000
    text = page.read_text()
    assert text.startswith("before\n<!-- cost -->\n")
    assert text.endswith("\n<!-- /cost -->\nafter\n")
    assert "`GradCam`, mobilenet_v2, batch 2 | forward pass |" in text
    assert "old" not in text


def write_scenes(folder, count):
    for image, label in Scenes(count, seed=3):
        path = folder / str(label) / f"{len(list(folder.rglob('*.png')))}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.resize((180, 180)).save(path)


def test_the_benchmark_of_tables_searches_and_compares(tmp_path):
    write_scenes(tmp_path, 4)
    command = [
        sys.executable,
        str(BENCHMARKS / "bench_tables.py"),
        str(tmp_path),
        "--network",
        "foveate.demo:scene_net",
    ]
    search, proof = (
        subprocess.run([*command, *more], check=True, timeout=280, capture_output=True, text=True).stdout
        for more in (["--search"], [])
    )
    gains = [float(line.split("]")[1].split("%")[0]) for line in search.splitlines()[:-1]]
    assert len(gains) > 16
    assert max(gains) > gains[0]
    assert search.splitlines()[-1].count("(") == 3
    assert proof.splitlines()[0] == "| n = 2 | scene_net |"
    assert [line.split("|")[1].strip() for line in proof.splitlines()[2:]] == [
        "scale 1",
        "scale 0.5",
        "best of all scales",
    ]


def test_the_benchmark_of_edits_goes_on_where_it_stopped_and_is_told(tmp_path):
    photos, out, page = tmp_path / "photos", tmp_path / "out", tmp_path / "RESULTS.md"
    write_scenes(photos, 6)
    command = [sys.executable, str(BENCHMARKS / "bench_preedit.py"), str(photos), str(out), "--limit", "6"]
    command += ["--network", "foveate.demo:scene_net", "--network", f"{RECIPES}:small_scenes", "--steps", "2"]
    groups = ["plain jpeg", "known jpeg 0", "left out 0", "objectives"]
    for chosen in (groups[1:2], groups):
        subprocess.run([*command, *(f"--study={group}" for group in chosen)], check=True, timeout=280)
    records = [json.loads(line) for line in (out / "records-0-of-1.jsonl").read_text().splitlines()]
    assert len(records) == 6 * (32 + 1 + 2 + 5)
    assert len({(record["arm"], record["photo"]) for record in records}) == len(records)
    for record in records:
        assert record["bytes"] > 100
        assert record["ms_ssim"] > 0.3
        for judgment in record["judges"].values():
            assert judgment["kl"] >= -1e-6
            assert {judgment["same"], judgment["right of a copy"]} <= {0.0, 1.0}
    page.write_text("before\n<!-- edits -->\nold\n<!-- /edits -->\nafter\n")
    section = [sys.executable, str(BENCHMARKS / "edit_section.py"), str(out), str(page)]
    subprocess.run(section, check=True, timeout=280)
    text = page.read_text()
    assert text.startswith("before\n<!-- edits -->\n")
    assert text.endswith("\n<!-- /edits -->\nafter\n")
    assert "old" not in text
    for words in ("scale 0.7, n = 6 |", "| scene_net | ", ", n = 6 |", "networks, the network **left out**"):
        assert words in text


def test_the_benchmark_of_editors():
    command = [sys.executable, str(BENCHMARKS / "bench_editor.py"), "--limit", "8", "--gradient", "2"]
    lines = subprocess.run(command, check=True, timeout=280, capture_output=True, text=True).stdout.splitlines()
    assert sum(line.startswith("| editor, strength") for line in lines) == 2 * 3 + 1
    assert sum(line.startswith("| by gradient") for line in lines) == 1
    assert "scene_net (in its loss) | scene_net_small (not in its loss)" in lines[0]
    assert lines[-1].startswith("editor: ")


def test_the_benchmark_of_unseen_networks_measures_once_and_tells(tmp_path):
    photos, out, page = tmp_path / "photos", tmp_path / "out", tmp_path / "RESULTS.md"
    write_scenes(photos, 8)
    command = [sys.executable, str(BENCHMARKS / "bench_unseen.py"), str(photos), str(out), "--limit", "8"]
    for network in ("foveate.demo:scene_net", "foveate.demo:scene_net:scene_net_small", f"{RECIPES}:small_scenes"):
        command += ["--network", network]
    command += ["--lpips", "torchvision.models:squeezenet1_1", "--codec", "jpeg"]
    page.write_text("before\n<!-- unseen -->\nold\n<!-- /unseen -->\nafter\n")
    plot = ["--plot", str(tmp_path / "plot.png")]
    subprocess.run([*command, "--into", str(page), *plot], check=True, timeout=280)
    text = page.read_text()
    assert text.startswith("before\n<!-- unseen -->\n")
    assert text.endswith("\n<!-- /unseen -->\nafter\n")
    assert "old" not in text
    for words in ("n = 8: left out | scene_net | scene_net_small | small_scenes |", "| by no network at all | ",
                  "| by 1 of them, taught by the others | ", "kept, of the answers asked for | 75 % |"):  # fmt: skip
        assert words in text
    assert (tmp_path / "plot.png").stat().st_size > 1000
    measured = out / "unseen-jpeg.npz"
    before = measured.stat().st_mtime_ns
    again = subprocess.run(command, check=True, timeout=280, capture_output=True, text=True).stdout
    assert measured.stat().st_mtime_ns == before
    assert again.strip() in text


def test_the_benchmark_of_unseen_networks_joins_edits_to_the_other_points(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench_unseen

    from foveate.evaluation import SampleFolder
    from foveate.models import LazyClassifier
    from foveate.rate_control import MsSsim

    monkeypatch.setattr(bench_unseen, "STEPS", 2)
    monkeypatch.setattr(bench_unseen, "SCALES", (0.5, 1.0))
    monkeypatch.setattr(bench_unseen, "LADDERS", {"jpeg": (8, 95)})
    write_scenes(tmp_path, 6)
    specs = ("foveate.demo:scene_net", "foveate.demo:scene_net:scene_net_small", f"{RECIPES}:small_scenes")
    networks = {LazyClassifier(spec).name: LazyClassifier(spec, bench_unseen.PREPROCESS) for spec in specs}
    samples, context = SampleFolder(tmp_path), (networks, [], [MsSsim()])
    bench_unseen.complete(tmp_path / "plain.npz", samples, 4, [bench_unseen.plain_arm("jpeg")], *context)
    bench_unseen.complete(tmp_path / "plain.npz", samples, None, [bench_unseen.plain_arm("jpeg")], *context)
    plain = dict(np.load(tmp_path / "plain.npz"))
    assert len({*plain["names"].tolist()}) == 6
    arms = bench_unseen.edited_arms("jpeg", networks, [])
    edited = bench_unseen.measure(samples, [3, 1, 4, 0], arms, *context)
    assert [arm.left_out for arm in arms] == [*networks]
    joined = bench_unseen.joined(edited, plain, "scene_net_small")
    count = len(arms[0].points)
    assert joined["bytes"].shape == (4, count + 4)
    np.testing.assert_array_equal(joined["bytes"][:, :count], edited["bytes"][:, count : 2 * count])
    row = plain["names"].tolist().index(edited["names"][2])
    np.testing.assert_array_equal(joined["lead"][2, :, count:], plain["lead"][row])
    assert joined["points"][-1].tolist() == [0, 1, 95]
    without = bench_unseen.joined(edited, plain, None)
    np.testing.assert_array_equal(without["closeness"], joined["closeness"][..., count:])
    text = bench_unseen.section_edited(edited, plain, "jpeg")
    for words in ("JPEG WITH AN EDIT, n = 4: left out | scene_net | scene_net_small | small_scenes |",
                  "| the edit alone, at fixed points | ", "| P(keep) with the edit, as shipped | ",
                  "| P(keep) without it | "):  # fmt: skip
        assert words in text
