"""Options that several commands share, and the numbers in them."""

import argparse
import difflib
import math
import re
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

CODEC_NAMES = ("jpeg", "jpeg2000", "webp", "avif", "jxl", "hevc")
KEEP_NAMES = ("same", "confident", "safe", "top1", "p", "kl", "margin", "robust")
_BOUNDED = {"p": "p0.9", "kl": "kl0.3", "margin": "margin1", "robust": "robust95"}
"""What Foveate itself has, known without importing it, so that a slip of the pen is told at once."""

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What a command adds its parser to."""


def number(text: str) -> float:
    """Read an integer where the text is one, as most codecs have no other qualities; else a float."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def share(text: str) -> float:
    """Read a number above 0, at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0, at most 1, got {text}")
    return value


def strength(text: str) -> float:
    """Read a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text}")
    return value


def numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Return a reader of numbers separated by commas, and of ranges: ``20:60:10`` is 20, 30, 40, 50 and 60."""

    def parse(text: str) -> list[Any]:
        try:
            return [value for part in text.split(",") for value in _range(part, kind)]
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"expected numbers separated by commas, or FIRST:LAST:STEP, got {text!r}"
            ) from None

    return parse


def _range(text: str, kind: Callable[[str], Any]) -> list[Any]:
    if ":" not in text:
        return [kind(text)]
    first, last, step = (kind(end) for end in text.split(":"))
    count = math.floor((last - first) / step + 1e-9) if step else -1
    if count < 0:
        raise ValueError(text)
    return [kind(f"{first + k * step:.12g}") for k in range(count + 1)]


def existing_folder(text: str) -> Path:
    """Read the path of a folder that is there."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return path


def existing_file(text: str) -> Path:
    """Read the path of a file that is there."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def new_file(text: str) -> Path:
    """Read the path of a file to write, whose folder must be there."""
    existing_folder(str(Path(text).parent))
    return Path(text)


def model_name(text: str) -> str:
    """Read the name of a model; the file of one's own must be there."""
    match = re.match(r"(.+?\.py):", text)
    if match:
        existing_file(match[1])
    elif text.endswith(".py"):
        raise argparse.ArgumentTypeError(f"{text} is a file; name a function in it that returns the model: {text}:NAME")
    elif re.fullmatch(r"[\w-]+", text) and (names := networks_of_torchvision()) and text not in names:
        similar = difflib.get_close_matches(text, names, n=2)
        hint = f"; did you mean {' or '.join(similar)}?" if similar else ""
        raise argparse.ArgumentTypeError(
            f"torchvision has no {text!r}{hint} (of others: timm:NAME, hf:ORG/NAME; for your own: FILE.py:FUNCTION or "
            "package.module:FUNCTION)"
        )
    return text


def networks_of_torchvision() -> set[str]:
    """Return the names of the networks that torchvision registers, from its files, as importing it takes seconds.

    None if it is not installed, or keeps them elsewhere: then whoever builds the network tells what there is.
    """
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return set()
    registered = re.compile(r'^@register_model\((?:name="(\w+)")?\)$.*?^def (\w+)\(', re.MULTILINE | re.DOTALL)
    files = (Path(spec.origin).parent / "models").rglob("*.py")
    return {name or function for file in files for name, function in registered.findall(file.read_text("utf-8"))}


def witness_name(text: str) -> str:
    """Read the name of a witness: a model, or one without classes, which may have a model."""
    if text not in ("lpips", "ms-ssim"):
        model_name(re.sub(r"^(lpips|embedding):", "", text))
    return text


def edited_with_name(text: str) -> str:
    """Read the name of a model or the file of an editor, which must be there."""
    return str(existing_file(text)) if text.endswith(".safetensors") and ":" not in text else model_name(text)


def codec_name(text: str) -> str:
    """Read the short string of a codec, which is checked here, as that takes no torch."""
    _check_name(text.partition(":")[0], CODEC_NAMES, "foveate.codecs", "codec", text)
    if text.partition(":")[0] in CODEC_NAMES:  # an other package's may take anything
        from foveate.codecs import as_codec

        try:
            as_codec(text)
        except (ValueError, TypeError) as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {str(error).removeprefix('codec: ')}") from None
    return text


