import copy
import functools
import pickle
import threading

import captum.attr
import numpy as np
import pytest
import torch
import torchvision
from conftest import RECIPES
from recipes import tiny
from torch import nn

from foveate.models import LazyModel, Preprocess, refuse_cuda_in_worker
from foveate.prefilter import strength_map
from foveate.saliency import (
    ActivationMap,
    CaptumAttribution,
    Center,
    EigenCam,
    GradCam,
    Shuffled,
    Union,
    as_saliency,
    normalize,
)
from foveate.testing import SaliencyConformance


def windows(x):
    """Half of the picture's height and width at a time."""
    height, width = (-(-n // 2) for n in x.shape[-2:])
    return {"sliding_window_shapes": (3, height, width), "strides": (3, height, width), "perturbations_per_eval": 4}


def by_captum(method, **settings):
    return functools.partial(CaptumAttribution, method, **settings)


LAYERED = {
    "GradCam": GradCam,
    "ActivationMap": ActivationMap,
    "EigenCam": EigenCam,
    "by rank": functools.partial(GradCam, normalise="rank"),
    "captum LayerGradCam": by_captum("LayerGradCam"),
    "captum GuidedGradCam": by_captum(captum.attr.GuidedGradCam),
}
KINDS = {
    **LAYERED,
    "captum IntegratedGradients": by_captum("IntegratedGradients", arguments={"n_steps": 3}),
    "captum InputXGradient": by_captum("InputXGradient"),
    "captum NoiseTunnel": by_captum("NoiseTunnel:Saliency", arguments={"nt_samples": 2, "stdevs": 0.2}),
    "captum Occlusion": by_captum("Occlusion", arguments=windows),
}


def state(model):
    """All that a call must leave alone."""
    return {
        "mode": [m.training for m in model.modules()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "tensors": [t.clone() for t in model.state_dict().values()],
        "hooks": [
            len(getattr(m, d)) for m in model.modules() for d in vars(m) if d.endswith("_hooks") and hasattr(m, d)
        ],
    }


def assert_same(before, after):
    for key in before:
        for a, b in zip(before[key], after[key], strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, key


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = tiny()
        self.fail = False

    def forward(self, x):
        out = self.inner(x)
        if self.fail:
            raise RuntimeError("out of luck")
        return out


class TestConformance(SaliencyConformance):
    """What every saliency on a model does; a new one joins by one line above."""

    @pytest.fixture(params=KINDS.values(), ids=list(KINDS))
    def kind(self, request):
        return request.param

    def test_maps_are_float32_and_reach_1(self, kind):
        maps = kind(tiny())(torch.rand(2, 3, 61, 90, dtype=torch.float64))
        assert maps.dtype == torch.float32
        assert maps.amax((1, 2, 3)).tolist() == [1, 1]

    def test_equal_by_recipe(self, kind):
        assert kind("resnet18") == kind("resnet18") != kind("resnet34")
        assert hash(kind("resnet18")) == hash(kind("resnet18"))

    def test_buffers_that_move_in_eval_mode_too_are_put_back(self, kind):
        class Counting(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = tiny()
                self.register_buffer("calls", torch.zeros(()))
                self.register_buffer("seen", torch.zeros(()))

            def forward(self, x):
                self.calls += 1
                self.seen = self.seen + x.shape[0]
                return self.inner(x)

        model = Counting()
        calls, seen = model.calls, model.seen
        kind(model)(torch.rand(2, 3, 32, 32))
        assert model.calls is calls
        assert model.seen is seen
        assert (float(calls), float(seen)) == (0, 0)

    @pytest.mark.parametrize("traced", [False, True])
    def test_the_model_is_as_it_was_after_an_exception(self, kind, traced):
        model = Failing().train()
        cam = kind(model) if traced or kind not in LAYERED.values() else kind(model, layer="inner.3")
        model.fail = True
        before = state(model)
        with pytest.raises(RuntimeError, match="out of luck"):
            cam(torch.rand(2, 3, 32, 32))
        assert_same(before, state(model))

    def test_a_recipe_built_under_inference_mode(self, kind, tmp_path):
        recipe, images = f"{RECIPES}:counted:{tmp_path}", torch.ones(1, 3, 32, 32) / 2
        with torch.inference_mode():
            first = kind(recipe)(images)
        torch.testing.assert_close(kind(recipe)(images), first)

    def test_a_half_precision_model(self, kind):
        images = torch.rand(1, 3, 32, 32)
        maps = kind(tiny().bfloat16())(images)
        torch.testing.assert_close(maps, kind(tiny())(images), atol=0.15, rtol=0)

    def test_several_threads_on_one_model(self, kind):
        model = tiny().train()
        cam, images = kind(model), torch.rand(8, 3, 32, 32)
        expected, found, errors = cam(images), {}, []

        def work(k):
            try:
                for _ in range(10):
                    found[k] = kind(model)(images)
            except Exception as error:  # a thread's own exception would go unseen
                errors.append(error)

        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert not errors
        assert all(torch.equal(expected, maps) for maps in found.values())
        assert all(m.training for m in model.modules())

    def test_nothing_stands_out(self, kind):
        model = tiny()
        for parameter in model.parameters():
            parameter.data.zero_()
        assert (kind(model)(torch.rand(2, 3, 32, 32)) == 1).all()

    def test_not_finite(self, kind):
        model = tiny()
        model[3].weight.data.fill_(float("nan"))
        with pytest.raises(ValueError, match="not finite"):
            kind(model)(torch.rand(1, 3, 32, 32))

    @pytest.mark.parametrize(
        ("images", "error", "words"),
        [
            (np.zeros((1, 3, 8, 8)), TypeError, "tensor"),
            (torch.zeros(1, 3, 8, 8, dtype=torch.int64), TypeError, "int64"),
            (torch.zeros(3, 8, 8), ValueError, "B, 3, H, W"),
            (torch.zeros(1, 1, 8, 8), ValueError, "B, 3, H, W"),
            (torch.zeros(1, 3, 0, 8), ValueError, "H, W >= 1"),
            (torch.full((1, 3, 8, 8), 1.5), ValueError, "normalization"),
            (torch.full((1, 3, 8, 8), float("nan")), ValueError, "nan"),
        ],
    )
    def test_what_are_no_images(self, kind, images, error, words):
        with pytest.raises(error, match=words):
            kind(tiny())(images)

    def test_pickles_by_recipe_and_never_by_weight(self, kind):
        cam = kind(f"{RECIPES}:tiny")
        images = torch.rand(1, 3, 32, 32)
        expected = cam(images)
        data = pickle.dumps(cam)
        assert len(data) < 1000
        assert torch.equal(pickle.loads(data)(images), expected)
        with pytest.raises(TypeError, match="recipe"):
            pickle.dumps(kind(tiny()))
        assert torch.equal(copy.deepcopy(kind(tiny()))(images), expected)

    def test_a_model_on_the_gpu_is_refused_in_a_worker(self, kind, monkeypatch):
        # On a machine without one, "meta" stands for a device that is not the CPU.
        model = tiny().to("cuda" if torch.cuda.is_available() else "meta")
        monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: object())
        with pytest.raises(RuntimeError, match="inside a DataLoader worker.*CPU.*training loop.*beforehand"):
            kind(model)(torch.rand(1, 3, 32, 32))
        with pytest.raises(RuntimeError, match="saliency on cuda:1 inside"):
            refuse_cuda_in_worker(torch.device("cuda:1"))
        kind(tiny())(torch.rand(1, 3, 32, 32))

    def test_preprocess_is_used(self, kind):
        seen = []

        def shown(x):
            seen.append(x)
            return 2 * x

        images = torch.rand(1, 3, 32, 32)
        kind(tiny(), preprocess=shown)(images)
        assert torch.equal(seen[0], images)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        torch.testing.assert_close(kind(tiny())(images), kind(tiny(), preprocess=lambda x: (x - mean) / std)(images))
        with pytest.raises(TypeError, match="preprocess"):
            kind(tiny(), preprocess=3)

    def test_kind_of_model(self, kind):
        with pytest.raises(TypeError, match="int"):
            kind(3)


@pytest.mark.parametrize("kind", LAYERED.values(), ids=list(LAYERED))
class TestLayers:
    def test_layers(self, kind):
        model = tiny()
        by_name, by_module = kind(model, layer="3"), kind(model, layer=model[3])
        images = torch.rand(1, 3, 32, 32)
        assert torch.equal(by_name(images), by_module(images))
        assert by_module.layer_name == "3"
        with pytest.raises(ValueError, match="no submodule 'conv9'.* 0, 3"):
            kind(model, layer="conv9")
        with pytest.raises(ValueError, match="not part"):
            kind(model, layer=nn.Conv2d(1, 1, 1))
        with pytest.raises(TypeError, match="by dotted name"):
            kind("resnet18", layer=model[3])
        with pytest.raises(ValueError, match="no spatial map"):
            kind(model, layer="9")(images)


class TestGradCam:
    def test_captum_agrees(self):
        model, images = tiny().eval(), torch.rand(3, 3, 40, 60)
        x = Preprocess()(images)
        for target in (None, 2):
            classes = model(x).argmax(1) if target is None else target
            theirs = captum.attr.LayerGradCam(model, model[5]).attribute(x, classes, relu_attributions=True).detach()
            ours = GradCam(model, layer="5", target=target)(images)
            torch.testing.assert_close(ours, normalize(theirs))

    def test_it_looks_at_the_class(self):
        # One channel a class: the map of class k is where channel k is.
        model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
        model[0].weight.data = torch.eye(3)[:, :, None, None]
        model[3].weight.data, model[3].bias.data = torch.eye(3), torch.zeros(3)
        images = torch.zeros(1, 3, 40, 40)
        images[:, 0, :20], images[:, 1, 20:, :10] = 1, 1
        identity = nn.Identity()
        by_itself = GradCam(model, "0", preprocess=identity)(images)
        assert by_itself[..., :20, :].min() == 1
        assert by_itself[..., 20:, :].max() == 0
        other = GradCam(model, "0", target=1, preprocess=identity)(images)
        assert other[..., 20:, :10].min() == 1
        assert other.sum() == 200

    @pytest.mark.parametrize("target", [-1, 1.0, True, "label"])
    def test_wrong_target(self, target):
        with pytest.raises(ValueError, match="class number"):
            GradCam(tiny(), target=target)

    def test_target_the_model_does_not_have(self):
        with pytest.raises(ValueError, match="5 classes, got 5"):
            GradCam(tiny(), layer="5", target=5)(torch.rand(1, 3, 32, 32))

    def test_a_model_without_logits(self):
        with pytest.raises(ValueError, match="logits"):
            GradCam(nn.Sequential(nn.Conv2d(3, 4, 3)), layer="0")(torch.rand(1, 3, 32, 32))


class Head(nn.Module):
    """A network with something between its last feature map and its logits."""

    def __init__(self, between, relu=True):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.BatchNorm2d(8), *([nn.ReLU()] if relu else []))
        self.between = between
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.between(self.features(x)))


class TestLinearHead:
    """The path without a backward pass: taken where it is exact, and nowhere else."""

    @pytest.mark.parametrize(
        ("name", "head"),
        [
            ("mobilenet_v2", "classifier.1"),
            ("resnet18", "fc"),
            ("resnet50", "fc"),
            ("efficientnet_b0", "classifier.1"),
            ("shufflenet_v2_x0_5", "fc"),
            ("regnet_y_400mf", "fc"),
            ("densenet121", None),  # a relu between its features and the pooling
            ("squeezenet1_1", None),  # pooling after the classifier
            ("vgg11_bn", None),  # three linear layers
            ("mobilenet_v3_small", None),  # two
            ("convnext_tiny", None),  # a normalization after the pooling
        ],
    )
    def test_torchvision_s_classifiers(self, name, head):
        torch.manual_seed(0)
        model = getattr(torchvision.models, name)(weights=None).train()
        for buffer, values in model.named_buffers():  # as after training, so that the activations are of some size
            if buffer.endswith("running_var"):
                values.mul_(0.3 + torch.rand(values.shape))
        before, images = state(model), torch.rand(3, 3, 96, 128)
        cam = GradCam(model)
        ours = cam(images)
        assert cam._head == head
        assert_same(before, state(model))
        model.eval()
        layer = model.get_submodule(cam.layer_name)
        x = Preprocess()(images)
        theirs = captum.attr.LayerGradCam(model, layer).attribute(x, model(x).argmax(1), relu_attributions=True)
        torch.testing.assert_close(ours, normalize(theirs), atol=1e-4, rtol=0)
        theirs = captum.attr.LayerGradCam(model, layer).attribute(x, 7, relu_attributions=True)
        torch.testing.assert_close(GradCam(model, target=7)(images), normalize(theirs), atol=1e-4, rtol=0)

    @pytest.mark.parametrize(
        ("between", "relu", "exact"),
        [
            (lambda x: x.mean((2, 3)), True, True),
            (lambda x: x.mean((2, 3)), False, True),
            (
                lambda x: nn.functional.dropout(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1), training=False),
                True,
                True,
            ),
            (lambda x: x.sum((2, 3)), True, False),
            (lambda x: x.relu().mean((2, 3)), True, False),  # whose gradient is 0 where the feature is
            (lambda x: nn.functional.relu_(x).mean((2, 3)), False, False),  # which writes into the feature map
            (lambda x: x.clamp(-9, 9).mean((2, 3)), False, False),
            (lambda x: x.mean((2, 3)).relu(), True, False),
            (lambda x: x.amax((2, 3)), True, False),
            (lambda x: nn.functional.normalize(x.mean((2, 3))), True, False),
            (lambda x: nn.functional.dropout(x.mean((2, 3)), training=True), True, False),
            (lambda x: x[:, :, 1:].mean((2, 3)), True, False),
        ],
    )
    def test_only_plain_means_will_do(self, between, relu, exact):
        model = Head(between, relu).eval()
        cam, images = GradCam(model, layer="features"), torch.rand(4, 3, 32, 48)
        torch.manual_seed(0)  # for the dropout that never ends
        ours = cam(images)
        assert cam._head == ("fc" if exact else None)
        if exact:
            x = Preprocess()(images)
            theirs = captum.attr.LayerGradCam(model, model.features).attribute(
                x, model(x).argmax(1), relu_attributions=True
            )
            torch.testing.assert_close(ours, normalize(theirs), atol=1e-5, rtol=0)

    def test_an_earlier_layer_has_no_linear_head(self):
        model = tiny()
        cam = GradCam(model, layer="0")
        cam(torch.rand(1, 3, 32, 32))
        assert cam._head is None

    def test_a_head_that_is_changed_later(self):
        model, images = Head(lambda x: x.mean((2, 3))).eval(), torch.rand(2, 3, 32, 48)
        cam = GradCam(model, layer="features")
        cam(images)
        with torch.no_grad():
            model.fc.weight.mul_(-1)
        torch.testing.assert_close(cam(images), GradCam(model, layer="features")(images))
        assert cam._head == "fc"
        for change in (lambda x: x.mean((2, 3)).tanh(), lambda x: x.amax((2, 3))):
            model.between = change
            torch.testing.assert_close(cam(images), GradCam(model, layer="features")(images))
            assert cam._head is None

    def test_logits_that_are_changed_behind_the_linear_layer(self):
        model = nn.Sequential(Head(lambda x: x.mean((2, 3))), nn.Softmax(1)).eval()
        cam = GradCam(model, layer="0.features")
        cam(torch.rand(2, 3, 32, 32))
        assert cam._head is None

    def test_what_hooks_of_the_user_s_own_change_counts(self):
        model, images = Head(lambda x: x.mean((2, 3))).eval(), torch.rand(2, 3, 32, 48)
        model.fc.register_forward_hook(lambda module, args, out: out.tanh())
        cam = GradCam(model, layer="features")
        cam(images)
        assert cam._head is None


class TestActivationMap:
    @pytest.mark.parametrize("reduce", ["mean", "abs", "max", "l2", lambda a: a.amin(1, keepdim=True).relu()])
    def test_captum_agrees(self, reduce):
        model, images = tiny().eval(), torch.rand(2, 3, 40, 60)
        raw = captum.attr.LayerActivation(model, model[4]).attribute(Preprocess()(images))
        by_hand = {"mean": raw.mean(1), "abs": raw.abs().mean(1), "max": raw.amax(1), "l2": (raw**2).mean(1) ** 0.5}
        expected = raw.amin(1).relu() if callable(reduce) else by_hand[reduce]
        torch.testing.assert_close(ActivationMap(model, "4", reduce=reduce)(images), normalize(expected[:, None]))

    def test_wrong_reduce(self):
        with pytest.raises(ValueError, match="mean, abs, max, l2"):
            ActivationMap(tiny(), reduce="median")


class TestCaptumAttribution:
    """Against Captum by hand, with the documented reduction written out."""

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("Saliency", {"abs": False}),
            ("InputXGradient", {}),
            ("IntegratedGradients", {"n_steps": 6, "method": "riemann_trapezoid"}),
            ("DeepLift", {}),
            ("GuidedBackprop", {}),
            ("Deconvolution", {}),
            ("Occlusion", {"sliding_window_shapes": [3, 8, 10], "strides": [3, 8, 10]}),
        ],
    )
    def test_methods_on_the_input(self, name, arguments):
        model = nn.Sequential(nn.Conv2d(3, 6, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(1512, 4))
        images = torch.rand(2, 3, 31, 39)
        x = Preprocess()(images)
        by_hand = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
        raw = getattr(captum.attr, name)(model).attribute(x, target=model(x).argmax(1), **by_hand)
        ours = CaptumAttribution(name, model, arguments=arguments, grid=None)(images)
        torch.testing.assert_close(ours, normalize(raw.abs().mean(1, keepdim=True)))
        cells = CaptumAttribution(name, model, arguments=arguments, reduce="l2")(images)
        l2 = raw.detach().square().mean(1, keepdim=True).sqrt()
        torch.testing.assert_close(cells, normalize(nn.functional.adaptive_avg_pool2d(l2, (14, 18))))

    def test_methods_on_a_layer(self):
        model, images = tiny().eval(), torch.rand(3, 3, 40, 60)
        torch.testing.assert_close(
            CaptumAttribution("LayerGradCam", model, layer="5", target=2, grid=None)(images),
            GradCam(model, layer="5", target=2)(images),
        )
        torch.testing.assert_close(
            CaptumAttribution(captum.attr.LayerActivation, model, layer="4", reduce="max", grid=None)(images),
            ActivationMap(model, "4", reduce="max")(images),
        )
        x = Preprocess()(images)
        raw = captum.attr.LayerIntegratedGradients(model, model[3]).attribute(x, target=model(x).argmax(1), n_steps=4)
        ours = CaptumAttribution("LayerIntegratedGradients", model, "3", arguments={"n_steps": 4}, grid=None)(images)
        torch.testing.assert_close(ours, normalize(raw.abs().mean(1, keepdim=True)))
        neuron = CaptumAttribution("NeuronGradient", model, "3", arguments={"neuron_selector": [2, 4, 4]}, grid=None)
        raw = captum.attr.NeuronGradient(model, model[3]).attribute(x, (2, 4, 4))
        torch.testing.assert_close(neuron(images), normalize(raw.abs().mean(1, keepdim=True)))

    def test_an_instance(self):
        model, images = tiny(), torch.rand(2, 3, 40, 60)
        by_class = CaptumAttribution(
            "IntegratedGradients", model, arguments={"n_steps": 4, "multiply_by_inputs": False}
        )
        instance = captum.attr.IntegratedGradients(model, multiply_by_inputs=False)
        by_instance = CaptumAttribution(instance, arguments={"n_steps": 4})
        assert torch.equal(by_class(images), by_instance(images))
        assert torch.equal(copy.deepcopy(by_instance)(images), by_instance(images))
        assert all(m.training for m in model.modules())
        cam = CaptumAttribution(captum.attr.LayerGradCam(model, model[5]))
        torch.testing.assert_close(cam(images), GradCam(model, "5")(images))
        with pytest.raises(TypeError, match="recipe"):
            pickle.dumps(by_instance)
        with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
            CaptumAttribution(captum.attr.Saliency(lambda x: x))
        with pytest.raises(TypeError, match="leave it out"):
            CaptumAttribution(instance, tiny())

    @pytest.mark.parametrize("name", ["NoiseTunnel:IntegratedGradients", "GradientShap", "NoiseTunnel:GuidedGradCam"])
    def test_methods_that_draw_are_deterministic(self, name):
        arguments = {"baselines": torch.zeros(2, 3, 32, 32)} if name == "GradientShap" else {"nt_samples": 3}
        saliency = CaptumAttribution(name, f"{RECIPES}:tiny", arguments=arguments)
        images = torch.rand(3, 3, 32, 32)
        before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        first = saliency(images)
        assert torch.equal(torch.get_rng_state(), before)
        assert np.array_equal(np.random.get_state()[1], legacy)  # noqa: NPY002
        torch.manual_seed(99)
        np.random.seed(99)  # noqa: NPY002
        assert torch.equal(saliency(images), first)
        torch.testing.assert_close(saliency(images[1:2]), first[1:2])
        other = CaptumAttribution(name, f"{RECIPES}:tiny", arguments=arguments)
        torch.testing.assert_close(other(images[1:2]), first[1:2])

    def test_what_it_is_told_in_a_worker_is_small(self):
        saliency = CaptumAttribution("NoiseTunnel:Saliency", f"{RECIPES}:tiny", arguments={"nt_samples": 3})
        images = torch.rand(2, 3, 32, 32)
        assert torch.equal(pickle.loads(pickle.dumps(saliency))(images), saliency(images))

    @pytest.mark.parametrize(
        ("settings", "error", "words"),
        [
            ({"method": "Salience"}, ValueError, "no attribution 'Salience'"),
            ({"method": "NoiseTunnel"}, ValueError, "NoiseTunnel:Saliency"),
            ({"method": "Saliency:NoiseTunnel"}, ValueError, "NoiseTunnel:Saliency"),
            ({"method": "FeaturePermutation"}, ValueError, "images of a batch"),
            ({"method": nn.Linear}, TypeError, "Attribution"),
            ({"method": "Saliency", "layer": "3"}, ValueError, "takes none"),
            ({"method": "Saliency", "model": None}, TypeError, "recipe"),
            ({"method": "Saliency", "reduce": "median"}, ValueError, "mean, abs, max, l2"),
            ({"method": "Saliency", "grid": 0}, ValueError, "grid"),
            ({"method": "Saliency", "target": -1}, ValueError, "class number"),
            ({"method": "Saliency", "arguments": 3}, TypeError, "dictionary"),
        ],
    )
    def test_wrong_settings(self, settings, error, words):
        with pytest.raises(error, match=words):
            CaptumAttribution(**{"model": tiny(), **settings})

    def test_target_the_model_does_not_have(self):
        with pytest.raises(ValueError, match="5 classes, got 5"):
            CaptumAttribution("Saliency", tiny(), target=5)(torch.rand(1, 3, 32, 32))


STAGES = {
    "alexnet": "features",
    "vgg11": "features",
    "resnet18": "layer4",
    "squeezenet1_1": "features",
    "densenet121": "features",
    "mobilenet_v2": "features",
    "mobilenet_v3_small": "features",
    "efficientnet_b0": "features",
    "convnext_tiny": "features",
    "regnet_y_400mf": "trunk_output",
    "shufflenet_v2_x0_5": "conv5",
    "mnasnet0_5": "layers",
}


class TestFindingTheStage:
    @pytest.mark.parametrize("name", STAGES)
    def test_torchvision_s_networks(self, name, caplog):
        caplog.set_level("INFO", logger="foveate")
        cam = ActivationMap(torchvision.models.get_model(name, weights=None))
        cam(torch.rand(1, 3, 96, 128))
        assert cam.layer_name == STAGES[name]
        assert f"took layer '{STAGES[name]}'" in caplog.text

    def test_no_convolution(self):
        model = nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
        with pytest.raises(ValueError, match="no convolution with a spatial map"):
            GradCam(model)(torch.rand(1, 3, 8, 8))

    def test_a_stage_that_runs_twice(self):
        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.head = nn.Conv2d(3, 3, 3), nn.Linear(3, 5)

            def forward(self, x):
                return self.head(self.conv(self.conv(x)).mean((2, 3)))

        with pytest.raises(ValueError, match="more than once"):
            GradCam(Twice())(torch.rand(1, 3, 32, 32))


class TestModel:
    def test_built_once_a_process(self, tmp_path):
        first, second = (LazyModel(f"{RECIPES}:counted:{tmp_path}") for _ in range(2))
        assert first.get() is second.get()
        assert len(list(tmp_path.iterdir())) == 1
        assert not first.get().training
        assert not any(p.requires_grad for p in first.get().parameters())

    def test_a_module_is_taken_as_it_is(self):
        model = tiny().train()
        assert LazyModel(model).get() is model
        assert model.training


class TestControls:
    @pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 4), (7, 7), (3, 8)])
    def test_center_holds_the_same_values_highest_in_the_middle(self, size):
        maps = torch.rand(3, 1, *size)
        made = Center(lambda images: maps)(torch.zeros(3, 3, 8, 8))
        torch.testing.assert_close(made.flatten(1).sort().values, maps.flatten(1).sort().values)
        y, x = torch.meshgrid(*((torch.arange(n) + 0.5) / n - 0.5 for n in size), indexing="ij")
        distance = (y.square() + x.square()).flatten()
        for one in made.flatten(1):
            by_value = distance[one.argsort(descending=True, stable=True)]
            assert (by_value.diff() >= -1e-3).all()

    def test_shuffled_gives_each_the_next_one_s(self):
        maps = torch.rand(4, 1, 2, 2)
        assert torch.equal(Shuffled(lambda images: maps)(torch.zeros(4, 3, 8, 8)), maps[[1, 2, 3, 0]])
        with pytest.raises(ValueError, match="batch of at least 2, got 1"):
            Shuffled(lambda images: maps[:1])(torch.zeros(1, 3, 8, 8))

    @pytest.mark.parametrize("kind", [Center, Shuffled])
    def test_they_need_a_saliency(self, kind):
        with pytest.raises(TypeError, match="saliency: expected a Saliency, a function of images, .*, got int"):
            kind(3)
        control = kind(lambda images: images)
        assert as_saliency(control) is control


