"""Ceilings, traces and figures: what a bond could carry is computed, and what it carried held against it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdwan.errors import LabError
from sdwan.lab.ceiling import Change, Timeline, counted, mean_bps, tcp_payload_share, udp_payload_share
from sdwan.lab.figures import emulator_figures, round_figures
from sdwan.lab.impairment import Impairment
from sdwan.lab.loads import LoadRecord
from sdwan.lab.picture import draw
from sdwan.lab.result import Result, Trail
from sdwan.lab.scenario import parse
from sdwan.lab.series import Series
from sdwan.lab.stream import Record
from sdwan.lab.targets import medians, percentile
from sdwan.lab.traces import cellular
from sdwan.lab.traffic import PING_LOST_MS, IperfResult, parse_ping

SECOND = 10**9
MBIT = 10**6


# The ceiling ---------------------------------------------------------------------------------------


def test_the_ceiling_is_the_payload_of_a_full_frame():
    assert tcp_payload_share() == pytest.approx(1376 / 1514)
    assert udp_payload_share(1200) == pytest.approx(1200 / 1314)


def test_a_timeline_follows_steps_outages_and_unplugged_cables():
    fast, slow = Impairment(rate_bps=50 * MBIT), Impairment(rate_bps=5 * MBIT)
    line = Timeline(fast, [Change(2 * SECOND, slow), Change(4 * SECOND, None), Change(5 * SECOND, fast)])
    assert line.bits(0, 6 * SECOND) == pytest.approx((100 + 10 + 0 + 50) * MBIT)
    assert line.turns() == [(2 * SECOND, False), (4 * SECOND, False), (5 * SECOND, True)]
    dark = Timeline(fast, [Change(SECOND, Impairment(rate_bps=50 * MBIT, blackhole=True))])
    assert dark.bits(0, 2 * SECOND) == pytest.approx(50 * MBIT)
    assert dark.rate_bps(3 * SECOND) == 0


def test_a_scenario_knows_what_its_links_could_carry():
    scenario = parse(
        {
            "links": [{"rate": "50mbit", "backward": {"rate": "20mbit"}}, {"rate": "10mbit"}],
            "duration": "10s",
            "steps": [{"at": "4s", "set": {"rate": "5mbit"}, "direction": "forward"}],
            "grace": {"down": "1s"},
        },
        "test",
    )
    assert scenario.counted() == [(0, 4 * SECOND), (5 * SECOND, 10 * SECOND)]
    lines = [scenario.timeline(0), scenario.timeline(1)]
    assert mean_bps(lines, scenario.counted()) == pytest.approx((4 * 60 + 5 * 15) / 9 * MBIT)
    back = scenario.model_copy(update={"reverse": True})
    assert back.timeline(0).bits(0, 10 * SECOND) == pytest.approx(200 * MBIT)


def test_without_a_rate_there_is_no_ceiling():
    assert mean_bps([Timeline(Impairment())], [(0, SECOND)]) is None


@given(
    st.lists(st.tuples(st.integers(0, 100), st.booleans()), max_size=8),
    st.integers(0, 30),
    st.integers(0, 30),
)
def test_what_counts_lies_between_the_ends_in_order_and_outside_every_grace(turns, down, up):
    intervals = counted(10, 90, turns, down, up)
    flat = [moment for interval in intervals for moment in interval]
    assert flat == sorted(flat)
    assert all(10 <= moment <= 90 for moment in flat)
    for begin, end in intervals:
        assert begin < end
        for at, upwards in turns:
            grace = up if upwards else down
            assert end <= at or begin >= at + grace or grace == 0


# Traces --------------------------------------------------------------------------------------------


def test_a_cellular_trace_is_the_same_for_the_same_seed_and_fades_now_and_then():
    trace = cellular(7, 60 * SECOND, MBIT, 20 * MBIT)
    assert trace == cellular(7, 60 * SECOND, MBIT, 20 * MBIT)
    assert trace != cellular(8, 60 * SECOND, MBIT, 20 * MBIT)
    assert sum(duration for duration, _ in trace) == 60 * SECOND
    rates = [rate for _, rate in trace]
    assert 0 in rates
    assert all(rate == 0 or MBIT <= rate <= 20 * MBIT for rate in rates)
    assert max(rates) > 4 * min(rate for rate in rates if rate), "it wanders"


# Figures -------------------------------------------------------------------------------------------


def steady_series(begin_ns: int, seconds: int, links_mbps: list[float], tun_mbps: float) -> Series:
    """Make the series of a run in which every rate is constant; sampled from a second before its begin."""
    series = Series()
    for tick in range(10 * (seconds + 1) + 1):
        elapsed_s = tick / 10
        series.moments_ns.append(begin_ns - SECOND + tick * SECOND // 10)
        carried = [int(rate * 1e6 / 8 * elapsed_s) for rate in links_mbps]
        series.sent.append(carried)
        series.arrived.append(carried)
        series.ours.append([carried[0] // 2, *carried[1:]])
        series.delivered.append(int(tun_mbps * 1e6 / 8 * elapsed_s))
        series.queue_ms.append([0.0] * len(links_mbps))
        if tick % 10 == 0:
            series.memory.append((series.moments_ns[-1], 100.0 + elapsed_s))
    return series


def tcp_result(goodput_mbps: float, seconds: float) -> IperfResult:
    return IperfResult(goodput_mbps * 1e6, seconds, 3)


def test_goodput_is_held_against_ceiling_and_sum():
    links = [{"rate": "60mbit"}, {"rate": "40mbit"}]
    scenario = parse({"links": links, "loads": {"tcp": 1}, "duration": "10s"}, "test")
    record = LoadRecord(SECOND * 5, tcp=tcp_result(80, 10), figures={"goodput": 80.0})
    figures = round_figures(scenario, record, steady_series(5 * SECOND, 10, [60, 40], 85))
    assert figures["of_sum"] == pytest.approx(80)
    assert figures["of_ceiling"] == pytest.approx(80 * 1514 / 1376)
    assert figures["used"] == pytest.approx(40)
    assert figures["memory_growth"] == pytest.approx(7.0, abs=2)


def test_a_rival_takes_what_is_not_ours():
    links = [{"rate": "50mbit"}, {"rate": "50mbit"}]
    scenario = parse({"links": links, "loads": {"tcp": 1, "rival": 0}, "duration": "10s"}, "test")
    record = LoadRecord(SECOND, rival=tcp_result(24, 10), figures={"goodput": 68.0})
    figures = round_figures(scenario, record, steady_series(SECOND, 10, [50, 50], 70))
    assert figures["our_share"] == pytest.approx(50, abs=0.1)
    assert figures["others_kept"] == pytest.approx(100 * 68 / (50 * 1376 / 1514), rel=0.01)


def test_gaps_count_from_the_first_thing_that_happened():
    scenario = parse(
        {
            "links": [{"rate": "9mbit", "delay": "10ms"}],
            "duration": "4s",
            "steps": [{"at": "2s", "edge": "kill"}],
        },
        "test",
    )
    begin, interval = 7 * SECOND, 10_000_000
    sent = [(number, begin + number * interval) for number in range(400)]
    arrivals = [(n, at, at + 12_000_000 + (n % 50 == 49) * 6_000_000) for n, at in sent if not 250 <= n < 260]
    record = LoadRecord(begin, stream=Record(arrivals, 400, begin, interval))
    figures = round_figures(scenario, record, Series())
    assert figures["probes_lost"] == 10
    assert figures["longest_gap"] == pytest.approx(110 - 6)
    assert figures["quiet_gap"] == pytest.approx(22.0, abs=6)
    assert figures["delay_added_p99"] == pytest.approx(8.0)
    assert figures["queueing_p95"] == pytest.approx(2.0)


def test_an_emulator_that_was_late_says_so():
    series = steady_series(SECOND, 10, [10], 9)
    series.lateness, series.emulator_cpu_ns = [980, 0, 10, 10], 11 * SECOND // 4
    figures = emulator_figures(series)
    assert figures["emulator_late_p99"] == pytest.approx(3 * 0.131, rel=0.01)
    assert figures["emulator_cpu"] == pytest.approx(25)
    assert emulator_figures(Series()) == {}


def test_a_busy_machine_makes_a_result_doubtful():
    assert Result("x", figures={"machine_cpu": 97.0}).doubt.startswith("the machine was busy")
    assert Result("x", figures={"machine_cpu": 60.0, "emulator_cpu": 30.0}).doubt == ""


def test_medians_are_of_the_rounds_that_measured():
    assert medians([{"tcp": 1.0}, {"tcp": 9.0, "udp": 4.0}, {"tcp": 2.0}]) == {"tcp": 2.0, "udp": 4.0}


@pytest.mark.parametrize(("percent", "value"), [(1, 1), (50, 5), (95, 10), (90, 9), (100, 10)])
def test_percentiles_are_by_nearest_rank(percent, value):
    assert percentile([float(n) for n in range(10, 0, -1)], percent) == value


def test_a_percentile_of_nothing_is_refused():
    with pytest.raises(LabError, match="nothing"):
        percentile([], 95)


def test_a_ping_left_out_is_a_lost_one():
    text = "".join(
        f"[1700000000.{n:06d}] 64 bytes from 10.77.2.1: icmp_seq={n} ttl=64 time={20 + n}.5 ms\n"
        for n in (1, 2, 5)
    )
    samples = parse_ping(text + "From 10.0.0.1 icmp_seq=6 Destination Host Unreachable\n", 10**18)
    assert [sample.rtt_ms for sample in samples] == [21.5, 22.5, PING_LOST_MS, PING_LOST_MS, 25.5]
    assert samples[0].moment_ns == pytest.approx(700000000 * SECOND, abs=SECOND)


# The picture ---------------------------------------------------------------------------------------


def test_a_round_can_be_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    scenario = parse({"name": "drawn", "links": [{"rate": "10mbit"}] * 2, "duration": "3s"}, "test")
    trail = Trail(
        SECOND, steady_series(SECOND, 3, [5, 5], 9), delays=[(SECOND, 12.0)], links=["wan0", "wan1"]
    )
    trail.states = [(1.0, "wan1", "degraded"), (2.0, "wan1", "up")]
    trail.events = [(1.0, "link 1: blackhole True")]
    curves = trail.as_plain()
    assert {len(values) for name, values in curves.items() if name != "states"} == {len(curves["seconds"])}
    assert curves["wan1_ours_mbps"][5] == pytest.approx(5, rel=0.01)
    draw(scenario, Result("drawn", trail=trail), tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_sampled_is_nothing_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    scenario = parse({"name": "empty", "links": [{"rate": "10mbit"}], "duration": "3s"}, "test")
    with pytest.raises(LabError, match="nothing was sampled"):
        draw(scenario, Result("empty"), tmp_path / "empty.png")
