"""Which class a packet gets: tables of packets, and all rules at once against the obvious judgement."""

from __future__ import annotations

import json
import random
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdwan.core.classes import (
    BULK,
    INTERACTIVE,
    READY,
    VIDEO,
    VOICE,
    ClassSpec,
    Preference,
    Recovery,
    SlaLimits,
)
from sdwan.core.classify import RULES_MAX, TEXT_BYTES_MAX, Classifier
from sdwan.core.rules import Direction, Flow, Network, Rule
from sdwan.errors import ConfigError, WireError
from sdwan.model import SteerMode
from tests.unit import packets

NET = ip_network


def flow(source: str, destination: str, protocol: int = 6, *ports: int, dscp: int = 0) -> Flow:
    return Flow(ip_address(source), ip_address(destination), protocol, *(ports or (None, None)), dscp=dscp)


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (packets.udp(ports=(40000, 40002), tos=46 << 2), VOICE),
        (packets.udp(packets.A6, packets.B6, ports=(40000, 40002), tos=46 << 2), VOICE),
        (packets.udp(ports=(40000, 40002), tos=34 << 2 | 1), VIDEO),  # ECN bits are no DSCP
        (packets.tcp(ports=(40000, 22)), INTERACTIVE),
        (packets.tcp(ports=(22, 40000)), INTERACTIVE),  # its answer
        (packets.tcp(ports=(40000, 22), tos=8 << 2), BULK),  # scp says so itself
        (packets.udp(packets.A6, packets.B6, ports=(40000, 53)), INTERACTIVE),
        (packets.icmp(), INTERACTIVE),
        (packets.ip(packets.A6, packets.B6, 58, b"\x80\0\0\0"), INTERACTIVE),
        (packets.tcp(ports=(40000, 443)), BULK),
        (packets.tcp(ports=(40000, 22), options=b""), INTERACTIVE),
        (packets.ip(packets.A4, packets.B4, 6, bytes(20), fragment=0x2000), BULK),  # a fragment has no ports
        (packets.ip(packets.A4, packets.B4, 6, b"\0\x16\0\x16" + bytes(16), options=bytes(4)), INTERACTIVE),
        (b"", BULK),
        (b"\x45", BULK),
        (b"\x60" + bytes(38), BULK),
        (bytes(60), BULK),
    ],
)
def test_ready_rules(packet: bytes, expected: int) -> None:
    assert Classifier().classify(memoryview(packet)) == expected


PHONES = Rule(VOICE, protocols=(17,), source=(NET("10.1.9.0/24"),), destination_ports=((16384, 32767),))


@pytest.mark.parametrize(
    ("direction", "forward", "answer"),
    [(Direction.BOTH, VOICE, VOICE), (Direction.OUT, VOICE, BULK), (Direction.IN, BULK, VOICE)],
)
def test_direction_tells_which_half_of_a_conversation_is_meant(
    direction: Direction, forward: int, answer: int
) -> None:
    rule = Rule(VOICE, PHONES.dscp, PHONES.protocols, source=PHONES.source,
                destination_ports=PHONES.destination_ports, direction=direction)  # fmt: skip
    classifier = Classifier(READY, [rule])
    assert classifier.classify_flow(flow("10.1.9.7", "10.2.0.1", 17, 4000, 20000)) == forward
    assert classifier.classify_flow(flow("10.2.0.1", "10.1.9.7", 17, 20000, 4000)) == answer
    assert classifier.classify_flow(flow("10.2.0.1", "10.1.9.7", 17, 4000, 20000)) == BULK


def test_the_first_match_wins() -> None:
    one, other = Rule(VIDEO, ports=((80, 90),)), Rule(VOICE, protocols=(6,))
    web = flow("10.1.0.1", "10.2.0.1", 6, 999, 80)
    assert Classifier(READY, [one, other]).classify_flow(web) == VIDEO
    assert Classifier(READY, [other, one]).classify_flow(web) == VOICE


def test_prefixes_of_one_family_do_not_match_the_other() -> None:
    classifier = Classifier(READY, [Rule(VIDEO, prefixes=(NET("0.0.0.0/0"),)), Rule(VOICE)])
    assert classifier.classify_flow(flow("10.1.0.1", "10.2.0.1")) == VIDEO
    assert classifier.classify_flow(flow("fd01::1", "fd02::1")) == VOICE


def test_dscp_is_part_of_a_flow_only_where_rules_ask_for_it() -> None:
    assert Classifier().uses_dscp
    assert not Classifier(READY, [PHONES]).uses_dscp


def test_an_explanation_names_the_rule_and_why_those_before_it_did_not_match() -> None:
    classifier = Classifier(READY, [Rule(VIDEO, dscp=(34,)), PHONES, Rule(INTERACTIVE, protocols=(17,))])
    found = classifier.explain(memoryview(packets.udp("10.1.0.1", "10.2.0.1", ports=(4000, 20000))))
    assert (found.traffic_class, found.rule) == (INTERACTIVE, 3)
    assert [step.reason for step in found.steps] == [
        "DSCP BE is not AF41",
        "source 10.1.0.1 is not in 10.1.9.0/24; as an answer: source port 4000 is not 16384-32767",
        "",
    ]
    nothing = classifier.explain(flow("fd01::1", "fd02::1", 6))
    assert (nothing.traffic_class, nothing.rule, len(nothing.steps)) == (BULK, 0, 3)
    with pytest.raises(WireError, match="not IP"):
        classifier.explain(memoryview(b"\x45"))


