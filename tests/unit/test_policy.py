"""What is written about classes and rules is what core is given; the office; and the commands that ask."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sdwan.cli import entry
from sdwan.cli.entry import EXIT_ERROR, EXIT_OK
from sdwan.cli.main import sdwan
from sdwan.config import reach
from sdwan.config.load import load
from sdwan.config.policy import RULES_MAX, ClassConfig
from sdwan.config.schema import SiteConfig, facts_of, keys_of
from sdwan.core import classify
from sdwan.core.classes import READY, VOICE, ClassSpec, Preference, Recovery, SlaLimits
from sdwan.core.rules import PORTED, READY_RULES, Flow, Rule
from sdwan.edge import channel
from sdwan.edge.policy import classifier_of, specs_of
from sdwan.model import SteerMode

ROOT = Path(__file__).parents[2]
OFFICE = ROOT / "config/policy-office.yaml"

BASE: dict[str, Any] = {
    "site": "berlin",
    "private_key": "/etc/sdwan/edge.key",
    "tun": {"addresses": ["10.77.1.1/24"]},
    "links": [{"name": "dsl", "interface": "eth0"}, {"name": "lte", "interface": "wwan0"}],
}


def site(**more: Any) -> SiteConfig:
    return SiteConfig.model_validate(BASE | more)


# From the file to core ---------------------------------------------------------------------------


def test_without_a_policy_the_ready_one_is_in_force() -> None:
    classifier = classifier_of(site())
    assert classifier.specs == READY
    assert classifier.rules == READY_RULES


def test_what_is_not_written_stays_as_it_is() -> None:
    specs = specs_of(site(classes={"voice": {"playout": "60ms"}}))
    assert specs[VOICE].playout_ns == 60_000_000
    assert specs[VOICE].recovery is Recovery.DUPLICATE and specs[VOICE].priority == 0
    assert specs[:VOICE] == READY[:VOICE]


def test_every_key_of_a_class_reaches_core() -> None:
    written = {
        "priority": 6, "steering": "stride", "prefer": "ordered", "links": ["lte", "dsl"],
        "avoid_metered": True, "backup_links": "dsl", "recovery": "fec", "deadline": "90ms",
        "residual_loss": "0.5%", "playout": "60ms", "rate_limit": "5mbit", "queue_target": "7ms",
        "copy_dscp": True,
        "sla": {"latency": "150ms", "jitter": "30ms", "loss": "1%", "worse_for": "2s", "better_for": "20s"},
    }  # fmt: skip
    assert written.keys() == keys_of(ClassConfig).keys()
    assert specs_of(site(classes={"tills": written}))[4] == ClassSpec(
        "tills", 6, SteerMode.STRIDE, Preference.ORDERED, ("lte", "dsl"), True, ("dsl",), Recovery.FEC,
        90_000_000, 5000, 60_000_000, 5_000_000, 7_000_000, True,
        SlaLimits(150_000_000, 30_000_000, 10_000, 2_000_000_000, 20_000_000_000),
    )  # fmt: skip


def test_the_defaults_shown_for_a_class_are_those_of_a_new_one() -> None:
    shown = {name: facts_of(field).shown for name, field in keys_of(ClassConfig).items()}
    values = {name: yaml.safe_load(text) for name, text in shown.items() if text not in ("", "all", "none")}
    assert len(values) > 6
    assert specs_of(site(classes={"new": values}))[4] == ClassSpec("new")


def test_the_general_steering_mode_holds_for_classes_without_one() -> None:
    config = site(
        steering={"mode": "stride", "classes": {1: "pin"}}, classes={"video": {"steering": "earliest"}}
    )
    modes = [spec.steering for spec in specs_of(config)]
    assert modes == [SteerMode.STRIDE, SteerMode.PIN, SteerMode.EARLIEST, SteerMode.STRIDE]


def test_a_pinned_application_gets_a_class_of_its_own() -> None:
    rules = [
        {"class": "voice", "ports": 1, "link": "lte"},
        {"class": "voice", "ports": 2, "link": "lte"},
        {"class": "voice", "ports": 3},
    ]
    classifier = classifier_of(site(rules=rules))
    assert [spec.name for spec in classifier.specs[4:]] == ["voice@lte"]
    assert [rule.traffic_class for rule in classifier.rules] == [4, 4, VOICE]
    pin = classifier.specs[4]
    assert (pin.preference, pin.links, pin.recovery) == (Preference.ORDERED, ("lte",), Recovery.DUPLICATE)


def test_conditions_of_a_rule_reach_core() -> None:
    written = {
        "dscp": "EF", "protocol": "udp", "ports": "1-2", "source_ports": 3, "destination_ports": 4,
        "prefixes": "10.0.0.0/8", "source": "10.1.0.0/16", "destination": "10.2.0.0/16", "direction": "in",
        "class": "voice", "comment": "x",
    }  # fmt: skip
    (rule,) = classifier_of(site(rules=[written])).rules
    assert rule.comment == "x"
    assert rule == Rule.from_plain({
        "class": VOICE, "dscp": [46], "protocols": [17], "ports": [[1, 2]], "source_ports": [[3, 3]],
        "destination_ports": [[4, 4]], "prefixes": ["10.0.0.0/8"], "source": ["10.1.0.0/16"],
        "destination": ["10.2.0.0/16"], "direction": "in",
    })  # fmt: skip


def test_config_and_core_agree_on_limits() -> None:
    assert RULES_MAX == classify.RULES_MAX
    assert set(reach.PORTED) == PORTED


def test_a_thousand_rules_load(tmp_path: Path) -> None:
    rules = [{"class": "video", "protocol": "udp", "ports": n, "comment": f"no {n}"} for n in range(1, 1001)]
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(BASE | {"rules": rules}))
    assert len(classifier_of(load(path)).rules) == 1000


PORTS = st.sampled_from([1, 2, "1-2", "2-3", [1, 3], "1-65535"])
NETS = st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", ["10.1.0.0/17", "10.1.128.0/17"], "::/0", "fd00::/8"])
RULES = st.fixed_dictionaries(
    {"class": st.just("bulk")},
    optional={
        "dscp": st.sampled_from(["EF", ["EF", "CS1"]]),
        "protocol": st.sampled_from(["tcp", ["tcp", "udp"], "icmp"]),
        "ports": PORTS, "source_ports": PORTS, "destination_ports": PORTS,
        "prefixes": NETS, "source": NETS, "destination": NETS,
        "direction": st.sampled_from(["in", "out", "both"]),
    },
)  # fmt: skip
HOSTS = [
    [ip_address(text) for text in texts] for texts in (["10.1.0.1", "10.2.0.1"], ["fd00::1", "2001:db8::1"])
]


@settings(max_examples=200, deadline=None)
@given(st.lists(RULES, min_size=2, max_size=6), st.data())
def test_a_rule_that_is_said_never_to_get_its_turn_never_does(rules: list[Any], data: st.DataObject) -> None:
    config = site(rules=rules)
    hopeless = {index + 1 for index, _ in reach.shadowed(config.rules)}
    classifier = classifier_of(config)
    for _ in range(10 * bool(hopeless)):
        hosts = data.draw(st.sampled_from(HOSTS))
        ends = data.draw(st.sampled_from(hosts)), data.draw(st.sampled_from(hosts))
        protocol, dscp = data.draw(st.sampled_from([6, 17, 1, 58])), data.draw(st.sampled_from([0, 8, 46]))
        ports = (None, None)
        if protocol in PORTED:
            ports = data.draw(st.tuples(st.sampled_from([1, 2, 3, 9]), st.sampled_from([1, 2, 3, 9])))
        assert classifier.explain(Flow(*ends, protocol, *ports, dscp)).rule not in hopeless


def test_thousands_of_equal_rules_are_looked_through_at_once() -> None:
    config = site(rules=[{"class": "bulk", "ports": "1-2", "prefixes": "10.0.0.0/8"}] * RULES_MAX)
    assert [*reach.shadowed(config.rules)] == [(index, 0) for index in range(1, RULES_MAX)]


@given(st.lists(RULES, max_size=300))
@settings(max_examples=30, deadline=None)
def test_whatever_fits_the_limit_fits_a_message(rules: list[Any]) -> None:
    text = classifier_of(site(rules=rules)).to_json()
    packet = channel.encode(channel.SetClasses(text))
    assert len(packet) <= channel.MESSAGE_BYTES_MAX
    assert channel.decode(packet) == channel.SetClasses(text)


# The office --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "name", "rule"),
    [
        ("--source 10.30.1.1 --destination 10.77.0.9 --protocol udp --dscp EF", "voice", 1),
        ("--source 10.30.5.20 --destination 10.77.0.9 --protocol udp --destination-port 16500", "voice", 2),
        ("--source 10.77.0.9 --destination 10.30.5.20 --protocol udp --source-port 16500", "voice", 2),
        ("--source 10.30.1.1 --destination 10.77.0.9 --protocol udp --destination-port 16500", "bulk", None),
        (
            "--source 10.30.1.1 --destination 10.77.0.9 --protocol udp --destination-port 5060",
            "interactive",
            3,
        ),
        ("--source fd77:30::1 --destination fd77::9 --protocol udp --dscp AF42", "video", 4),
        ("--source 10.30.1.1 --destination 10.77.0.9 --protocol udp --source-port 3478", "video", 5),
        ("--source fd77:30:8::5 --destination fd77::9 --destination-port 443", "tills", 6),
        ("--source 10.30.1.1 --destination 10.77.0.40 --destination-port 873", "backup", 7),
        ("--source 10.30.1.1 --destination 10.77.0.9 --destination-port 22 --dscp CS1", "backup", 8),
        ("--source 10.30.9.9 --destination 10.77.0.9 --protocol esp", "interactive@5g", 9),
        ("--source 10.30.1.1 --destination 10.77.0.9 --source-port 22", "interactive", 10),
        ("--source 10.30.1.1 --destination 10.77.0.9 --destination-port 22", "interactive", 11),
        ("--source fd77:30::1 --destination fd77::9 --protocol udp --destination-port 53", "interactive", 12),
        ("--source fd77:30::1 --destination fd77::9 --protocol icmp", "interactive", 13),
        ("--source 10.30.1.1 --destination 10.77.0.9 --destination-port 443", "bulk", None),
    ],
)
def test_the_office(options: str, name: str, rule: int | None, ask: Callable[..., Any]) -> None:
    found = ask("explain", OFFICE, *options.split(), "--json")
    assert (found["class"], found["rule"]) == (name, rule)
    matched = [step["rule"] for step in found["steps"] if step["matched"]]
    assert matched == ([rule] if rule else [])


# The commands ------------------------------------------------------------------------------------


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a ``sdwan policy`` command that succeeds; return what it printed, or what its JSON says."""

    def run(*words: object) -> Any:
        assert entry.run(sdwan, "sdwan", ["policy", *map(str, words)]) == EXIT_OK
        out = capsys.readouterr().out
        return json.loads(out) if "--json" in words else out

    return run


