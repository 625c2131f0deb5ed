"""torchvision's own pattern for its v2 transforms, and what else a chain of them may hand on."""

import collections
import pathlib
import pickle
import random

import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

import foveate
from foveate.demo import PREPROCESS
from foveate.images import to_array
from foveate.transforms import Compress, Prefilter

SIZE = (24, 34)
Sample = collections.namedtuple("Sample", ["image", "label"])
POINTS = tv_tensors.KeyPoints(torch.tensor([[3, 4]]), canvas_size=SIZE) if hasattr(tv_tensors, "KeyPoints") else 4


def prefilter(strength=0.5, **more):
    return foveate.Prefilter(foveate.GradCam("foveate.demo:scene_net", preprocess=PREPROCESS), strength, **more)


MAKERS = {
    "Prefilter": lambda: Prefilter(prefilter(sigma=24), strength=(0.4, 0.8)),
    "Compress": lambda: Compress("jpeg", quality=(20, 60)),
    "Compress filtered": lambda: Compress("webp:30", prefilter=prefilter(), strength=(0.2, 0.8), scale=0.7),
}
every_transform = pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))

IMAGES = {
    "image": lambda: tv_tensors.Image(torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)),
    "gray image": lambda: tv_tensors.Image(torch.rand(1, *SIZE)),
    "images": lambda: tv_tensors.Image(torch.rand(2, 3, *SIZE)),
    "video": lambda: tv_tensors.Video(torch.randint(0, 256, (3, 3, *SIZE), dtype=torch.uint8)),
    "PIL": lambda: PIL.Image.fromarray(to_array(torch.rand(3, *SIZE))),
    "PIL gray": lambda: PIL.Image.fromarray(to_array(torch.rand(1, *SIZE))[..., 0]),
    "tensor": lambda: torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8),
    "float tensor": lambda: torch.rand(3, *SIZE),
    "half tensor": lambda: torch.rand(3, *SIZE).half(),
    "bfloat16 tensor": lambda: torch.rand(3, *SIZE).bfloat16(),
    "double tensor": lambda: torch.rand(3, *SIZE).double(),
}


def others():
    return {
        "boxes": tv_tensors.BoundingBoxes(torch.tensor([[1, 2, 8, 9], [0, 0, 0, 0]]), format="XYXY", canvas_size=SIZE),
        "detection": tv_tensors.Mask(torch.randint(0, 2, (2, *SIZE), dtype=torch.uint8)),
        "segmentation": tv_tensors.Mask(torch.randint(0, 9, SIZE, dtype=torch.uint8)),
        "points": POINTS,
        "int": 0,
        "float": 0.0,
        "bool": True,
        "none": None,
        "str": "str",
        "path": pathlib.Path("a.png"),
        "object": object(),
        "tensor": torch.arange(5.0),
        "array": np.arange(5.0),
        "image array": np.zeros((*SIZE, 3), np.uint8),
    }


def named(sample):
    return collections.namedtuple("Whole", [key.replace(" ", "_") for key in sample])(*sample.values())


CONTAINERS = {
    "dict": dict,
    "OrderedDict": collections.OrderedDict,
    "defaultdict": lambda sample: collections.defaultdict(list, sample),
    "list": lambda sample: [*sample.values()],
    "tuple": lambda sample: tuple(sample.values()),
    "namedtuple": named,
    "nested": lambda sample: {"deep": [sample, (sample["str"], collections.OrderedDict(a=sample["boxes"]))]},
}


def fingerprint(leaf):
    if isinstance(leaf, PIL.Image.Image):
        return leaf.tobytes()
    return leaf.clone().as_subclass(torch.Tensor) if isinstance(leaf, torch.Tensor) else leaf


def same(a, b):
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a is b or a == b


