"""One YAML text becomes plain data, and a table of where everything stood.

In comes untrusted text, out go dicts, lists and scalars plus the line of every value, so that a refusal can
point at it. Stricter than YAML: a key may stand once, anchors, aliases, merges and tags are refused (no
text of a kilobyte becomes a gigabyte of data), nesting and size are bounded. Pure; called by ``load``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from sdwan.config.values import show
from sdwan.errors import ConfigError

# Implementation constants --------------------------------------------------------------------------

TEXT_BYTES_MAX = 1 << 20
"""A hub with 1,023 peers of a kilobyte each."""

DEPTH_MAX = 16
"""The schema needs 7."""

Location = tuple[str | int, ...]
"""Keys and list indices from the top of the document to one value."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,40}")
_SCALAR_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null"))
_AS_TEXT = "tag:yaml.org,2002:timestamp"


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data, and for each location in it the line (from 1) where its key or list item begins."""

    data: Any
    lines: dict[Location, int]

    def line_of(self, location: Location) -> int | None:
        """Return the line of a location, or of the nearest thing around it that has one."""
        for length in range(len(location), -1, -1):
            if location[:length] in self.lines:
                return self.lines[location[:length]]
        return None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong, and where in the document."""

    location: Location
    why: str
    right: str


def dotted(location: Location) -> str:
    """Write a location as an operator would: ``links[1].rate.up``."""
    text = ""
    for step in location:
        name = step if isinstance(step, str) and _PLAIN_KEY.fullmatch(step) else show(step)
        text += f"[{step}]" if isinstance(step, int) else f".{name}" if text else name
    return text or "file"


class _Loader(yaml.SafeLoader):
    """The safe loader's scanner, parser and scalar constructors; composing is bounded here."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose one node, refusing what could expand and what nests too deep."""
        event = self.peek_event()
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ConfigError(f"line {line}", "anchors and aliases are not allowed", "write the value out")
        if self.depth >= DEPTH_MAX:
            raise ConfigError(
                f"line {line}", f"nested deeper than {DEPTH_MAX} levels", "see the example file"
            )
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def parse(text: str) -> Document:
    """Parse one YAML document.

    Raises:
        ConfigError: whatever is wrong with the text; ``where`` names the line.
    """
    if len(text) > TEXT_BYTES_MAX:
        raise ConfigError(
            "file", f"larger than {TEXT_BYTES_MAX} bytes", "one site's configuration is far smaller"
        )
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            lines: dict[Location, int] = {}
            data = None if root is None else _build(loader, root, (), lines)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise _from_yaml(error) from None
    return Document(data, lines)


def _from_yaml(error: yaml.YAMLError) -> ConfigError:
    mark = getattr(error, "problem_mark", None)
    where = "file" if mark is None else f"line {mark.line + 1}"
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    right = "check indentation and quotes; text with ': ', '#' or a leading '[' needs quotes"
    return ConfigError(where, f"is not YAML: {problem}", right)


def _build(loader: _Loader, node: yaml.Node, location: Location, lines: dict[Location, int]) -> Any:
    lines.setdefault(location, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*location, i), lines) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _build_mapping(loader, node, location, lines)
    return _scalar(loader, node)


def _build_mapping(
    loader: _Loader, node: yaml.MappingNode, location: Location, lines: dict[Location, int]
) -> dict[str | int, Any]:
    mapping: dict[str | int, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = _scalar(loader, key_node) if isinstance(key_node, yaml.ScalarNode) else None
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise ConfigError(f"line {line}", "a key must be a word or a number", "put it in quotes")
        here = (*location, key)
        if key in mapping:
            first = lines[here]
            raise ConfigError(
                f"{dotted(here)} (line {line})", f"stands here twice, first in line {first}",
                "keep one of them",
            )  # fmt: skip
        lines[here] = line
        mapping[key] = _build(loader, value_node, here, lines)
    return mapping


def _scalar(loader: _Loader, node: yaml.Node) -> Any:
    if node.tag == _AS_TEXT:
        return node.value
    where = f"line {node.start_mark.line + 1}"
    if node.tag not in _SCALAR_TAGS:
        raise ConfigError(where, f"tag {show(node.tag)} is not allowed", "write plain values")
    try:
        value = loader.construct_object(node)
        if isinstance(value, str):
            value.encode()  # half a surrogate pair, written as an escape, is no text
    except (ValueError, LookupError, OverflowError):
        raise ConfigError(
            where, f"{show(node.value)} is no value", "text with this look needs quotes"
        ) from None
    return value
