"""Impairments as people write them; tc arguments as the kernel wants them; names; gaps of a probe stream."""

from __future__ import annotations

import pytest

from sdwan.errors import LabError
from sdwan.lab import shaping
from sdwan.lab.home import Home
from sdwan.lab.impairment import Impairment
from sdwan.lab.link import LinkSpec
from sdwan.lab.stream import Record
from sdwan.lab.topology import Cable, Lab, Plan
from sdwan.lab.values import impairment_values

MS = 1_000_000


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ({"rate": "20mbit"}, {"rate_bps": 20_000_000}),
        ({"rate": "unlimited"}, {"rate_bps": 0}),
        ({"delay": "10ms", "jitter": "500us"}, {"delay_ns": 10 * MS, "jitter_ns": MS // 2}),
        ({"loss": "0.1%"}, {"loss_ppm": 1_000}),
        (
            {"burst_enter": "0.5%", "burst_leave": "10%"},
            {"burst_enter_ppm": 5_000, "burst_leave_ppm": 100_000},
        ),
        ({"buffer_size": "64k", "mtu": 1400}, {"buffer_bytes": 64_000, "mtu_bytes": 1400}),
        ({"blackhole": True}, {"blackhole": True}),
        ({"trace": [["200ms", "5mbit"], ["50ms", 0]]}, {"trace": ((200 * MS, 5_000_000), (50 * MS, 0))}),
    ],
)
def test_what_people_write_becomes_what_the_model_uses(written, values):
    assert impairment_values(written, "forward") == values


@pytest.mark.parametrize(
    "written",
    [{"rate": 20}, {"loss": "0.1"}, {"loss": "200%"}, {"delay": "fast"}, {"blackhole": "yes"}, {"trace": 5},
     {"speed": "20mbit"}],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_its_place(written):
    with pytest.raises(LabError, match=rf"links\.0\.{next(iter(written))}"):
        impairment_values(written, "links.0")


def test_a_mahimahi_trace_becomes_a_rate_per_piece(tmp_path):
    file = tmp_path / "trace"
    file.write_text("\n".join(map(str, [0, 1, 2, 3, 25])))
    values = impairment_values({"trace": str(file)}, "forward")
    assert values == {"trace": ((20 * MS, 4 * 12_000 * 50), (20 * MS, 12_000 * 50))}


@pytest.mark.parametrize("content", ["", "1 x", "-5"])
def test_a_broken_trace_is_refused(tmp_path, content):
    file = tmp_path / "trace"
    file.write_text(content)
    with pytest.raises(LabError, match=r"mahimahi|empty"):
        impairment_values({"trace": str(file)}, "forward")


# tc ------------------------------------------------------------------------------------------------


def test_tbf_gets_rate_and_a_buffer_of_the_time_asked_for():
    arguments = shaping.tbf(Impairment(rate_bps=100_000_000, buffer_ns=50 * MS))
    assert arguments == ["tbf", "rate", "100000000bit", "burst", "15140", "limit", str(625_000 + 15_140)]


def test_tbf_refuses_what_it_cannot_do():
    with pytest.raises(LabError, match="delay_ns"):
        shaping.tbf(Impairment(rate_bps=10**6, delay_ns=MS))
    with pytest.raises(LabError, match="rate"):
        shaping.tbf(Impairment())


def test_netem_stands_below_tbf_and_holds_buffer_and_delay_line():
    root, child = shaping.netem(
        Impairment(rate_bps=8_000_000, buffer_ns=50 * MS, delay_ns=50 * MS, loss_ppm=1000)
    )
    assert root[:4] == ["root", "handle", "1:", "tbf"]
    assert child[:2] == ["parent", "1:1"]
    assert child[4:] == ["netem", "limit", str(100_000 // 1514), "delay", "50000us", "loss", "0.1000%"]


@pytest.mark.parametrize(
    ("impairment", "able"),
    [
        (Impairment(delay_ns=MS, loss_ppm=1, rate_bps=10**6, blackhole=True), True),
        (Impairment(trace=((MS, 10**6),)), False),
        (Impairment(mtu_bytes=1400), False),
        (Impairment(reorder_ppm=1), False),
        (Impairment(loss_ppm=1, burst_enter_ppm=1), False),
    ],
)
def test_netem_is_not_asked_for_what_it_does_not_know(impairment, able):
    assert shaping.netem_can(impairment) is able


# Plans ---------------------------------------------------------------------------------------------


def test_a_hub_with_three_edges_of_two_links_each_has_six_ports():
    sites = ("hub", "a", "b", "c")
    cables = tuple(Cable(edge, "hub") for edge in sites[1:] for _ in range(2))
    lab = Lab(Home("plan"), Plan(sites, cables))
    assert [port.interface for port in lab.ports("hub")] == [f"wan{number}" for number in range(6)]
    assert [(port.interface, port.address, port.far_address) for port in lab.ports("b")] == [
        ("wan0", "10.90.2.1", "10.90.2.2"),
        ("wan1", "10.90.3.1", "10.90.3.2"),
    ]
    assert lab.end(3, "hub").addresses == ("10.90.3.2/24", "fd90:3::2/64")


def test_a_link_to_nowhere_is_refused():
    with pytest.raises(LabError, match="mars"):
        Plan(("edge", "hub"), (Cable("edge", "mars", LinkSpec()),))


@pytest.mark.parametrize("name", ["", "with-hyphen", "Upper", "x" * 25, "../etc"])
def test_a_lab_that_could_be_mistaken_for_another_is_refused(name):
    with pytest.raises(LabError, match="no name"):
        Home(name)


# The probe stream ----------------------------------------------------------------------------------

STEP = 5 * MS


def record(*numbers: int, sent: int, delay_ns: int = MS) -> Record:
    return Record([(n, n * STEP, n * STEP + delay_ns) for n in numbers], sent, 0, STEP)


def test_without_loss_the_longest_gap_is_the_interval():
    gap = record(*range(10), sent=10).judge()
    assert (gap.longest_ns, gap.lost, gap.late, gap.delay_median_ns) == (STEP, 0, 0, MS)


def test_lost_probes_are_counted_and_their_silence_measured():
    gap = record(0, 1, 5, 6, sent=7).judge()
    assert (gap.longest_ns, gap.lost, gap.started_ns) == (4 * STEP, 3, STEP + MS)


def test_silence_to_the_end_counts():
    gap = record(0, 1, sent=100).judge()
    assert gap.lost == 98
    assert gap.longest_ns == 100 * STEP - (STEP + MS)


def test_only_what_was_sent_between_the_moments_is_judged():
    whole = record(0, 4, 5, 6, 7, 8, 9, sent=10)
    assert whole.judge(4 * STEP, 10 * STEP).lost == 0
    assert whole.judge(0, 5 * STEP).lost == 3


def test_a_probe_behind_a_later_one_is_late():
    assert record(0, 2, 1, 3, sent=4).judge().late == 1


def test_a_stream_of_which_nothing_arrived_is_an_error_not_a_figure():
    with pytest.raises(LabError, match="none arrived"):
        record(sent=5).judge()
