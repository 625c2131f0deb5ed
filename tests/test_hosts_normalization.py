"""How the callbacks read a data set's normalization: all that is understood, and a refusal of all else."""

import functools
from typing import NamedTuple

import albumentations as A
import kornia.augmentation as K
import kornia.enhance
import numpy as np
import pytest
import torch
import torchvision
from lightning_modules import MEAN, STD, ColorImages, loader
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from torchvision import transforms as v1
from torchvision.transforms import v2

import foveate
from foveate.integrations.lightning._normalization import Normalization, chosen, normalization_of
from foveate.models import Preprocess
from foveate.transforms import Compress

NORMALIZATION = Normalization(MEAN, STD)


class Bare(Dataset):
    """A data set that keeps its transform under any name."""

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.zeros(3, 8, 8), 0


class OwnNormalize(nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x):
        return x * 2


OwnNormalize.__name__ = "Normalize"


class Overridden(v2.Normalize):
    def transform(self, inpt, params):
        return super().transform(inpt, params) * 2


class Preset(v2.Normalize):
    """The library's own formula, with numbers of its own."""

    def __init__(self):
        super().__init__(MEAN, STD)


class Step:
    """A transform of the user's that keeps the library's."""

    def __init__(self, inner):
        self._inner = inner

    def __call__(self, x):
        return self._inner(x)


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, x):
        return self.inner(x)


class ByClass(Bare):
    transform = v2.Normalize(MEAN, STD)


class Chains(NamedTuple):
    train: object
    label: object


def closure(inner):
    return lambda x: inner(x)


def normalize(x):
    return (x - x.mean()) / x.std()


normal = v2.Normalize(MEAN, STD)


@pytest.mark.parametrize(
    "transform",
    [
        v1.Normalize(MEAN, STD),
        normal,
        Preset(),
        v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD)]),
        v2.Compose([v2.Compose([v2.ToImage()]), v2.Compose([normal])]),
        A.Normalize(MEAN, STD),
        A.Normalize(MEAN, STD, max_pixel_value=1.0),
        A.Compose([A.HorizontalFlip(), A.Normalize(MEAN, STD)]),
        A.Sequential([A.Normalize(MEAN, STD)], p=1.0),
        K.Normalize(MEAN, STD),
        kornia.enhance.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
        kornia.enhance.Normalize(MEAN, STD),
        K.AugmentationSequential(K.RandomHorizontalFlip(), K.Normalize(MEAN, STD), data_keys=["input"]),
        K.ImageSequential(kornia.enhance.Normalize(torch.tensor(MEAN), torch.tensor(STD))),
        nn.Sequential(K.Normalize(torch.tensor([MEAN]), torch.tensor([STD]))),
        torchvision.transforms._presets.ImageClassification(crop_size=8, mean=MEAN, std=STD),
        Preprocess(8, mean=MEAN, std=STD),
        functools.partial(v1.functional.normalize, mean=MEAN, std=STD),
        functools.partial(v2.functional.normalize, mean=MEAN, std=STD, inplace=True),
        functools.partial(Step(normal)),
        functools.partial(lambda x, then: then(x), then=normal),
        Step(normal),
        Step(normal).__call__,
        Slotted(normal),
        closure(normal),
        v2.Lambda(closure(normal)),
        [v2.ToImage(), normal],
        {"train": v2.Compose([v2.RandomHorizontalFlip(), normal]), "val": normal, "label": str},
        Chains(normal, str),
    ],
    ids=lambda transform: type(transform).__name__,
)
@pytest.mark.parametrize("name", ["transform", "tf", "_aug", "preprocess"])
def test_understood_under_any_name(transform, name):
    read = normalization_of(DataLoader(Bare(**{name: transform}), 2))
    assert read.mean == pytest.approx(MEAN)
    assert read.std == pytest.approx(STD)


