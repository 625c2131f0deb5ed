"""Models by name from timm and from Hugging Face, with their preprocessing and the names of their classes."""

import contextlib
import difflib
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from foveate._extras import require
from foveate.models._preprocess import Preprocess
from foveate.models._transforms import as_preprocess


@dataclass(frozen=True)
class BuiltModel:
    """A model and what belongs to it.

    Attributes:
        model: as it was built.
        preprocess: None if nothing is known.
        class_names: of its outputs, in order; empty if nothing is known.
    """

    model: nn.Module
    preprocess: Preprocess | None = None
    class_names: tuple[str, ...] = ()


def is_hub_name(spec: str) -> bool:
    """Return whether a short string names a model of timm or of Hugging Face.

    Example:
        >>> is_hub_name("timm:deit_tiny_patch16_224"), is_hub_name("hf:microsoft/resnet-50"), is_hub_name("a.b:c")
        (True, True, False)
    """
    return spec.startswith(("timm:", "hf:"))


def load_from_hub(spec: str) -> BuiltModel:
    """Load the pretrained model of a short string, from the network or what was fetched before, or from a folder.

    Args:
        spec: ``"timm:NAME"``, as ``timm.list_pretrained()`` has it; ``"hf:ORG/NAME"`` of huggingface.co; or either with
            the path of a folder that the library has saved a model to.

    Raises:
        ImportError: if the library is not installed, with the line that installs it.
        ValueError: if there is no such model, it cannot be fetched, weights are missing, or it is of another kind.
    """
    library, _, name = spec.partition(":")
    if not name:
        raise ValueError(f"model: {spec!r} names no model; write timm:NAME, hf:ORG/NAME, or the path of a folder")
    loader = _load_timm if library == "timm" else _load_transformers
    folder = Path(name).expanduser()
    try:
        return loader(str(folder) if folder.is_dir() else name)
    except Exception as error:  # whatever the library or its network raises, the message should say which model it was
        if isinstance(error, ImportError) or str(error).startswith("model: "):
            raise
        raise ValueError(f"model: {spec!r} could not be loaded: {type(error).__name__}: {error}") from error


def _load_timm(name: str) -> BuiltModel:
    timm = require("timm", "timm")
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    try:
        model = timm.create_model(f"local-dir:{name}" if Path(name).is_dir() else name, pretrained=True)
    except RuntimeError as error:
        similar = difflib.get_close_matches(name, timm.list_models(pretrained=True), n=3)
        hint = f"; did you mean {' or '.join(similar)}?" if similar else ""
        raise ValueError(f"model: timm has no pretrained {name!r} ({error}){hint}") from error
    names = model.pretrained_cfg.get("label_names") or ()
    if not names and (subset := infer_imagenet_subset(model)):
        info = ImageNetInfo(subset)
        names = [info.index_to_description(k) for k in range(info.num_classes())]
    return BuiltModel(model, None, tuple(names))  # what timm knows of its preprocessing is found by the model


def _load_transformers(name: str) -> BuiltModel:
    transformers = require("transformers", "transformers")
    with _quiet(transformers):
        config = transformers.AutoConfig.from_pretrained(name)
        kind = _model_class(transformers, config)
        model, loading = kind.from_pretrained(name, output_loading_info=True)
        missing = sorted(loading["missing_keys"])
        if missing:
            raise ValueError(
                f"model: {name!r} has no weights for {missing[0]!r} and {len(missing) - 1} more of {kind.__name__}, "
                "which would be random; name a function of your own that builds the model you mean"
            )
        try:
            processor = transformers.AutoImageProcessor.from_pretrained(name)
        except OSError:
            processor = None
    names = tuple(config.id2label[k] for k in sorted(config.id2label)) if _classifies(kind) else ()
    names = () if all(label == f"LABEL_{k}" for k, label in enumerate(names)) else names
    return BuiltModel(model, None if processor is None else as_preprocess(processor), names)


def _classifies(kind: type) -> bool:
    return "ForImageClassification" in kind.__name__


def _model_class(transformers: Any, config: Any) -> Any:
    """Return the class of a checkpoint's model that takes images alone.

    That is the class that it was saved as; of a model of images and texts its encoder of images.
    """
    name = (getattr(config, "architectures", None) or [""])[0]
    if hasattr(config, "vision_config") and "ForImageClassification" not in name:
        family = type(config).__name__.removesuffix("Config")
        for vision in (f"{family}VisionModelWithProjection", f"{family}VisionModel"):
            if hasattr(transformers, vision):
                return getattr(transformers, vision)
    kind = getattr(transformers, name, None)
    if kind is None or getattr(kind, "main_input_name", "") != "pixel_values":
        raise ValueError(
            f"model: the checkpoint is of {name or 'an unknown class'}, which is not a network of transformers that "
            "takes images alone; name a function of your own that wraps it"
        )
    return kind


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep progress bars and advice of transformers off the terminal; its errors are raised."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
