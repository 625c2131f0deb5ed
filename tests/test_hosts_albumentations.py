"""Albumentations' own pattern for its transforms: serialization in every form, and what happens to each target."""

import json
import random

import albumentations as A
import numpy as np
import pytest
import torch

import foveate
from foveate.demo import PREPROCESS
from foveate.images import to_array
from foveate.integrations.albumentations import Compress, Prefilter

SALIENCY = {
    "model": "foveate.demo:scene_net",
    "preprocess": {"mean": list(PREPROCESS.mean), "std": list(PREPROCESS.std)},
}
# All arguments other than by default, so that a lost one shows.
MAKERS = {
    "Prefilter": lambda p=1.0: Prefilter(SALIENCY, strength=(0.8, 1.0), filter="scale-space", sigma=24, p=p),
    "Compress": lambda p=1.0: Compress("jpeg", quality=(5, 60), p=p),
    "Compress filtered": lambda p=1.0: Compress(
        "webp:20",
        quality=30,
        prefilter={"filter": "guided", "sigma": 2},
        saliency="foveate.demo:scene_net",
        strength=0.8,
        scale=0.7,
        p=p,
    ),
    "Compress to a size": lambda p=1.0: Compress("jpeg:5", target={"bpp": 0.9}, p=p),
    "Compress controlled": lambda p=1.0: Compress(
        control={"witnesses": "foveate.demo:scene_net", "qualities": [5, 30], "scales": [1.0]}, p=p
    ),
}
every_transform = pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))


def random_image(dtype=np.uint8, channels=3):
    image = torch.rand(channels, 24, 34)
    return to_array(image) if dtype == np.uint8 else image.movedim(0, -1).numpy().astype(dtype)


def drawn(chain, seed=3, **data):
    torch.manual_seed(seed)
    return chain(**data)


def through_dict(chain, tmp_path):
    return A.from_dict(A.to_dict(chain))


def through_json(chain, tmp_path):
    return A.from_dict(json.loads(json.dumps(A.to_dict(chain))))


def through_file(kind):
    def round_trip(chain, tmp_path):
        A.save(chain, tmp_path / f"chain.{kind}", data_format=kind)
        return A.load(tmp_path / f"chain.{kind}", data_format=kind)

    return round_trip


@every_transform
class TestSerialization:
    @pytest.mark.parametrize(
        "again", [through_dict, through_json, through_file("json"), through_file("yaml")], ids=lambda f: f.__name__
    )
    def test_there_and_back(self, make, again, tmp_path):
        for chain in (make(0.5), A.Compose([A.OneOf([make(0.5), A.NoOp()], p=1), A.HorizontalFlip(p=0)], seed=2)):
            other = again(chain, tmp_path)
            assert A.to_dict(other) == A.to_dict(chain)
            touched = []
            for seed in range(6):
                image, mask = random_image((np.uint8, np.float32)[seed % 2]), np.zeros((24, 34), np.uint8)
                if isinstance(chain, A.Compose):
                    for side in (chain, other):
                        side.set_random_seed(seed)
                a, b = (drawn(side, seed, image=image, mask=mask) for side in (chain, other))
                assert np.array_equal(a["image"], b["image"])
                assert np.array_equal(a["mask"], mask)
                touched.append(not np.array_equal(a["image"], image))
            assert 0 < sum(touched) < 6

    def test_every_argument_is_kept(self, make):
        transform = make()
        arguments = A.to_dict(transform)["transform"]
        for name in type(transform).InitSchema.model_fields.keys() - {"strict"}:
            assert arguments[name] == getattr(transform, name)

    def test_a_replay_is_the_same_image(self, make):
        chain = A.ReplayCompose([A.HorizontalFlip(p=0.5), make(0.5)])
        for seed in range(4):
            image = random_image()
            out = drawn(chain, seed, image=image)
            state = torch.get_rng_state()
            assert np.array_equal(A.ReplayCompose.replay(out["replay"], image=image)["image"], out["image"])
            assert torch.equal(torch.get_rng_state(), state)

    def test_draws_are_among_the_applied_parameters(self, make):
        chain = A.Compose([make()], save_applied_params=True)
        name, params = chain(image=random_image())["applied_transforms"][0]
        assert name == type(make()).__name__
        assert params["draw"].keys() <= {"quality", "strength"}
        assert json.loads(json.dumps(params["draw"])) == params["draw"]


