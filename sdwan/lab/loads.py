"""The loads of a scenario: started together, ended together, turned into figures.

In comes what a scenario wants to run (``LoadsPart``), a lab and the overlay in it; out come the figures of
sdwan.lab.targets that the loads themselves can tell: goodput, gaps, delays, pings, short flows. Figures count
from the end of the warm-up on. What depends on the links (ceiling, queues, shares) is runner's business.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from sdwan.errors import LabError
from sdwan.lab.churn import Churn
from sdwan.lab.scenario import LoadsPart, Scenario
from sdwan.lab.site import Overlay
from sdwan.lab.stream import ProbeStream, Record, Shape, probe_stream
from sdwan.lab.targets import Figures, percentile
from sdwan.lab.topology import Lab
from sdwan.lab.traffic import Iperf, IperfResult, Pinging, PingSample

# Implementation constants --------------------------------------------------------------------------

TCP_PORT, UDP_PORT, RIVAL_PORT = 5201, 5202, 5203
BARE_PINGS_NS = 20_000_000
BARE_S = 0.4
MS = 1e6


@dataclass
class LoadRecord:
    """Everything the loads of one round told; what did not run is None or empty."""

    begin_ns: int
    tcp: IperfResult | None = None
    udp: IperfResult | None = None
    rival: IperfResult | None = None
    stream: Record | None = None
    pings: list[PingSample] = field(default_factory=list)
    figures: Figures = field(default_factory=dict)


class Loads:
    """The running loads of one round: ``start``, wait, ``finish``; ``close`` whatever happens."""

    def __init__(self, scenario: Scenario, lab: Lab, running: Overlay) -> None:
        self._scenario = scenario
        self._source, self._target = (lab.namespace(site) for site in scenario.ends)
        self._address = running.edges[scenario.ends[1]].address
        self._ports = [port for port in lab.ports(scenario.ends[0]) if port.far_site == scenario.ends[1]]
        self._directory = lab.home.directory
        self._stack = ExitStack()
        self._iperfs: dict[str, Iperf] = {}
        self._stream: ProbeStream | None = None
        self._pinging: Pinging | None = None
        self._churn: Churn | None = None
        self._idle_pings: list[PingSample] = []
        self._bare_ms: list[float] = []
        self._begin_ns = 0

    def idle(self) -> None:
        """Ping the links themselves and then the tunnel, before anything else runs."""
        wanted = self._scenario
        if wanted.loads.ping is None:
            return
        for port in self._ports:
            pinging = self._ping(port.far_address, BARE_PINGS_NS, 0)
            time.sleep(BARE_S)
            self._bare_ms.append(_median_ms(pinging.stop()))
        if wanted.idle:
            pinging = self._ping(self._address, wanted.loads.ping.interval, wanted.loads.ping.dscp)
            time.sleep(wanted.idle / 1e9)
            self._idle_pings = pinging.stop()

    def start(self) -> int:
        """Start everything and return when it began, CLOCK_MONOTONIC."""
        wanted = self._scenario.loads
        if wanted.probe:
            stream = probe_stream(self._source, self._target, self._address, _shape(wanted))
            self._stream = self._stack.enter_context(stream)
        if wanted.churn:
            self._churn = Churn(
                self._source, self._target, self._address, clients=wanted.churn, seed=self._scenario.seed
            )
            self._stack.callback(self._churn.close)
        if wanted.ping:
            self._pinging = self._ping(self._address, wanted.ping.interval, wanted.ping.dscp)
        if wanted.tcp:
            self._iperf("tcp", self._address, TCP_PORT, streams=wanted.tcp)
        if wanted.udp:
            self._iperf("udp", self._address, UDP_PORT, datagram_bytes=wanted.udp_size, rate_bps=wanted.udp)
        if wanted.rival is not None:
            port = next((port for port in self._ports if port.link == wanted.rival), None)
            if port is None:
                raise LabError(f"loads.rival: link {wanted.rival} does not join the sites of the loads")
            self._iperf("rival", port.far_address, RIVAL_PORT)
        self._begin_ns = time.monotonic_ns()
        return self._begin_ns

    def finish(self) -> LoadRecord:
        """Wait for the end of all and return what they told.

        Raises:
            LabError: a load failed.
        """
        record = LoadRecord(self._begin_ns)
        results = {name: iperf.wait() for name, iperf in self._iperfs.items()}
        record.tcp, record.udp, record.rival = (results.get(name) for name in ("tcp", "udp", "rival"))
        if self._stream is not None:
            record.stream = self._stream.stop()
        if self._pinging is not None:
            record.pings = self._pinging.stop()
        if self._churn is not None:
            flows = self._churn.stop()
            record.figures |= {"flows_done": float(flows.done), "flows_failed": float(flows.failed)}
        record.figures |= self._iperf_figures(record) | self._ping_figures(record)
        return record

    def close(self) -> None:
        """End everything, however it is."""
        self._stack.close()

    def _iperf(self, name: str, address: str, port: int, **options: int) -> None:
        made = Iperf(
            self._source, self._target, address, port=port,
            duration_s=self._scenario.duration / 1e9, skip_s=self._scenario.warm_up // 10**9, **options,
        )  # fmt: skip
        self._stack.callback(made.close)
        self._iperfs[name] = made

    def _ping(self, address: str, interval_ns: int, dscp: int) -> Pinging:
        file = self._directory / "ping.txt"
        made = Pinging(self._source, address, file, interval_ns=interval_ns, dscp=dscp)
        self._stack.callback(made.close)
        return made

    def _iperf_figures(self, record: LoadRecord) -> Figures:
        figures: Figures = {}
        if record.tcp is not None:
            figures["tcp"] = figures["goodput"] = record.tcp.goodput_bps / 1e6
            figures["tcp_retransmits"] = float(record.tcp.retransmits)
        if record.udp is not None:
            bits = record.udp.packets * self._scenario.loads.udp_size * 8
            figures["udp"] = bits / record.udp.duration_s / 1e6
            figures.setdefault("goodput", figures["udp"])
            figures["udp_lost"] = record.udp.lost * 100 / max(1, record.udp.lost + record.udp.packets)
        return figures

    def _ping_figures(self, record: LoadRecord) -> Figures:
        since_ns = record.begin_ns + self._scenario.warm_up
        loaded = [ping.rtt_ms for ping in record.pings if ping.moment_ns >= since_ns]
        if not loaded:
            return {}
        figures = {"ping_median": statistics.median(loaded), "ping_p95": percentile(loaded, 95)}
        if self._idle_pings:
            figures["ping_idle_p95"] = percentile([ping.rtt_ms for ping in self._idle_pings], 95)
            figures["ping_added"] = figures["ping_p95"] - figures["ping_idle_p95"]
        if self._bare_ms:
            figures["ping_over_best"] = figures["ping_median"] - min(self._bare_ms)
        return figures


def stream_figures(record: Record, scenario: Scenario, begin_ns: int, best_delay_ns: int) -> Figures:
    """Return what the stream heard; gaps count from the first thing that happened on, if any did."""
    since_ns, until_ns = begin_ns + scenario.warm_up, begin_ns + scenario.total_ns
    whole = record.judge(since_ns, until_ns)
    figures: Figures = {
        "probes_sent": float(whole.sent),
        "probes_lost": float(whole.lost),
        "probes_lost_share": whole.lost * 100 / whole.sent,
        "delay_median": whole.delay_median_ns / MS,
        "delay_p95": whole.delay_p95_ns / MS,
        "delay_p99": whole.delay_p99_ns / MS,
        "delay_added_p99": (whole.delay_p99_ns - best_delay_ns) / MS,
        "queueing_p95": (whole.delay_p95_ns - best_delay_ns) / MS,
    }
    first_ns = begin_ns + next((at_ns for at_ns, _ in scenario.happenings()), 0)
    if since_ns < first_ns:
        quiet, after = record.judge(since_ns, first_ns), record.judge(first_ns, until_ns)
        figures["quiet_gap"] = quiet.longest_ns / MS
    else:
        after = whole
    figures["longest_gap"] = after.longest_ns / MS
    return figures


def _shape(wanted: LoadsPart) -> Shape:
    stream = wanted.stream
    return Shape(stream.interval, stream.size, stream.flows, stream.dscp)


def _median_ms(samples: list[PingSample]) -> float:
    if not samples:
        raise LabError("a link does not answer a ping outside the tunnel")
    return statistics.median(sample.rtt_ms for sample in samples)
