"""Power cuts and kills: what was reported done is there, and the same call ends as an undisturbed run."""

import functools
import math
import os
import shutil
import time

import pytest
import torch
from exporting import snapshot
from PIL import Image
from powercuts import Disk, Images, Running, Whole, lay_out, observed

from foveate import Compressor
from foveate.export import compress_dataset

SYNCED, ALL = ("synced", "synced"), ("all", "all")
TORN = [("all", "synced"), ("all", "cut"), ("all", "zeros")]
"""What a journal of names makes of contents: files that are empty, half written, or without their blocks."""
RANDOM = ("random", "random")


@pytest.fixture
def source(tmp_path):
    return noise(tmp_path / "in", 12)


def noise(root, count, size=(16, 24), first=0):
    """Noise in three folders, with a file that is not an image."""
    generator = torch.Generator().manual_seed(first)
    for k in range(first, first + count):
        path = root / "abc"[k % 3] / f"{k:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = torch.randint(256, (3, *(side // 8 for side in size)), dtype=torch.uint8, generator=generator)
        Image.fromarray(small.permute(1, 2, 0).numpy()).resize(size[::-1]).save(path)
    (root / "a" / "about.txt").write_text("noise\n")
    return root


def change(source):
    """Add images, change one, and break one, which then has another name in the target."""
    noise(source, 3, first=12)
    shutil.copy(source / "a" / "000.png", source / "b" / "001.png")
    (source / "c" / "005.png").write_bytes(b"no image")


def export(source, target, shards, report=lambda number: None, progress=None):
    options = {"shards": shards, "part": 3, "workers": 0, "progress": progress}
    with observed(report):
        return compress_dataset(source, target, Compressor("jpeg:60"), **options)


def left_to_do(steps):
    """How many units a run had to do, by what it said of its progress."""
    return steps[0].total - steps[0].done if steps else 0


class Trial:
    """An export that is recorded, and then gone on with from whatever power cuts leave of it.

    Args:
        folder: to work in.
        shards: whether it writes shards.
        begun: whether the target was finished before, and images came to the source or changed since.
    """

    def __init__(self, folder, shards, begun=False, count=12, size=(16, 24)):
        self.shards, self.source = shards, noise(folder / "in", count, size)
        self.before, self.root, self.resumed = folder / "before", folder / "disk", folder / "resumed"
        self.before.mkdir()
        if begun:
            export(self.source, self.before / "out", shards)
            change(self.source)
        shutil.copytree(self.before, folder / "whole")
        steps = []
        export(self.source, folder / "whole" / "out", shards, progress=steps.append)
        self.whole, self.total = Whole(folder / "whole" / "out"), left_to_do(steps)
        before = snapshot(self.before / "out")
        self.untouched = {part for part in self.whole.units if not self.whole.lost(before, {part})}
        self.outcomes = {}

    def start(self, deaf=lambda path: False):
        """Begin anew, on a new disk; see :class:`Disk`."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.before, self.root)
        self.disk = Disk(self.root, deaf)

    def record(self, monkeypatch, life=None):
        """Export, and die after so many operations."""
        self.disk.life, self.returned = life, float("inf")
        with self.disk.recording(monkeypatch):
            export(self.source, self.root / "out", self.shards, self.disk.report)
            self.returned = self.disk.moments - 1

    def wrongs(self, cuts, first=0):
        """Yield what is wrong after each kind of cut and the same call then, from a moment on."""
        generator = torch.Generator().manual_seed(0)
        for moment in range(first, self.disk.moments):
            for names, contents in cuts:
                files = self.disk.left(moment, names, contents, generator)
                target = {name.removeprefix("out/"): data for name, data in files.items()}
                reported, outcome = self.disk.reported(moment), functools.partial(self._outcome, files)
                if wrong := self.judged(target, reported, moment >= self.returned, outcome):
                    yield f"after {moment} of {self.disk.moments} moments, {names}, {contents}: {wrong}"

    def judged(self, target, reported, returned, outcome):
        """Say what is wrong with a target after a power cut, and with what became of it then; nothing if all is well.

        Args:
            target: its files.
            reported: the parts that were reported done before.
            returned: whether the call had returned.
            outcome: goes on from it, and returns what :meth:`go_on` does.
        """
        lost = self.whole.lost(target, self.untouched | reported)
        if lost:
            return f"lost {sorted(lost)}"
        if returned and any(target.get(name) != data for name, data in self.whole.files.items()):
            return "it had returned, and is not whole"
        left, wrong = outcome()
        again = left - self.total + sum(self.whole.units[number] for number in reported)
        return wrong or (f"{again} units of parts that were reported done are done again" if again > 0 else "")

    def _outcome(self, files):
        """Go on from what is left, once where that is the same."""
        key = frozenset((name, data) for name, data in files.items() if not name.startswith(UNREAD))
        if key not in self.outcomes:
            shutil.rmtree(self.resumed, ignore_errors=True)
            lay_out(files, self.resumed)
            self.outcomes[key] = self.go_on(self.resumed / "out")
        return self.outcomes[key]

    def go_on(self, target):
        """Export again: return how many units there were to be done, and what is wrong then."""
        steps = []
        try:
            export(self.source, target, self.shards, progress=steps.append)
        except (OSError, ValueError) as error:
            return left_to_do(steps), str(error)
        return left_to_do(steps), self.whole.differs(target)


UNREAD = ("out/.foveate/tmp/", "out/.foveate/holder.json", "out/.foveate.lock")
"""What a run does not read: where only that differs, it is not gone on with again."""

each_kind = pytest.mark.parametrize("shards", [False, True], ids=["tree", "shards"])


@pytest.fixture
def no_waiting(monkeypatch):
    """Leave out the syncs of what is not recorded: they take long, and nothing depends on them."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.usefixtures("no_waiting")
