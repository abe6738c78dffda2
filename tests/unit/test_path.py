"""The state of a path: a table of what moves it, and the evidence behind a suspicion."""

from __future__ import annotations

import numpy as np
import pytest

from sdwan.core.liveness import (
    DEAD_NS,
    FLAP_MEMORY_NS,
    JITTERS,
    KEEPALIVE_SUSPECT_NS,
    NAMED_NS,
    PATIENCE_MAX_NS,
    PROBES_LOST,
    SILENCE_NS,
    SLACK_NS,
    STREAM_SILENCE_NS,
    Liveness,
)
from sdwan.core.sent import SENT, SentLog
from sdwan.core.wire import Type
from sdwan.model import PathState

UP, DEGRADED, DOWN, PROBING = PathState.UP, PathState.DEGRADED, PathState.DOWN, PathState.PROBING
MS = 10**6
START = 10**12


def up(now_ns: int = START) -> Liveness:
    """A path that has just proved itself, by datagrams 0 and 1."""
    path = Liveness(link_up=True, now_ns=now_ns)
    path.on_named(0, mark=2, now_ns=now_ns)
    path.on_named(1, mark=2, now_ns=now_ns)
    assert path.state is UP
    return path


def sent(*moments_ms: float) -> SentLog:
    """A log with DATA datagrams at these moments; the first one is named."""
    log = SentLog()
    for number, moment in enumerate(moments_ms):
        log.note(np.array([(number, 1, Type.SINGLE, START + int(moment * MS), 1000, 0, 0, 0)], dtype=SENT))
    log.on_reported(0)
    return log


# The states -----------------------------------------------------------------------------------------


def test_a_new_path_is_used_after_two_proofs() -> None:
    path = Liveness(link_up=True, now_ns=START)
    assert path.state is PROBING
    path.on_named(5, mark=9, now_ns=START)
    path.on_named(5, mark=9, now_ns=START)  # the same datagram named again proves nothing new
    assert path.state is PROBING
    path.on_named(6, mark=9, now_ns=START)
    assert path.state is UP


def test_a_suspect_path_comes_back_by_datagrams_sent_after_the_suspicion() -> None:
    path = up()
    path.on_overdue(mark=10, now_ns=START)
    path.on_named(9, mark=10, now_ns=START)
    path.on_named(10, mark=12, now_ns=START)
    assert path.state is DEGRADED
    path.on_named(11, mark=12, now_ns=START)
    assert path.state is UP
    assert path.failures == 0


def test_a_suspect_path_that_stays_silent_is_down() -> None:
    path = up()
    path.on_overdue(mark=10, now_ns=START)
    path.on_timer(mark=10, now_ns=START + DEAD_NS)
    assert path.state is DEGRADED
    path.on_timer(mark=10, now_ns=START + DEAD_NS + 1)
    assert (path.state, path.reason, path.failures) == (DOWN, "silent", 1)


def test_netlink_takes_a_path_down_and_gives_it_back_to_be_proven() -> None:
    path = up()
    path.on_link(False, mark=10, now_ns=START)
    assert path.state is DOWN
    path.on_named(10, mark=11, now_ns=START)
    assert path.state is DOWN
    path.on_link(True, mark=11, now_ns=START)
    assert path.state is PROBING


@pytest.mark.parametrize(
    ("failures", "patience_ms"), [(0, 0), (1, 500), (2, 1000), (3, 2000), (30, PATIENCE_MAX_NS / MS)]
)
def test_patience_doubles_with_each_failure(failures: int, patience_ms: float) -> None:
    path = up()
    path.failures = failures
    assert path.patience_ns == patience_ms * MS


def test_a_path_that_flaps_is_used_only_after_its_patience() -> None:
    path = up()
    path.on_link(False, mark=10, now_ns=START)
    path.on_link(True, mark=10, now_ns=START)
    path.on_named(10, mark=12, now_ns=START + 10 * MS)
    path.on_named(11, mark=12, now_ns=START + 20 * MS)
    assert path.state is PROBING
    path.on_named(12, mark=13, now_ns=START + 500 * MS)
    assert path.state is UP


