"""The engine for many machines: what Ray does is what one machine does, also when something dies."""

import fcntl
import logging
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest
from conftest import RECIPES
from deadly import Deadly, Observed
from exporting import NET, Troubled, content, scenes_tree, snapshot

import foveate
from foveate import Compressor, GradCam, Prefilter, RateControl, Witness
from foveate.demo import PREPROCESS, Scenes
from foveate.export import RefusedError, compress_dataset, verify
from foveate.export import _ray as engine
from foveate.export._supervisor import PartLostError
from foveate.export._work import Report, portable

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("ray.data", reason="Ray Data is not installed")

CAM = GradCam(NET, preprocess=PREPROCESS)
TESTS = Path(__file__).parent
CPUS = 3.0


@pytest.fixture(scope="module")
def cluster():
    """A cluster as a user would have it: started before, with CPUs and a GPU that exist only in its books."""
    with pytest.MonkeyPatch.context() as patch:
        # As if Foveate, as it is tested, and what the tests define were installed on all nodes.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(foveate.__file__).parents[1]), str(TESTS)]))
        ray.init("local", num_cpus=int(CPUS), num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture
def tree(tmp_path):
    return scenes_tree(tmp_path / "tree")


def soon(true, seconds=20):
    """Whether something comes true in so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.2)
    return False


def idle():
    """Whether the cluster has all its CPUs back, soon."""
    return soon(lambda: ray.available_resources().get("CPU") == CPUS)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.usefixtures("cluster")
class TestSameAsOneMachine:
    def test_a_tree_with_a_prefilter(self, tree, tmp_path):
        (tmp_path / "built").mkdir()
        cam = GradCam(f"{RECIPES}:counted:{tmp_path / 'built'}", preprocess=PREPROCESS)
        compressor = Compressor("webp:40", Prefilter(cam, 0.7))
        local_summary = compress_dataset(tree, tmp_path / "local", compressor, part=3, workers=0)
        (here,) = (tmp_path / "built").iterdir()
        here.unlink()
        seen = []
        ray_summary = compress_dataset(tree, tmp_path / "ray", compressor, part=3, engine="ray", progress=seen.append)
        assert snapshot(tmp_path / "ray") == snapshot(tmp_path / "local")
        assert ray_summary == local_summary
        assert not (tmp_path / "ray" / ".foveate").exists()
        processes = [path.name.split("-")[0] for path in (tmp_path / "built").iterdir()]
        assert 1 <= len(processes) == len(set(processes)) <= CPUS - 1  # once an actor, which leave a CPU free
        assert str(os.getpid()) not in processes
        assert (seen[0].done, seen[-1].done) == (0, 13)
        assert {step.total for step in seen} == {13}
        assert ray.is_initialized()
        assert idle()
        assert soon(lambda: not any(map(alive, processes)))

    def test_shards_with_rate_control_though_an_actor_is_killed(self, tmp_path):
        """It is killed by SIGKILL in the middle of a part; it takes half of the GPU that the cluster says it has."""
        control = RateControl(Witness(NET, PREPROCESS), strengths=(0, 0.5), as_stored=True)
        compressor = Compressor("jpeg", Prefilter(CAM), control=control)
        compress_dataset(Observed(10), tmp_path / "local", compressor, part=3, workers=0, shards=True)
        source = Observed(10, 7, tmp_path / "killed")
        free = []
        compress_dataset(
            source, tmp_path / "ray", compressor, part=3, shards=True, engine="ray", gpus=0.5, workers=1, device="cpu",
            progress=lambda step: free.append(ray.available_resources()),
        )  # fmt: skip
        assert int((tmp_path / "killed").read_text()) != os.getpid()
        assert snapshot(tmp_path / "ray") == snapshot(tmp_path / "local")
        assert sum(name.endswith(".tar") for name in snapshot(tmp_path / "ray")) == 4
        assert 0.5 in {now.get("GPU", 0) for now in free}
        assert (tmp_path / "killed.gpu").read_text() == "0"


@pytest.mark.usefixtures("cluster")
class TestTrouble:
    def test_all_else_is_done(self, tmp_path, monkeypatch):
        monkeypatch.setattr(engine, "DEATHS", 1)
        seen, pids = [], tmp_path / "pids"
        pids.mkdir()
        options = {"part": 1, "workers": 2, "engine": "ray", "timeout": 3}
        with pytest.raises(RuntimeError, match=r"actors of Ray died again and again over part 1 \(1 to 1\)") as error:
            compress_dataset(
                Deadly(8, marker=pids), tmp_path / "out", Compressor("jpeg"), **options,
                progress=seen.append,
            )  # fmt: skip
        assert "\n" not in str(error.value)
        parts = {path.stem: path.read_text() for path in (tmp_path / "out" / ".foveate" / "parts").iterdir()}
        assert set(parts) == {f"{k:06}" for k in range(8) if k != 1}
        assert [name for name, lines in sorted(parts.items()) if '"failed"' in lines] == ["000002", "000003"]
        assert seen[-1].done == 8
        assert idle()
        assert soon(lambda: not any(alive(path.name) for path in pids.iterdir()))
        # One machine ends what the cluster began.
        for kinds in ({"compressed": 6, "failed": 2}, {"compressed": 8}):
            summary = compress_dataset(Troubled(8), tmp_path / "out", Compressor("jpeg"), part=1, workers=0, moved=True)
            assert summary.kinds == kinds
        assert verify(tmp_path / "out") == []

    def test_an_error_arrives_as_it_is_and_the_next_run_goes_on(self, tree, tmp_path):
        with pytest.raises(RefusedError, match=r"cat/broken\.jpg: no") as error:
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

    def test_a_node_without_foveate(self):
        message = "an error raised in its creation task\n  traceback:\nModuleNotFoundError: No module named 'foveate'\n"
        error = ray.exceptions.RayActorError(error_msg=message, actor_init_failed=True)
        assert engine._summary(error).startswith(
            "an actor of Ray cannot start: ModuleNotFoundError: No module named 'foveate'; install Foveate, and"
        )
        assert engine._summary(ray.exceptions.NodeDiedError("gone\nat noon")) == "NodeDiedError: gone"


class Losing:
    """As a Supervisor whose process dies over part 0 again and again."""

    def __init__(self, job, timeout):
        self.lost = []

    def __call__(self, part):
        if part.number == 0:
            self.lost.append(PartLostError("workers: over part 0"))
        return Report(part.number, len(part.units))


@pytest.mark.usefixtures("cluster")
class TestActor:
    """In this process, which is on the cluster as well."""

    @pytest.fixture(autouse=True)
    def _as_of_ray(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))

    @pytest.fixture
    def ledger(self):
        started = ray.remote(num_cpus=0)(engine._ledger()).remote(1)
        yield started
        ray.kill(started)

    def test_a_part_that_is_lost_is_told_once_and_the_next_is_done(self, monkeypatch, ledger):
        monkeypatch.setattr(engine, "Supervisor", Losing)
        actor = engine._Actor(b"", 1.0, ledger)
        lost, done = (actor({"part": [f'[{number}, [["a", "a", ""]]]']}) for number in (0, 1))
        raised = pickle.loads(lost["error"][0])
        assert (type(raised), str(raised)) == (PartLostError, "workers: over part 0")
        assert done["error"] == [b""]
        assert ray.get(ledger.at_work.remote()) == 0

    def test_a_module_that_a_node_lacks(self, tmp_path, ledger):
        (tmp_path / "only_here.py").write_text("class Mine: pass")
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(tmp_path)
            import only_here

            job = pickle.dumps(only_here.Mine())
        actor = engine._Actor(job, 60.0, ledger)
        raised = pickle.loads(actor({"part": ['[0, [["a", "a", ""]]]']})["error"][0])
        assert isinstance(raised, ModuleNotFoundError)
        assert re.match("No module named 'only_here', on the node .* of Ray; install .* on all nodes, or", str(raised))


def test_errors_that_cannot_be_pickled_keep_their_words():
    class OddError(Exception):
        def __init__(self, a, b):
            super().__init__(f"{a} and {b}")

    unpickled = pickle.loads(portable(OddError(1, 2)))
    assert (type(unpickled), str(unpickled)) == (RuntimeError, "OddError: 1 and 2")
    kept = pickle.loads(portable(FileNotFoundError(2, "gone", "a.jpg")))
    assert (type(kept), kept.filename) == (FileNotFoundError, "a.jpg")


class TestRoom:
    @pytest.mark.parametrize(
        ("nodes", "gpus", "room"),
        [
            ([(8, 0), (4, 0)], 0, 12),
            ([(8, 0), (4, 1)], 0.5, 2),
            ([(8, 0), (4, 1)], 1 / 3, 3),
            ([(8, 2), (1, 4)], 0.25, 9),
            ([(8, 3), (8, 1)], 2, 1),
            ([(0, 0)], 0, 0),
        ],
    )
    def test_of_a_cluster(self, nodes, gpus, room):
        gone = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
        there = [{"Alive": True, "Resources": {"CPU": float(cpus), "GPU": float(has)}} for cpus, has in nodes]
        assert engine._room([*there, gone], gpus) == room

    @pytest.mark.parametrize(
        ("cpus", "workers", "gpus", "parts", "count"),
        [(8, None, 0, 99, 7), (1, None, 0, 99, 1), (8, None, 0.5, 99, 2), (8, None, 0, 3, 3), (8, 8, 0, 99, 8)],
    )
    def test_for_actors(self, cpus, workers, gpus, parts, count):
        node = {"Alive": True, "Resources": {"CPU": float(cpus), "GPU": 1.0}}
        assert engine._count([node], workers, gpus, parts=parts, started=True) == count
        if cpus == 8:  # a cluster that others started may grow
            assert engine._count([node], 99, gpus, parts=99, started=False) == 99
            with pytest.raises(ValueError, match=r"^workers: this machine has room for . actors of 1 CPU.*not for 99"):
                engine._count([node], 99, gpus, parts=99, started=True)

    @pytest.mark.usefixtures("cluster")
    def test_that_no_node_has(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(engine, "PATIENCE", 3)
        monkeypatch.setattr(engine, "SILENCE", 0.5)
        with pytest.raises(RuntimeError, match="no node of the cluster has room for actors of 1 CPU and 2 GPUs"):
            compress_dataset(Troubled(2), tmp_path / "out", Compressor("jpeg"), engine="ray", gpus=2, device="cpu")
        output = capsys.readouterr().err.splitlines()
        prefix = "ray: waits for actors of 1 CPU and 2 GPUs: 0 of 1 are at work; the cluster has "
        assert output
        assert all(line == f"{prefix}3 of 3 CPUs and 1 of 1 GPUs free" for line in output)
        assert idle()

    @pytest.mark.usefixtures("cluster")
    def test_that_others_have_is_waited_for_until_one_interrupts_it(self, tmp_path, monkeypatch):
        class Other:
            def ready(self):
                return True

        other = ray.remote(num_cpus=int(CPUS))(Other).remote()
        assert ray.get(other.ready.remote())
        output = []

        def write(words, file):
            output.append(words)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        monkeypatch.setattr(engine, "SILENCE", 2)
        monkeypatch.setattr(engine.tqdm, "write", write)
        late = threading.Timer(60, ray.kill, [other])
        late.start()
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # off where tests run in the background
        with pytest.raises(KeyboardInterrupt):
            compress_dataset(Troubled(2), tmp_path / "out", Compressor("jpeg"), engine="ray", workers=1)
        signal.signal(signal.SIGINT, handler)
        late.cancel()
        ray.kill(other)
        assert output == ["ray: waits for actors of 1 CPU: 0 of 1 are at work; the cluster has 0 of 3 CPUs free"]
        assert idle()


SLOWLY = """
import os
from pathlib import Path
from beside import Slow
from foveate import Compressor
from foveate.export import compress_dataset

class Mine(Slow):
    def __getitem__(self, k):
        (Path({pids!r}) / str(os.getpid())).touch()
        (Path({pids!r}) / str(os.getppid())).touch()
        return super().__getitem__(k)

compress_dataset(Mine(40), {target!r}, Compressor("webp:60"), part=2, engine="ray", workers=1)
"""

BESIDE = """
import time
from exporting import Troubled

class Slow(Troubled):
    def __getitem__(self, k):
        time.sleep(0.05)
        return super().__getitem__(k)
"""


class TestDriver:
    def test_killed_and_gone_on_with(self, cluster, tmp_path):
        """A driver joins the cluster of RAY_ADDRESS and is killed; all that it began ends.

        Its Dataset is of the script itself, and of a module beside the script.
        """
        target, pids, script = tmp_path / "ray", tmp_path / "pids", tmp_path / "script.py"
        pids.mkdir()
        script.write_text(SLOWLY.format(pids=str(pids), target=str(target)))
        (tmp_path / "beside.py").write_text(BESIDE)
        path = os.pathsep.join([str(Path(foveate.__file__).parents[1]), str(TESTS)])
        environment = os.environ | {"RAY_ADDRESS": cluster, "PYTHONPATH": path}
        driver = subprocess.Popen([sys.executable, script], env=environment, stderr=subprocess.PIPE, text=True)
        parts = target / ".foveate" / "parts"
        while driver.poll() is None and len(list(parts.glob("*"))) < 4:
            time.sleep(0.01)
        driver.kill()
        _, output = driver.communicate()
        assert driver.returncode == -signal.SIGKILL, output
        assert idle()
        assert soon(lambda: not any(alive(path.name) for path in pids.iterdir()))
        begun = len(list(parts.iterdir()))
        assert 4 <= begun < 20
        # One machine ends what the cluster began.
        seen = []
        compress_dataset(
            Troubled(40), target, Compressor("webp:60"), part=2, workers=0, moved=True,
            progress=seen.append,
        )  # fmt: skip
        assert len({step.done for step in seen}) - 1 == 20 - begun
        compress_dataset(Troubled(40), tmp_path / "local", Compressor("webp:60"), part=2, workers=0)
        assert content(snapshot(target)) == content(snapshot(tmp_path / "local"))

    def test_the_command_starts_a_cluster_of_its_own_and_says_nothing_of_it(self, tree, tmp_path):
        """What it says goes to a terminal, where a bar is broken by whatever stands between."""
        ours, its = os.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        environment["PYTHONPATH"] = str(Path(foveate.__file__).parents[1])
        with subprocess.Popen(
            [sys.executable, "-m", "foveate", "compress", "tree", "out", "--engine", "ray", "--workers", "1"],
            stdout=subprocess.PIPE, stderr=its, text=True, cwd=tmp_path, env=environment,
        ) as done:  # fmt: skip
            os.close(its)
            output = b""
            while block := _read(ours):
                output += block
            printed, _ = done.communicate()
        os.close(ours)
        lines = [line for line in output.decode().replace("\r", "\n").split("\n") if line.strip()]
        assert done.returncode == 0, output
        assert printed.startswith("10 images compressed, 2 other files copied, 1 image unreadable; ")
        assert lines
        assert all(line.startswith(("compress: ", "ray: waits ")) for line in lines)
        assert verify(tmp_path / "out") == []


def _read(terminal):
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # as Linux has it when nobody writes to it any more
        return b""


@pytest.mark.usefixtures("cluster")
def test_the_user_s_ray_data_is_as_before():
    """Only while a run goes on does it say nothing, and wait for a part however long that takes."""
    context, console = ray.data.DataContext.get_current(), logging.getLogger("ray.data").handlers
    minutes = context.execution_no_progress_timeout_s
    with engine._quiet(context):
        assert (context.enable_progress_bars, context.execution_no_progress_timeout_s) == (False, -1)
        assert any(handler.level == logging.CRITICAL for handler in console)
    assert ray.is_initialized()
    assert (context.enable_progress_bars, context.execution_no_progress_timeout_s) == (True, minutes)
    assert all(handler.level < logging.CRITICAL for handler in console)


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        ({"engine": "ray", "workers": 0}, "workers: expected an integer of at least 1"),
        ({"engine": "ray", "gpus": 1.5}, "gpus: Ray gives an actor a share of one GPU, or whole ones, not 1.5"),
        ({"gpus": 0.5}, "only engine='ray'"),
    ],
)
def test_arguments(arguments, output, tmp_path):
    with pytest.raises(ValueError, match=output):
        compress_dataset(Scenes(1), tmp_path, Compressor("jpeg"), **arguments)
