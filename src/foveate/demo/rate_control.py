"""The rate control that ships with the demo, and the script that calibrated it.

``python -m foveate.demo.rate_control --out calibration.json`` calibrates it again, from generated scenes alone.
"""

import argparse
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from tqdm import tqdm

from foveate.compressor import Compressor
from foveate.demo.classifier import PREPROCESS
from foveate.demo.editor import scene_editor
from foveate.demo.scenes import Scenes
from foveate.preedit import PreEdit
from foveate.rate_control import Calibration, RateControl, Witness

__all__ = ["GRID", "WITNESS", "control"]

WITNESS = Witness("foveate.demo:scene_net", PREPROCESS)
"""Whose answers are kept: the larger of the shipped classifiers."""
GRID: dict[str, Any] = {"qualities": (5, 8, 12, 20, 35, 60), "scales": (1.0, 0.7)}
"""The operating points to choose from."""


def control(keep: str = "top1", calibration: Calibration | None = None) -> RateControl:
    """Return a rate control for JPEG behind the shipped editor, with the shipped classifier as its witness.

    Args:
        keep: see :func:`foveate.rate_control.as_criteria`.
        calibration: None takes the shipped one, of 150 scenes of seed 3.

    Example:
        >>> from foveate.demo import Scenes
        >>> compressor = Compressor("jpeg", PreEdit(scene_editor()), control=control())
        >>> encoded = compressor.encode([Scenes(1)[0][0]])[0]
        >>> encoded.met
        True
    """
    if calibration is None:
        with as_file(files("foveate.demo") / "calibration.json") as path:
            calibration = Calibration.load(path)
    return RateControl(WITNESS, keep, **GRID, calibration=calibration)


def main() -> None:
    """Calibrate on scenes and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=150)
    args = parser.parse_args()
    compressor = Compressor("jpeg", PreEdit(scene_editor()))
    scenes = Scenes(args.scenes, seed=3)
    images = (scenes[k][0] for k in tqdm(range(args.scenes), desc="scenes"))
    RateControl(WITNESS, **GRID).calibrate(compressor, images).save(args.out)


if __name__ == "__main__":
    main()