def keep_name(text: str) -> str:
    """Read criteria joined by ``+``, of which only names and bounds are checked here, without importing any."""
    for part in text.split("+"):
        name = part.strip()
        bound = re.search(r"(\d+\.?\d*|\.\d+)$", name)
        if name in KEEP_NAMES and name not in _BOUNDED:
            continue
        if any(point.name == name for point in entry_points(group="foveate.criteria")):
            continue
        bare = name[: bound.start()] if bound else name
        _check_name(bare, KEEP_NAMES, "foveate.criteria", "criterion", text)
        if bare in KEEP_NAMES:
            _check_bound(bare, float(bound[0]) if bound else None, text)
    return text


def _check_bound(name: str, bound: float | None, text: str) -> None:
    if name not in _BOUNDED:
        if bound is not None:
            raise argparse.ArgumentTypeError(f"{name} takes no number, got {text!r}")
        return
    example = _BOUNDED[name]
    if bound is None:
        raise argparse.ArgumentTypeError(f"{name} takes a number, such as {example}, got {text!r}")
    if name == "robust":
        fits, wish = (
            0 < bound <= 10 or 50 <= bound < 100,
            "a price up to 10, or a share of answers from 50 to below 100",
        )
    elif name == "p":
        fits, wish = 0 < bound <= 1, "a share above 0, up to 1"
    else:
        fits, wish = bound > 0, "a number above 0"
    if not fits:
        raise argparse.ArgumentTypeError(f"{name} takes {wish}, such as {example}, got {text!r}")


def _check_name(name: str, names: Sequence[str], group: str, kind: str, text: str) -> None:
    if name in names or any(point.name == name for point in entry_points(group=group)):
        return
    similar = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {similar[0]}?" if similar else f"choose one of {', '.join(names)}"
    raise argparse.ArgumentTypeError(f"there is no {kind} {name!r} in {text!r}; {hint}")


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
    group = parser.add_argument_group("saliency maps", "where a network looks")
    group.add_argument(
        "--saliency",
        type=method,
        default=default,
        metavar="METHOD",
        help="GradCam, ActivationMap, a method of captum.attr such as IntegratedGradients or NoiseTunnel:Saliency, one "
        "that a package adds, or a mapping such as '{method: IntegratedGradients, arguments: {n_steps: 16}}' (default: "
        "GradCam)",
    )
    group.add_argument("--layer", help="dotted name of the layer for the map (default: found by tracing)")


def add_prefilter(parser: argparse.ArgumentParser) -> None:
    """Add the kind of pre-filter: smoothing under a map, or an edit for networks."""
    group = parser.add_argument_group(
        "pre-filter", "what is done to images before the codec, so that it needs fewer bytes"
    )
    group.add_argument(
        "--prefilter",
        choices=("smooth", "edit"),
        help="smooth where the map is low, or edit the image by gradient so that networks see the same, which takes "
        "some seconds an image (default: smooth, or edit with --edit-with)",
    )
    group.add_argument(
        "--edit-with",
        type=edited_with_name,
        metavar="M",
        action="append",
        default=[],
        help="a network whose features and answers an edit keeps; may be given several times (default: four small, "
        "unlike networks of torchvision); or FILE.safetensors, an editor from 'foveate fit', which edits in one pass",
    )
    group.add_argument("--edit-steps", type=int, default=60, metavar="N", help="of an edit (default: %(default)s)")
    group.add_argument(
        "--edit-limit",
        type=numbers(float),
        default=[30.0],
        metavar="DB",
        help="least PSNR of an edit, or two: in the salient part and elsewhere (default: 30; 0 sets none)",
    )
    group.add_argument("--edit-by-map", action="store_true", help="let the map guide an edit too")
    group.add_argument("--edit-cache", type=Path, metavar="DIR", help="keep finished edits there")
    group.add_argument(
        "--filter",
        default="blend",
        help="blend, scale-space, guided, or one that a package adds (default: %(default)s)",
    )
    group.add_argument(
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