class TestSimulated:
    @pytest.mark.parametrize("begun", [False, True], ids=["new", "added"])
    @each_kind
    def test_a_power_cut_after_every_operation(self, tmp_path, monkeypatch, shards, begun):
        trial = Trial(tmp_path, shards, begun)
        trial.start()
        trial.record(monkeypatch)
        assert not list(trial.wrongs([SYNCED, *TORN, ALL, RANDOM, RANDOM, RANDOM]))
        assert trial.returned < trial.disk.moments
        assert len(trial.outcomes) > 30

    @pytest.mark.parametrize("begun", [False, True], ids=["new", "added"])
    @each_kind
    def test_killed_gone_on_with_and_then_a_power_cut(self, tmp_path, monkeypatch, shards, begun):
        """What a dead process wrote and did not sync is seen by the next one, which must not rely on it."""
        trial = Trial(tmp_path, shards, begun)
        trial.start()
        trial.record(monkeypatch)
        made_or_removed = [n for n, name in enumerate(trial.disk.operations, 1) if name in ("mkdir", "unlink")]
        assert len(made_or_removed) > 10
        for life in made_or_removed:  # and not synced
            trial.start()
            trial.record(monkeypatch, life)
            killed = trial.disk.moments
            trial.record(monkeypatch)
            assert not list(trial.wrongs([SYNCED, ALL], killed)), f"killed after {life} operations"

    @pytest.mark.parametrize(
        "deaf",
        [
            lambda path: True,
            lambda path: path.endswith((".jpg", ".tar")),
            lambda path: path in ("out/a", "out"),
            lambda path: path.startswith("out/.foveate/tmp/"),
            lambda path: path == "out/.foveate/parts",
        ],
        ids=["all", "images", "folders", "bookkeeping", "folder of records"],
    )
    @each_kind
    def test_it_is_seen_where_a_sync_is_missing(self, tmp_path, monkeypatch, shards, deaf):
        trial = Trial(tmp_path, shards)
        trial.start(deaf)
        trial.record(monkeypatch)
        assert next(trial.wrongs([SYNCED]), None)


@pytest.fixture
def images(tmp_path):
    try:
        images = Images(tmp_path / "images")
    except OSError as error:
        pytest.skip(f"needs ext4 in a file to be mounted: {error}")
    yield images
    images.close()


class Mounted:
    """Exports to a file system in a file, of which a copy is what a power cut leaves."""

    def __init__(self, images, trial):
        self.images, self.trial = images, trial
        self.begun = images.copy(images.empty, "begun")
        root = images.mount(self.begun)
        shutil.copytree(trial.before, root, dirs_exist_ok=True)
        images.unmount(root)

    def cut(self, parts, delay, syncs=True):
        """Export, cut the power a while after so many parts were done, or after all is, and say what is wrong then."""
        trial, images = self.trial, self.images
        image = images.copy(self.begun, "disk")
        root = images.mount(image)
        running = Running(functools.partial(export, trial.source, root / "out", trial.shards), syncs)
        try:
            running.wait(parts)
            time.sleep(delay)
            running.stop()
            left = images.copy(image, "left")
        finally:
            running.kill()
        images.unmount(root)
        target = images.mount(left) / "out"
        wrong = trial.judged(snapshot(target), running.reported, running.returned, lambda: trial.go_on(target))
        images.unmount(target.parent)
        return wrong


class TestMounted:
    @pytest.mark.parametrize("begun", [False, True], ids=["new", "added"])
    @each_kind
    def test_power_cuts_at_random_moments(self, tmp_path, images, shards, begun):
        trial, generator = Trial(tmp_path, shards, begun, 18, (160, 240)), torch.Generator().manual_seed(os.getpid())
        mounted = Mounted(images, trial)
        assert not mounted.cut(math.inf, 0)  # as soon as it has ended
        for _ in range(4):
            parts = int(torch.randint(trial.total // 3 + 1, (), generator=generator))
            delay = float(torch.rand((), generator=generator)) / 20
            assert not mounted.cut(parts, delay), f"{parts} parts and {delay:.3f} s"

    @each_kind
    def test_it_is_seen_where_nothing_is_synced(self, tmp_path, images, shards):
        mounted = Mounted(images, Trial(tmp_path, shards, count=18, size=(160, 240)))
        assert any(mounted.cut(math.inf, 0, syncs=False) for _ in range(3))
