import copy
import csv
import importlib
import json
import math
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning_modules import MEAN, PACKAGES, STD, ColorImages, loader
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import foveate
from foveate.images import from_array, to_array
from foveate.integrations.lightning import (
    BatchCompressor,
    CompressionRobustness,
    SaliencyLogger,
    _figures,
)
from foveate.integrations.lightning._figures import _amplified as amplified
from foveate.integrations.lightning._normalization import Normalization
from foveate.integrations.lightning._robustness import METRICS
from foveate.integrations.lightning._saliency_logger import _labels_of as labels_of
from foveate.testing import HostConformance

POINTS = ["jpeg:2", "jpeg:40", "webp:20"]
CALLBACKS = {
    "CompressionRobustness": lambda **settings: CompressionRobustness(POINTS, **settings),
    "CompressionRobustness filtered": lambda **settings: CompressionRobustness(["jpeg:5"], strength=0.7, **settings),
    "SaliencyLogger": lambda **settings: SaliencyLogger(images=3, **settings),
}


@pytest.fixture(params=list(PACKAGES))
def package(request):
    return PACKAGES[request.param]


# For what does not depend on the package.
one_package = pytest.mark.parametrize("package", ["lightning.pytorch"], indirect=True)


def trainer(package, tmp_path, callbacks=(), **settings):
    defaults = {
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": tmp_path,
    }
    return package[0].Trainer(callbacks=list(callbacks), **{**defaults, **settings})


def by_hand(module, points=POINTS, length=16, strength=0.0, **settings):
    """Top-1, agreement and bits a pixel, an image at a time, without Lightning."""
    data = ColorImages(length, **settings)
    normalization, values = Normalization(MEAN, STD), {}
    prefilter = None
    if strength:
        prefilter = foveate.Prefilter(foveate.GradCam(module, preprocess=normalization), strength)
    module = module.eval()
    with torch.no_grad():
        clean = module(normalization(data.images / 255)).argmax(1)
        values["clean/top1"] = float((clean == data.labels).float().mean())
        for point in points:
            compressor = foveate.Compressor(point, prefilter)
            encoded = [compressor.encode([image])[0] for image in data.images]
            answers = torch.cat([module(normalization(p[None] / 255)).argmax(1) for p in compressor.decode(encoded)])
            values[f"{point}/top1"] = float((answers == data.labels).float().mean())
            values[f"{point}/agreement"] = float((answers == clean).float().mean())
            values[f"{point}/bpp"] = float(np.mean([e.bpp for e in encoded]))
            values[f"{point}/bytes"] = float(np.mean([len(e.data) for e in encoded]))
    return {f"robustness/{k}": v for k, v in values.items()}


def robustness(metrics):
    return {k: float(v) for k, v in metrics.items() if k.startswith("robustness/")}


