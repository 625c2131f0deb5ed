"""What the tests of exports share: a source with everything in it, how to compare targets, and a run's processes."""

import contextlib
import gzip
import os
import signal
from pathlib import Path

from foveate.demo import Scenes

NET = "foveate.demo:scene_net"


def scenes_tree(root, count=10, seed=3):
    """An ImageFolder of scenes as PNG and JPEG in two classes, with files beside them that are not images."""
    for k, (scene, _) in enumerate(Scenes(count, seed)):
        path = root / ("cat", "dog/deep")[k % 2] / f"{k:03}.{('png', 'jpg')[k % 3 == 0]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene.save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))
    (root / "notes.txt").write_text("where they are from\n")
    (root / "dog" / "boxes.json").write_text("[1, 2]")
    (root / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    return root


def unpacked(path):
    """The bytes of a file, without the compression of gzip if its name tells of that."""
    data = Path(path).read_bytes()
    return gzip.decompress(data) if Path(path).suffix == ".gz" else data


def pack(path, data):
    """Write a file that :func:`unpacked` reads."""
    Path(path).write_bytes(gzip.compress(data, mtime=0) if Path(path).suffix == ".gz" else data)


def snapshot(root):
    """The bytes of every file that a user sees below a folder, by its path."""
    root = Path(root)
    paths = (p for p in root.rglob("*") if p.is_file() and ".foveate" not in p.relative_to(root).parts)
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in paths if p.name != ".foveate.lock"}


def content(files):
    """Of a snapshot all but what says which source it was made from, and when that was changed."""
    return {k: v for k, v in files.items() if k not in ("foveate-parts.jsonl.gz", "foveate-summary.json")}


class Troubled:
    """Scenes with labels, as PIL images; the process that asks for one of them is killed.

    Args:
        count: how many scenes.
        at: the one that kills.
        marker: a file that says that it has, and will not do so again; None lets it kill each time.
    """

    classes = ("even", "odd")

    def __init__(self, count, at=None, marker=None):
        self.scenes, self.at, self.marker = Scenes(count, 5), at, marker

    def __len__(self):
        return len(self.scenes)

    def __getitem__(self, k):
        if k == self.at and not (self.marker is not None and Path(self.marker).exists()):
            if self.marker is not None:
                Path(self.marker).write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return self.scenes[k][0], k % 2


def workers_of(pid):
    """The processes that another started and that are alive, by what Linux says."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):  # the name alone: a process may go while it is looked at
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z" and b"spawn_main" in (entry / "cmdline").read_bytes():
                pids.append(int(entry.name))
    return pids
