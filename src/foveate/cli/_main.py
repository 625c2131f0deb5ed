"""The parser of all commands, and the entry point: errors that users can mend are reported in one line."""

import argparse
import os
import select
import sys
from collections.abc import Sequence
from typing import NoReturn

from foveate import __version__
from foveate.cli import (
    _calibrate,
    _codecs,
    _compare,
    _completion,
    _compress,
    _demo,
    _evaluate,
    _fit,
    _pack,
    _saliency,
    _verify,
)
from foveate.cli._config import with_config
from foveate.cli._output import EXPECTED, complain

_COMMANDS = (_demo, _evaluate, _compress, _verify, _pack, _saliency, _calibrate, _fit, _compare, _codecs, _completion)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: as on the command line, without the program's name; None takes those of the process.

    Returns:
        The exit code: 0; 1 when something is wrong with the data or the machine; 2 when the input is at fault (with one
        line on standard error that says how); 130 when it was interrupted; or 141 when the reader of its output went
        away, as ``head`` does.
    """
    try:
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return 141  # as of a program that the signal ended, which Python ignores


def _run(words: list[str]) -> int:
    try:
        words = with_config(words)
    except (ValueError, OSError) as error:
        complain(f"foveate: error: {error}")
        return 2
    try:
        args = _parser().parse_args(words)
    except _UsageError as error:
        complain(str(error))
        return 2
    try:
        job = args.prepare(args)
    except EXPECTED as error:
        # Preparing runs little but the user's own code, so what goes wrong there needs no traceback.
        complain(f"foveate: error: {error}")
        return 2
    try:
        return int(job() or 0)
    except KeyboardInterrupt:
        print("\nfoveate: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


class _UsageError(Exception):
    """The words of a command are wrong."""


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{self.prog}: error: {message.removeprefix('argument ')} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="foveate",
        description="Make images cheap to send and store for the network that will look at them.",
    )
    parser.add_argument("--version", action="version", version=f"foveate {__version__}")
    parser.set_defaults(prepare=lambda _: parser.print_help, root=parser)
    commands = parser.add_subparsers(metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


def _reader_is_gone() -> bool:
    """Whether the other end of standard output is closed; if so, what is still to be written is discarded."""
    stream = select.poll()
    stream.register(sys.stdout, 0)
    if not stream.poll(0):  # which reports errors only: another pipe broke
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return True
