"""Kornia's own pattern for its augmentations: smoke, cardinality, exceptions, gradients, torch.compile, containers."""

import copy
import pickle
import random

import kornia.augmentation as K
import numpy as np
import pytest
import torch

from foveate.demo import PREPROCESS
from foveate.integrations.kornia import Jpeg, Prefilter, StrengthCurve

SALIENCY = {"model": "foveate.demo:scene_net", "preprocess": PREPROCESS}
MAKERS = {
    "Prefilter": lambda **settings: Prefilter(SALIENCY, strength=(0.8, 1.0), sigma=24, **settings),
    "Prefilter guided": lambda **settings: Prefilter(SALIENCY, strength=0.9, filter="guided", sigma=24, **settings),
    "Prefilter curve": lambda **settings: Prefilter(SALIENCY, sigma=24, curve=StrengthCurve(0.9), **settings),
    "Jpeg": lambda **settings: Jpeg((5, 60), **settings),
    "Jpeg straight through": lambda **settings: Jpeg(20, straight_through=True, **settings),
}
every_augmentation = pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
DTYPES = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 1e-5, torch.float64: 1e-5}


def drawn(augment, *inputs, seed=5, **settings):
    torch.manual_seed(seed)
    return augment(*inputs, **settings)


def flat(images):
    """A saliency without a model that looks nowhere: its maps do not depend on the images."""
    return torch.zeros(len(images), 1, 2, 2)


@every_augmentation
class TestBase:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_smoke(self, make, dtype):
        augment = make()
        out = augment(torch.rand(2, 3, 16, 24).to(dtype))
        assert out.dtype == dtype
        assert torch.isfinite(out).all()
        assert type(augment).__name__ in repr(augment)

    @pytest.mark.parametrize("shape", [(1, 3, 16, 24), (4, 3, 17, 9), (2, 1, 16, 24), (3, 16, 24), (1, 16, 24)])
    @pytest.mark.parametrize("keepdim", [False, True])
    @pytest.mark.parametrize("same_on_batch", [False, True])
    def test_cardinality(self, make, shape, keepdim, same_on_batch):
        out = make(keepdim=keepdim, same_on_batch=same_on_batch)(torch.rand(shape))
        assert out.shape == (shape if keepdim or len(shape) == 4 else (1, *shape))

    @pytest.mark.parametrize(
        ("images", "error", "words"),
        [
            (lambda: torch.rand(2, 4, 8, 8), ValueError, "input: .*RGBA.*RgbaToRgb"),
            (lambda: torch.rand(2, 2, 8, 8), ValueError, "input: .*LA.*alpha"),
            (lambda: torch.rand(2, 5, 8, 8), ValueError, "3 or 1"),
            (lambda: torch.full((1, 3, 8, 8), torch.nan), ValueError, "input"),
            (lambda: torch.rand(2, 3, 8, 8) * 255, ValueError, "input: .*divide"),
            (lambda: (torch.rand(2, 3, 8, 8) * 255).byte(), TypeError, ""),
            (lambda: np.zeros((8, 8, 3), np.float32), (TypeError, AttributeError), ""),
        ],
    )
    def test_exception(self, make, images, error, words):
        with pytest.raises(error, match=words):
            make()(images())

    def test_module(self, make):
        """What a module is to survive: copies, pickle, a state dict, modes and dtypes."""
        augment, images = make(), torch.rand(2, 3, 16, 24)
        expected = drawn(augment, images)
        loaded = make()
        loaded.load_state_dict(augment.state_dict())
        for again in (copy.deepcopy(augment), pickle.loads(pickle.dumps(augment)), augment.eval(), loaded):
            torch.testing.assert_close(drawn(again, images), expected)
        assert drawn(make().double(), images.double()).dtype == torch.float64

    def test_dynamo(self, make):
        torch._dynamo.reset()
        augment, images = make(p=0.5), torch.rand(4, 3, 16, 24)
        compiled = torch.compile(augment, backend="eager")
        torch.testing.assert_close(drawn(compiled, images), drawn(augment, images))
        sequence = K.AugmentationSequential(augment, data_keys=["input"])
        compiled = torch.compile(sequence, backend="eager")
        torch.testing.assert_close(drawn(compiled, images), drawn(sequence, images))

    def test_parameters_repeat_a_call(self, make):
        augment, images = make(p=0.5), torch.rand(6, 3, 16, 24)
        out = augment(images)
        torch.testing.assert_close(augment(images, params=augment._params), out)
        assert {"batch_prob"} <= augment._params.keys()

    def test_no_generator_but_torch_s_is_drawn_from(self, make):
        def states():
            return random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002

        before = states()
        make()(torch.rand(2, 3, 16, 24))
        assert states() == before


class TestGradcheck:
    images = staticmethod(lambda: (0.1 + 0.8 * torch.rand(1, 1, 6, 7, dtype=torch.float64)).requires_grad_())

    @pytest.mark.parametrize("filter", ["blend", "scale-space", "guided"])
    def test_of_the_images(self, filter):
        augment = Prefilter(flat, strength=0.9, filter=filter, sigma=60)
        assert torch.autograd.gradcheck(augment, (self.images(),), fast_mode=True)

    def test_of_the_curve(self):
        curve = StrengthCurve(0.7).double()
        augment, images = Prefilter(flat, sigma=60, curve=curve), self.images().detach()
        out = augment(images)
        out.square().sum().backward()
        assert curve._amount.grad.abs() > 0
        with torch.no_grad():
            values = []
            for change in (1e-4, -1e-4):
                curve._amount += change
                values.append(augment(images).square().sum())
                curve._amount -= change
        torch.testing.assert_close(curve._amount.grad, (values[0] - values[1]) / 2e-4, rtol=1e-3, atol=1e-5)


