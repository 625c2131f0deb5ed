import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

import foveate
from foveate import Compressor, GradCam, Jpeg, PreEdit, Prefilter, RateControl, Sweep
from foveate.demo import PREPROCESS, Scenes
from foveate.evaluation import baselines_for
from foveate.images import as_tensor
from foveate.models import Classifier, LazyClassifier, Preprocess
from foveate.preedit import DEFAULT_MODELS, Objective
from foveate.preedit._features import Features, find_taps
from foveate.sweep import downscaled
from foveate.testing import PrefilterConformance, tiny_classifier

NET = LazyClassifier("foveate.demo:scene_net", PREPROCESS)
CAM = GradCam("foveate.demo:scene_net", preprocess=PREPROCESS)


def cropped_scenes(count):
    return torch.stack([as_tensor(image) for image, _ in Scenes(count, seed=5)])[..., 32:128, 32:128].contiguous()


@pytest.fixture(scope="module")
def scenes():
    return cropped_scenes(4)


@pytest.fixture(scope="module")
def edited(scenes):
    return PreEdit([NET], codec="jpeg:35", steps=30)(scenes)


def mean_bytes(images, codec="jpeg:35"):
    return sum(len(encoded.data) for encoded in Compressor(codec).encode(images)) / len(images)


def error(images, others, model=NET):
    with torch.no_grad():
        return float(Features(model.classifier).compare(images.float() / 255, others.float() / 255)[0].mean())


def divergence(images, others, model=NET):
    """Return the mean KL divergence of what the network says of others from what it says of images."""
    answers, of_others = (model.classifier.logits(x).log_softmax(1) for x in (images, others))
    return float(torch.nn.functional.kl_div(of_others, answers, log_target=True, reduction="batchmean"))


def psnr(images, others, shares=None):
    errors = (images.double() - others.double()).square().mean(1, keepdim=True) / 255**2
    shares = torch.ones_like(errors) if shares is None else shares
    return -10 * torch.log10((errors * shares).sum((1, 2, 3)) / shares.sum((1, 2, 3)))


class TestProtocol(PrefilterConformance):
    tolerance = 40  # where a coefficient is rounded the other way, gradients differ from there on

    @staticmethod
    def make(strength):
        return PreEdit([NET], strength, codec="jpeg:35", steps=8)


class TestWhatItDoes:
    @pytest.mark.parametrize(("codec", "quality"), [("jpeg", 35), ("webp", 30)])
    def test_fewer_bytes_at_better_features_and_answers_than_a_lower_quality(self, codec, quality):
        scenes = cropped_scenes(12)
        compressor = Compressor(f"{codec}:{quality}")
        edited = PreEdit([NET], codec=compressor.codec, steps=30)(scenes)
        decoded = torch.stack(compressor.decode(compressor.encode(edited)))
        target = mean_bytes(edited, compressor.codec)
        coarser = next(q for q in range(quality, 1, -1) if mean_bytes(scenes, f"{codec}:{q}") <= target)
        assert coarser < quality
        plain = Compressor(f"{codec}:{coarser}")
        of_plain = torch.stack(plain.decode(plain.encode(scenes)))
        assert error(scenes, decoded) < 0.75 * error(scenes, of_plain)
        assert divergence(scenes, decoded) < 0.5 * divergence(scenes, of_plain)

    def test_stronger_takes_fewer_bytes(self, scenes):
        edit = PreEdit([NET], codec="jpeg:35", steps=8)
        sizes = [mean_bytes(edit.at(strength)(scenes)) for strength in (0, 0.1, 0.4, 1)]
        assert sizes == sorted(sizes, reverse=True)

    @pytest.mark.parametrize("objective", [*Objective])
    @pytest.mark.parametrize("size", [(1, 1), (9, 14), (11, 40)])
    def test_small_images(self, objective, size):
        images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
        assert PreEdit([NET], codec="jpeg:35", steps=2, objective=objective)(images).shape == images.shape

    @pytest.mark.parametrize("objective", [o for o in Objective if o != Objective.NETWORKS])
    def test_controls_keep_something_else(self, scenes, edited, objective):
        control = PreEdit([NET], codec="jpeg:35", steps=30, objective=objective)(scenes)
        assert mean_bytes(control) < mean_bytes(scenes)
        assert not torch.equal(control, edited)

    def test_a_trunk_keeps_features_without_answers(self, scenes):
        trunk = Classifier("trunk", NET.classifier.model.features, PREPROCESS)
        edit = PreEdit([trunk], codec="jpeg:35", steps=5)
        for objective in (Objective.FEATURES, Objective.ANSWERS):
            assert torch.equal(edit(scenes), replace(edit, objective=objective)(scenes))

    def test_pixels_are_what_pixels_keep(self, scenes):
        edit = PreEdit([NET], codec="jpeg:35", steps=30, limit=None)
        pixels = replace(edit, objective="pixels")(scenes)
        assert psnr(pixels, scenes).mean() > psnr(edit(scenes), scenes).mean()

    def test_several_networks_share_it(self):
        scenes = cropped_scenes(12)
        other = LazyClassifier("foveate.demo:scene_net:scene_net_small", PREPROCESS)
        both = PreEdit([NET, other], codec="jpeg:35", steps=60)(scenes)
        alone = PreEdit([NET], codec="jpeg:35", steps=60)(scenes)
        far = [divergence(scenes, x, other) for x in (both, alone)]
        assert far[0] < 0.8 * far[1]


