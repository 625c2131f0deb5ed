"""Decoding with Pillow: truncated files are refused, and errors are of a few known kinds."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image, ImageFile

UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
"""Every kind of error that :func:`foveate.images.read` raises on a file that is not a readable image."""

_lock = threading.Lock()
_uses = 0
_user_setting: Any = False
"""What the user had set ``ImageFile.LOAD_TRUNCATED_IMAGES`` to, while it is switched off; else False."""


@contextmanager
def strict_decoding() -> Iterator[None]:
    """Let Pillow refuse truncated files, whatever ``ImageFile.LOAD_TRUNCATED_IMAGES`` is set to.

    The setting is global to the process, and training scripts often leave it on. It is off while any thread is in this
    block, for the other threads too, and restored afterwards.
    """
    global _uses, _user_setting
    with _lock:
        _uses += 1
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            _user_setting, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        with _lock:
            _uses = max(0, _uses - 1)  # already 0 if the process was forked meanwhile
            if _uses == 0:
                _restore()


def _restore() -> None:
    global _user_setting
    if _user_setting:
        ImageFile.LOAD_TRUNCATED_IMAGES, _user_setting = _user_setting, False


def _after_fork() -> None:
    """Start afresh in a forked process, where no other thread is left to leave the block or to release the lock."""
    global _lock, _uses
    _lock, _uses = threading.Lock(), 0
    _restore()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def guarded_decoding() -> Iterator[None]:
    """Turn whatever a decoder raises on damaged bytes into one of ``UNREADABLE``; truncated files are refused too."""
    with strict_decoding():
        try:
            yield
        except UNREADABLE:
            raise
        except ImportError as error:
            raise ValueError(str(error)) from error
        except Exception as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
