import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from conftest import RECIPES
from PIL import Image

from foveate import Compressor, GradCam, Jpeg, Prefilter
from foveate.demo import CLASSES, PREPROCESS, Scenes, scene_net
from foveate.evaluation import Judge, Photo, PhotoFolder, measure, plots, read, saved_at_equal, summarise
from foveate.evaluation.photos import wnids
from foveate.evaluation.report import page, text_table
from foveate.images import as_tensor, to_array
from foveate.models import Classifier


def scenes(count):
    return [
        Photo(as_tensor(scene), label, f"scene {k}")
        for k, (scene, label) in enumerate(Scenes(count, seed=9)[i] for i in range(count))
    ]


@pytest.fixture(scope="module")
def judges():
    names = {"scene_net": True, "scene_net_small": False}
    return [Judge(Classifier(name, scene_net(name), PREPROCESS), known) for name, known in names.items()]


@pytest.fixture(scope="module")
def compressors(judges):
    prefilter = Prefilter(GradCam(judges[0].classifier.model, preprocess=PREPROCESS), 0.5)
    return [Compressor(f"jpeg:{q}", p, s) for p, s in ((None, 1), (prefilter, 1), (None, 0.6)) for q in (6, 20, 60)]


@pytest.fixture(scope="module")
def measured(judges, compressors):
    return measure(scenes(12), judges, compressors, exhibits=[0, 5])


@pytest.fixture(scope="module")
def results(measured):
    return summarise(measured, {"seed": 9})


class TestMeasure:
    def test_every_number_by_hand(self, measured, compressors, judges):
        photos = scenes(12)
        for k, compressor in enumerate(compressors):
            for n in (0, 7):
                encoded = compressor.encode(photos[n].pixels[None])[0]
                assert measured.bytes[k, n] == len(encoded.data)
                decoded = compressor.decode([encoded])[0][None] / 255
                for judge in judges:
                    answer = judge.classifier.model(PREPROCESS(decoded)).argmax()
                    assert measured.answers[judge.name][k, n] == answer
        assert measured.pixels.tolist() == [160 * 160] * 12
        assert measured.labels.tolist() == [p.label for p in photos]

    def test_photos_of_different_sizes_and_unreadable_ones(self):
        from foveate.models import Preprocess, classifier

        judge = Judge(classifier(f"{RECIPES}:tiny", Preprocess(64, 56)), known=False)
        photos = [Photo(torch.zeros(3, h, w, dtype=torch.uint8), 0, "") for h, w in ((70, 90), (100, 60))]
        done = []
        measured = measure([photos[0], None, photos[1]], [judge], [Compressor()], progress=lambda: done.append(1))
        assert measured.pixels.tolist() == [6300, 6000]
        assert len(done) == 3

    def test_the_map_is_asked_for_once_a_picture(self, judges):
        calls = []

        def center(images):
            calls.append(len(images))
            return torch.ones(len(images), 1, 3, 3)

        points = [Compressor(f"jpeg:{q}", Prefilter(center, s)) for q in (20, 40) for s in (0.3, 0.6)]
        measure(scenes(3), judges, points)
        assert calls == [1, 1, 1]

    def test_nothing_to_measure(self, judges, compressors):
        with pytest.raises(ValueError, match="not one picture"):
            measure([None], judges, compressors)
        with pytest.raises(ValueError, match="different names"):
            measure(scenes(1), [judges[0], judges[0]], compressors)
        with pytest.raises(ValueError, match="at least one"):
            measure(scenes(1), judges, [])


