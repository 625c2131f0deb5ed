"""The settings of a command from a YAML or JSON file: one of its own, or the one of a LightningCLI."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_CALLBACK = "foveate.integrations.lightning.CompressionRobustness"
_REPEATED = ("codec", "judge", "witness")


def arguments(path: Path) -> list[str]:
    """Return what a file says as the words of a command line.

    Args:
        path: a mapping of a command's options, without their dashes, to values: a list where an option takes several,
            true for a flag. Or the file of a LightningCLI with a ``CompressionRobustness`` callback: its points,
            strength and saliency are then those of ``foveate evaluate``.

    Raises:
        ValueError: if the file is neither.
        OSError: if it cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "settings.yaml"
        ...     _ = path.write_text("{codec: [jpeg, webp], strength: [0, 0.5], controls: true}")
        ...     arguments(path)
        ['--codec=jpeg', '--codec=webp', '--strength=0,0.5', '--controls']
    """
    import yaml

    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"--config: {path} is neither YAML nor JSON: {' '.join(str(error).split())}") from error
    if not isinstance(held, Mapping):
        raise ValueError(f"--config: {path} holds no mapping of options to values")
    return list(_words(_of_callback(held, path) if "trainer" in held else held))


def _words(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        several = value if isinstance(value, list | tuple) else [value]
        if name == "images":
            yield str(value)
        elif value is True:
            yield f"--{name}"
        elif name in _REPEATED:
            yield from (f"--{name}={one}" for one in several)
        elif value is not None and value is not False:
            yield f"--{name}={','.join(map(str, several))}"


def _of_callback(held: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The options that stand for what a LightningCLI's callback is given."""
    trainer = held["trainer"] if isinstance(held["trainer"], Mapping) else {}
    callbacks = trainer.get("callbacks") or []
    given = next((c.get("init_args") or {} for c in callbacks if c.get("class_path") == _CALLBACK), None)
    if given is None:
        raise ValueError(f"--config: {path} has no callback {_CALLBACK}")
    settings: dict[str, Any] = {"codec": given.get("points", ["jpeg:10", "jpeg:30", "webp:20"])}
    settings["strength"] = list(dict.fromkeys([0, given.get("strength", 0)]))
    saliency = given.get("saliency")
    saliency = {"model": saliency} if isinstance(saliency, str) else dict(saliency or {})
    method = saliency.get("method", "GradCam")
    kinds = {"GradCam": "grad-cam", "ActivationMap": "activation"}
    if method not in kinds:
        raise ValueError(f"--config: {path}: the command makes maps by {' or '.join(kinds)}, not by {method!r}")
    settings["saliency"] = kinds[method]
    # A layer named without a model is one of the module in training, which the command does not have.
    settings |= {name: saliency[name] for name in ("model", "layer") if "model" in saliency and name in saliency}
    return settings