def test_check_tells_how_much_there_is(ask: Callable[..., Any]) -> None:
    assert ask("check", OFFICE) == f"{OFFICE}: 7 class(es), 13 rule(s): fine\n"
    found = ask("check", OFFICE, "--json")
    assert (found["ok"], found["classes"], found["rules"], found["errors"]) == (True, 7, 13, [])
    assert "8 rule(s) (the ready ones): fine" in ask("check", ROOT / "config/edge.yaml")


def test_check_refuses_and_warns_with_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "site.yaml"
    text = OFFICE.read_text()
    path.write_text(text + "  - {class: bulk, protocol: icmp}\n")
    assert entry.run(sdwan, "sdwan", ["policy", "check", str(path)]) == EXIT_OK
    line = text.count("\n") + 1
    told = f"warning: rules[13] (site.yaml, line {line}): never gets its turn: rule 13 takes everything"
    assert told in capsys.readouterr().err
    path.write_text(text + "  - {class: bulk, protocol: icmp, ports: 1}\n")
    assert entry.run(sdwan, "sdwan", ["policy", "check", str(path)]) == EXIT_ERROR
    assert f"error: rules[13].protocol (site.yaml, line {line}): ports are asked" in capsys.readouterr().err


def test_a_policy_too_large_for_the_data_plane_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(1)
    some = [[str(IPv6Address(chance.randrange(1 << 124, 1 << 125))) for _ in range(9)] for _ in range(500)]
    rules = [{"class": "bulk", "source": addresses} for addresses in some]
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(BASE | {"rules": rules}))
    assert entry.run(sdwan, "sdwan", ["policy", "check", str(path)]) == EXIT_ERROR
    assert "error: rules: packed they have" in capsys.readouterr().err


