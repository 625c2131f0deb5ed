import subprocess
import sys

import pytest

import foveate

HOSTS = ("torchvision", "captum", "kornia", "lightning", "pytorch_lightning", "albumentations", "matplotlib")


def imported_by(statement):
    probe = f"import sys\n{statement}\nprint(*[m for m in {HOSTS!r} if m in sys.modules])"
    return subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.split()


def test_importing_foveate_loads_no_host():
    assert imported_by("import foveate") == []


def test_the_functional_core_loads_no_host():
    names = "saliency, filters, prefilter, codecs, compressor, models, images, evaluation, cli"
    assert imported_by(f"import foveate\nfrom foveate import {names}\nfoveate.GradCam, foveate.Compressor") == []


def test_the_probe_sees_an_import():
    assert "torchvision" in imported_by("import foveate.transforms")


@pytest.mark.parametrize("name", foveate.__all__)
def test_every_public_name_is_there(name):
    assert getattr(foveate, name) is not None
    assert name in dir(foveate)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="it has .*GradCam"):
        foveate.Nonsense  # noqa: B018
