"""Imports go downward only, and each room keeps out what it must not know (docs/architecture.md).

    cli -> {edge, controller, lab} -> {core, io, config, metrics} -> {model, errors}

Read from the source text, so an import inside a function or under TYPE_CHECKING counts like any other. Every
rule is first tried on a snippet that breaks it: a detector that finds nothing anywhere proves nothing.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LEVEL = {
    "cli": 3,
    "edge": 2, "controller": 2, "lab": 2,
    "core": 1, "io": 1, "config": 1, "metrics": 1,
    "model": 0, "errors": 0,
}  # fmt: skip

IMPURE = frozenset({
    "asyncio", "bcc", "concurrent", "datetime", "flask", "logging", "multiprocessing", "os", "pyroute2",
    "random", "secrets", "select", "selectors", "signal", "socket", "subprocess", "threading", "time",
})  # fmt: skip
"""What core may not import: clocks, entropy, the world, schedulers. It is handed ``now_ns`` and data."""

CORE_LIBRARIES = frozenset({"cryptography", "numpy", "zfec"})
"""Third-party libraries core may compute with."""

BCC_MODULE = "sdwan.io.bpf"
DATA_PLANE = "sdwan.edge.dataplane"
NOT_IN_DATA_PLANE = frozenset({"bcc", "flask", "pyroute2"})
"""It parses what strangers send; these could change the machine or are not needed to move a packet."""


def module_name(path: Path) -> str:
    """Return the dotted name of a source file below the repository's root."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path.read_text() for path in sorted((ROOT / "sdwan").rglob("*.py"))}


def imports_of(source: str, module: str = "sdwan.snippet") -> Iterator[tuple[str, int]]:
    """Yield (dotted name, line) of everything a source text imports, relative imports resolved.

    ``from a import b`` yields ``a`` and ``a.b``: b may be a module.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield base, node.lineno
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def room(module: str) -> str | None:
    """Return the room of a module of ours: ``sdwan.core.wire`` lives in ``core``."""
    parts = module.split(".")
    return parts[1] if parts[0] == "sdwan" and len(parts) > 1 else None


def upward_imports(module: str, source: str) -> list[str]:
    """List imports that go up or sideways: allowed are the own room and strictly lower ones."""
    own = room(module)
    if own is None:
        return []
    return [
        f"{module}:{line} imports {name}"
        for name, line in imports_of(source, module)
        if (other := room(name)) in LEVEL and other != own and LEVEL[other] >= LEVEL[own]
    ]


def impure_imports(module: str, source: str) -> list[str]:
    """List imports that core may not have."""
    allowed = sys.stdlib_module_names - IMPURE | CORE_LIBRARIES | {"sdwan"}
    return [
        f"{module}:{line} imports {name}"
        for name, line in imports_of(source, module)
        if name.split(".")[0] not in allowed or name.startswith("numpy.random")
    ]


def imports_bcc(source: str) -> bool:
    """Tell whether a source text imports BCC."""
    return any(name.split(".")[0] == "bcc" for name, _ in imports_of(source))


def closure(start: str, sources: dict[str, str]) -> set[str]:
    """Return the modules of ours that importing ``start`` may load, packages included."""
    reached: set[str] = set()
    frontier = [start]
    while frontier:
        name = frontier.pop()
        while name and name not in sources:
            name = name.rpartition(".")[0]
        if not name or name in reached:
            continue
        reached.add(name)
        frontier.append(name.rpartition(".")[0])
        frontier.extend(imported for imported, _ in imports_of(sources[name], name))
    return reached


# The rules can fail ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sdwan.core.wire", "from sdwan.io import udp"),
        ("sdwan.core.wire", "from sdwan import edge"),
        ("sdwan.core.wire", "from ..edge import dataplane"),
        ("sdwan.edge.control", "import sdwan.cli.main"),
        ("sdwan.edge.control", "def late():\n    from sdwan.lab import topology"),
        ("sdwan.model", "from sdwan.core.wire import Header"),
    ],
)
def test_an_import_that_goes_up_is_found(module, source):
    assert upward_imports(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sdwan.cli.main", "from sdwan.edge import control"),
        ("sdwan.edge.control", "from sdwan.core.wire import Header\nfrom .channel import Install"),
        ("sdwan.core.wire", "from sdwan.errors import WireError\nimport struct"),
    ],
)
def test_an_import_that_goes_down_is_not(module, source):
    assert not upward_imports(module, source)


@pytest.mark.parametrize(
    "source", ["import time", "from os import urandom", "def f():\n    import socket", "import requests",
               "from numpy.random import default_rng", "from numpy import random"],
)  # fmt: skip
def test_an_impure_import_is_found(source):
    assert impure_imports("sdwan.core.wire", source)


def test_a_pure_import_is_not():
    assert not impure_imports(
        "sdwan.core.wire", "import struct\nimport numpy as np\nfrom sdwan.errors import WireError"
    )


def test_bcc_is_found_even_when_imported_late():
    assert imports_bcc("def compile():\n    from bcc import BPF")
    assert not imports_bcc("import bcccc")


def test_the_closure_follows_imports_through_packages():
    sources = {"a": "", "a.b": "from a import c", "a.c": "def late():\n    import a.d", "a.d": "", "a.e": ""}
    assert closure("a.b", sources) == {"a", "a.b", "a.c", "a.d"}


# The house keeps them ----------------------------------------------------------------------------


def test_every_room_has_a_level():
    unknown = {room(name) for name in SOURCES} - LEVEL.keys() - {None, "__main__"}
    assert not unknown, f"give {unknown} a level here and a line in docs/architecture.md"


@pytest.mark.parametrize("module", SOURCES)
def test_imports_go_downward_only(module):
    assert upward_imports(module, SOURCES[module]) == []


@pytest.mark.parametrize("module", [name for name in SOURCES if room(name) in {"core", "model", "errors"}])
def test_core_is_pure(module):
    assert impure_imports(module, SOURCES[module]) == []


def test_exactly_one_module_imports_bcc():
    assert [name for name in SOURCES if imports_bcc(SOURCES[name])] == [BCC_MODULE]


def test_the_data_plane_reaches_no_forbidden_library():
    assert DATA_PLANE in SOURCES
    offenders = {
        f"{module} imports {name}"
        for module in closure(DATA_PLANE, SOURCES)
        for name, _ in imports_of(SOURCES[module], module)
        if name.split(".")[0] in NOT_IN_DATA_PLANE
    }
    assert not offenders


def test_the_data_plane_loads_no_forbidden_library():
    """Third-party modules count too: ask a fresh interpreter what it really loaded."""
    code = f"import sys, {DATA_PLANE}; print(*sorted(name.split('.')[0] for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not NOT_IN_DATA_PLANE & set(done.stdout.split())
