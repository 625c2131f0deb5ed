"""Registries that users extend: with a decorator in one process, or with an entry point in every process."""

import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from types import FunctionType
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes or functions by name: built in, registered in this process, or from entry points.

    Entry points work on the command line, in spawned workers and in Ray actors, since each process looks them up when a
    name is first requested. Names registered only by a decorator are known where their module was imported; objects
    made with them carry what they need when pickled.

    Args:
        argument: the argument that takes these names, for error messages.
        group: the entry point group.
        convert: from a name and the object added under it to the value to store; raises if the object is invalid.

    Example:
        >>> colors = Registry("color", "example.colors", lambda name, color: color)
        >>> colors.add("red", "#f00")
        >>> colors["red"], "blue" in colors
        ('#f00', False)
    """

    def __init__(self, argument: str, group: str, convert: Callable[[str, Any], T]) -> None:
        self.argument, self.group, self._convert = argument, group, convert
        self._things: dict[str, T] = {}
        self._paths: dict[str, str] = {}
        self._entry_points: dict[str, EntryPoint] | None = None

    def add(self, name: str, thing: Any, origin: Any = None) -> None:
        """Add a class or function; adding the same one again, as on a module reload, replaces it.

        Args:
            name: its name.
            thing: the class or function to add.
            origin: the class or function it was made from, whose place in the code identifies it.

        Raises:
            TypeError: if the name is not a string, or ``thing`` is of another type.
            ValueError: if the name is taken.
        """
        if not isinstance(name, str) or not name:
            raise TypeError(f"name: expected a string, got {name!r}")
        kept = self._convert(name, thing)
        path = _path(thing if origin is None else origin)
        present = self._paths.setdefault(name, path)
        if present != path:
            raise ValueError(f"name: {name!r} is {present} already; choose another for {path}")
        self._things[name] = kept

    def __getitem__(self, name: str) -> T:
        """Return the entry with a name.

        Raises:
            ValueError: if there is none.
            ImportError: if its entry point cannot be loaded.
        """
        if name not in self._things and name in self._declared():
            self._load(self._declared()[name])
        if name not in self._things:
            raise ValueError(
                f"{self.argument}: there is no {name!r}; choose one of {', '.join(self.names())}, or add it, see "
                f"foveate.register_{self.argument}"
            )
        return self._things[name]

    def __contains__(self, name: object) -> bool:
        return name in self._things or name in self._declared()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def names(self) -> tuple[str, ...]:
        """Return all names, built-in ones first."""
        return tuple(dict.fromkeys([*self._things, *self._declared()]))

    def usable(self) -> dict[str, T]:
        """Return all loadable entries by name; warn of entry points that cannot be loaded."""
        things = {}
        for name in self.names():
            try:
                things[name] = self[name]
            except ImportError as error:
                warnings.warn(str(error), RuntimeWarning, stacklevel=2)
        return things

    def _declared(self) -> dict[str, EntryPoint]:
        if self._entry_points is None:
            points: dict[str, EntryPoint] = {}
            for point in entry_points(group=self.group):
                other = points.setdefault(point.name, point)
                if other.value != point.value:
                    raise ValueError(
                        f"{self.argument}: the entry points {other.value} and {point.value} of {self.group} are both "
                        f"called {point.name!r}; uninstall one of their packages"
                    )
                if self._paths.get(point.name, "").startswith("foveate.") and not point.value.startswith("foveate."):
                    raise ValueError(
                        f"{self.argument}: the entry point {point.value} of {self.group} is called {point.name!r}, as "
                        "one of Foveate's own; uninstall its package"
                    )
            self._entry_points = points  # assigned in one step, for other threads
        return self._entry_points

    def _load(self, point: EntryPoint) -> None:
        try:
            thing: Any = point.load()
        except Exception as error:  # whatever a module raises on import
            raise ImportError(
                f"{self.argument}: the entry point {point.name} = {point.value} of {self.group} cannot be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error
        if point.name not in self._things:  # its module may have registered it
            self.add(point.name, thing)


def _path(thing: Any) -> str:
    """Return where a class or function is defined; a spawned process's main module counts as its parent's."""
    if not isinstance(thing, type | FunctionType):
        return repr(thing)
    return f"{thing.__module__.replace('__mp_main__', '__main__')}.{thing.__qualname__}"
