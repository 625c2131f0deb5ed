"""``keep="robust"``: answers of classifiers that nobody asked, and the witnesses that have no classes."""

import json
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
import torchvision
from conftest import RECIPES
from recipes import tiny
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity as public_lpips
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim
from torchvision.transforms import v2

from foveate import Compressor, PreEdit, RateControl, Witness, transforms
from foveate.demo import PREPROCESS, Scenes
from foveate.demo.editor import scene_editor
from foveate.evaluation import baselines_for
from foveate.images import as_tensor
from foveate.rate_control import (
    Calibration,
    Criterion,
    Embedding,
    Evidence,
    Lpips,
    MsSsim,
    as_criteria,
    as_witness,
)
from foveate.rate_control._evidence import Reading
from foveate.rate_control._expectation import LeftOut
from foveate.rate_control._keep_model import OF_ONE, KeepModel, KeepPrior, Tables, _logistic
from foveate.rate_control._search import Belief
from foveate.testing import FidelityConformance

NET, SMALL = (Witness(f"foveate.demo:{name}", PREPROCESS) for name in ("scene_net", "scene_net:scene_net_small"))
SIMILARITY = MsSsim()
WITNESSES = (NET, SMALL, SIMILARITY)
QUALITIES, SCALES = (5, 12, 25, 60), (1.0, 0.6)


def control(keep="robust0.3", witnesses=WITNESSES, **settings):
    return RateControl(witnesses, keep, **{"qualities": QUALITIES, "scales": SCALES, **settings})


@pytest.fixture(scope="module")
def images():
    return [as_tensor(Scenes(16, seed=6, size=112)[k][0]) for k in range(16)]


@pytest.fixture(scope="module")
def scenes():
    return [as_tensor(Scenes(6, seed=5, size=112)[k][0]) for k in range(6)]


@pytest.fixture(scope="module")
def learned(images):
    return control().calibrate(Compressor("jpeg"), images)


def encode(learned, scenes, keep="robust0.3", **settings):
    return Compressor("jpeg", control=control(keep, calibration=learned, **settings)).encode(scenes)


def invented(n=600, points=12, witnesses=4, seed=0):
    """Tables whose truth is known: a classifier keeps its answer where the quality exceeds an image's difficulty.

    The difficulty has a part that all classifiers share, one of each classifier's own, and luck at each point.
    """
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    quality = torch.linspace(-2.5, 3, points, dtype=torch.float64)
    shared, own, luck = normal(n), 0.6 * normal(witnesses, n), 0.7 * normal(witnesses, n, points)
    lead = quality - (shared + own)[..., None] + luck
    bits = 0.6 * quality + 0.3 * normal(n)[:, None]
    return Tables(bits, lead + 0.3 * normal(witnesses, n, points), lead, 2 - own - shared, normal(0, n, points))


