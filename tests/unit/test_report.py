"""When a site reports and what it says; and how long a packet may wait for a missing one."""

from __future__ import annotations

from dataclasses import replace

from sdwan.core.holewait import MARGIN_US, WAIT_MAX_US, HoleWait
from sdwan.core.messages import Report, decode, encode
from sdwan.core.report import KERNEL_WORD_NS, LINGER_NS, Inbound, Reporter

MS = 10**6
START = 10**12
INTERVAL = 25 * MS
ROW = Inbound(
    path=0, opened=10, opened_bytes=12_000, last_sequence=(1 << 32) + 7, last_ns=START, kernel_last_ns=START,
    lost=2, delay_us=1234, delay_min_us=1234, jitter_us=50,
)  # fmt: skip


def test_nothing_arrived_nothing_to_report() -> None:
    reporter = Reporter(interval_ns=INTERVAL)
    reporter.on_inbound([])
    assert reporter.next_timer_ns() is None


def test_arrivals_are_reported_once_and_at_most_once_an_interval() -> None:
    reporter = Reporter(interval_ns=INTERVAL)
    reporter.on_inbound([ROW])
    assert (reporter.next_timer_ns() or 0) <= START
    reporter.make(next_counter=0, now_ns=START)
    assert reporter.next_timer_ns() is None
    reporter.on_inbound([replace(ROW, opened=11)])
    assert reporter.next_timer_ns() == START + INTERVAL


def test_reports_are_not_reported_on() -> None:
    reporter = Reporter(interval_ns=INTERVAL)
    for opened in range(11, 100):  # reports arrive, and are noted before or after the counters show them
        reporter.on_inbound([replace(ROW, opened=10)]) if opened == 11 else None
        if opened == 11:
            reporter.make(next_counter=0, now_ns=START)
        reporter.on_report_received()
        reporter.on_inbound([replace(ROW, opened=opened - (opened & 1))])
        assert not reporter.is_pending
    reporter.on_inbound([replace(ROW, opened=100)])
    assert reporter.is_pending


def test_a_report_says_what_arrived_and_how_long_ago() -> None:
    reporter = Reporter(interval_ns=INTERVAL)
    reporter.on_inbound([ROW])
    report = reporter.make(next_counter=77, now_ns=START + 3 * MS)
    sent = decode(encode(report))
    assert isinstance(sent, Report)
    (row,) = sent.paths
    assert (sent.next_counter, row.last_sequence, row.age_us, row.opened, row.lost) == (77, 7, 3000, 10, 2)


def test_what_waits_in_the_socket_has_arrived_but_not_for_ever() -> None:
    reporter = Reporter(interval_ns=INTERVAL)
    reporter.on_inbound([replace(ROW, kernel_last_ns=START + 20 * MS)])
    assert reporter.make(next_counter=0, now_ns=START + 30 * MS).paths[0].age_us == 10_000
    late_ns = START + KERNEL_WORD_NS
    reporter.on_inbound([replace(ROW, kernel_last_ns=late_ns)])
    assert reporter.make(next_counter=0, now_ns=late_ns).paths[0].age_us == KERNEL_WORD_NS // 1000


# Waiting for a missing packet -------------------------------------------------------------------------


def paths(*delays_us: int, jitter_us: int = 0, last_ns: int = START) -> list[Inbound]:
    return [
        replace(
            ROW,
            path=n,
            delay_us=delay & 0xFFFFFFFF,
            delay_min_us=delay & 0xFFFFFFFF,
            jitter_us=jitter_us,
            kernel_last_ns=last_ns,
        )
        for n, delay in enumerate(delays_us)
    ]


def test_one_path_has_nothing_to_wait_for_but_the_margin() -> None:
    wait = HoleWait()
    assert not wait.on_inbound(paths(5_000_000), now_ns=START)
    assert wait.wait_us == MARGIN_US


def test_the_wait_covers_the_difference_of_the_delays_and_the_jitter() -> None:
    wait = HoleWait()
    assert wait.on_inbound(paths(5_000, 65_000, jitter_us=2_000), now_ns=START)
    assert wait.wait_us == 60_000 + MARGIN_US + 6_000


def test_delays_may_wrap_between_two_paths() -> None:
    wait = HoleWait()
    wait.on_inbound(paths((1 << 32) - 10_000, (1 << 32) + 30_000), now_ns=START)
    assert wait.wait_us == 40_000 + MARGIN_US


def test_a_peak_is_forgotten_slowly_and_the_wait_is_bounded() -> None:
    wait = HoleWait()
    wait.on_inbound(paths(0, 5_000_000), now_ns=START)
    assert wait.wait_us == WAIT_MAX_US
    for n in range(40):
        wait.on_inbound(paths(0, 0), now_ns=START + n * INTERVAL)
    assert MARGIN_US < wait.wait_us < WAIT_MAX_US
    for n in range(400):
        wait.on_inbound(paths(0, 0), now_ns=START + n * INTERVAL)
    assert wait.wait_us < 2 * MARGIN_US


def test_a_path_unused_for_a_minute_is_not_waited_for() -> None:
    wait = HoleWait()
    rows = paths(0, 300_000)
    stale = [rows[0], replace(rows[1], kernel_last_ns=START - 61_000 * MS)]
    assert not wait.on_inbound(stale, now_ns=START)


def test_the_end_of_a_stream_is_reported_for_a_moment() -> None:
    reporter, now_ns = Reporter(interval_ns=INTERVAL), START
    for count in range(1, 5):
        reporter.on_inbound([replace(ROW, opened=count)])
        reporter.make(next_counter=0, now_ns=now_ns)
        now_ns += INTERVAL
    reports = 0
    while (due_ns := reporter.next_timer_ns()) is not None:
        reporter.make(next_counter=0, now_ns=max(due_ns, now_ns))
        reports += 1
        assert reports < 10
    assert reports == LINGER_NS // INTERVAL


def test_the_least_delay_since_the_last_report_is_told() -> None:
    reporter = Reporter(interval_ns=INTERVAL)
    for delay_us, least_us in ((900, 700), (800, 800), (950, 900)):
        reporter.on_inbound([replace(ROW, delay_us=delay_us, delay_min_us=least_us)])
    row = reporter.make(next_counter=0, now_ns=START).paths[0]
    assert (row.delay_us, row.delay_min_us) == (950, 700)
    reporter.on_inbound([replace(ROW, delay_us=1000, delay_min_us=990)])
    assert reporter.make(next_counter=0, now_ns=START).paths[0].delay_min_us == 990
