"""Add your own filter: the mean of a square around each pixel, mixed in by the strength.

    python examples/add_a_filter.py

In a package, add an entry point so that the command line, workers and Ray find it:

    [project.entry-points."foveate.filters"]
    box = "my_package:box"

To test it, write one class: `class TestBox(foveate.testing.FilterConformance): filter = "box"`.
"""

import torch
import torch.nn.functional as F

import foveate


@foveate.register_filter("box")
def box(images: torch.Tensor, strengths: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blend images (B, C, H, W) with the mean of a square as wide as a Gaussian of this sigma."""
    radius = max(1, round(1.7 * sigma))
    radii = [min(radius, side) for side in images.shape[-2:]]
    padded = F.pad(images, (radii[1], radii[1], radii[0], radii[0]), mode="replicate")
    mean = F.avg_pool2d(padded, [2 * r + 1 for r in radii], stride=1)
    return torch.lerp(images, mean, strengths)


def main() -> None:
    from foveate.demo import PREPROCESS, Scenes
    from foveate.images import as_tensor

    scenes = torch.stack([as_tensor(scene) for scene, _ in Scenes(4)])
    cam = foveate.GradCam("foveate.demo:scene_net", preprocess=PREPROCESS)
    for name in ("blend", "box"):
        encoded = foveate.Compressor("jpeg:40", foveate.Prefilter(cam, 0.5, filter=name)).encode(scenes)
        print(f"{name}: {sum(e.bpp for e in encoded) / len(encoded):.3f} bits a pixel")


if __name__ == "__main__":
    main()
