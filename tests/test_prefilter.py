import functools
import importlib
import io
import math
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass, replace
from itertools import pairwise

import kornia
import numpy as np
import pytest
import torch
from conftest import RECIPES
from PIL import Image
from torch import nn

from foveate import Compressor, GradCam, Jpeg, Prefilter, Sweep, TargetSize, register_filter
from foveate.codecs import CodecError
from foveate.compressor import Control, Encoded
from foveate.filters import gaussian_blur, gaussian_scale_space, guided_filter, resize
from foveate.images import to_dtype
from foveate.prefilter import FILTERS, strength_map
from foveate.saliency import Center, MapCache, Saliency
from foveate.testing import FilterConformance, PrefilterConformance


def left(images):
    """A map that looks at the left half."""
    maps = torch.zeros(images.shape[0], 1, 4, 8)
    maps[..., :4] = 1
    return maps


class TestProtocol(PrefilterConformance):
    @staticmethod
    def make(strength):
        return Prefilter(left, strength, sigma=12)  # as the images of the tests are small


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

    def test_one_strength_an_image(self):
        maps = torch.rand(3, 1, 7, 7)
        strengths = torch.tensor([0.0, 0.4, 1.0])
        expected = [strength_map(m[None], (30, 40), float(s)) for m, s in zip(maps, strengths, strict=True)]
        torch.testing.assert_close(strength_map(maps, (30, 40), strengths), torch.cat(expected))

    def test_no_block_edges(self):
        maps = torch.rand(1, 1, 7, 7)
        fine = strength_map(maps, (224, 224), 1.0)
        assert fine.diff(dim=-1).abs().max() < 3 / 32
        assert fine.diff(dim=-2).abs().max() < 3 / 32


class TestConformance(FilterConformance):
    """What every filter of the pre-filter does: those in FILTERS join by themselves."""

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
        prefilter = Prefilter(left, even=even)
        bytewise, real = prefilter(images, maps), to_dtype(prefilter(images / 255, maps), torch.uint8)
        assert (bytewise.int() - real.int()).abs().max() <= 1

    def test_sigma_grows_with_the_image(self):
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
            ({"saliency": 3}, TypeError, "function of images, a recipe or a mapping, got int"),
            ({"saliency": {"method": "GradCam"}}, ValueError, "names no model"),
            ({"saliency": Prefilter(left)}, TypeError, "give its saliency"),
            ({"strength": 1.5}, ValueError, "strength.*1.5"),
            ({"strength": float("nan")}, ValueError, "strength"),
            ({"strength": True}, ValueError, "strength"),
            ({"strength": "0.5"}, ValueError, "strength.*'0.5'"),
            ({"strength": torch.ones(2)}, ValueError, "strength"),
            ({"filter": "median"}, ValueError, "blend, scale-space, guided.*register_filter"),
            ({"filter": 3}, TypeError, "filter: .*function"),
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

    def test_one_image_is_not_a_batch(self):
        with pytest.raises(ValueError, match=r"batch \(B, C, H, W\)"):
            Prefilter(left)(torch.rand(3, 20, 20))


