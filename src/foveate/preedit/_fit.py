"""Training an editor on images, with the loss of edits by gradient."""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate._checks import check_count, check_number
from foveate._progress import Progress
from foveate.codecs import Codec, as_codec
from foveate.codecs.proxy import proxy_for
from foveate.filters import resize
from foveate.images import ImageLike, as_tensor, to_float
from foveate.models import undisturbed
from foveate.preedit._bounds import Bounds
from foveate.preedit._editor import Editor
from foveate.preedit._features import Features
from foveate.preedit._models import ModelSpec, as_models
from foveate.preedit._objective import network_distance

_SHORT_SIDE = 512
_SCALES = (1.0, 0.7, 0.5)
_SHARE = 5 / 7
"""Of the side of a network's input: training on smaller crops takes half as long."""
_BATCH = 8
_WEIGHT = 0.5
"""Of the distance at strength 1. Ten times that of an edit by gradient: one pass keeps less for the same bits. At less,
images became worthless before they became small; at twice as much nothing was gained."""
_LEAST_STRENGTH = 0.25
_LEARNING_RATE, _WARM_UP, _CLIP = 3e-3, 50, 0.5


class Images(Protocol):
    """Images by number: a list, or anything that reads them when asked."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, index: int, /) -> ImageLike:
        """Return one of them."""


def fit(
    images: Images,
    models: "ModelSpec | Sequence[ModelSpec]",
    codec: str | Codec = "jpeg",
    *,
    steps: int = 4000,
    limit: float | None = 30.0,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> Editor:
    """Train an editor, which does in one pass what an edit by gradient does in many, and keeps less.

    Each step takes crops of 8 images at full size, 0.7 or 0.5 of it (at most 512 pixels on the short side), a quality
    of the codec's ladder and a strength, all drawn from ``seed``; the models take turns. Models and the user's random
    state are left alone.

    Args:
        images: to train on, some hundreds of the kind that is to be edited.
        models: the networks whose features and answers stay, as in :class:`foveate.PreEdit`.
        codec: to edit for, at all of its qualities.
        steps: of the optimizer; some thousand.
        limit: the least PSNR of an edit in dB, None for none; :class:`foveate.PreEdit` has its own, and should have the
            same.
        seed: of the editor and of what each step takes.
        progress: is told of each step.

    Returns:
        The editor, in eval mode, on the device of the first model.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if there are no images, there is no stand-in for the codec, or a number is out of range.

    Example:
        >>> from foveate.demo import PREPROCESS, Scenes
        >>> from foveate.models import LazyClassifier
        >>> net = LazyClassifier("foveate.demo:scene_net", PREPROCESS)
        >>> editor = fit([image for image, _ in Scenes(4)], net, steps=2)
        >>> sum(p.numel() for p in editor.parameters()) < 150_000
        True
    """
    codec, steps, seed = as_codec(codec), check_count("steps", steps), check_count("seed", seed, 0)
    limit = None if limit is None else check_number("limit", limit, 0)
    proxy_for(codec)  # raises if there is none
    if not len(images):
        raise ValueError("images: expected at least one")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        editor = Editor()
    classifiers = [model.classifier for model in as_models(models)]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(undisturbed(nn.ModuleList(classifier.model for classifier in classifiers)))
        networks = [Features(classifier) for classifier in classifiers]
        editor.to(networks[0].device)
        stack.enter_context(torch.autocast(editor.device.type, enabled=False))
        optimizer = torch.optim.AdamW(editor.parameters(), weight_decay=1e-4)
        for step in range(steps):
            decay = 0.5 + 0.5 * math.cos(math.pi * step / steps)
            optimizer.param_groups[0]["lr"] = _LEARNING_RATE * min(1.0, (step + 1) / _WARM_UP) * decay
            loss = _loss(editor, networks[step % len(networks)], images, codec, limit, generator)
            parameters = [*editor.parameters()]  # those of the models get no gradient
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient
            nn.utils.clip_grad_norm_(parameters, _CLIP)
            optimizer.step()
            if progress is not None:
                progress(Progress("fit", step + 1, steps, unit="step"))
    editor.networks = tuple(classifier.name for classifier in classifiers)
    return editor.eval().requires_grad_(False)


def _loss(
    editor: Editor,
    network: Features,
    images: Images,
    codec: Codec,
    limit: float | None,
    generator: torch.Generator,
) -> Tensor:
    """Return bits relative to those of the source plus weight times distance, averaged over crops of some images."""
    ladder = codec.qualities()
    proxy = proxy_for(codec.with_quality(ladder[_draw(len(ladder), generator)]))
    strength = _LEAST_STRENGTH ** float(torch.rand((), generator=generator))
    scale = _SCALES[_draw(len(_SCALES), generator)]
    side = 0
    sources, decoded, bits = [], [], []
    for _ in range(_BATCH):
        image = to_float(as_tensor(images[_draw(len(images), generator)]))[None].to(editor.device, torch.float32)
        image = _scaled(image, scale)
        length, short_side = network.sides(image)
        side = side or max(1, round(_SHARE * length))  # if it takes whole images, they all become as large as the first
        source = _crop(image, side / short_side, generator)
        size = (source.shape[-2], source.shape[-1])
        planes = proxy.planes(source)
        with torch.no_grad():
            start = proxy.code(planes)[1]
        edited = editor(planes, proxy, torch.tensor([strength]))
        if limit is not None:
            edited = Bounds(source, None, limit, limit).project(edited, planes, proxy)
        seen, after = proxy.decode(edited, size)
        bits.append(after / start.clamp_min(1))
        sources.append(_view(source, side))
        decoded.append(_view(seen.clamp(0, 1), side))
    distance = network_distance(network, torch.cat(sources), torch.cat(decoded))
    return torch.cat(bits).mean() + _WEIGHT / strength * distance.mean()


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _scaled(image: Tensor, scale: float) -> Tensor:
    height, width = image.shape[-2:]
    factor = scale * min(1.0, _SHORT_SIDE / min(height, width))
    return resize(image, (max(1, round(factor * height)), max(1, round(factor * width))))


def _crop(image: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return a square crop of an image (1, C, H, W), of a share of its short side, and mirrored or not."""
    height, width = image.shape[-2:]
    length = min(height, width, max(1, round(share * min(height, width))))
    top, left = _draw(height - length + 1, generator), _draw(width - length + 1, generator)
    part = image[..., top : top + length, left : left + length].clamp(0, 1)
    return part.flip(-1) if _draw(2, generator) else part


def _view(images: Tensor, side: int) -> Tensor:
    """Return images (B, C, H, W) as a network sees them, (B, 3, side, side)."""
    if images.shape[-2:] != (side, side):
        images = F.interpolate(images, (side, side), mode="bilinear", antialias=True).clamp(0, 1)
    return images.expand(-1, 3, -1, -1)
