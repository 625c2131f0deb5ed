"""Measured values are kept: a run that is killed continues, and ends as one that was not."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from foveate import Compressor, GradCam, Prefilter
from foveate.demo import PREPROCESS, Scenes, scene_net
from foveate.evaluation import Judge, Records, baselines_for, evaluate, measure
from foveate.models import Classifier

RUN = """
import sys
import torch
torch.set_num_threads(1)
from foveate import Compressor, GradCam, Prefilter
from foveate.demo import PREPROCESS, Scenes, scene_net
from foveate.evaluation import Judge, baselines_for, evaluate
from foveate.models import Classifier
judges = [Judge(Classifier(n, scene_net(n), PREPROCESS), n == "scene_net") for n in ("scene_net", "scene_net_small")]
prefilter = Prefilter(GradCam(judges[0].classifier.model, preprocess=PREPROCESS))
points = [Compressor(f"jpeg:{q}", p) for p in (None, prefilter) for q in (6, 30)]
evaluate(Scenes(6, seed=5), judges, points + baselines_for(points), sys.argv[1], resamples=100)
"""


@pytest.fixture
def judge():
    return Judge(Classifier("small", scene_net("scene_net_small"), PREPROCESS), known=False)


@pytest.fixture
def batches(judge, monkeypatch):
    """The numbers of images shown to the judge at once."""
    counts = []
    ask = Classifier.forward
    monkeypatch.setattr(Classifier, "forward", lambda self, x: counts.append(len(x)) or ask(self, x))
    return counts


def start(out):
    return subprocess.Popen([sys.executable, "-c", RUN, out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class TestKilled:
    def test_at_random_moments_it_ends_as_an_undisturbed_run(self, tmp_path):
        whole, broken = tmp_path / "whole", tmp_path / "broken"
        assert start(whole).wait(300) == 0
        size = (whole / "records.jsonl").stat().st_size
        moments = torch.rand(2, generator=torch.Generator().manual_seed(os.getpid())).sort().values.tolist()
        kills = 0
        for moment in moments:
            process = start(broken)
            records = broken / "records.jsonl"
            while process.poll() is None and (not records.exists() or records.stat().st_size < moment * size):
                time.sleep(0.01)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.wait()
        assert kills
        assert not (broken / "results.json").exists()
        assert start(broken).wait(300) == 0
        assert (broken / "results.json").read_text() == (whole / "results.json").read_text()
        assert (broken / "records.jsonl").read_text() == (whole / "records.jsonl").read_text()
        assert (broken / "report.html").read_text() == (whole / "report.html").read_text()

    def test_a_torn_last_line_is_dropped(self, judge, tmp_path):
        points = [Compressor("jpeg:20")]
        evaluate(Scenes(3), [judge], points, tmp_path)
        text = (tmp_path / "records.jsonl").read_text()
        (tmp_path / "records.jsonl").write_text(text[:-20])
        evaluate(Scenes(3), [judge], points, tmp_path)
        assert (tmp_path / "records.jsonl").read_text() == text


class TestOnlyWhatIsMissing:
    def test_nothing_the_second_time(self, judge, batches, tmp_path):
        for _ in range(2):
            evaluation = evaluate(Scenes(3), [judge], [Compressor("jpeg:20")], tmp_path)
        assert batches == [2, 2, 2]
        assert evaluation.results.points[0].n == 3

    def test_another_point_computes_that_point(self, judge, batches, tmp_path):
        evaluate(Scenes(3), [judge], [Compressor("jpeg:20")], tmp_path)
        del batches[:]
        resumed = evaluate(Scenes(3), [judge], [Compressor("jpeg:20"), Compressor("jpeg:40")], tmp_path)
        assert batches == [2, 2, 2]  # the image itself, for the divergence, and the new point
        fresh = evaluate(Scenes(3), [judge], [Compressor("jpeg:20"), Compressor("jpeg:40")])
        assert resumed.results == fresh.results

    def test_more_images_compute_those(self, judge, batches, tmp_path):
        evaluate(Scenes(3), [judge], [Compressor("jpeg:20")], tmp_path)
        del batches[:]
        assert evaluate(Scenes(5), [judge], [Compressor("jpeg:20")], tmp_path).results.points[0].n == 5
        assert batches == [2, 2]

    def test_another_judge_asks_that_judge(self, judge, tmp_path):
        points = [Compressor("jpeg:20"), Compressor("jpeg:40")]
        evaluate(Scenes(3), [judge], points, tmp_path)
        other = Judge(Classifier("large", scene_net(), PREPROCESS), known=False)
        resumed = evaluate(Scenes(3), [judge, other], points, tmp_path)
        assert resumed.results == evaluate(Scenes(3), [judge, other], points).results

    def test_other_weights_are_measured_again(self, judge, batches, tmp_path):
        evaluate(Scenes(2), [judge], [Compressor("jpeg:20")], tmp_path)
        judge.classifier.model.head.weight.data += 1
        evaluate(Scenes(2), [judge], [Compressor("jpeg:20")], tmp_path)
        assert batches == [2, 2, 2, 2]

    def test_fidelity_later(self, judge, tmp_path):
        points = [Compressor("jpeg:20")]
        assert evaluate(Scenes(2), [judge], points, tmp_path).results.points[0].psnr is None
        assert evaluate(Scenes(2), [judge], points, tmp_path, fidelity=True).results.points[0].psnr > 20

    def test_a_label_that_changed_is_taken_over(self, judge, batches, tmp_path):
        pairs = [(Scenes(2)[k][0], k) for k in range(2)]
        evaluate(pairs, [judge], [Compressor("jpeg:20")], tmp_path)
        moved = evaluate([(p, 7) for p, _ in pairs], [judge], [Compressor("jpeg:20")], tmp_path)
        assert moved.measured.labels.tolist() == [7, 7]
        assert [p["label"] for p in Records.load(tmp_path / "records.jsonl").images.values()] == [7, 7]
        assert len(batches) == 2

    def test_an_image_that_comes_twice_is_measured_once(self, judge, batches):
        scene = Scenes(1)[0][0]
        measured = measure([(scene, 0), (scene, 1)], [judge], [Compressor("jpeg:20")])
        assert len(batches) == 1
        assert measured.labels.tolist() == [0, 1]

    def test_a_donor_s_map_is_the_same_after_a_break(self, judge, tmp_path):
        """The baseline of another image's map rests on the image before, even if that one was measured already."""
        prefilter = Prefilter(GradCam(judge.classifier.model, preprocess=PREPROCESS))
        points = baselines_for([Compressor("jpeg:20", prefilter)])
        evaluate(Scenes(6), [judge], points, tmp_path)
        path = tmp_path / "records.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:-2]))
        evaluate(Scenes(6), [judge], points, tmp_path)
        assert path.read_text() == "".join(lines)

    def test_with_more_images_the_donors_are_those_of_a_fresh_run(self, judge, tmp_path):
        prefilter = Prefilter(GradCam(judge.classifier.model, preprocess=PREPROCESS))
        points = baselines_for([Compressor("jpeg:20", prefilter)])
        evaluate(Scenes(3), [judge], points, tmp_path, resamples=5)
        grown = evaluate(Scenes(6), [judge], points, tmp_path, resamples=5)
        assert grown.results == evaluate(Scenes(6), [judge], points, resamples=5).results

    def test_an_image_after_its_own_double_takes_its_map(self, judge):
        prefilter = Prefilter(GradCam(judge.classifier.model, preprocess=PREPROCESS))
        points = baselines_for([Compressor("jpeg:20", prefilter)])
        doubles = [(Scenes(1)[0][0], 0)] * 2
        measured = measure(doubles, [judge], [Compressor("jpeg:20", prefilter), *points])
        assert len({tuple(row) for row in measured.bytes[[0, 3]].tolist()}) == 1  # another's map is then its own

    def test_running_again_writes_nothing(self, judge, tmp_path):
        """Even if an image comes under two names."""
        twice = [(Scenes(2)[k % 2][0], k % 2) for k in range(4)]
        for _ in range(2):
            evaluate(twice, [judge], [Compressor("jpeg:20")], tmp_path, resamples=5)
        assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 1 + 2 + 2


