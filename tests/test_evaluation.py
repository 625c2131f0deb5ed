import dataclasses
import errno
import io
import json
import os
import re
import shutil
import struct
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from conftest import RECIPES
from PIL import Image

from foveate import Compressor, GradCam, Jpeg, Prefilter, Progress, RateControl, TargetSize
from foveate.cli import main
from foveate.demo import CLASSES, PREPROCESS, Scenes, scene_net
from foveate.evaluation import (
    Judge,
    Records,
    Results,
    Sample,
    SampleFolder,
    UnreadableError,
    as_samples,
    baselines_for,
    choose_exhibits,
    evaluate,
    measure,
    plots,
    saved_at_equal,
    summarize,
)
from foveate.evaluation._samples import wnids
from foveate.evaluation._settings import Setting
from foveate.evaluation.report import headlines, page, span, text_table, verdicts
from foveate.evaluation.results import json_schema
from foveate.images import as_tensor, read, to_array
from foveate.models import Classifier, Preprocess, load_classifier
from foveate.saliency import Center, Shuffled, saliency_maps


def scenes(count):
    return [
        Sample(as_tensor(scene), label, f"scene {k}")
        for k, (scene, label) in enumerate(Scenes(count, seed=9)[i] for i in range(count))
    ]


@pytest.fixture(scope="module")
def judges():
    names = {"scene_net": True, "scene_net_small": False}
    return [Judge(Classifier(name, scene_net(name), PREPROCESS), known) for name, known in names.items()]


@pytest.fixture(scope="module")
def prefilter(judges):
    return Prefilter(GradCam(judges[0].classifier.model, preprocess=PREPROCESS), 0.5)


@pytest.fixture(scope="module")
def compressors(prefilter):
    settings = ((None, 1), (prefilter, 1), (None, 0.6))
    return [Compressor(f"jpeg:{q}", p, scale=s) for p, s in settings for q in (6, 20, 60)]


@pytest.fixture(scope="module")
def measured(judges, compressors):
    return measure(scenes(12), judges, compressors)


@pytest.fixture(scope="module")
def results(measured):
    return summarize(measured, {"seed": 9}, resamples=200)


@pytest.fixture(scope="module")
def with_baselines(judges, compressors):
    """A measurement with every baseline."""
    points = compressors[:6]
    return measure(scenes(12), judges, points + baselines_for(points))


