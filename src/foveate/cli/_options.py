"""Options that several commands share, and the numbers in them."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What a command adds its parser to."""


def number(text: str) -> float:
    """Read an integer where the text is one, as most codecs have no other qualities; else a float."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Return a reader of numbers separated by commas."""

    def parse(text: str) -> list[Any]:
        try:
            return [kind(part) for part in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected numbers separated by commas, got {text!r}") from None

    return parse


def words(text: str) -> tuple[str, ...]:
    """Read words separated by commas."""
    return tuple(text.split(","))


def method(text: str) -> str | dict[str, Any]:
    """Read the name of a saliency's method, or a mapping in JSON or YAML that has its settings too."""
    if not text.lstrip().startswith("{"):
        return text
    import yaml

    try:
        spec: dict[str, Any] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"neither YAML nor JSON: {' '.join(str(error).split())}") from None
    if "model" in spec:  # of which the commands know more than its recipe: its preprocessing, and whether it judges
        raise argparse.ArgumentTypeError(f"give the model by --model instead, got {text!r}")
    return spec


def add_saliency(parser: argparse.ArgumentParser, default: str | None = "GradCam") -> None:
    """Add what makes the maps, beside ``--model``."""
    parser.add_argument(
        "--saliency",
        type=method,
        default=default,
        metavar="METHOD",
        help="GradCam, ActivationMap, a method of captum.attr such as IntegratedGradients or NoiseTunnel:Saliency, one "
        "that a package adds, or a mapping such as '{method: IntegratedGradients, arguments: {n_steps: 16}}' (default: "
        "GradCam)",
    )
    parser.add_argument("--layer", help="dotted name of the layer for the map (default: found by tracing)")


def add_prefilter(parser: argparse.ArgumentParser) -> None:
    """Add the kind of pre-filter: smoothing under a map, or an edit for networks."""
    parser.add_argument(
        "--prefilter",
        choices=("smooth", "edit"),
        help="smooth where the map is low, or edit the image by gradient so that networks see the same, which takes "
        "some seconds an image (default: smooth, or edit with --edit-with)",
    )
    parser.add_argument(
        "--edit-with",
        metavar="M",
        action="append",
        default=[],
        help="a network whose features and answers an edit keeps; may be given several times (default: four small, "
        "unlike networks of torchvision); or FILE.safetensors, an editor from 'foveate fit', which edits in one pass",
    )
    parser.add_argument("--edit-steps", type=int, default=60, metavar="N", help="of an edit (default: %(default)s)")
    parser.add_argument(
        "--edit-limit",
        type=numbers(float),
        default=[30.0],
        metavar="DB",
        help="least PSNR of an edit, or two: in the salient part and elsewhere (default: 30; 0 sets none)",
    )
    parser.add_argument("--edit-by-map", action="store_true", help="let the map guide an edit too")
    parser.add_argument("--edit-cache", type=Path, metavar="DIR", help="keep finished edits there")
    parser.add_argument(
        "--filter",
        default="blend",
        help="blend, scale-space, guided, or one that a package adds (default: %(default)s)",
    )
    parser.add_argument(
        "--sigma", type=float, default=1.5, help="width of the smoothing, see foveate.Prefilter (default: %(default)s)"
    )


def add_formats(parser: argparse.ArgumentParser) -> None:
    """Add the formats of images that are read."""
    parser.add_argument(
        "--formats",
        type=words,
        default=(),
        metavar="NAMES",
        help="further formats of Pillow to read, such as PSD,DDS, where the files are trusted (default: none)",
    )


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add how a dataset is read."""
    add_formats(parser)
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="seconds that an image may take (default: 60)"
    )
    parser.add_argument(
        "--follow-links", action="store_true", help="follow links that lead out of SRC (default: an error)"
    )


def add_preprocessing(parser: argparse.ArgumentParser) -> None:
    """Add the configuration file, and the preprocessing of models that bring none."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="YAML or JSON with options by name, or that of a LightningCLI with a CompressionRobustness callback; "
        "options given here as well override it, and those that may be given several times add to it",
    )
    group = parser.add_argument_group(
        "preprocessing of models that bring none",
        "torchvision's models bring that of their weights, timm's too; one of your own does if its function returns "
        "(model, transforms), or if the model or the function has an attribute 'preprocess'",
    )
    group.add_argument("--resize", type=int, help="short side in pixels (default: 256)")
    group.add_argument("--crop", type=int, help="side of the center crop (default: 224)")
    group.add_argument("--mean", type=numbers(float), help="three numbers (default: ImageNet's)")
    group.add_argument("--std", type=numbers(float), help="three numbers (default: ImageNet's)")