def test_understood_through_data_sets_and_loaders():
    assert normalization_of(loader()) == NORMALIZATION
    assert normalization_of([loader(), loader(8)]) == NORMALIZATION
    assert normalization_of({"a": loader(), "b": [loader(8)]}) == NORMALIZATION
    assert normalization_of(Subset(Bare(tf=normal), [0])) == NORMALIZATION
    assert normalization_of(ConcatDataset([ColorImages(), Bare(aug=normal)])) == NORMALIZATION
    assert normalization_of(ByClass()) == NORMALIZATION
    assert normalization_of(DataLoader(Bare(), collate_fn=closure(normal))) == NORMALIZATION
    folder = torchvision.datasets.FakeData(4, transform=normal)
    assert normalization_of(folder) == NORMALIZATION
    same = normalization_of(Bare(a=v2.Normalize([0.5], [0.25]), b=v2.Normalize([0.5] * 3, [0.25] * 3)))
    assert set(same.mean + same.std) == {0.5, 0.25}
    assert normalization_of(v2.Normalize([0.5] * 3, [0.25])) == Normalization((0.5,) * 3, (0.25,) * 3)


class Sampler:
    """Of a loader, which has no say in how images look."""

    def __init__(self):
        self.transform = v2.Normalize([0.1], [0.1])

    def __iter__(self):
        return iter(range(4))

    def __len__(self):
        return 4


@pytest.mark.parametrize(
    "data",
    [
        None,
        ColorImages(transform=lambda x: x),
        Bare(target_transform=v2.Normalize([0.5], [0.5]), target_tf=normalize),
        Bare(samples=[normal] * 1000),
        Bare(index=dict.fromkeys(range(1000), normal)),
        Bare(network=nn.Sequential(nn.Conv2d(3, 3, 1), normal), table=np.arange(4), mean=MEAN, std=STD),
        Bare(cam=foveate.GradCam("foveate.demo:scene_net", preprocess=normal)),
        Bare(tf=v2.Compose([Compress(prefilter=foveate.Prefilter(foveate.GradCam(nn.Identity(), preprocess=normal)))])),
        DataLoader(Bare(), sampler=Sampler()),
        Bare(names=["Normalize", "normalize"], kind=v2.Normalize, flips=v2.RandomApply([v2.Grayscale(3)], p=0.2)),
        Bare(flips=[A.HorizontalFlip(p=0.5), A.OneOf([A.Blur(), A.ToGray()])]),
        K.AugmentationSequential(K.RandomHorizontalFlip(p=0.5), data_keys=["input"], random_apply=True),
    ],
)
def test_nothing_is_read_where_there_is_nothing(data):
    assert normalization_of(data) is None


def test_a_data_set_that_holds_itself():
    data = Bare(tf=normal)
    data.parent, data.children = data, [data]
    assert normalization_of(data) == NORMALIZATION


def test_far_more_than_one_looks_through():
    table = {k: {j: [[j, k]] * 50 for j in range(90)} for k in range(90)}
    deep = []
    for _ in range(5000):
        deep = [deep]
    assert normalization_of(Bare(table=table, deep=deep, tf=normal)) == NORMALIZATION