NUL = bytes(4096)
DAMAGE = {
    "cut": (lambda lines: [*lines[:-1], lines[-1][:-9]], 7),
    "cut before its newline": (lambda lines: [*lines[:-1], lines[-1][:-1]], 7),
    "zeros": (lambda lines: [*lines[:-1], NUL], 7),
    "zeros behind a sound line": (lambda lines: [*lines, NUL], 8),
    "several": (lambda lines: [*lines[:-3], lines[-3][:40] + b"\n", b"\xff\xfe\n", lines[-1][:9]], 5),
    "one in the middle": (lambda lines: [*lines[:3], lines[3][:50] + NUL + b"\n", *lines[4:]], 4),
    "a digit": (lambda lines: [*lines[:3], lines[3].replace(b'"label":', b'"label":1'), *lines[4:]], 4),
    "the first": (lambda lines: [NUL + lines[0], *lines[1:]], 1),
    "the first, and only that is there": (lambda lines: [lines[0][:5]], 1),
    "a key": (lambda lines: [lines[0], b"{}{}\n", *lines[2:]], 2),
}


class TestDamage:
    @pytest.mark.parametrize("kind", DAMAGE)
    def test_what_is_damaged_is_measured_again(self, kind, judge, batches, tmp_path, caplog):
        damage, number = DAMAGE[kind]
        path = tmp_path / "records.jsonl"
        whole = evaluate(Scenes(4), [judge], [Compressor("jpeg:20")], tmp_path, resamples=5)
        lines = path.read_bytes().splitlines(keepends=True)
        assert len(lines) == 1 + 2 + 4
        damaged = b"".join(damage(lines))
        path.write_bytes(damaged)
        del batches[:]
        again = evaluate(Scenes(4), [judge], [Compressor("jpeg:20")], tmp_path, resamples=5)
        assert again.results == whole.results
        assert len(batches) == 4 - sum(line in damaged for line in lines[3:])
        assert f"damaged lines of {path} are left out, the first is line {number}:" in caplog.text
        assert sorted(path.read_bytes().splitlines()) == sorted(b"".join(lines).splitlines())
        caplog.clear()
        Records.load(path)
        assert not caplog.text

    def test_loading_leaves_out_too_and_does_not_write(self, judge, tmp_path, caplog):
        path = tmp_path / "records.jsonl"
        evaluate(Scenes(2), [judge], [Compressor("jpeg:20")], tmp_path, resamples=5)
        path.write_bytes(damaged := path.read_bytes()[:-5])
        assert len(Records.load(path).images) == 1
        assert f"of {path} are left out" in caplog.text
        assert path.read_bytes() == damaged

    def test_lines_without_sums_are_read_as_they_are(self, judge, batches, tmp_path, caplog):
        path = tmp_path / "records.jsonl"
        evaluate(Scenes(2), [judge], [Compressor("jpeg:20")], tmp_path, resamples=5)
        edited = b"".join(re.sub(rb',"sum":"[0-9a-f]{8}"', b"", line) for line in path.read_bytes().splitlines(True))
        path.write_bytes(edited)
        del batches[:]
        evaluate(Scenes(3), [judge], [Compressor("jpeg:20")], tmp_path, resamples=5)
        assert len(batches) == 1
        assert path.read_bytes().startswith(edited)
        assert not caplog.text
        path.write_bytes(edited[:-20])
        evaluate(Scenes(2), [judge], [Compressor("jpeg:20")], tmp_path, resamples=5)
        assert len(batches) == 2

    def test_what_is_written_is_on_the_disk_after_a_while_and_in_the_end(self, judge, tmp_path, monkeypatch):
        synced = []
        path = tmp_path / "records.jsonl"
        fsync = os.fsync
        monkeypatch.setattr(os, "fsync", lambda file: synced.append(path.stat().st_size) or fsync(file))
        now = [0.0]
        monkeypatch.setattr("foveate.evaluation.records.time.monotonic", lambda: now[0])
        with Records.on_disk(path) as records:
            records.add("a", {"label": 1})
            assert synced == []
            now[0] = 60.0
            records.add("b", {"label": 1})
            assert synced == [path.stat().st_size]
            records.add("c", {"label": 1})
        assert synced[1:] == [path.stat().st_size]


