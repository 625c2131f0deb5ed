"""``foveate completion``."""

import argparse
from collections.abc import Callable
from typing import Any

from foveate._extras import require
from foveate.cli._options import CODEC_NAMES, KEEP_NAMES, Commands, codec_name, existing_file, keep_name, model_name

SHELLS = ("bash", "zsh", "tcsh")
_WORDS = {"codecs": CODEC_NAMES, "criteria": KEEP_NAMES}
_PATHS = frozenset(("IMAGES", "SRC", "DST", "DIR", "FILE", "CACHE", "DB", "A", "B"))
"""What stands for files and folders in the help."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "completion",
        help="print what makes a shell complete the words of these commands",
        description="Print a script for a shell, which then completes commands, options, codecs and files.",
        epilog="example: foveate completion bash > ~/.local/share/bash-completion/completions/foveate",
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(prepare=prepare)


def prepare(args: argparse.Namespace) -> Callable[[], None]:
    """Look for the library; return the job."""
    shtab = require("shtab", "completion")

    def job() -> None:
        _mark(args.root, shtab)
        functions = {shell: _functions(shell) for shell in ("bash", "zsh")}
        print(shtab.complete(args.root, shell=args.shell, preamble=functions))

    return job


def _mark(parser: argparse.ArgumentParser, shtab: Any) -> None:
    """Say of each argument what it is completed by."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _mark(command, shtab)
        elif action.type in (codec_name, keep_name):
            name = f"_foveate_{'codecs' if action.type is codec_name else 'criteria'}"
            action.complete = {"bash": name, "zsh": name}  # type: ignore[attr-defined]
        elif action.type in (existing_file, model_name) or action.metavar in _PATHS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def _functions(shell: str) -> str:
    """The functions of a shell that give the names of codecs and criteria."""
    write = {"bash": 'compgen -W "{}" -- "$1"', "zsh": "compadd -- {}"}[shell]
    lines = (f"_foveate_{name}() {{ {write.format(' '.join(words))}; }}" for name, words in _WORDS.items())
    return "\n".join(lines)
