"""From options to models, witnesses, saliencies and devices."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from foveate.models import Classifier, ModelSource, Preprocess
    from foveate.prefilter import Prefilter
    from foveate.rate_control import Witness
    from foveate.saliency import Saliency


def device_of(name: str | None) -> "torch.device":
    """Return the device that was asked for, or a GPU where there is one."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device: cannot use {name!r}: {str(error).splitlines()[0]}") from error


def default_preprocess(args: argparse.Namespace) -> "Preprocess":
    """Return the preprocessing of models that are not torchvision's own."""
    from foveate.models import IMAGENET_MEAN, IMAGENET_STD, Preprocess

    return Preprocess(args.resize, args.crop, tuple(args.mean or IMAGENET_MEAN), tuple(args.std or IMAGENET_STD))


def preprocess_of_spec(spec: str, args: argparse.Namespace) -> "Preprocess":
    """Return the preprocessing of the model that a short string names."""
    from foveate.models import preprocess_of

    return default_preprocess(args) if ":" in spec else preprocess_of(spec)


def build_classifier(spec: str, args: argparse.Namespace) -> "Classifier":
    """Return the classifier that a short string names, on its device."""
    from foveate.models import load_classifier

    classifier = load_classifier(spec, default_preprocess(args) if ":" in spec else None)
    classifier.model.to(device_of(args.device))
    return classifier


def build_witness(spec: str, args: argparse.Namespace) -> "Witness":
    """Return the witness that a short string names, built already and on its device."""
    from foveate.rate_control import Witness

    witness = Witness(spec, default_preprocess(args) if ":" in spec else None)
    witness.classifier.model.to(device_of(args.device))
    return witness


def saliency_spec(args: argparse.Namespace) -> dict[str, Any]:
    """Return the mapping that ``--saliency`` and ``--layer`` stand for."""
    text = args.saliency or "GradCam"
    spec: Any = {"method": text}
    if text.lstrip().startswith("{"):
        import yaml

        try:
            spec = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(
                f"--saliency: {text!r} is neither YAML nor JSON: {' '.join(str(error).split())}"
            ) from error
        if not isinstance(spec, dict):
            raise ValueError(f"--saliency: expected a method or a mapping, got {text!r}")
    return spec if args.layer is None else spec | {"layer": args.layer}


def build_saliency(
    args: argparse.Namespace, model: "ModelSource | None", preprocess: "Preprocess | None"
) -> "Saliency":
    """Return the saliency that was asked for.

    Args:
        args: the options.
        model: what it explains, where it explains a model and names none.
        preprocess: of that model.
    """
    from foveate.saliency import as_saliency

    whole = None if preprocess is None else preprocess.without_crop()
    return as_saliency(saliency_spec(args), model=model, preprocess=whole)


def build_prefilter(args: argparse.Namespace, saliency: "Saliency") -> "tuple[Prefilter | None, list[float]]":
    """Return the pre-filter of a rate control, and the strengths it chooses from; none where none is above 0."""
    from foveate.prefilter import Prefilter

    strengths = sorted({0.0, *args.strength})
    settings = {name: getattr(args, name) for name in ("filter", "sigma") if name in args}
    return (Prefilter(saliency, strengths[-1], **settings) if len(strengths) > 1 else None), strengths