def test_a_returning_path_that_falls_silent_again_is_down_again() -> None:
    path = up()
    path.on_link(False, mark=10, now_ns=START)
    path.on_link(True, mark=10, now_ns=START)
    path.on_named(10, mark=11, now_ns=START + 10 * MS)
    path.on_timer(mark=11, now_ns=START + 12 * MS + DEAD_NS)
    assert (path.state, path.failures) == (DOWN, 2)


def test_failures_are_forgiven_one_a_minute() -> None:
    path = up()
    path.failures = 2
    path.on_timer(mark=2, now_ns=START + FLAP_MEMORY_NS + 1)
    assert path.failures == 1
    assert path.next_timer_ns() == START + 2 * FLAP_MEMORY_NS + 2


def test_keepalives_are_asked_for_only_while_something_is_to_be_proven() -> None:
    path = up()
    assert path.keepalive_interval_ns(START) is None
    path.on_overdue(mark=10, now_ns=START)
    assert path.keepalive_interval_ns(START) == KEEPALIVE_SUSPECT_NS
    path.on_link(False, mark=10, now_ns=START)
    assert path.keepalive_interval_ns(START) is None


# The evidence ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age_ms", "jitter_ms", "is_overdue"),
    [
        (30, 0, False),  # sent 20 ms after the named one: 10 ms late, within the slack
        (20 + SLACK_NS / MS, 0, False),
        (20 + SLACK_NS / MS + 1, 0, True),
        (20 + SLACK_NS / MS + 1, 1, False),
        (20 + SLACK_NS / MS + JITTERS + 1, 1, True),
    ],
)
def test_overdue_compares_the_age_of_the_newest_with_the_distance_to_the_next(
    age_ms: float, jitter_ms: float, is_overdue: bool
) -> None:
    log = sent(0, 20, 40)
    assert up().is_overdue(log, age_ns=int(age_ms * MS), jitter_ns=int(jitter_ms * MS)) is is_overdue


def test_a_long_idle_path_is_not_overdue_just_because_its_newest_is_old() -> None:
    log = sent(0, 20_000)
    assert not up().is_overdue(log, age_ns=20_005 * MS, jitter_ns=0)


def test_nothing_is_overdue_where_nothing_is_due_or_nothing_was_named() -> None:
    named_all = sent(0)
    assert not up().is_overdue(named_all, age_ns=10**12, jitter_ns=0)
    never_named = SentLog()
    never_named.note(np.array([(0, 1, Type.SINGLE, START, 1000, 0, 0, 0)], dtype=SENT))
    assert not up().is_overdue(never_named, age_ns=10**12, jitter_ns=0)


def test_silence_begins_with_what_is_due_and_ends_with_a_report() -> None:
    path, log = up(), sent(0, 20)
    wait = 20 * MS + SLACK_NS + SILENCE_NS
    assert path.silent_at_ns(log, jitter_ns=0, rtt_ns=20 * MS, report_ns=0) == START + 20 * MS + wait
    report_ns = START + 50 * MS
    assert (
        path.silent_at_ns(log, jitter_ns=0, rtt_ns=20 * MS, report_ns=report_ns)
        == report_ns + wait + STREAM_SILENCE_NS - SILENCE_NS
    )
    log.on_reported(1)
    assert path.silent_at_ns(log, jitter_ns=0, rtt_ns=20 * MS, report_ns=0) is None


def test_lost_probes_speak_only_when_no_report_has_spoken_lately() -> None:
    path = up()
    path.on_probes(PROBES_LOST, mark=2, now_ns=START + NAMED_NS - 1)
    assert path.state is UP
    path.on_probes(PROBES_LOST - 1, mark=2, now_ns=START + NAMED_NS)
    assert path.state is UP
    path.on_probes(PROBES_LOST, mark=2, now_ns=START + NAMED_NS)
    assert path.state is DEGRADED
