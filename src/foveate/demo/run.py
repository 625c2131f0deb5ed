"""The demo: the main job on generated scenes, as a table and a page."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from foveate.compressor import Compressor
from foveate.demo.classifier import PREPROCESS, scene_net
from foveate.demo.scenes import CLASSES, Scenes
from foveate.evaluation import Judge, Photo, Results, measure, summarise
from foveate.evaluation.report import page
from foveate.images import from_array
from foveate.models import Classifier
from foveate.prefilter import Prefilter
from foveate.saliency import GradCam

QUALITIES = (5, 8, 12, 20, 35, 60)
SCENES = 200


def run(out: Path, scenes: int = SCENES, strength: float = 0.5, seed: int = 2) -> Results:
    """Compress scenes with and without the pre-filter, classify them again, and write a report and ``results.json``.

    Args:
        out: the folder to write to; made where it is missing.
        scenes: how many.
        strength: of the pre-filter.
        seed: of the scenes.

    Returns:
        The results, for the table.
    """
    judges = [Judge(Classifier(name, scene_net(name), PREPROCESS), known) for name, known in JUDGES.items()]
    prefilter = Prefilter(GradCam("foveate.demo:scene_net", preprocess=PREPROCESS), strength)
    compressors = [Compressor(f"jpeg:{q}", p) for p in (None, prefilter) for q in QUALITIES]
    pictures = Scenes(scenes, seed)
    with tqdm(total=scenes, desc="scenes", unit="scene") as bar:
        photos = (
            Photo(from_array(np.asarray(scene)), label, f"scene {k}")
            for k, (scene, label) in enumerate(pictures[i] for i in range(scenes))
        )
        measured = measure(photos, judges, compressors, exhibits=range(4), progress=bar.update)
    settings = {"scenes": scenes, "seed": seed, "codec": "jpeg", "quality": list(QUALITIES), "strength": [0, strength]}
    results = summarise(measured, settings)
    out.mkdir(parents=True, exist_ok=True)
    results.write(out / "results.json")
    lead = (
        f"{scenes} generated scenes with a small sign in undergrowth, never seen in training. A saliency map says where"
        " the classifier looks, the pre-filter smooths the rest, and JPEG then needs fewer bytes for the same answers."
    )
    (out / "report.html").write_text(
        page(results, measured, "Foveate demo", lead, dict(enumerate(CLASSES)), metric="top1"), encoding="utf-8"
    )
    return results


JUDGES = {"scene_net": True, "scene_net_small": False}
"""The shipped classifiers, and whether each makes the saliency maps."""
