"""The pre-filter that edits images for the networks that will look at them."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor, nn

from foveate._checks import check_count, check_number
from foveate.codecs import Codec, Jpeg, as_codec
from foveate.codecs.proxy import Proxy, has_proxy, proxy_for
from foveate.images import check_tensor, to_dtype, to_float
from foveate.models import LazyClassifier, first_weight, refuse_cuda_in_worker, undisturbed
from foveate.preedit._bounds import Bounds
from foveate.preedit._cache import EditCache, map_digest
from foveate.preedit._editor import SUFFIX, Editor
from foveate.preedit._features import Features
from foveate.preedit._models import ModelSpec, as_models
from foveate.preedit._objective import NetworkDistance, Objective, ms_ssim_distance, pixel_distance, untrained
from foveate.preedit._optimize import Distance, optimize
from foveate.prefilter import PrefilterBase, check_strengths
from foveate.saliency import Saliency, SaliencySpec, as_saliency, check_maps, saliency_maps

DEFAULT_MODELS = ("mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5")
"""Unlike networks of torchvision, the smallest of each family, where nobody knows who will look."""

_WEIGHT = 0.05
"""Of the distance at strength 1, where the bits of the source weigh 1."""

_ALGORITHM = 5
"""Counts changes of what an edit gives, so that a cache does not mix them."""


@dataclass(frozen=True)
class PreEdit(PrefilterBase):
    """Edit images by gradient so that a standard codec needs fewer bytes and networks still see the same.

    The image is optimized through a differentiable stand-in for the codec (:mod:`foveate.codecs.proxy`): its
    coefficients shrink while the features in the layers of ``models``, and their answers, on random crops of what is
    decoded, stay as they were. The result is an ordinary image for the ordinary encoder. What counts is who is in the
    loss: networks of one family help each other, and unlike networks together also help those that are not in it.

    An edit takes ``steps`` forward and backward passes, in which the models take turns, so it is for images that are
    compressed once. It depends on nothing but the image, the map and these settings: crops are drawn from ``seed``, and
    the user's random state and models are left alone.

    Args:
        models: the networks whose features stay: recipes (``"resnet18"``), modules, :class:`foveate.models.Classifier`
            or :class:`foveate.models.LazyClassifier`; a network need not have a head. By default four small, unlike
            networks of torchvision. Or an editor that :func:`fit` or ``foveate fit`` trained, or the path of its file,
            ``"….safetensors"``: it edits in one pass, which needs neither models nor steps, and keeps less.
        strength: in (0, 1]: how much bytes weigh against the features; 0 returns the input bit for bit.
        codec: the codec and quality to edit for; None takes those of the codec that follows, at the nearest of its
            qualities for sweeps, so that a rate control edits an image once for each of a few bands of qualities.
            A codec without a stand-in takes JPEG of the same place in its sweep. Without any codec, ``"jpeg:35"``.
        saliency: makes the maps that say which part is salient to ``limit``, in any form that
            :func:`foveate.saliency.as_saliency` accepts. None treats all of the image alike.
        steps: of the optimizer.
        limit: the least PSNR of an edit before coding, in dB; or two, in the salient part and elsewhere. None sets no
            limit: the image then may look like what it is, blocks where the networks see nothing. 30 dB is about what
            JPEG itself leaves at quality 35.
        objective: ``"networks"``, their features and answers; the others are controls of a comparison: ``"features"``
            and ``"answers"`` alone, ``"untrained"`` (the same networks with random weights), ``"pixels"`` and
            ``"ms_ssim"``.
        seed: of the crops.
        cache: a folder for finished edits of uint8 images, which any number of runs and processes may share.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if a number is out of range, or there is no such codec or objective.

    Example:
        >>> from foveate.demo import PREPROCESS, Scenes
        >>> from foveate.images import as_tensor
        >>> from foveate.models import LazyClassifier
        >>> edit = PreEdit([LazyClassifier("foveate.demo:scene_net", PREPROCESS)], codec="jpeg:35", steps=3)
        >>> image = as_tensor(Scenes(1)[0][0])[None]
        >>> edit(image).shape == image.shape, bool((edit.at(0)(image) == image).all())
        (True, True)
    """

    after_scaling: ClassVar[bool] = True  # what is edited is what the codec gets, block by block

    models: tuple[LazyClassifier, ...] | Editor = DEFAULT_MODELS  # type: ignore[assignment]  # until it is initialized
    strength: float = 0.5
    _: KW_ONLY
    codec: Codec | None = None
    saliency: Saliency | None = None
    steps: int = 60
    limit: tuple[float, float] | None = (30.0, 30.0)
    objective: Objective = Objective.NETWORKS
    seed: int = 0
    cache: Path | None = None

    if TYPE_CHECKING:  # the constructor accepts more types than the fields hold

        def __init__(
            self,
            models: ModelSpec | Sequence[ModelSpec] | Editor | Path = DEFAULT_MODELS,
            strength: float = 0.5,
            *,
            codec: str | Codec | None = None,
            saliency: SaliencySpec | None = None,
            steps: int = 60,
            limit: float | tuple[float, float] | None = 30.0,
            objective: str = "networks",
            seed: int = 0,
            cache: str | Path | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        self._set("models", _as_editor(self.models) or as_models(self.models))
        self._set("strength", check_number("strength", self.strength, 0, 1))
        if self.codec is not None:
            self._set("codec", as_codec(self.codec))
            proxy_for(self.codec)  # raises if there is none
        if self.saliency is not None:
            self._set("saliency", as_saliency(self.saliency))
        self._set("steps", check_count("steps", self.steps))
        self._set("limit", _as_limit(self.limit))
        if self.objective not in [*Objective]:
            raise ValueError(f"objective: expected one of {', '.join(Objective)}, got {self.objective!r}")
        self._set("objective", Objective(self.objective))
        self._set("seed", check_count("seed", self.seed, 0))
        if isinstance(self.models, Editor):
            for name, value in (("steps", self.steps), ("objective", self.objective), ("seed", self.seed)):
                if value != type(self).__dataclass_fields__[name].default:
                    raise ValueError(f"{name}: an editor was trained already, and takes none; leave it out")
        if self.cache is not None:
            self._set("cache", Path(self.cache))
        self._check_saliency()

    def _check_saliency(self) -> None:
        if self.saliency is not None and self.limit is None:
            raise ValueError("saliency: without a limit a map says nothing; give a limit, or leave saliency out")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def needs_maps(self) -> bool:
        """Whether a call at a strength above 0 uses maps."""
        return self.saliency is not None

    @property
    def settings(self) -> str:
        """All that the result depends on except the saliency, as one line of text."""
        if isinstance(self.models, Editor):
            editor = self.models.identity
            return f"edit {_ALGORITHM} strength={self.strength:g} codec={self.codec} limit={self.limit} {editor}"
        models = "" if self._without_models else ", ".join(model.identity for model in self.models)
        return (
            f"edit {_ALGORITHM} strength={self.strength:g} codec={self.codec} steps={self.steps} limit={self.limit} "
            f"objective={self.objective} seed={self.seed} models=({models})"
        )

    def before(self, codec: Codec) -> Self:
        """Return this edit for a codec: at the nearest of a few qualities, unless it has a codec of its own."""
        return self if self.codec is not None else replace(self, codec=_band(codec))

    def guided(self, saliency: SaliencySpec | None) -> Self:
        """Return this edit with another saliency, or with none.

        Raises:
            TypeError: as :func:`foveate.saliency.as_saliency` does.
            ValueError: as that does; or if there is a saliency but no limit that it could guide.
        """
        other = super().guided(saliency)
        other._check_saliency()
        return other

    def to(self, device: str | torch.device) -> Self:
        """Move the models of the loss, or the editor, to a device; recipes are built now."""
        if isinstance(self.models, Editor):
            self.models.to(device)
            return self
        for model in self.models:
            model.classifier.model.to(device)
        return self

    def __call__(self, images: Tensor, maps: Tensor | None = None, strengths: Tensor | None = None) -> Tensor:
        """Edit a batch, see :class:`foveate.prefilter.PrefilterBase`; images of strength 0 stay bit for bit.

        Raises:
            TypeError: if the images are not a uint8 or floating point tensor.
            ValueError: if the shape or range of the images or maps does not fit, or a model gives no features.
            RuntimeError: if a model is on a GPU and this is a DataLoader worker.
        """
        check_tensor(images)
        if images.ndim != 4:
            raise ValueError(f"images: expected a batch (B, C, H, W), got {tuple(images.shape)}")
        if strengths is None:
            strengths = torch.full((len(images),), self.strength)
        check_strengths(strengths, len(images))
        if maps is not None:
            maps = check_maps(maps, len(images)).to(images.device)
        active = (strengths > 0).to(images.device)
        if not active.any():
            return images
        if maps is None and self.saliency is not None:
            maps = saliency_maps(self.saliency, images)
        if active.all():
            return self._cached(images, maps, strengths.to(images.device))
        edited = images.clone()
        edited[active] = self._cached(
            images[active], None if maps is None else maps[active], strengths.to(images.device)[active]
        )
        return edited

    @property
    def _without_models(self) -> bool:
        return self.objective in (Objective.PIXELS, Objective.MS_SSIM)

    def _cached(self, images: Tensor, maps: Tensor | None, strengths: Tensor) -> Tensor:
        """Return edits, those that a cache has from there."""
        if self.cache is None or images.dtype != torch.uint8:
            return self._edit(images, maps, strengths)
        caches = {s: EditCache(self.cache, self.at(s).settings) for s in dict.fromkeys(strengths.tolist())}
        entries = [
            (caches[s], image, "" if maps is None else map_digest(maps[k]))
            for k, (s, image) in enumerate(zip(strengths.tolist(), images, strict=True))
        ]
        edits = [cache.get(image, digest) for cache, image, digest in entries]
        missing = torch.tensor([edit is None for edit in edits])
        if missing.any():
            rows = missing.to(images.device)
            new = iter(self._edit(images[rows], None if maps is None else maps[rows], strengths[rows]))
            for k, (cache, image, digest) in enumerate(entries):
                if edits[k] is None:
                    edits[k] = edit = next(new)
                    cache.put(image, digest, edit)
        return torch.stack([edit.to(images.device) for edit in edits if edit is not None])

    def _edit(self, images: Tensor, maps: Tensor | None, strengths: Tensor) -> Tensor:
        """Return edits of images, all of strengths above 0."""
        if isinstance(self.models, Editor):
            return self._in_one_pass(self.models, images, maps, strengths)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            classifiers = [] if self._without_models else [model.classifier for model in self.models]
            for classifier in classifiers:
                weight = first_weight(classifier.model)
                if weight is not None:
                    refuse_cuda_in_worker(weight.device, f"the edit for {classifier.name}")
            # All at once: edits that share models and run in threads must lock them in one order.
            stack.enter_context(undisturbed(nn.ModuleList(classifier.model for classifier in classifiers)))
            if self.objective == Objective.UNTRAINED:
                classifiers = [untrained(classifier) for classifier in classifiers]
            features = [Features(classifier) for classifier in classifiers]
            device = features[0].device if features else images.device
            stack.enter_context(torch.autocast(device.type, enabled=False))
            # A copy outside inference mode, through whose tensors no gradient can pass.
            source = to_float(images.detach().clone()).to(device, torch.float32)
            maps = None if maps is None else maps.detach().clone().to(device, torch.float32)
            edited = optimize(
                source,
                self._proxy,
                self._distance(features),
                (_WEIGHT / strengths).to(device),
                self._bounds(source, maps),
                steps=self.steps,
                seed=self.seed,
            )
        return to_dtype(edited.clamp(0, 1), images.dtype).to(images.device)

    def _in_one_pass(self, editor: Editor, images: Tensor, maps: Tensor | None, strengths: Tensor) -> Tensor:
        refuse_cuda_in_worker(editor.device, "the editor")
        count = len(images) if editor.device.type == "cuda" else 1  # one after the other stays in a processor's cache
        pieces = zip(
            images.split(count),
            [None] * len(images) if maps is None else maps.split(count),
            strengths.split(count),
            strict=False,
        )
        with torch.inference_mode(), torch.autocast(editor.device.type, enabled=False):
            edits = [self._changed(editor, *piece) for piece in pieces]
        return torch.cat(edits).to(images.device)

    def _changed(self, editor: Editor, images: Tensor, maps: Tensor | None, strengths: Tensor) -> Tensor:
        source = to_float(images).to(editor.device, torch.float32)
        planes = self._proxy.planes(source)
        after = editor(planes, self._proxy, strengths.to(source))
        change = [new - old for old, new in zip(planes, after, strict=True)]
        # What the planes do not hold stays.
        edited = source + self._proxy.change(change, (source.shape[-2], source.shape[-1]), smooth=False)
        bounds = self._bounds(source, None if maps is None else maps.to(source))
        edited = edited if bounds is None else bounds.enforce(edited)
        return to_dtype(edited.clamp(0, 1), images.dtype)

    @property
    def _proxy(self) -> Proxy:
        return proxy_for(Jpeg(35) if self.codec is None else self.codec)

    def _bounds(self, source: Tensor, maps: Tensor | None) -> Bounds | None:
        return None if self.limit is None else Bounds(source, maps, *self.limit)

    def _distance(self, features: list[Features]) -> Distance:
        if self.objective == Objective.PIXELS:
            return pixel_distance
        if self.objective == Objective.MS_SSIM:
            return ms_ssim_distance
        return NetworkDistance(
            features, Objective.NETWORKS if self.objective == Objective.UNTRAINED else self.objective
        )


def _as_editor(models: object) -> Editor | None:
    """Return the editor that models stand for, or None if they stand for networks."""
    if isinstance(models, Editor):
        return models
    is_path = isinstance(models, Path) or (isinstance(models, str) and models.endswith(SUFFIX))
    return Editor.load(models) if is_path else None  # type: ignore[arg-type]  # which that says


def _as_limit(limit: object) -> tuple[float, float] | None:
    if limit is None:
        return None
    ends = limit if isinstance(limit, Sequence) and not isinstance(limit, str) else (limit, limit)
    if len(ends) != 2:
        raise ValueError(f"limit: expected one number or two, inside and outside, got {limit!r}")
    inside, outside = (check_number("limit", end, 0) for end in ends)
    return inside, outside


def _band(codec: Codec) -> Codec:
    """Return a codec at the nearest of its qualities for sweeps; one without a stand-in, as JPEG."""
    ladder = codec.qualities()
    nearest = min(range(len(ladder)), key=lambda k: abs(ladder[k] - codec.quality))
    if has_proxy(codec):
        return codec.with_quality(ladder[nearest])
    steps = Jpeg().qualities()
    return Jpeg(int(steps[round(nearest * (len(steps) - 1) / max(1, len(ladder) - 1))]))