two = v2.Normalize([0.5] * 3, [0.5] * 3)


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        *[
            (A.Compose([A.Normalize(normalization=mode)]), f"normalization='{mode}'")
            for mode in ("image", "image_per_channel", "min_max", "min_max_per_channel")
        ],
        (A.Normalize(max_pixel_value=1023.0), "max_pixel_value=1023"),
        (A.Normalize(p=0.5), "p=0.5"),
        (A.Compose([A.Normalize()], p=0.5), "p=0.5"),
        (A.Sequential([A.Normalize()]), "p=0.5"),
        (A.OneOf([A.Normalize(), A.ToFloat()], p=1), "OneOf"),
        (A.SomeOf([A.Normalize(), A.ToFloat()], n=1, p=1), "SomeOf"),
        (A.RandomOrder([A.Normalize(), A.ToFloat()], p=1), "RandomOrder"),
        (A.OneOrOther(A.Normalize(), A.ToFloat(), p=1), "OneOrOther"),
        (A.SelectiveChannelTransform([A.Normalize()], channels=(0,), p=1), "SelectiveChannelTransform"),
        (K.Normalize(MEAN, STD, p=0.5), "p=0.5"),
        (K.AugmentationSequential(K.Normalize(MEAN, STD), data_keys=["input"], random_apply=1), "random_apply"),
        (K.PatchSequential(K.Normalize(MEAN, STD), grid_size=(2, 2), patchwise_apply=False), "PatchSequential"),
        (K.Denormalize(MEAN, STD), "Denormalize"),
        (kornia.enhance.Denormalize(torch.tensor(MEAN), torch.tensor(STD)), "Denormalize"),
        (v1.RandomApply([normal], p=0.5), "RandomApply"),
        (v2.RandomApply([normal], p=0.5), "RandomApply"),
        (v2.RandomChoice([normal, two]), "by chance"),
        (v2.RandomChoice([normal, v2.Grayscale(3)]), "RandomChoice"),
        (v2.RandomOrder([normal, v2.Grayscale(3)]), "RandomOrder"),
        (v2.LinearTransformation(torch.eye(12), torch.zeros(12)), "LinearTransformation"),
        (v1.LinearTransformation(torch.eye(12), torch.zeros(12)), "LinearTransformation"),
        (v2.Compose([normal, two]), "one after another"),
        (v2.Compose([normal, normal]), "one after another"),
        (v2.Compose([normal, v2.Compose([two])]), "one after another"),
        (nn.Sequential(K.Normalize(MEAN, STD), K.Normalize(MEAN, STD)), "one after another"),
        (OwnNormalize(MEAN, STD), "OwnNormalize|Normalize"),
        (v2.Compose([Overridden(MEAN, STD)]), "Overridden"),
        (normalize, "normalize"),
        (functools.partial(normalize), "normalize"),
        (functools.partial(torch.nn.functional.normalize, dim=0), "normalize"),
        (functools.partial(v1.functional.normalize, mean=MEAN), "normalize"),
        (nn.InstanceNorm2d(3), "InstanceNorm2d"),
        (kornia.enhance.ZCAWhitening(), "ZCAWhitening"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_refused(transform, words):
    with pytest.raises(ValueError, match=f"mean, std: .*({words})") as caught:
        normalization_of(DataLoader(Bare(tf=transform), 2))
    assert "mean= and std=" in str(caught.value)
    assert "adapter=" in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        Bare(train_tf=normal, val_tf=two),
        Bare(tf={"train": normal, "val": two}),
        [Bare(tf=normal), Bare(tf=two)],
        Bare(tf=normal, inner=Bare(tf=two)),
        Bare(tf=K.Normalize(torch.rand(4, 3), torch.rand(4, 3) + 0.1)),
        Bare(tf=v2.Normalize([0.5] * 4, [0.5] * 4)),
    ],
)
def test_what_no_single_normalization_undoes(data):
    with pytest.raises(ValueError, match="mean, std"):
        normalization_of(data)


def test_a_collate_function_that_normalizes_once_more():
    with pytest.raises(ValueError, match="one after another"):
        normalization_of(DataLoader(Bare(tf=normal), collate_fn=closure(two)))


@pytest.mark.parametrize("kind", [np.float32, np.float64, torch.tensor, np.array, float])
def test_numbers_of_any_kind(kind):
    assert chosen(kind(0.5), kind(0.25)) == Normalization((0.5,), (0.25,))
    assert chosen([kind(0.5)] * 3, (kind(0.25),) * 3) == Normalization((0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize("wrong", ["0.5", ["0.5"], True, [[0.5]], None, object()])
def test_what_is_not_a_number(wrong):
    with pytest.raises(ValueError, match="mean"):
        chosen(wrong, 0.25)
