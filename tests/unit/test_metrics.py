"""Metrics: every figure of a snapshot comes out once, under its name and in its unit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sdwan.metrics import (
    METRICS,
    ClassSnapshot,
    LinkSnapshot,
    Metrics,
    PathSnapshot,
    PeerSnapshot,
    Snapshot,
    reference,
)
from sdwan.metrics.declared import CAPACITY_STATES
from sdwan.model import DropReason, PathState

PAGE = Path(__file__).parents[2] / "docs/operate/metrics.md"

SNAPSHOT = Snapshot(
    site="berlin",
    uptime_ns=60_000_000_000,
    paths=(
        PathSnapshot(
            peer="hub", path=0, link="dsl", state=PathState.UP, rtt_ns=12_500_000, jitter_ns=250_000,
            loss_out_ppm=1500, loss_in_ppm=0, share_ppm=750_000, mtu_bytes=1500,
            sent_datagrams=10, sent_bytes=2**53, received_datagrams=9, received_bytes=900,
            capacity_bps=50_000_000, capacity_state="track", delivered_bps=48_000_000,
            queue_ns=3_000_000, backlog_ns=4_000_000, extra_delay_ns=0, samples_refused=1,
        ),
        PathSnapshot(
            peer="hub", path=1, link="lte", state=PathState.DEGRADED, drained=True, out_for=("voice",)
        ),
    ),
    links=(
        LinkSnapshot(link="dsl", interface="eth0", up=True, foreign_sent_bytes=7, icmp_rtt_ns=9_000_000),
        LinkSnapshot(link="lte", interface="wwan0", up=True, drained=True, quota_left_bytes=5),
    ),
    classes=(
        ClassSnapshot(
            peer="hub", number=3, name="voice", recovery="duplicate", sent_packets=50, queued_packets=2,
            queue_delay_ns=1_500_000, dropped=1, overflowed=6, marked=4, fec_sources=8, fec_repairs=2,
        ),
    ),
    peers=(
        PeerSnapshot(
            peer="hub", session_age_ns=3_000_000_000, epochs=4, held=5, holes_closed=3,
            nacks_sent=11, nacks_received=12, resent=13, recovered=14, unrecovered=15, overhead_ppm=20_000,
        ),
    ),
    drops={DropReason.FORGED: 2},
    events={"path_state": 9},
    tun_reads=8,
    heartbeat_age_ns=10_000_000,
    dataplane_starts=1,
    reloads_refused=1,
)  # fmt: skip


def scrape(snapshot: Snapshot | None) -> dict[str, float]:
    """Return every series of a scrape as ``name{label=value,...}`` -> value."""
    metrics = Metrics()
    if snapshot is not None:
        metrics.update(snapshot)
    return {
        sample.name + "{" + ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items())) + "}": sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }


EXPECTED = {
    "sdwan_uptime_seconds{}": 60,
    "sdwan_path_up{link=dsl,path=0,peer=hub}": 1,
    "sdwan_path_up{link=lte,path=1,peer=hub}": 0,
    "sdwan_path_state{link=lte,path=1,peer=hub,state=degraded}": 1,
    "sdwan_path_state{link=lte,path=1,peer=hub,state=up}": 0,
    "sdwan_path_rtt_seconds{link=dsl,path=0,peer=hub}": 0.0125,
    "sdwan_path_jitter_seconds{link=dsl,path=0,peer=hub}": 0.00025,
    "sdwan_path_loss_ratio{direction=out,link=dsl,path=0,peer=hub}": 0.0015,
    "sdwan_path_loss_ratio{direction=in,link=dsl,path=0,peer=hub}": 0,
    "sdwan_path_weight_share{link=dsl,path=0,peer=hub}": 0.75,
    "sdwan_path_mtu_bytes{link=dsl,path=0,peer=hub}": 1500,
    "sdwan_path_sent_datagrams_total{link=dsl,path=0,peer=hub}": 10,
    "sdwan_path_sent_bytes_total{link=dsl,path=0,peer=hub}": 2**53,
    "sdwan_path_received_datagrams_total{link=dsl,path=0,peer=hub}": 9,
    "sdwan_path_received_bytes_total{link=dsl,path=0,peer=hub}": 900,
    "sdwan_path_capacity_bits_per_second{link=dsl,path=0,peer=hub}": 50_000_000,
    "sdwan_path_capacity_state{link=dsl,path=0,peer=hub,state=track}": 1,
    "sdwan_path_capacity_state{link=dsl,path=0,peer=hub,state=compete}": 0,
    "sdwan_path_delivered_bits_per_second{link=dsl,path=0,peer=hub}": 48_000_000,
    "sdwan_path_queue_seconds{kind=measured,link=dsl,path=0,peer=hub}": 0.003,
    "sdwan_path_queue_seconds{kind=predicted,link=dsl,path=0,peer=hub}": 0.004,
    "sdwan_path_extra_delay_seconds{link=dsl,path=0,peer=hub}": 0,
    "sdwan_path_samples_refused_total{link=dsl,path=0,peer=hub}": 1,
    "sdwan_path_out_for_class{class=voice,link=lte,path=1,peer=hub}": 1,
    "sdwan_path_out_for_class{class=voice,link=dsl,path=0,peer=hub}": 0,
    "sdwan_path_drained{by=here,link=lte,path=1,peer=hub}": 1,
    "sdwan_path_drained{by=peer,link=lte,path=1,peer=hub}": 0,
    "sdwan_link_drained{interface=wwan0,link=lte}": 1,
    "sdwan_link_quota_left_bytes{interface=wwan0,link=lte}": 5,
    "sdwan_class_sent_packets_total{class=voice,peer=hub}": 50,
    "sdwan_class_queued_packets{class=voice,peer=hub}": 2,
    "sdwan_class_queue_delay_seconds{class=voice,peer=hub}": 0.0015,
    "sdwan_class_dropped_total{class=voice,peer=hub,reason=codel}": 1,
    "sdwan_class_dropped_total{class=voice,peer=hub,reason=full}": 6,
    "sdwan_class_marked_total{class=voice,peer=hub}": 4,
    "sdwan_class_fec_ratio{class=voice,peer=hub}": 0.25,
    "sdwan_recovery_nacks_total{direction=sent,peer=hub}": 11,
    "sdwan_recovery_nacks_total{direction=received,peer=hub}": 12,
    "sdwan_recovery_resent_datagrams_total{peer=hub}": 13,
    "sdwan_recovery_fec_datagrams_total{peer=hub,result=recovered}": 14,
    "sdwan_recovery_fec_datagrams_total{peer=hub,result=unrecovered}": 15,
    "sdwan_recovery_overhead_ratio{peer=hub}": 0.02,
    "sdwan_events_total{event=path_state}": 9,
    "sdwan_link_up{interface=eth0,link=dsl}": 1,
    "sdwan_link_foreign_sent_bytes_total{interface=eth0,link=dsl}": 7,
    "sdwan_link_icmp_rtt_seconds{interface=eth0,link=dsl}": 0.009,
    "sdwan_peer_handshake_age_seconds{peer=hub}": 3,
    "sdwan_peer_session_epochs_total{peer=hub}": 4,
    "sdwan_reorder_held_total{peer=hub}": 5,
    "sdwan_reorder_holes_closed_total{peer=hub}": 3,
    "sdwan_drops_total{reason=forged}": 2,
    "sdwan_drops_total{reason=loop}": 0,
    "sdwan_tun_reads_total{}": 8,
    "sdwan_dataplane_heartbeat_age_seconds{}": 0.01,
    "sdwan_dataplane_starts_total{}": 1,
    "sdwan_config_reloads_total{result=applied}": 0,
    "sdwan_config_reloads_total{result=refused}": 1,
}


def test_every_figure_comes_out_in_its_unit() -> None:
    series = scrape(SNAPSHOT)
    assert {name: series.get(name) for name in EXPECTED} == pytest.approx(EXPECTED)


def test_what_was_not_measured_is_absent() -> None:
    series = scrape(SNAPSHOT)
    assert not any("capacity" in name and "lte" in name for name in series)
    assert "sdwan_link_quota_left_bytes{interface=eth0,link=dsl}" not in series
    assert not any("rtt" in name and "lte" in name for name in series)
    assert not any(name.startswith("sdwan_tun_mtu") for name in series)


def test_every_drop_reason_is_a_series_from_the_start() -> None:
    series = scrape(Snapshot(site="x"))
    for reason in DropReason:
        assert series[f"sdwan_drops_total{{reason={reason.name.lower()}}}"] == 0


def test_a_path_that_is_gone_leaves_no_series() -> None:
    metrics = Metrics()
    metrics.update(SNAPSHOT)
    metrics.update(Snapshot(site="berlin"))
    assert b'link="dsl"' not in metrics.exposition()


def test_nothing_before_the_first_snapshot_and_one_registry_each() -> None:
    assert scrape(None) == {}
    assert Metrics().registry is not Metrics().registry


def test_names_and_labels_follow_the_rules() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    for metric in METRICS:
        assert re.fullmatch(r"sdwan_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.meaning.endswith("."), metric.name
        for labels, _ in metric.read(SNAPSHOT):
            assert len(labels) == len(metric.labels), metric.name


def test_every_declared_metric_can_be_scraped() -> None:
    full = Snapshot(
        site="x",
        paths=(PathSnapshot(
            peer="p", path=0, link="l", state=PathState.UP, mtu_bytes=1,
            rtt_ns=1, jitter_ns=1, loss_out_ppm=1, loss_in_ppm=1, capacity_bps=1,
            capacity_state=CAPACITY_STATES[0], delivered_bps=1, queue_ns=1, backlog_ns=1, extra_delay_ns=1,
        ),),
        links=(LinkSnapshot(
            link="l", interface="i", up=False, icmp_rtt_ns=1, icmp_loss_ppm=1, quota_left_bytes=1,
        ),),
        classes=(ClassSnapshot(peer="p", number=0, name="bulk"),),
        peers=(PeerSnapshot(peer="p", session_age_ns=1, overhead_ppm=1),),
        events={"session": 1},
        tun_mtu_bytes=1,
        heartbeat_age_ns=1,
    )  # fmt: skip
    scraped = {name.partition("{")[0] for name in scrape(full)}
    assert scraped == {metric.name for metric in METRICS}


def test_the_page_in_the_repository_is_current() -> None:
    assert PAGE.read_text() == reference(), "run: python -m sdwan.metrics > docs/operate/metrics.md"


def test_the_page_explains_every_drop_reason() -> None:
    for reason in DropReason:
        assert re.search(
            rf"^\| `{reason.name.lower()}` \| (kernel|data plane) \| \w.*\. \|$", PAGE.read_text(), re.M
        )


def test_a_snapshot_is_json() -> None:
    plain = json.loads(json.dumps(SNAPSHOT.as_plain()))
    assert plain["paths"][1]["state"] == "degraded"
    assert plain["drops"] == {"forged": 2}
    assert plain["heartbeat_age_ns"] == 10_000_000
