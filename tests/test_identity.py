"""Identities: equal for equal objects, different for objects that act differently."""

import dataclasses
import enum
import functools
import os
import subprocess
import sys
import textwrap
from collections import OrderedDict, namedtuple
from pathlib import Path

import captum.attr
import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics import MeanMetric
from torchvision.transforms import v2

from foveate import (
    ActivationMap,
    CaptumAttribution,
    Compressor,
    GradCam,
    Jpeg,
    Prefilter,
    RateControl,
    Witness,
)
from foveate.demo import PREPROCESS, Scenes, scene_net
from foveate.evaluation import Judge, evaluate
from foveate.export import cache_maps, compress_dataset
from foveate.identity import IdentityError, describe, identity, identity_in_memory, structure
from foveate.models import Classifier, Preprocess
from foveate.saliency import Center

NETWORK = "foveate.demo:scene_net"

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


class Stated:
    identity = "WithIdentity(1)"


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


@dataclasses.dataclass(frozen=True)
class Inverted(Jpeg):
    def _encode(self, image, saliency):
        return Jpeg._encode(self, 255 - image, saliency)


# Pairs whose identities differ from each other, but not from run to run.
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
    "stated identities": lambda: (WithIdentity(1), WithIdentity(2)),
    "in containers": lambda: ([WithIdentity(1)], [WithIdentity(2)]),
    "classes": lambda: (Stateful, WithIdentity),
    "normalizations": lambda: (v2.Normalize([0.5], [0.5]), v2.Normalize([0.5], [0.25])),
    "first version": lambda: (v2.Normalize([0.5], [0.5]), __import__("torchvision").transforms.Normalize([0.5], [0.5])),
    "chains": lambda: (v2.Compose([v2.CenterCrop(8)]), v2.Compose([v2.CenterCrop(9)])),
    "chains of lambdas": lambda: (v2.Compose([factory(1)]), v2.Compose([factory(2)])),
    "settings of networks": lambda: (Net(False), Net(True)),
    "code of networks": lambda: (Net(), Forked()),
    "functions of networks": lambda: (Net(act=torch.relu), Net(act=torch.sigmoid)),
    "lambdas of networks": lambda: (Net(act=factory(1)), Net(act=factory(2))),
    "objects of networks": lambda: (Net(act=Stateful(1)), Net(act=Stateful(2))),
    "order of layers": lambda: (
        nn.Sequential(OrderedDict(a=nn.ReLU(), b=nn.Tanh())),
        nn.Sequential(OrderedDict(b=nn.Tanh(), a=nn.ReLU())),
    ),
    "classes that state the same identity": lambda: (WithIdentity(1), Stated()),
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
def test_identities_differ_exactly_where_the_objects_do(pair):
    a, b = DIFFERENT[pair]()
    assert identity(a) != identity(b)
    assert identity(a) == identity(a)
    assert "\n" not in identity(a)
    if pair != "scripted":  # its weights are drawn at random
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
def test_objects_without_an_identity_are_refused_and_unique_in_memory(thing):
    with pytest.raises(IdentityError, match="property `identity`|no values to identify it by"):
        identity(thing)
    assert identity_in_memory(thing) == identity_in_memory(thing)
    assert identity_in_memory(factory(1)) != identity_in_memory(thing)


def test_the_error_says_where_it_is():
    with pytest.raises(IdentityError, match=r"saliency\.factor\[1\]"):
        identity(Gain([1, factory(2)]), "saliency")


def test_an_identity_that_is_not_a_text_is_refused():
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


def test_changes_without_effect_on_the_outputs_keep_the_identity():
    pytest.importorskip("lightning")  # its torch.compile leaves another attribute behind
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


def test_a_lightning_module_is_the_same_before_and_after_its_use():
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self, width=2):
            super().__init__()
            self.save_hyperparameters()
            self.net, self.metric = nn.Sequential(Net(), nn.Flatten(), nn.LazyLinear(3)), MeanMetric()
            self.net(torch.zeros(1, 3, 8, 8))

        def validation_step(self, batch, index):
            self.metric(self.net(batch).mean())
            self.log("mean", self.metric)

    module = Module()
    before = identity(module)
    settings = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(accelerator="cpu", enable_checkpointing=False, **settings)
    trainer.validate(module, torch.utils.data.DataLoader(torch.rand(4, 3, 8, 8), 2), verbose=False)
    assert identity(module) == before
    changed(module, "net.0.conv.bias")
    assert identity(module) != before


def test_the_settings_that_a_function_reads_are_part_of_its_identity(monkeypatch):
    before = identity(scaled)
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert identity(scaled) != before


def test_shared_and_equal_parts_count_alike():
    gain = Gain(3.0)
    assert identity([gain, gain]) == identity([Gain(3.0), Gain(3.0)])
    assert structure(Net(act=(gain, gain))) == structure(Net(act=(Gain(3.0), Gain(3.0))))


