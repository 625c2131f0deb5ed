"""The answer first: how small the images get, whether the answers stay, and the command that does it."""

import base64
import csv
import io
import json
import os
import re
import shlex
import subprocess
from argparse import Namespace
from dataclasses import replace

import pytest
import torch
from PIL import Image

from foveate import Compressor, RateControl, TargetSize
from foveate.cli import _evaluate
from foveate.cli._command import compress_command
from foveate.cli._compress import _compressor
from foveate.cli._main import _parser, main
from foveate.demo import PREPROCESS, Scenes, scene_net
from foveate.evaluation import Comparison, Judge, SampleFolder, evaluate, measure
from foveate.evaluation._bootstrap import wilson
from foveate.evaluation._ladder import coarser_points, in_curves
from foveate.evaluation.report import answer, headlines, text_table
from foveate.identity import identity_in_memory
from foveate.images import as_tensor
from foveate.models import Classifier

NET = ["--resize", "160", "--crop", "160", "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"]


@pytest.fixture(scope="module")
def judges():
    nets = [("scene_net", True), ("scene_net_small", False)]
    return [Judge(Classifier(name, scene_net(name), PREPROCESS), known) for name, known in nets]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    scenes = Scenes(20)
    for k in range(20):
        image, label = scenes[k]
        path = folder / f"{label}" / f"{k}.png"
        path.parent.mkdir(exist_ok=True)
        image.save(path)
    return folder


@pytest.fixture(scope="module")
def evaluation(judges, tree):
    """Of files: two qualities, the finer of which keeps every answer, and an expensive one."""
    return evaluate(SampleFolder(tree), judges, [Compressor(f"jpeg:{q}") for q in (5, 60, 95)], resamples=20)


class TestCheapest:
    def test_files_are_counted_as_they_are_on_disk(self, evaluation, tree):
        sizes = [path.stat().st_size for path in tree.rglob("*.png")]
        assert evaluation.results.file_bytes == sum(sizes) / len(sizes)
        assert answer(evaluation.results)[0].text == "your files as they are on disk (mean of 20)"

    def test_a_dataset_has_no_files(self, judges):
        results = evaluate(Scenes(10), judges, [Compressor("jpeg:60")], resamples=20).results
        assert results.file_bytes is None
        assert "your files" not in text_table(results)

    def test_is_the_cheapest_that_keeps_the_known_judge_s_answers(self, evaluation):
        least = {p.quality: p.judges["scene_net"].agreement for p in evaluation.results.points}
        assert least[5] < 0.99 <= least[60], least
        assert evaluation.results.cheapest().quality == 60
        assert evaluation.cheapest() == Compressor("jpeg:60")
        assert evaluation.results.cheapest(0).quality == 5

    def test_an_unseen_judge_is_told_but_does_not_choose(self, evaluation):
        points = [
            replace(p, judges=p.judges | {"scene_net_small": replace(p.judges["scene_net_small"], agreement=0.1)})
            for p in evaluation.results.points
        ]
        results = replace(evaluation.results, points=points)
        assert results.cheapest().quality == 60
        assert "scene_net_small, unseen, keeps 10.0% (95 %: 3 to 30 %)" in answer(results)[1].lines
        unknown = [replace(p, judges={n: replace(j, known=False) for n, j in p.judges.items()}) for p in points]
        assert replace(results, points=unknown).cheapest() is None

    def test_a_baseline_is_not_offered(self, evaluation):
        points = [replace(p, map="center") if p.quality == 60 else p for p in evaluation.results.points]
        assert replace(evaluation.results, points=points).cheapest().quality == 95

    def test_in_words(self, evaluation):
        files, cheapest = answer(evaluation.results)
        point = evaluation.results.points[1]
        ratio = evaluation.results.file_bytes / point.bytes
        assert cheapest.figure == f"{point.bytes:,.0f} B an image, {ratio:.0f}× smaller"
        assert cheapest.text.endswith("at least 99% of the answers: jpeg alone at quality 60")
        assert cheapest.lines[0] == "scene_net keeps 100.0% (95 %: 84 to 100 %)"
        first, second, *lines = text_table(evaluation.results, command="foveate compress A B").splitlines()
        assert first.startswith(files.figure)
        assert second.startswith(cheapest.figure)
        assert lines[:3] == [*(f"  {line}" for line in cheapest.lines), "  foveate compress A B"]

    def test_names_the_bound_of_a_rate_control(self, evaluation):
        curve = "jpeg, keep kl for scene_net without pre-filter"
        points = [replace(p, curve=curve, keep=f"kl{p.quality / 100}", quality=None) for p in evaluation.results.points]
        text = answer(replace(evaluation.results, points=points))[1].text
        assert text.endswith("jpeg, keep kl0.6 for scene_net without pre-filter")

    def test_where_nothing_is_good_enough_it_says_so(self, evaluation):
        results = replace(evaluation.results, points=evaluation.results.points[:1])
        card = answer(results)[1]
        assert card.figure == "not found"
        assert "the nearest is jpeg alone at quality 5" in card.lines[0]

    @pytest.mark.parametrize("keeping", [-0.1, 1.1, float("nan")])
    def test_wrong_share(self, evaluation, keeping):
        with pytest.raises(ValueError, match=r"keeping: expected a number in \[0, 1\]"):
            evaluation.results.cheapest(keeping)

    def test_interval_of_all(self):
        low, high = wilson(50, 50)
        assert (round(low, 4), high) == (0.9287, 1)  # n / (n + z²)


