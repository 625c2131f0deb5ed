"""Differentiable smoothing filters with a strength that may differ at every pixel; Gaussians by Kornia.

Images are float tensors (B, C, H, W) of any H, W >= 1, on any device. float16 and bfloat16 are computed in float32 and
cast back; autocast is off inside, so the result has the dtype of the image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate._checks import check_count

__all__ = ["gaussian_blend", "gaussian_blur", "gaussian_scale_space", "guided_filter", "resize"]

_BAND = 2**18  # values of an image that are processed at a time
_LEVELS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_HALF = (torch.float16, torch.bfloat16)
_LARGEST_EPS = 1e12  # from here on, infinity included, a guide in [0, 1] is smoothed as by a box blur anyway
# The variance of a window has about this much rounding noise; a smaller eps would amplify the noise.
_SMALLEST_EPS = {torch.float32: 1e-6, torch.float64: 1e-12}


def guided_filter(image: Tensor, guide: Tensor, radius: int, eps: float | Tensor) -> Tensor:
    r"""Smooth ``image`` but not across the edges of ``guide``, by an amount that may differ at every pixel.

    In every window of side :math:`2r+1` the output is the linear function of the guide nearest to the image, its slope
    damped by ``eps`` (He, Sun, Tang, "Guided Image Filtering", ECCV 2010). For a constant ``eps`` this is
    ``kornia.filters.guided_blur(guide, image, 2 * radius + 1, eps)``, which takes no map.

    Args:
        image: float (B, C, H, W).
        guide: its edges are kept, float (B, 1, H, W) or (B, G, H, W). Often ``image`` itself or its luma.
        radius: of the window, in pixels, at least 1. The border is mirrored (without repeating the edge pixel),
            repeatedly if the image is smaller than the window.
        eps: a number, or a map (B, 1, H, W) or (1, 1, H, W), at least 0, in squared units of the guide: edges of a
            contrast well above its square root survive. Where it is 0 the image is unchanged; a large value smooths
            like a box blur. In float32, values between 0 and 1e-6 count as 1e-6.

    Returns:
        The filtered image, of the shape and dtype of ``image``.

    Raises:
        TypeError: if a tensor is not floating point.
        ValueError: if the shapes, the radius or the sign of ``eps`` do not fit.

    Example:
        >>> image = torch.rand(1, 3, 32, 32)
        >>> eps = torch.zeros(1, 1, 32, 32)
        >>> eps[..., 16:] = 0.1
        >>> out = guided_filter(image, image, radius=3, eps=eps)
        >>> bool((out[..., :16] == image[..., :16]).all()), bool(out[..., 20:].std() < image[..., 20:].std())
        (True, True)
    """
    _check_image("image", image)
    _check_image("guide", guide)
    if guide.shape[0] != image.shape[0] or guide.shape[-2:] != image.shape[-2:]:
        raise ValueError(f"guide: expected batch and size of the image {tuple(image.shape)}, got {tuple(guide.shape)}")
    radius = check_count("radius", radius)
    eps = _as_map("eps", eps, image)

    dtype = torch.promote_types(image.dtype, guide.dtype)
    dtype = torch.float32 if dtype in _HALF else dtype
    g, e = guide.to(dtype), eps.to(dtype)
    p = g if image is guide else image.to(dtype)
    with torch.autocast(image.device.type, enabled=False):
        out = _guided_by_bands(p, g, e.clamp(_SMALLEST_EPS[dtype], _LARGEST_EPS), radius)
        # Pixels with an eps of 0 must not change, but their windows include neighbors that are smoothed.
        out = torch.where(e > 0, out, p)
    return out.to(image.dtype)


def _guided_by_bands(p: Tensor, g: Tensor, eps: Tensor, radius: int) -> Tensor:
    """Filter a large image band by band: its planes stay in the cache, so the cost per pixel stays about the same.

    A band depends on pixels up to two radii away, because two box means follow one another.
    """
    height, width = p.shape[-2:]
    band, halo = max(_BAND // width, 16 * radius), 2 * radius
    if height <= band + 2 * halo:
        return _guided(p, g, eps, radius)
    bands = []
    for top in range(0, height, band):
        first, last = max(top - halo, 0), min(top + band + halo, height)
        g_band = g[..., first:last, :]
        p_band = g_band if p is g else p[..., first:last, :]
        filtered = _guided(p_band, g_band, eps[..., first:last, :], radius)
        bands.append(filtered[..., top - first : top - first + band, :])
    return torch.cat(bands, -2)


def _guided(p: Tensor, g: Tensor, eps: Tensor, radius: int) -> Tensor:
    guides = range(g.shape[1])
    # Everything between the two box means is transposed, as a box mean returns it, and split by channels.
    eps, mean_g = eps.mT, _box_mean(g, radius)
    mean_p = mean_g if p is g else _box_mean(p, radius)
    mg = [mean_g[:, i : i + 1] for i in guides]
    var: dict[tuple[int, int], Tensor] = {}
    for i in guides:
        products = _box_mean(g[:, i : i + 1] * g[:, i:], radius)
        for j in guides[i:]:
            var[i, j] = var[j, i] = torch.addcmul(products[:, j - i : j - i + 1], mg[i], mg[j], value=-1)
    if p is g:
        cov = [torch.cat([var[i, j] for j in guides], 1) for i in guides]
    else:
        cov = [torch.addcmul(_box_mean(g[:, i : i + 1] * p, radius), mg[i], mean_p, value=-1) for i in guides]
    slopes = _solve(var, eps, cov)
    offset = mean_p
    for slope, mean in zip(slopes, mg, strict=True):
        offset = torch.addcmul(offset, slope, mean, value=-1)
    out = _box_mean(offset, radius)
    for i, slope in enumerate(slopes):
        out = torch.addcmul(out, _box_mean(slope, radius), g[:, i : i + 1])
    return out


def _solve(a: dict[tuple[int, int], Tensor], ridge: Tensor, b: list[Tensor]) -> list[Tensor]:
    """Solve (A + ridge) x = b at every pixel, A symmetric and positive semidefinite, by its factors L D L^T.

    ``a[i, j]`` is (B, 1, H, W), ``b[i]`` (B, C, H, W). Plane by plane it takes a fraction of the time of
    ``torch.linalg.solve``, which is made for few large systems.
    """
    d: list[Tensor] = []
    factor: dict[tuple[int, int], Tensor] = {}
    x: list[Tensor] = []
    for j in range(len(b)):
        pivot = a[j, j] + ridge
        column = {i: a[i, j] for i in range(j + 1, len(b))}
        y = b[j]
        for k in range(j):
            scaled = factor[j, k] * d[k]
            pivot = torch.addcmul(pivot, scaled, factor[j, k], value=-1)
            column = {i: torch.addcmul(c, scaled, factor[i, k], value=-1) for i, c in column.items()}
            y = torch.addcmul(y, factor[j, k], x[k], value=-1)
        d.append(torch.maximum(pivot, ridge))  # only rounding makes it smaller
        factor |= {(i, j): c / d[j] for i, c in column.items()}
        x.append(y)
    x = [y / pivot for y, pivot in zip(x, d, strict=True)]
    for j in reversed(range(len(b))):
        for i in range(j + 1, len(b)):
            x[j] = torch.addcmul(x[j], factor[i, j], x[i], value=-1)
    return x


def _box_mean(x: Tensor, radius: int) -> Tensor:
    """Return the mean over the window around each pixel, **transposed**: (B, C, W, H); the border is mirrored."""
    return _window_sum(_window_sum(x, radius).mT, radius).mul_((2 * radius + 1) ** -2)


def _window_sum(x: Tensor, radius: int) -> Tensor:
    """Return the sum over the window around each value of the last dimension, at a cost independent of its side.

    A window is the end of one block of its length and the start of the next, so its sum is a difference of running sums
    that restart at every block. These are no larger than the sum over a window, and so keep its precision (blocks as in
    van Herk, "A fast algorithm for local minimum and maximum filters on rectangular and octagonal kernels", 1992).
    """
    size = x.shape[-1]
    periods, radius = divmod(radius, max(2 * (size - 1), 1))
    side = 2 * radius + 1
    blocks = -(-size // side) + 1
    after = blocks * side - size - radius - 1
    sums = _mirror(x, radius + 1, after).unflatten(-1, (blocks, side)).cumsum(-1)
    out = sums[..., 1:, :] - sums[..., :-1, :]
    out = out.add_(sums[..., :-1, -1:]).flatten(-2)[..., :size]
    if periods:  # whole periods of the mirrored image, equally many on each side of the window
        period_sum = 2 * x.sum(-1, keepdim=True) - x[..., :1] - x[..., -1:] if size > 1 else x
        out = out + 2 * periods * period_sum
    return out


def _mirror(x: Tensor, before: int, after: int) -> Tensor:
    """Extend the last dimension by its mirror image, the edge not repeated, as often as a small image needs."""
    size = x.shape[-1]
    if max(before, after) < size:
        return torch.cat([x[..., 1 : before + 1].flip(-1), x, x[..., size - 1 - after : size - 1].flip(-1)], -1)
    period = max(2 * (size - 1), 1)
    index = torch.arange(-before, size + after, device=x.device).remainder(period)
    return x.index_select(-1, torch.minimum(index, period - index) if size > 1 else index)


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Blur float (B, C, H, W) with one Gaussian, cut at three ``sigma``, the border replicated; by Kornia.

    Example:
        >>> image = torch.zeros(1, 1, 9, 9)
        >>> image[..., 4, 4] = 1
        >>> bool(gaussian_blur(image, 1.0)[0, 0, 4, 4] < 0.2)
        True
    """
    from kornia.filters import gaussian_blur2d

    side = 2 * _reach(sigma) + 1
    with torch.autocast(image.device.type, enabled=False):
        return gaussian_blur2d(image, (side, side), (sigma, sigma), border_type="replicate")