class TestCompressor:
    @pytest.mark.parametrize("scale", [1.0, 0.7, 0.01])
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("size", [(1, 1), (33, 50)])
    def test_images_come_back_at_their_size(self, scale, channels, size):
        images = torch.rand(2, channels, *size)
        compressor = Compressor("jpeg:80", Prefilter(left), scale=scale)
        decoded = compressor.decode(compressor.encode(images))
        assert [tuple(d.shape) for d in decoded] == [(channels, *size)] * 2
        assert all(d.dtype == torch.uint8 for d in decoded)

    def test_without_a_filter_the_bytes_are_the_codec_s(self, photo):
        encoded = Compressor(Jpeg(40)).encode([photo])[0]
        assert encoded.data == Jpeg(40).encode(photo.permute(1, 2, 0).numpy())
        assert encoded.size == (61, 90)
        assert encoded.bpp == 8 * len(encoded.data) / (61 * 90)
        assert encoded.settings == {"codec": "jpeg:40", "strength": 0.0, "scale": 1.0}

    def test_the_rate_of_a_scaled_image_is_per_source_pixel(self, photo):
        encoded = Compressor("jpeg:40", scale=0.5).encode([photo])[0]
        assert Image.open(io.BytesIO(encoded.data)).size == (45, 30)
        assert encoded.bpp == 8 * len(encoded.data) / (61 * 90)

    def test_kinds_of_images_agree(self, photo):
        compressor = Compressor("jpeg:40", Prefilter(left))
        array = photo.permute(1, 2, 0).numpy()
        kinds = [photo, photo / 255, array, Image.fromarray(array)]
        assert len({e.data for e in compressor.encode(kinds)}) == 1
        assert compressor.encode(photo[None])[0].data == compressor.encode([photo])[0].data

    def test_a_sequence_may_mix_sizes_and_take_maps(self, photo):
        compressor = Compressor("jpeg:40", Prefilter(left))
        images = [photo, photo[:, :20]]
        kept = compressor.encode(images, torch.ones(2, 1, 3, 3))
        assert [e.data for e in kept] == [e.data for e in Compressor("jpeg:40").encode(images)]
        assert [e.size for e in compressor.encode(images)] == [(61, 90), (20, 90)]

    def test_at(self):
        compressor = Compressor("jpeg:40", Prefilter(left, 0.3), scale=0.5)
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
            ({"target": 3}, TypeError, "target: expected a foveate.TargetSize or None, got int"),
            ({"control": 3}, TypeError, "control: expected a foveate.RateControl or None, got int"),
            ({"saliency": 3}, TypeError, "saliency: .*got int"),
        ],
    )
    def test_wrong_settings(self, settings, error, words):
        with pytest.raises(error, match=words):
            Compressor(**settings)

    @pytest.mark.parametrize("lacking", ["identity", "keeps", "family", "to", "check", "encode"])
    def test_a_control_that_lacks_a_part_cannot_be_made(self, lacking):
        parts = {name: lambda self: None for name in ("identity", "keeps", "family", "to", "check", "encode")}
        del parts[lacking]
        with pytest.raises(TypeError, match=lacking):
            type("Partial", (Control,), parts)()

    def test_equal_settings_make_equal_compressors(self):
        cam = GradCam(f"{RECIPES}:tiny")

        def make(saliency=f"{RECIPES}:tiny", **settings):
            return Compressor("jpeg:30", Prefilter(saliency, 0.4), **{"target": TargetSize(bytes=900), **settings})

        same = [make(), make(cam), make(GradCam(f"{RECIPES}:tiny")), make({"model": f"{RECIPES}:tiny"})]
        assert all(compressor == same[0] for compressor in same)
        assert len(set(same)) == 1
        assert pickle.loads(pickle.dumps(same[0])) == same[0]
        others = [
            make(left),
            make(scale=0.5),
            make(target=TargetSize(bytes=901)),
            make().at(quality=31),
            make().at(strength=0.5),
            Compressor("jpeg:30"),
            replace(make(), prefilter=replace(make().prefilter, filter="guided")),
        ]
        assert len({*others, same[0]}) == len(others) + 1
        assert make(left) == make(left)
        assert Compressor() == Compressor("jpeg:50") != "jpeg:50"
        assert make().at(quality=30, strength=0.4) == make()

    def test_settings_do_not_change(self):
        with pytest.raises(FrozenInstanceError):
            Compressor().scale = 0.5

    def test_without_a_saliency_each_call_brings_maps(self):
        images, maps = (torch.rand(2, 3, 40, 50) * 255).byte(), torch.rand(2, 1, 5, 5) ** 2
        prefilter, hevc = Prefilter(), Compressor("hevc:32,preset=ultrafast,roi=8")
        assert torch.equal(prefilter(images, maps), Prefilter(left)(images, maps))
        assert Compressor("jpeg", prefilter).encode(images, maps) == Compressor("jpeg", Prefilter(left)).encode(
            images, maps
        )
        for call in (prefilter, Compressor("jpeg", prefilter).encode, hevc.encode):
            with pytest.raises(ValueError, match="maps: .*saliency.*give maps to the call"):
                call(images)
        with pytest.raises(ValueError, match="maps: .*saliency"):
            Compressor("jpeg", prefilter).encode_at(Sweep(images), [0])
        assert len(hevc.encode(images, maps)) == 2
        assert torch.equal(Prefilter(strength=0)(images), images)
        assert len(Compressor("jpeg", Prefilter(strength=0)).encode(images)) == 2

    @pytest.mark.parametrize(
        ("images", "error", "words"),
        [
            ("photo.jpg", TypeError, "str"),
            (torch.rand(3, 8, 8), ValueError, r"for one image pass \[image\]"),
            (np.zeros((4, 4, 3), np.uint8), TypeError, "ndarray"),
            ([np.zeros((4, 4, 3), np.float32)], TypeError, r"images\[0\].*float32"),
            ([torch.rand(3, 4, 4), torch.rand(1, 3, 4, 4)], ValueError, r"images\[1\].*\(C, H, W\)"),
            ([torch.rand(4, 4, 4)], ValueError, "3 or 1"),
            ([Image.new("RGBA", (4, 4))], ValueError, r"RGBA; use .convert"),
            ([3], TypeError, "int"),
        ],
    )
    def test_what_is_not_an_image(self, images, error, words):
        with pytest.raises(error, match=words):
            Compressor().encode(images)


