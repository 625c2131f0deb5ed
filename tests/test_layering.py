"""The structure that CONTRIBUTING.md states: floors, private modules, and what modules say is public."""

import ast
import importlib
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((SOURCE / "foveate").rglob("*.py"))
}
PUBLIC = [name for name in MODULES if not any(part.startswith("_") for part in name.split("."))]


def is_package(name):
    return MODULES[name].name == "__init__.py"


@cache
def imports(name, everywhere=True):
    """The modules of foveate that a module imports; without ``everywhere`` only while it is itself imported."""
    tree = ast.parse(MODULES[name].read_text())
    nodes = ast.walk(tree) if everywhere else tree.body
    imported = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            imported |= {name if name in MODULES else node.module for name in inner}
    return imported


@cache
def floors():
    """The rooms of CONTRIBUTING.md's table, from the ground up: each row is a floor."""
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text()
    table = text[text.index("## How it is built") :].split("|---|---|")[1].split("\n\n")[0]
    return [re.findall(r"`([\w/]+?)(?:\.py|/)?`", row.split("|")[1]) for row in table.strip().splitlines()]


def floor_of(name, order):
    room = name.split(".")[1]
    return next((k for k, rooms in enumerate(order) if room in rooms), None)


def test_every_room_has_a_floor():
    order = floors()
    rooms = {name.split(".")[1] for name in MODULES if "." in name} - {"__main__"}
    assert rooms == {room for floor in order for room in floor}


@pytest.mark.parametrize("name", [name for name in MODULES if "." in name and name != "foveate.__main__"])
def test_a_module_imports_only_from_the_floors_below(name):
    order = floors()
    above = {
        imported
        for imported in imports(name)
        if imported != "foveate" and imported.split(".")[1] != name.split(".")[1]
        if floor_of(imported, order) > floor_of(name, order)
    }
    assert not above


def test_there_is_no_circle():
    graph = {name: {m for m in imports(name, everywhere=False) if m not in (name, "foveate")} for name in MODULES}
    for name, wanted in graph.items():  # a package runs before what is in it, so only what it imports itself counts
        graph[name] = {m for m in wanted if not (is_package(m) and name.startswith(f"{m}."))}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("name", MODULES)
def test_private_modules_are_private_to_their_package(name):
    for imported in imports(name):
        parts = imported.split(".")
        for depth, part in enumerate(parts):
            if part.startswith("_"):
                package = ".".join(parts[:depth])
                assert name == package or name.startswith(f"{package}."), f"{name} imports {imported}"


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "foveate.cli" and ".integrations" not in name])
def test_public_modules_say_what_is_public(name):
    module = importlib.import_module(name)
    assert module.__all__
    assert all(hasattr(module, public) for public in module.__all__)