@pytest.mark.parametrize("make", CALLBACKS.values(), ids=list(CALLBACKS))
class TestConformance:
    """What every callback does, in both packages; a new callback joins by one line above."""

    def test_both_packages_take_it(self, make, tmp_path):
        import lightning.pytorch
        import pytorch_lightning

        assert isinstance(make(), lightning.pytorch.Callback)
        assert isinstance(make(), pytorch_lightning.Callback)

    def test_training_is_bit_for_bit_as_without(self, make, package, tmp_path):
        weights = []
        for callbacks in ([], [make()]):
            torch.manual_seed(3)
            module = package[1]()
            run = trainer(package, tmp_path, callbacks)
            run.fit(module, DataLoader(ColorImages(), 4, shuffle=True), loader())
            weights.append(module.state_dict())
            assert module.training
        for a, b in zip(*(w.values() for w in weights), strict=True):
            assert torch.equal(a, b)

    def test_hooks_run_in_lightning_s_order(self, make, package, tmp_path):
        """Ours do their work in hooks that Lightning calls, and only where logging is allowed."""
        order = []

        def spy(name):
            hook = getattr(type(callback), name)

            def called(*args, **kwargs):
                order.append((name, kwargs.get("dataloader_idx")))
                return hook(callback, *args, **kwargs)

            return called

        callback = make()
        hooks = [name for name in dir(callback) if name.startswith("on_validation") and name != "on_validation_model"]
        for name in hooks:
            setattr(callback, name, spy(name))
        trainer(package, tmp_path, [callback], num_sanity_val_steps=0).validate(package[1](), loader(8), verbose=False)
        assert [name for name, _ in order] == [
            "on_validation_start",
            "on_validation_epoch_start",
            *["on_validation_batch_start", "on_validation_batch_end"] * 2,
            "on_validation_epoch_end",
            "on_validation_end",
        ]

    @pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
    @one_package
    def test_precisions(self, make, package, tmp_path, precision):
        run = trainer(package, tmp_path, [make()], max_epochs=1, precision=precision)
        run.fit(package[1](), loader(4), loader(8))
        run.validate(package[1](), loader(8), verbose=False)
        assert all(math.isfinite(v) or k.endswith("loss") for k, v in robustness(run.callback_metrics).items())

    @one_package
    def test_double_by_default(self, make, package, tmp_path):
        torch.set_default_dtype(torch.float64)
        try:
            callback = make(mean=list(MEAN), std=list(STD))
            run = trainer(package, tmp_path, [callback], logger=package[0].loggers.TensorBoardLogger(tmp_path))
            run.validate(package[1](), DataLoader([(x.double(), y) for x, y in ColorImages(8)], 4), verbose=False)
        finally:
            torch.set_default_dtype(torch.float32)
        assert all(math.isfinite(v) or k.endswith("loss") for k, v in robustness(run.callback_metrics).items())

    @pytest.mark.parametrize("inference_mode", [True, False])
    def test_the_module_is_as_it_was(self, make, package, tmp_path, inference_mode):
        module = package[1]()
        module.net[0].weight.requires_grad_(False)
        before = copy.deepcopy(module.state_dict())
        trainer(package, tmp_path, [make()], inference_mode=inference_mode).validate(module, loader(), verbose=False)
        assert all(torch.equal(a, b) for a, b in zip(before.values(), module.state_dict().values(), strict=True))
        assert not module.net[0].weight.requires_grad
        assert not any(len(getattr(m, d)) for m in module.modules() for d in vars(m) if d.endswith("_hooks"))

    @one_package
    def test_the_random_state_is_not_touched(self, make, package, tmp_path):
        class Probe(package[0].Callback):
            def on_validation_batch_start(self, *_):
                self.before = torch.get_rng_state()

            def on_validation_end(self, *_):
                self.after = torch.get_rng_state()

        probe = Probe()
        trainer(package, tmp_path, [probe, make()]).validate(package[1](), loader(4), verbose=False)
        assert torch.equal(probe.before, probe.after)

    @one_package
    def test_state_of_two_in_one_trainer(self, make, package, tmp_path):
        callbacks = [make(name="a"), make(name="b")]
        run = trainer(package, tmp_path, callbacks, max_epochs=1)
        run.fit(package[1](), loader(4), loader(8))
        run.save_checkpoint(tmp_path / "two.ckpt")
        states = torch.load(tmp_path / "two.ckpt", weights_only=True)["callbacks"]
        assert {c.state_key for c in callbacks} <= set(states)
        assert len({c.state_key for c in callbacks}) == 2

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
    @one_package
    def test_can_be_copied_once_it_has_measured(self, make, package, tmp_path, copied):
        callback = make()
        logger = package[0].loggers.TensorBoardLogger(tmp_path)
        run = trainer(package, tmp_path, [callback], max_epochs=1, logger=logger)
        run.fit(package[1](), loader(4), loader(8))
        again = copied(callback)
        assert again.state_dict().keys() == callback.state_dict().keys()
        other = trainer(package, tmp_path, [again], logger=logger)
        other.validate(package[1](), loader(8), verbose=False)
        assert [type(c) for c in copied(run.callbacks)] == [type(c) for c in run.callbacks]

    @one_package
    def test_batches_that_are_not_tuples(self, make, package, tmp_path):
        class Odd(package[1]):
            def forward(self, x):
                raise AssertionError("forward_fn is to be called")

            def validation_step(self, batch, batch_idx):
                pass

        def collate(samples):
            return {"pixels": torch.stack([x for x, _ in samples]), "labels": torch.tensor([y for _, y in samples])}

        odd = DataLoader(ColorImages(8), 4, collate_fn=collate)
        run = trainer(package, tmp_path, [make(adapter=f"{__file__}:odd_batch", forward_fn=f"{__file__}:odd_forward")])
        run.validate(Odd(), odd, verbose=False)
        with pytest.raises(TypeError, match="adapter: a batch is a dict"):
            trainer(package, tmp_path, [make()]).validate(Odd(), odd, verbose=False)

    @one_package
    def test_images_that_are_not_in_range(self, make, package, tmp_path):
        unknown = ColorImages(8, transform=lambda x: x.float())
        with pytest.raises(ValueError, match="mean, std: .*give the mean and std"):
            trainer(package, tmp_path, [make()]).validate(package[1](), DataLoader(unknown, 4), verbose=False)
        known = ColorImages(8, transform=lambda x: (x / 255 - 0.5) / 0.25)
        callback = make(mean=[0.5, 0.5, 0.5], std=[0.25] * 3)
        trainer(package, tmp_path, [callback]).validate(package[1](), DataLoader(known, 4), verbose=False)

    @pytest.mark.parametrize(
        ("settings", "error", "words"),
        [
            ({"every_n_epochs": 0}, ValueError, "every_n_epochs"),
            ({"mean": 0.5}, ValueError, "both or neither"),
            ({"mean": [0.5] * 2, "std": [0.5] * 2}, ValueError, "one or three"),
            ({"strength": 2}, ValueError, "strength"),
            ({"adapter": "nowhere:at_all"}, ValueError, "adapter"),
            ({"adapter": 3}, TypeError, "adapter"),
            ({"saliency": {"method": "Salience"}}, ValueError, "Salience"),
        ],
    )
    def test_wrong_settings(self, make, settings, error, words):
        factory = {"strength": CompressionRobustness}.get(next(iter(settings)), make)
        with pytest.raises(error, match=words):
            factory(**settings)


def odd_batch(batch):
    return batch["pixels"], batch["labels"]


def first_batch(batch):
    """The first batch in what several loaders give together, where some may have run out."""
    parts = [*batch.values()] if isinstance(batch, dict) else batch
    return parts if isinstance(parts[0], torch.Tensor) else first_batch(next(p for p in parts if p is not None))


def odd_forward(module, images):
    return module.net(images)