@every_transform
class TestTargets:
    def test_they_are_those_of_an_image_only_transform(self, make):
        assert make()._targets == A.ImageOnlyTransform._targets

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("key", ["image", "images", "volume", "volumes"])
    def test_images_change_and_nothing_else_does(self, make, key, channels, dtype):
        leading = {"image": (), "images": (3,), "volume": (3,), "volumes": (2, 3)}[key]
        images = np.stack([random_image(dtype, channels) for _ in range(int(np.prod(leading)))])
        images = images.reshape(*leading, *images.shape[1:])
        data = {"mask": np.arange(24 * 34).reshape(24, 34) % 3, "labels": ["sign", "tree"]}
        data["masks"] = np.stack([data["mask"]] * 2)
        data["bboxes"] = np.array([[1.0, 2, 8, 9], [3, 3, 20, 20]])
        data["keypoints"] = np.array([[3.0, 4.0], [20.0, 1.0]])
        before, processors = images.copy(), {}
        if key != "volumes":  # beside which Albumentations itself takes neither boxes nor key points
            processors["bbox_params"] = A.BboxParams("pascal_voc", label_fields=["labels"])
            processors["keypoint_params"] = A.KeypointParams("xy", remove_invisible=False)
        chain, nothing = (A.Compose([transform], **processors) for transform in (make(), A.NoOp()))
        out, expected = chain(**{key: images}, **data), nothing(**{key: images}, **data)
        assert (out[key].shape, out[key].dtype) == (images.shape, images.dtype)
        assert not np.array_equal(out[key], images)
        assert np.array_equal(images, before)
        for name in data:
            assert type(out[name]) is type(expected[name])
            assert np.array_equal(out[name], expected[name])

    def test_additional_targets_have_the_same_draw(self, make):
        chain = A.Compose([make()], additional_targets={"image2": "image", "mask2": "mask"})
        image, mask = random_image(), np.ones((24, 34), np.uint8)
        out = chain(image=image, image2=image, mask2=mask)
        assert np.array_equal(out["image"], out["image2"])
        assert not np.array_equal(out["image"], image)
        assert np.array_equal(out["mask2"], mask)

    @pytest.mark.parametrize("key", ["images", "volume"])
    def test_no_images_are_refused_or_come_back(self, make, key):
        out = make().apply_to_images(np.zeros((0, 24, 34, 3), np.uint8))
        assert out.shape == (0, 24, 34, 3)

    @pytest.mark.parametrize(
        ("data", "error", "words"),
        [
            ({"mask": np.zeros((8, 8))}, TypeError, "image: expected image=.*got mask"),
            ({}, TypeError, "image: expected image=.*got nothing"),
            ({"image": torch.zeros(3, 8, 8)}, TypeError, "image: expected an array.*got Tensor"),
            ({"image": [[1]]}, TypeError, "image: expected an array.*got list"),
            ({"image": None}, TypeError, "image: expected an array.*got NoneType"),
            ({"image": np.zeros((8, 8, 3), np.int32)}, TypeError, "int32"),
            ({"image": np.zeros((3, 8, 8), np.uint8)}, ValueError, "image: expected shape"),
            ({"image": np.zeros((8, 8, 4), np.uint8)}, ValueError, r"image: .*RGBA.*image\[\.\.\., :3\]"),
            ({"image": np.zeros((8, 8, 2), np.float32)}, ValueError, r"image: .*LA.*alpha"),
            ({"volume": np.zeros((2, 8, 8, 4), np.uint8)}, ValueError, "image: .*RGBA"),
            ({"image": np.full((8, 8, 3), np.nan, np.float32)}, ValueError, "image: "),
        ],
    )
    def test_what_is_not_an_image(self, make, data, error, words):
        with pytest.raises(error, match=words):
            make()(**data)


class TestNumbers:
    @pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array, torch.tensor])
    def test_qualities_of_any_kind_are_json_able(self, kind):
        for quality in (kind(30), (kind(10), kind(30)), [kind(10), kind(30)]):
            transform = Compress("jpeg", quality=quality)
            again = A.from_dict(json.loads(json.dumps(A.to_dict(transform))))
            assert again._draws.quality == transform._draws.quality
            assert {type(end) for end in again._draws.quality} == {int}

    @pytest.mark.parametrize("kind", [np.float32, np.float64, np.array, torch.tensor])
    def test_strengths_and_other_numbers_of_any_kind_are_json_able(self, kind):
        half, settings = kind(0.5), {"sigma": kind(1.5), "strength": kind(0.5)}
        transform = Compress(
            "jpeg", saliency="foveate.demo:scene_net", prefilter=settings, strength=half, scale=half, p=half
        )
        saved = json.loads(json.dumps(A.to_dict(transform)))["transform"]
        assert (saved["strength"], saved["scale"], saved["p"]) == (0.5, 0.5, 0.5)
        assert saved["prefilter"] == {"sigma": 1.5, "strength": 0.5}
        pair = Prefilter("foveate.demo:scene_net", strength=(kind(0.25), kind(0.5)), sigma=kind(1.5))
        saved = json.loads(json.dumps(A.to_dict(pair)))["transform"]
        assert (saved["strength"], saved["sigma"]) == ([0.25, 0.5], 1.5)


@every_transform
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.float16])
class TestSettingsOfTorch:
    def test_autocast_changes_nothing(self, make, dtype):
        transform, image = make(), random_image(dtype)
        expected = drawn(transform, image=image)["image"]
        assert expected.dtype == dtype
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert np.array_equal(drawn(transform, image=image)["image"], expected)

    def test_double_by_default(self, make, dtype):
        transform, image = make(), random_image(dtype)
        torch.set_default_dtype(torch.float64)
        try:
            out = drawn(transform, image=image)["image"]
        finally:
            torch.set_default_dtype(torch.float32)
        assert (out.shape, out.dtype) == (image.shape, image.dtype)
        assert not np.array_equal(out, image)


@every_transform
def test_no_generator_but_torch_s_is_drawn_from(make):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002

    before = states()
    make()(image=random_image())
    assert states() == before


def test_the_preprocessing_of_a_saliency_is_not_read_as_the_chain_s():
    """What our saliency does to its images is not what the chain does."""
    from foveate.integrations.lightning._normalization import normalization_of

    cam = {"model": "foveate.demo:scene_net", "preprocess": {"mean": [0.1] * 3, "std": [0.2] * 3}}
    chain = A.Compose([Prefilter(cam), A.Normalize((0.5,) * 3, (0.25,) * 3)])
    assert normalization_of(chain).mean == (0.5,) * 3
    assert isinstance(chain[0]._draws.prefilter, foveate.Prefilter)
