"""What classifiers answer on an exported dataset, read from its files by torchvision's plain ImageFolder.

    python tests/benchmarks/export_agreement.py SOURCE TARGET --judge M [--judge J]

SOURCE is the ImageFolder tree that ``foveate compress`` was given, TARGET the tree it wrote. Agreement is the share of
images whose top-1 answer is the judge's own on the source's file; intervals are paired bootstraps over images.
"""

import argparse
import os
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from foveate.evaluation._samples import wnids
from foveate.models import IMAGENET_MEAN, IMAGENET_STD, load_classifier


def answers(root: Path, judge: object) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """Return each image's path without its ending, its class number among ImageNet's, and the judge's top-1."""
    from torchvision.transforms import v2

    chain = v2.Compose(
        [
            v2.Resize(256),
            v2.CenterCrop(224),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    data = ImageFolder(root, chain)
    numbers = {name: k for k, name in enumerate(wnids())}
    labels = torch.tensor([numbers[data.classes[label]] for _, label in data.samples])
    answered = [judge.forward(images).argmax(1) for images, _ in DataLoader(data, 32)]  # type: ignore[attr-defined]
    return [os.path.splitext(os.path.relpath(path, root))[0] for path, _ in data.samples], labels, torch.cat(answered)


def main() -> None:
    """Print bytes saved, and top-1 and agreement of each judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--judge", action="append", required=True)
    args = parser.parse_args()
    sizes = [
        {os.path.splitext(p.relative_to(root))[0]: p.stat().st_size for p in sorted(root.glob("*/*")) if p.is_file()}
        for root in (args.source, args.target)
    ]
    before, after = (
        torch.tensor([by_name[name] for name in sorted(sizes[0])], dtype=torch.float64) for by_name in sizes
    )
    draws = torch.randint(len(before), (2000, len(before)), generator=torch.Generator().manual_seed(0))
    print(f"n = {len(before)}; {before.mean():,.0f} bytes an image became {after.mean():,.0f}")
    show("saved", 1 - after.sum() / before.sum(), 1 - after[draws].sum(1) / before[draws].sum(1))
    for spec in args.judge:
        judge = load_classifier(spec)
        names, labels, clean = answers(args.source, judge)
        others, _, answered = answers(args.target, judge)
        if names != others:
            raise ValueError(f"target: {args.target} has not the images of {args.source}")
        print(f"{judge.name}: top-1 {(clean == labels).double().mean():.1%} on the source")
        for name, right in (("top-1", answered == labels), ("agreement", answered == clean)):
            show(name, right.double().mean(), right.double()[draws].mean(1))


def show(name: str, value: torch.Tensor, resampled: torch.Tensor) -> None:
    """Print a share with its 95 % interval."""
    low, high = torch.quantile(resampled, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    print(f"  {name:9} {value:.1%} ({low:.1%} to {high:.1%})")


if __name__ == "__main__":
    main()
