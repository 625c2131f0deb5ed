"""What a thing is, as a text: the same for equals, and another for all that acts otherwise."""

import dataclasses
import enum
import functools
import os
import subprocess
import sys
import textwrap
from collections import OrderedDict, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from foveate.identity import IdentityError, describe, identity, in_memory, structure
from foveate.models import Preprocess

SCALE = 2.0


def scaled(images):
    return images * SCALE


def halved(images):
    return images / 2


def twice(function):
    @functools.wraps(function)
    def both(images):
        return function(function(images))

    return both


@twice
def quartered(images):
    return images / 2


def factory(factor):
    return lambda images: images * factor


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Gain:
    factor: float = 2.0

    def __call__(self, images):
        return images * self.factor


@dataclasses.dataclass
class Louder(Gain):
    def __call__(self, images):
        return images * self.factor * 2


class Stateful:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, images):
        return images * self.factor


class WithIdentity(Stateful):
    @property
    def identity(self):
        return f"WithIdentity({self.factor})"


class Net(nn.Module):
    def __init__(self, flip=False, act=None):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.flip = flip
        self.act = act
        self.itself = (self,)  # a cycle
        nn.init.ones_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x):
        x = self.conv(x.flip(-1) if self.flip else x)
        return x if self.act is None else self.act(x)


class Forked(Net):
    def forward(self, x):
        return -super().forward(x)


def hooked(hook):
    net = Net()
    net.conv.register_forward_hook(hook)
    return net


def changed(net, name):
    with torch.no_grad():
        net.get_parameter(name).view(-1)[0].add_(1)
    return net


def buffered(value, persistent=True):
    net = Net()
    net.register_buffer("scale", torch.tensor(value), persistent)
    return net


Pair = namedtuple("Pair", "a b")

# Pairs of which each side is told from the other, and from itself by nothing.
DIFFERENT = {
    "numbers": lambda: (1, 1.0),
    "numpy numbers": lambda: (np.float32(1), np.float64(1)),
    "tensors": lambda: (torch.zeros(3), torch.ones(3)),
    "shapes": lambda: (torch.zeros(2, 3), torch.zeros(3, 2)),
    "arrays": lambda: (np.zeros(3), np.ones(3)),
    "lists": lambda: ([1, 2], [2, 1]),
    "mappings": lambda: ({"a": 1}, {"a": 2}),
    "ordered": lambda: (OrderedDict(a=1), {"a": 1}),
    "named tuples": lambda: (Pair(1, 2), (1, 2)),
    "paths": lambda: (Path("a"), Path("b")),
    "dataclasses": lambda: (Gain(1.0), Gain(2.0)),
    "inherited dataclasses": lambda: (Gain(1.0), Louder(1.0)),
    "preprocessing": lambda: (Preprocess(crop=8), Preprocess(crop=9)),
    "functions": lambda: (scaled, halved),
    "wrapped functions": lambda: (halved, quartered),
    "partials": lambda: (functools.partial(halved, images=1), functools.partial(halved, images=2)),
    "nested partials": lambda: (functools.partial(Gain(1.0)), functools.partial(Gain(3.0))),
    "bound methods": lambda: (Gain(1.0).__call__, Gain(2.0).__call__),
    "own identity": lambda: (WithIdentity(1), WithIdentity(2)),
    "in containers": lambda: ([WithIdentity(1)], [WithIdentity(2)]),
    "classes": lambda: (Stateful, WithIdentity),
    "normalisations": lambda: (v2.Normalize([0.5], [0.5]), v2.Normalize([0.5], [0.25])),
    "first version": lambda: (v2.Normalize([0.5], [0.5]), __import__("torchvision").transforms.Normalize([0.5], [0.5])),
    "chains": lambda: (v2.Compose([v2.CenterCrop(8)]), v2.Compose([v2.CenterCrop(9)])),
    "chains of lambdas": lambda: (v2.Compose([factory(1)]), v2.Compose([factory(2)])),
    "settings of networks": lambda: (Net(False), Net(True)),
    "code of networks": lambda: (Net(), Forked()),
    "functions of networks": lambda: (Net(act=torch.relu), Net(act=torch.sigmoid)),
    "lambdas of networks": lambda: (Net(act=factory(1)), Net(act=factory(2))),
    "objects of networks": lambda: (Net(act=Stateful(1)), Net(act=Stateful(2))),
    "hooks": lambda: (hooked(lambda *_: None), hooked(lambda m, i, o: -o)),
    "weights": lambda: (Net(), changed(Net(), "conv.weight")),
    "biases": lambda: (Net(), changed(Net(), "conv.bias")),
    "buffers": lambda: (buffered(1.0), buffered(2.0)),
    "buffers that are not saved": lambda: (buffered(1.0, False), buffered(2.0, False)),
    "scripted": lambda: (torch.jit.script(nn.Linear(2, 2)), torch.jit.script(nn.Linear(2, 2))),
    "traced graphs": lambda: (torch.fx.symbolic_trace(nn.ReLU()), torch.fx.symbolic_trace(nn.Sigmoid())),
}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("pair", DIFFERENT)
def test_what_differs_has_another_identity_and_what_is_equal_the_same(pair):
    a, b = DIFFERENT[pair]()
    assert identity(a) != identity(b)
    assert identity(a) == identity(a)
    assert "\n" not in identity(a)
    if pair != "scripted":  # whose weights are drawn anew
        assert identity(DIFFERENT[pair]()[0]) == identity(a)
        assert identity(DIFFERENT[pair]()[1]) == identity(b)