class TestResults:
    def test_the_schema(self, results, tmp_path):
        results.write(tmp_path / "results.json")
        read_back = json.loads((tmp_path / "results.json").read_text())
        assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
        assert {"schema", "settings", "versions", "points"} <= set(read_back)
        assert read_back["schema"] == 1
        point = read_back["points"][3]
        assert {k: point[k] for k in ("codec", "quality", "strength", "scale", "n")} == {
            "codec": "jpeg", "quality": 6, "strength": 0.5, "scale": 1.0, "n": 12,
        }  # fmt: skip
        assert set(point["judges"]) == {"scene_net", "scene_net_small"}
        assert point["judges"]["scene_net"]["known"] is True
        assert point["judges"]["scene_net_small"]["known"] is False
        assert {"known", "top1", "agreement"} <= set(point["judges"]["scene_net"])

    def test_the_figures(self, results, measured):
        for k, point in enumerate(results.points):
            assert point.bytes == pytest.approx(measured.bytes[k].double().mean().item())
            assert point.bpp == pytest.approx(8 * measured.bytes[k].sum().item() / (12 * 160 * 160))
            for name, judge in point.judges.items():
                assert judge.top1 == (measured.answers[name][k] == measured.labels).double().mean()
                assert judge.agreement == (measured.answers[name][k] == measured.clean[name]).double().mean()

    def test_equal_runs_give_equal_text(self, judges, compressors, results):
        again = summarise(measure(scenes(12), judges, compressors), {"seed": 9})
        assert again.to_json() == results.to_json()

    def test_savings_compare_with_the_codec_alone(self, results):
        for saving in results.savings:
            assert saving.strength > 0 or saving.scale < 1
        alone = [p for p in results.points if p.strength == 0 and p.scale == 1]
        point = next(p for p in results.points if p.strength > 0 and p.quality == 20)
        saving = next(
            s for s in results.savings
            if (s.judge, s.metric, s.quality, s.strength, s.scale) == ("scene_net", "agreement", 20, 0.5, 1)
        )  # fmt: skip
        expected = saved_at_equal(
            [p.bytes for p in alone], [p.judges["scene_net"].agreement for p in alone],
            point.bytes, point.judges["scene_net"].agreement,
        )  # fmt: skip
        assert saving.saved == expected


class TestSavedAtEqual:
    def test_a_constant_factor_is_found_everywhere(self):
        rates, accuracies = [100, 200, 400, 800], [0.3, 0.6, 0.8, 0.9]
        for rate, accuracy in zip(rates, accuracies, strict=True):
            assert saved_at_equal(rates, accuracies, 0.7 * rate, accuracy) == pytest.approx(0.3)
            assert saved_at_equal(rates, accuracies, 1.5 * rate, accuracy) == pytest.approx(-0.5)

    def test_between_points_the_log_of_the_rate_is_linear(self):
        assert saved_at_equal([100, 10000], [0.0, 1.0], 500, 0.5) == pytest.approx(0.5)

    def test_order_does_not_matter(self):
        assert saved_at_equal([400, 100], [0.8, 0.4], 100, 0.6) == saved_at_equal([100, 400], [0.4, 0.8], 100, 0.6)

    def test_a_dip_is_read_in_the_reference_s_favour(self):
        assert saved_at_equal([100, 200, 400], [0.5, 0.4, 0.9], 90, 0.5) == pytest.approx(0.1)

    def test_a_plateau_ends_at_its_cheapest_point(self):
        assert saved_at_equal([100, 200, 400], [0.5, 0.9, 0.9], 100, 0.9) == pytest.approx(0.5)

    @pytest.mark.parametrize("accuracy", [0.3, 0.95, math.nan])
    def test_outside_the_curve_there_is_nothing_to_compare(self, accuracy):
        assert saved_at_equal([100, 400], [0.5, 0.9], 50, accuracy) is None

    def test_a_flat_curve_compares_with_nothing(self):
        assert saved_at_equal([100, 400], [0.5, 0.5], 50, 0.5) is None

    @pytest.mark.parametrize(("rates", "accuracies"), [([1], [1]), ([1, 2], [1]), ([0, 1], [0, 1])])
    def test_no_curve(self, rates, accuracies):
        with pytest.raises(ValueError, match="at least two"):
            saved_at_equal(rates, accuracies, 1, 1)


