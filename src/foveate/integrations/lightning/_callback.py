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
        log = _logging(logger)
        if log is not None:
            figure = draw() if figure is None else figure
            log(tag, figure, trainer.global_step)


def _logging(logger: Any) -> Callable[[str, Any, int], object] | None:
    """Return how a logger takes a figure with its tag and step; None if it takes none."""
    experiment = logger.experiment
    if hasattr(experiment, "add_figure"):  # TensorBoard
        return lambda tag, figure, step: experiment.add_figure(tag, figure, global_step=step, close=False)
    if any(kind.__name__ == "MLFlowLogger" for kind in type(logger).__mro__):
        return lambda tag, figure, step: experiment.log_image(
            logger.run_id, _figures.pixels(figure), key=tag, step=step
        )
    if hasattr(logger, "log_image"):  # Weights & Biases
        return lambda tag, figure, step: logger.log_image(tag, [_figures.pixels(figure)], step=step)
    return None