class TestWhatItKeeps:
    @pytest.mark.parametrize("size", [(300, 401), (70, 500), (31, 31)])
    def test_photos_of_other_sizes_than_the_network_s(self, size):
        images = (torch.rand(1, 3, *size) > 0.3).float()  # at the ends of the range
        edit = PreEdit([LazyClassifier(NET.model, Preprocess(64, 56))], codec="jpeg:35", steps=4)
        edited = edit(images)
        assert edited.shape == images.shape
        assert not torch.equal(edited, images)

    def test_a_large_image_is_edited_band_by_band(self, scenes, monkeypatch):
        edit = PreEdit([NET], codec="jpeg:35", steps=4)
        whole = edit(scenes[:2])
        monkeypatch.setattr("foveate.preedit._optimize._BAND", 96 * 2 * 40)
        assert (edit(scenes[:2]).int() - whole.int()).abs().max() <= 1

    def test_no_images(self):
        assert PreEdit([NET])(torch.empty(0, 3, 8, 8)).shape == (0, 3, 8, 8)

    def test_it_is_the_same_each_time_and_in_any_batch(self, scenes, edited):
        edit = PreEdit([NET], codec="jpeg:35", steps=30)
        torch.manual_seed(99)
        state = torch.get_rng_state()
        assert torch.equal(edit(scenes), edited)
        assert torch.equal(torch.get_rng_state(), state)
        alone = edit(scenes[2:3])[0].int()
        assert ((alone - edited[2].int()).abs() > 2).float().mean() < 0.01  # rounding grows over the steps
        assert not torch.equal(replace(edit, seed=1)(scenes), edited)

    @pytest.mark.parametrize("train", [True, False])
    def test_the_model_is_as_it_was(self, scenes, train):
        model = tiny_classifier().train(train)
        model.requires_grad_(True)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        before = copy.deepcopy(model.state_dict())
        PreEdit([Classifier("tiny", model, Preprocess(crop=32))], codec="jpeg:35", steps=2)(scenes)
        assert model.training == train
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(p.requires_grad and (p.grad == 1).all() for p in model.parameters())
        assert not any(module._forward_hooks for module in model.modules())

    def test_the_model_is_as_it_was_after_an_error(self, scenes):
        class Breaks(nn.Module):
            def forward(self, x):
                raise RuntimeError("broken")

        model = nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        Features(Classifier("tiny", model, Preprocess(crop=32)))  # which finds its taps
        model[0].register_forward_pre_hook(lambda *_: Breaks()(None))
        model.train()
        with pytest.raises(RuntimeError, match="broken"):
            PreEdit([Classifier("tiny", model, Preprocess(crop=32))], codec="jpeg:35", steps=2)(scenes)
        assert model.training
        assert not any(module._forward_hooks for module in model.modules())

    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
    def test_in_contexts_without_gradients(self, scenes, context):
        edit = PreEdit([NET], codec="jpeg:35", steps=2)
        expected = edit(scenes[:1])
        with context():
            assert torch.equal(edit(scenes[:1].clone()), expected)