NUMBERS = st.integers(0, 65535)
PORTS = st.lists(st.tuples(NUMBERS, NUMBERS).map(sorted).map(tuple), max_size=3).map(tuple)
V4 = st.integers(0, 255).map(lambda n: f"10.{n % 4}.0.{n}")
V6 = st.integers(0, 255).map(lambda n: f"fd0{n % 4}::{n:x}")
NETS = st.lists(
    st.tuples(V4, st.sampled_from([0, 8, 16, 30, 32])) | st.tuples(V6, st.sampled_from([0, 16, 127, 128])),
    max_size=3,
).map(lambda pairs: tuple(ip_network(f"{host}/{length}", strict=False) for host, length in pairs))
RULES = st.builds(
    Rule,
    traffic_class=st.integers(0, 3),
    dscp=st.lists(st.integers(0, 63), max_size=2).map(tuple),
    protocols=st.lists(st.sampled_from([1, 6, 17, 47]), max_size=2).map(tuple),
    ports=PORTS, source_ports=PORTS, destination_ports=PORTS,
    prefixes=NETS, source=NETS, destination=NETS,
    direction=st.sampled_from(Direction),
    comment=st.text(max_size=8),
)  # fmt: skip


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    host = draw(st.sampled_from([V4, V6]))
    ports = draw(st.just((None, None)) | st.tuples(NUMBERS, NUMBERS))
    return Flow(
        ip_address(draw(host)), ip_address(draw(host)), draw(st.sampled_from([1, 6, 17, 47])), *ports,
        dscp=draw(st.integers(0, 63)),
    )  # fmt: skip


@given(st.lists(RULES, max_size=12), st.lists(flows(), min_size=1, max_size=8))
def test_all_rules_at_once_agree_with_one_after_the_other(rules: list[Rule], some: list[Flow]) -> None:
    classifier = Classifier(READY, rules)
    for one in some:
        assert classifier.classify_flow(one) == classifier.explain(one).traffic_class


@settings(max_examples=40)
@given(st.lists(RULES, max_size=40))
def test_json_reads_back_the_same(rules: list[Rule]) -> None:
    before = Classifier(READY, rules)
    after = Classifier.from_json(before.to_json())
    assert (after.specs, after.rules, after.uses_dscp) == (before.specs, before.rules, before.uses_dscp)


def test_every_setting_of_a_class_survives_json() -> None:
    spec = ClassSpec(
        "tills", 2, SteerMode.STRIDE, Preference.ORDERED, ("dsl", "lte"), True, ("sat",), Recovery.FEC,
        7, 8, 9, 10, 11, True, SlaLimits(1, 2, 3, 4, 5),
    )  # fmt: skip
    assert Classifier.from_json(Classifier([spec], []).to_json()).specs == (spec,)


def unlike(seed: int, count: int) -> tuple[Network, ...]:
    """Return addresses that no packing makes smaller."""
    chance = random.Random(seed)
    return tuple(ip_network((chance.randrange(1 << 127, 1 << 128), 128)) for _ in range(count))


def thousand() -> list[Rule]:
    """Rules that share no boundary, the worst for axes and for packing."""
    return [
        Rule(
            n % 4, protocols=(6, 17), destination_ports=((n * 17 % 60000, n * 17 % 60000 + n % 9),),
            source=(NET(f"10.{n % 250}.{n * 7 % 250}.0/24"), NET(f"fd{n % 99:02}:{n * 7919 % 65536:x}::/32")),
        )
        for n in range(1000)
    ]  # fmt: skip


def test_a_thousand_rules_fit_one_message_and_still_agree() -> None:
    rules = thousand()
    text = Classifier(READY, rules).to_json()
    assert len(text) <= TEXT_BYTES_MAX
    classifier = Classifier.from_json(text)
    assert classifier.rules == tuple(rules)
    for n in range(0, 1000, 83):
        here = flow(f"10.{n % 250}.{n * 7 % 250}.9", "10.200.0.1", 6, 5, n * 17 % 60000)
        assert classifier.classify_flow(here) == classifier.explain(here).traffic_class


def test_limits_are_refused_with_a_reason() -> None:
    with pytest.raises(ConfigError, match=f"at most {RULES_MAX}"):
        Classifier(READY, [Rule(0)] * (RULES_MAX + 1))
    with pytest.raises(ConfigError, match="rule 2: class 4 does not exist"):
        Classifier(READY, [Rule(0), Rule(4)])
    with pytest.raises(ConfigError, match="1 to 8"):
        Classifier([ClassSpec("x")] * 9, [])
    with pytest.raises(ConfigError, match="shorter lists"):
        Classifier(READY, [Rule(0, source=unlike(n, 9)) for n in range(RULES_MAX)]).to_json()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"classes": [], "rules": []}', '{"classes": [{}], "rules": []}',
     '{"classes": [{"name": "a"}], "rules": "AAAA"}', '{"classes": [{"name": "a"}], "rules": [{"class": 1}]}',
     '{"classes": [{"name": "a"}], "rules": [{"class": 0, "colour": 1}]}',
     '{"classes": [{"name": "a", "recovery": "hope"}], "rules": []}', "[" * 100000],
)  # fmt: skip
def test_a_wrong_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Classifier.from_json(text)


def test_the_text_is_json_without_defaults() -> None:
    data = json.loads(Classifier().to_json())
    assert data["classes"][0] == {"name": "bulk"}
    assert data["rules"][0] == {"class": VOICE, "dscp": [46, 44]}  # comments stay at home
