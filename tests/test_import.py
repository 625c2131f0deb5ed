import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import foveate

HOSTS = ("torchvision", "captum", "kornia", "lightning", "pytorch_lightning", "albumentations", "matplotlib")


def imported_by(statement):
    probe = f"import sys\n{statement}\nprint(*[m for m in {HOSTS!r} if m in sys.modules])"
    return subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.split()


def test_importing_foveate_loads_no_host():
    assert imported_by("import foveate") == []


def test_the_functional_core_loads_no_host():
    names = "saliency, filters, prefilter, codecs, compressor, sweep, draws, models, images, evaluation, cli"
    assert imported_by(f"import foveate\nfrom foveate import {names}\nfoveate.GradCam, foveate.Compressor") == []


def test_importing_the_integrations_loads_no_host():
    assert imported_by("import foveate.integrations, foveate.saliency\nfoveate.CaptumAttribution") == []


def test_a_host_loads_no_other():
    statement = (
        "from foveate.integrations.albumentations import Compress, Prefilter\n"
        "import numpy\n"
        "Compress('jpeg', quality=(5, 60), saliency='foveate.demo:scene_net')(image=numpy.zeros((32, 32, 3), 'uint8'))"
    )
    loaded = imported_by(statement)
    assert "albumentations" in loaded
    assert not {"torchvision", "captum", "kornia", "lightning", "pytorch_lightning"} & set(loaded)


@pytest.mark.parametrize(
    ("host", "missing", "library"),
    [
        ("albumentations", ["albumentations"], "albumentations"),
        ("lightning", ["lightning", "pytorch_lightning"], "pytorch-lightning"),
        ("lightning", ["torchmetrics"], "pytorch-lightning"),
    ],
)
def test_a_missing_host_says_how_to_install_it(host, missing, library):
    hide = (
        "import sys, importlib.abc\n"
        "class Hidden(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name.split('.')[0] in {missing!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name.split('.')[0])\n"
        "sys.meta_path.insert(0, Hidden())\n"
        f"import foveate.integrations.{host}"
    )
    done = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True)
    assert f'; pip install "{library}' in done.stderr


@pytest.mark.parametrize("missing", ["lightning", "pytorch_lightning"])
def test_one_lightning_is_enough(missing):
    statement = (
        f"import sys\nsys.modules[{missing!r}] = None\nimport foveate.integrations.lightning as f\nf.SaliencyLogger()"
    )
    assert ("lightning" if missing == "pytorch_lightning" else "pytorch_lightning") in imported_by(statement)


def test_the_probe_sees_an_import():
    assert "torchvision" in imported_by("import foveate.transforms")


@pytest.mark.parametrize("name", foveate.__all__)
def test_every_public_name_is_there(name):
    assert getattr(foveate, name) is not None
    assert name in dir(foveate)


def test_public_modules_are_there_without_an_import_of_their_own():
    probe = (
        "import foveate, sys\n"
        "before = set(sys.modules)\n"
        "foveate.transforms.Compress, foveate.saliency.as_saliency, foveate.integrations\n"
        "print('foveate.transforms' in before, 'foveate.transforms' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_every_public_module_is_there():
    """But the command line, which is a program, and no part of the library."""
    entries = [path for path in Path(foveate.__file__).parent.iterdir() if path.suffix == ".py" or path.is_dir()]
    modules = {path.stem for path in entries if not path.stem.startswith("_")} - {"cli"}
    for name in modules:
        assert getattr(foveate, name) is importlib.import_module(f"foveate.{name}")
        assert name in dir(foveate)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="it has .*GradCam"):
        foveate.Nonsense  # noqa: B018