class TestLimit:
    @pytest.mark.parametrize("limit", [30, 40, (36, 28), (28, 36)])
    def test_it_holds(self, scenes, limit):
        edit = PreEdit([NET], 1.0, codec="jpeg:35", steps=30, saliency=CAM, limit=limit)
        inside, outside = (limit, limit) if isinstance(limit, int) else limit
        maps = CAM(scenes)
        shares = foveate.filters.resize(maps, (scenes.shape[-2], scenes.shape[-1])).clamp(0, 1)
        edited = edit(scenes)
        assert (psnr(edited, scenes, shares) > inside).all()
        assert (psnr(edited, scenes, 1 - shares) > outside).all()
        unlimited = PreEdit([NET], 1.0, codec="jpeg:35", steps=30, limit=None)(scenes)
        assert psnr(unlimited, scenes).min() < min(inside, outside)

    def test_there_is_one_unless_it_is_lifted(self, scenes, edited):
        assert (psnr(edited, scenes) > 30).all()

    def test_without_a_map(self, scenes):
        edited = PreEdit([NET], 1.0, codec="jpeg:35", steps=30, limit=38)(scenes)
        assert (psnr(edited, scenes) > 38).all()
        assert mean_bytes(edited) < mean_bytes(scenes)


class TestMaps:
    def test_a_map_guides_it(self, scenes):
        edit = PreEdit([NET], codec="jpeg:35", steps=8, limit=(45, 25))
        left = torch.zeros(len(scenes), 1, 4, 8)
        left[..., :4] = 1
        edited = edit(scenes, left)
        half = scenes.shape[-1] // 2 - 16
        assert psnr(edited[..., :half], scenes[..., :half]).min() > psnr(edited[..., -half:], scenes[..., -half:]).max()

    def test_it_is_asked_once_a_sweep(self, scenes):
        calls = []

        def look(images):
            calls.append(len(images))
            return torch.ones(len(images), 1, 2, 2)

        sweep = Sweep(scenes)
        for strength in (0, 0.3, 0.6):
            Compressor("jpeg:35", PreEdit([NET], strength, saliency=look, steps=1)).encode(sweep)
        assert calls == [4]
        assert PreEdit([NET], saliency=look).needs_maps
        assert not PreEdit([NET]).needs_maps


class TestCodec:
    def test_it_follows_the_codec(self):
        edit = PreEdit([NET])
        assert str(edit.before(Jpeg(30)).codec) == "jpeg:25"
        assert edit.before(Jpeg(20)) == edit.before(Jpeg(30))
        assert edit.before(Jpeg(30, subsampling="4:4:4")).codec.subsampling == "4:4:4"
        assert isinstance(edit.before(foveate.Jxl(2)).codec, Jpeg)
        assert str(PreEdit([NET], codec="jpeg:60").before(Jpeg(30)).codec) == "jpeg:60"

    def test_edits_are_made_once_a_band(self, scenes, monkeypatch):
        made = []
        call = PreEdit._edit
        monkeypatch.setattr(PreEdit, "_edit", lambda self, *args: made.append(str(self.codec)) or call(self, *args))
        sweep, edit = Sweep(scenes), PreEdit([NET], steps=1)
        for quality in (20, 25, 30, 45, 55):
            Compressor(f"jpeg:{quality}", edit).encode(sweep)
        assert made == ["jpeg:25", "jpeg:50"]

    def test_a_compressor(self, scenes):
        edit = PreEdit([NET], steps=6)
        encoded = Compressor("jpeg:35", edit).encode(scenes)
        assert [e.strength for e in encoded] == [0.5] * 4
        assert sum(len(e.data) for e in encoded) < 4 * mean_bytes(scenes)
        images = edit.before(Jpeg(35))(scenes)
        assert [e.data for e in encoded] == [e.data for e in Compressor("jpeg:35").encode(images)]

    @pytest.mark.parametrize("batched", [True, False])
    def test_scaling_comes_first(self, scenes, batched):
        edit = PreEdit([NET], steps=4)
        compressor = Compressor("jpeg:35", edit, scale=0.5)
        encoded = compressor.encode(scenes if batched else [*scenes])
        small = torch.stack(Compressor("jpeg:95").decode(compressor.encode(scenes), as_stored=True))
        assert small.shape[-2:] == (48, 48)
        expected = Compressor("jpeg:35").encode(edit.before(Jpeg(35))(downscaled(scenes, 0.5)))
        assert [len(e.data) for e in encoded] == pytest.approx([len(e.data) for e in expected], rel=0.02)
        assert compressor.decode(encoded)[0].shape == scenes[0].shape
        assert encoded[0].size == (96, 96)

    def test_identity(self):
        def of(*args, **kwargs):
            return Compressor("jpeg:35", PreEdit(*args, **kwargs)).identity

        other = LazyClassifier("foveate.demo:scene_net:scene_net_small", PREPROCESS)
        texts = [
            of([NET]),
            of([other]),
            of([NET], 0.6),
            of([NET], steps=3),
            of([NET], limit=None),
            of([NET], seed=1),
            of([NET], saliency=CAM),
            of([NET], objective="pixels"),
        ]
        assert len(set(texts)) == len(texts)
        assert of([NET], cache="anywhere") == texts[0]
        assert of([NET.classifier]) == texts[0]

    def test_a_rate_control_chooses_the_strength(self, scenes):
        control = RateControl([foveate.Witness(NET.model, PREPROCESS)], "top1", strengths=(0, 0.5), qualities=(12, 35))
        edit = PreEdit([NET], steps=6)
        with_edit = Compressor("jpeg", edit, control=control).encode(scenes)
        without = Compressor("jpeg", control=replace(control, strengths=(0,))).encode(scenes)
        assert all(e.met for e in with_edit)
        assert sum(len(e.data) for e in with_edit) <= sum(len(e.data) for e in without)


