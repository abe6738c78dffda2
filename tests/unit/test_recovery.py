"""Recovery: what stays lost is computed exactly, enough is asked for, and nothing where it does not help."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdwan.core import recovery
from sdwan.core.burstiness import COUNT_MAX, LossMeter
from sdwan.core.classes import BULK, READY, VIDEO, VOICE, ClassSpec, Recovery
from sdwan.core.recovery import HOLD_NS, OFF, PPM, SECOND_NS, PathLoss, Protection, RecoveryPolicy, choose
from sdwan.core.residual import Leg, residual_loss, spread
from tests.unit.recovery_world import MILLISECOND_NS, Link, World, lost_of_block

NO_BURST = 1.0


def gilbert(count: int, loss: float, burst: float, seed: int) -> np.ndarray:
    """Draw the fates of datagrams, True = lost, as runs of alternating states."""
    noise = np.random.default_rng(seed)
    stay = max(1 - 1 / burst, loss)
    turn = loss * (1 - stay) / (1 - loss)
    pairs = int(count * turn) + 1000
    lengths = np.stack([noise.geometric(turn, pairs), noise.geometric(1 - stay, pairs)], axis=1).reshape(-1)
    return np.repeat(np.tile([False, True], pairs), lengths)[:count]


def a_path(loss: float, path: int = 0, **more: object) -> PathLoss:
    given_: dict[str, object] = {"rtt_ns": 20 * MILLISECOND_NS} | more
    return PathLoss(path, True, round(loss * PPM), **given_)  # type: ignore[arg-type]


def two_paths(loss: float, **more: object) -> list[PathLoss]:
    return [a_path(loss, 0, **more), a_path(loss, 1, **more)]


class TestResidual:
    @pytest.mark.parametrize(("sources", "repairs", "loss"), [(1, 0, 0.1), (10, 2, 0.05), (32, 8, 0.1)])
    def test_independent_loss_is_the_binomial(self, sources: int, repairs: int, loss: float) -> None:
        others = sources + repairs - 1
        fails = sum(
            math.comb(others, lost) * loss**lost * (1 - loss) ** (others - lost)
            for lost in range(repairs, others + 1)
        )
        assert residual_loss([Leg(sources, repairs, loss)]) == pytest.approx(loss * fails, rel=1e-9)

    @settings(max_examples=50, deadline=None)
    @given(st.integers(1, 40), st.integers(0, 10), st.floats(0, 0.5), st.floats(1, 10))
    def test_it_is_a_probability_and_never_more_than_without_repairs(
        self, sources: int, repairs: int, loss: float, burst: float
    ) -> None:
        left = residual_loss([Leg(sources, repairs, loss, burst)])
        assert 0 <= left <= loss + 1e-9

    @pytest.mark.parametrize(("loss", "burst"), [(0.05, NO_BURST), (0.05, 4.0), (0.1, 3.0)])
    def test_monte_carlo_agrees_on_one_path_and_on_two(self, loss: float, burst: float) -> None:
        sources, repairs, blocks = 20, 4, 100_000
        one = gilbert(blocks * 24, loss, burst, 1).reshape(blocks, 24)
        # Blocks follow each other at once here; on a path of one class among others they do so less.
        assert measured(one, sources, repairs) == pytest.approx(
            residual_loss([Leg(sources, repairs, loss, burst)]), rel=0.1
        )
        halves = [gilbert(blocks * 12, loss, burst, seed).reshape(blocks, 12) for seed in (2, 3)]
        two = np.concatenate([halves[0][:, :10], halves[1][:, :10], halves[0][:, 10:], halves[1][:, 10:]], 1)
        legs = [Leg(10, 2, loss, burst)] * 2
        assert measured(two, sources, repairs) == pytest.approx(residual_loss(legs), rel=0.1)

    def test_a_second_path_breaks_bursts(self) -> None:
        assert residual_loss([Leg(10, 4, 0.02, 4.0)] * 2) < 0.8 * residual_loss([Leg(20, 8, 0.02, 4.0)])

    def test_repairs_go_where_least_of_the_block_travels(self) -> None:
        legs = spread(20, 4, [(0.9, 0.1, 1.0), (0.1, 0.01, 1.0)])
        assert [(leg.sources, leg.repairs) for leg in legs] == [(18, 0), (2, 4)]


def measured(fates: np.ndarray, sources: int, repairs: int) -> float:
    failing = fates.sum(axis=1) > repairs
    return float(fates[failing, :sources].sum() / (len(fates) * sources))


class TestLossMeter:
    @pytest.mark.parametrize(("loss", "burst"), [(0.02, 1.0), (0.1, 1.0), (0.05, 4.0), (0.1, 3.0)])
    def test_loss_and_burst_are_found_from_counts_alone(self, loss: float, burst: float) -> None:
        fates = gilbert(60_000, loss, burst, 5).cumsum()
        meter, seen = LossMeter(), []
        for sent in range(30, len(fates), 30):
            meter.on_counts(sent - int(fates[sent - 1]), int(fates[sent - 1]))
            if sent > 10_000:
                seen.append((meter.loss_ppm, meter.burst))
        mean_ppm, mean_burst = np.array(seen).mean(axis=0)
        assert mean_ppm == pytest.approx(loss * PPM, rel=0.15)
        assert mean_burst == pytest.approx(max(burst, 1 / (1 - loss)), rel=0.25)

    def test_counters_that_begin_anew_or_lie_are_passed_over(self) -> None:
        meter = LossMeter()
        for received, lost in [
            (1000, 10),
            (5, 0),
            (10 + 2 * COUNT_MAX, 0),
            (0, 1 << 60),
            (100, 0),
            (1100, 0),
        ]:
            meter.on_counts(received, lost)
        assert meter.refused == 4 and meter.loss_ppm == 0

    def test_late_datagrams_take_their_loss_back(self) -> None:
        meter = LossMeter()
        for received, lost in [(0, 0), (30, 5), (60, 0)]:
            meter.on_counts(received, lost)
        assert meter.loss_ppm == 0


class TestChoice:
    """Numbers of rows and repairs may change with the constants; what they leave lost may not."""

    @pytest.mark.parametrize(("spec", "loss", "rate"), [
        (VOICE, 0.05, 50), (VOICE, 0.05, 1000), (VOICE, 0.1, 1000),
        (VIDEO, 0.001, 400), (VIDEO, 0.02, 400), (VIDEO, 0.1, 400), (VIDEO, 0.05, 2000),
    ])  # fmt: skip
    def test_the_wanted_residual_loss_is_kept(self, spec: int, loss: float, rate: float) -> None:
        wanted = READY[spec]
        got = choose(wanted, two_paths(loss), rate)
        each = loss**2 if wanted.recovery is Recovery.DUPLICATE else loss
        assert residual_loss([Leg(got.sources, got.repairs, each)]) <= wanted.residual_loss_ppm / PPM
        assert 0 < got.overhead <= recovery.OVERHEAD_MOST

    @pytest.mark.parametrize("spec", READY, ids=lambda spec: spec.name)
    def test_clean_links_cost_nothing(self, spec: ClassSpec) -> None:
        assert choose(spec, two_paths(0.00001), 1000) is OFF

    def test_more_loss_asks_for_more(self) -> None:
        video = READY[VIDEO]
        costs = [choose(video, two_paths(loss), 400).overhead for loss in (0.001, 0.01, 0.05, 0.1)]
        assert costs == sorted(costs) and costs[0] < costs[-1]

    def test_bursts_ask_for_more_than_single_losses(self) -> None:
        video = READY[VIDEO]
        assert (
            choose(video, two_paths(0.01, burst=4.0), 400).overhead
            > choose(video, two_paths(0.01), 400).overhead
        )

    def test_a_block_never_stays_open_for_longer_than_the_class_can_wait(self) -> None:
        for spec in (READY[VOICE], READY[VIDEO], replace(READY[VIDEO], deadline_ns=30 * MILLISECOND_NS)):
            got = choose(spec, two_paths(0.05), 50)
            assert got.close_ns + 10 * MILLISECOND_NS <= spec.deadline_ns

    def test_voice_with_one_path_left_gets_repairs_instead_of_copies(self) -> None:
        assert choose(READY[VOICE], [a_path(0.05)], 50).repairs >= 1

    def test_voice_with_one_clean_path_of_two_needs_copies_only(self) -> None:
        assert choose(READY[VOICE], [a_path(0.0), a_path(0.05, 1)], 50) is OFF

    @pytest.mark.parametrize(("loss", "rtt_ms", "protected"), [
        (0.002, 20, False), (0.01, 20, False), (0.05, 20, True), (0.1, 20, True),
        (0.02, 80, True), (0.1, 2, False),
    ])  # fmt: skip
    def test_bulk_gets_repairs_only_where_stalls_cost_more(
        self, loss: float, rtt_ms: int, protected: bool
    ) -> None:
        got = choose(READY[BULK], two_paths(loss, rtt_ns=rtt_ms * MILLISECOND_NS), 8000)
        assert (got.repairs > 0) == protected

    def test_bulk_at_ten_percent_keeps_two_thirds_of_what_arrives(self) -> None:
        got = choose(READY[BULK], two_paths(0.1), 8000)
        left = residual_loss([Leg(got.sources, got.repairs, 0.1)])
        assert 0.9 / (1 + got.overhead) > 0.66 and left < 0.01

    def test_coding_never_takes_the_core_that_should_send(self) -> None:
        got = choose(READY[BULK], two_paths(0.1), 500_000)
        assert 500_000 * got.repairs * recovery.CODING_NS / SECOND_NS < 0.7

    def test_a_class_without_recovery_gets_none(self) -> None:
        assert choose(ClassSpec("x", recovery=Recovery.NONE), two_paths(0.3), 1000) is OFF


class TestPolicy:
    """Virtual time; only video is looked at."""

    SPECS = tuple(
        spec if number == VIDEO else ClassSpec("none", recovery=Recovery.NONE)
        for number, spec in enumerate(READY)
    )

    def ask(self, policy: RecoveryPolicy, paths: list[PathLoss], now_s: float) -> list[Protection]:
        changes = policy.update(paths, self.SPECS, [400.0] * 8, now_ns=int(now_s * SECOND_NS))
        assert all(change.traffic_class == VIDEO and change.reason for change in changes)
        return [change.protection for change in changes]

    def test_up_at_once_and_down_after_ten_seconds_of_needing_less(self) -> None:
        policy = RecoveryPolicy()
        assert self.ask(policy, two_paths(0.0), 0) == []
        (first,) = self.ask(policy, two_paths(0.02), 1)
        (more,) = self.ask(policy, two_paths(0.1), 2)
        assert first.overhead < more.overhead and policy.of(VIDEO) == more
        assert self.ask(policy, two_paths(0.0), 3) == []
        assert self.ask(policy, two_paths(0.0), 3 + HOLD_NS / SECOND_NS - 0.1) == []
        assert self.ask(policy, two_paths(0.0), 3 + HOLD_NS / SECOND_NS) == [OFF]

    def test_a_relapse_begins_the_hold_anew(self) -> None:
        policy = RecoveryPolicy()
        self.ask(policy, two_paths(0.02), 0)
        for now_s in range(1, 60):
            assert self.ask(policy, two_paths(0.02 if now_s % 9 == 0 else 0.0), now_s) == []

    def test_small_changes_are_not_told(self) -> None:
        policy = RecoveryPolicy()
        self.ask(policy, two_paths(0.02), 0)
        for now_s in range(1, 40):
            assert self.ask(policy, two_paths(0.02 + 0.0005 * (now_s % 3)), now_s) == []

    def test_loss_that_is_congestion_is_not_answered_with_more_bytes(self) -> None:
        policy = RecoveryPolicy()
        assert self.ask(policy, two_paths(0.05, is_congested=True), 0) == []
        assert self.ask(policy, two_paths(0.05, is_congested=True, weather_ppm=50_000), 1)[0].repairs

    def test_protection_goes_within_seconds_when_loss_turns_out_to_be_congestion(self) -> None:
        policy = RecoveryPolicy()
        self.ask(policy, two_paths(0.05), 0)
        assert self.ask(policy, two_paths(0.05, is_congested=True), 1) == []
        assert self.ask(policy, two_paths(0.05, is_congested=True), 2.1) == [OFF]

    def test_repairs_that_help_nobody_stop_and_are_tried_again_later(self) -> None:
        policy = RecoveryPolicy()
        self.ask(policy, two_paths(0.02), 0)
        assert policy.on_outcome(2000, 100, now_ns=SECOND_NS) == []
        (change,) = policy.on_outcome(4000, 101, now_ns=2 * SECOND_NS)
        assert change.protection is OFF and "recovered 1 datagrams" in change.reason
        assert self.ask(policy, two_paths(0.02), 20) == []
        assert self.ask(policy, two_paths(0.02), 33)[0].repairs

    def test_a_lying_outcome_changes_nothing_but_protection(self) -> None:
        policy = RecoveryPolicy()
        self.ask(policy, two_paths(0.02), 0)
        assert policy.on_outcome(1 << 60, 1 << 62, now_ns=0) == []
        assert policy.on_outcome(0, 0, now_ns=0) == []

    def test_without_a_usable_path_nothing_happens(self) -> None:
        policy = RecoveryPolicy()
        assert self.ask(policy, [], 0) == []
        assert self.ask(policy, [replace(a_path(0.5), is_usable=False)], 1) == []


class TestVoice:
    """50 packets a second, 200 bytes, 5 % loss on both links of equal delay: at most 0.01 % stay lost."""

    LOSS, TARGET = 0.05, 1e-4
    protection = choose(READY[VOICE], two_paths(0.05), 50)

    def test_a_million_packets(self) -> None:
        sources, repairs = self.protection.sources, self.protection.repairs
        size = sources + repairs
        blocks = 1_000_000 // sources + 1
        noise = np.random.default_rng(50)
        lost = (noise.random((2, blocks, size), dtype=np.float32) < self.LOSS).all(axis=0)
        in_danger = lost[lost[:, :sources].any(axis=1)]  # whose every row came needs no decoder
        assert len(in_danger) > 2000  # copies alone would lose 0.25 %
        left = sum(lost_of_block(fates.tolist(), sources, repairs) for fates in in_danger)
        assert left / (blocks * sources) <= self.TARGET
        assert left / (blocks * sources) == pytest.approx(
            residual_loss([Leg(sources, repairs, self.LOSS**2)]), abs=1e-5
        )

    def test_one_way_delay_is_that_of_the_best_link_at_the_99th_percentile(self) -> None:
        links = [Link(self.LOSS, seed=1), Link(self.LOSS, delay_ns=13 * MILLISECOND_NS, seed=2)]
        world = World(links, self.protection, interval_ns=20 * MILLISECOND_NS, size_bytes=272, copies=True)
        outcome = world.run(20_000)
        assert outcome.residual <= 3 * self.TARGET  # two or three of so few say little
        assert outcome.delay_ns(99) <= 15 * MILLISECOND_NS
        assert max(outcome.delays_ns) <= READY[VOICE].deadline_ns
        assert outcome.overhead <= 0.35

    def test_copies_alone_are_not_enough(self) -> None:
        links = [Link(self.LOSS, seed=1), Link(self.LOSS, seed=2)]
        outcome = World(links, OFF, interval_ns=20 * MILLISECOND_NS, size_bytes=272, copies=True).run(20_000)
        assert outcome.residual == pytest.approx(self.LOSS**2, rel=0.5)


class TestVideo:
    def test_what_the_policy_asks_for_does_in_the_world_what_the_arithmetic_says(self) -> None:
        protection = choose(READY[VIDEO], two_paths(0.05), 400)
        links = [Link(0.05, seed=3), Link(0.05, seed=4)]
        world = World(links, protection, interval_ns=2_500_000, size_bytes=1472, copies=False)
        outcome = world.run(8000)
        assert outcome.residual <= 5e-4
        assert outcome.overhead <= 2 * protection.overhead + 0.01  # full-size rows are two shards each
        assert outcome.bytes_of_repairs / outcome.bytes_sent <= 1.1 * protection.overhead
        assert max(outcome.delays_ns) <= READY[VIDEO].deadline_ns


def test_spare_capacity_is_spent_on_repairs() -> None:
    lossy = [PathLoss(n, True, loss_ppm=100_000, rtt_ns=20 * MILLISECOND_NS) for n in (0, 1)]
    full = choose(READY[BULK], lossy, 2000.0)
    spare = choose(READY[BULK], [replace(path, load=0.1) for path in lossy], 2000.0)
    assert spare.overhead > full.overhead


def test_a_clean_bond_gets_no_repairs_however_idle() -> None:
    clean = [PathLoss(n, True, loss_ppm=0, rtt_ns=20 * MILLISECOND_NS, load=0.0) for n in (0, 1)]
    assert all(choose(spec, clean, 2000.0) is OFF for spec in READY)
