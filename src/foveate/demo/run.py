"""The demo: the main job on generated scenes, as results and a page."""

from pathlib import Path

from foveate.compressor import Compressor
from foveate.demo.classifier import PREPROCESS, scene_net
from foveate.demo.editor import scene_editor
from foveate.demo.rate_control import control
from foveate.demo.scenes import Scenes
from foveate.evaluation import Judge, Results, evaluate
from foveate.models import Classifier
from foveate.preedit import PreEdit
from foveate.prefilter import Prefilter
from foveate.saliency import GradCam

__all__ = ["JUDGES", "QUALITIES", "run"]

QUALITIES = (5, 8, 12, 20, 35, 60)
"""Of JPEG."""
JUDGES = {"scene_net": True, "scene_net_small": False}
"""The shipped classifiers, and whether each makes the saliency maps."""


def run(out: str | Path, scenes: int = 200, *, strength: float = 0.5, seed: int = 2) -> Results:
    """Compress scenes as they are, smoothed, edited, and each at its own point, and write a report of the answers.

    Args:
        out: the folder for ``results.json``, ``report.html`` and ``records.jsonl``, created if missing.
        scenes: their number.
        strength: of the pre-filter and of the edit.
        seed: of the scenes.

    Returns:
        The results.
    """
    judges = [Judge(Classifier(name, scene_net(name), PREPROCESS), known) for name, known in JUDGES.items()]
    prefilter = Prefilter(GradCam("foveate.demo:scene_net", preprocess=PREPROCESS), strength)
    edit = PreEdit(scene_editor(), strength)
    compressors = [Compressor(f"jpeg:{q}", p) for p in (None, prefilter, edit) for q in QUALITIES]
    compressors.append(Compressor("jpeg", edit, control=control("top1")))
    settings = {
        "scenes": scenes,
        "seed": seed,
        "codec": "jpeg",
        "quality": list(QUALITIES),
        "strength": [0, strength],
        "keep": "top1",
    }
    lead = (
        f"{scenes} generated scenes with a small sign in undergrowth, never seen in training. A saliency map shows"
        " where the classifier looks, the pre-filter smooths the rest, and JPEG then needs fewer bytes for the same"
        " answers. So it does after an edit by a small network that was trained for the classifier. Finally each scene"
        " is edited and stored at the cheapest point that keeps the classifier's own answer."
    )
    evaluation = evaluate(
        Scenes(scenes, seed),
        judges,
        compressors,
        out,
        settings=settings,
        title="Foveate demo",
        lead=lead,
        metric="top1",
    )
    return evaluation.results