def test_explain_says_why_each_rule_did_not_match(ask: Callable[..., Any]) -> None:
    out = ask("explain", OFFICE, "--source", "10.30.5.20", "--destination", "10.77.0.9", "--protocol", "udp",
              "--destination-port", 16500)  # fmt: skip
    assert out.splitlines() == [
        "rule 1 (phones mark their own speech): DSCP BE is not EF or VA",
        "rule 2 (older phones do not): matches: voice",
        "class voice",
    ]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("--source x --destination 10.0.0.1", "--source: 'x' is no IP address"),
        ("--source fd00::1 --destination 10.0.0.1", "different families"),
        ("--source 10.0.0.2 --destination 10.0.0.1 --protocol http", "--protocol: 'http' is no protocol"),
        ("--source 10.0.0.2 --destination 10.0.0.1 --protocol icmp --source-port 7", "icmp has no ports"),
        ("--source 10.0.0.2 --destination 10.0.0.1 --dscp AF4x", "--dscp: 'AF4x' names several"),
        ("--source 10.0.0.2 --destination 10.0.0.1 --dscp 64", "--dscp: 64 is no DSCP"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(
    options: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["policy", "explain", str(OFFICE), *options.split()]
    assert entry.run(sdwan, "sdwan", words) == EXIT_ERROR
    assert why in capsys.readouterr().err


def test_the_table_of_classes_names_them_all(ask: Callable[..., Any]) -> None:
    out = ask("classes", OFFICE)
    for name in ("bulk", "interactive@5g", "30.0 Mbit/s", "rtt 150.0 ms, jitter 30.0 ms, loss 2.0 %"):
        assert name in out
    found = ask("classes", OFFICE, "--json")
    assert [spec["name"] for spec in found][3:6] == ["voice", "tills", "backup"]
