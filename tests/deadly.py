"""Datasets of which an image ends what works on it; worker processes import them, and so nothing else that is slow."""

import os
import signal
import time

from exporting import Troubled


class Observed(Troubled):
    """The actor that asks for one of its scenes is killed, once; which GPU that saw is written down."""

    def __getitem__(self, k):
        if k == self.at and not self.marker.exists():
            self.marker.with_suffix(".gpu").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
            kill_actor(self.marker)
        return self.scenes[k][0], k % 2


def kill_actor(marker):
    """What a process does to the actor that started it, after which it waits for its own end."""
    marker.write_text(str(os.getppid()))
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)


class Deadly(Troubled):
    """Of its scenes 1 kills the actor each time, 2 its process each time, and 3 takes forever."""

    def __getitem__(self, k):
        for pid in (os.getpid(), os.getppid()):
            (self.marker / str(pid)).touch()
        if k == 1:
            kill_actor(self.marker / str(os.getppid()))
        if k == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if k == 3:
            time.sleep(600)
        return self.scenes[k][0], k % 2
