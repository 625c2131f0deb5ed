"""Add a criterion of your own: the witness's answer stays among its first five.

    python examples/add_a_criterion.py

In a package, the lines below and an entry point make it known to the command line, to workers and to Ray:

    [project.entry-points."foveate.criteria"]
    top5 = "my_package:top5"

Its tests are one class: `class TestTop5(foveate.testing.CriterionConformance): criterion = "top5"`.
"""

import torch

import foveate


@foveate.register_criterion("top5", least=torch.finfo(torch.float32).tiny)  # above 0: a tie is not enough
def top5(clean: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return by how much the clean answer leads the sixth: the search learns from how far, not only from whether."""
    answer = clean.argmax(1, keepdim=True)
    others = logits.scatter(1, answer, -torch.inf)
    fifth = others.topk(min(5, logits.shape[1] - 1), dim=1).values[:, -1]
    return logits.gather(1, answer).squeeze(1) - fifth


def main() -> None:
    from foveate.demo import PREPROCESS, Scenes

    witness = foveate.Witness("foveate.demo:scene_net", PREPROCESS)
    scenes = [scene for scene, _ in Scenes(6)]
    for keep in ("top1", "top5"):
        control = foveate.RateControl(witness, keep)
        encoded = foveate.Compressor("jpeg", control=control).encode(scenes)
        print(f"{keep}: {sum(len(e.data) for e in encoded) / len(encoded):.0f} bytes an image")


if __name__ == "__main__":
    main()
