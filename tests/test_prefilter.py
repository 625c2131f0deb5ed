import io
import math
from itertools import pairwise

import kornia
import numpy as np
import pytest
import torch
from conftest import RECIPES
from PIL import Image
from torch import nn

from foveate import Compressor, GradCam, Jpeg, Prefilter
from foveate.codecs import CodecError
from foveate.compressor import Encoded
from foveate.filters import gaussian_blur, gaussian_scale_space, guided_filter, resize
from foveate.images import to_dtype
from foveate.prefilter import FILTERS, strength_map
from foveate.saliency import MapCache
from foveate.testing import FilterConformance


def left(images):
    """A map that says: look left."""
    maps = torch.zeros(images.shape[0], 1, 4, 8)
    maps[..., :4] = 1
    return maps


class TestStrengthMap:
    def test_the_documented_curve(self):
        levels = torch.linspace(0, 1, 101).view(1, 1, 1, 101)
        for strength in (0.1, 0.5, 1.0):
            expected = 1 - (levels / strength**2).clamp(max=1)
            torch.testing.assert_close(strength_map(levels, (1, 101), strength), expected)

    def test_stronger_smooths_more_everywhere(self):
        maps = torch.rand(2, 1, 7, 7)
        steps = [strength_map(maps, (64, 50), s) for s in (0, 1e-30, 0.01, 0.2, 0.5, 0.8, 1)]
        assert (steps[0] == 0).all()
        for weaker, stronger in pairwise(steps):
            assert (stronger >= weaker).all()
        assert all(s.min() >= 0 and s.max() <= 1 for s in steps)

    @pytest.mark.parametrize(("small", "large"), [((7, 7), (224, 224)), ((8, 11), (375, 500)), ((40, 30), (20, 31))])
    def test_upsampled_as_resize_does(self, small, large):
        maps = torch.rand(2, 1, *small)
        expected = 1 - resize(maps, large).clamp(0, 1)
        torch.testing.assert_close(strength_map(maps, large, 1.0), expected, atol=1e-6, rtol=0)
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
            torch.testing.assert_close(strength_map(maps, large, 1.0), expected, atol=1e-6, rtol=0)

    def test_one_strength_a_picture(self):
        maps = torch.rand(3, 1, 7, 7)
        given = torch.tensor([0.0, 0.4, 1.0])
        expected = [strength_map(m[None], (30, 40), float(s)) for m, s in zip(maps, given, strict=True)]
        torch.testing.assert_close(strength_map(maps, (30, 40), given), torch.cat(expected))

    def test_no_block_edges(self):
        maps = torch.rand(1, 1, 7, 7)
        fine = strength_map(maps, (224, 224), 1.0)
        assert fine.diff(dim=-1).abs().max() < 3 / 32
        assert fine.diff(dim=-2).abs().max() < 3 / 32


class TestConformance(FilterConformance):
    """What every filter of the pre-filter does; one that joins FILTERS is tested here."""

    @pytest.fixture(params=FILTERS.names())
    def smooth(self, request):
        return request.param