@every_augmentation
class TestContainers:
    def sample(self, n=3):
        return {
            "input": torch.rand(n, 3, 24, 32),
            "mask": torch.randint(0, 2, (n, 1, 24, 32)).float(),
            "bbox_xyxy": torch.tensor([[[2.0, 3, 10, 12]]]).repeat(n, 1, 1),
            "bbox_xywh": torch.tensor([[[2.0, 3, 8, 9]]]).repeat(n, 1, 1),
            "bbox": torch.tensor([[[[2.0, 3], [9, 3], [9, 11], [2, 11]]]]).repeat(n, 1, 1, 1),
            "keypoints": torch.tensor([[[4.0, 5]]]).repeat(n, 1, 1),
        }

    @pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
    def test_data_keys(self, make, p):
        sample = self.sample()
        before = copy.deepcopy(sample)
        chain = K.AugmentationSequential(make(p=p), data_keys=list(sample))
        out = chain(*sample.values())
        for key, value in zip(sample, out, strict=True):
            assert value.shape == sample[key].shape
            if key != "input" or p == 0:
                torch.testing.assert_close(value, before[key])
            assert torch.equal(sample[key], before[key])
        if p == 1:
            assert not torch.equal(out[0], sample["input"])

    def test_a_dictionary_of_data(self, make):
        sample = {key: value for key, value in self.sample().items() if key in ("input", "mask", "keypoints")}
        out = K.AugmentationSequential(make(), data_keys=None)(sample)
        assert out.keys() == sample.keys()
        assert torch.equal(out["mask"], sample["mask"])
        assert not torch.equal(out["input"], sample["input"])

    def test_among_others_and_back(self, make):
        sample = self.sample()
        chain = K.AugmentationSequential(K.RandomHorizontalFlip(p=1.0), make(), data_keys=["input", "mask"])
        out = chain(sample["input"], sample["mask"])
        assert torch.equal(out[1], sample["mask"].flip(-1))
        again = chain(sample["input"], sample["mask"], params=chain._params)
        torch.testing.assert_close(again[0], out[0])
        back = chain.inverse(*out)
        torch.testing.assert_close(back[0], out[0].flip(-1))
        torch.testing.assert_close(back[1], sample["mask"])

    def test_other_containers(self, make):
        images = torch.rand(2, 3, 24, 32)
        assert K.ImageSequential(make(), random_apply=1)(images).shape == images.shape
        video = torch.rand(2, 3, 4, 24, 32)
        chain = K.VideoSequential(make(), data_format="BCTHW", same_on_frame=True)
        assert chain(video).shape == video.shape


@every_augmentation
@pytest.mark.parametrize("dtype", DTYPES)
class TestSettingsOfTorch:
    @pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
    def test_autocast_changes_nothing(self, make, dtype, half):
        augment, images = make(), torch.rand(2, 3, 16, 24).to(dtype)
        expected = drawn(augment, images)
        with torch.autocast("cpu", dtype=half):
            out = drawn(augment, images)
        assert out.dtype == expected.dtype
        torch.testing.assert_close(out, expected, rtol=0, atol=DTYPES[dtype])

    def test_double_by_default(self, make, dtype):
        images = torch.rand(2, 3, 16, 24).to(dtype)
        torch.set_default_dtype(torch.float64)
        try:
            out = make()(images)
        finally:
            torch.set_default_dtype(torch.float32)
        assert (out.shape, out.dtype) == (images.shape, images.dtype)
        assert not torch.equal(out, images)


class TestNumbers:
    @pytest.mark.parametrize("kind", [np.float32, np.float64, np.array, torch.tensor])
    def test_strengths_of_any_kind(self, kind):
        assert Prefilter(flat, strength=kind(0.5)).flags["strength"] == (0.5, 0.5)
        pair = Prefilter(flat, strength=[kind(0.25), kind(0.5)]).flags["strength"]
        assert pair == (0.25, 0.5)
        assert {type(end) for end in pair} == {float}

    @pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array, torch.tensor])
    def test_qualities_of_any_kind(self, kind):
        assert Jpeg(kind(30)).flags["quality"] == (30, 30)
        pair = Jpeg((kind(10), kind(30))).flags["quality"]
        assert pair == (10, 30)
        assert {type(end) for end in pair} == {int}
        assert Jpeg(np.array([10, 30])).flags["quality"] == (10, 30)

    @pytest.mark.parametrize("wrong", ["0.5", True, {}, (0.1, "0.5"), [0.1, 0.2, 0.3], (0.5, 0.1), torch.rand(2, 2)])
    def test_what_is_not_a_number(self, wrong):
        with pytest.raises(ValueError, match="strength: "):
            Prefilter(flat, strength=wrong)
        for quality in (wrong, None):
            with pytest.raises(ValueError, match="quality: "):
                Jpeg(quality)