class TestTheFile:
    def test_it_says_what_its_keys_are(self, judge, tmp_path):
        evaluate(Scenes(2), [judge], [Compressor("webp:20")], tmp_path)
        lines = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
        assert lines[0]["records"] == 3
        texts = {line["key"]: line["is"] for line in lines if "key" in line}
        image = lines[-1]
        assert image["size"] == [160, 160]
        assert texts[next(iter(image["points"]))].startswith("webp:20 libwebp")
        assert texts[next(iter(image["clean"]))].startswith("SceneNet(")

    @pytest.mark.parametrize("text", ['{"records":2}\n', "nonsense\n", "[]\n", '{"key":3}\n{"records":3}\n'])
    def test_another_file_is_named_and_left_alone(self, text, judge, tmp_path):
        (tmp_path / "records.jsonl").write_text(text)
        with pytest.raises(ValueError, match=r"records: .*records.jsonl is .* delete the file to measure again"):
            evaluate(Scenes(2), [judge], [Compressor("jpeg:20")], tmp_path)
        assert (tmp_path / "records.jsonl").read_text() == text

    def test_two_runs_on_one_folder_are_refused(self, judge, tmp_path):
        with (
            Records.on_disk(tmp_path / "records.jsonl"),
            pytest.raises(RuntimeError, match="another evaluation is writing to"),
        ):
            evaluate(Scenes(2), [judge], [Compressor("jpeg:20")], tmp_path)
        evaluate(Scenes(2), [judge], [Compressor("jpeg:20")], tmp_path)
