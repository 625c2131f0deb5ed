import json
import math
import pickle
from itertools import product

import numpy as np
import pytest
import torch
import torchvision
from captum.robust import MinParamPerturbation
from conftest import RECIPES
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import foveate
from foveate import (
    Compressor,
    PreEdit,
    Prefilter,
    RateControl,
    Sweep,
    Witness,
    register_criterion,
    register_filter,
    transforms,
)
from foveate.codecs import CODECS
from foveate.demo import PREPROCESS, Scenes
from foveate.evaluation import SampleFolder
from foveate.identity import IdentityError
from foveate.images import as_tensor
from foveate.models import Classifier, Preprocess
from foveate.rate_control import (
    CRITERIA,
    Calibration,
    Controlled,
    Criterion,
    OperatingPoint,
    as_criteria,
    default_qualities,
    spent,
)
from foveate.testing import CriterionConformance

NET, SMALL = (Witness(f"foveate.demo:{name}", PREPROCESS) for name in ("scene_net", "scene_net:scene_net_small"))
QUALITIES, SCALES = (5, 12, 25, 60), (1.0, 0.6)


@pytest.fixture(scope="module")
def scenes():
    return [as_tensor(Scenes(6, seed=5, size=112)[k][0]) for k in range(6)]


@pytest.fixture(scope="module")
def cam():
    return foveate.GradCam("foveate.demo:scene_net", preprocess=PREPROCESS)


def control(keep="top1", witnesses=NET, **settings):
    return RateControl(witnesses, keep, **{"qualities": QUALITIES, "scales": SCALES, **settings})


def decoded_logits(encoded, witness=NET):
    return witness.logits(Compressor().decode(encoded))


def by_hand(images, holds, strengths=(None,), prefilter=None, witnesses=(NET,)):
    """The fewest bytes of every point that keeps the answer, by the fixed-point compressor alone; None without one."""
    grid = [*product(QUALITIES, SCALES, strengths)]
    least = []
    for image in images:
        encoded = [Compressor(f"jpeg:{q}", prefilter, scale=s).at(strength=t).encode([image])[0] for q, s, t in grid]
        answers = [holds(w.logits([image] * len(encoded)), decoded_logits(encoded, w)) for w in witnesses]
        kept = torch.stack(answers).all(0)
        least.append(min((len(e.data) for e, holding in zip(encoded, kept, strict=True) if holding), default=None))
    return least


class TestConformance(CriterionConformance):
    """What every criterion does: those in CRITERIA join by themselves, each with a bound where it takes one."""

    @pytest.fixture(params=CRITERIA.names())
    def text(self, request):
        return f"{request.param}0.5" if CRITERIA[request.param].bounded else request.param


def second(clean, logits):
    """By how much the clean answer is among the first two."""
    answer = clean.argmax(1, keepdim=True)
    others = logits.scatter(1, answer, -math.inf)
    return logits.gather(1, answer).squeeze(1) - others.topk(2).values[:, -1]


class TestRegisteredCriterion(CriterionConformance):
    """One without a bound."""

    @pytest.fixture
    def text(self):
        register_criterion("second", least=1e-6)(second)
        return "second"


class TestRegisteredCriterionWithABound(CriterionConformance):
    @pytest.fixture
    def text(self):
        register_criterion("second-by", least=float)(second)
        return "second-by0.5"


class TestRegistration:
    def test_it_is_used_by_name_and_learned_by_a_calibration(self, scenes):
        register_criterion("second", least=1e-6)(second)
        least = by_hand(scenes[:3], lambda clean, logits: second(clean, logits) > 0)
        encoded = Compressor("jpeg", control=control("second", exhaustive=True)).encode(scenes[:3])
        assert [len(e.data) if e.met else None for e in encoded] == least
        calibration = control("top1+second").calibrate(Compressor("jpeg"), scenes[:3])
        assert calibration.slack(as_criteria("second")).shape == calibration.bits.shape
        assert control("second", calibration=calibration).keeps == "second"

    def test_a_name_with_digits(self):
        register_criterion("top2")(second)
        assert as_criteria("top2+top1") == (Criterion("top2"), Criterion("top1"))
        with pytest.raises(ValueError, match="takes no bound"):
            Criterion("top2", 3)

    @pytest.mark.parametrize(
        ("name", "measure", "error", "words"),
        [
            ("top1", second, ValueError, "'top1' is .* already"),
            ("Second", second, ValueError, "lower-case"),
            ("a+b", second, ValueError, "lower-case"),
            ("", second, TypeError, "name"),
            ("third", 3, TypeError, "criterion: expected a function"),
        ],
    )
    def test_what_cannot_be_registered(self, name, measure, error, words):
        with pytest.raises(error, match=words):
            register_criterion(name)(measure)

    def test_what_it_returns_is_checked(self):
        register_criterion("scalar")(lambda clean, logits: torch.tensor(1.0))
        with pytest.raises(ValueError, match=r"keep: scalar is to return \(2,\) numbers, got \(\)"):
            Criterion("scalar")(torch.rand(2, 3), torch.rand(2, 3))

    def test_the_identity_tells_the_code(self):
        register_criterion("second")(second)
        mine = control("second").identity
        assert mine != control("top1").identity
        assert "second" in mine