class TestCompressionRobustness:
    @pytest.mark.parametrize("strength", [0.0, 0.8])
    def test_values(self, package, tmp_path, strength):
        module = package[2]()
        expected = by_hand(copy.deepcopy(module), strength=strength)
        callback = CompressionRobustness(POINTS, metrics=METRICS, strength=strength)
        run = trainer(package, tmp_path, [callback])
        measured = [robustness(run.validate(module, loader(), verbose=False)[0])]
        measured.append(robustness(run.test(module, loader(), verbose=False)[0]))
        run.fit(module, loader(4), loader())
        for values in measured:
            assert values.keys() == expected.keys() | {"robustness/bytes_at_1pct_loss"}
            assert {k: v for k, v in values.items() if k in expected} == pytest.approx(expected, rel=1e-5)
        assert expected["robustness/clean/top1"] == 1
        assert expected["robustness/jpeg:2/top1"] < 1
        assert robustness(run.callback_metrics).keys() == measured[0].keys()

    def test_monitors(self, package, tmp_path):
        L = package[0]
        stop = L.callbacks.EarlyStopping("robustness/jpeg:40/agreement", mode="max", patience=1)
        keep = L.callbacks.ModelCheckpoint(
            tmp_path, "best", monitor="robustness/webp:20/agreement", mode="max", save_last=True
        )
        callbacks = [CompressionRobustness(POINTS), stop, keep]
        run = trainer(package, tmp_path, callbacks, max_epochs=4, enable_checkpointing=True)
        module = package[1]()
        module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), 0.0)
        run.fit(module, loader(4), loader())
        assert run.current_epoch == 2  # nothing gets better, so it stops
        assert Path(keep.best_model_path).is_file()
        best = max(entry["values"]["webp:20/agreement"] for entry in callbacks[0].history)
        assert float(keep.best_model_score) == pytest.approx(best)

    @one_package
    def test_every_n_epochs_limit_and_sanity_check(self, package, tmp_path, monkeypatch):
        callback = CompressionRobustness(POINTS, every_n_epochs=2, limit_batches=1)
        seen = []
        measure = callback._measure
        monkeypatch.setattr(callback, "_measure", lambda *args: seen.append(args[0].current_epoch) or measure(*args))
        run = trainer(package, tmp_path, [callback], max_epochs=5, num_sanity_val_steps=2)
        run.fit(package[1](), loader(4), loader())
        assert seen == [1, 3]
        assert [entry["epoch"] for entry in callback.history] == [1, 3]

    @one_package
    def test_several_loaders(self, package, tmp_path):
        module = package[2]()
        expected = [by_hand(copy.deepcopy(module), length=n, seed=n) for n in (8, 12)]
        run = trainer(package, tmp_path, [CompressionRobustness(POINTS, metrics=METRICS)])
        loaders = [loader(n, seed=n) for n in (8, 12)]
        values = robustness(run.validate(module, loaders, verbose=False)[0])
        for k, measured in enumerate(expected):
            for key, value in measured.items():
                assert values[f"{key}/dataloader_idx_{k}"] == pytest.approx(value, rel=1e-5)
        assert len(values) == 2 * (len(expected[0]) + 1)

    @pytest.mark.parametrize(
        "build",
        [
            lambda a, b, combined: a,
            lambda a, b, combined: [a],
            lambda a, b, combined: {"a": a, "b": b},
            lambda a, b, combined: [[a, b], a],
            lambda a, b, combined: {"deep": [a, {"x": b}], "b": (b,)},
            lambda a, b, combined: combined([a, b], "sequential"),
            lambda a, b, combined: combined({"a": a}, "max_size"),
            *[
                lambda a, b, combined, mode=mode: combined([a, b], mode)
                for mode in ("min_size", "max_size", "max_size_cycle")
            ],
            lambda a, b, combined: combined([[a], {"b": b}], "min_size"),
        ],
    )
    @pytest.mark.parametrize("stage", ["fit", "test"])
    @one_package
    def test_names_are_lightning_s_whatever_the_loaders(self, package, tmp_path, build, stage):
        class Steps(package[2]):
            def validation_step(self, batch, batch_idx, dataloader_idx=0):
                self.log("answers", float(len(first_batch(batch)[0])))

            test_step = validation_step

        utilities = importlib.import_module(f"{package[0].__name__}.utilities")
        loaders = build(loader(4), loader(8), utilities.CombinedLoader)
        callback = CompressionRobustness(["jpeg:5"], metrics=["top1"], adapter=first_batch)
        logger = package[0].loggers.TensorBoardLogger(tmp_path)
        callbacks = [callback, SaliencyLogger(2, adapter=first_batch)]
        run = trainer(package, tmp_path, callbacks, max_epochs=1, logger=logger)
        if stage == "fit":
            run.fit(Steps(), loader(4), loaders)
        else:
            getattr(run, stage)(Steps(), loaders, verbose=False)
        names = set(run.callback_metrics)
        tails = {name.removeprefix("answers") for name in names if name.startswith("answers")}
        assert tails == {name.removeprefix("robustness/clean/top1") for name in names if "clean/top1" in name}
        assert tails
        assert len(callback.history) == len(tails)

    @one_package
    def test_each_of_nested_loaders_is_measured_apart(self, package, tmp_path):
        module = package[2]()
        expected = [by_hand(copy.deepcopy(module), length=n, seed=n) for n in (8, 12, 4)]
        run = trainer(package, tmp_path, [CompressionRobustness(POINTS, metrics=METRICS)])
        loaders = [[loader(8, seed=8), loader(12, seed=12)], loader(4, seed=4)]
        run.validate(module, loaders, verbose=False)
        values = robustness(run.callback_metrics)
        for k, measured in enumerate(expected):
            for key, value in measured.items():
                assert values[f"{key}/dataloader_idx_{k}"] == pytest.approx(value, rel=1e-5)

    @one_package
    def test_the_loaders_are_those_of_the_stage(self, package, tmp_path):
        """After a fit, Trainer.val_dataloaders are still those of the fit."""
        run = trainer(package, tmp_path, [CompressionRobustness(["jpeg:5"])], max_epochs=1)
        run.fit(package[1](), loader(4), loader(4))
        other = ColorImages(
            8, transform=v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.9], [0.1])])
        )
        run.validate(package[1](), DataLoader(other, 4), verbose=False)
        two = [loader(4), DataLoader(other, 4)]
        run.validate(package[1](), two, verbose=False)
        assert {key[-1] for key in robustness(run.callback_metrics)} == {"0", "1"}

    @one_package
    def test_history_says_the_stage(self, package, tmp_path):
        callback = CompressionRobustness(["jpeg:5", "jpeg:50"])
        logger = package[0].loggers.TensorBoardLogger(tmp_path)
        run = trainer(package, tmp_path, [callback], logger=logger)
        run.validate(package[1](), loader(4), verbose=False)
        run.fit(package[1](), loader(4), loader(4))
        run.test(package[1](), [loader(4), loader(4)], verbose=False)
        stages = [(entry["stage"], entry["loader"]) for entry in callback.history]
        assert stages == [("validate", 0), ("fit", 0), ("fit", 0), ("test", 0), ("test", 1)]
        assert [entry["epoch"] for entry in callback.history] == [0, 0, 1, 2, 2]
        assert callback.history[0]["values"].keys() == callback.history[-1]["values"].keys()
        assert json.loads(json.dumps(callback.history)) == callback.history
        rows = callback.results()
        assert [(row["stage"], row["point"]) for row in rows[::9]] == [("validate", "jpeg:5"), ("test", "jpeg:50")]
        assert rows[0]["bytes"] == callback.history[0]["values"]["jpeg:5/bytes"]
        assert {row["n"] for row in rows} == {len(loader(4).dataset)}
        callback.to_csv(tmp_path / "r.csv")
        written = list(csv.DictReader((tmp_path / "r.csv").open()))
        assert [float(row["agreement"]) for row in written] == [row["agreement"] for row in rows]
        figure, ax = callback.plot(loader=1)
        assert ax.get_title().startswith("top-1 after compression, test\n")
        low, high = (float(y) for y in ax.containers[0].lines[2][0].get_segments()[0][:, 1])
        share = 100 * callback.history[-1]["values"]["jpeg:5/top1"]
        assert low <= share <= high
        assert high - low > 1
        assert callback.plot(0, ax)[0] is figure
        assert repr(callback) == "CompressionRobustness(['jpeg:5', 'jpeg:50'], 5 measurements)"
        assert callback._repr_html_().count("<svg") == 1
        old = {"history": [{k: v for k, v in entry.items() if k != "stage"} for entry in callback.history[1:3]]}
        again = CompressionRobustness(["jpeg:5", "jpeg:50"])
        again.load_state_dict(old)
        assert again.history == callback.history[1:3]

    def test_nothing_was_measured_yet(self, tmp_path):
        callback = CompressionRobustness(["jpeg:5"])
        assert callback.results() == []
        with pytest.raises(ValueError, match="nothing was measured"):
            callback.to_csv(tmp_path / "r.csv")
        with pytest.raises(ValueError, match="loader: nothing was measured on 0"):
            callback.plot()

    @one_package
    def test_without_targets_there_is_agreement(self, package, tmp_path):
        callback = CompressionRobustness(["jpeg:2"], metrics=METRICS, adapter=lambda batch: (batch[0], None))
        values = robustness(trainer(package, tmp_path, [callback]).validate(package[2](), loader(), verbose=False)[0])
        assert {k.split("/")[-1] for k in values} == {"agreement", "bpp", "bytes", "bytes_at_1pct_loss"}

    def test_an_interrupted_fit_goes_on(self, package, tmp_path):
        def run(epochs, **settings):
            torch.manual_seed(1)
            callbacks = [CompressionRobustness(POINTS), SaliencyLogger(2)]
            going = trainer(package, tmp_path, callbacks, max_epochs=epochs)
            going.fit(package[1](dropout=0.0), loader(8), DataLoader(ColorImages(), 4), **settings)
            going.save_checkpoint(tmp_path / f"{epochs}.ckpt")
            return callbacks

        run(1)
        resumed, whole = run(3, ckpt_path=tmp_path / "1.ckpt"), run(3)
        assert resumed[0].history == whole[0].history
        assert [entry["epoch"] for entry in whole[0].history] == [0, 1, 2]
        assert torch.equal(resumed[1].images, whole[1].images)

    @one_package
    def test_the_figure_is_in_the_event_file(self, package, tmp_path):
        logger = package[0].loggers.TensorBoardLogger(tmp_path)
        csv = package[0].loggers.CSVLogger(tmp_path / "csv")
        callbacks = [CompressionRobustness(POINTS), SaliencyLogger(2)]
        run = trainer(package, tmp_path, callbacks, logger=[logger, csv], log_every_n_steps=1)
        run.fit(package[1](), loader(4), loader())
        tags = events(logger.log_dir)
        for tag in ("robustness/rate_accuracy", "saliency"):
            figures = tags["images"][tag]
            assert len(figures) == 2
            assert figures[0].width > 300
        assert len(tags["scalars"]["robustness/jpeg:40/agreement"]) == 2
        assert {tag for tag in tags["scalars"] if tag.startswith("robustness/")} == {
            f"robustness/{point}/agreement" for point in POINTS
        }
        assert "robustness/jpeg:40/agreement" in Path(csv.log_dir, "metrics.csv").read_text()

    @one_package
    def test_a_module_it_does_not_train_makes_the_maps(self, package, tmp_path):
        callback = CompressionRobustness(["jpeg:5"], metrics=["bytes"], strength=0.9, saliency="foveate.demo:scene_net")
        run = trainer(package, tmp_path, [callback])
        values = robustness(run.validate(package[2](), loader(size=64), verbose=False)[0])
        plain = CompressionRobustness(["jpeg:5"], metrics=["bytes"])
        alone = robustness(
            trainer(package, tmp_path, [plain]).validate(package[2](), loader(size=64), verbose=False)[0]
        )
        assert values["robustness/jpeg:5/bytes"] < alone["robustness/jpeg:5/bytes"]

    @one_package
    def test_grayscale(self, package, tmp_path):
        class Gray(package[1]):
            def __init__(self):
                super().__init__()
                self.net[0] = torch.nn.Conv2d(1, 8, 3, 2, 1)

        normalization = v2.Compose([v2.Grayscale(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.25])])
        run = trainer(package, tmp_path, [CompressionRobustness(POINTS, strength=0.5)])
        values = robustness(
            run.validate(Gray(), DataLoader(ColorImages(8, transform=normalization), 4), verbose=False)[0]
        )
        assert values["robustness/jpeg:40/agreement"] > 0.5

    def test_wrong_points(self):
        for points in ([], "jpeg:10"):
            with pytest.raises(ValueError, match="points"):
                CompressionRobustness(points)
        with pytest.raises(ValueError, match="different"):
            CompressionRobustness(["jpeg:50", "jpeg"])
        with pytest.raises(ValueError, match="gif"):
            CompressionRobustness(["gif:3"])

    @pytest.mark.parametrize("metrics", ["top1", ["accuracy"], None])
    def test_wrong_metrics(self, metrics):
        with pytest.raises(ValueError, match="metrics: expected a list of some of agreement, top1,"):
            CompressionRobustness(POINTS, metrics=metrics)

    @one_package
    def test_the_module_is_asked_once_less_where_its_step_was_heard(self, package, tmp_path):
        calls = []

        class Counting(package[2]):
            def forward(self, x):
                calls.append(len(x))
                return super().forward(x)

        class Silent(Counting):
            def validation_step(self, batch, batch_idx):
                Counting.forward(self, batch[0])  # passes by the hooks of a call

        values = []
        for kind, expected in ((Counting, 1 + len(POINTS)), (Silent, 2 + len(POINTS))):
            calls.clear()
            run = trainer(package, tmp_path, [CompressionRobustness(POINTS)])
            values.append(robustness(run.validate(kind(), loader(4), verbose=False)[0]))
            assert len(calls) == expected
        assert values[0] == values[1]

    @one_package
    def test_no_hook_is_left_by_a_step_that_fails(self, package, tmp_path):
        class Failing(package[1]):
            def validation_step(self, batch, batch_idx):
                raise RuntimeError("out of luck")

        module = Failing()
        with pytest.raises(RuntimeError, match="out of luck"):
            trainer(package, tmp_path, [CompressionRobustness(POINTS)]).validate(module, loader(4), verbose=False)
        assert not module._forward_hooks

    @one_package
    def test_the_cure_for_what_no_mean_and_std_undo(self, package, tmp_path):
        """The adapter gives images, and a function normalizes them as the data set does."""
        import albumentations as A

        def stretch(image):
            image = image.movedim(0, -1).numpy()
            stretched = A.Compose([A.Normalize(normalization="min_max")])(image=image)["image"]
            return torch.from_numpy(stretched).movedim(-1, 0).float()

        class MinMax(ColorImages):
            def __init__(self):
                super().__init__(8)
                self.augment = A.Compose([A.Normalize(normalization="min_max")])
                self.transform = stretch

        data = DataLoader(MinMax(), 4)
        with pytest.raises(ValueError, match="mean, std: .*normalization='min_max'.*adapter="):
            trainer(package, tmp_path, [CompressionRobustness(POINTS)]).validate(package[1](), data, verbose=False)
        cured = CompressionRobustness(POINTS, mean=0, std=1, adapter=lambda batch: (batch[0].clamp(0, 1), batch[1]))
        run = trainer(package, tmp_path, [cured])
        assert robustness(run.validate(package[1](), data, verbose=False)[0])

    @one_package
    def test_logits_are_checked(self, package, tmp_path):
        callback = CompressionRobustness(POINTS, forward_fn=lambda module, images: images)
        with pytest.raises(ValueError, match="logits"):
            trainer(package, tmp_path, [callback]).validate(package[1](), loader(), verbose=False)


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()
    return {
        kind: {tag: getattr(read, kind.title())(tag) for tag in read.Tags()[kind]} for kind in ("images", "scalars")
    }