class TestCache:
    @pytest.fixture
    def edit(self, tmp_path):
        return PreEdit([NET], codec="jpeg:35", steps=3, cache=tmp_path / "edits")

    def test_it_is_read_again(self, scenes, edit, monkeypatch):
        first = edit(scenes[:3])
        monkeypatch.setattr(PreEdit, "_edit", lambda *args: pytest.fail("it was in the cache"))
        assert torch.equal(edit(scenes[:3]), first)
        assert torch.equal(edit(scenes[1:2]), first[1:2])

    def test_what_is_missing_is_made(self, scenes, edit):
        first = edit(scenes[:2])
        again = edit(scenes)
        assert torch.equal(again[:2], first)
        assert len([*edit.cache.rglob("*.png")]) == 4

    def test_another_edit_has_its_own(self, scenes, edit):
        for other in (edit, edit.at(0.9), replace(edit, seed=3), replace(edit, saliency=CAM)):
            other(scenes[:1])
        assert len([*edit.cache.rglob("*.png")]) == 4

    def test_other_maps_are_another_edit(self, scenes, edit):
        guided = replace(edit, limit=(40, 30))
        maps = torch.rand(2, 1, 1, 4, 4)
        assert not torch.equal(guided(scenes[:1], maps[0]), guided(scenes[:1], maps[1]))

    def test_a_damaged_file_is_made_anew(self, scenes, edit, caplog):
        first = edit(scenes[:1])
        (path,) = edit.cache.rglob("*.png")
        path.write_bytes(path.read_bytes()[:100])
        assert torch.equal(edit(scenes[:1]), first)
        assert "damaged" in caplog.text
        assert torch.equal(edit(scenes[:1]), first)

    def test_gray(self, scenes, edit):
        gray = scenes[:1, :1].contiguous()
        assert torch.equal(edit(gray), edit(gray))


def test_a_saliency_needs_a_limit_to_guide():
    edit = PreEdit([NET], limit=None)
    assert edit.guided(None) == edit
    with pytest.raises(ValueError, match="saliency: without a limit a map says nothing"):
        edit.guided(CAM)


