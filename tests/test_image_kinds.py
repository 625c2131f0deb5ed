"""Images of every kind, drawn at random: they come back as they look, or are refused by name with a cure.

The expected pixels are computed here with NumPy, by the definition of each mode, not with Foveate or Pillow.
"""

import io
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors

from foveate import Compressor, as_codec
from foveate.codecs import CODECS
from foveate.images import as_batch, as_tensor, read, render

DRAWN = settings(
    derandomize=True, deadline=None, max_examples=150, database=None, suppress_health_check=list(HealthCheck)
)
SIDES = st.integers(1, 19)
SEEDS = st.integers(0, 2**32 - 1)


def smooth(height, width, channels, seed):
    """Samples in [0, 1] that any codec at its finest keeps: waves, of different colors."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    phase = rng.uniform(0, 6, (3, channels))
    return np.stack([0.5 + 0.3 * np.sin(x / 9 + a) * np.cos(y / 9 + b) + 0.1 * np.sin(c) for a, b, c in phase.T], -1)


def to_eight_bits(samples):
    return (samples * 255).round().astype(np.uint8)


def on_white(colors, alpha):
    """Colors (H, W, C) in 0..255 as they look on white under an alpha in [0, 1]."""
    return colors * alpha + 255 * (1 - alpha)


def outcome(call):
    """Return what a call returns, and the error it raises instead; one of the two is None."""
    try:
        return call(), None
    except (ValueError, TypeError) as error:
        return None, error


def refused(error, name):
    """Whether an error names the argument, and what is expected."""
    return str(error).startswith(name) and "expected" in str(error)


def as_rgb(looks):
    return np.broadcast_to(looks, (*looks.shape[:2], 3)) if looks.shape[2] == 1 else looks


def lab_to_rgb(lab):
    """CIE L*a*b* (D50) in sRGB, 0..255, by their definitions."""
    lightness = lab[..., 0].astype(float) * 100 / 255
    a, b = (((lab[..., k].astype(int) + 128) % 256 - 128) for k in (1, 2))
    f = np.stack([(lightness + 16) / 116 + a / 500, (lightness + 16) / 116, (lightness + 16) / 116 - b / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.9642, 1, 0.8249)
    to_linear = [[3.1339, -1.6169, -0.4906], [-0.9785, 1.9160, 0.0333], [0.0720, -0.2290, 1.4057]]
    linear = (xyz @ np.transpose(to_linear)).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def hsv_to_rgb(hsv):
    hue, saturation, value = (hsv[..., k] / 255 for k in range(3))
    k = (np.array([5, 3, 1]) + hue[..., None] * 6) % 6
    return 255 * value[..., None] * (1 - saturation[..., None] * np.minimum(k, 4 - k).clip(0, 1))


def ycc_to_rgb(ycc):
    y, cb, cr = (ycc[..., k].astype(float) for k in range(3))
    cb, cr = cb - 128, cr - 128
    return np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1).clip(0, 255)


def of_mode(mode, height, width, seed):
    """Return a PIL image of a mode, and how it looks: (H, W, 3 or 1) in 0..255, or None if that is not defined."""
    rng = np.random.default_rng(seed)
    gray, colors = smooth(height, width, 1, seed), smooth(height, width, 3, seed + 1)
    alpha = to_eight_bits(smooth(height, width, 1, seed + 2))
    alpha[rng.random((height, width, 1)) < 0.2] = 0
    alpha[rng.random((height, width, 1)) < 0.2] = 255

    def bands(array, mode=mode):
        return Image.frombytes(mode, (width, height), np.ascontiguousarray(array).tobytes())

    if mode == "1":
        bits = gray[..., 0] > 0.5
        packed = np.packbits(bits, axis=1)
        return bands(packed), bits[..., None] * 255.0
    if mode == "L":
        return bands(to_eight_bits(gray)), to_eight_bits(gray).astype(float)
    if mode.startswith("I;16"):
        samples = (gray * 65535).round()
        order = {"I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2")
        return bands(samples.astype(order)), samples / 257
    if mode == "I":
        return bands((gray * 65535).astype(np.int32)), None
    if mode == "F":
        return bands(gray.astype(np.float32)), None
    if mode in ("P", "PA", "P with a key", "P with alphas", "P of RGBA"):
        palette = rng.integers(0, 256, (256, 3)).astype(np.uint8)
        index = rng.integers(0, 256, (height, width)).astype(np.uint8)
        looks = palette[index].astype(float)
        if mode == "PA":
            # By way of P: Pillow gives a PA no palette from bytes.
            image = Image.frombytes("PA", (width, height), np.dstack([index, alpha[..., 0]]).tobytes())
            image.putpalette(palette.tobytes())
            return image, on_white(looks, alpha / 255)
        image = bands(index, "P")
        alphas = rng.integers(0, 256, 256).astype(np.uint8)
        image.putpalette(palette.tobytes())
        if mode == "P with a key":
            image.info["transparency"] = key = int(index[0, 0])
            return image, np.where((index == key)[..., None], 255, looks)
        if mode == "P with alphas":
            image.info["transparency"] = alphas.tobytes()
            return image, on_white(looks, alphas[index][..., None] / 255)
        if mode == "P of RGBA":
            image.putpalette(np.c_[palette, alphas].tobytes(), "RGBA")
            return image, on_white(looks, alphas[index][..., None] / 255)
        return image, looks
    if mode == "LA":
        return bands(np.dstack([to_eight_bits(gray), alpha])), on_white(to_eight_bits(gray), alpha / 255)
    if mode == "La":
        return bands(np.dstack([to_eight_bits(gray * alpha / 255), alpha])), on_white(gray * 255, alpha / 255)
    if mode == "RGB":
        return bands(to_eight_bits(colors)), to_eight_bits(colors).astype(float)
    if mode == "RGB with a key":
        image = bands(to_eight_bits(colors), "RGB")
        image.info["transparency"] = key = tuple(map(int, to_eight_bits(colors)[0, 0]))
        same = (to_eight_bits(colors) == key).all(-1, keepdims=True)
        return image, np.where(same, 255, to_eight_bits(colors).astype(float))
    if mode == "L with a key":
        image = bands(to_eight_bits(gray), "L")
        image.info["transparency"] = key = int(to_eight_bits(gray)[0, 0, 0])
        return image, np.where(to_eight_bits(gray) == key, 255, to_eight_bits(gray).astype(float))
    if mode == "RGBX":
        return bands(np.dstack([to_eight_bits(colors), alpha])), to_eight_bits(colors).astype(float)
    if mode == "RGBA":
        return bands(np.dstack([to_eight_bits(colors), alpha])), on_white(to_eight_bits(colors), alpha / 255)
    if mode == "RGBa":
        return bands(np.dstack([to_eight_bits(colors * alpha / 255), alpha])), on_white(colors * 255, alpha / 255)
    if mode == "CMYK":
        black = to_eight_bits(gray * 0.5)
        looks = (255 - to_eight_bits(colors).astype(float)) * (1 - black / 255)
        return bands(np.dstack([to_eight_bits(colors), black])), looks
    if mode == "YCbCr":
        return bands(to_eight_bits(colors)), ycc_to_rgb(to_eight_bits(colors))
    if mode == "HSV":
        return bands(to_eight_bits(colors)), hsv_to_rgb(to_eight_bits(colors))
    if mode == "LAB":
        lab = np.dstack([to_eight_bits(gray), rng.integers(0, 12, (height, width, 2)).astype(np.uint8)])
        return bands(lab), lab_to_rgb(lab)
    raise AssertionError(mode)


MODES = [
    *("1", "L", "I;16", "I;16L", "I;16B", "I;16N", "I", "F", "P", "PA", "LA", "La", "RGB", "RGBX", "RGBA", "RGBa"),
    *("CMYK", "YCbCr", "HSV", "LAB", "P with a key", "P with alphas", "P of RGBA", "RGB with a key", "L with a key"),
]
NEAR = {"La": 2, "RGBa": 2, "HSV": 3, "YCbCr": 2, "LAB": 3, "CMYK": 2}
"""How far rounding to 8 bits may move the samples of a mode."""
EXACT = ("PNG", "TIFF", "PPM", "BMP", "TGA", "SGI", "IM", "ICO", "PCX", "QOI", "DDS", "GIF", "MSP", "XBM", "SPIDER")
LOSSY = {"JPEG": 12, "WEBP": 12, "AVIF": 16, "JPEG2000": 4, "MPO": 12}


def same_image(a, b):
    return a.mode == b.mode and a.info == b.info and a.tobytes() == b.tobytes() and a.getpalette() == b.getpalette()


class TestPil:
    @DRAWN
    @given(st.sampled_from(MODES), SIDES, SIDES, SEEDS)
    def test_in_memory(self, mode, height, width, seed):
        image, looks = of_mode(mode, height, width, seed)
        before = image.copy()
        if image.mode in ("RGB", "L"):
            assert as_tensor(image).shape == (len(image.getbands()), height, width)
        else:
            with pytest.raises(ValueError, match=r"argument: expected .* of mode RGB or L, got .*; ."):
                as_tensor(image, "argument")
        if looks is None:
            with pytest.raises(ValueError, match="no known range; scale them"):
                render(image)
        else:
            rendered = render(image)
            assert rendered.mode == "RGB"
            assert np.abs(np.asarray(rendered) - as_rgb(looks)).max() <= NEAR.get(mode, 1)
            gray = render(image, gray=True)
            assert np.abs(np.asarray(gray.convert("RGB")) - as_rgb(looks)).max() <= NEAR.get(mode, 1)
        assert same_image(image, before)

    @DRAWN
    @given(st.sampled_from(MODES), st.sampled_from([*EXACT, *LOSSY]), SIDES, SIDES, SEEDS)
    def test_in_a_file(self, mode, format, height, width, seed):
        image, looks = of_mode(mode, height, width, seed)
        stream = io.BytesIO()
        options = {"quality": 100} if format in ("JPEG", "MPO", "AVIF") else {}
        if format == "WEBP":
            options = {"lossless": True}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                image.save(stream, format, **options)
                with Image.open(io.BytesIO(stream.getvalue())) as saved:
                    stored = saved.mode
            except (OSError, ValueError, KeyError, SystemError):
                return  # the format does not support the mode
            if stored == "F" or (stored == "I" and format != "PPM"):
                with pytest.raises(ValueError, match="no known range"):
                    read(stream.getvalue(), formats=[format])
                return
            pixels = read(stream.getvalue(), formats=[format])
            assert read(stream.getvalue(), gray=True, formats=[format]).expand(3, -1, -1).equal(pixels)
        assert pixels.shape[1:] == (height, width) or format == "ICO"
        # Pillow saves as another mode, or without alphas.
        if looks is None or stored != image.mode or image.info or format == "GIF" or mode == "P of RGBA":
            if (stored, format) == ("I", "PPM") and mode.startswith("I"):
                wanted = as_rgb(smooth(height, width, 1, seed) * 255).transpose(2, 0, 1)
                assert np.abs(pixels.numpy() - wanted).max() <= 1
            return
        wanted = as_rgb(looks).transpose(2, 0, 1)
        assert np.abs(pixels.numpy() - wanted).max() <= LOSSY.get(format, NEAR.get(mode, 1))


LAYOUTS = {
    "plain": lambda x: x.contiguous(),
    "permuted": lambda x: x.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "channels_last": lambda x: x[None].contiguous(memory_format=torch.channels_last)[0],
    "sliced": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
    "every second": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "flipped": lambda x: x.flip(-1).contiguous().flip(-1),
    "expanded": lambda x: x[:1].expand(x.shape),
}
TRAITS = {
    "none": lambda x: x,
    "requires_grad": lambda x: x.requires_grad_() if x.is_floating_point() else x,
    "inference": lambda x: torch.inference_mode()(lambda: x.clone())(),
    "tv_tensor": lambda x: tv_tensors.Image(x),
    "parameter": lambda x: torch.nn.Parameter(x, x.is_floating_point()),
}
DTYPES = [
    *(torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int16, torch.int32),
    *(torch.int64, torch.bool, torch.complex64, torch.uint16, torch.float8_e4m3fn),
]


@st.composite
def tensors(draw):
    """A tensor, and how it looks, (C, H, W) in 0..255; None if it must be refused."""
    channels, dtype = draw(st.integers(1, 4)), draw(st.sampled_from(DTYPES))
    height, width = draw(SIDES), draw(SIDES)
    layout = draw(st.sampled_from(sorted(LAYOUTS)))
    x = torch.from_numpy(smooth(height, width, channels, draw(SEEDS))).permute(2, 0, 1)
    x = LAYOUTS[layout](x)
    if dtype == torch.uint8:
        x = x.mul(255).round().to(dtype)
        x = LAYOUTS[layout](x)
        looks = x.double()
    elif dtype.is_floating_point:
        x = x.to(dtype)
        looks = x.double() * 255
    else:
        x, looks = x.to(dtype), None
    x = TRAITS[draw(st.sampled_from(sorted(TRAITS)))](x) if looks is not None else x
    fits = looks is not None and channels in (1, 3) and dtype != torch.float8_e4m3fn
    return x, looks.detach().as_subclass(torch.Tensor) if fits else None


ARRAYS = {
    "plain": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "flipped": lambda x: np.ascontiguousarray(x[:, ::-1])[:, ::-1],
    "strided": lambda x: np.repeat(x, 2, 1)[:, ::2],
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
}


@st.composite
def arrays(draw):
    """An array (H, W, C) or (H, W), and how it looks; None if it must be refused."""
    channels = draw(st.integers(0, 4))
    dtype = draw(st.sampled_from(["u1"] * 4 + ["i1", "<u2", ">u2", ">i4", "<f4", ">f8", "?"]))
    samples = to_eight_bits(smooth(draw(SIDES), draw(SIDES), max(channels, 1), draw(SEEDS)))
    array = ARRAYS[draw(st.sampled_from(sorted(ARRAYS)))](samples.astype(dtype))
    array = array[..., 0] if channels == 0 else array
    fits = dtype == "u1" and channels in (0, 1, 3)
    return array, torch.from_numpy(array.reshape(*array.shape[:2], -1).transpose(2, 0, 1).copy()) if fits else None


images = st.one_of(tensors(), arrays())


def untouched(image, before):
    image = image.detach() if isinstance(image, torch.Tensor) else torch.from_numpy(image.astype("f8"))
    return image.double().equal(before)


def values_of(image):
    """The values of an image, to compare with afterwards."""
    if isinstance(image, torch.Tensor):
        return image.detach().double().clone()
    return torch.from_numpy(image.astype("f8"))


class TestTensorsAndArrays:
    @DRAWN
    @given(images)
    def test_as_tensor_and_as_batch(self, drawn_image):
        image, looks = drawn_image
        comparable = not (isinstance(image, torch.Tensor) and image.is_complex())
        before = values_of(image) if comparable else None
        for take, name in ((as_tensor, "image: "), (lambda x: as_batch([x])[0], "images[0]: ")):
            pixels, error = outcome(lambda take=take: take(image))
            assert (error is None) == (looks is not None), error
            if error is not None:
                assert refused(error, name), error
                continue
            scale = 1 if pixels.dtype == torch.uint8 else 255
            assert (pixels.detach().double() * scale - looks).abs().max() < 1e-6
        assert before is None or untouched(image, before)


FINEST = {
    name: as_codec(name).with_settings(
        quality=cls.scale[-1],
        **{"avif": {"speed": 10}, "jxl": {"effort": 3}, "hevc": {"preset": "ultrafast"}}.get(name, {}),
        **({"subsampling": "4:4:4"} if name in ("jpeg", "avif", "hevc") else {}),
    )
    for name, cls in CODECS.usable().items()
}
TOLERANCE = {"webp": 16, "jpeg": 6, "avif": 12, "hevc": 6, "jpeg2000": 3, "jxl": 6}
"""The most that a sample may be off at a codec's finest; WebP has half the colors' samples."""


@pytest.mark.parametrize("name", CODECS)
@settings(DRAWN, max_examples=40)
@given(images)
def test_every_codec(name, drawn_image):
    image, looks = drawn_image
    comparable = not (isinstance(image, torch.Tensor) and image.is_complex())
    before = values_of(image) if comparable else None
    compressor = Compressor(FINEST[name])
    encoded, error = outcome(lambda: compressor.encode([image]))
    assert (error is None) == (looks is not None), error
    if error is not None:
        assert refused(error, "images[0]: "), error
    else:
        decoded = compressor.decode(encoded)[0]
        assert decoded.shape == looks.shape
        assert (decoded.double() - looks).abs().max() <= TOLERANCE[name]
    assert before is None or untouched(image, before)


class TestHosts:
    """Inside the frameworks, with JPEG at its finest."""

    @settings(DRAWN, max_examples=80)
    @given(tensors())
    def test_torchvision(self, drawn_image):
        from foveate.transforms import Compress

        image, looks = drawn_image
        before = None if image.is_complex() else values_of(image)
        out, error = outcome(lambda: Compress(FINEST["jpeg"])(image))
        assert (error is None) == (looks is not None), error
        if error is not None:
            assert refused(error, "image: "), error
        else:
            assert (out.shape, out.dtype) == (image.shape, image.dtype)
            assert isinstance(out, tv_tensors.Image) == isinstance(image, tv_tensors.Image)
            scale = 1 if out.dtype == torch.uint8 else 255
            assert (out.detach().as_subclass(torch.Tensor).double() * scale - looks).abs().max() <= TOLERANCE["jpeg"]
        assert before is None or untouched(image, before)

    @settings(DRAWN, max_examples=60)
    @given(st.sampled_from(MODES), SIDES, SIDES, SEEDS)
    def test_torchvision_of_pil(self, mode, height, width, seed):
        from foveate.transforms import Compress

        image, looks = of_mode(mode, height, width, seed)
        before = image.copy()
        if image.mode not in ("RGB", "L"):
            with pytest.raises(ValueError, match=r"image: expected .* of mode RGB or L, got .*; ."):
                Compress(FINEST["jpeg"])(image)
        else:
            out = Compress(FINEST["jpeg"])(image)
            assert (out.mode, out.size) == (image.mode, image.size)
            if not image.info:  # a transparent color is lost, as with any JPEG
                wanted = looks if out.mode == "RGB" else looks[..., 0]
                assert np.abs(np.asarray(out) - wanted).max() <= TOLERANCE["jpeg"]
        assert same_image(image, before)

    @settings(DRAWN, max_examples=80)
    @given(arrays())
    def test_albumentations(self, drawn_image):
        pytest.importorskip("albumentations")
        from foveate.integrations.albumentations import Compress

        image, looks = drawn_image
        native = image.dtype.newbyteorder("=")
        floats = native == np.float32
        if floats and (image.ndim == 2 or image.shape[2] in (1, 3)):  # Albumentations takes them, in [0, 1]
            looks = torch.from_numpy(image.reshape(*image.shape[:2], -1).transpose(2, 0, 1).astype("f8"))
            image = image / np.float32(255)
        before = values_of(image)
        out, error = outcome(lambda: Compress(str(FINEST["jpeg"]))(image=image)["image"])
        assert (error is None) == (looks is not None), error
        if error is not None:
            assert refused(error, "image: "), error
        else:
            assert (out.shape, out.dtype) == (image.shape, native)
            pixels = out.reshape(*out.shape[:2], -1).transpose(2, 0, 1).astype("f8") * (255 if floats else 1)
            assert np.abs(pixels - looks.numpy()).max() <= TOLERANCE["jpeg"]
        assert untouched(image, before)

    @settings(DRAWN, max_examples=80)
    @given(tensors())
    def test_kornia(self, drawn_image):
        from foveate.integrations.kornia import Jpeg

        image, looks = drawn_image
        before = None if image.is_complex() else values_of(image)
        out, error = outcome(lambda: Jpeg(95, straight_through=True)(image[None])[0])
        if not image.is_floating_point() or error is not None:  # Kornia itself refuses all but floats
            assert looks is None or image.dtype == torch.uint8, error
            assert refused(error, "input: ") or "Expected input of" in str(error), error
        else:
            assert looks is not None
            # With half of the colors' samples, as Foveate's JPEG has by default.
            assert (out.detach().double() * 255 - looks).abs().max() <= 16
        assert before is None or untouched(image, before)
