"""Kinds that users add to: by a decorator in a process, or by an entry point of their package in every process."""

import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from types import FunctionType
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes or functions by name: those of Foveate, those registered in this process, and those of entry points.

    A package that declares an entry point is found by the command line, by spawned workers and by Ray's actors, as each
    looks for it when a name is first asked for. What was registered by a decorator alone is known where its module was
    imported; objects made with it carry what they need when they are pickled.

    Args:
        argument: the argument that takes such a name, for errors.
        group: the group of entry points.
        convert: returns what is kept for what is added under a name; raises where that cannot be.

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
        """Add a class or function; the same one under the same name again, as when a module is reloaded, replaces it.

        Args:
            name: its name.
            thing: what is added.
            origin: the class or function that it was made from, by whose place in the code it is told from others.

        Raises:
            TypeError: if the name is not a string, or ``thing`` is of another kind.
            ValueError: if the name is another's.
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
        """Return what has a name.

        Raises:
            ValueError: if nothing has it.
            ImportError: if it is of an entry point that cannot be loaded.
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
        """Return all names, Foveate's first."""
        return tuple(dict.fromkeys([*self._things, *self._declared()]))

    def usable(self) -> dict[str, T]:
        """Return all that can be loaded, by name; a warning tells of an entry point that cannot be."""
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
            self._entry_points = points  # at once, as other threads ask too
        return self._entry_points

    def _load(self, point: EntryPoint) -> None:
        try:
            thing: Any = point.load()
        except Exception as error:  # whatever a module raises while it is imported
            raise ImportError(
                f"{self.argument}: the entry point {point.name} = {point.value} of {self.group} cannot be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error
        if point.name not in self._things:  # its module may have registered it
            self.add(point.name, thing)


def _path(thing: Any) -> str:
    """Where a class or function is defined; the main module of a spawned process stands for that of its parent."""
    if not isinstance(thing, type | FunctionType):
        return repr(thing)
    return f"{thing.__module__.replace('__mp_main__', '__main__')}.{thing.__qualname__}"
