"""The identity of an object: one line of text, equal in every process, different for objects that act differently.

Whatever is written to disk to be found again (maps in a cache, the records of an evaluation, an export in progress) is
bound to the :func:`identity` of everything it depends on. Objects without an identity are refused there, since their
work could be mistaken for that of another.
"""

from foveate.identity._identity import describe, identity, identity_in_memory, is_lasting, refuse_subclass
from foveate.identity._values import IdentityError
from foveate.identity._walk import structure

__all__ = [
    "IdentityError",
    "describe",
    "identity",
    "identity_in_memory",
    "is_lasting",
    "refuse_subclass",
    "structure",
]
