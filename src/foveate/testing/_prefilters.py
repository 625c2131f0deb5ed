"""Conformance tests for pre-filters."""

import pickle
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from foveate.codecs import Jpeg
from foveate.compressor import Compressor
from foveate.testing._images import noisy_image


class PrefilterConformance:
    """Tests for a pre-filter: subclass it and set ``make``.

    To test several at once, override the fixture ``make_prefilter``.

    Attributes:
        make: from a strength to the pre-filter, with all that it needs, as a ``staticmethod``.
        tolerance: how much a value may depend on the batch, in gray levels; rounding grows where many steps follow one
            another.
    """

    make: ClassVar[Any]
    tolerance: ClassVar[float] = 1

    @pytest.fixture
    def make_prefilter(self) -> Any:
        """The function that makes the pre-filter."""
        return self.make

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("size", [(1, 1), (2, 19), (40, 33)])
    def test_shape_dtype_and_range(
        self, make_prefilter: Any, dtype: torch.dtype, channels: int, size: tuple[int, int]
    ) -> None:
        """The result is a batch of images like the input, which is not changed."""
        images = _images(2, channels, *size, dtype)
        before = images.clone()
        filtered = make_prefilter(0.7)(images)
        assert (filtered.shape, filtered.dtype) == (images.shape, dtype)
        assert torch.equal(images, before)
        if dtype != torch.uint8:
            assert filtered.min() >= 0
            assert filtered.max() <= 1

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
    def test_strength_0_returns_the_input_bit_for_bit(self, make_prefilter: Any, dtype: torch.dtype) -> None:
        """Strength 0 changes nothing, for a batch and for one of its images."""
        images = _images(3, 3, 20, 30, dtype)
        assert torch.equal(make_prefilter(0)(images), images)
        assert torch.equal(make_prefilter(0.5).at(0)(images), images)
        mixed = make_prefilter(0.9)(images, strengths=torch.tensor([0.0, 0.5, 0.0]))
        assert torch.equal(mixed[[0, 2]], images[[0, 2]])

    def test_one_strength_an_image(self, make_prefilter: Any) -> None:
        """Each image gets the strength that is its own."""
        images, prefilter = _images(2, 3, 24, 32, torch.uint8), make_prefilter(0.5)
        mixed = prefilter(images, strengths=torch.tensor([0.3, 1.0]))
        for k, strength in enumerate((0.3, 1.0)):
            alone = prefilter.at(strength)(images[k : k + 1])[0]
            assert (mixed[k].int() - alone.int()).abs().max() <= self.tolerance

    @pytest.mark.parametrize(
        ("strengths", "error"),
        [
            (torch.tensor([0.5]), ValueError),
            (torch.tensor([0.5, 1.5]), ValueError),
            (torch.tensor([0.5, torch.nan]), ValueError),
            (torch.tensor([0, 1]), TypeError),
            (0.5, TypeError),
        ],
    )
    def test_wrong_strengths_are_refused(self, make_prefilter: Any, strengths: Any, error: type[Exception]) -> None:
        """Strengths are floats in [0, 1], one per image."""
        with pytest.raises(error, match="strengths"):
            make_prefilter(0.5)(_images(2, 3, 8, 8, torch.uint8), strengths=strengths)

    @pytest.mark.parametrize("strength", [-0.1, 1.1, torch.nan])
    def test_a_wrong_strength_is_refused(self, make_prefilter: Any, strength: float) -> None:
        """A strength is in [0, 1]."""
        with pytest.raises(ValueError, match="strength"):
            make_prefilter(0.5).at(strength)

    def test_it_is_the_same_each_time(self, make_prefilter: Any) -> None:
        """Nothing random is left open, and the user's random state is not touched."""
        images = _images(2, 3, 24, 32, torch.uint8)
        state = torch.get_rng_state()
        filtered = make_prefilter(0.5)(images)
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(3)
        assert torch.equal(make_prefilter(0.5)(images), filtered)

    def test_fewer_bytes(self, make_prefilter: Any) -> None:
        """Filtered images take fewer bytes."""
        image = torch.from_numpy(noisy_image(61, 90)).permute(2, 0, 1)[None]
        sizes = [len(Compressor("jpeg:50", make_prefilter(strength)).encode(image)[0].data) for strength in (0, 0.3, 1)]
        assert max(sizes[1:]) < sizes[0]

    def test_it_is_a_value(self, make_prefilter: Any) -> None:
        """It can be compared, hashed and pickled, and its settings say what it does."""
        prefilter = make_prefilter(0.5)
        copy = pickle.loads(pickle.dumps(prefilter))
        assert copy == prefilter == prefilter.at(0.5)
        assert hash(copy) == hash(prefilter)
        assert copy.settings == prefilter.settings != prefilter.at(0.6).settings
        assert prefilter.before(Jpeg(40)) == prefilter.before(Jpeg(40))
        images = _images(1, 3, 16, 20, torch.uint8)
        assert torch.equal(copy(images), prefilter(images))


def _images(count: int, channels: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    images = torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8)
    return images if dtype == torch.uint8 else images.to(dtype) / 255