class TestCriteria:
    clean = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 0.5]])
    after = torch.tensor([[1.5, 1.4, 0.0], [0.0, 3.5, 1.0], [0.2, 0.4, 0.3]])

    def test_by_hand(self):
        p, q = self.clean.softmax(1), self.after.softmax(1)
        answer = [0, 1, 0]
        share = torch.tensor([q[k, a] / p[k, a] for k, a in enumerate(answer)])
        divergence = (p * (p / q).log()).sum(1)
        lead = torch.tensor([0.1, 2.5, -0.2])
        for text, expected in {
            "top1": [True, True, False],
            **{f"p{r}": (share >= r).tolist() for r in (0.3, 0.7, 0.99, 1)},
            **{f"kl{b}": (divergence <= b).tolist() for b in (0.01, 0.05, 0.1, 0.5)},
            **{f"margin{m}": (lead >= m).tolist() for m in (0.05, 0.2, 3)},
        }.items():
            assert Criterion.parse(text)(self.clean, self.after).tolist() == expected, text

    def test_a_tie_is_no_answer_and_no_number_holds_nothing(self):
        tie = torch.tensor([[1.0, 1.0]])
        assert not Criterion("top1")(torch.tensor([[1.0, 0.0]]), tie)
        for text in ("top1", "p0.1", "kl9", "margin0.1"):
            assert not Criterion.parse(text)(torch.tensor([[1.0, 0.0]]), torch.tensor([[math.nan, 0.0]]))

    @pytest.mark.parametrize("text", ["top1", "p0.9", "kl0.2", "margin1.5", "top1+kl0.05"])
    def test_strings_read_back(self, text):
        assert "+".join(map(str, as_criteria(text))) == text
        assert as_criteria(as_criteria(text)) == as_criteria(text)
        assert RateControl(NET, text).keeps == text

    @pytest.mark.parametrize(
        "text", ["", "robust", "top5", "p", "kl", "p-1", "p0", "kl0.2.1", "0.5", "top11", "pinf", "p90", "top1+"]
    )
    def test_what_is_not_a_criterion_s_string(self, text):
        with pytest.raises(ValueError, match="keep"):
            as_criteria(text)

    def test_what_is_not_a_criterion(self):
        with pytest.raises(TypeError, match="keep.*got 0.9"):
            as_criteria([0.9])
        with pytest.raises(ValueError, match="at least one"):
            as_criteria([])