class TestPrefilter:
    def test_the_default_is_a_blend_with_kornia_s_blur(self):
        images, maps = torch.rand(1, 3, 256, 256), torch.rand(1, 1, 7, 7)
        blurred = kornia.filters.gaussian_blur2d(images, (11, 11), (1.5, 1.5), border_type="replicate")
        weight = strength_map(maps, (256, 256), 0.5)
        expected = images + weight * (blurred - images)
        torch.testing.assert_close(Prefilter(left)(images, maps), expected)

    @pytest.mark.parametrize("size", [(64, 96), (375, 500), (500, 333)])
    @pytest.mark.parametrize("even", [False, True])
    def test_uint8_and_float_agree_within_a_gray_level(self, size, even):
        images, maps = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8), torch.rand(2, 1, 8, 11) ** 2
        one = Prefilter(left, even=even)
        assert (one(images, maps).int() - to_dtype(one(images / 255, maps), torch.uint8).int()).abs().max() <= 1

    def test_sigma_grows_with_the_picture(self):
        maps = torch.zeros(1, 1, 7, 7)
        small, large = torch.zeros(1, 1, 256, 256), torch.zeros(1, 1, 1024, 1024)
        small[..., 128:], large[..., 512:] = 1, 1
        ramp = [Prefilter(left, sigma=3)(x, maps)[0, 0, 0] for x in (small, large)]
        width = [int(((r > 0.16) & (r < 0.84)).sum()) for r in ramp]
        assert width == [pytest.approx(2 * 3, abs=1), pytest.approx(2 * 12, abs=1)]

    @pytest.mark.parametrize(("name", "by_hand"), [("scale-space", gaussian_scale_space), ("guided", guided_filter)])
    def test_the_other_filters_are_those_of_the_filters_module(self, name, by_hand):
        images, maps = torch.rand(1, 3, 256, 256), torch.rand(1, 1, 7, 7)
        weight = strength_map(maps, (256, 256), 0.5)
        if name == "scale-space":
            expected = by_hand(images, 1.5 * weight, levels=(0.375, 0.75, 1.5))
        else:
            expected = by_hand(images, images, 4, 0.02 * weight**2)
        torch.testing.assert_close(Prefilter(left, filter=name)(images, maps), expected.clamp(0, 1))

    def test_grayscale_is_shown_as_rgb(self):
        gray = torch.rand(2, 1, 40, 40)
        cam = GradCam(f"{RECIPES}:tiny")
        assert torch.equal(Prefilter(cam)(gray), Prefilter(cam)(gray.expand(-1, 3, -1, -1))[:, :1])

    @pytest.mark.parametrize(
        ("settings", "error", "words"),
        [
            ({"saliency": "gradcam"}, TypeError, "function of images, got str"),
            ({"strength": 1.5}, ValueError, "strength.*1.5"),
            ({"strength": float("nan")}, ValueError, "strength"),
            ({"strength": True}, ValueError, "strength"),
            ({"strength": "0.5"}, ValueError, "strength.*'0.5'"),
            ({"strength": torch.ones(2)}, ValueError, "strength"),
            ({"filter": "median"}, ValueError, "blend or scale-space or guided"),
            ({"sigma": 0}, ValueError, "sigma"),
        ],
    )
    def test_wrong_settings(self, settings, error, words):
        with pytest.raises(error, match=words):
            Prefilter(**{"saliency": left, **settings})

    @pytest.mark.parametrize("shape", [(1, 1, 7, 7), (2, 3, 7, 7), (2, 7, 7)])
    def test_wrong_maps(self, shape):
        with pytest.raises(ValueError, match="maps: expected .* 2 images"):
            Prefilter(left)(torch.rand(2, 3, 20, 20), torch.rand(shape))

    def test_one_picture_is_no_batch(self):
        with pytest.raises(ValueError, match=r"batch \(B, C, H, W\)"):
            Prefilter(left)(torch.rand(3, 20, 20))


