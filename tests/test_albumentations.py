import json
import pickle

import albumentations as A
import numpy as np
import PIL.Image
import pytest
import torch
from conftest import RECIPES
from torch.utils.data import DataLoader, Dataset

import foveate
from foveate import transforms
from foveate.images import as_tensor, to_array
from foveate.integrations.albumentations import Compress, Prefilter
from foveate.saliency import as_saliency
from foveate.testing import HostConformance

SALIENCY = {"model": f"{RECIPES}:tiny", "preprocess": {"resize": 64}}
MAKERS = {
    "Prefilter": lambda **settings: Prefilter(SALIENCY, strength=(0.3, 0.9), sigma=24, **settings),
    "Compress": lambda **settings: Compress("jpeg", quality=(5, 60), **settings),
    "Compress filtered": lambda **settings: Compress(
        "webp", quality=(5, 60), saliency=f"{RECIPES}:tiny", strength=(0.2, 0.8), scale=0.7, **settings
    ),
}
IMAGES = {
    "uint8": lambda: to_array(torch.rand(3, 21, 34)),
    "uint8 gray": lambda: to_array(torch.rand(1, 21, 34)),
    "uint8 flat": lambda: to_array(torch.rand(1, 21, 34))[..., 0],
    "float32": lambda: torch.rand(21, 34, 3).numpy(),
    "float32 flat": lambda: torch.rand(21, 34).numpy(),
    "strided": lambda: to_array(torch.rand(3, 34, 42))[:, ::2].transpose(1, 0, 2),
    "read-only": lambda: np.asarray(PIL.Image.fromarray(to_array(torch.rand(3, 21, 34)))),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
class TestConformance:
    @pytest.mark.parametrize("pickled", [False, True])
    @pytest.mark.parametrize("make_image", IMAGES.values(), ids=list(IMAGES))
    def test_images_change_and_nothing_else_does(self, make, make_image, pickled):
        chain, nothing = (
            A.Compose(
                [transform],
                bbox_params=A.BboxParams("pascal_voc", label_fields=["labels"]),
                keypoint_params=A.KeypointParams("xy"),
            )
            for transform in (make(), A.NoOp())
        )
        chain = pickle.loads(pickle.dumps(chain)) if pickled else chain
        image = make_image()
        before = image.copy()
        mask = np.arange(21 * 34).reshape(21, 34) % 3
        others = {"mask": mask, "masks": mask[None], "bboxes": np.array([[1.0, 2, 8, 9]]), "labels": ["sign"]}
        others["keypoints"] = np.array([[3.0, 4.0]])
        out, expected = chain(image=image, **others), nothing(image=image, **others)
        assert (out["image"].shape, out["image"].dtype) == (image.shape, image.dtype)
        assert not np.array_equal(out["image"], image)
        assert out["image"].flags["C_CONTIGUOUS"]
        assert np.array_equal(image, before)
        assert all(np.array_equal(out[key], expected[key]) for key in others)

    @pytest.mark.parametrize("kind", ["dict", "json", "yaml"])
    def test_serialization(self, make, kind, tmp_path):
        chain, image = A.Compose([A.HorizontalFlip(p=1), make(p=0.9)]), IMAGES["uint8"]()
        if kind == "dict":
            again = A.from_dict(json.loads(json.dumps(A.to_dict(chain))))
        else:
            A.save(chain, tmp_path / "chain", data_format=kind)
            again = A.load(tmp_path / "chain", data_format=kind)
        assert repr(again[1]) == repr(chain[1])
        assert again[1].p == 0.9
        torch.manual_seed(3)
        expected = chain(image=image)["image"]
        torch.manual_seed(3)
        assert np.array_equal(again(image=image)["image"], expected)

    def test_replay(self, make):
        chain, image = A.ReplayCompose([make()]), IMAGES["uint8"]()
        out = chain(image=image)
        replay = json.loads(json.dumps(out["replay"], default=lambda a: a.tolist()))
        for saved in (out["replay"], replay):
            assert np.array_equal(A.ReplayCompose.replay(saved, image=image)["image"], out["image"])

    def test_draws_are_torch_s(self, make):
        chain, image = A.Compose([make(p=0.5)], seed=5), IMAGES["uint8"]()
        torch.manual_seed(5)
        first = [chain(image=image)["image"] for _ in range(12)]
        torch.manual_seed(5)
        assert all(np.array_equal(chain(image=image)["image"], output) for output in first)
        touched = [not np.array_equal(output, image) for output in first]
        assert 0 < sum(touched) < 12
        assert len({output.tobytes() for output in first}) > 3

    def test_images_and_volumes(self, make):
        images = np.stack([IMAGES["uint8"]() for _ in range(3)])
        for key in ("images", "volume"):
            torch.manual_seed(5)
            out = make()(**{key: images})[key]
            torch.manual_seed(5)
            assert np.abs(out[0].astype(int) - make()(image=images[0])["image"]).max() <= 1
            assert out.shape == images.shape
        assert A.Compose([make()])(images=images)["images"].shape == images.shape

    def test_is_applied_always_by_default(self, make):
        assert make().p == 1
        image = IMAGES["uint8"]()
        assert make(p=0)(image=image)["image"] is image

    def test_what_is_not_an_image(self, make):
        with pytest.raises(ValueError, match="3 or 1"):
            make()(image=np.zeros((8, 8, 4), np.uint8))
        with pytest.raises(ValueError, match="normalization"):
            make()(image=np.full((8, 8, 3), 2, np.float32))

    def test_unknown_arguments(self, make):
        with pytest.warns(UserWarning, match="color"):
            make(color=3)
        with pytest.raises(ValueError, match="color"):
            make(color=3, strict=True)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Prefilter(), ValueError, "saliency"),
        (lambda: Prefilter(foveate.GradCam("resnet18")), ValueError, "saliency"),
        (lambda: Prefilter("resnet18", strength=2), ValueError, "strength"),
        (lambda: Prefilter("resnet18", strength=(0.5, 0.1)), ValueError, "strength"),
        (lambda: Prefilter("resnet18", filter="median"), ValueError, "blend"),
        (lambda: Compress("gif"), ValueError, "gif"),
        (lambda: Compress("jpeg", quality=(60, 20)), ValueError, "smaller number first"),
        (lambda: Compress("jpeg", quality=0.5), TypeError, "integer"),
        (lambda: Compress(strength=0.5), ValueError, "without"),
        (lambda: Compress(prefilter={"sigma": 2.0}), ValueError, "nothing makes them"),
        (lambda: Compress(target={"bpp": 0.5, "bytes": 9}), ValueError, "bytes, bpp"),
        (lambda: Compress(target=foveate.TargetSize(bpp=0.5)), ValueError, "target"),
        (lambda: Compress(prefilter={"saliency": "resnet18", "strength": 2}), ValueError, "strength"),
        (lambda: Compress(control={"witnesses": []}), ValueError, "at least one classifier"),
        (lambda: Compress(quality=30, control={"witnesses": "resnet18"}), ValueError, "the control chooses"),
        (lambda: Compress(p=2), ValueError, "p"),
    ],
)
def test_wrong_settings(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_they_do_what_torchvision_s_do(photo):
    image = to_array(photo)
    prefilter = foveate.Prefilter(as_saliency(SALIENCY), 0.6, sigma=6)
    out = Prefilter(SALIENCY, strength=0.6, sigma=6)(image=image)["image"]
    assert np.array_equal(out, to_array(transforms.Prefilter(prefilter)(photo)))
    expected = to_array(transforms.Compress("jpeg:20", prefilter=prefilter)(photo))
    settings = {"strength": 0.6, "sigma": 6}
    for arguments in (
        {"prefilter": {"saliency": SALIENCY, **settings}},
        {"prefilter": settings, "saliency": SALIENCY},
        {"prefilter": {"sigma": 6}, "saliency": SALIENCY, "strength": 0.6},
    ):
        assert np.array_equal(Compress("jpeg:20", **arguments)(image=image)["image"], expected)


class TestHost(HostConformance):
    """What the Compress of every host does."""

    make = staticmethod(Compress)
    call = staticmethod(lambda transform, image: transform(image=image)["image"])


class TestControl:
    """A mapping stands for a control, so that a file can hold it."""

    control = {"witnesses": f"{RECIPES}:tiny", "keep": "kl0.3", "qualities": [10, 40], "scales": [1.0, 0.5]}  # noqa: RUF012

    def test_it_chooses_as_a_compressor_s(self, photo):
        compressor = foveate.Compressor("jpeg", control=foveate.RateControl(**self.control))
        expected = to_array(compressor.decode(compressor.encode(photo[None]))[0])
        transform = Compress("jpeg", control=self.control)
        for again in (transform, A.from_dict(json.loads(json.dumps(A.to_dict(transform))))):
            assert np.array_equal(again(image=to_array(photo))["image"], expected)

    def test_it_chooses_strengths_by_maps(self, photo):
        control = {**self.control, "strengths": [0.9]}
        by_control = Compress("jpeg", saliency=SALIENCY, control=control)
        compressor = foveate.Compressor(
            "jpeg", foveate.Prefilter(as_saliency(SALIENCY)), control=foveate.RateControl(**control)
        )
        expected = to_array(compressor.decode(compressor.encode(photo[None]))[0])
        assert np.array_equal(by_control(image=to_array(photo))["image"], expected)

    def test_a_replay_draws_nothing(self, photo):
        chain, image = A.ReplayCompose([Compress("jpeg", control=self.control)]), to_array(photo)
        out = chain(image=image)
        assert np.array_equal(A.ReplayCompose.replay(out["replay"], image=image)["image"], out["image"])


class Samples(Dataset):
    def __init__(self, chain):
        self.chain, self.image = chain, np.asarray(torch.rand(40, 40, 3))

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return as_tensor((self.chain(image=self.image)["image"] * 255).round().astype(np.uint8))


@pytest.mark.parametrize("persistent", [False, True])
def test_draws_differ_in_each_worker_and_epoch(persistent):
    chain = A.Compose([Compress("jpeg", quality=(1, 95))], seed=1)
    loader = DataLoader(Samples(chain), 1, num_workers=2, persistent_workers=persistent)
    epochs = [[image.numpy().tobytes() for image in loader] for _ in range(2)]
    workers = [set(epoch[k::2]) for epoch in epochs for k in range(2)]
    assert all(len(drawn) > 1 for drawn in workers)
    assert all(a != b for k, a in enumerate(workers) for b in workers[:k])
    torch.manual_seed(7)
    first = [image.numpy().tobytes() for image in DataLoader(Samples(chain), 1, num_workers=2)]
    torch.manual_seed(7)
    assert first == [image.numpy().tobytes() for image in DataLoader(Samples(chain), 1, num_workers=2)]