class TestPhotoFolder:
    @pytest.fixture
    def tree(self, tmp_path):
        for name, count in (("cat", 3), ("dog", 2), ("emu", 1)):
            (tmp_path / name).mkdir()
            for k in range(count):
                Image.new("RGB", (8, 6), (k, 0, 0)).save(tmp_path / name / f"{k}.png")
        return tmp_path

    def test_labels_follow_the_sorted_folders(self, tree):
        photos = PhotoFolder(tree)
        photos.number_classes(3)
        assert [(p.name, p.label) for p in photos][2:4] == [("cat/2.png", 0), ("dog/0.png", 1)]
        assert photos.class_names() == {0: "cat", 1: "dog", 2: "emu"}
        assert len(photos) == 6

    def test_a_limit_is_spread_over_the_classes(self, tree):
        assert [p.name for p in PhotoFolder(tree, 3)] == ["cat/0.png", "cat/2.png", "dog/1.png"]
        assert len(PhotoFolder(tree, 100)) == 6

    def test_wnids_take_imagenet_s_index_also_when_only_some_are_there(self, tmp_path):
        for wnid in ("n02123045", "n01440764", "n15075141"):
            (tmp_path / wnid).mkdir()
            Image.new("RGB", (8, 6)).save(tmp_path / wnid / "a.jpg")
        photos = PhotoFolder(tmp_path)
        photos.number_classes(1000)
        assert [p.label for p in photos] == [0, 281, 999]
        assert [photos.class_names()[k] for k in (0, 281, 999)] == ["tench", "tabby", "toilet tissue"]
        photos.number_classes(3)
        assert [p.label for p in photos] == [0, 1, 2]
        (tmp_path / "n00000000").mkdir()
        with pytest.raises(ValueError, match="'n00000000' is no class of ImageNet"):
            PhotoFolder(tmp_path).number_classes(1000)

    def test_there_are_a_thousand_wnids_in_order(self):
        assert len(set(wnids())) == 1000
        assert list(wnids()) == sorted(wnids())

    def test_broken_and_alien_files_are_named_and_left_out(self, tree):
        (tree / "cat" / "0.png").write_bytes(b"no picture")
        (tree / "dog" / "notes.txt").write_text("notes")
        whole = (tree / "cat" / "1.png").read_bytes()
        (tree / "cat" / "1.png").write_bytes(whole[: len(whole) // 2])
        (tree / ".hidden").mkdir()
        photos = PhotoFolder(tree)
        for _ in range(2):
            assert sum(p is not None for p in photos) == 4
            assert [name for name, _ in photos.skipped] == ["cat/0.png", "cat/1.png", "dog/notes.txt"]
            assert all(reason for _, reason in photos.skipped)

    @pytest.mark.parametrize("kind", ["missing", "empty", "flat", "hollow"])
    def test_what_is_no_tree(self, kind, tmp_path):
        root = tmp_path / "root"
        if kind != "missing":
            root.mkdir()
        if kind == "flat":
            Image.new("RGB", (8, 6)).save(root / "a.jpg")
        if kind == "hollow":
            (root / "cat").mkdir()
        words = {"missing": "no folder", "empty": "no class folders", "flat": "<class>/<photo>", "hollow": "are empty"}
        with pytest.raises(ValueError, match=words[kind]):
            PhotoFolder(root)

    def test_class_mismatch(self, tree):
        with pytest.raises(ValueError, match="3 class folders and the model has 10 outputs"):
            PhotoFolder(tree).number_classes(10)
        with pytest.raises(ValueError, match="limit"):
            PhotoFolder(tree, 0)


class TestRead:
    def test_pictures_of_any_mode_come_as_rgb(self, tmp_path):
        for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"):
            path = tmp_path / f"{mode.replace(';', '')}.tif"
            Image.new(mode, (7, 5)).save(path)
            pixels = read(path)
            assert (tuple(pixels.shape), pixels.dtype) == ((3, 5, 7), torch.uint8)

    def test_transparent_is_white(self, tmp_path):
        Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "a.png")
        assert (read(tmp_path / "a.png") == 255).all()

    def test_photos_are_turned_upright(self, tmp_path):
        image = Image.fromarray(np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3))
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(tmp_path / "a.png", exif=exif)
        assert torch.equal(read(tmp_path / "a.png"), as_tensor(image.rotate(-90, expand=True)))