class TestFeatures:
    @pytest.mark.parametrize(
        ("name", "count"), [("resnet18", 4), ("mobilenet_v2", 6), ("squeezenet1_1", 4), ("convnext_tiny", 4)]
    )
    def test_taps_are_spread_over_depth(self, name, count):
        classifier = LazyClassifier(f"torchvision.models:{name}", Preprocess(256, 224)).classifier
        taps = find_taps(classifier)
        assert len(taps) == count
        shapes = [feature.shape for feature in Features(classifier, taps)(torch.rand(1, 3, 224, 224))[0]]
        assert [s[2] for s in shapes] == sorted((s[2] for s in shapes), reverse=True)
        assert shapes[0][2] >= 27
        assert shapes[-1][2] in (7, 13)

    def test_a_trunk_without_head(self):
        trunk = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU())
        assert find_taps(Classifier("trunk", trunk, Preprocess(crop=64))) == ("1", "3")

    def test_a_module_that_is_used_several_times_is_no_tap(self, scenes):
        relu = nn.ReLU()
        trunk = nn.Sequential(nn.Conv2d(3, 8, 3, 4), relu, nn.Conv2d(8, 8, 3, 2), relu)
        classifier = Classifier("shared", trunk, Preprocess(crop=64))
        assert find_taps(classifier) == ("0", "2")
        images = scenes.float() / 255
        assert not Features(classifier).compare(images, images)[0].any()

    def test_no_spatial_map(self):
        flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
        with pytest.raises(ValueError, match="taps: no module of flat gives a spatial map"):
            find_taps(Classifier("flat", flat, Preprocess(crop=32)))

    def test_a_name_that_is_not_there(self):
        with pytest.raises(ValueError, match="taps: scene_net has no module 'nowhere'"):
            Features(NET.classifier, ["nowhere"])

    def test_activations_are_those_that_are_compared(self, scenes):
        # Captum copies what a module gives; an in-place module behind a tap must not make the two differ.
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, 2), nn.Hardswish(True))
        features = Features(Classifier("in place", net, Preprocess(crop=64)), ["0", "2"])
        images = scenes.float() / 255
        with torch.no_grad():
            for activation, feature in zip(features.activations(images), features(images)[0], strict=True):
                assert torch.equal(nn.functional.normalize(activation, dim=1), feature)

    def test_where_a_layer_is_silent_its_features_do_not_count(self):
        net = nn.Sequential(nn.AvgPool2d(2), nn.AvgPool2d(2))
        features = Features(Classifier("mean", net, Preprocess(crop=16, mean=(0, 0, 0), std=(1, 1, 1))), ["1"])
        source = torch.full((1, 3, 16, 16), 1e-4)
        source[..., :8] = 0.7
        silent, loud = source.clone(), source.clone()
        silent[:, 0, :, 8:] *= 2
        loud[:, 0, :, :8] *= 1.4
        with torch.no_grad():
            near, far = (float(features.compare(source, x)[0]) for x in (silent, loud))
        assert near < far / 1000

    def test_deeper_taps_count_more(self, scenes):
        images = scenes.float() / 255
        with torch.no_grad():
            taps = find_taps(NET.classifier)
            assert len(taps) > 1
            apart = [Features(NET.classifier, [tap]).compare(images, images.flip(0))[0] for tap in taps]
            together = Features(NET.classifier, taps).compare(images, images.flip(0))[0]
        weights = [0.5 + k / (len(taps) - 1) for k in range(len(taps))]
        torch.testing.assert_close(together, sum(w * d for w, d in zip(weights, apart, strict=True)))

    def test_answers(self, scenes):
        images = scenes.float() / 255
        with torch.no_grad():
            _, apart = Features(NET.classifier).compare(images, images.flip(0))
            clean, others = (NET.classifier.logits(x).double().log_softmax(1) for x in (scenes, scenes.flip(0)))
        expected = (clean.exp() * (clean - others)).sum(1)
        torch.testing.assert_close(apart, expected.float(), rtol=1e-4, atol=1e-5)

    def test_a_trunk_has_none(self, scenes):
        trunk = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU())
        _, apart = Features(Classifier("trunk", trunk, Preprocess(crop=64))).compare(*[scenes.float() / 255] * 2)
        assert apart is None

    def test_equal_images_are_at_no_distance(self, scenes):
        assert error(scenes, scenes) == 0
        assert error(scenes, scenes.flip(0)) > 0


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "error", "words"),
        [
            ({"strength": 2}, ValueError, "strength"),
            ({"steps": 0}, ValueError, "steps"),
            ({"codec": "jxl:1"}, ValueError, "stand-in"),
            ({"objective": "beauty"}, ValueError, "objective: expected one of networks"),
            ({"limit": (1, 2, 3)}, ValueError, "limit"),
            ({"limit": "much"}, ValueError, "limit"),
            ({"models": [3]}, TypeError, "models"),
            ({"models": 3}, TypeError, "models"),
            ({"models": []}, ValueError, "models: expected at least one"),
            ({"limit": None, "saliency": CAM}, ValueError, "saliency: without a limit"),
        ],
    )
    def test_wrong_ones(self, arguments, error, words):
        with pytest.raises(error, match=words):
            PreEdit(**{"models": [NET], **arguments})

    def test_images(self):
        with pytest.raises(ValueError, match="expected a batch"):
            PreEdit([NET])(torch.zeros(3, 8, 8))
        with pytest.raises(ValueError, match="maps"):
            PreEdit([NET])(torch.zeros(1, 3, 8, 8), torch.zeros(2, 1, 1, 1))

    def test_defaults_are_of_torchvision(self):
        from torchvision.models import list_models

        assert set(DEFAULT_MODELS) <= set(list_models())
        assert [model.model for model in PreEdit().models] == list(DEFAULT_MODELS)

    def test_one_model(self):
        assert PreEdit("resnet18").models == (LazyClassifier("resnet18"),)

    def test_it_travels_by_its_recipes(self, scenes):
        edit = PreEdit([NET], codec="jpeg:35", steps=1, saliency=CAM)
        data = pickle.dumps(edit)
        assert len(data) < 5000
        assert torch.equal(pickle.loads(data)(scenes[:1]), edit(scenes[:1]))
        assert pickle.loads(data) == edit
        assert hash(pickle.loads(data)) == hash(edit)


