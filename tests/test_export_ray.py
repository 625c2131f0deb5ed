"""The engine for many machines: what Ray does is what one machine does, also when something dies."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import RECIPES
from exporting import NET, Troubled, scenes_tree, snapshot

from foveate import Compressor, GradCam, Prefilter, RateControl, Witness
from foveate.demo import PREPROCESS, Scenes
from foveate.export import Refused, compress_dataset, verify
from foveate.export.ray import _matters, _portable

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("ray.data", reason="Ray Data is not installed")

CAM = GradCam(NET, preprocess=PREPROCESS)
TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def cluster():
    """A cluster as a user would have it: started before, with a GPU that exists only in its books."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS))  # as if what the tests define were installed on all nodes
        ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture
def tree(tmp_path):
    return scenes_tree(tmp_path / "tree")


def idle(cpus=2.0, seconds=20):
    """Whether the cluster has all its CPUs back, soon."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if ray.available_resources().get("CPU") == cpus:
            return True
        time.sleep(0.2)
    return False


@pytest.mark.usefixtures("cluster")
class TestSameAsOneMachine:
    def test_a_tree_with_a_prefilter(self, tree, tmp_path):
        (tmp_path / "built").mkdir()
        cam = GradCam(f"{RECIPES}:counted:{tmp_path / 'built'}", preprocess=PREPROCESS)
        compressor = Compressor("webp:40", Prefilter(cam, 0.7))
        one = compress_dataset(tree, tmp_path / "local", compressor, part=3, workers=0)
        (here,) = (tmp_path / "built").iterdir()
        here.unlink()
        seen = []
        many = compress_dataset(
            tree, tmp_path / "ray", compressor, part=3, engine="ray", progress=lambda *args: seen.append(args)
        )
        assert snapshot(tmp_path / "ray") == snapshot(tmp_path / "local")
        assert many == one
        assert not (tmp_path / "ray" / ".foveate").exists()
        processes = [path.name.split("-")[0] for path in (tmp_path / "built").iterdir()]
        assert 1 <= len(processes) == len(set(processes)) <= 2  # once an actor, of which there is one a CPU
        assert str(os.getpid()) not in processes
        assert sum(report.units for report, _ in seen) == 13
        assert {total for _, total in seen} == {13}
        assert ray.is_initialized()
        assert idle()

    def test_shards_with_rate_control_though_an_actor_is_killed(self, tmp_path):
        """It is killed by SIGKILL in the middle of a part; two actors share the GPU that the cluster says it has."""
        control = RateControl(Witness(NET, PREPROCESS), strengths=(0, 0.5), as_stored=True)
        compressor = Compressor("jpeg", Prefilter(CAM), control=control)
        compress_dataset(Troubled(10), tmp_path / "local", compressor, part=3, workers=0, shards=True)
        source = Observed(10, 7, tmp_path / "killed")
        compress_dataset(
            source, tmp_path / "ray", compressor, part=3, shards=True, engine="ray", gpus=0.5, device="cpu"
        )
        assert int((tmp_path / "killed").read_text()) != os.getpid()
        assert snapshot(tmp_path / "ray") == snapshot(tmp_path / "local")
        assert sum(name.endswith(".tar") for name in snapshot(tmp_path / "ray")) == 4
        assert ray.available_resources()["GPU"] <= 1
        assert float((tmp_path / "killed.gpu").read_text()) == 0.5


class Observed(Troubled):
    """Writes down the share of a GPU that Ray gave to the actor that will be killed."""

    def __getitem__(self, k):
        if k == self.at:
            assigned = ray.get_runtime_context().get_assigned_resources()
            self.marker.with_suffix(".gpu").write_text(str(assigned["GPU"]))
        return super().__getitem__(k)


@pytest.mark.usefixtures("cluster")
class TestTrouble:
    def test_a_picture_that_kills_each_time(self, tmp_path):
        with pytest.raises(RuntimeError, match=r"workers: processes died 3 times over part 1 \(2 to 3\)") as error:
            compress_dataset(Troubled(4, 2), tmp_path / "out", Compressor("jpeg"), part=2, workers=1, engine="ray")
        assert "\n" not in str(error.value)
        assert idle()

    def test_an_error_arrives_as_it_is_and_the_next_run_goes_on(self, tree, tmp_path):
        with pytest.raises(Refused, match=r"cat/broken\.jpg: no picture") as error:
            compress_dataset(
                tree, tmp_path / "out", Compressor("jpeg"), others="refuse", part=2, workers=1, engine="ray"
            )
        assert "\n" not in str(error.value)
        assert any("in __call__" in note for note in error.value.__notes__)
        assert idle()
        done = {path.name for path in (tmp_path / "out" / ".foveate" / "parts").iterdir()}
        assert "000000.jsonl" in done
        (tree / "cat" / "broken.jpg").unlink()
        Scenes(1)[0][0].save(tree / "cat" / "broken.jpg")
        for name in ("notes.txt", "dog/boxes.json"):
            (tree / name).unlink()
        # One machine ends what the cluster began.
        summary = compress_dataset(tree, tmp_path / "out", Compressor("jpeg"), others="refuse", part=2, workers=0)
        assert summary.kinds == {"compressed": 11, "missing": 2}
        assert verify(tmp_path / "out") == []

    def test_a_job_that_cannot_be_sent(self, tmp_path):
        source = Troubled(2)
        source.marker = threading.Lock()
        with pytest.raises(TypeError, match="cannot be sent to worker processes"):
            compress_dataset(source, tmp_path / "out", Compressor("jpeg"), engine="ray")


def test_errors_that_cannot_be_pickled_keep_their_words():
    import pickle

    class Odd(Exception):
        def __init__(self, a, b):
            super().__init__(f"{a} and {b}")

    found = pickle.loads(_portable(Odd(1, 2)))
    assert (type(found), str(found)) == (RuntimeError, "Odd: 1 and 2")
    kept = pickle.loads(_portable(FileNotFoundError(2, "gone", "a.jpg")))
    assert (type(kept), kept.filename) == (FileNotFoundError, "a.jpg")


SLOWLY = """
import sys
sys.path.insert(0, {tests!r})
from exporting import Troubled
from foveate import Compressor
from foveate.export import compress_dataset
compress_dataset(Troubled(40), {target!r}, Compressor("webp:60"), part=2, engine="ray", workers=2)
"""


class TestDriver:
    def test_killed_and_gone_on_with(self, cluster, tmp_path):
        """A driver joins the cluster of RAY_ADDRESS and is killed; Ray goes on with what it began."""
        target = tmp_path / "ray"
        script = SLOWLY.format(tests=str(TESTS), target=str(target))
        environment = os.environ | {"RAY_ADDRESS": cluster}
        driver = subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE, text=True)
        parts = target / ".foveate" / "parts"
        while driver.poll() is None and len(list(parts.glob("*"))) < 4:
            time.sleep(0.01)
        driver.kill()
        _, said = driver.communicate()
        assert driver.returncode == -signal.SIGKILL, said
        begun = len(list(parts.iterdir()))
        assert 4 <= begun < 20
        assert idle()
        seen = []
        compress_dataset(
            Troubled(40), target, Compressor("webp:60"), part=2, engine="ray", workers=2,
            progress=lambda *args: seen.append(args),
        )  # fmt: skip
        assert sum(report.units > 0 for report, _ in seen) <= 20 - begun
        compress_dataset(Troubled(40), tmp_path / "local", Compressor("webp:60"), part=2, workers=0)
        assert snapshot(target) == snapshot(tmp_path / "local")

    def test_the_command_starts_a_cluster_of_its_own_and_says_nothing_of_it(self, tree, tmp_path):
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        done = subprocess.run(
            [sys.executable, "-m", "foveate", "compress", "tree", "out", "--engine", "ray", "--workers", "1"],
            capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("10 compressed, 2 copied, 1 unreadable; ")
        assert all(line.startswith("compress: ") for line in done.stderr.replace("\r", "\n").split("\n") if line)
        assert verify(tmp_path / "out") == []


@pytest.mark.usefixtures("cluster")
def test_the_user_s_ray_data_is_as_before():
    assert ray.is_initialized()
    assert ray.data.DataContext.get_current().enable_progress_bars
    assert all(_matters not in handler.filters for handler in logging.getLogger("ray.data").handlers)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"engine": "ray", "workers": 0}, "workers: expected an integer of at least 1"),
        ({"gpus": 0.5}, "only engine='ray'"),
    ],
)
def test_arguments(given, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        compress_dataset(Scenes(1), tmp_path, Compressor("jpeg"), **given)
