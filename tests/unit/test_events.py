"""The memory of decisions: bounded, harmless, told in sentences; and what Watch adds to it."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Iterator

import pytest

from sdwan.edge.events import EventLog, sentence
from sdwan.edge.watch import CAPACITY_PAUSE_NS, STORM_PER_SECOND, Watch
from sdwan.io import logs
from sdwan.metrics import PathSnapshot, PeerSnapshot, Snapshot
from sdwan.model import PathState

SECOND = 10**9
log = logs.get_log("sdwan.test")


@pytest.fixture
def events() -> Iterator[EventLog]:
    root, ours = logging.getLogger(), logging.getLogger(logs.OURS)
    before = root.handlers[:], root.level, ours.level
    made = EventLog(3, clock=lambda: 42)
    logs.setup(logging.ERROR, "text", io.StringIO())
    made.install()
    yield made
    made.uninstall()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
    logging.captureWarnings(False)


def test_an_event_has_number_times_level_name_sentence_and_fields(events: EventLog) -> None:
    log.warning("path_state", peer="hub", path=1, link="lte", before="up", state="down", reason="silent")
    (noted,) = events.after(0, 10)
    assert (noted.number, noted.monotonic_ns, noted.level, noted.name) == (1, 42, "warning", "path_state")
    assert noted.sentence == "lte to hub is down (was up): silent"
    assert noted.fields["path"] == 1
    assert noted.wall_ns > 1_700_000_000 * SECOND
    assert json.loads(json.dumps(noted.as_plain()))["sentence"] == noted.sentence


def test_what_is_not_printed_is_remembered_and_debug_is_not(events: EventLog) -> None:
    log.debug("detail")
    log.info("tun_mtu", mtu_bytes=1400)
    assert [noted.name for noted in events.after(0, 10)] == ["tun_mtu"]


def test_memory_is_bounded_and_counts_go_on(events: EventLog) -> None:
    for number in range(10):
        log.info("tun_mtu", mtu_bytes=number)
    assert [noted.number for noted in events.after(0, 10)] == [8, 9, 10]
    assert [noted.number for noted in events.after(8, 10)] == [9, 10]
    assert [noted.number for noted in events.after(0, 1)] == [10]
    assert events.counts() == {"tun_mtu": 10}


def test_keys_do_not_get_into_it(events: EventLog) -> None:
    key = base64.b64encode(bytes(range(1, 33))).decode()
    log.info("config_change", change=f"private_key: {key}", raw=bytes(32))
    (noted,) = events.after(0, 10)
    assert key not in json.dumps(noted.as_plain())


@pytest.mark.parametrize(
    ("name", "fields", "told"),
    [
        ("sla_out", {"reason": "lte out for voice: rtt 180 ms > 150 ms for 1 s"},
         "lte out for voice: rtt 180 ms > 150 ms for 1 s"),
        ("session", {"peer": "hub", "initiator": True}, "new session with hub: we asked for it"),
        ("link", {"link": "dsl", "up": False}, "dsl is down: no carrier, or no such interface"),
        ("link", {"link": "dsl", "up": True, "mtu": 1500, "addresses": "192.0.2.1/24"},
         "dsl is up: MTU 1500, 192.0.2.1/24"),
        ("link_drained", {"link": "lte", "reason": "operator"}, "lte drained: no new data on it"),
        ("path_state", {"peer": "hub"}, "hub path state"),
        ("fec", {"peer": "hub", "class": "video", "sources": 10, "repairs": 2, "reason": "loss on wan1: 2 %"},
         "FEC for video to hub: 2 repair(s) for every 10 datagrams; loss on wan1: 2 %"),
        ("fec", {"peer": "hub", "class": "video", "sources": 0, "repairs": 0, "reason": "loss is congestion"},
         "FEC for video to hub: off; loss is congestion"),
        ("fec_on", {"peer": "hub", "class": "video", "repairs": 2}, "hub fec on: class video, repairs 2"),
        ("odd", {"values": [1, 2]}, "odd: values [1, 2]"),
        ("config_change", {"change": "{peer} stays text"}, "configuration: {peer} stays text"),
    ],
)  # fmt: skip
def test_sentences(name: str, fields: dict[str, object], told: str) -> None:
    assert sentence(name, fields) == told


# Watch -------------------------------------------------------------------------------------------------


def path(state: str | None, capacity_bps: int = 10_000_000) -> PathSnapshot:
    return PathSnapshot(
        peer="hub", path=0, link="lte", state=PathState.UP, capacity_state=state, capacity_bps=capacity_bps
    )


def look(watch: Watch, second: float, *, state: str | None = None, nacks: int = 0) -> None:
    peers = (PeerSnapshot(peer="hub", nacks_sent=nacks),)
    watch.look(Snapshot(site="x", paths=(path(state),), peers=peers), now_ns=int(second * SECOND))


def test_a_new_state_of_an_estimator_is_told_but_not_a_flutter(events: EventLog) -> None:
    watch, pause_s = Watch(), CAPACITY_PAUSE_NS / SECOND
    look(watch, 1, state="startup")
    look(watch, 2, state="track")
    assert events.after(0, 9) == []
    look(watch, 2 + pause_s, state="track")
    look(watch, 3 + pause_s, state="compete")
    look(watch, 2 + 3 * pause_s, state="startup")
    assert [noted.sentence for noted in events.after(0, 9)] == [
        "lte to hub: capacity startup -> track, 10.0 Mbit/s",
        "lte to hub: capacity track -> startup, 10.0 Mbit/s",
    ]


def test_a_storm_of_requests_is_told_once_and_its_end(events: EventLog) -> None:
    watch, total = Watch(), 0
    for second, per_second in enumerate([0, 5, STORM_PER_SECOND, 10 * STORM_PER_SECOND, 50, 0, 0]):
        total += per_second
        look(watch, second, nacks=total)
    assert [noted.name for noted in events.after(0, 9)] == ["nack_storm", "nack_storm_over"]


def test_a_restarted_data_plane_is_no_storm(events: EventLog) -> None:
    watch = Watch()
    look(watch, 0, nacks=10_000)
    look(watch, 1, nacks=0)
    assert events.after(0, 9) == []


def test_a_peer_that_is_gone_is_forgotten() -> None:
    watch = Watch()
    look(watch, 0, state="track")
    watch.look(Snapshot(site="x"), now_ns=SECOND)
    assert watch._capacity == {} and watch._nacks == {}