def test_two_processes_are_as_one(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import json, sys, torch
            from pathlib import Path
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            torch.set_num_threads(1)
            from lightning_modules import PACKAGES, loader
            from foveate.integrations.lightning import CompressionRobustness, SaliencyLogger

            L, _, Colors, _ = PACKAGES["lightning.pytorch"]
            for devices in (1, 2):
                trainer = L.Trainer(
                    accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=1,
                    logger=L.loggers.TensorBoardLogger({str(tmp_path)!r}, version=devices), enable_checkpointing=False,
                    enable_progress_bar=False, enable_model_summary=False,
                )
                callbacks = [CompressionRobustness({POINTS!r}, strength=0.8), SaliencyLogger(2)]
                trainer.callbacks += callbacks
                trainer.validate(Colors(), loader(16), verbose=False)
                values = {{k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("robustness/")}}
                name = f"values-{{devices}}-{{trainer.global_rank}}.json"
                Path({str(tmp_path)!r}, name).write_text(json.dumps(values))
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    alone, *together = (json.loads((tmp_path / f"values-{run}.json").read_text()) for run in ("1-0", "2-0", "2-1"))
    assert together == [alone, alone]
    assert "robustness/jpeg:40/agreement" in alone
    assert "saliency" in events(tmp_path / "lightning_logs" / "version_2")["images"]


class TestConfig:
    """One file for the LightningCLI of both packages."""

    config = yaml.safe_load((Path(__file__).parents[1] / "examples" / "lightning_cli.yaml").read_text())

    def cli(self, package, tmp_path, config, run=False):
        name = package[0].__name__
        cli = importlib.import_module(f"{name}.cli")
        config["trainer"]["logger"] = False
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        args = ["--config", str(tmp_path / "config.yaml")]
        return cli.LightningCLI(
            package[1], package[3], save_config_callback=None, run=run, args=["fit", *args] if run else args
        )

    def test_the_example_s_callbacks_and_data(self, package, tmp_path):
        config = {**self.config, "model": {}, "data": {"batch": 2, "compress": self.config["data"]["compress"]}}
        cli = self.cli(package, tmp_path, copy.deepcopy(config))
        callbacks = [c for c in cli.trainer.callbacks if type(c).__module__.startswith("foveate")]
        assert [type(c).__name__ for c in callbacks] == ["CompressionRobustness", "SaliencyLogger"]
        assert [str(p) for p in callbacks[0].points] == ["jpeg:5", "jpeg:30", "webp:20"]
        assert repr(cli.datamodule.compress) == ("BatchCompressor('jpeg', quality=(3, 40), strength=(0.0, 0.5), p=1)")

    def test_every_argument_can_stand_in_a_file(self, package, tmp_path):
        config = copy.deepcopy(self.config)
        shared = {
            "saliency": {"method": "Saliency", "grid": 4, "arguments": {"abs": True}},
            "mean": list(MEAN),
            "std": list(STD),
            "adapter": f"{__file__}:plain_batch",
            "forward_fn": f"{__file__}:odd_forward",
        }
        config["trainer"] |= {"limit_train_batches": 1, "limit_val_batches": 1}
        config["trainer"]["callbacks"] = [
            {
                "class_path": "foveate.integrations.lightning.CompressionRobustness",
                "init_args": {
                    **shared,
                    "points": ["jpeg:5"],
                    "strength": 0.5,
                    "every_n_epochs": 1,
                    "limit_batches": 2,
                    "metrics": ["agreement", "top1"],
                    "name": "r",
                },
            },
            {
                "class_path": "foveate.integrations.lightning.SaliencyLogger",
                "init_args": {
                    **shared,
                    "images": 1,
                    "every_n_epochs": 1,
                    "codec": "webp",
                    "strength": 1,
                    "class_names": ["a", "b", "c"],
                    "name": "s",
                },
            },
        ]
        compress = {
            "codec": "webp",
            "quality": 30,
            "prefilter": {"filter": "guided", "sigma": 2},
            "strength": 0.5,
            "scale": 0.9,
            "target": {"bpp": 4},
            "p": 1,
        }
        config["model"] = {}
        config["data"] = {
            "compress": {
                "class_path": "foveate.integrations.lightning.BatchCompressor",
                "init_args": {**shared, **compress},
            }
        }
        assert json.loads(json.dumps(config)) == config
        trainer = self.cli(package, tmp_path, config, run=True).trainer
        assert 0 <= float(trainer.callback_metrics["r/jpeg:5/top1"]) <= 1


def plain_batch(batch):
    return batch[0], batch[1]


class TestSaliencyLogger:
    @one_package
    def test_the_images_are_fixed(self, package, tmp_path):
        drawn = []

        class Show(SaliencyLogger):
            def _figure(self, trainer, module):
                drawn.append(self.images.clone())
                return super()._figure(trainer, module)

        shuffled = DataLoader(ColorImages(), 2, shuffle=True)
        logger = package[0].loggers.TensorBoardLogger(tmp_path)
        trainer(package, tmp_path, [Show(3)], logger=logger).fit(package[1](), loader(4), shuffled)
        assert len(drawn) == 2
        assert torch.equal(*drawn)
        assert drawn[0].shape == (3, 3, 32, 32)
        assert {tuple(p.flatten().tolist()) for p in drawn[0]} <= {
            tuple(p.flatten().tolist()) for p in ColorImages().images
        }

    @one_package
    def test_the_images_are_of_different_classes(self, package, tmp_path):
        class Sorted(ColorImages):
            classes = ("red", "green", "blue")

            def __init__(self):
                super().__init__(24)
                order = self.labels.argsort(stable=True)
                self.images, self.labels = self.images[order], self.labels[order]

        logger = package[0].loggers.TensorBoardLogger(tmp_path)
        data = Sorted()
        for count, expected in ((2, [0, 1]), (3, [0, 1, 2]), (5, [0, 0, 0, 1, 2])):
            callback = SaliencyLogger(count)
            run = trainer(package, tmp_path, [callback], logger=logger, num_sanity_val_steps=1, max_epochs=1)
            run.fit(package[1](), loader(4), DataLoader(torch.utils.data.Subset(data, range(24)), 4))
            assert callback.labels == expected
            rows = [int((data.images == image).flatten(1).all(1).nonzero()[0]) for image in callback.images]
            firsts = [int((data.labels == label).nonzero()[0]) for label in range(3)]
            assert set(rows) >= {*firsts[: max(expected) + 1]}
            assert len(set(rows)) == count
            assert callback._name(1) == "green"
        named = SaliencyLogger(2, class_names=["r", "g", "b"])
        run = trainer(package, tmp_path, [named], logger=logger)
        run.validate(package[1](), DataLoader(data, 4), verbose=False)
        assert (named._name(2), named._name(3)) == ("b", "class 3")
        again = SaliencyLogger(2)
        again.load_state_dict({"images": named.images})
        assert again.labels == [None, None]
        with pytest.raises(TypeError, match="class_names"):
            SaliencyLogger(class_names="abc")

    @pytest.mark.parametrize("target", [torch.rand(4), torch.arange(3), None])
    def test_targets_that_are_not_classes(self, target):
        callback = SaliencyLogger(2, class_names=["a", "b"])
        callback._choose(torch.rand(4, 3, 8, 8), labels_of(target, 4))
        assert callback.labels == [None, None]
        assert labels_of(torch.tensor([1, 0]), 2) == [1, 0]

    @one_package
    def test_the_difference_shows(self, package, tmp_path):
        image = torch.full((3, 8, 8), 100, dtype=torch.uint8)
        other = image.clone()
        other[:, :4] += 3
        shown, gain = amplified(other, image)
        assert (gain, shown[0, 0, 0], shown[0, 7, 7]) == (42, 128 + 42 * 3, 128)
        assert amplified(image, image)[1] == 0

    @one_package
    def test_no_logger_no_drawing(self, package, tmp_path, monkeypatch):
        monkeypatch.setattr(SaliencyLogger, "_figure", lambda *_: pytest.fail("drawn for nobody"))
        csv = package[0].loggers.CSVLogger(tmp_path)
        trainer(package, tmp_path, [SaliencyLogger()], logger=csv).validate(package[1](), loader(), verbose=False)

    @one_package
    def test_loggers_with_log_image(self, package, tmp_path):
        class Images(package[0].loggers.CSVLogger):
            def log_image(self, key, images, step=None):
                self.logged = key, images[0]

        logger = Images(tmp_path)
        trainer(package, tmp_path, [SaliencyLogger()], logger=logger).validate(package[1](), loader(), verbose=False)
        key, figure = logger.logged
        assert key == "saliency"
        assert (figure.dtype, figure.ndim) == (np.uint8, 3)

    @one_package
    def test_weights_and_biases(self, package, tmp_path, monkeypatch):
        """Offline: a run of its own, whose pictures are files."""
        monkeypatch.setenv("WANDB_MODE", "offline")
        monkeypatch.setenv("WANDB_SILENT", "true")
        logger = package[0].loggers.WandbLogger(save_dir=tmp_path, offline=True)
        callbacks = [CompressionRobustness(POINTS), SaliencyLogger(2)]
        run = trainer(package, tmp_path, callbacks, logger=logger, max_epochs=1)
        run.fit(package[1](), loader(4), loader(4))
        logger.experiment.finish()
        pictures = [Image.open(path) for path in tmp_path.rglob("*.png")]
        assert len(pictures) == 2
        assert all(picture.width > 300 for picture in pictures)

    @one_package
    def test_mlflow(self, package, tmp_path, monkeypatch):
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database takes SQLAlchemy
        store, files = ((tmp_path / name).as_uri() for name in ("runs", "files"))
        logger = package[0].loggers.MLFlowLogger(tracking_uri=store, artifact_location=files)
        callbacks = [CompressionRobustness(POINTS), SaliencyLogger(2)]
        run = trainer(package, tmp_path, callbacks, logger=logger, max_epochs=1)
        run.fit(package[1](), loader(4), loader(4))
        pictures = [path for path in (tmp_path / "files").rglob("*.png") if Image.open(path).width > 300]
        assert {path.name.partition("%")[0].partition("+")[0].partition("~")[0] for path in pictures} == {
            "robustness",
            "saliency",
        }


class TestCompressOnTheFly:
    def seen(self, package, tmp_path, compress, on_module=False):
        batches = {"train": [], "val": []}

        class Seeing(package[1]):
            def training_step(self, batch, batch_idx):
                batches["train"].append(batch[0].clone())
                return super().training_step(batch, batch_idx)

            def validation_step(self, batch, batch_idx):
                batches["val"].append(batch[0].clone())

        data = package[3](compress=compress)
        trainer(package, tmp_path, max_epochs=1).fit(Seeing(), datamodule=data)
        return {stage: torch.cat(parts) for stage, parts in batches.items()}

    @one_package
    def test_training_batches_are_compressed_and_no_others(self, package, tmp_path):
        clean = torch.stack([x for x, _ in ColorImages()])
        batches = self.seen(package, tmp_path, BatchCompressor("jpeg:10"))
        compressor, normalization = foveate.Compressor("jpeg:10"), Normalization(MEAN, STD)
        expected = torch.stack(compressor.decode(compressor.encode(ColorImages().images))) / 255
        torch.testing.assert_close(batches["train"], normalization(expected))
        assert torch.equal(batches["val"][-16:], clean)
        assert torch.equal(self.seen(package, tmp_path, None)["train"], clean)

    @one_package
    def test_with_a_saliency_of_the_module_s_own(self, package, tmp_path):
        torch.manual_seed(2)
        batches = self.seen(package, tmp_path, BatchCompressor("jpeg:90", prefilter={"sigma": 40}, strength=(0.8, 1.0)))
        normalization = Normalization(MEAN, STD)
        rough = [normalization.undo(x).diff(dim=-1).abs().mean() for x in (batches["train"], batches["val"][-16:])]
        assert rough[0] < 0.8 * rough[1]

    def test_as_a_mixin_of_a_module(self, package, tmp_path):
        from foveate.integrations.lightning import CompressOnTheFly

        order = []

        class Own:
            def on_after_batch_transfer(self, batch, dataloader_idx):
                order.append("own")
                return super().on_after_batch_transfer(batch, dataloader_idx)

        class Net(CompressOnTheFly, Own, package[1]):
            def training_step(self, batch, batch_idx):
                order.append(len(batch[0].unique()))
                return super().training_step(batch, batch_idx)

        module = Net()
        module.compress = BatchCompressor("jpeg", quality=(1, 2), strength=0.9)
        trainer(package, tmp_path, max_epochs=1).fit(module, loader(4))
        assert order == ["own", order[1]]
        assert order[1] < 3 * 256
        assert len(list(module.children())) == 2

    def test_each_image_has_its_own_draw_from_torch(self):
        images = torch.rand(1, 3, 32, 32).repeat(12, 1, 1, 1)
        compress = BatchCompressor("jpeg", quality=(5, 90), p=0.7)
        torch.manual_seed(4)
        first = compress.compress(images)
        torch.manual_seed(4)
        assert torch.equal(compress.compress(images), first)
        kinds = {image.numpy().tobytes() for image in first}
        assert len(kinds) > 4
        untouched = sum(torch.equal(image, images[0]) for image in first)
        assert 0 < untouched < 12

    def test_the_batch_keeps_its_shape_and_its_own_tensor(self):
        images, labels = torch.rand(2, 3, 16, 16), torch.arange(2)
        before = images.clone()
        compress = BatchCompressor("jpeg:10", adapter=lambda batch: (batch["deep"]["x"], None))
        out = compress({"deep": {"x": images}, "labels": [labels, "text"]})
        assert torch.equal(images, before)
        assert not torch.equal(out["deep"]["x"], images)
        assert out["labels"][0] is labels
        assert BatchCompressor(p=0)((images, labels))[0] is images
        with pytest.raises(ValueError, match="no part of the batch"):
            BatchCompressor("jpeg:10", adapter=lambda batch: (batch[0] / 1, None))((images, labels))
        with pytest.raises(ValueError, match="no model and there is no module"):
            BatchCompressor(strength=0.5)((images, labels))
        filtered = BatchCompressor("jpeg:10", strength=0.5, saliency="foveate.demo:scene_net")((images.half(), labels))
        assert filtered[0].dtype == torch.float16
        assert BatchCompressor("jpeg:10")(((images * 255).byte(), labels))[0].dtype == torch.uint8

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8])
    @pytest.mark.parametrize("saliency", [None, "foveate.demo:scene_net"])
    def test_images_of_every_dtype_under_every_setting(self, dtype, saliency):
        images = (torch.rand(2, 3, 32, 32) * 255).byte()
        numbers = {} if dtype == torch.uint8 else {"mean": MEAN, "std": STD}
        images = images if dtype == torch.uint8 else Normalization(MEAN, STD)(images / 255).to(dtype)
        compress = BatchCompressor("jpeg:30", strength=0.8 if saliency else 0.0, saliency=saliency, **numbers)
        expected = compress.compress(images)
        assert (expected.shape, expected.dtype) == (images.shape, dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(compress.compress(images), expected, rtol=0, atol=0)
        torch.set_default_dtype(torch.float64)
        try:
            out = compress.compress(images)
        finally:
            torch.set_default_dtype(torch.float32)
        torch.testing.assert_close(out, expected, rtol=0, atol=0.2 if numbers else 8)

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
    @one_package
    def test_can_be_copied_once_it_has_seen_the_module(self, package, copied):
        compress = BatchCompressor("jpeg:30", strength=0.8, mean=list(MEAN), std=list(STD))
        module, batch = package[1](), next(iter(loader(4)))
        expected = compress(batch, module)[0]
        assert torch.equal(copied(compress)(batch, module)[0], expected)

    def test_numbers_of_numpy(self):
        plain = BatchCompressor("jpeg", quality=(10, 30), strength=0.5, scale=0.5, p=0.5, mean=0.5, std=0.25)
        of_numpy = BatchCompressor(
            "jpeg",
            quality=(np.int64(10), np.int64(30)),
            prefilter={"sigma": np.float64(1.5)},
            strength=np.float32(0.5),
            scale=np.float32(0.5),
            p=np.float32(0.5),
            mean=np.float32(0.5),
            std=np.array([0.25]),
        )
        assert repr(of_numpy) == repr(plain)
        assert of_numpy._draws == plain._draws
        robustness = CompressionRobustness(
            POINTS, strength=np.float32(0.5), every_n_epochs=np.int64(2), limit_batches=np.int64(3)
        )
        assert (robustness.every_n_epochs, robustness.limit_batches) == (2, 3)
        assert SaliencyLogger(np.int32(2)).count == 2

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"quality": (60, 20)}, "smaller number first"),
            ({"strength": 2}, "strength"),
            ({"p": 2}, "p:"),
            ({"scale": 0}, "scale"),
        ],
    )
    def test_wrong_settings(self, settings, words):
        with pytest.raises(ValueError, match=words):
            BatchCompressor(**settings)


