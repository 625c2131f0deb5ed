"""Conformance tests for witnesses without classes."""

import pickle
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from foveate.images import as_tensor
from foveate.rate_control import Fidelity, as_witness
from foveate.testing._images import noisy_image, wave_image


class FidelityConformance:
    """Tests for a witness without classes: subclass it and set ``fidelity``.

    To test several at once, override the fixture ``witness``.

    Attributes:
        fidelity: makes the witness.
    """

    fidelity: ClassVar[Callable[[], Fidelity]]

    @pytest.fixture
    def witness(self) -> Fidelity:
        """The witness under test."""
        return type(self).fidelity()

    def test_it_is_a_witness(self, witness: Fidelity) -> None:
        """A rate control takes it as it is, under a name of one line."""
        assert as_witness(witness) is witness
        assert witness.name
        assert "\n" not in witness.name + witness.identity

    def test_one_distance_an_image(self, witness: Fidelity) -> None:
        """(N,) finite distances of 0 or more on the CPU, each of its own pair."""
        sources, decoded = _pairs()
        distances = witness.distance(sources, decoded)
        assert distances.shape == (len(sources),)
        assert distances.device.type == "cpu"
        assert bool(torch.isfinite(distances).all())
        assert bool((distances >= 0).all())
        apart = [witness.distance([source], [image]) for source, image in zip(sources, decoded, strict=True)]
        torch.testing.assert_close(distances, torch.cat(apart), rtol=1e-3, atol=1e-5)

    def test_an_image_is_nearest_itself(self, witness: Fidelity) -> None:
        """No distance from itself, and more the more noise there is."""
        source = as_tensor(wave_image(240, 256))
        noisy = [_with_noise(source, amplitude) for amplitude in (0, 8, 80)]
        same, near, far = witness.distance([source] * 3, noisy).tolist()
        assert same == pytest.approx(0, abs=1e-5)
        assert same < near < far

    def test_float_images_are_as_uint8(self, witness: Fidelity) -> None:
        """Images in [0, 1] have the distance of those in 0 to 255."""
        sources, decoded = _pairs()
        floats = witness.distance([x / 255 for x in sources], [x / 255 for x in decoded])
        torch.testing.assert_close(floats, witness.distance(sources, decoded), rtol=1e-2, atol=1e-3)

    def test_nothing_is_touched(self, witness: Fidelity) -> None:
        """The images and the random state stay as they were."""
        sources, decoded = _pairs()
        before = [x.clone() for x in (*sources, *decoded)]
        state = torch.get_rng_state()
        witness.distance(sources, decoded)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(map(torch.equal, before, (*sources, *decoded)))

    def test_each_image_has_its_source(self, witness: Fidelity) -> None:
        """Another number of sources than of images is an error that says so."""
        sources, decoded = _pairs()
        with pytest.raises(ValueError, match="sources"):
            witness.distance(sources[:1], decoded)

    def test_it_has_an_identity_and_travels_to_workers(self, witness: Fidelity) -> None:
        """It is pickled, and what comes back measures the same."""
        sources, decoded = _pairs()
        restored = pickle.loads(pickle.dumps(witness))
        assert (restored.name, restored.identity) == (witness.name, witness.identity)
        torch.testing.assert_close(restored.distance(sources, decoded), witness.distance(sources, decoded))


def _pairs() -> tuple[list[Tensor], list[Tensor]]:
    """Sources of two sizes, and what became of them."""
    sources = [as_tensor(image) for image in (wave_image(240, 256), noisy_image(256, 240), wave_image(240, 256))]
    return sources, [_with_noise(source, 6.0 * (k + 1)) for k, source in enumerate(sources)]


def _with_noise(image: Tensor, amplitude: float) -> Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    return (image + amplitude * noise).round().clamp(0, 255).to(torch.uint8)