def ms_ssim_by_opencv(a, b):
    """Wang, Simoncelli, Bovik 2003: contrast and structure at five scales, luminance at the coarsest."""
    import cv2

    def blur(x):
        return cv2.GaussianBlur(x, (11, 11), 1.5)[5:-5, 5:-5]

    x, y = (p.astype(np.float64) for p in (a, b))
    product = np.ones(3)
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        mx, my = blur(x), blur(y)
        vx, vy, cov = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
        term = (2 * cov + 58.5225) / (vx + vy + 58.5225)
        if scale == 4:
            term *= (2 * mx * my + 6.5025) / (mx * mx + my * my + 6.5025)
        product *= term.mean((0, 1)) ** weight
        x, y = (v[: len(v) // 2 * 2, : len(v) // 2 * 2].reshape(len(v) // 2, 2, -1, 2, 3).mean((1, 3)) for v in (x, y))
    return float(product.mean())


class TestMeasure:
    def test_every_number_by_hand(self, measured, compressors, judges):
        samples = scenes(12)
        for k, compressor in enumerate(compressors):
            for n in (0, 7):
                encoded = compressor.encode(samples[n].image[None])[0]
                assert measured.bytes[k, n] == len(encoded.data)
                decoded = compressor.decode([encoded])[0][None] / 255
                for judge in judges:
                    model = judge.classifier.model
                    logits = model(PREPROCESS(decoded))[0].detach()
                    clean = model(PREPROCESS(samples[n].image[None]))[0].detach()
                    assert measured.answers[judge.name][k, n].tolist() == logits.topk(5).indices.tolist()
                    assert measured.clean[judge.name][n].tolist() == clean.topk(5).indices.tolist()
                    kl = torch.nn.functional.kl_div(
                        logits.log_softmax(0), clean.log_softmax(0), reduction="sum", log_target=True
                    )
                    assert float(measured.kl[judge.name][k, n]) == pytest.approx(float(kl), abs=2e-5)
        assert measured.pixels.tolist() == [160 * 160] * 12
        assert measured.labels.tolist() == [p.label for p in samples]
        assert measured.names == [p.name for p in samples]

    def test_images_of_different_sizes(self):
        judge = Judge(load_classifier(f"{RECIPES}:tiny", Preprocess(64, 56)), known=False)
        samples = [Sample(torch.full((3, h, w), 9, dtype=torch.uint8), 0, "") for h, w in ((70, 90), (100, 60))]
        steps = []
        measured = measure(samples, [judge], [Compressor()], progress=steps.append)
        assert measured.pixels.tolist() == [6300, 6000]
        assert steps == [Progress("measure", 1, 2), Progress("measure", 2, 2)]
        assert measured.answers["recipes.py:tiny".partition(":")[2]].shape == (1, 2, 4)  # of 5 classes, no top-5

    def test_the_map_is_computed_once_per_image_also_with_baselines(self, judges):
        calls = []

        def center(images):
            calls.append(len(images))
            return torch.rand(len(images), 1, 3, 3)

        points = [Compressor(f"jpeg:{q}", Prefilter(center, s)) for q in (20, 40) for s in (0.3, 0.6)]
        measure(scenes(5), judges, points + baselines_for(points))
        assert calls == [1] * 5

    def test_psnr_and_ms_ssim_on_request(self, judges):
        import cv2

        sample = Sample(as_tensor(Scenes(1, size=200)[0][0]), 0, "")
        point = Compressor("jpeg:20")
        measured = measure([sample, *scenes(1)], [judges[1]], [point], fidelity=True)
        decoded = point.decode(point.encode([sample.image]))[0]
        pair = [to_array(image) for image in (sample.image, decoded)]
        assert float(measured.fidelity["psnr"][0, 0]) == pytest.approx(cv2.PSNR(*pair), abs=0.01)
        assert float(measured.fidelity["ms_ssim"][0, 0]) == pytest.approx(ms_ssim_by_opencv(*pair), abs=1e-3)
        assert measured.fidelity["ms_ssim"][0, 1].isnan()  # too small for five scales
        results = summarize(measured, {}, resamples=5)
        assert results.points[0].ms_ssim == pytest.approx(float(measured.fidelity["ms_ssim"][0, 0]))
        assert "MS-SSIM" in text_table(results)

    def test_as_stored(self, judges):
        """A reader of the file gets the stored size; this judge's preprocessing does not resize."""
        samples, points = scenes(3), [Compressor("jpeg:60", scale=0.5), Compressor("jpeg:60")]
        judge = Judge(judges[0].classifier, known=True)
        resized, stored = (
            measure(samples, [judge], points, fidelity=True, as_stored=as_stored) for as_stored in (False, True)
        )
        for k, sample in enumerate(samples):
            decoded = points[0].decode(points[0].encode([sample.image]), as_stored=True)[0]
            assert decoded.shape == (3, 80, 80)
            log = judge.classifier.logits(torch.stack([decoded])).double().log_softmax(1)[0]
            clean = judge.classifier.logits(sample.image[None]).double().log_softmax(1)[0]
            assert float(stored.kl[judge.name][0, k]) == pytest.approx(
                float((clean.exp() * (clean - log)).sum()), abs=1e-4
            )
        assert not torch.equal(stored.kl[judge.name][0], resized.kl[judge.name][0])
        assert torch.equal(stored.kl[judge.name][1], resized.kl[judge.name][1])
        assert torch.equal(stored.fidelity["psnr"], resized.fidelity["psnr"])
        assert stored.keys != resized.keys

    def test_nothing_to_measure(self, judges, compressors):
        with pytest.raises(ValueError, match="not one image"):
            measure([], judges, compressors)
        with pytest.raises(ValueError, match="different names"):
            measure(scenes(1), [judges[0], judges[0]], compressors)
        with pytest.raises(ValueError, match="at least one"):
            measure(scenes(1), judges, [])
        twin = Judge(Classifier("twin", judges[0].classifier.model, PREPROCESS), known=False)
        with pytest.raises(ValueError, match="one classifier with two names"):
            measure(scenes(1), [judges[0], twin], compressors)

    def test_maps_that_used_labels_are_refused(self, judges):
        cam = GradCam(judges[0].classifier.model, target=3, preprocess=PREPROCESS)
        for saliency in (cam, Center(cam), Shuffled(Center(cam))):
            with pytest.raises(ValueError, match="make use of a label .* target=None"):
                measure(scenes(2), judges, [Compressor("jpeg", Prefilter(saliency))])
        with pytest.raises(ValueError, match="make use of a label"):
            measure(scenes(2), judges, [Compressor("hevc:roi=8", saliency=cam)])

        def labeled(images):
            return torch.ones(len(images), 1, 2, 2)

        labeled.uses_labels = True
        with pytest.raises(ValueError, match="make use of a label"):
            measure(scenes(2), judges, [Compressor("jpeg", Prefilter(labeled))])
        measure(scenes(2), judges, [Compressor("jpeg", Prefilter(labeled, 0))])  # uses no map

    def test_a_judge_that_gives_no_numbers(self):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 160 * 160, 4))
        model[1].weight.data.fill_(float("nan"))
        judge = Judge(Classifier("broken", model, PREPROCESS), known=False)
        with pytest.raises(ValueError, match="broken gave values that are not finite"):
            measure(scenes(1), [judge], [Compressor()])

    def test_the_random_state_and_the_models_are_not_touched(self, judges, compressors):
        torch.manual_seed(3)
        before = torch.get_rng_state()
        evaluate(scenes(3), judges, compressors[:4])
        assert torch.equal(before, torch.get_rng_state())