def of_image(compress, image):
    return to_array(compress((from_array(image)[None], None))[0][0])


class TestHost(HostConformance):
    """What the Compress of every host does."""

    make = staticmethod(BatchCompressor)
    call = staticmethod(of_image)
    has_saliency = True  # that of the module in training


class TestForms:
    """What BatchCompressor's arguments may be given as."""

    recipe = "foveate.demo:scene_net"

    @pytest.fixture
    def images(self):
        return (torch.rand(3, 3, 48, 64) * 255).byte()

    def expected(self, compressor, images):
        return torch.stack(compressor.decode(compressor.encode(images)))

    def test_of_a_prefilter(self, images):
        settings = {"strength": 0.7, "filter": "scale-space", "sigma": 9, "even": True}
        whole = {"saliency": self.recipe, **settings}
        expected = self.expected(foveate.Compressor("jpeg:30", foveate.Prefilter(**whole)), images)
        for arguments in (
            {"prefilter": whole},
            {"prefilter": foveate.Prefilter(**whole)},
            {"prefilter": settings, "saliency": self.recipe},
            {"prefilter": foveate.Prefilter(**settings), "saliency": {"model": self.recipe}},
            {"prefilter": {**whole, "strength": 0.1}, "strength": 0.7},
        ):
            out = BatchCompressor("jpeg:30", **arguments).compress(images)
            assert (out.int() - expected.int()).abs().float().mean() < 0.1, arguments
        assert (BatchCompressor("jpeg:30").compress(images).int() - expected.int()).abs().float().mean() > 1

    def test_of_a_target(self, images):
        expected = self.expected(foveate.Compressor("jpeg", target=foveate.TargetSize(bpp=1)), images)
        for target in ({"bpp": 1}, foveate.TargetSize(bpp=1)):
            assert torch.equal(BatchCompressor("jpeg", target=target).compress(images), expected)

    def test_of_a_control(self, images):
        settings = {"witnesses": self.recipe, "keep": "kl0.3", "qualities": [10, 50], "scales": [1.0], "strengths": 0.9}
        prefilter = foveate.Prefilter(self.recipe, sigma=9)
        expected = self.expected(foveate.Compressor("jpeg", prefilter, control=foveate.RateControl(**settings)), images)
        for control in (settings, foveate.RateControl(**settings)):
            compress = BatchCompressor("jpeg", prefilter=prefilter, control=control)
            assert torch.equal(compress.compress(images), expected)
        with pytest.raises(ValueError, match="the control chooses"):
            BatchCompressor("jpeg", quality=30, control=settings)

    @one_package
    def test_a_control_smooths_by_the_maps_of_the_module(self, package, images):
        module = package[1]().eval()
        settings = {"witnesses": self.recipe, "qualities": [30], "scales": [1.0], "strengths": [0.9]}
        compress = BatchCompressor("jpeg", control=settings, prefilter={"sigma": 9})
        prefilter = foveate.Prefilter(foveate.GradCam(module, preprocess=Normalization()), sigma=9)
        expected = self.expected(foveate.Compressor("jpeg", prefilter, control=foveate.RateControl(**settings)), images)
        assert (compress.compress(images, module).int() - expected.int()).abs().float().mean() < 0.1

    @one_package
    def test_a_codec_that_takes_maps_has_those_of_the_module(self, package, images):
        module = package[1]().eval()
        roi = "hevc:32,preset=ultrafast,roi=8"
        compress = BatchCompressor(roi)
        assert compress._draws.strength is None
        cam = foveate.GradCam(module, preprocess=Normalization())
        expected = self.expected(foveate.Compressor(roi, saliency=cam), images)
        assert (compress.compress(images, module).int() - expected.int()).abs().float().mean() < 0.5

    @one_package
    @pytest.mark.parametrize("by_name", [False, True])
    def test_a_saliency_without_a_model(self, package, images, by_name):
        @foveate.register_saliency
        class Brightness(foveate.Saliency):
            def __call__(self, images):
                return images.float().mean(1, keepdim=True) / (255 if images.dtype == torch.uint8 else 1)

        compress = BatchCompressor(
            "jpeg:30", saliency="Brightness" if by_name else {"method": "Brightness"}, strength=0.9
        )
        expected = self.expected(foveate.Compressor("jpeg:30", foveate.Prefilter(Brightness(), 0.9)), images)
        for module in (None, package[1]()):
            out = compress.compress(images, module)
            assert (out.int() - expected.int()).abs().float().mean() < 0.1

    @one_package
    def test_a_method_by_its_name_explains_the_module(self, package, images):
        module = package[1]().eval()
        expected = BatchCompressor(saliency={"method": "ActivationMap"}, strength=0.9).compress(images, module)
        assert torch.equal(BatchCompressor(saliency="ActivationMap", strength=0.9).compress(images, module), expected)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true", "32-true"])