class TestFlatCurves:
    """Curves that are good everywhere cannot be averaged; their cheapest good points are compared."""

    def test_cheapest_points(self, evaluation):
        results = evaluation.results
        flat = [
            replace(
                p,
                curve=curve,
                keep=None,
                strength=strength,
                map=None if strength == 0 else "saliency",
                bytes=p.bytes * (1 if strength == 0 else 0.5),
                judges={n: replace(j, agreement=1.0) for n, j in p.judges.items()},
            )
            for curve, strength in (("jpeg alone", 0.0), ("jpeg, strength 0.5", 0.5))
            for p in results.points
        ]
        comparison = {
            "judge": "scene_net", "known": True, "metric": "agreement", "curve": "jpeg, strength 0.5",
            "reference": "jpeg alone", "baseline": "codec alone", "bd_rate": None, "bd_rate_interval": (None, None),
            "bd_accuracy": None, "bd_accuracy_interval": (None, None), "overlap": None, "reason": "flat",
            "verdict": "open",
        }  # fmt: skip
        card = headlines(replace(results, points=flat, comparisons=[Comparison(**comparison)]))[0]
        assert card.figure == "50.0% fewer bytes"
        assert "than jpeg alone at quality 5" in card.text
        assert "100.0% agreement" in card.text
        short = [replace(p, judges={n: replace(j, agreement=0.5) for n, j in p.judges.items()}) for p in flat[:3]]
        card = headlines(replace(results, points=[*short, *flat[3:]], comparisons=[Comparison(**comparison)]))[0]
        assert card.figure == "no comparison"


class TestLadder:
    def test_goes_down_while_it_is_flat(self, judges):
        easy = evaluate(
            Scenes(10), judges[:1], [Compressor("jpeg:80"), Compressor("jpeg:90")], resamples=20, coarser=["jpeg"]
        ).results
        qualities = [p.quality for p in easy.points]
        assert qualities == sorted(qualities)
        assert qualities[-2:] == [80, 90]
        assert len(qualities) > 2
        kept = [p.judges["scene_net"].agreement for p in easy.points]
        assert kept[0] < 0.98 or qualities[0] == 1
        assert all(share >= 0.98 for share in kept[1:3])

    def test_only_what_may_goes_down_half_way(self, judges):
        compressors = [Compressor("webp:90"), *(Compressor(f"jpeg:{q}") for q in (90, 95))]
        measured = measure(Scenes(4), judges[:1], compressors)
        assert coarser_points(measured, ["jpeg"]) == [Compressor("jpeg:45")]

    def test_what_loses_answers_stays(self, judges):
        measured = measure(Scenes(20), judges[:1], [Compressor("jpeg:1"), Compressor("jpeg:90")])
        assert coarser_points(measured, ["jpeg"]) == []

    def test_order(self):
        control = RateControl(["foveate.demo:scene_net"], keep="top1")
        fixed = [Compressor(f"{c}:{q}") for q in (50, 20) for c in ("jpeg", "avif", "webp")]
        others = [Compressor("jpeg", control=control), Compressor("jpeg", target=TargetSize(bpp=1))]
        codecs = [str(c.codec) for c in in_curves([*others, *fixed[::3], Compressor("hevc:20"), Compressor("hevc:40")])]
        assert codecs == ["jpeg:20", "jpeg:50", "hevc:40", "hevc:20", *(str(c.codec) for c in others)]