@every_transform
@pytest.mark.parametrize("pickled", [False, True], ids=["", "pickled"])
@pytest.mark.parametrize("container", CONTAINERS.values(), ids=list(CONTAINERS))
@pytest.mark.parametrize("image", IMAGES.values(), ids=list(IMAGES))
def test_samples(make, image, container, pickled):
    transform = pickle.loads(pickle.dumps(make())) if pickled else make()
    sample = container({"image": image(), **others()})
    before, spec = torch.utils._pytree.tree_flatten(sample)
    kept = [fingerprint(leaf) for leaf in before if not isinstance(leaf, np.ndarray)]
    out = transform(sample)
    after, spec_after = torch.utils._pytree.tree_flatten(out)
    assert spec_after == spec
    assert type(out) is type(sample)
    needed = v2.Transform()._needs_transform_list(before)
    images = 0
    for leaf, result, is_image in zip(before, after, needed, strict=True):
        if not is_image or not isinstance(leaf, (tv_tensors.Image, tv_tensors.Video, PIL.Image.Image)):
            images += is_image and isinstance(leaf, torch.Tensor) and leaf.ndim >= 3 and result is not leaf
            assert is_image or result is leaf
            continue
        images += 1
        assert type(result) is (PIL.Image.Image if isinstance(leaf, PIL.Image.Image) else type(leaf))
        assert v2.functional.get_size(result) == v2.functional.get_size(leaf)
        assert not same(fingerprint(result), fingerprint(leaf))
    assert images == 1
    unchanged = [fingerprint(leaf) for leaf in before if not isinstance(leaf, np.ndarray)]
    assert all(same(a, b) for a, b in zip(kept, unchanged, strict=True))


@every_transform
@pytest.mark.parametrize("image", [IMAGES[k] for k in ("image", "video", "PIL", "tensor")])
def test_several_arguments_are_as_one_tuple(make, image):
    transform, image, label = make(), image(), 3
    torch.manual_seed(3)
    apart = transform(image, label)
    torch.manual_seed(3)
    together = transform((image, label))
    assert type(apart) is tuple
    assert same(fingerprint(apart[0]), fingerprint(together[0]))


@every_transform
class TestWithoutAnImage:
    @pytest.mark.parametrize(
        ("sample", "words"),
        [
            (np.zeros((24, 34, 3), np.uint8), r"ndarray \(24, 34, 3\) uint8.*v2\.ToImage\(\)"),
            ({"image": np.zeros((24, 34, 3), np.float32), "label": 3}, r"ndarray \(24, 34, 3\) float32, int"),
            ((np.zeros((24, 34), np.uint8), torch.tensor(3)), r"ndarray.*Tensor \(\) torch\.int64"),
            ({"label": 3, "text": "sign"}, "got int, str"),
            (torch.zeros(24, 34), r"Tensor \(24, 34\) torch\.float32"),
            ({"boxes": others()["boxes"]}, "BoundingBoxes"),
            ([], "got nothing"),
            ("photo.jpg", "got str"),
        ],
        ids=lambda value: "",
    )
    def test_is_an_error_that_names_what_is_there(self, make, sample, words):
        with pytest.raises(TypeError, match=f"sample: expected a PIL image or a tensor.*{words}"):
            make()(sample)

    def test_the_cure_works(self, make):
        chain = v2.Compose([v2.ToImage(), make()])
        assert chain({"image": np.zeros((24, 34, 3), np.uint8), "label": 3})["image"].shape == (3, 24, 34)

    @pytest.mark.parametrize(
        ("image", "words"),
        [
            (lambda: PIL.Image.new("RGBA", (8, 8)), "RGBA.*convert"),
            (lambda: PIL.Image.new("LA", (8, 8)), "LA.*convert"),
            (lambda: torch.zeros(4, 8, 8, dtype=torch.uint8), "3 or 1.*got 4.*RGBA.*alpha"),
            (lambda: tv_tensors.Image(torch.zeros(4, 8, 8)), "RGBA.*alpha"),
            (lambda: tv_tensors.Video(torch.zeros(2, 4, 8, 8)), "RGBA.*alpha"),
            (lambda: torch.zeros(2, 8, 8, dtype=torch.uint8), "LA.*alpha"),
        ],
    )
    def test_an_alpha_channel_is_refused_by_name(self, make, image, words):
        with pytest.raises(ValueError, match=f"image: .*{words}"):
            make()(image())


