"""Identities as the rest of Foveate asks for them."""

from collections.abc import Mapping

from foveate.identity._code import is_installed
from foveate.identity._values import IdentityError
from foveate.identity._walk import Description

_ADDRESS_MARK = " at 0x"


def identity(thing: object, name: str | None = None) -> str:
    """Return the identity of ``thing``: one line of text, equal for whatever acts the same.

    These have one, also nested in one another: objects with a property ``identity`` (a text), by it and their class;
    plain values, tensors and arrays; lists, tuples, sets, mappings; dataclasses, by their class and fields; modules, by
    their classes, weights, buffers, settings and hooks; functions and classes at the top level of a module, by their
    name, their code and the plain values, functions and classes that they read there; bound methods and
    ``functools.partial``, by their parts. Code of installed packages is identified by its name and their version, that
    of Foveate, NumPy, torch and torchvision by its name.

    Args:
        thing: any object.
        name: what an error calls it; None takes its class.

    Raises:
        IdentityError: for all else, such as a lambda, a closure, or an object of a class without ``identity``.

    Example:
        >>> from foveate.models import Preprocess
        >>> identity(Preprocess(crop=8)).startswith("Preprocess(resize=None, crop=8, ")
        True
        >>> identity(lambda images: images)
        Traceback (most recent call last):
        foveate.identity.IdentityError: function: a function or class that is not at the top level of a module has no...
    """
    return Description(lenient=False).of(thing, name or type(thing).__name__)


def identity_in_memory(thing: object, name: str | None = None) -> str:
    """Return the :func:`identity` of ``thing``, or, without one, a text that no other living object has.

    For what is not written to disk.

    Example:
        >>> identity_in_memory((1, 2)), identity_in_memory(min) == identity_in_memory(max)
        ('(1, 2)', False)
    """
    try:
        return identity(thing, name)
    except IdentityError:
        return f"{getattr(thing, '__qualname__', type(thing).__qualname__)}{_ADDRESS_MARK}{id(thing):x}"


def is_lasting(text: str) -> bool:
    """Whether a text from :func:`identity_in_memory` means the same in another process.

    Example:
        >>> is_lasting(identity_in_memory((1, 2))), is_lasting(identity_in_memory(lambda: 1))
        (True, False)
    """
    return _ADDRESS_MARK not in text


def describe(thing: object, state: Mapping[str, object]) -> str:
    """Return the identity of an object whose class knows its state: the class, its code, and the state by name.

    For ``identity`` properties that subclasses may inherit: a class from outside this package is identified by its
    code.

    Raises:
        IdentityError: if a part of the state has no identity.

    Example:
        >>> class Threshold:
        ...     def __init__(self, at): self.at = at
        ...     identity = property(lambda self: describe(self, vars(self)))
        >>> identity(Threshold(0.5)).endswith("Threshold(at=0.5)"), identity(Threshold(1)) == identity(Threshold(2))
        (True, False)
    """
    return Description(lenient=False).object(thing, state, type(thing).__name__)


def refuse_subclass(instance: object, base: type) -> None:
    """Raise if ``instance`` is of a class from outside this package that inherits the identity of ``base``.

    Raises:
        IdentityError: naming the cure.
    """
    if not is_installed(type(instance)):
        raise IdentityError(
            f"{type(instance).__qualname__}: the `identity` that it inherits from {base.__name__} does not know what "
            "it adds; give it a property `identity` of its own"
        )