class TestSources:
    """One set of images, however it comes."""

    @pytest.fixture
    def source(self, request):
        from torch.utils.data import DataLoader
        from torchvision.transforms import v2

        tensors = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
        pairs = [(p.image, p.label) for p in scenes(6)]

        class Stream(torch.utils.data.IterableDataset):
            def __iter__(self):
                return iter(pairs)

        return {
            "dataset": lambda: Scenes(6, seed=9),
            "tensors": lambda: Scenes(6, seed=9, transform=tensors),
            "loader": lambda: DataLoader(Scenes(6, seed=9, transform=tensors), batch_size=4),
            "workers": lambda: DataLoader(Scenes(6, seed=9, transform=tensors), batch_size=2, num_workers=2),
            "list batches": lambda: DataLoader(
                Scenes(6, seed=9), batch_size=3, collate_fn=lambda b: tuple(zip(*b, strict=True))
            ),
            "iterable": Stream,
            "pairs": lambda: pairs,
        }[request.param]()

    @pytest.mark.parametrize(
        "source", ["dataset", "tensors", "loader", "workers", "list batches", "iterable", "pairs"], indirect=True
    )
    def test_gives_the_same(self, source, judges):
        expected = measure(scenes(6), [judges[1]], [Compressor("jpeg:20")])
        measured = measure(source, [judges[1]], [Compressor("jpeg:20")])
        assert torch.equal(measured.bytes, expected.bytes)
        assert torch.equal(measured.labels, expected.labels)
        assert torch.equal(measured.answers["scene_net_small"], expected.answers["scene_net_small"])
        assert measured.names == [str(k) for k in range(6)]

    @pytest.mark.parametrize("source", ["dataset", "loader", "iterable"], indirect=True)
    def test_exhibits_and_class_names_come_from_it_too(self, source, judges, prefilter, tmp_path):
        points = [Compressor(f"jpeg:{q}", p) for p in (None, prefilter) for q in (6, 20)]
        evaluate(source, judges, points, tmp_path)
        html = (tmp_path / "report.html").read_text()
        assert html.count('class="exhibit"') == 6
        assert ("arrow" if isinstance(source, Scenes) or hasattr(source, "dataset") else "class 0") in html

    def test_grayscale_is_shown_as_rgb(self):
        assert as_samples([(torch.zeros(1, 5, 6), 0)])[0].image.shape == (3, 5, 6)

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            (3, "SampleFolder, a Dataset or a DataLoader, got int"),
            ([{"image": 0}], "pairs .image, label., got dict"),
            ([(torch.full((3, 4, 4), -2.0), 0)], "undo any normalization"),
        ],
    )
    def test_what_is_not_a_source(self, source, words, judges):
        with pytest.raises((TypeError, ValueError), match=words):
            measure(source, judges, [Compressor()])


class TestBaselines:
    def test_the_points(self, compressors):
        settings = [Setting.of(c) for c in baselines_for(compressors[:6])]
        assert {s.map for s in settings} == {"even", "center", "other image", None}
        assert {s.scale for s in settings if s.map is None} == {0.7, 0.5}
        assert {(s.strength, s.scale) for s in settings if s.map} == {(0.5, 1.0)}
        assert len(settings) == 3 * 3 + 2 * 3
        assert baselines_for([Compressor("jpeg", scale=s) for s in (1.0, 0.7)], scales=(0.7,)) == []

    def test_by_hand(self, with_baselines, prefilter):
        samples = scenes(12)
        maps = {n: saliency_maps(prefilter.saliency, samples[n].image[None]) for n in range(12)}
        order = torch.randperm(12, generator=torch.Generator().manual_seed(0)).tolist()
        before = {n: order[k - 1] if k else order[1] for k, n in enumerate(order)}
        for k, compressor in enumerate(with_baselines.compressors):
            kind = Setting.of(compressor).map
            if kind in (None, "saliency"):
                continue
            for n in (order[0], order[5]):
                by_kind = {
                    "even": maps[n],
                    "center": Center(prefilter.saliency).derive(maps[n]),
                    "other image": maps[before[n]],
                }
                filtered = compressor.prefilter(samples[n].image[None], by_kind[kind])
                codec_alone = Compressor(compressor.codec)
                assert with_baselines.bytes[k, n] == len(codec_alone.encode(filtered)[0].data), kind

    def test_even_smooths_as_much_but_everywhere_the_same(self, prefilter):
        from dataclasses import replace

        from foveate.prefilter import strength_map

        image = scenes(1)[0].image[None] / 255
        maps = saliency_maps(prefilter.saliency, image)
        mean = strength_map(maps, (160, 160), 0.5).mean()
        even = replace(prefilter, even=True)(image, maps)
        full = replace(prefilter, strength=1e-9)(image, torch.zeros_like(maps))  # smoothed in full everywhere
        torch.testing.assert_close(even, torch.lerp(image, full, mean), atol=1e-5, rtol=0)

    def test_another_image_s_map_takes_another_image(self, judges, prefilter):
        points = baselines_for([Compressor("jpeg", prefilter)])
        with pytest.raises(ValueError, match="at least two images"):
            measure(scenes(1), judges, points)

    def test_the_report_says_whether_each_is_beaten(self, with_baselines):
        results = summarize(with_baselines, {}, resamples=100)
        compared = {(c.judge, c.curve, c.baseline) for c in results.comparisons if c.metric == "top1"}
        for judge in ("scene_net", "scene_net_small"):
            for baseline in ("codec alone", "even", "center", "other image", "downscaling"):
                assert (judge, "jpeg, strength 0.5", baseline) in compared
        sections = verdicts(results, "top1")
        assert len(sections) == 2
        for section in sections:
            assert len(section.lines) == 5
            for line in section.lines:
                assert re.match("beats|loses to|is not shown to differ from|cannot be compared with", line.text)
        exhibits = choose_exhibits(scenes(12), with_baselines)
        html = page(results, with_baselines, exhibits, title="", lead="", class_names={}, metric="top1")
        assert "the same smoothing spread evenly" in html
        assert "plain downscaling at its best scale" in html

    def test_downscaling_is_compared_at_the_best_of_all_scales(self, with_baselines):
        results = summarize(with_baselines, {}, resamples=10)
        comparison = next(c for c in results.comparisons if c.baseline == "downscaling" and c.metric == "top1")
        rivals = [p for p in results.points if p.strength == 0]
        steered = [p for p in results.points if p.map == "saliency"]
        from foveate.evaluation import bd_rate

        curves = [
            [of(p) for p in points]
            for points in (rivals, steered)
            for of in (lambda p: p.bytes, lambda p: p.judges[comparison.judge].top1)
        ]
        assert comparison.bd_rate == pytest.approx(bd_rate(*curves))
        assert comparison.reference == "jpeg, best scale"