def test_describe_identifies_subclasses_by_their_code():
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


def test_another_process_gives_the_same(tmp_path):
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


class Lookalike:
    """A saliency with a state, but without an identity."""

    def __init__(self, side):
        self.side = side

    def __call__(self, images):
        maps = torch.zeros(len(images), 1, 4, 8)
        maps[..., :4] = self.side == "left"
        maps[..., 4:] = self.side == "right"
        return maps


class Identified(Lookalike):
    @property
    def identity(self):
        return f"Identified({self.side})"


class Darker:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, images):
        return images * self.factor


@dataclasses.dataclass(frozen=True)
class Shade:
    factor: float

    def __call__(self, images):
        return images * self.factor


class Strict:
    """A criterion with a state."""

    def __init__(self, least):
        self.least = least

    def __call__(self, clean, logits):
        return logits.softmax(1).amax(1) > self.least


def red(a):
    return a[:, :1]


def green(a):
    return a[:, 1:2]


def cam(**settings):
    return GradCam(NETWORK, **{"preprocess": PREPROCESS, **settings})


# Saliencies without an identity, wherever the cause is, and pairs that have one.
WITHOUT_IDENTITY = {
    "objects": lambda: Lookalike("left"),
    "lambdas": lambda: lambda images: images[:, :1] * 0,
    "closures": lambda: factory(0),
    "baselines of objects": lambda: Center(Lookalike("left")),
    "preprocessing by lambdas": lambda: cam(preprocess=lambda images: images),
    "preprocessing by objects": lambda: cam(preprocess=Darker(0.5)),
    "preprocessing by partials of objects": lambda: cam(preprocess=functools.partial(Darker(0.5))),
    "reduction by closures": lambda: ActivationMap(NETWORK, reduce=factory(1), preprocess=PREPROCESS),
    "arguments by objects": lambda: CaptumAttribution("Saliency", NETWORK, arguments=Darker(1), preprocess=PREPROCESS),
}
WITH_IDENTITY = {
    "objects": lambda: (Identified("left"), Identified("right")),
    "baselines of objects": lambda: (Center(Identified("left")), Center(Identified("right"))),
    "preprocessing by dataclasses": lambda: (cam(preprocess=Shade(0.5)), cam(preprocess=Shade(0.1))),
    "preprocessing by modules": lambda: (
        cam(preprocess=v2.Normalize([0.5] * 3, [0.2] * 3)),
        cam(preprocess=v2.Normalize([0.1] * 3, [0.9] * 3)),
    ),
    "preprocessing by partials": lambda: tuple(
        cam(preprocess=functools.partial(torch.clamp, max=m)) for m in (0.2, 0.8)
    ),
    "reduction by functions": lambda: tuple(
        ActivationMap(NETWORK, reduce=reduce, preprocess=PREPROCESS) for reduce in (red, green)
    ),
    "arguments": lambda: tuple(
        CaptumAttribution("IntegratedGradients", NETWORK, arguments={"n_steps": n}, preprocess=PREPROCESS)
        for n in (2, 4)
    ),
    "instances of captum's": lambda: tuple(
        CaptumAttribution(captum.attr.IntegratedGradients(scene_net(), multiply_by_inputs=m), preprocess=PREPROCESS)
        for m in (True, False)
    ),
    "subclasses": lambda: (Squared(NETWORK, preprocess=PREPROCESS), cam()),
    "state of subclasses": lambda: (
        Powered(2, NETWORK, preprocess=PREPROCESS),
        Powered(3, NETWORK, preprocess=PREPROCESS),
    ),
}


class Squared(GradCam):
    def __call__(self, images):
        return super().__call__(images) ** 2