OPTIONS = [
    [],
    ["--codec", "webp:method=2", "--quality", "30"],
    ["--strength", "0.4", "--sigma", "2", "--filter", "guided", "--scale", "0.7"],
    ["--keep", "same", "--strength", "0"],
    ["--keep", "p0.8+kl0.2", "--witness", "foveate.demo:scene_net", "--floor", "8", "--strength", "0,0.3"],
    ["--edit-with", "foveate.demo:scene_net", "--edit-steps", "3", "--edit-limit", "30,25", "--strength", "0.5"],
    ["--saliency", '{"method": "ActivationMap"}', "--strength", "0.5", "--formats", "DDS"],
]


class TestCommand:
    @pytest.mark.parametrize("options", OPTIONS)
    def test_makes_the_same_compressor(self, options, tree, tmp_path, monkeypatch):
        words = ["evaluate", str(tree), "--model", "foveate.demo:scene_net", "--codec", "jpeg", *options, *NET]
        args = _parser().parse_args(words)
        compressors = []
        monkeypatch.setattr(_evaluate, "_points", keep(_evaluate._points, compressors))
        monkeypatch.setattr(_evaluate, "_controlled", keep(_evaluate._controlled, compressors))
        _evaluate.prepare(args)
        assert compressors
        for compressor in compressors:
            program, command, source, target, *rest = shlex.split(compress_command(args, compressor))
            assert (program, command, source, target) == ("foveate", "compress", str(tree), "SMALL")
            again = _compressor(_parser().parse_args([command, source, target, *rest]))
            assert normal(again) == normal(compressor)

    def test_is_printed_and_runs(self, tree, tmp_path, capsys):
        out = tmp_path / "report"
        words = ["--codec", "webp", "--strength", "0", "--keep", "same", "--out", str(out), "--resamples", "20"]
        assert main(["evaluate", str(tree), "--model", "foveate.demo:scene_net", *NET, *words]) == 0
        lines = capsys.readouterr().out.splitlines()
        command = next(line.strip() for line in lines if line.startswith("  foveate compress"))
        page = (out / "report.html").read_text()
        assert "your files as they are on disk" in page
        assert "foveate compress" in page
        small = tmp_path / "small"
        assert main([str(small) if word == "SMALL" else word for word in shlex.split(command)[1:]]) == 0
        assert len(list(small.rglob("*.webp"))) == 20

    def test_a_folder_of_any_name(self, tree, tmp_path):
        strange = os.fsdecode(b"it's a\n'cat' \\ \xff.d")
        (tmp_path / strange).symlink_to(tree)
        words = ["evaluate", str(tmp_path / strange), "--model", "foveate.demo:scene_net"]
        line = compress_command(_parser().parse_args(words), Compressor("jpeg:20"))
        assert line.isprintable()
        shell = f"printf '%s\\0' {line}"
        words = subprocess.run(["bash", "-c", shell], capture_output=True, check=True).stdout.split(b"\0")
        assert words[2] == os.fsencode(tmp_path / strange)


def keep(function, into):
    def call(*args):
        compressors = function(*args)
        into.extend(compressors)
        return compressors

    return call


def normal(compressor):
    """What a compressor depends on, as text; models by recipe and as modules are one."""
    prefilter, control = compressor.prefilter, compressor.control
    filters = prefilter is not None and compressor.filters
    saliency = compressor.used_saliency
    return Namespace(
        codec=compressor.codec.family if control else str(compressor.codec),
        scale=compressor.scale,
        prefilter=None if not filters else (type(prefilter), prefilter.strength, getattr(prefilter, "filter", None),
                                            getattr(prefilter, "sigma", None), getattr(prefilter, "steps", None),
                                            getattr(prefilter, "limit", None)),
        saliency=None if saliency is None else type(saliency),
        map=None if saliency is None else torch.as_tensor(saliency(as_tensor(Scenes(1)[0][0], 'scene')[None])).tolist(),
        control=None if control is None else (control.keeps, control.as_stored, control.floor,
                                              control.strengths, control.qualities,
                                              [w.name for w in control.witnesses],
                                              [identity_in_memory(w) for w in control.witnesses]),
    )  # fmt: skip