class TestResults:
    def test_the_schema(self, results, tmp_path):
        results.save(tmp_path / "results.json")
        content = json.loads((tmp_path / "results.json").read_text())
        assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
        assert content["schema"] == 4
        point = content["points"][3]
        named = {k: point[k] for k in ("curve", "codec", "quality", "strength", "scale", "map", "n", "psnr")}
        assert named == {
            "curve": "jpeg, strength 0.5", "codec": "jpeg", "quality": 6, "strength": 0.5, "scale": 1.0,
            "map": "saliency", "n": 12, "psnr": None,
        }  # fmt: skip
        assert {name: judge["known"] for name, judge in point["judges"].items()} == {
            "scene_net": True, "scene_net_small": False,
        }  # fmt: skip
        assert Results.load(tmp_path / "results.json") == results

    def test_it_is_what_the_json_schema_says(self, results):
        """By an independent checker."""
        from jsonschema import Draft202012Validator

        check = Draft202012Validator(json_schema())
        check.validate(json.loads(results.to_json()))
        broken = json.loads(results.to_json())
        del broken["points"][0]["judges"]["scene_net"]["kl"]
        assert not check.is_valid(broken)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda content: content.update(schema=2), "has schema 2, and this Foveate reads 4"),
            (lambda content: content.pop("schema"), "has schema None"),
            (lambda content: content["points"][1].pop("bytes"), "at points.1.bytes: Field required"),
            (lambda content: content["points"][1].update(extra=1), "at points.1.extra: Unexpected"),
            (
                lambda content: content["clean"]["scene_net"].update(top1="high"),
                "at clean.scene_net.top1: Input should be",
            ),
            (lambda content: content["savings"][0].update(interval=[0.1]), "at savings.0.interval"),
        ],
    )
    def test_it_is_checked_on_loading(self, change, words, results, tmp_path):
        content = json.loads(results.to_json())
        change(content)
        (tmp_path / "r.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=words):
            Results.load(tmp_path / "r.json")

    def test_what_is_not_json(self, tmp_path):
        (tmp_path / "r.json").write_text("{")
        with pytest.raises(ValueError, match="is not JSON"):
            Results.load(tmp_path / "r.json")
        (tmp_path / "r.json").write_text("[]")
        with pytest.raises(ValueError, match="has schema None"):
            Results.load(tmp_path / "r.json")

    def test_the_figures(self, results, measured):
        for k, point in enumerate(results.points):
            assert point.bytes == pytest.approx(measured.bytes[k].double().mean().item())
            assert point.bpp == pytest.approx(8 * measured.bytes[k].sum().item() / (12 * 160 * 160))
            for name, judge in point.judges.items():
                first = measured.answers[name][k, :, 0]
                assert judge.top1 == (first == measured.labels).double().mean()
                assert judge.agreement == (first == measured.clean[name][:, 0]).double().mean()
                five = [
                    int(label) in best
                    for label, best in zip(measured.labels, measured.answers[name][k].tolist(), strict=True)
                ]
                assert judge.top5 == sum(five) / 12
                assert judge.kl == pytest.approx(float(measured.kl[name][k].mean()), abs=1e-6)
                low, high = judge.agreement_interval
                assert low <= judge.agreement <= high

    def test_equal_runs_give_equal_text(self, judges, compressors, results):
        again = summarize(measure(scenes(12), judges, compressors), {"seed": 9}, resamples=200)
        assert again.to_json() == results.to_json()

    def test_savings_compare_with_the_codec_alone(self, results):
        assert {s.reference for s in results.savings} == {"jpeg alone"}
        assert {s.curve for s in results.savings} == {"jpeg, strength 0.5", "jpeg, scale 0.6"}
        alone = [p for p in results.points if p.curve == "jpeg alone"]
        point = next(p for p in results.points if p.strength > 0 and p.quality == 20)
        saving = next(
            s for s in results.savings
            if (s.judge, s.metric, s.curve, s.quality) == ("scene_net", "agreement", point.curve, 20)
        )  # fmt: skip
        expected = saved_at_equal(
            [p.bytes for p in alone], [p.judges["scene_net"].agreement for p in alone],
            point.bytes, point.judges["scene_net"].agreement,
        )  # fmt: skip
        assert saving.saved == expected

    def test_a_judge_of_few_classes_has_no_top5(self):
        judge = Judge(Classifier("colors", torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()),
                                 Preprocess()), known=False)  # fmt: skip
        results = summarize(measure(scenes(2), [judge], [Compressor()]), {}, resamples=5)
        assert results.points[0].judges["colors"].top5 is None

    def test_points_that_only_differ_in_what_they_are_have_different_keys(self, judges, prefilter):
        from dataclasses import replace

        cam = prefilter.saliency
        nets = scene_net(), scene_net("scene_net_small")
        filters = [
            prefilter,
            replace(prefilter, even=True),
            replace(prefilter, sigma=2),
            replace(prefilter, filter="guided"),
            replace(prefilter, saliency=Center(cam)),
            replace(prefilter, saliency=GradCam(nets[0], "features.8", preprocess=PREPROCESS)),
            replace(prefilter, saliency=GradCam(nets[1], preprocess=PREPROCESS)),
        ]
        points = [Compressor(text) for text in ("jpeg:20", "jpeg:21", "jpeg:20,subsampling=4:4:4")]
        points += [Compressor("jpeg:20", scale=0.5), Compressor("jpeg:20", target=TargetSize(bpp=0.5))]
        points += [Compressor("jpeg:20", variant) for variant in filters]
        assert len({c.identity for c in points}) == len(points)
        assert Compressor("jpeg:20", replace(prefilter, strength=0)).identity == points[0].identity
        # Nor does it change when a layer that was left open is found.
        fresh = GradCam(scene_net(), preprocess=PREPROCESS)
        before = fresh.identity
        fresh(scenes(1)[0].image[None])
        assert fresh.identity == before == cam.identity


