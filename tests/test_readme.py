"""Every block of code in README runs, in its order, in a folder as README speaks of."""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from foveate.demo import Scenes

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.S | re.M)
INSTALL = "python3 -m venv"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos, a frame, shards and weights."""
    path = tmp_path_factory.mktemp("readme")
    with tarfile.open(path / "shard.tar", "w") as shard:
        for k in range(20):
            image, label = Scenes(20)[k]
            photo = path / "PHOTOS" / Scenes.classes[label] / f"{k:03}.jpg"
            photo.parent.mkdir(parents=True, exist_ok=True)
            image.save(photo, quality=92)
            shard.add(photo, f"{k:03}.jpg")
    (path / "SHARDS").mkdir()
    (path / "shard.tar").rename(path / "SHARDS" / "000.tar")
    image.save(path / "frame.jpg")
    torch.manual_seed(0)
    torch.save(resnet18(num_classes=10).state_dict(), path / "small.pt")
    return path


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 200


def test_what_it_links_to_is_there():
    links = re.findall(r"\]\(([^)#]+)", TEXT)
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []
    anchors = {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in re.findall(r"^#+ (.+)$", TEXT, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs(folder, number):
    language, code = BLOCKS[number]
    if INSTALL in code:
        pytest.skip("it installs; .ci/run and the reader run it")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"PYTHONPATH": str(folder), "PYTHONWARNINGS": "ignore"}
    if language == "python":
        name = re.match(r"# (\w+\.py)\n", code)
        (folder / (name[1] if name else "block.py")).write_text(code)
        command = [sys.executable, name[1] if name else "block.py"]
    else:
        assert language == "bash"
        command = ["bash", "-euc", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stderr[-3000:]