class TestChoice:
    @pytest.mark.parametrize("keep", ["top1", "top1+kl0.5"])
    def test_exhaustive_is_the_least_by_hand(self, scenes, keep):
        chosen = Compressor("jpeg", control=control(keep, exhaustive=True)).encode(scenes)

        def holds(clean, logits):
            return torch.stack([criterion(clean, logits) for criterion in as_criteria(keep)]).all(0)

        for encoded, least, finest in zip(
            chosen, by_hand(scenes, holds), Compressor("jpeg:60").encode(scenes), strict=True
        ):
            assert encoded.met == (least is not None)
            assert len(encoded.data) == (len(finest.data) if least is None else least)

    @pytest.mark.parametrize("exhaustive", [False, True])
    def test_what_is_met_is_met_by_what_is_decoded(self, scenes, exhaustive):
        for encoded, scene in zip(
            Compressor("jpeg", control=control("kl0.2", exhaustive=exhaustive)).encode(scenes), scenes, strict=True
        ):
            kept = bool(Criterion("kl", 0.2)(NET.logits([scene]), decoded_logits([encoded])))
            assert encoded.met == kept
            same = Compressor(encoded.codec, scale=encoded.scale).encode([scene])[0]
            assert encoded.data == same.data

    def test_strengths_are_chosen_too(self, scenes, cam):
        prefilter = Prefilter(cam, 0.5)
        strengths = (0.0, 0.8)
        compressor = Compressor("jpeg", prefilter, control=control(strengths=strengths, exhaustive=True))
        chosen = compressor.encode(scenes[:3])
        least = by_hand(scenes[:3], Criterion("top1"), strengths, prefilter)
        assert [len(encoded.data) if encoded.met else None for encoded in chosen] == least
        assert any(encoded.strength > 0 for encoded in chosen)
        for encoded, scene in zip(chosen, scenes, strict=False):
            same = Compressor(encoded.codec, Prefilter(cam, encoded.strength), scale=encoded.scale).encode([scene])[0]
            assert encoded.data == same.data

    def test_every_witness_must_agree(self, scenes):
        chosen = Compressor("jpeg", control=control("kl0.3", [NET, SMALL], exhaustive=True)).encode(scenes)
        least = by_hand(scenes, Criterion("kl", 0.3), witnesses=(NET, SMALL))
        assert [len(encoded.data) if encoded.met else None for encoded in chosen] == least
        assert all(len(encoded.clean) == len(encoded.final) == 2 for encoded in chosen)

    def test_a_function_as_criterion(self, scenes):
        def sure(clean, logits):
            return (logits.softmax(1).amax(1) > 0.9) & (clean.argmax(1) == logits.argmax(1))

        chosen = Compressor("jpeg", control=control(sure, exhaustive=True)).encode(scenes)
        least = by_hand(scenes, sure)
        assert [len(encoded.data) if encoded.met else None for encoded in chosen] == least
        assert control(["top1", sure]).keeps == "top1+sure"
        with pytest.raises(ValueError, match=r"keep: <lambda> is to return \(3,\) booleans, got \(\)"):
            Compressor("jpeg", control=control(lambda a, b: torch.tensor(True))).encode(scenes[:3])

    def test_the_finest_point_is_the_flagged_fallback(self, scenes):
        for settings in ({}, {"exhaustive": True}, {"tries": 1}):
            chosen = Compressor("jpeg", control=control("margin1000", **settings)).encode(scenes[:3])
            assert [encoded.met for encoded in chosen] == [False] * 3
            assert [encoded.data for encoded in chosen] == [
                encoded.data for encoded in Compressor("jpeg:60").encode(scenes[:3])
            ]
            assert all(encoded.settings == {"codec": "jpeg:60", "strength": 0.0, "scale": 1.0} for encoded in chosen)

    def test_the_floor(self, scenes):
        chosen = Compressor("jpeg", control=control(floor=25, exhaustive=True)).encode(scenes)
        assert min(encoded.codec.quality for encoded in chosen) == 25
        assert {p.quality for p in RateControl(NET, floor=32).points(Compressor("hevc"))} == {
            q for q in default_qualities(foveate.Hevc()) if q <= 32
        }
        with pytest.raises(ValueError, match="floor: no quality is as fine as 90"):
            Compressor("jpeg", control=control(floor=90))

    def test_the_record(self, scenes):
        encoded = Compressor("jpeg", control=control("p0.9")).encode(scenes[:1])[0]
        clean, after = NET.logits(scenes[:1]).softmax(1), decoded_logits([encoded]).softmax(1)
        assert isinstance(encoded, Controlled)
        assert encoded.clean == (pytest.approx(float(clean.amax()), rel=1e-5),)
        assert encoded.final == (pytest.approx(float(after[0, clean.argmax()]), rel=1e-5),)
        assert 1 <= encoded.tried <= encoded.encodes == len(QUALITIES) * len(SCALES)

    def test_answers_that_are_not_monotone(self):
        """A classifier that knows the coarsest and the finest quality, and nothing between, as it falls."""
        image = as_tensor(Scenes(1)[0][0])
        shown = {q: Compressor().decode(Compressor(f"jpeg:{q}").encode([image]))[0] for q in (5, 12, 25, 60)}
        wrong = torch.stack([shown[q].float() / 255 for q in (12, 25)])

        class Fussy(nn.Module):
            def forward(self, x):
                away = (x[:, None] - wrong).abs().amax((2, 3, 4)).amin(1)
                return torch.stack([away, torch.full_like(away, 1e-4)], 1)

        witness = Classifier("fussy", Fussy(), Preprocess(mean=(0, 0, 0), std=(1, 1, 1)))
        for exhaustive in (False, True):
            encoded = Compressor(
                "jpeg", control=control("top1", witness, scales=1.0, exhaustive=exhaustive, worth=0)
            ).encode([image])[0]
            assert (encoded.codec.quality, encoded.met) == (5, True)
        encoded = Compressor("jpeg", control=control(witnesses=witness, scales=1.0, floor=12)).encode([image])[0]
        assert (encoded.codec.quality, encoded.met) == (60, True)

    def test_captum_finds_the_same_quality(self, scenes):
        """captum.robust.MinParamPerturbation from the finest downwards: the first quality that changes the answer."""
        steps = (10, 20, 30, 40)
        chosen = Compressor("jpeg", control=RateControl(NET, qualities=steps, scales=1.0, exhaustive=True)).encode(
            scenes
        )
        model = NET.classifier.model

        def store(image, worse):
            compressor = Compressor(f"jpeg:{50 - worse}")
            return compressor.decode(compressor.encode(image))[0][None]

        least = MinParamPerturbation(
            forward_func=model, attack=store, arg_name="worse", arg_min=10, arg_max=50, arg_step=10, mode="linear",
            preproc_fn=PREPROCESS, apply_before_preproc=True,
        )  # fmt: skip
        compared = 0
        for scene, encoded in zip(scenes, chosen, strict=True):
            _, worse = least.evaluate(scene[None], target=int(NET.logits([scene]).argmax()))
            lowest_before_a_change = 10 if worse is None else 50 - worse + 10
            assert encoded.codec.quality <= min(lowest_before_a_change, 40)
            answers = [
                int(NET.logits(Compressor().decode(Compressor(f"jpeg:{q}").encode([scene]))).argmax()) for q in steps
            ]
            kept = [a == int(NET.logits([scene]).argmax()) for a in answers]
            if kept == sorted(kept) and any(kept):  # monotone: the two searches look for the same
                assert encoded.codec.quality == lowest_before_a_change
                compared += 1
        assert compared >= 2


