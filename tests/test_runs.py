import json

import pytest
import torch

from foveate import Compressor
from foveate.cli import main
from foveate.demo import PREPROCESS, Scenes, scene_net
from foveate.evaluation import Judge, evaluate
from foveate.evaluation.runs import compare_runs, text
from foveate.models import Classifier


@pytest.fixture(scope="module")
def judge():
    return Judge(Classifier("small", scene_net("scene_net_small"), PREPROCESS), known=False)


@pytest.fixture(scope="module")
def runs(judge, tmp_path_factory):
    """A, and B with Huffman tables that are not as good: the same pixels for more bytes; and C with fewer images."""
    root = tmp_path_factory.mktemp("runs")
    evaluate(Scenes(20, seed=8), [judge], [Compressor(f"jpeg:{q}") for q in (5, 12, 40)], root / "a")
    evaluate(Scenes(10, seed=8), [judge], [Compressor(f"jpeg:{q}") for q in (5, 12, 41)], root / "c")
    evaluate(Scenes(20, seed=8), [judge], [Compressor(f"jpeg:{q}") for q in (5, 12, 40)], root / "b")
    # B's bitstreams are 10 % longer, and one answer in five of its coarsest point is another.
    lines = [json.loads(line) for line in (root / "b" / "records.jsonl").read_text().splitlines()]
    key = json.loads((root / "b" / "results.json").read_text())["points"][0]["key"]
    for number, line in enumerate(line for line in lines if "image" in line):
        for cell in line["points"].values():
            cell["bytes"] += cell["bytes"] // 10
        if number % 5 == 0:
            for answers in line["points"][key]["judges"].values():
                answers[0] = [(answers[0][0] + 1) % 10, *answers[0][1:]]
    (root / "b" / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def test_a_run_against_itself_differs_in_nothing(runs):
    changes = compare_runs(runs / "a", runs / "a" / "results.json")
    assert changes.n == 20
    assert {p.bytes for p in changes.points} == {(0.0, (0.0, 0.0))}
    assert all(change == (0.0, (0.0, 0.0)) for p in changes.points for m in p.judges.values() for change in m.values())
    assert {c.compared["verdict"] for c in changes.curves} == {"open"}
    assert "no difference is shown" in text(changes)


def test_what_changed_is_found_with_paired_intervals(runs):
    changes = compare_runs(runs / "a", runs / "b")
    assert [(p.curve, p.quality) for p in changes.points] == [("jpeg alone", q) for q in (5, 12, 40)]
    for point in changes.points:
        share, (low, high) = point.bytes
        assert share == pytest.approx(0.1, abs=0.002)
        assert high - low < 0.001  # paired: the spread of the sizes themselves is far wider
    coarse, middle = (p.judges["small"]["agreement"] for p in changes.points[:2])
    assert -0.2 <= coarse[0] <= 0.2
    assert coarse[0] != 0
    assert middle == (0.0, (0.0, 0.0))
    whole = next(c for c in changes.curves if c.metric == "agreement")
    assert whole.compared["bd_rate"] > 0.05
    back = next(c for c in compare_runs(runs / "b", runs / "a").curves if c.metric == "agreement")
    assert (1 + whole.compared["bd_rate"]) * (1 + back.compared["bd_rate"]) == pytest.approx(1)


def test_on_what_both_have(runs):
    changes = compare_runs(runs / "a", runs / "c")
    assert changes.n == 10
    assert [p.quality for p in changes.points] == [5, 12]
    assert (changes.only_a, changes.only_b) == ([], [])


def test_the_command(runs, capsys):
    assert main(["compare", str(runs / "a" / "results.json"), str(runs / "b" / "results.json")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("B against A on the 20 images of both")
    assert "jpeg alone, quality 12: +10.0 % bytes" in printed


def test_what_cannot_be_compared(runs, judge, tmp_path, capsys):
    evaluate(Scenes(3, seed=1), [judge], [Compressor("jpeg:5")], tmp_path / "other")
    with pytest.raises(ValueError, match="no image in common"):
        compare_runs(runs / "a", tmp_path / "other")
    evaluate(Scenes(20, seed=8), [judge], [Compressor("webp:5")], tmp_path / "webp")
    with pytest.raises(ValueError, match="no operating point in common"):
        compare_runs(runs / "a", tmp_path / "webp")
    named = Judge(Classifier("else", judge.classifier.model, PREPROCESS), known=False)
    evaluate(Scenes(20, seed=8), [named], [Compressor("jpeg:5")], tmp_path / "named")
    with pytest.raises(ValueError, match="no judge in common"):
        compare_runs(runs / "a", tmp_path / "named")
    (tmp_path / "other" / "records.jsonl").unlink()
    assert main(["compare", str(runs / "a"), str(tmp_path / "other")]) == 2
    assert "values of every image" in capsys.readouterr().err
    assert main(["compare", str(runs / "a"), str(tmp_path / "nowhere")]) == 2
    assert "there is no" in capsys.readouterr().err


def test_the_random_state_is_not_touched(runs):
    before = torch.get_rng_state()
    compare_runs(runs / "a", runs / "c")
    assert torch.equal(before, torch.get_rng_state())
