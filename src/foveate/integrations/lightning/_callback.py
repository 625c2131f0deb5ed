"""Shared by the callbacks: a base class for every Lightning package, their schedule, and figures for loggers."""

import importlib
from collections.abc import Callable
from typing import Any

from foveate._extras import install_line
from foveate.integrations.lightning import _figures


def _callbacks() -> tuple[type, ...]:
    bases = []
    for name in ("lightning.pytorch", "pytorch_lightning"):
        try:
            bases.append(importlib.import_module(name).Callback)
        except ModuleNotFoundError as error:
            if error.name not in ("lightning", "lightning.pytorch", "pytorch_lightning"):
                raise  # installed but broken
    if not bases:
        raise ImportError(f"neither lightning nor pytorch_lightning is installed; {install_line('lightning')}")
    return tuple(bases)


# Each package's CLI and type checks expect its own Callback, so the base derives from both.
BaseCallback: Any = type(
    "BaseCallback", _callbacks(), {"__module__": __name__, "__doc__": "A callback of every Lightning."}
)


def is_due(trainer: Any, every_n_epochs: int) -> bool:
    if trainer.sanity_checking:
        return False
    return trainer.state.fn != "fit" or (trainer.current_epoch + 1) % every_n_epochs == 0


def streams_of(trainer: Any) -> list[Any]:
    """Return the sources of this stage's batches: each loader, or all together if a CombinedLoader mixes them.

    There is one per ``dataloader_idx`` of Lightning; ``trainer.val_dataloaders`` shows neither how nested loaders are
    counted nor whether they are combined.
    """
    combined = trainer._evaluation_loop._combined_loader
    return combined.flattened if combined._mode == "sequential" else [combined.flattened]


def log_figure(trainer: Any, tag: str, draw: Callable[[], Any]) -> None:
    """Log a figure to every logger that accepts one; it is drawn only if needed, in the first process only."""
    if not trainer.is_global_zero:
        return
    figure = None
    for logger in trainer.loggers:
        add_figure = getattr(logger.experiment, "add_figure", None)
        log_image = getattr(logger, "log_image", None)
        if add_figure is None and log_image is None:
            continue
        figure = draw() if figure is None else figure
        if add_figure is not None:
            add_figure(tag, figure, global_step=trainer.global_step, close=False)
        elif log_image is not None:
            log_image(tag, [_figures.pixels(figure)], step=trainer.global_step)