class TestSampleFolder:
    @pytest.fixture
    def tree(self, tmp_path):
        for name, count in (("cat", 3), ("dog", 2), ("emu", 1)):
            (tmp_path / name).mkdir()
            for k in range(count):
                Image.new("RGB", (8, 6), (k, 0, 0)).save(tmp_path / name / f"{k}.png")
        return tmp_path

    def test_labels_follow_the_sorted_folders(self, tree):
        samples = SampleFolder(tree)
        samples.number_classes(3)
        assert [(p.name, p.label) for p in samples][2:4] == [("cat/2.png", 0), ("dog/0.png", 1)]
        assert samples.class_names() == {0: "cat", 1: "dog", 2: "emu"}
        assert len(samples) == 6

    def test_a_limit_is_spread_over_the_classes(self, tree):
        assert [p.name for p in SampleFolder(tree, 3)] == ["cat/0.png", "cat/2.png", "dog/1.png"]
        assert len(SampleFolder(tree, 100)) == 6

    def test_wnids_take_imagenet_s_index_also_if_only_some_are_present(self, tmp_path):
        for wnid in ("n02123045", "n01440764", "n15075141"):
            (tmp_path / wnid).mkdir()
            Image.new("RGB", (8, 6)).save(tmp_path / wnid / "a.jpg")
        samples = SampleFolder(tmp_path)
        samples.number_classes(1000)
        assert [p.label for p in samples] == [0, 281, 999]
        assert [samples.class_names()[k] for k in (0, 281, 999)] == ["tench", "tabby", "toilet tissue"]
        samples.number_classes(3)
        assert [p.label for p in samples] == [0, 1, 2]
        (tmp_path / "n00000000").mkdir()
        with pytest.raises(ValueError, match="'n00000000' is not a class of ImageNet"):
            SampleFolder(tmp_path).number_classes(1000)

    def test_there_are_a_thousand_wnids_in_order(self):
        assert len(set(wnids())) == 1000
        assert list(wnids()) == sorted(wnids())

    def test_broken_and_alien_files_are_named_and_left_out(self, tree):
        (tree / "cat" / "0.png").write_bytes(b"not an image")
        (tree / "dog" / "notes.txt").write_text("notes")
        whole = (tree / "cat" / "1.png").read_bytes()
        (tree / "cat" / "1.png").write_bytes(whole[: len(whole) // 2])
        (tree / ".hidden").mkdir()
        samples = SampleFolder(tree)
        for position, name in ((0, "cat/0.png"), (1, "cat/1.png"), (5, "dog/notes.txt")):
            with pytest.raises(UnreadableError, match=f"{name}: .+") as caught:
                samples[position]
            assert caught.value.name == name
        judge = Judge(load_classifier(f"{RECIPES}:tiny", Preprocess(64, 56)), known=False)
        measured = measure(samples, [judge], [Compressor()])
        assert measured.names == ["cat/2.png", "dog/0.png", "dog/1.png", "emu/0.png"]
        assert [name for name, _ in measured.skipped] == ["cat/0.png", "cat/1.png", "dog/notes.txt"]
        assert all(reason for _, reason in measured.skipped)

    @pytest.mark.parametrize("error", [RuntimeError("odd"), MemoryError(), struct.error("4 bytes"), EOFError()])
    def test_whatever_reading_raises_is_unreadable(self, error, tree, monkeypatch):
        def fail(*_, **__):
            raise error

        monkeypatch.setattr("foveate.evaluation._samples.read_image", fail)
        with pytest.raises(UnreadableError) as caught:
            SampleFolder(tree)[0]
        assert (caught.value.name, caught.value.reason) == ("cat/0.png", str(error) or type(error).__name__)

    def test_what_is_not_a_file_is_counted(self, tree):
        os.mkfifo(tree / "cat" / "pipe.png")
        (tree / "dog" / "gone.png").symlink_to(tree / "nowhere")
        (tree / "emu" / "folder").mkdir()
        names = {}
        samples = SampleFolder(tree)
        for k in range(len(samples)):
            try:
                names[samples[k].name] = None
            except UnreadableError as error:
                names[error.name] = error.reason
        assert len(names) == 6 + 2
        assert "not a regular file" in names["cat/pipe.png"]
        assert "No such file" in names["dog/gone.png"]

    def test_a_folder_that_may_not_be_read_is_named(self, tree, monkeypatch):
        """Whoever runs the tests may read everything, so it is the system that refuses."""
        (tree / "dog" / "locked").mkdir()
        scandir, opened = os.scandir, os.open

        def refuse(path, *rest, **options):
            if str(path).endswith("locked"):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return opened(path, *rest, **options) if rest else scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        monkeypatch.setattr(os, "open", refuse)
        samples = SampleFolder(tree)
        assert [p.name for p in samples.paths[3:6]] == ["0.png", "1.png", "locked"]
        with pytest.raises(UnreadableError, match="dog/locked: .*Permission denied"):
            samples[5]

    def test_names_that_are_not_text_are_printable_and_stay_different(self, tree):
        names = [
            b"a\xff.png",
            b"a\\udcff.png",
            b"a\\\\udcff.png",
            b"a\n.png",
            b"a\\n.png",
            "a\u00e9 \u732b.png".encode(),
        ]
        for name in names:
            shutil.copy(tree / "cat" / "0.png", os.fsencode(tree) + b"/dog/" + name)
        shown = {sample.name for sample in SampleFolder(tree) if sample.name.startswith("dog/a")}
        assert len(shown) == len(names)
        assert all(name.isprintable() and name.encode() for name in shown)
        assert {r"dog/a\udcff.png", r"dog/a\\udcff.png", "dog/a\u00e9 \u732b.png"} <= shown

    def test_further_formats_on_request(self, tree):
        Image.new("RGB", (8, 6)).save(tree / "cat" / "0.dds")
        with pytest.raises(UnreadableError, match=r"cat/0.dds: not an image of an allowed format"):
            SampleFolder(tree)[0]
        assert SampleFolder(tree, formats=["dds"])[0].image.shape == (3, 6, 8)
        with pytest.raises(ValueError, match="formats: Pillow reads no format 'WORD'"):
            SampleFolder(tree, formats=["word"])

    @pytest.mark.parametrize("kind", ["missing", "empty", "flat", "hollow"])
    def test_what_is_not_a_tree(self, kind, tmp_path):
        root = tmp_path / "root"
        if kind != "missing":
            root.mkdir()
        if kind == "flat":
            Image.new("RGB", (8, 6)).save(root / "a.jpg")
        if kind == "hollow":
            (root / "cat").mkdir()
        words = {"missing": "no folder", "empty": "no class folders", "flat": "<class>/<image>", "hollow": "are empty"}
        with pytest.raises(ValueError, match=words[kind]):
            SampleFolder(root)

    def test_class_mismatch(self, tree):
        with pytest.raises(ValueError, match="3 class folders and the model has 10 outputs"):
            SampleFolder(tree).number_classes(10)
        with pytest.raises(ValueError, match="limit"):
            SampleFolder(tree, 0)


class TestOddFiles:
    """The command on a tree with one of everything: each is named, and none stops it."""

    @pytest.mark.filterwarnings("ignore")
    def test_evaluate(self, tmp_path, capsys):
        root = tmp_path / os.fsdecode(b"images\xfe")
        for scene, label in Scenes(10, seed=21):
            (root / Scenes.classes[label]).mkdir(parents=True)
            scene.save(root / Scenes.classes[label] / "scene.png")
        scene.save(root / "ring" / "late.dds")
        odd = os.fsencode(root / "arrow")
        scene.rotate(90).save(odd + b"/sound\xff.png", "PNG")
        scene.resize((17_000, 2)).save(root / "arrow" / "too wide.png")

        def cut(format):
            stream = io.BytesIO()
            scene.save(stream, format)
            return stream.getvalue()[:-40]

        files = {
            b"broken\xff.avif": cut("AVIF"), b"a\nb.jpg": cut("JPEG"), b"late.psd": b"8BPS", b"eps.jpg": b"%!PS-Adobe",
            b"heif.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"jxl.jxl": b"\xff\x0a\0\0", b"empty.png": b"",
            b"webp.webp": cut("WEBP"), b"tiff.tif": cut("TIFF"), b"gif.gif": cut("GIF"), b"jp2.jp2": cut("JPEG2000"),
        }  # fmt: skip
        for name, data in files.items():
            with open(odd + b"/" + name, "wb") as file:
                file.write(data)
        os.mkfifo(odd + b"/pipe.jpg")
        preprocess = ["--resize", "160", "--crop", "160", "--mean", "0.4,0.4,0.4", "--std", "0.25,0.25,0.25"]
        out = tmp_path / os.fsdecode(b"out\xfd")
        options = [
            "--codec", "webp:20", "--formats", "dds,PSD", "--resamples", "5", "--strength", "0", "--out", str(out),
        ]  # fmt: skip
        for _ in range(2):  # the second time from the records
            assert main(["evaluate", str(root), "--model", "foveate.demo:scene_net", *options, *preprocess]) == 0
            printed = capsys.readouterr()
            printed.out.encode()
            assert printed.err.count("skipped arrow/") == len(files) + 2
            assert r"skipped arrow/broken\udcff.avif: " in printed.err
            assert r"skipped arrow/a\nb.jpg: " in printed.err
            assert "pipe.jpg: not a regular file" in printed.err
            assert "too wide.png: image: WEBP holds at most" in printed.err
            assert f"{len(files) + 2} of {14 + len(files)} files could not be read, or not compressed" in printed.out
        results = Results.load(out / "results.json")
        assert len(results.skipped) == len(files) + 2
        assert results.points[0].n == 10 + 2
        assert r"broken\udcff.avif" in (out / "report.html").read_text()
        named = [p["name"] for p in Records.load(out / "records.jsonl").images.values()]
        assert r"arrow/sound\udcff.png" in named

    @pytest.mark.parametrize("command", [["evaluate", "--model"], ["calibrate", "--witness"]])
    def test_a_format_that_is_none(self, command, tmp_path, capsys):
        (tmp_path / "cat").mkdir()
        Image.new("RGB", (8, 6)).save(tmp_path / "cat" / "a.png")
        words = [*command, "foveate.demo:scene_net", str(tmp_path), "--formats", "dds,word"]
        assert main(words) == 2
        assert "formats: Pillow reads no format 'WORD'" in capsys.readouterr().err


class TestRead:
    def test_images_of_any_mode_come_as_rgb(self, tmp_path):
        for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"):
            path = tmp_path / f"{mode.replace(';', '')}.tif"
            Image.new(mode, (7, 5)).save(path)
            pixels = read(path)
            assert (tuple(pixels.shape), pixels.dtype) == ((3, 5, 7), torch.uint8)

    def test_transparent_is_white(self, tmp_path):
        Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "a.png")
        assert (read(tmp_path / "a.png") == 255).all()

    def test_images_are_turned_upright(self, tmp_path):
        image = Image.fromarray(np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3))
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(tmp_path / "a.png", exif=exif)
        assert torch.equal(read(tmp_path / "a.png"), as_tensor(image.rotate(-90, expand=True)))