class TestCompressor:
    @pytest.mark.parametrize("scale", [1.0, 0.7, 0.01])
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("size", [(1, 1), (33, 50)])
    def test_pictures_come_back_at_their_size(self, scale, channels, size):
        images = torch.rand(2, channels, *size)
        compressor = Compressor("jpeg:80", Prefilter(left), scale)
        decoded = compressor.decode(compressor.encode(images))
        assert [tuple(d.shape) for d in decoded] == [(channels, *size)] * 2
        assert all(d.dtype == torch.uint8 for d in decoded)

    def test_without_a_filter_the_bytes_are_the_codec_s(self, photo):
        encoded = Compressor(Jpeg(40)).encode([photo])[0]
        assert encoded.data == Jpeg(40).encode(photo.permute(1, 2, 0).numpy())
        assert encoded.size == (61, 90)
        assert encoded.bpp == 8 * len(encoded.data) / (61 * 90)
        assert encoded.settings == {"codec": "jpeg:40", "strength": 0.0, "scale": 1.0}

    def test_the_rate_of_a_scaled_picture_is_per_source_pixel(self, photo):
        encoded = Compressor("jpeg:40", scale=0.5).encode([photo])[0]
        assert Image.open(io.BytesIO(encoded.data)).size == (45, 30)
        assert encoded.bpp == 8 * len(encoded.data) / (61 * 90)

    def test_kinds_of_pictures_agree(self, photo):
        compressor = Compressor("jpeg:40", Prefilter(left))
        array = photo.permute(1, 2, 0).numpy()
        kinds = [photo, photo / 255, array, Image.fromarray(array)]
        assert len({e.data for e in compressor.encode(kinds)}) == 1
        assert compressor.encode(photo[None])[0].data == compressor.encode([photo])[0].data

    def test_a_sequence_may_mix_sizes_and_take_maps(self, photo):
        compressor = Compressor("jpeg:40", Prefilter(left))
        pictures = [photo, photo[:, :20]]
        given = compressor.encode(pictures, torch.ones(2, 1, 3, 3))
        assert [e.data for e in given] == [e.data for e in Compressor("jpeg:40").encode(pictures)]
        assert [e.size for e in compressor.encode(pictures)] == [(61, 90), (20, 90)]

    def test_at(self):
        compressor = Compressor("jpeg:40", Prefilter(left, 0.3), 0.5)
        other = compressor.at(quality=20, strength=0.6)
        assert (other.codec, other.prefilter.strength, other.scale) == (Jpeg(20), 0.6, 0.5)
        assert (compressor.codec, compressor.prefilter.strength) == (Jpeg(40), 0.3)
        with pytest.raises(ValueError, match="no prefilter"):
            Compressor().at(strength=0.5)

    def test_damaged_bytes(self):
        with pytest.raises(CodecError):
            Compressor().decode([Encoded(b"garbage", (4, 4), Jpeg())])

    @pytest.mark.parametrize(
        ("settings", "error", "words"),
        [
            ({"prefilter": left}, TypeError, "foveate.Prefilter"),
            ({"scale": 0}, ValueError, "scale"),
            ({"scale": 1.5}, ValueError, "scale"),
            ({"scale": "half"}, ValueError, "scale.*'half'"),
            ({"codec": "gif"}, ValueError, "gif"),
        ],
    )
    def test_wrong_settings(self, settings, error, words):
        with pytest.raises(error, match=words):
            Compressor(**settings)

    @pytest.mark.parametrize(
        ("pictures", "error", "words"),
        [
            ("photo.jpg", TypeError, "str"),
            (torch.rand(3, 8, 8), ValueError, r"one picture is \[picture\]"),
            (np.zeros((4, 4, 3), np.uint8), TypeError, "ndarray"),
            ([np.zeros((4, 4, 3), np.float32)], TypeError, r"images\[0\].*float32"),
            ([torch.rand(3, 4, 4), torch.rand(1, 3, 4, 4)], ValueError, r"images\[1\].*\(C, H, W\)"),
            ([torch.rand(4, 4, 4)], ValueError, "3 or 1"),
            ([Image.new("RGBA", (4, 4))], ValueError, r"RGBA; use .convert"),
            ([3], TypeError, "int"),
        ],
    )
    def test_what_are_no_pictures(self, pictures, error, words):
        with pytest.raises(error, match=words):
            Compressor().encode(pictures)


# What is not a saliency map, by the words of its refusal.
NOT_MAPS = {
    "not a number": (lambda: torch.full((2, 1, 4, 4), math.nan), "got nan to nan"),
    "one value not a number": (lambda: torch.zeros(2, 1, 4, 4).index_fill(3, torch.tensor(1), math.nan), "nan"),
    "infinite": (lambda: torch.full((2, 1, 4, 4), math.inf), "got inf to inf"),
    "0 to 255": (lambda: torch.linspace(0, 255, 32).view(2, 1, 4, 4), "got 0 to 255; divide by the maximum"),
    "-1 to 1": (lambda: torch.linspace(-1, 1, 32).view(2, 1, 4, 4), "got -1 to 1"),
    "integers": (lambda: torch.ones(2, 1, 4, 4, dtype=torch.int64), "floating point in .0, 1., got torch.int64"),
    "bytes": (lambda: torch.ones(2, 1, 4, 4, dtype=torch.uint8), "torch.uint8; divide 0..255 by 255"),
    "booleans": (lambda: torch.ones(2, 1, 4, 4, dtype=torch.bool), "torch.bool"),
    "without a cell": (lambda: torch.ones(2, 1, 0, 4), "expected .B, 1, h, w. for 2 images"),
    "of another number": (lambda: torch.ones(1, 1, 4, 4), "for 2 images, got .1, 1, 4, 4."),
    "of several channels": (lambda: torch.ones(2, 3, 4, 4), "for 2 images"),
    "a list": (lambda: [[0.5]], "got list"),
}