class TestBatches:
    def test_together_or_one_by_one(self, scenes, cam):
        compressor = Compressor("jpeg", Prefilter(cam), control=control(strengths=(0, 0.7), batch=4))
        together = compressor.encode(scenes)
        alone = [compressor.encode([scene])[0] for scene in scenes]
        assert [encoded.settings for encoded in together] == [encoded.settings for encoded in alone]
        assert [encoded.tried for encoded in together] == [encoded.tried for encoded in alone]
        assert [encoded.data for encoded in compressor.encode(torch.stack(scenes))] == [
            encoded.data for encoded in together
        ]

    def test_images_of_all_kinds(self, scenes):
        compressor = Compressor("jpeg", control=control())
        images = [scenes[0], scenes[1][:, :80], scenes[2][:1], scenes[3].float() / 255]
        chosen = compressor.encode(images)
        assert [tuple(d.shape) for d in compressor.decode(chosen)] == [tuple(p.shape) for p in images]
        assert compressor.encode([]) == []
        assert chosen[3].data == compressor.encode([scenes[3]])[0].data

    def test_given_maps_are_used(self, scenes, cam):
        compressor = Compressor("jpeg", Prefilter(cam), control=control(strengths=0.9, exhaustive=True))
        chosen = compressor.encode(scenes[:3], torch.ones(3, 1, 2, 2))
        plain = Compressor("jpeg", control=control(exhaustive=True)).encode(scenes[:3])
        assert [encoded.data for encoded in chosen] == [encoded.data for encoded in plain]

    def test_it_is_deterministic_and_draws_nothing(self, scenes):
        compressor = Compressor("jpeg", control=control("p0.9"))
        state = torch.random.get_rng_state()
        first = compressor.encode(scenes[:4])
        assert torch.equal(torch.random.get_rng_state(), state)
        assert compressor.encode(scenes[:4]) == first

    def test_the_model_is_as_it_was(self, scenes):
        from recipes import tiny

        model = tiny().train()
        model[1].weight.requires_grad_(False)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        Compressor("jpeg", control=control(witnesses=Classifier("tiny", model, Preprocess()))).encode(scenes[:2])
        assert all(module.training for module in model.modules())
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert [p.requires_grad for p in model.parameters()].count(False) == 1
        assert all(p.grad is None for p in model.parameters())


@pytest.fixture(scope="module")
def calibrated(scenes, cam):
    images = [Scenes(20, seed=6, size=112)[k][0] for k in range(20)]
    compressor = Compressor("jpeg", Prefilter(cam))
    return control(["top1", "kl0.3"], strengths=(0, 0.7)).calibrate(compressor, images)