# What is not a saliency map, and what its refusal says.
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
    """Maps are checked wherever they come in."""

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


class Counting:
    """``left``, with the sizes of the batches that it was asked about."""

    def __init__(self):
        self.batches = []

    def __call__(self, images):
        self.batches.append(len(images))
        return left(images)


class TestSweep:
    @pytest.fixture
    def images(self):
        return torch.randint(0, 256, (3, 3, 40, 50), dtype=torch.uint8)

    @pytest.fixture
    def smoothed(self):
        """The sizes of the batches that were smoothed, by a filter ``"counting"``."""
        batches = []

        @register_filter("counting")
        def counting(images, strengths, sigma):
            batches.append(len(images))
            return images * (1 - strengths / 2)

        return batches

    def compressors(self, saliency):
        return [
            Compressor(f"jpeg:{quality}", Prefilter(saliency, strength, filter="counting"), scale=scale)
            for strength in (0.5, 0.8)
            for quality, scale in ((20, 1.0), (60, 1.0), (60, 0.5))
        ]

    def test_a_batch_is_mapped_once_and_filtered_once_a_prefilter(self, images, smoothed):
        saliency = Counting()
        sweep, compressors = Sweep(images), self.compressors(saliency)
        encoded = [compressor.encode(sweep) for compressor in compressors]
        assert saliency.batches == [3]
        assert smoothed == [3, 3]
        assert encoded == [compressor.encode(images) for compressor in compressors]

    def test_a_sequence_is_mapped_and_filtered_image_by_image(self, images, smoothed):
        saliency, sequence = Counting(), [images[0], images[1], images[2, :, :20]]
        sweep, compressors = Sweep(sequence), self.compressors(saliency)
        encoded = [compressor.encode(sweep) for compressor in compressors]
        assert saliency.batches == [1, 1, 1]
        assert smoothed == [1] * 6
        assert encoded == [compressor.encode(sequence) for compressor in compressors]

    def test_batched_asks_for_the_maps_of_one_size_at_once(self, images, smoothed):
        saliency = Counting()
        sweep = Sweep([images[0], images[2, :, :20], images[1]], batched=True)
        for compressor in self.compressors(saliency):
            compressor.encode(sweep)
        assert sorted(saliency.batches) == [1, 2]

    def test_only_what_is_encoded_is_filtered(self, images, smoothed):
        saliency = Counting()
        sweep, compressor = Sweep(list(images)), self.compressors(saliency)[0]
        encoded = compressor.encode_at(sweep, [2, 0])
        assert smoothed == [1, 1]
        assert encoded == [compressor.encode([images[k]])[0] for k in (2, 0)]
        assert compressor.encode_at(sweep, []) == []

    def test_equal_saliencies_share_their_maps(self, images):
        built = [GradCam(f"{RECIPES}:tiny"), GradCam(f"{RECIPES}:tiny")]
        sweep = Sweep(images)
        assert sweep.maps(built[0]) is sweep.maps(built[1])

    @pytest.mark.parametrize("kind", [torch.Tensor, list])
    def test_maps_from_outside_are_used_and_no_saliency_is_asked(self, images, kind):
        maps, saliency = torch.rand(3, 1, 5, 5) ** 2, Counting()
        sweep = Sweep(images, maps if kind is torch.Tensor else list(maps))
        assert sweep.has_maps
        for prefilter in (Prefilter(saliency), Prefilter()):
            compressor = Compressor("jpeg:40", prefilter)
            assert compressor.encode(sweep) == compressor.encode(images, maps)
        roi = Compressor("hevc:32,preset=ultrafast,roi=8", saliency=saliency)
        assert roi.encode(sweep) == roi.encode(images, maps)
        assert not saliency.batches

    def test_maps_by_a_function_of_the_saliency(self, images):
        asked, saliency = [], Counting()

        def maps_of(saliency):
            asked.append(saliency)
            return list(torch.ones(3, 1, 2, 2))

        sweep = Sweep(images, maps_of)
        compressors = [Compressor(f"jpeg:{quality}", Prefilter(saliency)) for quality in (30, 60)]
        for compressor in compressors:
            assert compressor.encode(sweep) == Compressor(compressor.codec, Prefilter()).encode(
                images, torch.ones(3, 1, 2, 2)
            )
        assert asked == [compressors[0].prefilter.saliency]
        assert not saliency.batches

    @pytest.mark.parametrize("count", [0, 2, 4])
    def test_a_wrong_number_of_maps(self, images, count):
        with pytest.raises(ValueError, match=f"maps: expected one per image, 3, got {count}"):
            Sweep(images, torch.rand(count, 1, 5, 5))
        with pytest.raises(ValueError, match=f"maps: expected one per image, 3, got {count}"):
            Compressor("jpeg", Prefilter(left)).encode(Sweep(images, lambda saliency: torch.rand(count, 1, 5, 5)))
        with pytest.raises(ValueError, match="maps: a Sweep has its own"):
            Compressor("jpeg", Prefilter(left)).encode(Sweep(images), torch.rand(3, 1, 5, 5))

    def test_an_empty_sweep(self):
        compressor = Compressor("jpeg", Prefilter(left))
        assert compressor.encode(Sweep([])) == compressor.encode(Sweep(torch.zeros(0, 3, 8, 8))) == []


