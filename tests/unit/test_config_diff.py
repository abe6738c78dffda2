"""Differences are told by name, in the operator's units, with word on whether a reload is enough."""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest

from sdwan.config.diff import diff
from sdwan.config.schema import SiteConfig
from sdwan.edge.reload import applicable

Data = dict[str, Any]


def key(letter: str) -> str:
    return base64.b64encode(letter.encode() * 32).decode()


BASE: Data = {
    "site": "berlin",
    "private_key": "/etc/sdwan/edge.key",
    "tun": {"addresses": ["10.77.1.1/24"]},
    "links": [
        {"name": "dsl", "interface": "eth0", "rate": {"up": "20mbit"}},
        {"name": "lte", "interface": "wwan0"},
    ],
    "peers": [
        {"name": "hub", "public_key": key("h"), "prefixes": ["10.0.0.0/8"],
         "endpoints": [{"address": "203.0.113.1:4510"}]},
        {"name": "van", "public_key": key("v"), "prefixes": ["10.88.0.0/16"]},
    ],
}  # fmt: skip


OLD = SiteConfig.model_validate(BASE)


def edited(edit: str) -> SiteConfig:
    """Return the configuration after running ``edit`` on a copy of the data, called ``d``."""
    d = copy.deepcopy(BASE)
    exec(edit, {"key": key}, {"d": d})
    return SiteConfig.model_validate(d)


CASES = [
    ("pass", []),
    ("d['control'] = {'keepalive': '20s'}", ["control.keepalive: 25s -> 20s"]),
    ("d['log'] = {'level': 'debug'}", ["log.level: info -> debug"]),
    ("d['port'] = 4511", ["port: 4510 -> 4511 (needs a restart)"]),
    ("d['tun']['mtu'] = 1400", ["tun.mtu: auto -> 1400"]),
    ("d['tun']['name'] = 'tun7'", ["tun.name: sdwan01 -> tun7 (needs a restart)"]),
    ("d['metrics'] = {'listen': '[::1]:9105'}",
     ["metrics: nothing -> {listen: [::1]:9105} (needs a restart)"]),
    ("d['links'][0]['rate'] = {'up': '25mbit', 'down': '1gbit'}",
     ["links[dsl].rate.up: 20mbit -> 25mbit", "links[dsl].rate.down: nothing -> 1gbit"]),
    ("d['links'][1]['metered'] = True", ["links[lte].metered: false -> true"]),
    ("d['links'][1]['probe'] = {'icmp': '9.9.9.9'}", ["links[lte].probe: nothing -> {icmp: 9.9.9.9}"]),
    ("d['links'].pop()", ["links[lte]: present -> nothing (needs a restart)"]),
    ("d['links'].reverse()", ["links order: dsl, lte -> lte, dsl (needs a restart)"]),
    ("d['peers'].pop(0)", ["peers[hub]: present -> nothing"]),
    ("d['peers'].insert(0, dict(d['peers'][1], name='new', public_key=key('n')))",
     ["peers[new]: nothing -> present"]),
    ("d['peers'][1]['public_key'] = key('w')", [f"peers[van].public_key: {key('v')} -> {key('w')}"]),
    ("d['peers'][0]['endpoints'].append({'address': '203.0.113.2:1', 'link': 'lte'})",
     ["peers[hub].endpoints: [{address: 203.0.113.1:4510}] -> "
      "[{address: 203.0.113.1:4510}, {address: 203.0.113.2:1, link: lte}]"]),
    ("d['links'][1].update(quota='20GB', only_when_needed=True)",
     ["links[lte].quota: nothing -> 20GB", "links[lte].only_when_needed: false -> true"]),
    ("d['classes'] = {'voice': {'priority': 1}, 'tills': {}}",
     ["classes[voice]: nothing -> present", "classes[tills]: nothing -> present"]),
    ("d['rules'] = [{'class': 'voice'}]", ["rules: 0 rules -> 1 rules"]),
    ("d['steering'] = {'mode': 'stride', 'classes': {0: 'duplicate'}}",
     ["steering.mode: earliest -> stride", "steering.classes: {} -> {0: duplicate}"]),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "told"), CASES, ids=[edit for edit, _ in CASES])
def test_changes(edit: str, told: list[str]) -> None:
    assert [str(change) for change in diff(OLD, edited(edit))] == told


def test_classes_are_matched_by_name_and_rules_by_place() -> None:
    old = edited(
        "d['classes'] = {'tills': {'sla': {'loss': '1%'}}, 'voice': {}}; "
        "d['rules'] = [{'class': 'voice', 'dscp': ['EF', 44]}, {'class': 'tills', 'protocol': 'icmp'}]"
    )
    new = edited(
        "d['classes'] = {'voice': {'priority': 1}, 'tills': {'sla': {'loss': '2%'}}}; "
        "d['rules'] = [{'class': 'voice', 'dscp': ['EF', 44]}, "
        "{'class': 'tills', 'ports': ['80-90', 443], 'protocol': 'tcp'}]"
    )
    assert [str(change) for change in diff(old, new)] == [
        "classes[tills].sla.loss: 1% -> 2%",
        "classes[voice].priority: nothing -> 1",
        "classes order: tills, voice -> voice, tills",
        "rules[1]: {protocol: icmp, direction: both, class: tills} -> "
        "{protocol: tcp, ports: [80-90, 443], direction: both, class: tills}",
    ]  # fmt: skip


@pytest.mark.parametrize("edit", [edit for edit, _ in CASES])
def test_what_a_reload_applies_is_what_the_diff_calls_live(edit: str) -> None:
    new = edited(edit)
    in_force = applicable(OLD, new)
    assert diff(OLD, in_force) == [change for change in diff(OLD, new) if change.live]
    assert diff(in_force, new) == [change for change in diff(OLD, new) if not change.live]
