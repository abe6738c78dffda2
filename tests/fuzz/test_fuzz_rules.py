"""Whatever is in a packet, it gets a class; whatever is in a policy's text, it is a policy or ConfigError."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sdwan.core.classes import READY
from sdwan.core.classify import Classifier
from sdwan.core.rules import READY_RULES, Rule, network
from sdwan.errors import ConfigError, WireError
from tests.unit import packets

CLASSIFIER = Classifier(READY, [
    *READY_RULES,
    Rule(2, (), (17,), source=(network("10.0.0.0/8"), network("fd00::/8")), destination_ports=((9, 999),)),
    Rule(3, source_ports=((0, 0),)),
    Rule(1, prefixes=(network("::/1"),)),
])  # fmt: skip

PACKETS = [
    packets.tcp(), packets.udp(packets.A6, packets.B6), packets.icmp(), packets.udp(options=bytes(8)),
    packets.ip(packets.A6, packets.B6, 17, bytes(12), extensions=b"\x11\0" + bytes(6)),
]  # fmt: skip


def judge(packet: bytes) -> None:
    """The fast way and the slow one agree, and neither fails."""
    view = memoryview(packet)
    fast = CLASSIFIER.classify(view)
    try:
        slow = CLASSIFIER.explain(view).traffic_class
    except WireError:
        slow = 0  # no IP: the default class
    assert fast == slow


@given(st.binary(max_size=80))
@example(b"\x46" + bytes(19))
@example(b"\x45" + bytes(19))
@example(b"\x45" + bytes(8) + b"\x06" + bytes(13))  # cut short within the ports
@example(b"\x60" + bytes(39))
def test_any_bytes(packet: bytes) -> None:
    judge(packet)


@given(st.sampled_from([0x45, 0x46, 0x4F, 0x60]), st.binary(min_size=19, max_size=80))
def test_bytes_that_begin_like_ip(first: int, rest: bytes) -> None:
    judge(bytes([first]) + rest)


@settings(max_examples=300)
@given(st.sampled_from(PACKETS), st.integers(0, 60), st.integers(0, 255), st.integers(0, 80))
def test_packets_with_one_byte_changed_and_the_end_cut(packet: bytes, at: int, value: int, size: int) -> None:
    changed = bytearray(packet)
    if at < len(changed):
        changed[at] = value
    judge(bytes(changed[:size]))


SCALARS = st.none() | st.booleans() | st.integers(-5, 70000) | st.floats() | st.text(max_size=5)
SHAPES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(["classes", "rules", "class", "name", "sla", "steering", "links", "ports", "source"]),
    inner, max_size=5,
), max_leaves=12)  # fmt: skip


@given(st.text(max_size=60) | SHAPES.map(json.dumps))
def test_any_text(text: str) -> None:
    with pytest.raises(ConfigError):
        Classifier.from_json(text)


@settings(max_examples=300)
@given(
    st.sampled_from(["name", "priority", "steering", "preference", "links", "sla", "recovery", "x"]), SHAPES,
    st.sampled_from(["class", "dscp", "ports", "protocols", "source", "direction", "x"]), SHAPES,
)  # fmt: skip
def test_one_value_replaced(class_key: str, class_value: Any, rule_key: str, rule_value: Any) -> None:
    data = json.loads(CLASSIFIER.to_json())
    data["classes"][1][class_key] = class_value
    data["rules"][-2][rule_key] = rule_value
    try:
        policy = Classifier.from_json(json.dumps(data))
    except ConfigError:
        return
    for packet in PACKETS:
        assert 0 <= policy.classify(memoryview(packet)) < len(policy.specs)