class TestHosts:
    def test_torchvision_in_workers(self, scenes):
        from torch.utils.data import DataLoader

        from foveate.transforms import Compress

        transform = Compress("jpeg:35", prefilter=PreEdit([NET], steps=2))
        loader = DataLoader(Transformed(scenes, transform), batch_size=2, num_workers=2)
        out = torch.cat([*loader])
        compressor = Compressor("jpeg:35", PreEdit([NET], steps=2))
        expected = torch.stack(compressor.decode([compressor.encode(scene[None])[0] for scene in scenes]))
        assert torch.equal(out, expected)

    def test_the_prefilter_alone(self, scenes):
        from foveate.transforms import Prefilter as Transform

        edit = PreEdit([NET], steps=2)
        assert torch.equal(Transform(edit)(scenes[0]), edit(scenes[:1])[0])
        assert "PreEdit" in repr(Transform(edit))

    def test_kornia(self, scenes):
        from foveate.integrations.kornia import Prefilter as Augmentation

        edit = PreEdit([NET], steps=2)
        images = scenes[:2].float() / 255
        torch.testing.assert_close(Augmentation(edit, strength=0.5)(images), edit(images), atol=0.02, rtol=0)
        with pytest.raises(ValueError, match="curve"):
            Augmentation(edit, curve=lambda x: x)

    def test_a_map_guides_lightning_s(self, scenes):
        from foveate.integrations.lightning import BatchCompressor

        asked = []

        def look(images):
            asked.append(len(images))
            return torch.ones(len(images), 1, 2, 2)

        compress = BatchCompressor(
            "jpeg:35", prefilter=PreEdit([NET], steps=1), saliency=look, strength=0.5, mean=0, std=1
        )
        out = compress((scenes[:2].float() / 255, torch.arange(2)))[0]
        assert asked == [2]
        assert out.shape == (2, *scenes.shape[1:])


class Transformed:
    def __init__(self, images, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, k):
        return self.transform(self.images[k])


class TestEvaluation:
    def test_its_baselines(self):
        edit = Compressor("jpeg:20", PreEdit([NET], steps=1))
        objectives = [c.prefilter.objective for c in baselines_for([edit]) if c.prefilter is not None]
        assert objectives == [Objective.UNTRAINED, Objective.PIXELS, Objective.MS_SSIM]
        guided = Compressor("jpeg:20", PreEdit([NET], steps=1, saliency=CAM))
        assert len(baselines_for([guided])) == 4
        assert baselines_for([Compressor("jpeg:20", PreEdit([NET], objective="pixels"))]) == []

    def test_beside_a_blend(self, scenes, tmp_path):
        from foveate.evaluation import Judge, evaluate

        judges = [Judge(NET.classifier, known=True)]
        points = [
            Compressor(f"jpeg:{q}", prefilter)
            for prefilter in (None, Prefilter(CAM), PreEdit([NET], steps=2))
            for q in (12, 30)
        ]
        dataset = [(image, label) for image, label in Scenes(6, seed=5)]
        results = evaluate(dataset, judges, points + baselines_for(points), out=tmp_path, resamples=50).results
        names = {point.curve for point in results.points}
        assert {"jpeg, edit, strength 0.5", "jpeg, strength 0.5, edit for pixels"} <= names
        against = {c.baseline for c in results.comparisons if c.curve == "jpeg, edit, strength 0.5"}
        assert {"codec alone", "untrained", "pixels", "ms_ssim", "downscaling"} <= against
        page = (tmp_path / "report.html").read_text()
        assert "an edit for pixels" in page
        assert "edited for jpeg:25, strength 0.5: " in page
        assert "its change, doubled" in page