class TestCalibration:
    @pytest.mark.parametrize("kind", [list, iter])
    def test_progress(self, scenes, kind):
        steps = []
        control(qualities=(5, 60), scales=1.0).calibrate(Compressor("jpeg"), kind(scenes[:3]), steps.append)
        total = 3 if kind is list else None
        assert steps == [foveate.Progress("calibrate", done, total) for done in (1, 2, 3)]

    def test_it_holds_what_was_measured(self, calibrated, cam):
        table = calibrated
        assert table.bits.shape == table.values["lead"][0].shape == (20, 16)
        assert (table.codec, table.witnesses) == ("jpeg", ("scene_net",))
        k = table.points.index(OperatingPoint(0.7, 0.6, 12))
        scene = as_tensor(Scenes(20, seed=6, size=112)[3][0])
        encoded = Compressor("jpeg:12", Prefilter(cam, 0.7), scale=0.6).encode([scene])
        assert table.bits[3, k].exp() == pytest.approx(encoded[0].bpp)
        slack = float(Criterion("kl", 0.3).slack(table.values["closeness"][0])[3, k])
        assert (slack >= 0) == bool(Criterion("kl", 0.3)(NET.logits([scene]), decoded_logits(encoded)))

    def test_save_and_load(self, calibrated, scenes, cam, tmp_path):
        path = tmp_path / "calibration.json"
        calibrated.save(path)
        assert json.loads(path.read_text())["schema"] == 2
        assert list(tmp_path.iterdir()) == [path]
        again = Calibration.load(path)
        assert again.points == calibrated.points
        torch.testing.assert_close(again.bits, calibrated.bits, atol=0.006, rtol=0)
        loaded = control("kl0.3", strengths=(0, 0.7), calibration=path)
        chosen = Compressor("jpeg", Prefilter(cam), control=loaded).encode(scenes)
        assert all(encoded.tried <= 16 for encoded in chosen)

    def test_it_saves_work_and_loses_little(self, calibrated, scenes, cam):
        best = Compressor("jpeg", Prefilter(cam), control=control("kl0.3", strengths=(0, 0.7), exhaustive=True))
        quick = Compressor("jpeg", Prefilter(cam), control=control("kl0.3", strengths=(0, 0.7), calibration=calibrated))
        exact, chosen = best.encode(scenes), quick.encode(scenes)
        assert [encoded.met for encoded in chosen] == [encoded.met for encoded in exact]
        cost = spent(chosen)
        assert cost.decodes == cost.encodes < spent(exact).encodes / 2
        assert cost.forwards == cost.decodes + len(scenes)
        assert sum(len(encoded.data) for encoded in chosen) <= 1.15 * sum(len(encoded.data) for encoded in exact)
        assert all(len(a.data) >= len(b.data) for a, b in zip(chosen, exact, strict=True))

    def test_other_bounds_and_parts_of_the_grid(self, calibrated):
        control("kl0.01", qualities=(12, 60), scales=1.0, strengths=0.0, calibration=calibrated).check(
            Compressor("jpeg")
        )

    @pytest.mark.parametrize(
        ("settings", "codec", "words"),
        [
            ({"qualities": (5, 7)}, "jpeg", "no .*strength, scale, quality"),
            ({}, "webp", "of 'jpeg', not of 'webp'"),
            ({"keep": max}, "jpeg", "without .*max.*, only with lead"),
        ],
    )
    def test_what_does_not_fit(self, calibrated, settings, codec, words):
        with pytest.raises(ValueError, match=f"calibration: .*{words}"):
            Compressor(codec, control=control(calibration=calibrated, **settings))

    @pytest.mark.parametrize(
        "text", ["", "{}", "[]", '{"schema": 1}', '{"schema": 2}', '{"schema": 2, "codec": "jpeg", "points": [[1]]}']
    )
    def test_files_that_are_not_calibrations(self, tmp_path, text):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match=r"calibration: .*x\.json"):
            Calibration.load(tmp_path / "x.json")
        with pytest.raises(OSError, match=r"y\.json"):
            RateControl(NET, calibration=tmp_path / "y.json")

    def test_it_takes_two_pictures(self):
        with pytest.raises(ValueError, match="two or more"):
            control().calibrate(Compressor("jpeg"), [])


