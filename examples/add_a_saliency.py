"""Add your own saliency: the energy of edges, without any network.

    python examples/add_a_saliency.py

In a package, add an entry point so that the command line, workers and Ray find it:

    [project.entry-points."foveate.saliencies"]
    EdgeEnergy = "my_package:EdgeEnergy"

To test it, subclass `foveate.testing.SaliencyConformance` with `make = staticmethod(lambda model: EdgeEnergy())` and
`asks_model = False`. A saliency that runs a model has an argument `model`, like `foveate.GradCam`.
"""

import torch
import torch.nn.functional as F

import foveate
from foveate.images import to_float
from foveate.saliency import normalize


@foveate.register_saliency
class EdgeEnergy(foveate.Saliency):
    """The energy of edges, averaged in square cells.

    Args:
        cell: side of a cell in pixels.
    """

    def __init__(self, cell: int = 8) -> None:
        self.cell = cell

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        gray = to_float(images).float().mean(1, keepdim=True)
        rows = F.pad(gray, (0, 0, 0, 1), mode="replicate").diff(dim=-2)
        columns = F.pad(gray, (0, 1, 0, 0), mode="replicate").diff(dim=-1)
        energy = rows.square() + columns.square()
        grid = [max(1, side // self.cell) for side in energy.shape[-2:]]
        return normalize(F.adaptive_avg_pool2d(energy, grid)) if len(images) else energy


def main() -> None:
    from foveate.demo import Scenes
    from foveate.images import as_tensor

    scenes = torch.stack([as_tensor(scene) for scene, _ in Scenes(4)])
    # By name, as on the command line or in a settings file; or as an object: Prefilter(EdgeEnergy(16)).
    for strength in (0.0, 0.3):
        prefilter = foveate.Prefilter({"method": "EdgeEnergy", "cell": 16}, strength)
        encoded = foveate.Compressor("jpeg:40", prefilter).encode(scenes)
        print(f"strength {strength:g}: {sum(e.bpp for e in encoded) / len(encoded):.3f} bits a pixel")


if __name__ == "__main__":
    main()
