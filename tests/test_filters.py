import cv2
import kornia
import numpy as np
import pytest
import torch

from foveate.filters import _box_mean, gaussian_blend, gaussian_blur, gaussian_scale_space, guided_filter, resize

SIZES = [(1, 1), (1, 9), (2, 3), (5, 4), (33, 20)]


def random_image(*shape, dtype=torch.float64):
    return torch.rand(*shape, dtype=torch.float64).to(dtype)


FILTERS = {
    "guided by itself": lambda x, m: guided_filter(x, x, 2, 0.1 * m),
    "guided by one channel": lambda x, m: guided_filter(x, x[:, :1], 3, 0.1 * m),
    "scale space": lambda x, m: gaussian_scale_space(x, 3 * m),
}


@pytest.mark.parametrize("smooth", FILTERS.values(), ids=list(FILTERS))
class TestConformance:
    """What every filter with a strength map does; a new one is added in ``FILTERS``."""

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    @pytest.mark.parametrize("size", SIZES)
    def test_shape_dtype_and_range(self, smooth, size, dtype):
        x = random_image(2, 3, *size, dtype=dtype)
        out = smooth(x, torch.rand(2, 1, *size).to(dtype))
        assert (out.shape, out.dtype) == (x.shape, dtype)
        assert out.min() >= -0.02
        assert out.max() <= 1.02

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
    def test_unchanged_where_the_map_is_zero(self, smooth, dtype):
        x = random_image(1, 3, 20, 30, dtype=dtype)
        m = torch.zeros(1, 1, 20, 30, dtype=dtype)
        assert torch.equal(smooth(x, m), x)
        m[..., 15:] = 1
        out = smooth(x, m)
        assert torch.equal(out[..., :15], x[..., :15])
        assert out[..., 18:].std() < 0.6 * x[..., 18:].std()

    def test_a_flat_image_stays_flat(self, smooth):
        x = torch.full((1, 3, 12, 12), 0.3)
        torch.testing.assert_close(smooth(x, torch.rand(1, 1, 12, 12)), x, atol=1e-5, rtol=0)

    def test_images_do_not_depend_on_their_batch(self, smooth):
        x, m = random_image(3, 3, 16, 17), torch.rand(3, 1, 16, 17, dtype=torch.float64)
        m[1] *= 0.1
        together = smooth(x, m)
        for k in range(3):
            torch.testing.assert_close(together[k : k + 1], smooth(x[k : k + 1], m[k : k + 1]), atol=1e-12, rtol=0)

    def test_gradients(self, smooth):
        x = random_image(1, 2, 5, 6).requires_grad_()
        m = (0.2 + 0.6 * torch.rand(1, 1, 5, 6, dtype=torch.float64)).requires_grad_()
        assert torch.autograd.gradcheck(smooth, (x, m))

    def test_gradients_are_finite_on_flat_images_and_zero_strength(self, smooth):
        x = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
        m = torch.zeros(1, 1, 8, 8, requires_grad=True)
        smooth(x, m).sum().backward()
        assert x.grad.isfinite().all()
        assert m.grad.isfinite().all()

    def test_input_is_not_changed(self, smooth):
        x, m = random_image(1, 3, 9, 9), torch.rand(1, 1, 9, 9, dtype=torch.float64)
        before = x.clone(), m.clone()
        smooth(x, m)
        assert torch.equal(x, before[0])
        assert torch.equal(m, before[1])

    def test_autocast_changes_nothing(self, smooth):
        x, m = random_image(1, 3, 9, 9, dtype=torch.float32), torch.rand(1, 1, 9, 9)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = smooth(x, m)
        assert torch.equal(inside, smooth(x, m))

    @pytest.mark.parametrize("shape", [(1, 3, 9, 9), (1, 1, 9, 8), (3, 1, 9, 9), (9, 9)])
    def test_a_map_of_another_shape_is_refused(self, smooth, shape):
        with pytest.raises(ValueError, match=r"map \(B, 1, H, W\)"):
            smooth(random_image(2, 3, 9, 9), torch.rand(shape))

    def test_a_negative_map_is_refused(self, smooth):
        with pytest.raises(ValueError, match="at least 0, got -"):
            smooth(random_image(1, 3, 9, 9), torch.full((1, 1, 9, 9), -0.5))

    def test_integers_are_refused(self, smooth):
        with pytest.raises(TypeError, match="divide uint8 images by 255"):
            smooth(torch.zeros(1, 3, 9, 9, dtype=torch.uint8), torch.ones(1, 1, 9, 9))