class TestExhibits:
    def test_they_are_chosen_by_rule(self, measured):
        shown = choose_exhibits(scenes(12), measured, per_kind=1)
        assert [e.kind for e in shown] == ["best", "typical", "worst"]
        alone, filtered = 1, 4  # quality 20
        saved = 1 - measured.bytes[filtered] / measured.bytes[alone]
        kept = torch.stack([measured.right(j, "agreement")[filtered] for j in measured.clean]).all(0)
        best = int(measured.names.index(shown[0].sample.name))
        assert kept[best]
        assert saved[best] == saved[kept].max()
        assert len({e.sample.name for e in choose_exhibits(scenes(12), measured)}) == 6

    def test_they_carry_their_settings(self, measured, compressors):
        exhibit = choose_exhibits(scenes(12), measured)[1]
        n = measured.names.index(exhibit.sample.name)
        assert [p.encoded.codec for p in exhibit.points] == [c.codec for c in compressors]
        assert [p.encoded.strength for p in exhibit.points] == [0, 0, 0, 0.5, 0.5, 0.5, 0, 0, 0]
        for k, point in enumerate(exhibit.points):
            assert point.answers["scene_net"] == measured.answers["scene_net"][k, n, 0]
            assert len(point.encoded.data) == measured.bytes[k, n]
        assert to_array(exhibit.filtered["filtered, strength 0.5"]).shape == (160, 160, 3)
        assert Jpeg().decode(exhibit.points[0].encoded.data).shape == (160, 160, 3)

    def test_without_a_pre_filter_they_are_spread(self, judges):
        measured = measure(scenes(3), judges, [Compressor("jpeg:20")])
        shown = choose_exhibits(scenes(3), measured)
        assert [(e.kind, e.sample.name, e.saliency) for e in shown] == [("", f"scene {k}", None) for k in range(3)]

    def test_with_many_points_one_a_curve_is_shown(self, judges):
        measured = measure(
            scenes(2), judges[1:], [Compressor(f"{c}:{q}") for c in ("jpeg", "webp") for q in range(1, 13)]
        )
        shown = choose_exhibits(scenes(2), measured)
        assert [(p.curve, p.encoded.codec.quality) for p in shown[0].points] == [("jpeg alone", 7), ("webp alone", 7)]