@pytest.mark.parametrize(
    "thing",
    [
        lambda images: images,
        factory(2),
        Stateful(2),
        functools.partial(lambda x: x),
        functools.partial(Stateful(1)),
        [Stateful(1)],
        {"reduce": factory(1)},
        Gain(factory(1)),
        Stateful(2).__call__,
        object(),
        np.array([object()]),
    ],
)
def test_what_cannot_be_told_apart_is_refused_and_unique_in_memory(thing):
    with pytest.raises(IdentityError, match="property `identity`|no values to tell it by"):
        identity(thing)
    assert in_memory(thing) == in_memory(thing)
    assert in_memory(factory(1)) != in_memory(thing)


def test_the_error_says_where_it_is():
    with pytest.raises(IdentityError, match=r"saliency\.factor\[1\]"):
        identity(Gain([1, factory(2)]), "saliency")


def test_an_identity_that_is_no_text_is_refused():
    class Method:
        def identity(self):
            return "called"

    with pytest.raises(IdentityError, match="property"):
        identity(Method())


def test_a_layer_called_identity_is_a_layer():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.identity = nn.Identity()

    assert identity(Block()) == identity(Block())


def test_what_does_not_change_the_answers_does_not_change_the_identity():
    net = Net()
    before = identity(net)
    net.train()
    net(torch.rand(1, 3, 8, 8)).sum().backward()
    net.requires_grad_(False)
    assert identity(net) == before
    assert identity(net.to(memory_format=torch.channels_last)) == before
    assert identity(torch.compile(net, backend="eager")) == before
    net.compile(backend="eager")
    assert identity(net) == before


def test_a_function_is_told_by_the_settings_that_it_reads(monkeypatch):
    before = identity(scaled)
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert identity(scaled) != before


def test_shared_and_equal_parts_count_alike():
    gain = Gain(3.0)
    assert identity([gain, gain]) == identity([Gain(3.0), Gain(3.0)])
    assert structure(Net(act=(gain, gain))) == structure(Net(act=(Gain(3.0), Gain(3.0))))


def test_describe_knows_subclasses_by_their_code():
    class Base:
        def __init__(self, at):
            self.at = at

        @property
        def identity(self):
            return describe(self, vars(self))

    class Other(Base):
        def __call__(self, images):
            return images

    assert Base(1).identity != Other(1).identity != Other(2).identity


def test_another_process_says_the_same(tmp_path):
    (tmp_path / "recipes_of_mine.py").write_text(
        textwrap.dedent(
            """
            import dataclasses, torch, torchvision
            from torchvision.transforms import v2

            WORDS = {"a", "b", "c", "d"}
            NORMALIZE = v2.Normalize([0.5], [0.5])

            def prepare(x, words=frozenset("xyz")):
                return NORMALIZE(x) if "a" in WORDS and x.ndim in {1, 2, 3} else x

            @dataclasses.dataclass
            class Gain:
                factor: float
                words: frozenset = frozenset("pqrs")

            def things():
                net = torchvision.models.resnet18(weights=None)
                for parameter in net.parameters():
                    torch.nn.init.constant_(parameter, 0.5)
                net.act = lambda x: x in {"u", "v", "w"}
                return [prepare, Gain(2.0), net, v2.Compose([v2.Lambda(lambda x: x), NORMALIZE])]
            """
        )
    )
    script = (
        "import recipes_of_mine; from foveate.identity import identity; "
        "print([*map(identity, recipes_of_mine.things())])"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1