class TestEigenCam:
    def test_it_is_the_first_principal_component(self):
        model, images = tiny(), torch.rand(3, 3, 40, 56)
        outputs = []
        handle = model[3].register_forward_hook(lambda _m, _a, output: outputs.append(output))
        with torch.no_grad():
            model.eval()(Preprocess()(images))
        handle.remove()
        for activations, ours in zip(outputs[0], EigenCam(model, "3")(images), strict=True):
            values = activations.flatten(1).T.double().numpy()
            _, vectors = np.linalg.eigh(values.T @ values)
            along = values @ vectors[:, -1]
            wanted = np.clip(along * np.sign(along.sum()), 0, None)
            np.testing.assert_allclose(ours.flatten().numpy(), wanted / wanted.max(), atol=1e-5)

    def test_values_that_are_not_finite_are_told(self):
        model = tiny()
        nn.init.constant_(model[3].bias, torch.inf)
        with pytest.raises(ValueError, match="not finite"):
            EigenCam(model, "3")(torch.rand(1, 3, 32, 32))

    def test_by_name(self):
        assert as_saliency({"method": "EigenCam", "layer": "3"}, model=f"{RECIPES}:tiny").layer_name == "3"


class TestRanks:
    @pytest.mark.parametrize("strength", [0.2, 0.5, 0.8])
    @pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "vit_b_16"])
    def test_strength_is_the_share_of_pixels_touched(self, name, strength):
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None)
        if name == "vit_b_16":  # whose head starts with zeros
            nn.init.normal_(model.heads.head.weight)
        images = torch.rand(2, 3, 224, 224)
        maps = GradCam(model, normalise="rank")(images)
        touched = (strength_map(maps, (224, 224), strength) > 0).float().mean((1, 2, 3))
        assert (touched - strength).abs().max() < 0.1  # between cells, interpolation draws values together

    def test_ranks(self):
        maps = torch.tensor([[[[5.0, -2.0, 0.5, 0.5, -7.0]]]])
        assert normalize(maps, "rank").flatten().tolist() == [1, 0.0625, 0.625**2, 0.625**2, 0]
        assert torch.equal(normalize(maps.exp(), "rank"), normalize(maps, "rank"))
        assert bool((normalize(torch.zeros(2, 1, 3, 3), "rank") == 1).all())
        assert normalize(torch.rand(2, 1, 1, 1), "rank").flatten().tolist() == [1, 1]
        with pytest.raises(ValueError, match="not finite"):
            normalize(torch.tensor([[[[torch.nan, 1.0]]]]), "rank")
        with pytest.raises(ValueError, match="normalise: expected peak or rank, got 'max'"):
            GradCam(tiny(), normalise="max")

    def test_identity(self):
        model = tiny()
        assert GradCam(model).identity == GradCam(model, normalise="peak").identity
        assert GradCam(model).identity != GradCam(model, normalise="rank").identity
        assert GradCam(model) != GradCam(model, normalise="rank")


