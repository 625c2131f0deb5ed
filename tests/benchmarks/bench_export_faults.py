"""Exports whose processes are killed at random moments, again and again, and which must end as an undisturbed one.

    python tests/benchmarks/bench_export_faults.py [--kills 200] [--folder FOLDER]

Half of the kills are of a tree and half of shards; two in five end a worker, the others the process that started the
workers. After each of the latter nothing half written may be seen in the target, and the same command goes on. Each
run that gets to its end is compared with an undisturbed one, byte for byte, verified, and begun again.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from exporting import snapshot
from test_export import alive, children, start

from foveate.demo import Scenes
from foveate.export import verify


class Victim:
    """An export of one kind that is killed again and again."""

    def __init__(self, source: Path, folder: Path, kind: str, generator: torch.Generator) -> None:
        self.source, self.out, self.kind, self.generator = source, folder / f"{kind}-out", kind, generator
        assert start(source, folder / kind, kind).wait() == 0
        self.whole = snapshot(folder / kind)
        self.counts: Counter[str] = Counter()
        self.process = start(source, self.out, kind)

    def draw(self, n: int) -> int:
        return int(torch.randint(n, (), generator=self.generator))

    def done(self) -> int:
        return len(list((self.out / ".foveate" / "parts").glob("*")))

    def kill(self) -> None:
        """Kill a process at a random moment, and go on: so many parts later, and then a little."""
        parts = self.done() + self.draw(3)
        while self.process.poll() is None and (not children(self.process.pid) or self.done() < parts):
            time.sleep(0.005)
        time.sleep(self.draw(80) / 1000)
        workers = children(self.process.pid)
        if self.process.poll() is None and workers:
            if self.draw(5) < 2:
                os.kill(workers[self.draw(len(workers))], signal.SIGKILL)
                self.counts["workers"] += 1
            else:
                self.process.kill()
                self.process.wait()
                while any(map(alive, workers)):
                    time.sleep(0.01)
                self.counts["drivers"] += 1
                there = snapshot(self.out)
                assert there.items() <= self.whole.items(), "something half written is to be seen"
                self.counts["midway"] += 0 < len(there) < len(self.whole)
        if self.process.poll() is not None:
            if self.process.returncode == 0:
                self.compare()
            self.process = start(self.source, self.out, self.kind)

    def end(self) -> None:
        """Let it get to its end."""
        if self.process.wait() != 0:
            assert start(self.source, self.out, self.kind).wait() == 0
        self.compare()

    def compare(self) -> None:
        assert snapshot(self.out) == self.whole, "it ended otherwise than an undisturbed run"
        assert verify(self.out) == []
        assert not (self.out / ".foveate").exists()
        self.counts["ended alike"] += 1
        shutil.rmtree(self.out)


def main() -> None:
    """Kill, compare, and print how often."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=os.getpid())
    parser.add_argument("--folder", type=Path, help="default: that for temporary files")
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(args.seed)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        for k, (scene, _) in enumerate(Scenes(48, 5)):
            path = folder / "in" / f"{k % 3}" / f"{k:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            scene.resize((320, 320)).save(path, compress_level=1)
        for kind in ("tree", "shards"):
            victim = Victim(folder / "in", folder, kind, generator)
            while victim.counts["workers"] + victim.counts["drivers"] < args.kills // 2:
                victim.kill()
            victim.end()
            print(f"seed {args.seed}, {kind}: {dict(victim.counts)}", flush=True)


if __name__ == "__main__":
    main()
