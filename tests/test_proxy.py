from dataclasses import replace

import numpy as np
import pytest
import torch

from foveate import Jpeg
from foveate.codecs import CODECS, as_codec
from foveate.codecs.proxy import has_proxy, proxy_for
from foveate.demo import Scenes
from foveate.images import as_tensor, to_array
from foveate.testing import psnr


@pytest.fixture(scope="module")
def scenes():
    return [as_tensor(image) for image, _ in Scenes(6, seed=3)]


def through(proxy, image):
    decoded, bits = proxy(image[None].float() / 255)
    return to_array(decoded[0]), float(bits)


@pytest.mark.parametrize("quality", [5, 20, 35, 60, 90])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
def test_it_decodes_what_the_codec_does(scenes, quality, subsampling):
    codec = Jpeg(quality, subsampling=subsampling)
    for image in scenes[:3]:
        decoded, _ = through(proxy_for(codec), image)
        real = codec.decode(codec.encode(to_array(image)))
        assert psnr(decoded, real) > psnr(decoded, to_array(image)) + 6
        assert psnr(decoded, real) > 36


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (33, 50), (64, 17)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size(size, channels):
    images = torch.rand(2, channels, *size).clamp(0.3, 0.7)
    decoded, bits = proxy_for("jpeg:95,subsampling=4:4:4")(images)
    assert decoded.shape == images.shape
    assert bits.shape == (2,)
    assert (decoded - images).abs().max() < 0.08


def test_tables_are_the_codec_s():
    tables = (tuple(range(1, 65)), tuple(range(65, 129)))
    proxy = proxy_for(Jpeg(50, tables=tables))
    assert proxy.luma[0] == tuple(range(1, 9))
    assert proxy.chroma[7] == tuple(range(121, 129))
    assert proxy_for("jpeg:50").luma[0] == (16, 11, 10, 16, 24, 40, 51, 61)  # Annex K, table K.1


def test_gray_uses_luma_alone(scenes):
    gray = scenes[0].float().mean(0, keepdim=True).byte()
    codec = Jpeg(30)
    decoded, _ = through(proxy_for(codec), gray)
    assert psnr(decoded, codec.decode(codec.encode(to_array(gray)))) > 38


@pytest.mark.parametrize("codec", ["jpeg:20", "jpeg:35", "jpeg:75", "webp:20", "webp:75", "avif:60,speed=9", "hevc:30"])
def test_bits_follow_the_real_ones(scenes, codec):
    codec = as_codec(codec)
    blurred = [torch.nn.functional.avg_pool2d(image.float(), 3, 1, 1).byte() for image in scenes]
    images = [*scenes, *blurred]
    estimated = [through(proxy_for(codec), image)[1] for image in images]
    real = [8 * len(codec.encode(to_array(image))) for image in images]
    assert np.corrcoef(estimated, real)[0, 1] > 0.9
    assert 0.4 < sum(real) / sum(estimated) < 2.5


@pytest.mark.parametrize("name", ["webp:{}", "avif:{},speed=9", "hevc:{}"])
class TestCodecsThatDecodeThemselves:
    def test_the_transform_leaves_an_error_like_the_codec_s(self, scenes, name):
        for quality in (30, 45):
            codec = as_codec(name.format(quality))
            transform, real = [], []
            for image in scenes[:3]:
                array = to_array(image)
                transform.append(psnr(through(replace(proxy_for(codec), codec=None), image)[0], array))
                real.append(psnr(codec.decode(codec.encode(array)), array))
            assert abs(np.mean(transform) - np.mean(real)) < 2.5

    @pytest.mark.parametrize("size", [(96, 96), (37, 50)])
    def test_what_is_decoded_is_the_codec_s(self, scenes, name, size):
        codec = as_codec(name.format(40))
        images = torch.stack([image[:, : size[0], : size[1]] for image in scenes[:2]]).float() / 255
        proxy = proxy_for(codec)
        decoded, _ = proxy(images)
        for image, result in zip(images, decoded, strict=True):  # what it codes is its planes, whose chroma is halved
            planes = proxy.planes(image[None])
            coded = to_array(proxy.images(planes, size, smooth=False)[0])
            assert (to_array(result) == codec.decode(codec.encode(coded))).all()

    def test_its_gradient_is_the_identity_s(self, scenes, name):
        proxy = proxy_for(name.format(40))
        images = (scenes[0][None].float() / 255).clamp(0.2, 0.8).requires_grad_()
        toward = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        (gradient,) = torch.autograd.grad((proxy(images)[0] * toward).sum(), images)
        (plain,) = torch.autograd.grad(
            (proxy.images(proxy.planes(images), tuple(images.shape[-2:])) * toward).sum(), images
        )
        assert torch.equal(gradient, plain)

    def test_gray(self, scenes, name):
        gray = scenes[0].float().mean(0, keepdim=True).byte()
        codec = as_codec(name.format(40))
        decoded, _ = through(proxy_for(codec), gray)
        real = codec.decode(codec.encode(to_array(gray.expand(3, -1, -1))))
        assert psnr(decoded, real.mean(2, keepdims=True).round().astype(np.uint8)) > 50


def test_jpeg_has_no_codec_to_decode(scenes):
    proxy = proxy_for("jpeg:35")
    with pytest.raises(ValueError, match="expected a codec that decodes"):
        proxy.coding_error(proxy.planes(scenes[0][None].float() / 255), tuple(scenes[0].shape[-2:]))


def test_gradients_shrink_the_real_file(scenes):
    proxy, codec, image = proxy_for("jpeg:35"), Jpeg(35), scenes[0]
    x = (image[None].float() / 255).requires_grad_()
    for _ in range(5):
        (gradient,) = torch.autograd.grad(proxy(x)[1].sum(), x)
        x = (x - 0.01 * gradient.sign()).clamp(0, 1).detach().requires_grad_()
    assert len(codec.encode(to_array(x[0].detach()))) < 0.9 * len(codec.encode(to_array(image)))


def test_planes_come_back(scenes):
    proxy = proxy_for("jpeg:35")
    planes = proxy.planes(torch.stack(scenes[:2]).float() / 255)
    again = proxy.planes(proxy.images(planes, (scenes[0].shape[-2], scenes[0].shape[-1]), smooth=False))
    for plane, other in zip(planes, again, strict=True):  # but for what is outside of RGB
        assert (plane - other).abs().mean() < 0.2


@pytest.mark.parametrize("name", [*CODECS])
def test_codecs_without_one_are_refused(name):
    codec = CODECS[name]()
    if has_proxy(codec):
        assert proxy_for(codec) == proxy_for(str(codec))
    else:
        with pytest.raises(ValueError, match="no differentiable stand-in"):
            proxy_for(codec)