class TestReport:
    def test_text_table(self, results):
        lines = text_table(results).splitlines()
        head = next(k for k, line in enumerate(lines) if line.startswith("setting"))
        assert len({len(line) for line in lines[head : head + 11]}) == 1
        assert sum(line.startswith("jpeg") for line in lines) >= 9
        cards = headlines(results)
        assert len(cards) == 2
        assert "known: it made the map" in cards[0].text
        assert "unseen: it did not make the map" in cards[1].text

    def test_spans(self):
        assert span((-0.034, 0.128)) == "−3 to 13 %"
        assert span((None, 0.2)) == "… to 20 %"

    def test_curves_are_named_and_sorted(self, with_baselines):
        curves = plots.curves(summarize(with_baselines, {}, resamples=3).points)
        assert list(curves) == [
            "jpeg alone", "jpeg, scale 0.7", "jpeg, scale 0.5", "jpeg, strength 0.5",
            "jpeg, strength 0.5, spread evenly", "jpeg, strength 0.5, center-weighted",
            "jpeg, strength 0.5, another image's map",
        ]  # fmt: skip
        assert all([p.bytes for p in c] == sorted(p.bytes for p in c) for c in curves.values())

    def test_plot_shows_the_points_and_their_intervals(self, results):
        figure, ax = plots.rate_accuracy(results, "scene_net", "top1")
        assert len(ax.lines) == 3
        line = ax.lines[0]
        alone = plots.curves(results.points)["jpeg alone"]
        np.testing.assert_allclose(line.get_xdata(), [p.bytes / 1000 for p in alone])
        np.testing.assert_allclose(line.get_ydata(), [100 * p.judges["scene_net"].top1 for p in alone])
        assert len(ax.collections) == 2  # a band for the codec alone and for the pre-filter, none for the baseline
        band = ax.collections[0].get_paths()[0].vertices
        assert band[:, 1].min() == pytest.approx(100 * min(p.judges["scene_net"].top1_interval[0] for p in alone))
        same_figure, same_ax = plots.rate_accuracy(results, "scene_net", ax=ax)
        assert same_figure is figure
        assert same_ax is ax

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [({"judge": "me"}, "scene_net_small"), ({"metric": "top2"}, "top2"), ({"codec": "gif"}, "gif")],
    )
    def test_plot_of_what_is_not_there(self, arguments, words, results):
        with pytest.raises(ValueError, match=words):
            plots.rate_accuracy(results, **{"judge": "scene_net", **arguments})

    def test_class_changes(self, measured):
        figure, ax = plots.class_changes(
            measured, "scene_net", 0, 2, class_names=dict(enumerate(CLASSES)), metric="top1"
        )
        right = measured.right("scene_net", "top1").double()
        change = {
            label: float((right[0] - right[2])[measured.labels == label].mean())
            for label in set(measured.labels.tolist())
        }
        drawn = {
            t.get_text().split(" (")[0]: bar.get_width()
            for t, bar in zip(ax.get_yticklabels(), ax.patches, strict=True)
        }
        assert drawn == {CLASSES[k]: pytest.approx(100 * v) for k, v in change.items() if v}
        assert plots.class_changes(measured, "scene_net", 0, 0, ax=ax) == (figure, ax)

    def test_reliability(self, measured):
        """16 images, half of them expected to be kept at 0.5 and half at 0.9: two groups, and what became of each."""
        images = torch.arange(16) % len(measured.names)
        robust = dataclasses.replace(
            measured,
            labels=measured.labels[images],
            answers={judge: answers[:, images] for judge, answers in measured.answers.items()},
            clean={judge: answers[images] for judge, answers in measured.clean.items()},
            chosen={0: [{"expected": p} for p in [0.5, 0.9] * 8]},
        )
        _, ax = plots.reliability(robust, 0)
        for judge, drawn in zip(measured.judges, ax.containers, strict=True):
            kept = 100 * robust.right(judge.name, "agreement")[0].double()
            assert drawn.get_label().startswith(f"{judge.name} (")
            assert drawn.lines[0].get_ydata() == pytest.approx([float(kept[::2].mean()), float(kept[1::2].mean())])
        assert ax.containers[0].lines[0].get_xdata() == pytest.approx([50, 90])
        with pytest.raises(ValueError, match="expected one with keep='robust', got 2"):
            plots.reliability(robust, 2)

    def test_bytes_are_compared_where_as_many_answers_are_kept(self, measured):
        """Beside the cheapest point of the codec alone that keeps as many, or else the one that keeps the most."""
        compressors = [Compressor(text) for text in ("webp:10", "webp:40", "webp:80")]
        compressors.append(Compressor("webp", control=RateControl("foveate.demo:scene_net")))
        clean = torch.arange(10)[:, None]
        answers = torch.stack([torch.where(torch.arange(10)[:, None] < k, clean, 11) for k in (5, 9, 10, 9)])
        made_up = dataclasses.replace(
            measured,
            compressors=compressors,
            judges=[judge for judge in measured.judges if judge.known][:1],
            labels=clean[:, 0],
            names=[str(k) for k in range(10)],
            bytes=torch.tensor([[100], [400], [900], [200]]).expand(4, 10),
            answers={"scene_net": answers},
            clean={"scene_net": clean},
        )

        def legend():
            return [text.get_text() for text in plots.byte_distribution(made_up, 3)[1].get_legend().get_texts()]

        assert legend() == [
            "webp alone, quality 40:\n0.4 kB in the mean, 90.0% of answers kept",
            "webp, keep top1 for scene_net without pre-filter, top1:\n0.2 kB in the mean, 90.0% of answers kept",
        ]
        made_up.answers["scene_net"][3] = clean
        assert legend()[0].startswith("webp alone, quality 80")
        made_up.answers["scene_net"][2, 9] = 11
        assert legend()[0].startswith("webp alone, quality 40")

    def test_an_image_can_be_looked_at_in_place_of_its_copies(self, results, measured):
        shown = choose_exhibits(scenes(12), measured, per_kind=1)
        html = page(results, measured, shown, title="", lead="", class_names={})
        assert html.count('class="look" tabindex="0"') == sum(len(exhibit.points) for exhibit in shown)
        originals = re.findall(r"--original: url\('(data:image/webp;base64,[^']+)'\)", html)
        assert len(originals) == len(shown)
        assert all(html.count(original) == 2 for original in originals)  # it is also the first image of the strip

    def test_gallery(self, measured):
        exhibit = choose_exhibits(scenes(12), measured)[0]
        figure, ax = plots.gallery(exhibit, dict(enumerate(CLASSES)), most=2)
        assert len(ax.images) == 3 + 2
        words = " ".join(t.get_text() for t in ax.texts)
        assert f"{len(exhibit.points[0].encoded.data):,} bytes" in words
        assert CLASSES[exhibit.clean["scene_net"]] in words
        assert plots.gallery(exhibit, ax=ax) == (figure, ax)

    def test_the_page_is_whole_and_on_its_own(self, results, measured):
        shown = choose_exhibits(scenes(12), measured, per_kind=1)
        html = page(
            results, measured, shown, title="Title <1>", lead="Lead & more", class_names=dict(enumerate(CLASSES))
        )
        seen = Collector()
        seen.feed(html)
        assert "Title &lt;1&gt;" in html
        assert "Lead &amp; more" in html
        assert seen.scripts == 0
        assert all(src.startswith("data:image/") for src in seen.sources)
        assert not re.search(r"(url\(|@import|<link)", re.sub(r"url\((#|'data:)", "", html))
        # Three exhibits, each with the original, the map, a filtered image and nine points; two curves, none by class.
        assert len(seen.sources) == 3 * (3 + 9)
        assert seen.tags.count("svg") == 2
        assert "no class changed for scene_net and scene_net_small" in html
        assert "currentColor" in html

    def test_the_page_shows_the_bitstreams_themselves(self, results, measured):
        import base64

        shown = choose_exhibits(scenes(12), measured, per_kind=1)
        html = page(results, measured, shown, title="", lead="", class_names=dict(enumerate(CLASSES)))
        for point in shown[0].points:
            assert base64.b64encode(point.encoded.data).decode() in html
        assert f"{len(shown[0].points[0].encoded.data):,} bytes" in html

    def test_formats_that_browsers_do_not_show_are_shown_as_copies(self, judges):
        measured = measure(scenes(1), judges, [Compressor("jpeg2000"), Compressor("webp")])
        shown = choose_exhibits(scenes(1), measured)
        results = summarize(measured, {}, resamples=3)
        html = page(results, measured, shown, title="", lead="", class_names=dict(enumerate(CLASSES)))
        assert "jpeg2000, which" in html
        assert "image/jp2" not in html
        assert (
            html.count("data:image/webp;base64,") == 4
        )  # the original twice (shown, and to be looked at), the copy, and the WebP bitstream itself


class Collector(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.sources, self.scripts = [], [], 0

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.scripts += tag == "script"
        self.sources += [v for k, v in attrs if k in ("src", "href") and not v.startswith("#")]