class Powered(GradCam):
    def __init__(self, power, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.power = power

    def __call__(self, images):
        return super().__call__(images) ** self.power


def judge():
    return Judge(Classifier("net", scene_net(), PREPROCESS), known=False)


def points(saliency):
    return [Compressor("jpeg:20", Prefilter(saliency, 0.8))]


class TestOnDisk:
    @pytest.mark.parametrize("kind", WITHOUT_IDENTITY)
    def test_no_cache_without_an_identity(self, kind, tmp_path):
        with pytest.raises(IdentityError, match="property `identity`"):
            cache_maps(Scenes(1), tmp_path, WITHOUT_IDENTITY[kind]())
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("kind", WITHOUT_IDENTITY)
    def test_no_records_and_no_export_either(self, kind, tmp_path):
        with pytest.raises(IdentityError, match="property `identity`"):
            evaluate(Scenes(2), [judge()], points(WITHOUT_IDENTITY[kind]()), tmp_path / "out")
        with pytest.raises(IdentityError, match="property `identity`"):
            compress_dataset(Scenes(1), tmp_path / "small", points(WITHOUT_IDENTITY[kind]())[0], workers=0)
        assert not (tmp_path / "small").exists()

    @pytest.mark.parametrize("kind", WITH_IDENTITY)
    def test_a_cache_serves_no_other_s_maps(self, kind, tmp_path):
        first, second = WITH_IDENTITY[kind]()
        assert cache_maps(Scenes(2), tmp_path, first).computed == 2
        assert cache_maps(Scenes(2), tmp_path, second).computed == 2
        assert cache_maps(Scenes(2), tmp_path, WITH_IDENTITY[kind]()[0]).computed == 0

    def test_records_serve_no_other_s_figures(self, tmp_path):
        left, right = (points(saliency) for saliency in WITH_IDENTITY["objects"]())
        evaluate(Scenes(3), [judge()], left, tmp_path)
        with_records = evaluate(Scenes(3), [judge()], right, tmp_path)
        without = evaluate(Scenes(3), [judge()], right)
        assert torch.equal(with_records.measured.bytes, without.measured.bytes)
        assert not torch.equal(with_records.measured.bytes, evaluate(Scenes(3), [judge()], left).measured.bytes)

    def test_an_export_does_not_go_on_with_another(self, tmp_path):
        left, right = (points(saliency)[0] for saliency in WITH_IDENTITY["objects"]())
        compress_dataset(Scenes(1), tmp_path, left, workers=0)
        with pytest.raises(ValueError, match="was made with other settings"):
            compress_dataset(Scenes(2), tmp_path, right, workers=0)

    def test_controls_with_criteria_without_an_identity(self, tmp_path):
        control = RateControl(Witness(NETWORK, PREPROCESS), keep=Strict(0.9))
        with pytest.raises(IdentityError, match="keep: .*Strict.* property `identity`"):
            evaluate(Scenes(2), [judge()], [Compressor("jpeg", control=control)], tmp_path)

    @pytest.mark.parametrize(
        "thing",
        [
            lambda: type("Mine", (Classifier,), {"__module__": "mine"})("net", scene_net(), PREPROCESS),
            lambda: type("Mine", (Compressor,), {"__module__": "mine"})("jpeg"),
            lambda: type("Mine", (RateControl,), {"__module__": "mine"})(Witness(NETWORK, PREPROCESS)),
        ],
    )
    def test_a_subclass_that_inherits_an_identity_is_refused(self, thing):
        with pytest.raises(IdentityError, match="Mine: the `identity` that it inherits from"):
            identity(thing())

    def test_a_codec_of_the_same_name_is_another(self):
        @dataclasses.dataclass(frozen=True)
        class Mine(Jpeg):
            def _encode(self, image, saliency):
                return super()._encode(255 - image, saliency)

        with pytest.raises(IdentityError):  # it closes over its own class
            identity(Compressor(Mine(30)))
        assert identity(Compressor(Inverted(30))) != identity(Compressor(Jpeg(30)))

    def test_no_network_is_built_to_look_at_a_saliency(self):
        Prefilter(GradCam(f"{Path(__file__).parent / 'recipes.py'}:broken"))


class TestInMemory:
    def test_nothing_is_refused_and_nothing_mistaken_for_another(self):
        left, right = (Prefilter(Lookalike(side), strength) for side, strength in (("left", 0.8), ("right", 0.7)))
        together = evaluate(Scenes(3), [judge()], [Compressor("jpeg:20", left), Compressor("jpeg:20", right)])
        alone = [evaluate(Scenes(3), [judge()], [Compressor("jpeg:20", prefilter)]) for prefilter in (left, right)]
        assert torch.equal(together.measured.bytes, torch.cat([results.measured.bytes for results in alone]))
        assert not torch.equal(*together.measured.bytes)

    def test_points_that_results_cannot_tell_apart_are_refused(self):
        compressors = [point for side in ("left", "right") for point in points(Lookalike(side))]
        with pytest.raises(ValueError, match="two that differ are both 'jpeg, strength 0.8' at quality 20"):
            evaluate(Scenes(2), [judge()], compressors)

    def test_a_saliency_without_a_hash(self):
        @dataclasses.dataclass
        class Unhashable:
            side: str = "left"

            def __call__(self, images):
                return Lookalike(self.side)(images)

        results = evaluate(Scenes(2), [judge()], [*points(Unhashable()), Compressor("jpeg:20")])
        wanted = evaluate(Scenes(2), [judge()], [*points(Lookalike("left")), Compressor("jpeg:20")])
        assert torch.equal(results.measured.bytes, wanted.measured.bytes)

    def test_parts_of_the_protocol_that_an_object_has_are_used(self):
        class Partial(Lookalike):
            uses_labels = True
            moved_to = None

            def to(self, device):
                self.moved_to = device

        thing = Partial("left")
        assert Prefilter(thing).saliency.uses_labels
        Compressor("jpeg", Prefilter(thing)).to("cpu")
        assert thing.moved_to == "cpu"
        with pytest.raises(ValueError, match="make use of a label"):
            evaluate(Scenes(2), [judge()], points(Center(thing)))