@pytest.mark.parametrize("kind", NOT_MAPS)
class TestMaps:
    """Everywhere that maps come in, they are looked at."""

    @pytest.fixture
    def images(self):
        return torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8)

    def test_from_a_saliency(self, kind, images):
        maps, words = NOT_MAPS[kind]
        with pytest.raises(ValueError, match=f"maps: .*{words}"):
            Prefilter(lambda _: maps())(images)
        with pytest.raises(ValueError, match=f"maps: .*{words}"):
            Compressor("jpeg", Prefilter(lambda _: maps())).encode(images)
        with pytest.raises(ValueError, match=f"maps: .*{words}"):
            Compressor("hevc:32,roi=8", saliency=lambda _: maps()).encode(images)

    def test_from_the_user(self, kind, images):
        maps, words = NOT_MAPS[kind]
        for call in (Prefilter(left), Compressor("jpeg", Prefilter(left)).encode, Compressor("jpeg").encode):
            with pytest.raises(ValueError, match=f"maps: .*{words}"):
                call(images, maps())


@pytest.mark.parametrize("kind", [kind for kind in NOT_MAPS if kind not in ("of another number", "a list")])
def test_no_cache_holds_what_is_not_a_map(kind, tmp_path):
    maps = NOT_MAPS[kind][0]()
    cache = MapCache.of(tmp_path, Lookalike())
    with pytest.raises(ValueError, match="maps: expected"):
        cache.add({"0" * 32: maps[0], "1" * 32: maps[1]})
    assert not list(tmp_path.rglob("*.safetensors"))


class Lookalike:
    identity = "a saliency"

    def __call__(self, images):
        return left(images)


class TestAutocast:
    """Filters are computed as without it."""

    @pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize("name", FILTERS)
    @pytest.mark.parametrize(
        "dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
    )
    def test_the_same(self, name, dtype, amp):
        images = torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8)
        images = images if dtype == torch.uint8 else (images / 255).to(dtype)
        compressor = Compressor("jpeg:50", Prefilter(left, 0.8, name))
        wanted, encoded = compressor.prefilter(images), compressor.encode(images)
        with torch.autocast("cpu", dtype=amp):
            assert torch.equal(compressor.prefilter(images), wanted)
            assert [each.data for each in compressor.encode(images)] == [each.data for each in encoded]

    def test_gaussian_blur_and_the_others(self):
        image = torch.rand(1, 3, 30, 40)
        for function in (
            lambda: gaussian_blur(image, 2.0),
            lambda: gaussian_scale_space(image, torch.rand(1, 1, 30, 40).fill_(1.5)),
            lambda: guided_filter(image, image, 3, 0.1),
            lambda: resize(image, (20, 20)),
        ):
            wanted = function()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert torch.equal(function(), wanted)

    def test_a_training_step(self):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        images = torch.rand(2, 3, 24, 24, requires_grad=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            net(Prefilter(left, 0.8)(images)).float().sum().backward()
        assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("guide", [1, 3])
def test_an_infinite_eps_smooths_like_a_box_blur(guide):
    image = torch.rand(1, 3, 30, 40, dtype=torch.float64)
    out = guided_filter(image, image[:, :guide], 2, math.inf)
    box = kornia.filters.box_blur(kornia.filters.box_blur(image, (5, 5)), (5, 5))
    torch.testing.assert_close(out, box, atol=1e-9, rtol=0)
    every = torch.full((1, 1, 30, 40), math.inf)
    torch.testing.assert_close(guided_filter(image.float(), image[:, :guide].float(), 2, every), box.float())