class TestGuidedFilter:
    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    @pytest.mark.parametrize("radius", [1, 4, 9])
    @pytest.mark.parametrize("eps", [1e-4, 0.01, 0.5])
    def test_kornia_agrees_for_a_constant_eps(self, channels, radius, eps):
        x, guide = random_image(2, 3, 24, 31), random_image(2, channels, 24, 31)
        theirs = kornia.filters.guided_blur(guide, x, 2 * radius + 1, eps)
        torch.testing.assert_close(guided_filter(x, guide, radius, eps), theirs, atol=1e-9, rtol=0)
        constant = torch.full((2, 1, 24, 31), eps, dtype=torch.float64)
        torch.testing.assert_close(guided_filter(x, guide, radius, constant), theirs, atol=1e-9, rtol=0)

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("eps", [1e-3, 0.04])
    def test_opencv_agrees_for_a_constant_eps(self, channels, eps):
        x = random_image(1, 3, 40, 50, dtype=torch.float32)
        guide = random_image(1, channels, 40, 50, dtype=torch.float32)
        ours = guided_filter(x, guide, 3, eps)
        src, by = (t[0].permute(1, 2, 0).contiguous().numpy() for t in (x, guide))
        theirs = torch.from_numpy(np.asarray(cv2.ximgproc.guidedFilter(by, src, 3, eps))).permute(2, 0, 1)
        # Within two radii of the border the two mirror it differently.
        torch.testing.assert_close(ours[0, :, 6:-6, 6:-6], theirs[:, 6:-6, 6:-6], atol=2e-5, rtol=0)

    @pytest.mark.parametrize("radius", [1, 16, 200])
    @pytest.mark.parametrize(("eps", "error"), [(0, 5e-4), (1e-4, 5e-5), (1e-2, 5e-6)])
    def test_single_precision_is_enough_for_long_rows_and_any_radius(self, radius, eps, error):
        # Running sums over a whole row would lose the variance of a bright, nearly flat image.
        ramp = torch.linspace(0, 1, 4096, dtype=torch.float64).expand(3, 16, -1)
        noise = 0.98 + 0.02 * random_image(3, 16, 4096)
        images = torch.stack([ramp, (20 * ramp).sin() / 2 + 0.5, noise, random_image(3, 16, 4096)])
        eps = torch.full((1, 1, 16, 4096), max(eps, 1e-6), dtype=torch.float64)
        exact = guided_filter(images, images, radius, eps)
        single = images.float()
        assert (guided_filter(single, single, radius, eps.float()) - exact).abs().max() < error

    def test_edges_above_the_root_of_eps_survive_and_those_below_do_not(self):
        step = torch.zeros(1, 1, 20, 40)
        step[..., 20:] = 1
        kept = guided_filter(step, step, 4, 0.01)
        assert (kept[..., 20] - kept[..., 19]).min() > 0.9
        faint = guided_filter(0.05 * step, 0.05 * step, 4, 0.01)
        assert (faint[..., 20] - faint[..., 19]).max() < 0.05 * 0.3

    @pytest.mark.parametrize("size", [(1, 1), (1, 7), (4, 5), (3, 16)])
    @pytest.mark.parametrize("radius", [1, 2, 3, 5, 6, 7, 14, 31, 200])
    def test_box_means_of_the_mirrored_image(self, size, radius):
        x = random_image(1, 2, *size)
        wide = np.pad(x.numpy(), ((0, 0), (0, 0), (radius, radius), (radius, radius)), mode="reflect")
        expected = torch.from_numpy(wide).unfold(2, 2 * radius + 1, 1).unfold(3, 2 * radius + 1, 1).mean((-2, -1))
        torch.testing.assert_close(_box_mean(x, radius), expected.mT, atol=1e-12, rtol=0)

    def test_a_window_larger_than_the_image_is_the_mirrored_image(self):
        x = random_image(1, 1, 4, 5)
        tall = torch.cat([x, x[..., 1:-1, :].flip(-2)], dim=-2).repeat(1, 1, 5, 1)  # periods of the mirroring
        wide = torch.cat([tall, tall[..., 1:-1].flip(-1)], dim=-1).repeat(1, 1, 1, 5)
        inner = guided_filter(wide, wide, 6, 0.05)[..., 12:16, 16:21]
        torch.testing.assert_close(guided_filter(x, x, 6, 0.05), inner, atol=1e-9, rtol=0)

    @pytest.mark.parametrize("radius", [0, -1, 1.5, True])
    def test_radius(self, radius):
        with pytest.raises(ValueError, match="radius"):
            guided_filter(random_image(1, 1, 9, 9), random_image(1, 1, 9, 9), radius, 0.1)

    def test_guide_of_another_size(self):
        with pytest.raises(ValueError, match="guide: .*9, 9.*9, 8"):
            guided_filter(random_image(1, 1, 9, 9), random_image(1, 1, 9, 8), 1, 0.1)


