"""The editor that ships with the demo, and the script that trained it.

``python -m foveate.demo.editor --out edit.safetensors`` trains it again, for the demo's classifier on generated scenes.
"""

import argparse
from importlib.resources import as_file, files
from pathlib import Path

from tqdm import tqdm

from foveate.demo.classifier import PREPROCESS
from foveate.demo.scenes import Scenes
from foveate.images import as_tensor
from foveate.models import LazyClassifier
from foveate.preedit import Editor, fit

__all__ = ["scene_editor"]


def scene_editor() -> Editor:
    """Return the editor that was trained for the demo's classifier, ``scene_net``, in eval mode.

    Example:
        >>> scene_editor().networks
        ('scene_net',)
    """
    with as_file(files("foveate.demo") / "edit.safetensors") as path:
        return Editor.load(path)


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=6000)
    args = parser.parse_args()
    network = LazyClassifier("foveate.demo:scene_net", PREPROCESS)
    images = [as_tensor(image) for image, _ in tqdm(Scenes(args.scenes, seed=4), desc="scenes")]
    with tqdm(total=args.steps, desc="training") as bar:
        fit(images, network, steps=args.steps, progress=lambda _: bar.update()).save(args.out)


if __name__ == "__main__":
    main()
