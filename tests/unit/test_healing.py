"""Healing: reports and the kernel's records become changes of protection, with their reasons."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from sdwan.core.actions import Event, SetProtection
from sdwan.core.capacity import State
from sdwan.core.classes import BULK, READY, VIDEO, ClassSpec
from sdwan.core.healing import INTERVAL_NS, SECOND_NS, Healing
from sdwan.core.messages import PathReport
from sdwan.core.recovery import OFF
from sdwan.core.sent import SENT
from sdwan.core.wire import Type
from sdwan.model import PathState


class Bond:
    """Two paths with told losses, a class flowing over both, and time."""

    def __init__(self, loss: float, traffic_class: int = VIDEO, rate: int = 400) -> None:
        self.loss, self.rate, self.traffic_class = loss, rate, traffic_class
        self.healing = Healing()
        self.now_ns = 0
        self.counts = [0.0, 0.0]
        self.paths: list[Any] = [self.path(number) for number in (0, 1)]

    def path(self, number: int) -> SimpleNamespace:
        estimator = SimpleNamespace(
            state=State.TRACK, weather_ppm=0, queue_ns=0, delivered_bps=1, capacity_bps=1
        )
        return SimpleNamespace(
            number=number, state=PathState.UP, place=SimpleNamespace(link_up=True), rtt_ns=20_000_000,
            estimator=estimator, prober=SimpleNamespace(loss_ppm=None),
            view=lambda: SimpleNamespace(preference=1.0),
        )  # fmt: skip

    def run(self, seconds: float, specs: Sequence[ClassSpec] = READY) -> list[object]:
        """Let traffic flow and be reported every 50 ms; return what was to be done."""
        actions: list[object] = []
        for _ in range(int(seconds * 20)):
            self.now_ns += SECOND_NS // 20
            records = np.zeros(2, SENT)
            records["type"], records["class"] = (Type.SINGLE, Type.CONTROL), self.traffic_class
            records["segments"] = self.rate // 40
            self.healing.on_sent({0: records, 1: records})
            for number in (0, 1):
                self.counts[number] += self.rate / 40
                lost = int(self.counts[number] * self.loss)
                opened = int(self.counts[number]) - lost
                self.healing.on_report(PathReport(number, 0, 0, opened, 0, lost, 0, 0, 0))
            actions += self.healing.update(self.paths, specs, now_ns=self.now_ns)
        return actions


def test_loss_leads_to_protection_and_says_why() -> None:
    bond = Bond(0.05)
    told = bond.run(3)
    protections = [a for a in told if isinstance(a, SetProtection) and a.traffic_class == VIDEO]
    assert protections and protections[-1].repairs
    assert bond.healing.of(VIDEO).repairs == protections[-1].repairs
    reasons = [a.fields["reason"] for a in told if isinstance(a, Event) and a.fields["class"] == "video"]
    assert reasons and all("loss on path 0:" in str(reason) for reason in reasons)


def test_clean_paths_lead_to_nothing() -> None:
    assert Bond(0.0).run(5) == []


def test_asking_oftener_changes_nothing() -> None:
    bond = Bond(0.05)
    bond.run(3)
    assert bond.healing.update(bond.paths, READY, now_ns=bond.now_ns + INTERVAL_NS // 2) == []


def test_the_rate_of_a_class_is_measured_from_its_data_alone() -> None:
    bond = Bond(0.0, traffic_class=BULK, rate=8000)
    bond.run(3)
    assert bond.healing._rows_per_s[BULK] == 8000
    assert bond.healing._rows_per_s[VIDEO] == 0


def test_loss_beside_a_standing_queue_is_not_repaired() -> None:
    bond = Bond(0.05)
    for path in bond.paths:
        path.estimator.queue_ns = 50_000_000
    assert bond.run(3) == []


def test_a_path_that_is_not_used_does_not_count() -> None:
    bond = Bond(0.05)
    for path in bond.paths:
        path.state = PathState.DOWN
    assert bond.run(3) == []


def test_another_data_plane_is_told_within_a_second() -> None:
    bond = Bond(0.05)
    bond.run(3)
    bond.healing.restart()
    assert bond.healing.of(VIDEO) is OFF
    assert VIDEO in {a.traffic_class for a in bond.run(1) if isinstance(a, SetProtection)}


def test_what_was_measured_on_a_path_can_be_forgotten() -> None:
    bond = Bond(0.05)
    bond.run(1)
    bond.healing.forget(0)
    assert set(bond.healing._meters) == {1}
