"""Draw what Foveate does, on a generated scene: image, map, filtered image, and rate against accuracy.

    python examples/figure.py [OUT.png]

The figure at the top of the README was drawn by it.
"""

import sys
import tempfile
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

import foveate
from foveate.demo import PREPROCESS, Scenes, scene_net
from foveate.evaluation import Judge, evaluate, plots
from foveate.filters import resize
from foveate.images import as_tensor, to_array
from foveate.models import Classifier
from foveate.saliency import saliency_maps


def main(out: Path, scenes: int = 100) -> None:
    judge = Judge(Classifier("scene_net", scene_net(), PREPROCESS), known=True)
    prefilter = foveate.Prefilter(foveate.GradCam(judge.classifier.model, preprocess=PREPROCESS), strength=0.5)
    compressors = [foveate.Compressor(f"jpeg:{q}", p) for p in (None, prefilter) for q in (5, 8, 12, 20, 35, 60)]
    results = evaluate(Scenes(scenes), [judge], compressors).results

    shown = as_tensor(Scenes(scenes)[1][0])
    maps = saliency_maps(prefilter.saliency, shown[None])
    with rc_context({"font.size": 9}):
        figure = Figure(figsize=(11, 3.1), layout="constrained", dpi=110)
        *panels, plot = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.45))
        panels[0].imshow(to_array(shown))
        panels[1].imshow(to_array(shown).mean(2), cmap="gray", vmax=380)
        panels[1].imshow(resize(maps, (160, 160))[0, 0].clamp(0, 1), cmap="inferno", alpha=0.65)
        panels[2].imshow(to_array(prefilter(shown[None])[0]))
        plain, filtered = (c.encode([shown])[0] for c in (compressors[4], compressors[10]))
        titles = (
            f"a scene\nJPEG quality 35: {len(plain.data):,} bytes",
            "where the classifier looks\n(Grad-CAM)",
            f"pre-filtered\nJPEG quality 35: {len(filtered.data):,} bytes",
        )
        for panel, title in zip(panels, titles, strict=True):
            panel.set_title(title, fontsize=9)
            panel.axis("off")
        plots.rate_accuracy(results, "scene_net", "top1", ax=plot)
        plot.set_title(f"{scenes} unseen scenes", fontsize=9)
        figure.savefig(out)
    whole = next(c for c in results.comparisons if c.metric == "top1")
    saved = "no comparison" if whole.bd_rate is None else f"{-whole.bd_rate:.0%} fewer bytes an image at equal top-1"
    print(f"drew {out}; {saved}, over the whole curve")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder) / "figure.png", scenes=20)
