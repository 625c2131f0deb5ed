import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=[e.stem for e in EXAMPLES])
def test_it_runs_as_its_docstring_says(example, tmp_path):
    assert f"python examples/{example.name}" in example.read_text()
    done = subprocess.run([sys.executable, example], capture_output=True, text=True, cwd=tmp_path, timeout=580)
    assert done.returncode == 0, done.stderr
    assert "bits a pixel" in done.stdout or "bytes an image" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_compress_folder_on_a_folder_of_one_s_own(tmp_path):
    from foveate.codecs import Jpeg
    from foveate.demo import Scenes

    (tmp_path / "photos" / "deep").mkdir(parents=True)
    Scenes(1)[0][0].save(tmp_path / "photos" / "deep" / "a.png")
    done = subprocess.run(
        [
            sys.executable,
            EXAMPLES[0].parent / "compress_folder.py",
            tmp_path / "photos",
            tmp_path / "out",
            "--model",
            "foveate.demo:scene_net",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert Jpeg().decode((tmp_path / "out" / "filtered" / "deep" / "a.jpg").read_bytes()).shape == (160, 160, 3)
