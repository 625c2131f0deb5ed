"""A page for every public module, and the Sphinx roles of docstrings as links.

MkDocs runs the hooks ``on_config`` and ``on_files``; mkdocstrings loads ``SphinxRoles`` as an extension of Griffe.
Modules are read, not imported. A role that names nothing and a name of ``__all__`` without a docstring are warnings,
which ``--strict`` makes errors.
"""

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert as to_mathml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = "foveate"
SOURCE = Path(__file__).resolve().parents[1] / "src"
ROLE = re.compile(r":(?P<role>[a-z]+):`(?P<short>~?)(?P<target>[^`]+)`")
log = logging.getLogger("mkdocs.plugins.api")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Write the pages, and lay out the navigation: a section for each module below the root that has several pages."""
    package = griffe.load(PACKAGE, search_paths=[SOURCE])
    assert isinstance(package, griffe.Module)
    plan = plan_pages(package)
    config.extra["api"] = {path: page(package, path, *names) for path, names in plan.items()}
    sections: dict[str, list[str]] = {}
    for path in plan:
        sections.setdefault(".".join(path.split(".")[:2]), []).append(f"{path}.md")
    pages = [{path: files} if len(files) > 1 else files[0] for path, files in sections.items()]
    config.nav = ["index.md", "guide.md", *pages]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to those of the folder."""
    for path, text in config.extra["api"].items():
        files.append(File.generated(config, f"{path}.md", content=text))
    return files


def plan_pages(package: griffe.Module) -> dict[str, tuple[list[str], list[str]]]:
    """Return, by the path of each public module, the names its page documents and those documented on another page.

    A name is documented once: by the topmost module below the root that lists it, or by the root if no other does. A
    module of which every name is documented by its package has no page.
    """
    root, *modules = public_modules(package)
    documented: set[str] = set()
    plan = {}
    for module in [*sorted(modules, key=lambda module: module.path.count(".")), root]:
        targets = {name: module[name].canonical_path for name in public_names(module)}
        fresh = [name for name, target in targets.items() if target not in documented]
        documented.update(targets.values())
        if fresh or module.is_init_module:
            plan[module.path] = fresh, [name for name in targets if name not in fresh]
    return dict(sorted(plan.items()))


def public_modules(module: griffe.Module) -> Iterator[griffe.Module]:
    """Yield a module and all below it whose names have no leading underscore."""
    yield module
    for name, member in sorted(module.members.items()):
        if isinstance(member, griffe.Module) and not name.startswith("_"):
            yield from public_modules(member)


def public_names(module: griffe.Module) -> list[str]:
    """Return what ``__all__`` lists, where it may unpack a dict of the module; without it, what the module defines."""
    if module.exports is None:
        members = module.members.items()
        return [name for name, member in members if not (member.is_alias or member.is_module or name.startswith("_"))]
    names: list[str] = []
    for export in module.exports:
        names += [export] if isinstance(export, str) else ast.literal_eval(str(module[export.name].value))
    return [name for name in names if not name.startswith("_")]


def page(package: griffe.Module, path: str, names: list[str], elsewhere: list[str]) -> str:
    """Return a module's page: its own names, then a table of those that have another page."""
    members = [f"        - {name}" for name in names]
    lines = ["---", f"title: {path}", "---", "", f"::: {path}", "    options:"]
    lines += ["      members:", *members] if members else ["      members: false"]
    if elsewhere:
        lines += ["", "| Also here | |", "|---|---|"]
    for name in elsewhere:
        target = _get(package, f"{path}.{name}")
        summary = target.docstring.value.split("\n\n")[0].replace("\n", " ") if target.docstring else ""
        summary = ROLE.sub(lambda role: f"`{role['target']}`", summary).replace("|", "\\|")
        lines.append(f"| [`{name}`][{target.path}] | {summary} |")
    return "\n".join(lines) + "\n"


class SphinxRoles(griffe.Extension):
    """Turns ``:class:`` and its like into links, ``:math:`` into MathML, and ``Example:`` into a section of code."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrite the docstrings of the package."""
        if pkg.path != PACKAGE:
            return
        plan = plan_pages(pkg)
        self.pages = set(plan)
        for path, (names, _) in plan.items():
            listed = pkg.modules_collection[path].exports is not None
            for item in (_get(pkg, f"{path}.{name}") for name in names):
                self.pages.add(item.path)
                if listed and item.docstring is None:
                    log.warning("%s: a name that %s.__all__ lists has no docstring", item.path, path)
        self._rewrite(pkg)

    def _rewrite(self, item: griffe.Object) -> None:
        if item.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", item.docstring.value, flags=re.MULTILINE)
            item.docstring.value = ROLE.sub(lambda role: self._markdown(role, item), text)
        for member in item.members.values():
            if isinstance(member, griffe.Object):
                self._rewrite(member)

    def _markdown(self, role: re.Match[str], item: griffe.Object) -> str:
        target = role["target"]
        if role["role"] == "math":
            return to_mathml(target)
        text = f"`{target.rpartition('.')[2] if role['short'] else target}`"
        found = _resolve(target, item)
        if found is None and (target.startswith(f"{PACKAGE}.") or "." not in target):
            log.warning("%s: %s names nothing", item.path, role[0])
        return f"[{text}][{found.path}]" if found is not None and self._has_place(found) else text

    def _has_place(self, item: griffe.Object) -> bool:
        if item.path in self.pages:
            return True
        shown = item.docstring is not None and not item.name.startswith("_")
        return shown and item.parent is not None and item.parent.path in self.pages and item.parent.is_class


def _get(package: griffe.Module, path: str) -> griffe.Object:
    """Return what has an absolute path, where it is defined."""
    member = package.modules_collection[path]
    return member.final_target if member.is_alias else member


def _resolve(target: str, item: griffe.Object) -> griffe.Object | None:
    """Return what a dotted name means in a docstring: a member of its object or of what holds that, or a path."""
    scopes = []
    scope: griffe.Object | None = item
    while scope is not None:
        scopes.append(f"{scope.path}.{target}")
        scope = scope.parent
    for path in [*scopes, target]:
        try:
            return _get(item.package, path)
        except (KeyError, griffe.AliasResolutionError):
            continue
    return None
