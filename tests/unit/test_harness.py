"""The harness itself: a missing capability skips, a required one fails, and only rubbish is swept."""

from __future__ import annotations

import os

import pytest

from tests import leftovers
from tests.capabilities import PROBES, Verdict, parse_required, verdict

NOTHING: frozenset[str] = frozenset()


def absent(*names: str):
    """Make a probe of a machine that lacks exactly these capabilities."""
    return lambda name: f"no {name} here" if name in names else None


@pytest.mark.parametrize(
    ("wanted", "required", "lacking", "expected"),
    [
        ([], NOTHING, ["root", "bpf", "netns"], Verdict.RUN),
        (["bpf"], NOTHING, [], Verdict.RUN),
        (["bpf"], NOTHING, ["bpf"], Verdict.SKIP),
        (["bpf"], frozenset({"bpf"}), ["bpf"], Verdict.FAIL),
        (["bpf"], frozenset({"netns"}), ["bpf"], Verdict.SKIP),
        (["root", "netns"], frozenset({"netns"}), ["root", "netns"], Verdict.FAIL),
        (["root"], frozenset(PROBES), [], Verdict.RUN),
    ],
)
def test_a_skip_becomes_a_failure_when_its_capability_is_required(wanted, required, lacking, expected):
    decision, reason = verdict(wanted, required, absent(*lacking))
    assert decision is expected
    assert (decision is Verdict.RUN) == (reason == "")


def test_the_reason_names_what_is_missing():
    assert verdict(["netns"], NOTHING, absent("netns")) == (Verdict.SKIP, "needs netns: no netns here")
    assert verdict(["netns"], frozenset({"netns"}), absent("netns"))[1].startswith(
        "SDWAN_REQUIRE demands netns"
    )


def test_a_misspelt_requirement_is_refused_rather_than_ignored():
    assert parse_required(" root, bpf,,") == {"root", "bpf"}
    with pytest.raises(ValueError, match="bfp unknown"):
        parse_required("root,bfp")


def test_only_names_of_this_run_and_of_dead_ones_are_rubbish():
    dead = 2**22 + 1  # above the largest pid the kernel gives out
    assert leftovers.is_rubbish(leftovers.unique("hub"))
    assert leftovers.is_rubbish(f"sdt{dead}-hub")
    assert not leftovers.is_rubbish(f"sdt{os.getppid()}-hub"), "another live process may own it"
    assert not leftovers.is_rubbish("sdwan")
    assert not leftovers.is_rubbish("hub")