@one_package
def test_a_pre_filter_inside_a_step(package, tmp_path, precision):
    """With gradients through it, in whatever precision the module is trained."""
    from foveate.integrations.kornia import Jpeg, StrengthCurve
    from foveate.integrations.kornia import Prefilter as Augmentation

    gradients = []

    class Net(package[1]):
        def __init__(self):
            super().__init__()
            self.plain = foveate.Prefilter(foveate.GradCam("foveate.demo:scene_net"), 0.8)
            self.augment = torch.nn.Sequential(
                Augmentation("foveate.demo:scene_net", curve=StrengthCurve(0.9), sigma=24), Jpeg(30)
            )

        def training_step(self, batch, batch_idx):
            images = Normalization(MEAN, STD).undo(batch[0])
            images = self.augment(self.plain(images).to(batch[0].dtype))
            return torch.nn.functional.cross_entropy(self(images), batch[1])

        def on_after_backward(self):
            gradients.extend(p.grad.abs().max() for p in self.augment.parameters())

    run = trainer(package, tmp_path, max_epochs=1, precision=precision, limit_train_batches=1, limit_val_batches=0)
    run.fit(Net(), loader(4), loader(4))
    assert len(gradients) == 3
    assert all(torch.isfinite(g) and g > 0 for g in gradients)


class TestNormalization:
    def test_there_and_back(self):
        normalization, images = Normalization(MEAN, STD), torch.rand(2, 3, 8, 8)
        for dtype, atol in ((torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)):
            torch.testing.assert_close(normalization.undo(normalization(images).to(dtype)), images, atol=atol, rtol=0)
        with pytest.raises(ValueError, match="mean, std"):
            Normalization().undo(normalization(images))


def test_figures_can_be_drawn_on_axes_of_one_s_own():
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    figure, same = _figures.rate_accuracy({"jpeg": ([1.0, 2.0], [0.5, 0.9])}, "top-1", clean=0.95, ax=ax)
    assert same is ax
    assert figure is ax.get_figure()
    assert _figures.pixels(figure).ndim == 3
