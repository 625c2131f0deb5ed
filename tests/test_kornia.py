import copy
import pickle

import kornia.augmentation as K
import pytest
import torch
from conftest import RECIPES
from kornia.enhance import jpeg_codec_differentiable

import foveate
from foveate.integrations.kornia import Jpeg, Prefilter, StrengthCurve
from foveate.prefilter import strength_map

SALIENCY = f"{RECIPES}:tiny"


def middle(images):
    maps = torch.zeros(len(images), 1, 5, 5)
    maps[..., 1:4, 2] = torch.tensor([0.3, 1.0, 0.6])
    return maps


MAKERS = {
    "Prefilter": lambda **settings: Prefilter(SALIENCY, strength=(0.3, 0.9), sigma=24, **settings),
    "Prefilter curve": lambda **settings: Prefilter(
        {"model": SALIENCY}, sigma=24, curve=StrengthCurve(0.9), **settings
    ),
    "Jpeg": lambda **settings: Jpeg((5, 60), **settings),
    "Jpeg straight through": lambda **settings: Jpeg(quality=20, straight_through=True, **settings),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
class TestConformance:
    @pytest.mark.parametrize("pickled", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    @pytest.mark.parametrize("shape", [(2, 3, 33, 50), (3, 1, 33, 50), (3, 20, 34), (1, 3, 8, 8)])
    def test_shapes_and_dtypes(self, make, shape, dtype, pickled):
        augment = pickle.loads(pickle.dumps(make())) if pickled else make()
        images = torch.rand(shape).to(dtype)
        before = images.clone()
        out = augment(images)
        assert out.shape == (shape if len(shape) == 4 else (1, *shape))
        assert out.dtype == dtype
        assert torch.equal(images, before)
        assert not torch.equal(out.view_as(images), images)
        assert make(keepdim=True)(images).shape == shape

    def test_inside_a_sequence_masks_boxes_and_points_stay(self, make):
        images, mask = torch.rand(3, 3, 32, 48), torch.randint(0, 2, (3, 1, 32, 48)).float()
        boxes, points = torch.tensor([[[2.0, 3, 10, 12]]]).repeat(3, 1, 1), torch.tensor([[[4.0, 5]]]).repeat(3, 1, 1)
        keys = ["input", "mask", "bbox_xyxy", "keypoints"]
        out = K.AugmentationSequential(make(), data_keys=keys)(images, mask, boxes, points)
        assert not torch.equal(out[0], images)
        for before, after in zip((mask, boxes, points), out[1:], strict=True):
            assert torch.equal(before, after)
        chain = K.AugmentationSequential(K.RandomHorizontalFlip(p=1.0), make(), data_keys=["input", "mask"])
        flipped = chain(images, mask)
        assert torch.equal(flipped[1], mask.flip(-1))
        again = chain(images, mask, params=chain._params)
        assert torch.equal(again[0], flipped[0])

    def test_p_is_for_each_sample(self, make):
        images = torch.rand(1, 3, 32, 32).repeat(16, 1, 1, 1)
        out = make(p=0.5)(images)
        touched = (out != images).flatten(1).any(1)
        assert 0 < int(touched.sum()) < 16
        assert torch.equal(make(p=0.0)(images), images)
        shared = make(same_on_batch=True)(images)
        torch.testing.assert_close(shared, shared[:1].expand_as(shared))

    def test_gradients_reach_the_images(self, make):
        images = (0.1 + 0.8 * torch.rand(12, 3, 16, 16)).requires_grad_()
        augment = make(p=0.5)
        out = augment(images)
        out.square().sum().backward()
        chosen = augment._params["batch_prob"] > 0.5
        assert 0 < int(chosen.sum()) < 12
        assert torch.isfinite(images.grad).all()
        assert torch.equal(images.grad[~chosen], 2 * images.detach()[~chosen])
        assert (images.grad[chosen] != 2 * images.detach()[chosen]).any()

    def test_the_model_is_no_child(self, make):
        augment = make()
        augment(torch.rand(1, 3, 16, 16))
        assert {type(m).__name__ for m in augment.modules()} <= {
            type(augment).__name__,
            "StrengthCurve",
            "PlainUniformGenerator",
        }
        assert "0." in repr(augment) or "quality" in repr(augment)
        copy.deepcopy(augment)(torch.rand(1, 3, 16, 16))

    def test_what_is_not_an_image(self, make):
        with pytest.raises(ValueError, match="normalization"):
            make()(torch.randn(2, 3, 16, 16) * 3)
        with pytest.raises(TypeError):
            make()(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
        slightly = torch.rand(2, 3, 16, 16) * 1.1 - 0.05
        assert make()(slightly).min() >= -1e-4


class TestPrefilter:
    def test_it_is_the_prefilter(self):
        images = torch.rand(3, 3, 40, 60)
        expected = foveate.Prefilter(middle, 0.7, filter="scale-space", sigma=6)(images)
        torch.testing.assert_close(Prefilter(middle, strength=0.7, filter="scale-space", sigma=6)(images), expected)

    def test_a_strength_for_each_sample(self):
        images = torch.rand(1, 3, 40, 60).repeat(6, 1, 1, 1)
        augment = Prefilter(middle, strength=(0.0, 1.0), sigma=9)
        out = augment(images)
        strengths = augment._params["strength"]
        assert len(set(strengths.tolist())) == 6
        for k, strength in enumerate(strengths.tolist()):
            expected = foveate.Prefilter(middle, strength, sigma=9)(images[k : k + 1])[0]
            torch.testing.assert_close(out[k], expected, atol=1e-5, rtol=0)
        levels = (0.0, 0.5, 1, 1e-30, 0.2, 0.9)
        maps = strength_map(middle(images), (40, 60), torch.tensor(levels))
        for k, level in enumerate(levels):
            torch.testing.assert_close(maps[k], strength_map(middle(images), (40, 60), level)[k])

    def test_the_curve_starts_at_the_default_and_learns(self):
        saliency = torch.linspace(0, 1, 101)[None, None, None]
        start = StrengthCurve(0.6, amount=0.999)(saliency)
        torch.testing.assert_close(start, strength_map(saliency, (1, 101), 0.6), atol=2e-3, rtol=0)
        augment = Prefilter(middle, curve=StrengthCurve(0.6), sigma=9)
        assert len(list(augment.parameters())) == 3
        augment(torch.rand(2, 3, 40, 60)).square().mean().backward()
        assert all(p.grad.abs() > 0 for p in augment.parameters())

    def test_gradcheck(self):
        augment = Prefilter(middle, strength=0.7, sigma=40)
        images = (0.1 + 0.8 * torch.rand(1, 1, 8, 9, dtype=torch.float64)).requires_grad_()
        assert torch.autograd.gradcheck(augment, (images,))

    @pytest.mark.parametrize("strength", [1.5, (0.5, 0.1), (-1, 1), "strong", (0.1, 0.2, 0.3)])
    def test_wrong_strength(self, strength):
        with pytest.raises(ValueError, match="strength"):
            Prefilter(middle, strength=strength)

    def test_a_whole_prefilter_keeps_its_settings(self):
        images = torch.rand(3, 3, 40, 60)
        for settings in ({"filter": "guided"}, {"sigma": 6, "even": True}, {"filter": lambda x, s, _: x * (1 - s)}):
            prefilter = foveate.Prefilter(middle, 0.7, **settings)
            torch.testing.assert_close(Prefilter(prefilter)(images), prefilter(images))
            stronger = foveate.Prefilter(middle, 0.9, **settings)
            torch.testing.assert_close(Prefilter(prefilter, strength=0.9)(images), stronger(images))
        with pytest.raises(ValueError, match="filter, sigma: .*has its own"):
            Prefilter(prefilter, sigma=6)
        with pytest.raises(ValueError, match=r"saliency: this foveate\.Prefilter has none"):
            Prefilter(foveate.Prefilter())

    @pytest.mark.parametrize("saliency", [SALIENCY, {"model": SALIENCY}, foveate.GradCam(SALIENCY)], ids=type)
    def test_forms_of_a_saliency(self, saliency):
        assert Prefilter(saliency).prefilter == foveate.Prefilter(SALIENCY)

    @pytest.mark.parametrize("wrong", [None, 3, foveate.GradCam])
    def test_what_is_not_a_saliency(self, wrong):
        with pytest.raises(TypeError, match="saliency: expected a Saliency, a function of images"):
            Prefilter(wrong)


class TestJpeg:
    def test_the_proxy_is_kornia_s(self):
        images = torch.rand(2, 3, 32, 48)
        expected = jpeg_codec_differentiable(images, torch.tensor([30.0]))
        torch.testing.assert_close(Jpeg(30)(images), expected)

    def test_straight_through_has_the_codec_s_values_and_the_proxy_s_gradient(self, photo):
        images = (photo[None] / 255).requires_grad_()
        weights = torch.rand_like(images)
        (Jpeg(30)(images) * weights).sum().backward()
        expected, images.grad = images.grad, None
        out = Jpeg(30, straight_through=True)(images)
        (out * weights).sum().backward()
        torch.testing.assert_close(images.grad, expected)
        compressor = foveate.Compressor("jpeg:30")
        decoded = compressor.decode(compressor.encode(photo[None]))[0]
        torch.testing.assert_close(out[0].detach(), decoded / 255, atol=1e-6, rtol=0)

    def test_both_ends_are_drawn(self):
        augment, images = Jpeg((10, 12)), torch.rand(64, 3, 8, 8)
        augment(images)
        assert set(augment._params["quality"].round().tolist()) == {10, 11, 12}

    @pytest.mark.parametrize(
        ("quality", "error"), [(0, ValueError), ((10, 99), ValueError), ((60, 20), ValueError), (0.5, TypeError)]
    )
    def test_wrong_quality(self, quality, error):
        with pytest.raises(error, match="quality"):
            Jpeg(quality)
