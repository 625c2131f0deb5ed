"""Add your own criterion: the witness's answer stays among its top five.

    python examples/add_a_criterion.py

In a package, add an entry point so that the command line, workers and Ray find it:

    [project.entry-points."foveate.criteria"]
    top5 = "my_package:top5"

To test it, write one class: `class TestTop5(foveate.testing.CriterionConformance): criterion = "top5"`.
"""

import torch

import foveate


@foveate.register_criterion("top5", least=torch.finfo(torch.float32).tiny)  # above 0: a tie is not enough
def top5(clean: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return how far the clean answer is above the sixth logit: graded values help the search."""
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
