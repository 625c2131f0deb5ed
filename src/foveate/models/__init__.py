"""Classifiers: built from a short string, fed as they were trained, and left as they were."""

from foveate.models._classifier import Classifier, LazyClassifier, load_classifier
from foveate.models._hubs import load_from_hub
from foveate.models._preprocess import IMAGENET_MEAN, IMAGENET_STD, PictureTransform, Preprocess
from foveate.models._recipes import LazyModel, ModelSource, build_model, import_object, preprocess_of, short_name
from foveate.models._running import (
    answering_logits,
    check_logits,
    eager,
    first_weight,
    logits_in,
    refuse_cuda_in_worker,
    undisturbed,
)
from foveate.models._tracing import Call, trace
from foveate.models._transforms import as_preprocess

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Call",
    "Classifier",
    "LazyClassifier",
    "LazyModel",
    "ModelSource",
    "PictureTransform",
    "Preprocess",
    "answering_logits",
    "as_preprocess",
    "build_model",
    "check_logits",
    "eager",
    "first_weight",
    "import_object",
    "load_classifier",
    "load_from_hub",
    "logits_in",
    "preprocess_of",
    "refuse_cuda_in_worker",
    "short_name",
    "trace",
    "undisturbed",
]
