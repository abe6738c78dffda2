"""Back-pressure with everything real: beside a TCP stream that fills the bond, a ping hardly waits.

      edge ══ 50 Mbit/s, rtt 10 ms ══ hub
           ══ 50 Mbit/s, rtt 30 ms ══            each with 200 ms of drop-tail buffer, as modems have

Without a queue of our own the stream would stand in those buffers and the ping behind it.
"""

from __future__ import annotations

import re
import statistics

import pytest

from sdwan.lab.impairment import Impairment
from sdwan.lab.link import LinkSpec
from sdwan.lab.namespace import Namespace
from sdwan.lab.traffic import Iperf
from tests.netns.edge_world import wait_until, world

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.netns]

MS = 10**6
RATE_BPS = 50_000_000
BUFFER_MS = 200
WAIT_MS_MAX = 60.0
"""Of the 200 ms that would be lost without the queue; on a quiet machine it is about 8."""


def wire(owd_ms: int) -> LinkSpec:
    impairment = Impairment(rate_bps=RATE_BPS, delay_ns=owd_ms * MS, buffer_ns=BUFFER_MS * MS)
    return LinkSpec.even("auto", impairment)


def median_ms(site: Namespace, address: str) -> float:
    """Ping for a second; return the median."""
    text = site.run(["ping", "-n", "-c", "50", "-i", "0.02", "-W", "1", address], accept=(0, 1))
    times = [float(time) for time in re.findall(r"time=([\d.]+)", text)]
    assert times, text
    return statistics.median(times)


def test_a_ping_beside_a_full_tcp_stream_hardly_waits():
    with world(wire(5), wire(15)) as sites:
        sites.start()
        edge, hub = sites.lab.namespace("edge"), sites.lab.namespace("hub")
        address = hub.run(["ip", "-4", "-o", "address", "show", "sdwan01"]).split()[3].split("/")[0]
        idle_ms = median_ms(edge, address)
        stream = Iperf(edge, hub, address, duration_s=25)
        try:
            for _ in range(4):  # until the stream has found the bond's end
                median_ms(edge, address)
            # A busy machine adds what it likes to a single round; a standing queue would be in every one.
            wait_until(
                lambda: (
                    stream.running
                    and sites["edge"].status()["classes"][0]["sent_bps"] > RATE_BPS / 2
                    and median_ms(edge, address) < idle_ms + WAIT_MS_MAX
                ),
                "a short ping beside the stream",
            )
        finally:
            stream.close()
        drops = sites["edge"].status()["drops"]
        assert not drops["queue_full"]