@pytest.mark.parametrize("guides", [0, 1, 3])
@pytest.mark.parametrize("height", [97, 128, 131])
def test_large_images_are_filtered_by_bands_and_show_no_seam(monkeypatch, guides, height):
    x = torch.rand(2, 3, height, 20, dtype=torch.float64, requires_grad=True)
    guide = torch.rand(2, guides, height, 20, dtype=torch.float64) if guides else x
    eps = torch.rand(2, 1, height, 20, dtype=torch.float64) * (torch.rand(2, 1, height, 20) > 0.3)
    weights = torch.rand_like(x)
    results = []
    for band in (1 << 40, 1):
        monkeypatch.setattr("foveate.filters._BAND", band)
        out = guided_filter(x, guide, 2, eps)
        results.append((out, *torch.autograd.grad((out * weights).sum(), x)))
    for whole, parts in zip(*results, strict=True):
        assert torch.allclose(whole, parts, rtol=0, atol=1e-9)


class TestGaussianBlend:
    """The filter for uint8 images against Kornia's in floating point."""

    @pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (17, 33), (130, 61), (260, 400)])
    @pytest.mark.parametrize("sigma", [0.01, 1.5, 2.4, 4.59, 4.61, 6.89, 20.0])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_within_a_gray_level_of_floating_point(self, size, sigma, channels):
        images = (torch.rand(2, channels, *size) > 0.5).byte() * 255
        share = torch.rand(2, 1, *size)
        share[..., size[1] // 2 :] = 1
        x = images.double()
        side = 2 * int(np.ceil(3 * sigma)) + 1
        blurred = kornia.filters.gaussian_blur2d(x, (side, side), (sigma, sigma), border_type="replicate")
        difference = gaussian_blend(images, share, sigma) - torch.lerp(x, blurred, share.double())
        # Half a level is rounding; wide ones are interpolated, between samples as far apart as they may be at 4.61.
        assert difference.abs().max() <= (0.501 if sigma < 4.6 else 0.7)

    def test_unchanged_where_the_share_is_zero(self):
        images, share = torch.randint(0, 256, (1, 3, 300, 500), dtype=torch.uint8), torch.zeros(1, 1, 300, 500)
        assert torch.equal(gaussian_blend(images, share, 3.0), images)
        share[..., 250:270, 100:] = 1
        out = gaussian_blend(images, share, 3.0)
        assert torch.equal(out[share.expand_as(out) == 0], images[share.expand_as(out) == 0])
        assert out[..., 250:270, 100:].float().std() < 0.2 * images.float().std()

    def test_a_flat_image_stays_flat(self):
        for level in (0, 1, 77, 254, 255):
            images = torch.full((1, 3, 60, 60), level, dtype=torch.uint8)
            assert torch.equal(gaussian_blend(images, torch.rand(1, 1, 60, 60), 2.0), images)

    def test_images_do_not_depend_on_their_batch_nor_on_the_mode(self):
        images, share = torch.randint(0, 256, (3, 3, 90, 70), dtype=torch.uint8), torch.rand(3, 1, 90, 70)
        before = images.clone()
        together = gaussian_blend(images, share, 2.0)
        assert torch.equal(images, before)
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            one_by_one = [gaussian_blend(images[k : k + 1], share[k : k + 1], 2.0) for k in range(3)]
        assert torch.equal(together, torch.cat(one_by_one))
        assert gaussian_blend(images[:0], share[:0], 2.0).shape == (0, 3, 90, 70)

    def test_images_with_other_memory_layouts(self):
        images = torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8)
        share = torch.rand(2, 1, 40, 50)
        expected = gaussian_blend(images, share, 2.0)
        assert torch.equal(gaussian_blend(images.to(memory_format=torch.channels_last), share, 2.0), expected)
        assert torch.equal(gaussian_blend(images.mT.contiguous().mT, share.mT.contiguous().mT, 2.0), expected)


