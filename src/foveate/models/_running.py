"""Running a user's model without changing it, and checking what it returns."""

import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

_locks: "weakref.WeakKeyDictionary[nn.Module, threading.RLock]" = weakref.WeakKeyDictionary()
_locks_lock = threading.Lock()


def first_weight(model: nn.Module) -> Tensor | None:
    """Return the first floating point parameter or buffer of a model, whose device and dtype its input must have.

    Example:
        >>> first_weight(nn.Conv2d(3, 4, 1).double()).dtype, first_weight(nn.ReLU())
        (torch.float64, None)
    """
    return next((t for t in chain(model.parameters(), model.buffers()) if t.is_floating_point()), None)


def logits_in(output: Any) -> Any:
    """Return the logits that a model's output holds as ``logits``, by attribute or key, or as a tuple's only matrix.

    Anything else is returned as it is.

    Example:
        >>> logits_in({"logits": torch.zeros(1, 5), "loss": None}).shape, logits_in((torch.zeros(1, 5),)).shape
        (torch.Size([1, 5]), torch.Size([1, 5]))
    """
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if named is not None:
        return named
    matrices = [x for x in output if isinstance(x, Tensor) and x.ndim == 2] if isinstance(output, tuple | list) else []
    return matrices[0] if len(matrices) == 1 else output


def check_logits(output: object) -> Tensor:
    """Return the logits (B, classes) that a model returned, see :func:`logits_in`.

    Raises:
        ValueError: if there are none, or it is not certain which they are.
    """
    logits = logits_in(output)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = f"a tensor {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"model: expected logits (B, classes), got {got}; wrap the model so that it returns them")
    return logits


@contextmanager
def answering_logits(model: nn.Module) -> Iterator[None]:
    """Let a model return the logits that its output holds, see :func:`logits_in`, in every forward pass meanwhile."""
    handle = model.register_forward_hook(lambda _module, _args, output: logits_in(output))
    try:
        yield
    finally:
        handle.remove()


def refuse_cuda_in_worker(device: torch.device, task: str = "saliency") -> None:
    """Raise if ``device`` is a GPU and this process is a DataLoader worker, before CUDA itself fails obscurely.

    Raises:
        RuntimeError: naming ``task`` and the cures.
    """
    if device.type != "cpu" and torch.utils.data.get_worker_info() is not None:
        raise RuntimeError(
            f"{task} on {device} inside a DataLoader worker: a worker cannot share the GPU. Either keep the model on "
            "the CPU in the transform, or compress in the training loop after the batch is on the GPU (call the "
            "Compressor or Prefilter there), or compute the maps beforehand and pass them as maps="
        )


def eager(model: nn.Module) -> nn.Module:
    """Return the module that ``torch.compile`` wrapped; any other module as it is.

    Example:
        >>> net = nn.ReLU()
        >>> eager(net) is net
        True
    """
    while type(model).__name__ == "OptimizedModule":  # by its name, as importing its class takes seconds
        model = model._orig_mod  # type: ignore[assignment]
    return model


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run the model in eval mode, uncompiled, one thread at a time; restore each submodule's mode and buffers after.

    Uncompiled, because code that was compiled before a hook was added does not call the hook.
    """
    with ExitStack() as stack:
        # Each submodule has a lock of its own, since two models may share one; always in the same order, so that there
        # are no deadlocks.
        for module in sorted(model.modules(), key=id):
            stack.enter_context(_lock_of(module))
        yield from _restored(model)


def _lock_of(module: nn.Module) -> threading.RLock:
    with _locks_lock:
        return _locks.setdefault(module, threading.RLock())


def _restored(model: nn.Module) -> Iterator[None]:
    modules = list(model.modules())
    modes = [(module, module.training) for module in modules]
    compiled = [(module, call) for module in modules if (call := module._compiled_call_impl) is not None]
    wrappers = [(module, module.__dict__["forward"]) for module in modules if eager(module) is not module]
    buffers = [
        (module, name, buffer, _version(buffer), buffer.clone())
        for module in modules
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        for module, training in modes:
            if training:  # the flag itself: a user's own train() or eval() may do more than set it
                module.training = False
        for module, _ in compiled:
            module._compiled_call_impl = None
        for module, _ in wrappers:
            module.__dict__["forward"] = eager(module).__call__
        yield
    finally:
        for module, training in modes:
            module.training = training
        for module, call in compiled:
            module._compiled_call_impl = call
        for module, forward in wrappers:
            module.__dict__["forward"] = forward
        for module, name, buffer, version, values in buffers:
            if _version(buffer) != version:  # written in place, as some counters are in any mode
                with torch.no_grad():
                    buffer.copy_(values)
            module._buffers[name] = buffer


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was written in place; inference tensors do not count that, nor can they be written."""
    return 0 if tensor.is_inference() else tensor._version
