"""Conformance tests for filters."""

import pickle
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from foveate.compressor import Compressor
from foveate.prefilter import Prefilter
from foveate.testing._images import noisy_image


def _left(images: Tensor) -> Tensor:
    """Return maps that are high in the left half."""
    maps = torch.zeros(len(images), 1, 4, 8, dtype=images.dtype if images.is_floating_point() else torch.float32)
    maps[..., :4] = 1
    return maps


class FilterConformance:
    """Tests for a filter: subclass it and set ``filter``.

    To test several at once, override the fixture ``smooth``.

    Attributes:
        filter: its registered name, or the function as a ``staticmethod``.
        differentiable: whether gradients reach the images through it.
        smooths: whether it removes detail, and so bytes.
    """

    filter: ClassVar[Any]
    differentiable: ClassVar[bool] = True
    smooths: ClassVar[bool] = True

    @pytest.fixture
    def smooth(self) -> Any:
        """The filter under test."""
        return self.filter

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
    def test_strength_0_returns_the_input_bit_for_bit(self, smooth: Any, dtype: torch.dtype) -> None:
        """Strength 0 changes nothing."""
        images = _images(2, 3, 20, 30, dtype)
        assert torch.equal(Prefilter(_left, 0, filter=smooth)(images), images)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("size", [(1, 1), (2, 9), (40, 80)])
    def test_shape_dtype_and_range(self, smooth: Any, dtype: torch.dtype, channels: int, size: tuple[int, int]) -> None:
        """The result is a batch of images like the input, which is not changed."""
        images = _images(2, channels, *size, dtype)
        before = images.clone()
        filtered = Prefilter(_left, 0.7, filter=smooth)(images)
        assert (filtered.shape, filtered.dtype) == (images.shape, dtype)
        assert torch.equal(images, before)
        if dtype != torch.uint8:
            assert filtered.min() >= 0
            assert filtered.max() <= 1

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
    def test_keeps_what_is_looked_at_and_changes_the_rest(self, smooth: Any, dtype: torch.dtype) -> None:
        """Where the map is high, pixels stay bit for bit."""
        images = 0.4 + 0.2 * torch.rand(2, 3, 64, 128)
        images = (images * 255).byte() if dtype == torch.uint8 else images
        filtered = Prefilter(_left, 0.5, filter=smooth, sigma=6)(images)
        assert torch.equal(filtered[..., :50], images[..., :50])
        assert not torch.equal(filtered[..., 80:], images[..., 80:])
        if self.smooths:
            assert filtered[..., 80:].float().std() < 0.7 * images[..., 80:].float().std()

    def test_images_do_not_depend_on_their_batch(self, smooth: Any) -> None:
        """Each image is filtered by itself."""
        images, prefilter = _images(3, 3, 16, 17, torch.float64), Prefilter(_left, 0.7, filter=smooth)
        apart = torch.cat([prefilter(image[None]) for image in images])
        torch.testing.assert_close(prefilter(images), apart, atol=1e-12, rtol=0)

    def test_gradients(self, smooth: Any) -> None:
        """Gradients reach the images."""
        if not self.differentiable:
            pytest.skip("this filter has no gradients")
        images = (0.1 + 0.8 * torch.rand(1, 3, 12, 16, dtype=torch.float64)).requires_grad_()
        maps, prefilter = _left(images), Prefilter(strength=0.9, filter=smooth, sigma=20)
        assert torch.autograd.gradcheck(lambda x: prefilter(x, maps), images)

    def test_fewer_bytes(self, smooth: Any) -> None:
        """Filtered images take fewer bytes."""
        if not self.smooths:
            pytest.skip("this filter does not smooth")
        image = torch.from_numpy(noisy_image(61, 90)).permute(2, 0, 1)[None]
        filtered = Compressor("jpeg:50", Prefilter(_left, 0.7, filter=smooth, sigma=12)).encode(image)[0]
        assert len(filtered.data) < 0.9 * len(Compressor("jpeg:50").encode(image)[0].data)

    def test_it_travels_to_workers(self, smooth: Any) -> None:
        """A pre-filter is pickled with its filter."""
        prefilter, images = Prefilter(strength=0.5, filter=smooth), _images(1, 3, 16, 20, torch.uint8)
        maps = _left(images)
        assert torch.equal(pickle.loads(pickle.dumps(prefilter))(images, maps), prefilter(images, maps))


def _images(count: int, channels: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    images = torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8)
    return images if dtype == torch.uint8 else images.to(dtype) / 255
