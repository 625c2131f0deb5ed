"""The settings of a command from a YAML or JSON file of its own, or from that of a LightningCLI."""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_CALLBACK = "foveate.integrations.lightning.CompressionRobustness"
_REPEATED = ("codec", "judge", "witness")


def arguments(path: Path) -> list[str]:
    """Return the contents of a file as the words of a command line.

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
        ...     _ = path.write_text("{codec: [jpeg, webp], strength: [0, 0.5], baselines: true}")
        ...     arguments(path)
        ['--codec=jpeg', '--codec=webp', '--strength=0,0.5', '--baselines']
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"--config: {path} is neither YAML nor JSON: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"--config: {path} does not hold a mapping of options to values")
    return list(_words(_of_callback(content, path) if "trainer" in content else content))


def _words(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        several = value if isinstance(value, list | tuple) else [value]
        if name == "images":
            yield str(value)
        elif isinstance(value, Mapping):
            yield f"--{name}={json.dumps(value, default=str)}"
        elif value is True:
            yield f"--{name}"
        elif name in _REPEATED:
            yield from (f"--{name}={item}" for item in several)
        elif value is not None and value is not False:
            yield f"--{name}={','.join(map(str, several))}"


def _of_callback(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The options that stand for the arguments of a LightningCLI's callback."""
    trainer = content["trainer"] if isinstance(content["trainer"], Mapping) else {}
    callbacks = trainer.get("callbacks") or []
    callbacks = [c for c in (callbacks if isinstance(callbacks, list) else [callbacks]) if isinstance(c, Mapping)]
    arguments = next((c.get("init_args") or {} for c in callbacks if c.get("class_path") == _CALLBACK), None)
    if arguments is None:
        raise ValueError(f"--config: {path} has no callback {_CALLBACK}")
    settings: dict[str, Any] = {"codec": arguments.get("points", ["jpeg:10", "jpeg:30", "webp:20"])}
    settings["strength"] = list(dict.fromkeys([0, arguments.get("strength", 0)]))
    saliency = arguments.get("saliency")
    if isinstance(saliency, str):
        from foveate.saliency import SALIENCIES

        saliency = {"method" if saliency in SALIENCIES else "model": saliency}
    saliency = dict(saliency or {})
    if "model" in saliency:
        settings["model"] = saliency.pop("model")
    else:  # a layer named without a model is one of the module in training, which the command does not have
        saliency.pop("layer", None)
    settings["saliency"] = {"method": "GradCam", **saliency}
    return settings


def with_config(words: list[str]) -> list[str]:
    """Return the words of a command with those of its ``--config`` before its own, which then override them."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path)
    if not words or words[0] not in ("evaluate", "calibrate", "compress", "saliency"):
        return words
    parsed, rest = finder.parse_known_args(words[1:])
    return words if parsed.config is None else [words[0], *arguments(parsed.config), *rest]
