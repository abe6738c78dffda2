"""Whatever a configuration file holds: a configuration comes out, or ConfigError, and nothing else.

Three kinds of garbage: bytes that are no YAML, YAML of any shape, and good files with one thing broken.
"""

from __future__ import annotations

import base64
import copy
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sdwan.config.load import examine_text, load
from sdwan.config.schema import SiteConfig
from sdwan.errors import ConfigError

PATH = Path("/etc/sdwan/edge.yaml")

GOOD: dict[str, Any] = {
    "site": "berlin",
    "private_key": "edge.key",
    "port": 4510,
    "tun": {"name": "sdwan01", "addresses": ["10.77.1.1/24"], "mtu": "auto"},
    "links": [{
        "name": "dsl", "interface": "eth0", "rate": {"up": "20mbit", "down": "100mbit"}, "weight": 1.0,
        "metered": False, "quota": "20GB", "quota_day": 15, "only_when_needed": False,
        "probe": {"icmp": "9.9.9.9"},
    }],
    "peers": [{
        "name": "hub", "public_key": base64.b64encode(b"h" * 32).decode(), "preshared_key": "psk",
        "prefixes": ["10.0.0.0/8"], "endpoints": [{"address": "203.0.113.1:4510", "link": "dsl"}],
    }],
    "classes": {"voice": {
        "priority": 1, "steering": "earliest", "prefer": "ordered", "links": ["dsl"], "avoid_metered": True,
        "backup_links": ["dsl"], "recovery": "fec", "deadline": "80ms", "residual_loss": "0.01%",
        "playout": "60ms", "rate_limit": "5mbit", "queue_target": "5ms", "copy_dscp": True,
        "sla": {"latency": "150ms", "jitter": "30ms", "loss": "1%", "worse_for": "1s", "better_for": "10s"},
    }},
    "rules": [{
        "dscp": ["EF", 44], "protocol": ["udp"], "ports": 1, "source_ports": "1-9",
        "destination_ports": [7, "8-9"], "prefixes": "10.0.0.0/8", "source": ["10.0.0.0/8", "fd00::/8"],
        "destination": ["10.1.0.0/16"],
        "direction": "out", "class": "voice", "link": "dsl", "comment": "x",
    }, {"class": "bulk"}],
    "steering": {"mode": "stride", "classes": {0: "duplicate"}},
    "control": {"report_interval": "25ms", "probe_interval": "100ms", "keepalive": "25s"},
    "metrics": {"listen": "127.0.0.1:9105"},
    "log": {"level": "info", "format": "text"},
    "bpf": {"pin_root": "/sys/fs/bpf/sdwan/v2", "peers_max": 256, "hook": "auto"},
    "runtime_dir": "/run/sdwan",
}  # fmt: skip

MEANINGFUL = ["20mbit", "25ms", "10.0.0.0/8", "::1/64", "[::1]:1", "1.2.3.4:5", "auto", "::ffff:1.2.3.4"]
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=60), st.dates(),
    st.binary(max_size=8), st.sampled_from(MEANINGFUL),
)  # fmt: skip
shapes = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*GOOD, "name", "rate", "up"]) | st.text(max_size=5), inner, max_size=6
        )
    ),
    max_leaves=20,
)


def places(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the location of everything in ``data``."""
    steps = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [at, *(place for step, inner in steps for place in places(inner, (*at, step)))]


def must_be_told(text: str) -> SiteConfig | None:
    """Examine a text; nothing but a configuration or errors an operator can read may come out."""
    examined = examine_text(text, PATH)
    assert (examined.config is None) == bool(examined.errors)
    for error in (*examined.errors, *examined.warnings):
        assert isinstance(error, ConfigError)
        assert error.where and error.why and error.right and "\n" not in str(error)
        assert len(str(error)) < 1000
    return examined.config


@settings(deadline=None)
@given(st.binary(max_size=300))
@example(b"\xff")
@example(b"\x00")
def test_bytes(content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        with pytest.raises(ConfigError):
            load(Path(file.name))


@settings(deadline=None)
@given(st.text(alphabet="site:links -[]{}&*!<|>?%@`'\"#,\n\t0.1eE_~=x\u2028\ud800", max_size=200))
@example("a: &x [*x]")
@example("? - a\n: b")
@example("!!timestamp 2020-99-99")
@example("a: !!float 1:2")
@example("a: !!int ''")
@example("a: !!bool x")
@example("<<: {a: 1}")
@example("a: =")
@example("%YAML 9.9\n---\na: 1")
@example("a: 1\n---\nb: 2")
@example('"\\ud800": 1')
@example('"a\\nb": 1')
@example("[" * 5_000)
@example("- " * 5_000)
@example("{a: " * 5_000)
def test_texts_that_look_like_yaml(text: str) -> None:
    assert must_be_told(text) is None


@settings(deadline=None)
@given(shapes)
def test_yaml_of_any_shape(data: Any) -> None:
    must_be_told(yaml.safe_dump(data))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(places(GOOD)[1:]), shapes)
def test_one_value_replaced(place: tuple[Any, ...], value: Any) -> None:
    data = copy.deepcopy(GOOD)
    at: Any = data
    for step in place[:-1]:
        at = at[step]
    at[place[-1]] = value
    must_be_told(yaml.safe_dump(data))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_one_character_changed(data: st.DataObject) -> None:
    text = yaml.safe_dump(GOOD)
    at = data.draw(st.integers(min_value=0, max_value=len(text) - 1))
    must_be_told(text[:at] + data.draw(st.characters(max_codepoint=0x2030)) + text[at + 1 :])


def test_the_good_one_is_good() -> None:
    assert must_be_told(yaml.safe_dump(GOOD)) is not None