class TestReport:
    def test_text_table(self, results):
        lines = text_table(results).splitlines()
        assert len({len(line) for line in lines[:11]}) == 1
        assert sum(line.startswith("jpeg") for line in lines) == 9
        assert any("by the pre-filter at equal agreement" in line for line in lines)
        assert any("by downscaling alone" in line for line in lines)

    def test_curves_are_named_and_sorted(self, results):
        curves = plots.curves(results.points)
        assert list(curves) == ["jpeg alone", "jpeg, scale 0.6", "jpeg, strength 0.5"]
        assert all([p.bytes for p in c] == sorted(p.bytes for p in c) for c in curves.values())

    def test_plot_shows_the_points(self, results):
        figure, ax = plots.rate_accuracy(results, "scene_net", "top1")
        assert len(ax.lines) == 3
        line = ax.lines[0]
        alone = plots.curves(results.points)["jpeg alone"]
        np.testing.assert_allclose(line.get_xdata(), [p.bytes / 1000 for p in alone])
        np.testing.assert_allclose(line.get_ydata(), [100 * p.judges["scene_net"].top1 for p in alone])
        same_figure, same_ax = plots.rate_accuracy(results, "scene_net", ax=ax)
        assert same_figure is figure
        assert same_ax is ax

    def test_the_page_is_whole_and_on_its_own(self, results, measured):
        html = page(results, measured, "Title <1>", "Lead & more", dict(enumerate(CLASSES)))
        seen = Collector()
        seen.feed(html)
        assert "Title &lt;1&gt;" in html
        assert "Lead &amp; more" in html
        assert seen.scripts == 0
        assert all(src.startswith("data:image/") for src in seen.sources)
        assert not re.search(r"(url\(|@import|<link)", re.sub(r"url\(#", "", html))
        # Two exhibits, each with the original, the map, a filtered picture and nine points; and two plots.
        assert len(seen.sources) == 2 * (3 + 9)
        assert seen.tags.count("svg") == 2
        assert "currentColor" in html

    def test_the_page_shows_the_bitstreams_themselves(self, results, measured):
        import base64

        html = page(results, measured, "", "", dict(enumerate(CLASSES)))
        for encoded in measured.exhibits[0].encoded:
            assert base64.b64encode(encoded.data).decode() in html
        assert f"{len(measured.exhibits[0].encoded[0].data):,} bytes" in html

    def test_formats_that_browsers_do_not_show_are_shown_as_copies(self, judges):
        measured = measure(scenes(2), judges, [Compressor("jpeg2000"), Compressor("webp")], exhibits=[0])
        html = page(summarise(measured, {}), measured, "", "", dict(enumerate(CLASSES)))
        assert "jpeg2000, which" in html
        assert "image/jp2" not in html
        assert html.count("data:image/webp;base64,") == 3  # the original, the copy, and the WebP bitstream itself

    def test_exhibits_carry_their_settings(self, measured, compressors):
        exhibit = measured.exhibits[1]
        assert exhibit.photo.name == "scene 5"
        assert [e.codec for e in exhibit.encoded] == [c.codec for c in compressors]
        assert [e.strength for e in exhibit.encoded] == [0, 0, 0, 0.5, 0.5, 0.5, 0, 0, 0]
        assert exhibit.answers["scene_net"] == measured.answers["scene_net"][:, 5].tolist()
        assert to_array(exhibit.filtered[0.5]).shape == (160, 160, 3)
        assert Jpeg().decode(exhibit.encoded[0].data).shape == (160, 160, 3)


class Collector(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.sources, self.scripts = [], [], 0

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.scripts += tag == "script"
        self.sources += [v for k, v in attrs if k in ("src", "href") and not v.startswith("#")]
