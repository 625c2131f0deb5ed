"""From options to models, witnesses, saliencies and devices."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.cli._output import complain

if TYPE_CHECKING:
    import torch

    from foveate.models import Classifier, ModelSource, Preprocess
    from foveate.prefilter import PrefilterBase
    from foveate.rate_control import Fidelity, Witness
    from foveate.saliency import Saliency


ASSUMED = "assumed, as it brings none"
"""Whose preprocessing a model has of which nothing is known."""


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
    """Return the preprocessing of models that bring none."""
    from foveate.models import IMAGENET_MEAN, IMAGENET_STD, Preprocess

    resize, crop = (256 if args.resize is None else args.resize), (224 if args.crop is None else args.crop)
    return Preprocess(resize, crop, tuple(args.mean or IMAGENET_MEAN), tuple(args.std or IMAGENET_STD))


def preprocess_of_spec(spec: str, args: argparse.Namespace) -> "Preprocess":
    """Return the preprocessing of the model that a short string names: its own, or what the options say."""
    from foveate.models import LazyModel, preprocess_of

    return LazyModel(spec).preprocess or default_preprocess(args) if ":" in spec else preprocess_of(spec)


def source_of_preprocessing(spec: str, args: argparse.Namespace) -> str:
    """Return in words whose preprocessing a model has."""
    from foveate.models import LazyModel

    if ":" not in spec:
        return "that of its weights"
    if LazyModel(spec).preprocess is not None:
        return "its own"
    options = (args.resize, args.crop, args.mean, args.std)
    return ASSUMED if all(option is None for option in options) else "as the options say"


def say_preprocessing(args: argparse.Namespace) -> None:
    """Print how each classifier is fed that makes maps or is a witness."""
    from foveate.models import short_name
    from foveate.rate_control import Witness, as_witness

    specs = [args.model, *(spec for spec in args.witness if isinstance(as_witness(spec), Witness))]
    for spec in dict.fromkeys(spec for spec in specs if spec is not None):
        complain(f"{short_name(spec)}: {preprocess_of_spec(spec, args)}, {source_of_preprocessing(spec, args)}")


def build_classifier(spec: str, args: argparse.Namespace) -> "Classifier":
    """Return the classifier that a short string names, on its device."""
    from foveate.models import load_classifier

    classifier = load_classifier(spec, preprocess_of_spec(spec, args))
    classifier.model.to(device_of(args.device))
    return classifier


def witness_of(spec: str, args: argparse.Namespace) -> "Witness | Fidelity":
    """Return the witness that a short string names, by recipe: a classifier, or one without classes."""
    from foveate.rate_control import Embedding, Lpips, Witness, as_witness

    witness = as_witness(spec)
    if isinstance(witness, Embedding):
        preprocess = preprocess_of_spec(str(witness.model), args)
        preprocess.without_geometry()  # refuses a function, which an embedding does not take
        return Embedding(preprocess.resize, preprocess.crop, witness.model, preprocess.mean, preprocess.std)
    if isinstance(witness, Lpips):
        preprocess = default_preprocess(args)
        return Lpips(preprocess.resize, preprocess.crop, witness.model)
    return Witness(spec, preprocess_of_spec(spec, args)) if isinstance(witness, Witness) else witness


def first_classifier(specs: list[str]) -> str:
    """Return the first of some witnesses' short strings that names a classifier.

    Raises:
        ValueError: if there is none.
    """
    from foveate.rate_control import Witness, as_witness

    for spec in specs:
        if isinstance(as_witness(spec), Witness):
            return spec
    raise ValueError(f"--witness: expected at least one classifier, such as resnet18, got only {', '.join(specs)}")


def build_saliency(
    args: argparse.Namespace, model: "ModelSource | None", preprocess: "Preprocess | None"
) -> "Saliency":
    """Return the saliency that was asked for.

    Args:
        args: the options.
        model: the model to explain; None where none was given.
        preprocess: of that model; the maps are made without its crop.

    Raises:
        TypeError, ValueError: if there is no such method, it does not take these settings, or it needs a model.
    """
    from torch import nn

    from foveate.saliency import as_saliency

    spec = dict(args.saliency) if isinstance(args.saliency, dict) else {"method": args.saliency or "GradCam"}
    if args.layer is not None:
        spec["layer"] = args.layer
    if model is not None:
        return as_saliency(spec, model=model, preprocess=None if preprocess is None else preprocess.without_crop())
    as_saliency(spec, model=nn.Identity)  # refuses a wrong method and wrong settings, so that a model is all that lacks
    try:
        return as_saliency(spec)
    except ValueError as error:
        raise ValueError(f"--model: {spec.get('method', 'GradCam')!r} needs a model to explain; name one") from error


def edits(args: argparse.Namespace) -> bool:
    """Return whether the pre-filter edits, instead of smoothing.

    Raises:
        ValueError: if options of an edit are given with another pre-filter.
    """
    if args.prefilter == "smooth" and args.edit_with:
        raise ValueError("--edit-with: is for --prefilter edit")
    return args.prefilter == "edit" or bool(args.edit_with)


def is_editor(spec: str) -> bool:
    """Return whether ``--edit-with`` names the file of an editor, not a network."""
    return spec.endswith(".safetensors") and ":" not in spec


def build_prefilter(args: argparse.Namespace, saliency: "Saliency | None", strength: float) -> "PrefilterBase":
    """Return the pre-filter at a strength; an edit needs no saliency."""
    from foveate.models import LazyClassifier
    from foveate.preedit import DEFAULT_MODELS, PreEdit
    from foveate.prefilter import Prefilter

    if not edits(args):
        return Prefilter(saliency, strength, filter=args.filter, sigma=args.sigma)
    if args.edit_by_map and saliency is None:
        raise ValueError("--edit-by-map: needs --model to make the map")
    limits = args.edit_limit
    specs = args.edit_with or DEFAULT_MODELS
    if len(specs) > 1 and any(is_editor(spec) for spec in specs):
        raise ValueError("--edit-with: an editor from a file edits alone; give it without others")
    return PreEdit(
        Path(specs[0])
        if is_editor(specs[0])
        else [LazyClassifier(spec, preprocess_of_spec(spec, args)) for spec in specs],
        strength,
        saliency=saliency if args.edit_by_map else None,
        steps=args.edit_steps,
        limit=limits[0] if len(limits) == 1 else tuple(limits),
        cache=args.edit_cache,
    )


def controlled_prefilter(
    args: argparse.Namespace, saliency: "Saliency | None"
) -> "tuple[PrefilterBase | None, list[float]]":
    """Return the pre-filter of a rate control, and the strengths it chooses from; none where none is above 0."""
    strengths = sorted({0.0, *args.strength})
    return (build_prefilter(args, saliency, strengths[-1]) if len(strengths) > 1 else None), strengths