class TestModel:
    def test_the_regression_against_scipy(self):
        draw = np.random.default_rng(0)
        x = draw.normal(size=(400, 3)) * [1, 5, 0.1] + [0, 3, 1]
        y = (draw.random(400) < 1 / (1 + np.exp(-(x @ [1, -0.2, 4] - 3)))).astype(float)
        spread = x.std(0)

        def loss(beta):
            z = x @ beta[:3] + beta[3]
            centered = beta[3] + beta[:3] @ x.mean(0)  # the ridge is on standardized features
            return np.logaddexp(0, z).sum() - y @ z + 0.2 * (((beta[:3] * spread) ** 2).sum() + centered**2)

        best = scipy.optimize.minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-8}).x
        weights, offset = _logistic(torch.from_numpy(x), torch.from_numpy(y))
        np.testing.assert_allclose([*weights, offset], best, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("kept", [0.0, 1.0])
    def test_answers_that_are_all_alike(self, kept):
        features = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        features[:, 1] = 3  # as where no classifier's answer ever varies
        weights, offset = _logistic(features, torch.full((50,), kept, dtype=torch.float64))
        p = torch.sigmoid(features @ weights + offset)
        assert bool(torch.isfinite(p).all())
        assert float((p - kept).abs().max()) < 0.05

    def test_smoothing_against_numpy(self):
        """The conditional mean of probabilistic PCA, by singular values."""
        slack = invented().lead[0]
        belief = Belief.smooth(slack, torch.zeros_like(slack))
        values = slack.clamp(-6, 6).numpy()
        centered = values - values.mean(0)
        _, singular, directions = np.linalg.svd(centered / np.sqrt(len(values) - 1), full_matrices=False)
        variances = singular**2
        error = variances[5:].mean()
        shrunk = (variances[:5] - error) / variances[:5]
        expected = values.mean(0) + centered @ directions[:5].T * shrunk @ directions[:5]
        np.testing.assert_allclose(belief.smoothed(slack), expected, atol=1e-6)

    def test_smoothing_is_what_the_search_believes_once_all_is_seen(self):
        from foveate.rate_control._search import Seen

        slack = invented().lead[0]
        belief = Belief.smooth(slack, 0 * slack)
        seen = Seen(dict.fromkeys(range(12), 0.0), dict(enumerate(slack[3].tolist())))
        mean, variance, _ = belief.conditioned(seen)
        torch.testing.assert_close(mean, belief.smoothed(slack[3:4])[0], atol=1e-4, rtol=0)
        assert bool((variance < belief.covariance.diagonal()[:12]).all())

    @pytest.mark.parametrize("witnesses", [2, 3, 4])
    def test_probabilities_come_true(self, witnesses):
        """For a classifier that had no part, on images that had none: as often as was said, and better than a guess."""
        tables = invented(witnesses=witnesses + 1)
        asked, stranger = tables.before(range(witnesses)), tables.kept[witnesses]
        learned, new = torch.arange(600)[::2], torch.arange(600)[1::2]
        prior = KeepPrior.of(KeepModel.fit(asked.of(learned)), asked.of(learned))
        p, kept = prior.probabilities(asked.of(new)).flatten(), stranger[new].double().flatten()
        for group in p.argsort().tensor_split(8):
            assert float(p[group].mean()) == pytest.approx(float(kept[group].mean()), abs=0.08)
        rate = stranger[learned].double().mean(0).expand(300, -1).flatten()

        def surprise(q):
            return float(nn.functional.binary_cross_entropy(q, kept))

        assert surprise(p) < 0.75 * surprise(rate)

    def test_more_witnesses_know_more(self):
        tables = invented(witnesses=5, n=1500)
        kept = tables.kept[4].double()
        surprise = []
        for count in (2, 3, 4):
            asked = tables.before(range(count))
            p = KeepPrior.of(KeepModel.fit(asked), asked).probabilities(asked)
            surprise.append(float(nn.functional.binary_cross_entropy(p, kept)))
        assert surprise == sorted(surprise, reverse=True)

    def test_for_one_classifier_others_have_taught(self):
        """The model that ships, on data that it has never seen: better than what is usual."""
        tables = invented(witnesses=2)
        alone, kept = tables.before([0]), tables.kept[1].double()
        model = KeepModel.fit(alone)
        assert model == OF_ONE
        usual = kept.mean(0).expand_as(kept)
        p = KeepPrior.of(model, alone).probabilities(alone)
        assert float(nn.functional.binary_cross_entropy(p, kept)) < float(
            nn.functional.binary_cross_entropy(usual.contiguous(), kept)
        )
        assert float(p.mean()) == pytest.approx(float(kept.mean()), abs=0.1)
        with pytest.raises(ValueError, match="a fidelity witness says is learned with two classifiers"):
            KeepModel.fit(Tables(alone.bits, alone.closeness, alone.lead, alone.clean, alone.closeness))

    def test_the_expectation_comes_true(self):
        """What is expected at a price is what a classifier keeps that had no part, within the interval."""
        tables = invented(witnesses=5)
        asked = tables.before(range(4))
        half = torch.arange(600)[::2]
        left_out = LeftOut(asked.of(half), ("a", "b", "c", "d"), 1.0)
        for price in (0.02, 0.2):
            expectation = left_out.at_price(price)
            new = torch.arange(600)[1::2]
            prior = KeepPrior.of(KeepModel.fit(asked.of(half)), asked.of(half))
            cost = asked.of(new).bits.exp()
            points = (prior.probabilities(asked.of(new)) - price * cost).argmax(1, keepdim=True)
            kept = float(tables.kept[4][new].gather(1, points).double().mean())
            assert expectation.low - 0.03 <= kept <= expectation.high + 0.03
            assert expectation.agreement == pytest.approx(np.mean([*expectation.by_classifier.values()]))

    def test_a_share_of_answers_is_the_highest_price_that_gives_it(self):
        left_out = LeftOut(invented(witnesses=3), ("a", "b", "c"), 1.0)
        expectation = left_out.for_agreement(0.9)
        assert expectation.agreement >= 0.9
        assert left_out.at_price(1.1 * expectation.price).agreement < 0.9
        with pytest.raises(ValueError, match=r"keep: 99\.9 % is more than the .* finest points; ask for less"):
            left_out.for_agreement(0.999)


class TestControl:
    def test_the_calibration_holds_it(self, learned, images, tmp_path):
        assert (learned.witnesses, learned.fidelities) == (("scene_net", "scene_net_small"), ("ms-ssim",))
        assert learned.distances.shape == (1, 16, 8)
        k = learned.points.index((0.0, 0.6, 12))
        decoded = Compressor().decode(Compressor("jpeg:12", scale=0.6).encode(images[3:4]))
        assert learned.distances[0, 3, k] == pytest.approx(float(SIMILARITY.distance(images[3:4], decoded)))
        lead = SMALL.logits(images[3:4]).topk(2).values[0]
        assert learned.clean[1, 3] == pytest.approx(float(lead[0] - lead[1]), abs=1e-5)
        learned.save(tmp_path / "learned.json")
        again = Calibration.load(tmp_path / "learned.json")
        assert again.model == learned.model
        assert again == learned
        torch.testing.assert_close(again.distances, learned.distances, atol=1e-4, rtol=0)

    def test_a_model_of_other_witnesses_is_no_calibration(self, learned, tmp_path):
        learned.save(tmp_path / "learned.json")
        content = json.loads((tmp_path / "learned.json").read_text())
        content["model"]["weights"].pop()
        (tmp_path / "learned.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"learned\.json is not a calibration .*: its model has 7 weights"):
            Calibration.load(tmp_path / "learned.json")

    def test_an_expectation_takes_four_images(self, images):
        few = control(witnesses=(NET, SMALL), qualities=(5, 60), scales=1.0)
        learned = few.calibrate(Compressor("jpeg"), images[:3])
        with pytest.raises(ValueError, match="calibration: to halve its images takes four or more, better 200, got 3"):
            control("robust80", (NET, SMALL), qualities=(5, 60), scales=1.0, calibration=learned).expectation(
                Compressor("jpeg")
            )

    def test_a_higher_price_buys_fewer_bytes(self, learned, scenes):
        sizes = [sum(len(e.data) for e in encode(learned, scenes, f"robust{price:g}")) for price in (0.05, 1, 3)]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[-1] < 0.6 * sizes[0]

    def test_the_probability_and_the_choice_by_hand(self, learned, scenes):
        """All points decoded, each scored by the documented features: the choice is as good as the best of them."""
        chosen = encode(learned, scenes[:3], "robust0.5", worth=0.0, tries=8)
        points = control().points(Compressor("jpeg"))
        columns = [learned.points.index(p) for p in points]
        model = learned.model
        usual = learned.values["lead"][..., columns].gt(0).double().mean((0, 1)).clamp(0.02, 0.98)
        bits = learned.bits[:, columns]
        prior = KeepPrior.of(model, learned.tables().at(columns))
        for encoded, scene in zip(chosen, scenes, strict=False):
            rows, cost = [], []
            for k, (_, scale, quality) in enumerate(points):
                stored = Compressor(f"jpeg:{quality}", scale=scale).encode([scene])
                decoded = Compressor().decode(stored)
                pairs = [(w.logits([scene])[0].double(), w.logits(decoded)[0].double()) for w in (NET, SMALL)]
                closeness = [
                    -math.log(max(float((a.softmax(0) * (a.log_softmax(0) - b.log_softmax(0))).sum()), 1e-6))
                    for a, b in pairs
                ]
                leads = [float(b[a.argmax()] - b[torch.arange(len(b)) != a.argmax()].max()) for a, b in pairs]
                clean = [min(12, float(a.max() - a[torch.arange(len(a)) != a.argmax()].max())) for a, _ in pairs]
                rows.append(
                    [
                        float(torch.logit(usual[k])),
                        math.log(stored[0].bpp) - float(bits[:, k].mean()),
                        np.mean(closeness),
                        np.mean([lead > 0 for lead in leads]),
                        np.mean(np.clip(leads, -6, 10)),
                        np.mean(clean),
                        np.mean(np.log(np.maximum(clean, 0.1))),
                        math.log(max(1e-4, float(SIMILARITY.distance([scene], decoded)))),
                    ]
                )
                cost.append(0.5 * stored[0].bpp / float(bits[:, -1].exp().mean()))
            odds = torch.tensor(rows) @ torch.tensor(model.weights, dtype=torch.float64) + model.offset
            smooth = model.slope * prior.belief.smoothed(odds[None])[0] + model.intercept
            p = torch.sigmoid(smooth)
            score = p - torch.tensor(cost)
            k = points.index((encoded.strength, encoded.scale, encoded.codec.quality))
            assert float(score[k]) >= float(score.max()) - 0.05
            assert encoded.expected == pytest.approx(float(p[k]), abs=0.15)

    def test_met_says_whether_the_witnesses_kept_their_answers(self, learned, scenes):
        for encoded, scene in zip(encode(learned, scenes, "robust3"), scenes, strict=True):
            answers = [(w.logits([scene]), w.logits(Compressor().decode([encoded]))) for w in (NET, SMALL)]
            assert encoded.met == all(bool(Criterion("top1")(*pair)) for pair in answers)
            assert len(encoded.clean) == len(encoded.final) == 2
            assert 0 < encoded.expected < 1
            assert encoded.tried == encoded.encodes <= 8

    def test_a_share_of_answers(self, learned, scenes):
        compressor = Compressor("jpeg", control=control("robust70", calibration=learned))
        expectation = compressor.control.expectation(compressor)
        assert expectation.agreement >= 0.7
        assert expectation.low <= expectation.agreement <= expectation.high
        assert set(expectation.by_classifier) == {"scene_net", "scene_net_small"}
        same = encode(learned, scenes, f"robust{expectation.price:.9g}")
        assert [e.data for e in compressor.encode(scenes)] == [e.data for e in same]

    def test_part_of_the_witnesses_and_of_the_grid(self, learned, scenes):
        for settings in ({"keep": "robust60"}, {"qualities": (12, 60), "scales": 1.0}):
            assert all(e.expected > 0 for e in encode(learned, scenes[:2], **settings))
        assert len(encode(learned, scenes[:1], qualities=25, scales=1.0)) == 1  # one point, no choice

    def test_one_classifier(self, images, scenes):
        learned = control(witnesses=NET).calibrate(Compressor("jpeg"), images)
        small, large = (encode(learned, scenes, keep, witnesses=NET) for keep in ("robust3", "robust0.05"))
        assert sum(len(e.data) for e in small) < sum(len(e.data) for e in large)
        assert all(0 < e.expected < 1 for e in small + large)
        with pytest.raises(ValueError, match="there is only scene_net; give another, or a price such as"):
            encode(learned, scenes, "robust90", witnesses=NET)

    def test_edits_and_tables_are_among_the_points(self, images, scenes):
        compressor = Compressor("jpeg:tables=machine", PreEdit(scene_editor()))
        settings = {"strengths": (0.0, 0.5), "qualities": (5, 12, 25), "scales": 1.0}
        learned = control(**settings).calibrate(compressor, images)
        chosen = [
            encoded
            for price in (0.05, 0.3, 1)
            for encoded in Compressor(
                compressor.codec,
                compressor.prefilter,
                control=control(f"robust{price:g}", calibration=learned, **settings),
            ).encode(scenes)
        ]
        assert 0.5 in {encoded.strength for encoded in chosen}
        assert {encoded.codec.tables for encoded in chosen} == {compressor.codec.tables}
        assert all(encoded.tried <= 6 for encoded in chosen)

    def test_in_a_loader_s_workers(self, learned, tmp_path):
        for k in range(4):
            (tmp_path / "a").mkdir(exist_ok=True)
            Scenes(4, seed=9, size=112)[k][0].save(tmp_path / "a" / f"{k}.png")
        robust = control("robust0.5", calibration=learned)
        chain = v2.Compose([transforms.Compress("jpeg", control=robust, return_rate=True), v2.PILToTensor()])
        data = torchvision.datasets.ImageFolder(tmp_path, chain)
        here, there = (
            [rate["bytes"].tolist() for (_, rate), _ in DataLoader(data, 2, num_workers=workers)] for workers in (0, 2)
        )
        assert here == there

    def test_workers_and_pickles(self, learned, scenes):
        there = pickle.loads(pickle.dumps(control(calibration=learned)))
        again = Compressor("jpeg", control=there).encode(scenes[:2])
        assert [e.data for e in again] == [e.data for e in encode(learned, scenes[:2])]
        assert there.identity == control(calibration=learned).identity
        assert there.identity != control(witnesses=(NET, SMALL, MsSsim(300, 240))).identity

    def test_images_of_other_kinds(self, learned, scenes):
        kinds = [scenes[0].float() / 255, scenes[1].float().mean(0, keepdim=True).byte(), scenes[2][:, :80]]
        assert [e.channels for e in encode(learned, kinds)] == [3, 1, 3]

    @pytest.mark.parametrize(
        ("keep", "words"),
        [
            ("robust20", "a price up to 10, or a share of answers from 50 to below 100 percent, got 20"),
            ("robust100", "got 100"),
            ("robust0", "cannot read 'robust0'"),
            ("top1+robust0.3", "no other criterion"),
            ("top1+robust95", "no other criterion"),
        ],
    )
    def test_bounds_that_are_refused(self, keep, words):
        with pytest.raises(ValueError, match=f"keep: .*{words}"):
            control(keep, (NET, SMALL))
        assert [c.price for c in as_criteria("robust0.2")] == [0.2]
        assert [(c.price, c.agreement) for c in as_criteria("robust99.5")] == [(None, 0.995)]

    @pytest.mark.parametrize(
        ("witnesses", "words"),
        [
            ((NET, SMALL), "its witnesses are scene_net, scene_net_small, ms-ssim, not scene_net, scene_net_small,"),
            ((NET, SMALL, SIMILARITY, Embedding(model=f"{RECIPES}:tiny")), "calibrate again with these"),
            ((NET, Witness(f"{RECIPES}:tiny"), SIMILARITY), "not scene_net, tiny, ms-ssim"),
        ],
    )
    def test_a_calibration_of_other_witnesses(self, learned, witnesses, words):
        with pytest.raises(ValueError, match=f"calibration: .*{words}"):
            control(witnesses=witnesses, calibration=learned)

    def test_what_it_needs(self):
        with pytest.raises(ValueError, match="calibration: 'robust0.3' needs one"):
            Compressor("jpeg", control=control())
        with pytest.raises(ValueError, match="witnesses: 'ms-ssim' has no classes, which 'top1' asks for"):
            control("top1")
        with pytest.raises(ValueError, match="at least one classifier"):
            control(witnesses=SIMILARITY)
        with pytest.raises(
            ValueError, match="witnesses: .* by name, and two of scene_net, scene_net, ms-ssim have the same"
        ):
            control(witnesses=(NET, NET, SIMILARITY))
        with pytest.raises(ValueError, match="witnesses: what 'ms-ssim' says is learned with two classifiers or more"):
            control(witnesses=(NET, SIMILARITY))
        with pytest.raises(ValueError, match="keep: 'top1' says nothing of classifiers that are not witnesses"):
            control("top1", NET).expectation(Compressor("jpeg"))


class TestEvidence:
    CONTROLS = ("no network", "another image's distances", "least closeness")

    def reading(self, evidence, witnesses=4, distances=1):
        tables = invented(witnesses=witnesses)
        shape = (distances, *tables.bits.shape)
        hidden = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        tables = replace(tables, distances=0.1 * (-tables.lead.mean(0)).exp() + 0.01 * hidden)
        return tables, Reading.of(Evidence(evidence), KeepModel.fit(tables), tables, tables)

    def probability(self, tables, reading):
        """(N, P), where every point was decoded."""
        slack = reading.slack(
            torch.arange(tables.bits.shape[1]).repeat(len(tables.bits)), tables.bits.flatten(), tables.answers()
        )
        slack = slack.view_as(tables.bits)
        smooth = slack if reading.belief._noise else reading.belief.smoothed(slack)
        return reading.probability(smooth, torch.zeros_like(smooth))

    @pytest.mark.parametrize("evidence", CONTROLS)
    def test_a_control_knows_less(self, evidence):
        surprise = []
        for name in ("witnesses", evidence):
            tables, reading = self.reading(name)
            seen = (
                replace(tables, distances=reading.distances.transpose(0, 1))
                if reading.distances is not None
                else tables
            )
            p = self.probability(seen, reading).clamp(1e-6, 1 - 1e-6)
            kept = tables.kept.double().mean(0)
            surprise.append(float(nn.functional.binary_cross_entropy(p, kept)))
        assert surprise[0] < surprise[1]

    def test_no_network_is_asked(self):
        tables, reading = self.reading("no network")
        answers = tables.answers()
        points, bits = torch.arange(12).repeat(600), tables.bits.flatten()
        others = type(answers)(-answers.closeness, -answers.lead, answers.clean + 3, answers.distances * 5)
        assert torch.equal(reading.slack(points, bits, answers), reading.slack(points, bits, others))
        assert not torch.equal(reading.slack(points, bits, answers), reading.slack(points, bits + 1, answers))

    def test_the_least_closeness_by_hand(self):
        tables, reading = self.reading("least closeness")
        least = tables.closeness.amin(0)
        usual = least.clamp(-6, 6).mean(0)
        slack = reading.slack(torch.zeros(7200, dtype=torch.long), tables.bits.flatten(), tables.answers()).view_as(
            least
        )
        assert torch.equal(slack, least)
        expected = scipy.stats.norm.cdf((0.5 * least + 0.5 * usual) / math.sqrt(1.5**2 + 0.25 * 0.4))
        np.testing.assert_allclose(reading.probability(slack, torch.full_like(slack, 0.4)), expected, atol=1e-12)

    def test_distances_of_another_image_follow_from_the_pixels(self, learned, scenes):
        alone = encode(learned, scenes[2:3], evidence="another image's distances")
        among = encode(learned, scenes, evidence="another image's distances")
        assert alone[0].data == among[2].data
        assert alone[0].expected == pytest.approx(among[2].expected, abs=1e-6)
        own = encode(learned, scenes)
        assert [e.expected for e in own] != [e.expected for e in among]

    @pytest.mark.parametrize("evidence", CONTROLS)
    def test_an_evaluation_compares_with_it(self, learned, scenes, evidence):
        compressors = [
            Compressor("jpeg", control=control(keep, calibration=learned)) for keep in ("robust0.3", "robust1")
        ]
        rivals = [c for c in baselines_for(compressors) if c.control.evidence == evidence]
        assert [c.control.keeps for c in rivals] == ["robust0.3", "robust1"]
        assert baselines_for(rivals) == []
        assert len({c.identity for c in (*compressors, *rivals)}) == 4
        assert pickle.loads(pickle.dumps(rivals[0])).control == rivals[0].control
        with pytest.raises(ValueError, match="evidence: .* is that of a control"):
            rivals[0].control.expectation(rivals[0])
        assert all(e.tried <= 8 for e in rivals[0].encode(scenes))

    def test_without_distances_there_are_none_of_another_image(self, images):
        learned = control(witnesses=(NET, SMALL)).calibrate(Compressor("jpeg"), images)
        compressor = Compressor("jpeg", control=control(witnesses=(NET, SMALL), calibration=learned))
        assert [c.control.evidence for c in baselines_for([compressor])] == ["no network", "least closeness"]
        assert baselines_for([Compressor("jpeg", control=control("top1", NET))]) == []

    @pytest.mark.parametrize(
        ("keep", "witnesses", "evidence", "words"),
        [
            ("robust0.3", WITNESSES, "tea leaves", "expected one of 'witnesses', 'no network', .*got 'tea leaves'"),
            ("top1", NET, "no network", "'no network' is for keep='robust', not for 'top1'"),
            ("robust0.3", (NET, SMALL), "another image's distances", "takes a fidelity witness"),
        ],
    )
    def test_what_is_refused(self, keep, witnesses, evidence, words):
        with pytest.raises(ValueError, match=f"evidence: .*{words}"):
            control(keep, witnesses, evidence=evidence)


class TestFidelityConformance(FidelityConformance):
    @pytest.fixture(params=["ms-ssim", "lpips:torchvision.models:squeezenet1_1", f"embedding:{RECIPES}:tiny"])
    def witness(self, request):
        return as_witness(request.param)


class TestFidelity:
    @pytest.fixture
    def pair(self):
        draw = torch.Generator().manual_seed(0)
        source = torch.rand(3, 230, 260, generator=draw)
        return source, (source + 0.1 * torch.randn(source.shape, generator=draw)).clamp(0, 1)

    @staticmethod
    def view(image):
        resized = torchvision.transforms.functional.resize(image, [256], antialias=True)
        return torchvision.transforms.functional.center_crop(resized, [224])[None]

    def test_ms_ssim(self, pair):
        expected = 1 - ms_ssim(self.view(pair[1]), self.view(pair[0]), data_range=1.0)
        assert float(MsSsim().distance(pair[:1], pair[1:])) == pytest.approx(float(expected), abs=1e-5)

    def test_lpips_is_torchmetrics_own(self, pair, monkeypatch):
        """On the same trunk, in place of the weights that it would download."""
        trunk = torchvision.models.squeezenet1_1()
        monkeypatch.setattr(
            "torchmetrics.functional.image.lpips._get_tv_model_features", lambda *_, **__: trunk.features
        )
        expected = public_lpips(self.view(pair[1]), self.view(pair[0]), net_type="squeeze", normalize=True)
        monkeypatch.undo()
        found = Lpips(model=trunk).distance(pair[:1], pair[1:])
        assert float(found) == pytest.approx(float(expected), rel=1e-4)
        assert float(found) > 0.001

    def test_an_embedding(self, pair):
        net = tiny()[:6].eval()
        normalized = [(self.view(x) - 0.5) / 0.25 for x in pair]
        with torch.inference_mode():
            a, b = (net(x).mean((2, 3)) for x in normalized)
        expected = 1 - float(nn.functional.cosine_similarity(a, b))
        witness = Embedding(model=net, mean=(0.5,) * 3, std=(0.25,) * 3)
        assert float(witness.distance(pair[:1], pair[1:])) == pytest.approx(expected, abs=1e-5)

    def test_the_model_is_left_as_it_was(self, pair):
        net = tiny().train()
        before = {name: value.clone() for name, value in net.state_dict().items()}
        Embedding(model=net).distance(pair[:1], pair[1:])
        assert net.training
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        assert all(p.requires_grad for p in net.parameters())

    def test_short_strings(self):
        assert isinstance(as_witness("lpips"), Lpips)
        assert as_witness("lpips:torchvision.models:squeezenet1_1").model == "torchvision.models:squeezenet1_1"
        assert (as_witness(f"embedding:{RECIPES}:tiny").name, as_witness("ms-ssim")) == ("tiny", MsSsim())
        assert isinstance(as_witness("resnet18"), Witness)
        with pytest.raises(ValueError, match="'embedding:' names no network; write 'embedding:"):
            as_witness("embedding:")

    @pytest.mark.parametrize(
        ("use", "words"),
        [
            (lambda pair: MsSsim(crop=100), "crop: .*161 pixels, got 100"),
            (lambda pair: MsSsim().distance(pair, pair[:1]), "sources: expected one per image, 1, got 2"),
            (
                lambda pair: MsSsim(None, None).distance(pair[:1], [pair[1][:, :200]]),
                "decoded: .*give the witness a crop",
            ),
            (
                lambda pair: Lpips(model=tiny()).distance(pair[:1], pair[1:]),
                "model: LPIPS .* SqueezeNet 1.1, got Sequential",
            ),
            (
                lambda pair: Embedding(model=nn.Flatten(0)).distance(pair[:1], pair[1:]),
                "model: Flatten .*, got a tensor",
            ),
        ],
    )
    def test_what_is_refused(self, use, words, pair):
        with pytest.raises(ValueError, match=words):
            use(pair)
        with pytest.raises(TypeError, match="give its recipe instead"):
            pickle.dumps(Embedding(model=tiny()))