def invert(images, strengths, sigma):
    """A filter, which no name stands for."""
    return torch.lerp(images, 1 - images, strengths)


@dataclass(frozen=True)
class Offset:
    """A filter that is an object."""

    by: float

    def __call__(self, images, strengths, sigma):
        return images + self.by * strengths


class TestFunctionFilter(FilterConformance):
    """A function takes the place of a name."""

    filter = staticmethod(invert)
    smooths = False


class TestRegisteredFilter(FilterConformance):
    """A name that was registered takes its place beside the built-in ones."""

    smooths = False

    @pytest.fixture
    def smooth(self):
        register_filter("invert")(invert)
        return "invert"


class TestFilters:
    images = torch.rand(2, 3, 24, 32)

    def test_a_function_gets_the_strengths_and_sigma_of_the_image(self):
        seen = []

        def record(images, strengths, sigma):
            seen.append((images.dtype, tuple(strengths.shape), sigma))
            return images

        Prefilter(left, filter=record, sigma=3)((self.images * 255).byte())
        assert seen == [(torch.float32, (2, 1, 24, 32), 3 * 24 / 256)]

    @pytest.mark.parametrize(
        ("smooth", "name"),
        [("guided", "guided"), (invert, "invert"), (Offset(0.1), "Offset"), (functools.partial(invert), "partial")],
    )
    def test_what_it_is_called(self, smooth, name):
        prefilter = Prefilter(left, filter=smooth)
        assert prefilter.filter_name == name
        assert prefilter(self.images).shape == self.images.shape
        assert name in Compressor("jpeg", Prefilter(GradCam(f"{RECIPES}:tiny"), filter=smooth)).identity

    @pytest.mark.parametrize("wrong", [None, torch.zeros(2, 3, 8, 8)])
    def test_it_is_to_return_images(self, wrong):
        register_filter("broken")(lambda images, strengths, sigma: wrong)
        with pytest.raises(ValueError, match=r"filter: broken is to return images \(2, 3, 24, 32\)"):
            Prefilter(left, filter="broken")(self.images)

    def test_a_name_is_taken_once(self):
        register_filter("invert")(invert)
        with pytest.raises(ValueError, match="'blend' is .* already"):
            register_filter("blend")(invert)
        with pytest.raises(TypeError, match="filter: expected a function"):
            register_filter("number")(3)

    def test_another_process_needs_no_registration(self, tmp_path, monkeypatch):
        """The function travels with the pre-filter, also where another strength is then taken."""
        (tmp_path / "filters_of_a_user.py").write_text(
            "def darken(images, strengths, sigma):\n    return images - strengths / 2\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        register_filter("darken")(importlib.import_module("filters_of_a_user").darken)
        compressor = Compressor("jpeg:60", Prefilter(Center(f"{RECIPES}:tiny"), filter="darken"))
        images = (self.images * 255).byte()
        torch.save(images, tmp_path / "images")
        (tmp_path / "compressor").write_bytes(pickle.dumps(compressor))
        program = (
            "import pickle, sys, torch\n"
            "from foveate.prefilter import FILTERS\n"
            "compressor = pickle.load(open('compressor', 'rb')).at(quality=30, strength=0.7)\n"
            "assert 'darken' not in FILTERS\n"
            "encoded = compressor.encode(torch.load('images'))\n"
            "pickle.dump([image.settings for image in encoded], open('settings', 'wb'))\n"
        )
        subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
        expected = compressor.at(quality=30, strength=0.7).encode(images)
        assert pickle.loads((tmp_path / "settings").read_bytes()) == [image.settings for image in expected]


@pytest.mark.parametrize("kind", [kind for kind in NOT_MAPS if kind not in ("of another number", "a list")])
def test_no_cache_holds_what_is_not_a_map(kind, tmp_path):
    maps = NOT_MAPS[kind][0]()
    cache = MapCache.of(tmp_path, Lookalike())
    with pytest.raises(ValueError, match="maps: expected"):
        cache.add({"0" * 32: maps[0], "1" * 32: maps[1]})
    assert not list(tmp_path.rglob("*.safetensors"))


class Lookalike(Saliency):
    identity = "a saliency"

    def __call__(self, images):
        return left(images)


class TestAutocast:
    """Filters are computed as without it."""

    @pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize("name", FILTERS.names())
    @pytest.mark.parametrize(
        "dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
    )
    def test_the_same(self, name, dtype, amp):
        images = torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8)
        images = images if dtype == torch.uint8 else (images / 255).to(dtype)
        compressor = Compressor("jpeg:50", Prefilter(left, 0.8, filter=name))
        expected, encoded = compressor.prefilter(images), compressor.encode(images)
        with torch.autocast("cpu", dtype=amp):
            assert torch.equal(compressor.prefilter(images), expected)
            assert [image.data for image in compressor.encode(images)] == [image.data for image in encoded]

    def test_gaussian_blur_and_the_others(self):
        image = torch.rand(1, 3, 30, 40)
        for smooth in (
            lambda: gaussian_blur(image, 2.0),
            lambda: gaussian_scale_space(image, torch.rand(1, 1, 30, 40).fill_(1.5)),
            lambda: guided_filter(image, image, 3, 0.1),
            lambda: resize(image, (20, 20)),
        ):
            expected = smooth()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert torch.equal(smooth(), expected)

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
    infinite = torch.full((1, 1, 30, 40), math.inf)
    torch.testing.assert_close(guided_filter(image.float(), image[:, :guide].float(), 2, infinite), box.float())