class TestRate:
    transform = Compress("jpeg:30", return_rate=True)

    @pytest.mark.parametrize("kind", [dict, collections.OrderedDict, lambda s: collections.defaultdict(list, s)])
    def test_a_dict_keeps_its_type(self, kind):
        sample = kind({"image": IMAGES["image"](), "label": 3})
        out = self.transform(sample)
        assert type(out) is type(sample)
        assert list(out) == ["image", "label", "rate"]
        assert list(sample) == ["image", "label"]
        assert getattr(out, "default_factory", None) is getattr(sample, "default_factory", None)

    def test_a_namedtuple_is_given_beside_its_rate(self):
        sample, rate = self.transform(Sample(IMAGES["image"](), 3))
        assert type(sample) is Sample
        assert sample.label == 3
        assert rate["pixels"] == SIZE[0] * SIZE[1]
        collated, rates = default_collate([self.transform(Sample(IMAGES["image"](), k)) for k in range(2)])
        assert type(collated) is Sample
        assert rates["bytes"].shape == (2,)

    @pytest.mark.parametrize("leading", [(0,), (0, 3), (2, 0)])
    @pytest.mark.parametrize("make", [Compress, lambda **more: Compress("webp", prefilter=prefilter(), **more)])
    def test_of_no_images_is_a_tensor_of_their_leading_dimensions(self, leading, make):
        images = tv_tensors.Image(torch.zeros(*leading, 3, *SIZE))
        out, rate = make(return_rate=True)(images)
        assert (type(out), out.shape, out.dtype) == (tv_tensors.Image, images.shape, images.dtype)
        for counts in rate.values():
            assert (counts.shape, counts.dtype) == (leading, torch.int64)


class TestNumbers:
    @pytest.mark.parametrize("kind", [int, np.int64, np.uint8, torch.tensor, np.array])
    def test_qualities_of_any_kind(self, kind):
        assert Compress("jpeg", quality=kind(30)).draws.quality == (30, 30)
        pair = Compress("jpeg", quality=(kind(10), kind(40))).draws.quality
        assert pair == (10, 40)
        assert {type(end) for end in pair} == {int}
        assert repr(Compress("jpeg", quality=kind(30))) == repr(Compress("jpeg", quality=30))

    @pytest.mark.parametrize("kind", [float, np.float64, np.float32, torch.tensor, np.array])
    def test_strengths_of_any_kind(self, kind):
        for transform in (
            Prefilter(prefilter(), strength=kind(0.5)),
            Compress(prefilter=prefilter(), strength=kind(0.5)),
        ):
            assert transform.draws.strength == (0.5, 0.5)
        pair = Prefilter(prefilter(), strength=[kind(0.25), kind(0.5)]).draws.strength
        assert pair == (0.25, 0.5)
        assert {type(end) for end in pair} == {float}

    def test_a_range_is_an_array_too(self):
        assert Compress("jpeg", quality=np.array([10, 40])).draws.quality == (10, 40)
        assert Prefilter(prefilter(), strength=np.array([0.25, 0.5])).draws.strength == (0.25, 0.5)

    @pytest.mark.parametrize("quality", ["30", (10, "40"), (10, None), [], (1, 2, 3), {}, np.array([[1, 2]])])
    def test_what_is_not_a_quality(self, quality):
        with pytest.raises(ValueError, match="quality: expected a number or a pair of numbers"):
            Compress("jpeg", quality=quality)


@pytest.fixture
def double_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def drawn_with(transform, image):
    torch.manual_seed(11)
    return transform(image)


@every_transform
@pytest.mark.parametrize("image", IMAGES.values(), ids=list(IMAGES))
class TestSettingsOfTorch:
    def test_autocast_changes_nothing(self, make, image):
        transform, image = make(), image()
        expected = drawn_with(transform, image)
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype=dtype):
                out = drawn_with(transform, image)
            assert same(fingerprint(out), fingerprint(expected))

    def test_double_by_default(self, make, image, double_by_default):
        transform, image = make(), image()
        out = drawn_with(transform, image)
        torch.set_default_dtype(torch.float32)
        expected = drawn_with(transform, image)
        assert type(out) is type(expected)
        a, b = (v2.functional.to_image(x).double() for x in (out, expected))
        # A draw in another precision may end on the other side of a rounding.
        assert (a - b).abs().mean() < 0.02 * max(1, b.max())
        assert getattr(out, "dtype", None) == getattr(image, "dtype", None)


@every_transform
def test_no_generator_but_torch_s_is_drawn_from(make):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002

    before = states()
    make()(torch.rand(3, *SIZE))
    assert states() == before