@pytest.mark.parametrize("name", CODECS.names())
def test_every_codec(name, scenes):
    """What rate control does with every codec: those in CODECS join by themselves."""
    codec = CODECS[name]()
    grid = default_qualities(codec)
    assert 7 <= len(grid) <= 9
    assert list(grid) == sorted(grid, key=list(codec.scale).index)
    assert set(codec.ladder) <= set(grid)
    chosen = (grid[0], grid[len(grid) // 2], grid[-1])
    encoded = Compressor(codec, control=RateControl(NET, qualities=chosen, scales=1.0)).encode(scenes[:1])[0]
    assert encoded.met == bool(Criterion("top1")(NET.logits(scenes[:1]), decoded_logits([encoded])))
    assert encoded.codec.quality in chosen


def test_the_demo_s_control(scenes):
    """The calibration that ships: quick, and near what the whole grid has to offer."""
    from foveate.demo.editor import scene_editor
    from foveate.demo.rate_control import GRID
    from foveate.demo.rate_control import control as shipped

    images = [as_tensor(Scenes(8, seed=8)[k][0]) for k in range(8)]
    edit = PreEdit(scene_editor())
    chosen = Compressor("jpeg", edit, control=shipped("kl0.3")).encode(images)
    best = Compressor("jpeg", edit, control=RateControl(NET, "kl0.3", **GRID, exhaustive=True)).encode(images)
    assert spent(chosen).decodes <= 8 * len(images)
    assert sum(len(encoded.data) for encoded in chosen) <= 1.15 * sum(len(encoded.data) for encoded in best)
    assert Compressor("jpeg", edit, control=shipped("robust0.2")).encode(images[:1])[0].expected > 0


def test_saliency_inside_the_codec(scenes, cam):
    compressor = Compressor(
        "hevc:37,preset=ultrafast,roi=6", saliency=cam, control=RateControl(NET, qualities=(42, 32), scales=1.0)
    )
    encoded = compressor.encode(scenes[:1])[0]
    assert encoded.data == Compressor(encoded.codec, saliency=cam).encode(scenes[:1])[0].data


class TestArguments:
    @pytest.mark.parametrize(
        ("settings", "error", "words"),
        [
            ({"witnesses": []}, ValueError, "at least one classifier"),
            ({"witnesses": [3]}, TypeError, "witnesses: .*int"),
            ({"scales": 1.5}, ValueError, r"scales: .*\(0, 1\], got 1.5"),
            ({"scales": ()}, ValueError, "scales: expected at least one"),
            ({"strengths": -1}, ValueError, "strengths"),
            ({"tries": 0}, ValueError, "tries: .*got 0"),
            ({"batch": True}, ValueError, "batch"),
            ({"worth": -1}, ValueError, "worth"),
            ({"calibration": 3}, TypeError, "calibration: .*int"),
        ],
    )
    def test_wrong_settings(self, settings, error, words):
        with pytest.raises(error, match=words):
            RateControl(**{"witnesses": NET, **settings})

    @pytest.mark.parametrize(
        ("settings", "error", "words"),
        [
            ({"control": NET}, TypeError, "control: expected a foveate.RateControl"),
            ({"target": foveate.TargetSize(bytes=9)}, ValueError, "target, control"),
            ({"scale": 0.5}, ValueError, "scales=0.5"),
            ({"control": RateControl(NET, qualities=(5, 200))}, ValueError, "1 to 95"),
            ({"control": RateControl(NET, strengths=(0, 0.5))}, ValueError, "prefilter"),
        ],
    )
    def test_compressors_that_it_does_not_fit(self, settings, error, words):
        with pytest.raises(error, match=words):
            Compressor("jpeg", **{"control": control(), **settings})

    def test_the_images_of_a_sweep_one_by_one_leave_no_choice(self, scenes):
        with pytest.raises(ValueError, match="encode_at: .*use encode"):
            Compressor("jpeg", control=control()).encode_at(Sweep(scenes), [0])

    def test_a_wrong_recipe(self, scenes):
        with pytest.raises(ValueError, match="did you mean"):
            Compressor("jpeg", control=control(witnesses="resnet81")).encode(scenes[:1])


@pytest.fixture
def folder(tmp_path):
    for k, (scene, label) in enumerate(Scenes(6, seed=5, size=112)[k] for k in range(6)):
        (tmp_path / "photos" / Scenes.classes[label]).mkdir(parents=True, exist_ok=True)
        scene.save(tmp_path / "photos" / Scenes.classes[label] / f"{k}.png")
    return tmp_path / "photos"


def epoch(folder, transform, workers, start=None):
    chain = v2.Compose([transform, v2.PILToTensor()])
    data = torchvision.datasets.ImageFolder(folder, chain)
    return list(DataLoader(data, 2, num_workers=workers, multiprocessing_context=start))


class TestTransform:
    @pytest.mark.parametrize("start", ["fork", "forkserver"])
    def test_workers_do_what_the_process_does(self, folder, start):
        transform = transforms.Compress("jpeg", control=control("p0.9", scales=1.0), return_rate=True)
        for ((a, rate_a), _), ((b, rate_b), _) in zip(
            epoch(folder, transform, 0), epoch(folder, transform, 2, start), strict=True
        ):
            assert torch.equal(a, b)
            assert torch.equal(rate_a["bytes"], rate_b["bytes"])

    def test_a_witness_is_built_once_a_worker(self, folder, tmp_path):
        (tmp_path / "built").mkdir()
        witness = Witness(f"{RECIPES}:counted:{tmp_path / 'built'}", Preprocess())
        epoch(folder, transforms.Compress("jpeg", control=control(witnesses=[witness, witness])), 2, "fork")
        assert len(list((tmp_path / "built").iterdir())) == 2

    def test_it_is_the_compressor(self, scenes):
        compressor = Compressor("jpeg", control=control())
        expected = compressor.decode(compressor.encode(scenes[:2]))
        out = transforms.Compress("jpeg", control=control())(torch.stack(scenes[:2]))
        assert torch.equal(out, torch.stack(expected))

    def test_pickled_is_a_recipe(self, scenes):
        by_recipe = control(witnesses=[NET, SMALL])
        Compressor("jpeg", control=by_recipe).encode(scenes[:1])
        assert len(pickle.dumps(by_recipe)) < 2000
        assert pickle.loads(pickle.dumps(by_recipe)) == by_recipe
        by_value = control(witnesses=Classifier("net", NET.classifier.model, PREPROCESS))
        with pytest.raises(TypeError, match="give its recipe instead"):
            pickle.dumps(by_value)

    def test_a_gpu_in_a_worker_is_refused(self, folder):
        from recipes import tiny

        # On a machine without encoded, "meta" stands for a device that is not the CPU.
        model = tiny().to("cuda" if torch.cuda.is_available() else "meta")
        transform = transforms.Compress("jpeg", control=control(witnesses=Classifier("tiny", model, Preprocess())))
        with pytest.raises(RuntimeError, match="witness Sequential on .* inside a DataLoader worker"):
            epoch(folder, transform, 1, "fork")

    @pytest.mark.parametrize("settings", [{"quality": 30}, {"quality": (10, 30)}, {"scale": 0.5}])
    def test_two_choosers(self, settings):
        with pytest.raises(ValueError, match="the control chooses"):
            transforms.Compress("jpeg", control=control(), **settings)


@pytest.mark.realdata
class TestRealPhotos:
    def test_known_answers_are_kept_for_far_fewer_bytes(self, realdata):
        photos = [p.image for p in SampleFolder(realdata / "images", 8)]
        witness = Witness(f"{realdata}/zoo.py:load:mobilenet_v2")
        chosen = Compressor("jpeg", control=RateControl(witness, "top1", qualities=(8, 18, 35, 70), scales=1.0)).encode(
            photos
        )
        clean, after = witness.logits(photos), witness.logits(Compressor().decode(chosen))
        assert sum(encoded.met for encoded in chosen) >= 6
        for encoded, kept in zip(chosen, clean.argmax(1) == after.argmax(1), strict=True):
            assert encoded.met == bool(kept)
        finest = Compressor("jpeg:70").encode(photos)
        assert sum(len(encoded.data) for encoded in chosen) < 0.6 * sum(len(encoded.data) for encoded in finest)


def lead(clean, logits):
    """By the name of a measure that is built in; never holds."""
    return torch.zeros(len(logits), dtype=torch.bool)


def sure(least):
    def criterion(clean, logits):
        return logits.softmax(1).amax(1) > least

    return criterion


class Always:
    def __call__(self, clean, logits):
        return torch.ones(len(logits), dtype=torch.bool)


class TestCriteriaThatAreFunctions:
    """They are told apart by their identity, never by their name."""

    def test_two_closures_of_one_factory(self, scenes):
        strict, lax = sure(0.95), sure(0.0)
        expected = Compressor("jpeg", control=control(strict, exhaustive=True)).encode(scenes)
        for keep in ([strict, lax], [lax, strict]):
            for encoded, alone in zip(
                Compressor("jpeg", control=control(keep, exhaustive=True)).encode(scenes), expected, strict=True
            ):
                assert (encoded.data, encoded.met) == (alone.data, alone.met)
        assert len({len(e.data) for e in expected}) > 1

    def test_one_called_like_a_measure(self, scenes):
        encoded = Compressor("jpeg", control=control(["top1", lead])).encode(scenes[:2])
        assert [e.met for e in encoded] == [False, False]
        plain = Compressor("jpeg", control=control("top1")).encode(scenes[:2])
        again = Compressor("jpeg", control=control(["top1", Always()])).encode(scenes[:2])
        assert [e.data for e in again] == [e.data for e in plain]

    def test_a_calibration_tells_them_apart(self, scenes, tmp_path):
        strict, lax = sure(0.95), sure(0.0)
        calibration = control([strict, lax, lead]).calibrate(Compressor("jpeg"), scenes[:3])
        assert calibration.slack(as_criteria(strict)).min() == -1
        assert (calibration.slack(as_criteria(lax)) == 1).all()
        assert (calibration.slack(as_criteria(lead)) == -1).all()
        with pytest.raises(ValueError, match="made without"):
            calibration.slack(as_criteria(sure(0.0)))
        with pytest.raises(IdentityError, match="keep: .*top level of a module"):
            calibration.save(tmp_path / "calibration.json")
        assert not list(tmp_path.iterdir())
        kept = control(["top1", lead]).calibrate(Compressor("jpeg"), scenes[:3])
        kept.save(tmp_path / "calibration.json")
        assert (Calibration.load(tmp_path / "calibration.json").slack(as_criteria(lead)) == -1).all()

    def test_identities(self):
        assert control(lead).identity != control("top1").identity
        with pytest.raises(IdentityError, match="keep: .* property `identity`"):
            assert control(sure(0.1)).identity


class TestEquality:
    def test_of_controls_and_calibrations(self, scenes, tmp_path):
        calibration = control().calibrate(Compressor("jpeg"), scenes[:3])
        other = control().calibrate(Compressor("jpeg"), scenes[3:])
        calibration.save(tmp_path / "calibration.json")
        loaded = Calibration.load(tmp_path / "calibration.json")
        assert calibration == loaded
        assert hash(calibration) == hash(loaded)
        assert calibration != other
        assert calibration != "a calibration"
        assert control(calibration=calibration) == control(calibration=loaded)
        assert hash(control(calibration=calibration)) == hash(control(calibration=loaded))
        assert control(calibration=calibration) != control(calibration=other)
        assert control("top1") != control("p0.9")
        assert len({control(), control(), control(calibration=calibration), control("kl0.2")}) == 3


class TestSweepWithAControl:
    def test_it_is_as_of_the_images(self, scenes, cam):
        compressor = Compressor("jpeg", Prefilter(cam), control=control(strengths=(0, 0.7)))
        assert compressor.encode(Sweep(scenes[:3])) == compressor.encode(scenes[:3])

    def test_its_maps_are_used_whether_there_is_a_saliency_or_not(self, scenes, cam):
        maps = [cam(scene[None])[0] for scene in scenes[:3]]
        expected = Compressor("jpeg", Prefilter(cam), control=control(strengths=0.7)).encode(scenes[:3])

        def other(images):
            raise AssertionError("maps are given")

        for prefilter in (Prefilter(), Prefilter(other)):
            compressor = Compressor("jpeg", prefilter, control=control(strengths=0.7))
            for sweep in (Sweep(scenes[:3], maps), Sweep(torch.stack(scenes[:3]), torch.stack(maps))):
                assert compressor.encode(sweep) == expected
        with pytest.raises(ValueError, match="maps: .*saliency"):
            Compressor("jpeg", Prefilter(), control=control(strengths=0.7)).encode(scenes[:1])

    def test_each_map_is_made_once_and_each_image_filtered_once_a_strength(self, scenes, cam):
        mapped, smoothed = [], []

        def counted(images):
            mapped.append(len(images))
            return cam(images)

        @register_filter("counted")
        def smooth(images, strengths, sigma):
            smoothed.append(len(images))
            return images - strengths / 2

        prefilter = Prefilter(counted, filter="counted")
        Compressor("jpeg", prefilter, control=control(strengths=(0, 0.5, 0.9))).encode(scenes[:4])
        assert mapped == [4]
        assert smoothed == [1] * 8


class TestMapsWithAControl:
    @pytest.mark.parametrize("count", [0, 2, 4])
    def test_they_are_one_an_image(self, scenes, cam, count):
        compressor = Compressor("jpeg", Prefilter(cam), control=control(strengths=(0, 0.5)))
        with pytest.raises(ValueError, match=f"maps: expected .* 3.*got .*{count}"):
            compressor.encode(scenes[:3], torch.rand(count, 1, 5, 5))
        with pytest.raises(ValueError, match=f"maps: expected one per image, 3, got {count}"):
            compressor.control.encode(compressor, scenes[:3], list(torch.rand(count, 1, 5, 5)))
        with pytest.raises(ValueError, match=f"maps: expected one per image, 3, got {count}"):
            Compressor("jpeg", Prefilter(cam)).encode(Sweep(scenes[:3], list(torch.rand(count, 1, 5, 5))))

    def test_they_are_maps(self, scenes, cam):
        compressor = Compressor("jpeg", Prefilter(cam), control=control(strengths=(0, 0.5)))
        with pytest.raises(ValueError, match="maps: expected values in"):
            compressor.control.encode(compressor, scenes[:1], [torch.full((1, 5, 5), 255.0)])


def test_numbers_of_numpy_s(scenes):
    plain = control(qualities=(5, 60), scales=(1.0, 0.5), tries=3, batch=2)
    numpy = control(
        qualities=np.array([5, 60]), scales=np.array([1.0, 0.5], np.float32), tries=np.int64(3), batch=np.uint8(2)
    )
    expected = Compressor("jpeg", control=plain).encode(scenes[:3])
    assert Compressor("jpeg", control=numpy).encode(scenes[:3]) == expected
    assert json.dumps([e.settings for e in expected])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_images_of_any_precision(scenes, cam, dtype):
    compressor = Compressor("jpeg", Prefilter(cam), control=control(strengths=(0, 0.5)))
    images = [(image / 255).to(dtype) for image in scenes[:2]]
    encoded = compressor.encode(images)
    assert [e.met for e in encoded] == [True, True]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert compressor.encode(images) == encoded
