"""Conformance tests for the Compress of hosts."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import torch

from foveate.compressor import Compressor
from foveate.testing._images import noisy_image, psnr


class HostConformance:
    """Tests for a host's transform that compresses and decodes: subclass it and set ``make`` and ``call``.

    To test several at once, override the fixtures ``make_host`` and ``call_host``.

    Attributes:
        make: from the arguments that all hosts share (``codec``, and by name ``quality``, ``prefilter``, ``saliency``,
            ``strength``, ``scale``, ``target``, ``control``) to the transform, as a ``staticmethod``.
        call: from the transform and an image (H, W, 3) uint8 to the decoded image, (H, W, 3) uint8, as a
            ``staticmethod``.
        has_saliency: whether it has its own saliency, so that a strength alone is enough.
    """

    make: ClassVar[Any]
    call: ClassVar[Any]
    has_saliency: ClassVar[bool] = False

    @pytest.fixture
    def make_host(self) -> Any:
        """The function that makes the transform."""
        return self.make

    @pytest.fixture
    def call_host(self) -> Any:
        """The function that calls the transform."""
        return self.call

    def test_it_is_the_codec(self, make_host: Any, call_host: Any) -> None:
        """The result equals that of the codec's decoder."""
        image = noisy_image(61, 90)
        assert (call_host(make_host("jpeg:30"), image) == _through(Compressor("jpeg:30"), image)).all()
        assert (call_host(make_host("jpeg", quality=12), image) == _through(Compressor("jpeg:12"), image)).all()

    def test_the_scale(self, make_host: Any, call_host: Any) -> None:
        """A smaller image is stored and comes back at its original size."""
        image = noisy_image(61, 90)
        decoded = call_host(make_host("jpeg:60", scale=0.5), image)
        assert (decoded == _through(Compressor("jpeg:60", scale=0.5), image)).all()

    def test_the_target(self, make_host: Any, call_host: Any) -> None:
        """A target, given as a mapping, chooses the quality."""
        image = noisy_image(61, 90)
        fine, coarse = (call_host(make_host("jpeg", target={"bytes": size}), image) for size in (4000, 1200))
        assert psnr(fine, image) > psnr(coarse, image)

    def test_the_draw_is_of_torch_alone(self, make_host: Any, call_host: Any) -> None:
        """Seeding torch repeats the draw, and no other generator is used."""
        transform, image = make_host("jpeg", quality=(1, 95)), noisy_image(61, 90)
        numpy_state = np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002  (which must not move)
        decoded = []
        for seed in (1, 1, 2, 3, 4):
            torch.manual_seed(seed)
            decoded.append(call_host(transform, image))
        assert (decoded[0] == decoded[1]).all()
        assert any((decoded[0] != other).any() for other in decoded[2:])
        assert (np.random.get_state(legacy=False)["state"]["key"] == numpy_state).all()  # noqa: NPY002

    def test_the_input_is_not_touched(self, make_host: Any, call_host: Any) -> None:
        """The user's image is not changed."""
        image = noisy_image(61, 90)
        before = image.copy()
        call_host(make_host("jpeg:5"), image)
        assert (image == before).all()

    def test_all_arguments_but_the_first_are_by_name(self, make_host: Any) -> None:
        """All other arguments are keyword-only, in every host."""
        with pytest.raises(TypeError):
            make_host("jpeg", 30)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"codec": "jpeg", "quality": (60, 20)}, "smaller number first"),
            ({"codec": "jpeg", "quality": 200}, "quality"),
            ({"codec": "nothing"}, "there is no 'nothing'"),
            ({"codec": "jpeg", "scale": 0}, "scale"),
            ({"codec": "jpeg", "strength": 1.5}, "strength"),
            ({"codec": "jpeg", "target": {}}, "bytes, bpp"),
        ],
    )
    def test_wrong_arguments_are_named(self, make_host: Any, arguments: dict[str, Any], words: str) -> None:
        """Invalid arguments fail early, naming argument and value."""
        with pytest.raises(ValueError, match=words):
            make_host(**arguments)

    def test_a_strength_without_maps_is_refused(self, make_host: Any) -> None:
        """Smoothing needs maps."""
        if self.has_saliency:
            pytest.skip("this host has a saliency of its own")
        with pytest.raises(ValueError, match=r"strength: 0\.5 was given without"):
            make_host("jpeg", strength=0.5)


def _through(compressor: Compressor, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    decoded = compressor.decode(compressor.encode([image]))[0]
    array: npt.NDArray[np.uint8] = decoded.permute(1, 2, 0).numpy()
    return array