class TestOutput:
    """What ``foveate evaluate`` prints and writes besides its report."""

    WORDS = ("--codec", "jpeg", "--quality", "20,60", "--strength", "0", "--resamples", "20")

    def test_csv_plot_and_json(self, tree, tmp_path, capsys):
        files = tmp_path / "points.csv", tmp_path / "rate.png"
        words = [*self.WORDS, "--out", str(tmp_path / "out"), "--csv", str(files[0]), "--plot", str(files[1]), "--json"]
        judge = ["--judge", "foveate.demo:scene_net:scene_net_small"]
        assert main(["evaluate", str(tree), "--model", "foveate.demo:scene_net", *judge, *NET, *words]) == 0
        text = capsys.readouterr().out
        assert text == (tmp_path / "out" / "results.json").read_text()
        points = json.loads(text)["points"]
        rows = list(csv.DictReader(files[0].open()))
        assert len(rows) == 2 * len(points) == 4
        assert [float(row["bytes"]) for row in rows[::2]] == [p["bytes"] for p in points]
        assert rows[1]["judge"] == "scene_net_small"
        assert float(rows[1]["agreement"]) == points[0]["judges"]["scene_net_small"]["agreement"]
        assert (rows[0]["keep"], rows[0]["known"]) == ("", "True")
        with Image.open(files[1]) as image:
            width, height = image.size
            assert height > width  # one judge above the other

    @pytest.mark.parametrize(("ending", "head"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
    def test_other_figures(self, tree, tmp_path, capsys, ending, head):
        plot = tmp_path / f"rate.{ending}"
        words = [*self.WORDS, "--limit", "2", "--out", str(tmp_path / "out"), "--plot", str(plot), "--quiet"]
        assert main(["evaluate", str(tree), "--model", "foveate.demo:scene_net", *NET, *words]) == 0
        assert plot.read_bytes().startswith(head)
        printed = capsys.readouterr()
        assert "images:" not in printed.err
        assert printed.out.splitlines()[-1].startswith("  foveate compress")
        assert "setting" not in printed.out.split()

    @pytest.mark.parametrize(
        ("words", "cure"),
        [
            (["--plot", "rate.gif"], "expected a name that ends in .pdf, .png or .svg, got rate.gif"),
            (["--csv", "nowhere/points.csv"], "there is no folder nowhere"),
            (["--plot", "nowhere/rate.pdf"], "there is no folder nowhere"),
        ],
    )
    def test_wrong_files(self, tree, capsys, words, cure):
        assert main(["evaluate", str(tree), "--model", "foveate.demo:scene_net", *words]) == 2
        assert cure in capsys.readouterr().err


class TestInANotebook:
    def test_short_texts(self, evaluation):
        encoded = Compressor("jpeg:5", scale=0.5).encode_one(Scenes(1)[0][0])
        size = f"{len(encoded.data):,} bytes of jpeg:5, 160×160, {encoded.bpp:.3f} bpp"
        assert repr(encoded) == f"Encoded({size}, scale 0.5)"
        kept = Compressor("jpeg", control=RateControl(["foveate.demo:scene_net"])).encode_one(Scenes(1)[0][0])
        assert repr(kept).startswith("Controlled(")
        assert len(repr(kept)) < 120
        text = "(20 images before scene_net, scene_net_small: 3 points, jpeg alone)"
        assert (repr(evaluation), repr(evaluation.results)) == (f"Evaluation{text}", f"Results{text}")

    def test_a_bitstream_shows_itself(self):
        for pixels in (torch.rand(3, 40, 700), torch.rand(1, 40, 50)):
            encoded = Compressor("webp:50", scale=0.9).encode([pixels])[0]
            shown = encoded._repr_html_()
            assert shown.startswith(f"<p>Encoded({len(encoded.data):,} bytes of webp:50, 40×")
            data = base64.b64decode(re.search("base64,([^']+)'", shown)[1])
            assert Image.open(io.BytesIO(data)).width == (512 if pixels.shape[2] == 700 else 45)

    @pytest.mark.parametrize("of", ["evaluation", "results"])
    def test_an_evaluation_shows_itself(self, evaluation, of):
        shown = (evaluation if of == "evaluation" else evaluation.results)._repr_html_()
        assert shown.count("<tr>") == 1 + 3
        assert "your files as they are on disk" in shown
        assert shown.count("<svg") == 1
