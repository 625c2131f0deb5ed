"""The command line that compresses a dataset as a point of an evaluation does."""

import argparse
import json
import os
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.cli._models import edits
from foveate.cli._options import add_formats, add_prefilter, add_preprocessing, add_saliency

if TYPE_CHECKING:
    from foveate.compressor import Compressor


def compress_command(args: argparse.Namespace, compressor: "Compressor") -> str:
    """Return the words of ``foveate compress`` for one of the compressors of ``foveate evaluate``.

    Args:
        args: of the evaluation.
        compressor: one that was made from them, not a baseline.
    """
    control = compressor.control
    words = ["foveate", "compress", str(args.images), "SMALL"]
    words += ["--codec", compressor.codec.family if control is not None else str(compressor.codec)]
    filters = compressor.prefilter is not None and compressor.filters
    if filters and control is None:
        words += ["--strength", f"{compressor.prefilter.strength:g}"]  # type: ignore[union-attr]
    elif filters:
        words += ["--strength", ",".join(f"{strength:g}" for strength in args.strength)]
    if compressor.scale < 1:
        words += ["--scale", f"{compressor.scale:g}"]
    guided = compressor.used_saliency is not None
    if guided:
        words += ["--model", args.model]
    if control is not None:
        words += ["--keep", control.keeps]
        for witness in args.witness or [args.model]:
            words += ["--witness", witness]
        words += _changed(args, None, ["floor", "calibration"])
    if filters:
        words += _changed(args, add_prefilter)
    if guided:
        words += _changed(args, add_saliency)
    if guided or control is not None or (filters and edits(args)):
        words += _changed(args, add_preprocessing, without=["config"])
        words += _changed(args, None, ["device"])
    words += _changed(args, add_formats)
    return " ".join(map(_quoted, words))


def _changed(
    args: argparse.Namespace,
    add: Callable[[argparse.ArgumentParser], None] | None,
    names: Iterable[str] = (),
    without: Iterable[str] = (),
) -> list[str]:
    """The options that ``add`` adds, or those named, as words where they are not at their defaults."""
    defaults: dict[str, Any] = dict.fromkeys(names)
    if add is not None:
        parser = argparse.ArgumentParser(add_help=False)
        add(parser)
        defaults = vars(parser.parse_args([]))
    words = []
    for name, default in defaults.items():
        value = getattr(args, name)
        if value == default or name in without:
            continue
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif name == "edit_with":
            words += [word for model in value for word in (flag, model)]
        else:
            words += [flag, _text(value)]
    return words


def _quoted(word: str) -> str:
    r"""Quote a word for a shell, in one printable line: names of files may hold any bytes.

    Example:
        >>> print(_quoted("my photos"), _quoted("cat\udcff"))
        'my photos' $'cat\xff'
    """
    if word.isprintable():
        return shlex.quote(word)
    plain = (c if c.isprintable() and c not in "\\'" else "".join(f"\\x{b:02x}" for b in os.fsencode(c)) for c in word)
    return f"$'{''.join(plain)}'"


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    if isinstance(value, dict):
        return json.dumps(value)
    return str(value) if isinstance(value, Path | str) else f"{value:.12g}"