class TestUnion:
    images = torch.rand(2, 3, 64, 96)

    def test_maximum_and_mean_on_the_finest_grid(self):
        coarse, fine = torch.rand(2, 1, 2, 3), torch.rand(2, 1, 8, 6)
        saliencies = [lambda _images: coarse, lambda _images: fine]
        upsampled = nn.functional.interpolate(coarse, (8, 6), mode="bilinear")
        assert torch.equal(Union(saliencies)(self.images), torch.maximum(upsampled, fine))
        mean = (upsampled + fine) / 2
        assert torch.allclose(Union(saliencies, "mean")(self.images), mean / mean.amax((2, 3), keepdim=True))

    def test_of_models_by_recipe(self, tmp_path):
        union = as_saliency({"method": "Union", "saliencies": [{"model": f"{RECIPES}:tiny"}, f"{RECIPES}:tiny"]})
        assert torch.equal(union(self.images), GradCam(f"{RECIPES}:tiny")(self.images))
        restored = pickle.loads(pickle.dumps(union))
        assert restored == union == Union([f"{RECIPES}:tiny"] * 2)
        assert hash(restored) == hash(union)
        assert restored.identity == union.identity != Union([f"{RECIPES}:tiny"]).identity
        assert not union.uses_labels
        assert Union([GradCam(f"{RECIPES}:tiny", target=1)]).uses_labels
        assert union != Union([f"{RECIPES}:tiny"] * 2, "mean")

    @pytest.mark.parametrize(
        ("saliencies", "combine", "error", "words"),
        [
            ("resnet18", "max", TypeError, "saliencies: expected a list"),
            ([], "max", ValueError, "at least one"),
            (["resnet18"], "min", ValueError, "combine: expected 'max' or 'mean', got 'min'"),
            ([3], "max", TypeError, "saliency: expected"),
        ],
    )
    def test_wrong_arguments(self, saliencies, combine, error, words):
        with pytest.raises(error, match=words):
            Union(saliencies, combine)