def test_gaussian_blur_is_kornia_s():
    x = random_image(2, 3, 30, 31)
    theirs = kornia.filters.gaussian_blur2d(x, (11, 11), (1.6, 1.6), border_type="replicate")
    assert torch.equal(gaussian_blur(x, 1.6), theirs)


class TestScaleSpace:
    @pytest.mark.parametrize("sigma", [0.5, 1, 2, 4])
    def test_kornia_agrees_at_a_level(self, sigma):
        x = random_image(2, 3, 30, 31)
        side = 2 * int(np.ceil(3 * sigma)) + 1
        theirs = kornia.filters.gaussian_blur2d(x, (side, side), (float(sigma),) * 2, border_type="replicate")
        torch.testing.assert_close(gaussian_scale_space(x, float(sigma)), theirs, atol=1e-9, rtol=0)

    def test_between_levels_the_variance_is_the_one_asked_for(self):
        point = torch.zeros(1, 1, 1, 101, dtype=torch.float64)
        point[..., 50] = 1
        at = torch.arange(101, dtype=torch.float64) - 50
        for sigma in (0.7, 1.5, 3.1):
            spread = gaussian_scale_space(point, sigma).flatten()
            assert float((spread * at**2).sum()) == pytest.approx(sigma**2, rel=0.06)  # kernels are cut at three sigma

    def test_wider_is_smoother_all_along_a_ramp(self):
        noise = random_image(1, 1, 200, 16 * 12)
        ramp = torch.linspace(0, 5, 16, dtype=torch.float64).repeat_interleave(12).expand(1, 1, 200, -1)
        spread = gaussian_scale_space(noise, ramp)[0, 0].view(200, 16, 12)[..., 3:-3].std((0, 2))
        assert (spread.diff() < 0.005).all()
        assert spread[-1] < 0.2 * spread[0]

    @pytest.mark.parametrize("levels", [(), (0, 1), (2, 1), (1, 1)])
    def test_levels(self, levels):
        with pytest.raises(ValueError, match="levels"):
            gaussian_scale_space(random_image(1, 1, 9, 9), 1.0, levels)


def test_resize_has_no_block_edges_and_keeps_the_mean():
    coarse = torch.rand(1, 1, 7, 7)
    fine = resize(coarse, (224, 224))
    assert fine.diff(dim=-1).abs().max() < 3 * coarse.diff(dim=-1).abs().max() / 32
    assert float(fine.mean()) == pytest.approx(float(coarse.mean()), abs=0.02)
