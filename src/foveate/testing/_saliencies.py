"""Conformance tests for saliencies."""

import pickle
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from foveate.compressor import Compressor
from foveate.identity import identity
from foveate.prefilter import Prefilter
from foveate.saliency import Saliency, as_saliency, check_maps
from foveate.testing._images import tiny_classifier


class SaliencyConformance:
    """Tests for a saliency: subclass it and set ``make``.

    To test several at once, override the fixture ``kind``.

    Attributes:
        make: from a model, or its recipe, to the saliency, as a ``staticmethod``; a saliency without a model ignores
            it.
        asks_model: whether it runs the model, whose state is then tested to be restored.
    """

    make: ClassVar[Any]
    asks_model: ClassVar[bool] = True

    @pytest.fixture
    def kind(self) -> Any:
        """The function that makes the saliency under test."""
        return self.make

    @pytest.mark.parametrize("size", [(1, 1), (3, 2), (32, 32), (61, 90), (224, 149)])
    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
    def test_maps_of_any_size_and_dtype(self, kind: Any, size: tuple[int, int], dtype: torch.dtype) -> None:
        """(B, 1, h, w) in [0, 1], floating point and detached."""
        images = torch.rand(2, 3, *size)
        images = (images * 255).byte() if dtype == torch.uint8 else images.to(dtype)
        before = images.clone()
        maps = check_maps(kind(tiny_classifier())(images), 2)
        assert not maps.requires_grad
        assert torch.equal(images, before)

    def test_is_a_saliency(self, kind: Any) -> None:
        """It follows the protocol."""
        saliency = kind(tiny_classifier())
        assert isinstance(saliency, Saliency)
        assert as_saliency(saliency) is saliency
        assert isinstance(saliency.uses_labels, bool)
        assert saliency.to("cpu") is saliency

    def test_uint8_and_float_agree(self, kind: Any) -> None:
        """0..255 and [0, 1] are the same image."""
        images = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
        saliency = kind(tiny_classifier())
        torch.testing.assert_close(saliency(images), saliency(images / 255))

    def test_each_map_is_of_its_own_image(self, kind: Any) -> None:
        """An image's map does not depend on its batch."""
        images, saliency = torch.rand(4, 3, 40, 30), kind(tiny_classifier())
        apart = torch.cat([saliency(image[None]) for image in images])
        torch.testing.assert_close(saliency(images), apart, atol=1e-5, rtol=1e-5)

    def test_an_empty_batch(self, kind: Any) -> None:
        """No images, no maps."""
        assert kind(tiny_classifier())(torch.rand(0, 3, 8, 8)).shape[:2] == (0, 1)

    def test_the_random_state_is_not_touched(self, kind: Any) -> None:
        """The user's random state is restored."""
        saliency, before = kind(tiny_classifier()), torch.get_rng_state()
        saliency(torch.full((1, 3, 32, 32), 0.5))
        assert torch.equal(before, torch.get_rng_state())

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
    def test_grad_modes(self, kind: Any, mode: Any) -> None:
        """Maps are the same in every gradient mode, and the mode is kept."""
        images = torch.ones(1, 3, 32, 32) / 2
        model = tiny_classifier()
        expected = kind(model)(images)
        with mode():
            maps = kind(model)(images)
            assert torch.is_grad_enabled() == (mode is torch.enable_grad)
        torch.testing.assert_close(maps, expected)

    def test_autocast_changes_nothing(self, kind: Any) -> None:
        """Autocast does not change the maps."""
        images, saliency = torch.rand(2, 3, 32, 32), kind(tiny_classifier())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = saliency(images)
        torch.testing.assert_close(inside, saliency(images))

    @pytest.mark.parametrize("train", [False, True])
    @pytest.mark.parametrize("frozen", [False, True])
    def test_the_model_is_as_it_was(self, kind: Any, train: bool, frozen: bool) -> None:
        """Modes, gradients, buffers and hooks are restored."""
        if not self.asks_model:
            pytest.skip("this saliency asks no model")
        model = tiny_classifier().train(train).requires_grad_(not frozen)
        model.get_submodule("1").eval()
        if not frozen:
            model(torch.rand(2, 3, 16, 16)).sum().backward()
        before = _state(model)
        kind(model)(torch.rand(2, 3, 32, 32))
        _assert_same(before, _state(model))

    def test_it_has_an_identity_and_travels_to_workers(self, kind: Any) -> None:
        """Made from a recipe, it pickles small and its identity survives."""
        saliency = kind("foveate.testing:tiny_classifier")
        images = torch.rand(1, 3, 32, 32)
        expected = saliency(images)
        data = pickle.dumps(saliency)
        assert len(data) < 4000
        restored = pickle.loads(data)
        assert torch.equal(restored(images), expected)
        assert identity(restored) == identity(saliency) == identity(kind("foveate.testing:tiny_classifier"))

    def test_it_guides_a_prefilter(self, kind: Any) -> None:
        """A pre-filter accepts its maps."""
        compressor = Compressor("jpeg:30", Prefilter(kind(tiny_classifier()), 0.5))
        encoded = compressor.encode((torch.rand(2, 3, 40, 56) * 255).byte())
        assert [image.size for image in encoded] == [(40, 56)] * 2


def _state(model: nn.Module) -> dict[str, list[Any]]:
    """Return everything that a call must not change."""
    return {
        "mode": [m.training for m in model.modules()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "tensors": [t.clone() for t in model.state_dict().values()],
        "hooks": [len(hooks) for m in model.modules() for name, hooks in vars(m).items() if name.endswith("_hooks")],
    }


def _assert_same(before: dict[str, list[Any]], after: dict[str, list[Any]]) -> None:
    for key, values in before.items():
        for a, b in zip(values, after[key], strict=True):
            assert torch.equal(a, b) if isinstance(a, Tensor) else a == b, key