def gaussian_blend(image: Tensor, share: Tensor, sigma: float) -> Tensor:
    """Mix uint8 images on the CPU with their Gaussian blur, several times as fast as in floating point.

    The result is within one gray level of ``torch.lerp(image, gaussian_blur(image, sigma), share)``; gradients
    do not pass through it.

    Args:
        image: uint8 (B, C, H, W).
        share: the share of the blur, float (B, 1, H, W) in [0, 1]. Where it is 0 the image is unchanged.
        sigma: standard deviation in pixels, above 0. The kernel is cut at three ``sigma``, the border replicated.

    Returns:
        The mix, uint8 (B, C, H, W).

    Example:
        >>> image = torch.randint(0, 256, (1, 3, 9, 9), dtype=torch.uint8)
        >>> bool((gaussian_blend(image, torch.zeros(1, 1, 9, 9), 2.0) == image).all())
        True
    """
    height, width = image.shape[-2:]
    kernel = _kernel(sigma)
    block, before, after = kernel.block, kernel.before, kernel.after
    # Band by band in the same memory, which stays in the cache and is not returned to the system and mapped again.
    band = block * max(1, _BAND // (image.shape[1] * width * block), 2 * before // block)
    sides = min(band, height - height % -block) + before + after, width - width % -block + before + after
    buffers = torch.empty(3, image.shape[1] * sides[0] * sides[1], dtype=torch.float32)
    out = image.clone()
    for original, shares, mixed in zip(image, share.detach().float()[:, 0], out, strict=True):
        # Rows before channels: then each pass of the blur is one product over all channels.
        padded = _replicate(original.transpose(0, 1), 0, before, after - height % -block)
        padded = _replicate(padded, 2, before, after - width % -block)
        for top in range(0, height, band):
            weight = shares[top : top + band, None]
            if float(weight.amax()) == 0:
                continue
            source = padded[top : top + band + before + after]
            x = _view(buffers[0], source.shape).copy_(source)
            blurred = _filtered(x, kernel, buffers[1], buffers[2])[: len(weight), :, :width]
            sharp = x[before : before + len(weight), :, before : before + width]
            mix = torch.lerp(sharp, blurred, weight, out=blurred)
            # Through int16, which is faster than straight to uint8.
            mixed[:, top : top + band] = mix.round_().to(torch.int16).transpose(0, 1)
    return out


@dataclass(frozen=True)
class _Kernel:
    """A Gaussian as matrices that act on a block of pixels and its neighbors.

    A wide Gaussian is evaluated only every few pixels and interpolated in between, so that the cost per pixel does not
    depend on its width. At 2.3 samples a sigma or more, interpolation is off by less than a fifth of a gray level.

    Attributes:
        down: (samples of a block, pixels around the block), from pixels to samples.
        up: (pixels of a block, samples), from samples to pixels; None if every pixel is a sample.
        block: pixels of a block.
        before: pixels needed before the first of a block.
        after: pixels needed after the last of a block.
    """

    down: Tensor
    up: Tensor | None
    block: int
    before: int
    after: int


@lru_cache(16)
def _kernel(sigma: float) -> _Kernel:
    reach, step = _reach(sigma), max(1, int(sigma / 2.3))
    with torch.inference_mode(False), torch.no_grad():
        taps = (torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma).square().mul(-0.5).softmax(0)
        samples = 16 * math.ceil(max(1, reach / 16)) if step == 1 else 8
        down = torch.stack([F.pad(taps, (k * step, (samples - 1 - k) * step)) for k in range(samples)]).float()
        if step == 1:
            return _Kernel(down, None, samples, reach, reach)
        # The cubic through the two samples on either side (Lagrange).
        t = torch.arange(step, dtype=torch.float64) / step
        cubic = [-t * (t - 1) * (t - 2) / 6, (t + 1) * (t - 1) * (t - 2) / 2]
        cubic += [-(t + 1) * t * (t - 2) / 2, (t + 1) * t * (t - 1) / 6]
        weights = torch.stack(cubic, 1)
        up = torch.cat([F.pad(weights, (k, samples - 1 - k)) for k in range(samples)]).float()
    # One more block of samples than of pixels is computed: one sample lies before the pixels, and two lie after.
    return _Kernel(down, up, samples * step, reach + step, reach + (samples - 2) * step + 1)


def _filtered(x: Tensor, kernel: _Kernel, buffer: Tensor, work: Tensor) -> Tensor:
    """Filter the rows and columns of (H + before + after, C, W + before + after), H and W multiples of the block.

    By products with a matrix that has the taps once for every sample of a block: more multiplications than a
    convolution, and yet several times as fast. The result (H, C, W) is in one of the two buffers.
    """
    with torch.autocast("cpu", enabled=False):
        x = _rows(x, kernel.down, kernel.block, out=buffer)
        x = _columns(x, kernel.down, kernel.block, work=work, out=buffer)
        if kernel.up is None:
            return x
        x = _columns(x, kernel.up, len(kernel.down), work=work, out=buffer)
        return _rows(x, kernel.up, len(kernel.down), out=work)


def _rows(x: Tensor, matrix: Tensor, step: int, *, out: Tensor) -> Tensor:
    """Multiply windows of rows of (H, C, W), ``step`` rows apart, by the matrix; the result is in ``out``."""
    windows = x.flatten(1).unfold(0, matrix.shape[1], step).transpose(1, 2)  # (blocks, window, C * W)
    product = _view(out, (len(windows), len(matrix), windows.shape[2]))
    torch.bmm(matrix.expand(len(windows), -1, -1), windows, out=product)
    return product.view(-1, *x.shape[1:])


def _columns(x: Tensor, matrix: Tensor, step: int, *, work: Tensor, out: Tensor) -> Tensor:
    """Multiply windows of columns likewise; ``x`` may be in ``out``."""
    windows = x.view(-1, x.shape[2]).unfold(1, matrix.shape[1], step).transpose(0, 1)  # (blocks, H * C, window)
    product = _view(work, (*windows.shape[:2], len(matrix)))
    torch.bmm(windows, matrix.T.expand(len(windows), -1, -1), out=product)
    joined = _view(out, (product.shape[1], len(product), len(matrix))).copy_(product.transpose(0, 1))
    return joined.view(*x.shape[:2], -1)


def _view(buffer: Tensor, shape: Sequence[int]) -> Tensor:
    return buffer[: math.prod(shape)].view(*shape)


def _replicate(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Repeat the first and the last slice along one dimension."""
    first, last = x.narrow(dim, 0, 1), x.narrow(dim, x.shape[dim] - 1, 1)
    return torch.cat([*[first] * before, x, *[last] * after], dim)


def _reach(sigma: float) -> int:
    return math.ceil(3 * sigma)


def gaussian_scale_space(image: Tensor, sigma: float | Tensor, levels: Sequence[float] = _LEVELS) -> Tensor:
    r"""Blur every pixel with a Gaussian of its own width, from a small stack of blurred copies.

    Between two levels of the stack the two copies are blended linearly in :math:`\sigma^2`, so that the blend has the
    requested variance; at a level it is the Gaussian itself. (Koenderink, "The structure of images", 1984.)

    Args:
        image: float (B, C, H, W).
        sigma: standard deviation in pixels, at least 0: a number, or a map (B, 1, H, W) or (1, 1, H, W). Where it is 0
            the image is unchanged; above the largest level it counts as the largest level.
        levels: the widths of the stack, positive and increasing. Levels that no pixel needs are not computed.

    Returns:
        The blurred image, of the shape and dtype of ``image``. The border is replicated.

    Raises:
        TypeError: if a tensor is not floating point.
        ValueError: if the shapes do not fit, a sigma is negative, or the levels are not positive and increasing.

    Example:
        >>> image = torch.rand(1, 3, 24, 24)
        >>> ramp = torch.linspace(0, 3, 24).expand(1, 1, 24, 24)
        >>> out = gaussian_scale_space(image, ramp)
        >>> bool((out[..., 0] == image[..., 0]).all()), bool(out[..., -8:].std() < image[..., -8:].std())
        (True, True)
    """
    _check_image("image", image)
    sigma = _as_map("sigma", sigma, image)
    levels = tuple(float(s) for s in levels)
    if not levels or levels[0] <= 0 or any(b <= a for a, b in pairwise(levels)):
        raise ValueError(f"levels: expected positive, increasing widths, got {levels}")

    dtype = torch.float32 if image.dtype in _HALF else image.dtype
    x = image.to(dtype)
    variance = sigma.to(dtype).square()
    needed = float(variance.detach().amax()) if variance.numel() else 0.0
    with torch.autocast(image.device.type, enabled=False):
        out, below, below_variance = x, x, 0.0
        for level in levels:
            # If sigma is 0 everywhere, the first level is only computed for the gradient of sigma.
            if needed <= below_variance and (below_variance > 0 or not sigma.requires_grad):
                break
            blurred = gaussian_blur(x, level)
            share = ((variance - below_variance) / (level * level - below_variance)).clamp(0, 1)
            # A running lerp: a share of 1, below a pixel's level, replaces the sum so far; a share of 0 adds nothing.
            out = torch.where(variance > below_variance, torch.lerp(below, blurred, share), out)
            below, below_variance = blurred, level * level
    return out.to(image.dtype)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample float (B, C, H, W) to ``size`` (height, width), bicubic, antialiased when shrinking.

    Values may overshoot the range of the image a little, as bicubic interpolation does: clamp where it matters.

    Example:
        >>> resize(torch.rand(1, 1, 7, 7), (32, 20)).shape
        torch.Size([1, 1, 32, 20])
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    dtype = torch.float32 if image.dtype in _HALF else image.dtype
    return F.interpolate(image.to(dtype), size=size, mode="bicubic", align_corners=False, antialias=True).to(
        image.dtype
    )


def _check_image(name: str, image: Tensor) -> None:
    if not isinstance(image, Tensor) or not image.is_floating_point():
        kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(f"{name}: expected a floating point tensor, got {kind}; divide uint8 images by 255")
    if image.ndim != 4 or 0 in image.shape[1:]:
        raise ValueError(f"{name}: expected shape (B, C, H, W) with C, H, W >= 1, got {tuple(image.shape)}")


def _as_map(name: str, value: float | Tensor, image: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        value = torch.tensor(float(value), dtype=torch.float64, device=image.device).expand(1, 1, *image.shape[-2:])
    if not value.is_floating_point():
        raise TypeError(f"{name}: expected a number or a floating point map, got dtype {value.dtype}")
    batch, height, width = image.shape[0], *image.shape[-2:]
    if value.ndim != 4 or value.shape[0] not in (1, batch) or tuple(value.shape[1:]) != (1, height, width):
        raise ValueError(
            f"{name}: expected a number or a map (B, 1, H, W) for an image {tuple(image.shape)}, got "
            f"{tuple(value.shape)}"
        )
    if value.numel() and not bool((value.detach() >= 0).all()):
        raise ValueError(f"{name}: expected values of at least 0, got {float(value.detach().min())}")
    return value
