"""The demo: two sites, two unlike links, a real file, and a cable cut on the way.

    edge ── 120 Mbit/s, 10 ms ─────────────── hub
         └─  60 Mbit/s, 15 ms, a little loss ─┘

What is shown is the product driven by its own commands, real packets through the real kernel: each link alone
(plain TCP, no tunnel), the bond (iperf3), then a file copied through it while one link goes dark and comes
back. Loads are ordinary programs; gaps are heard by a 5 ms probe stream; shares are read from the pinned BPF
maps. Ends in about a minute and leaves nothing but build/demo.json.

Called by ``sdwan lab demo`` (`make demo`). How it looks is sdwan.lab.demo_view.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdwan.errors import LabError
from sdwan.lab.copy import PORT as COPY_PORT
from sdwan.lab.copy import Copy, CopyResult, make_file
from sdwan.lab.demo_view import DemoResult, DemoView
from sdwan.lab.impairment import Impairment
from sdwan.lab.link import LinkSpec
from sdwan.lab.runner import sent_bytes, shares_ppm
from sdwan.lab.site import Overlay, overlay
from sdwan.lab.stream import Gap, probe_stream
from sdwan.lab.topology import Lab, Plan, build
from sdwan.lab.traffic import Iperf, IperfResult

# Implementation constants --------------------------------------------------------------------------

NAME = "demo"
MS = 1_000_000
FAST = Impairment(rate_bps=120_000_000, delay_ns=10 * MS)
SLOW = Impairment(rate_bps=60_000_000, delay_ns=15 * MS, loss_ppm=20)
"""A little loss: nothing repairs lost datagrams yet, and at 20 ppm CUBIC can still fill the bond."""
ALONE_S = 4.0
BOND_S = 8.0
BOND_STREAMS = 4
"""As a browser has several: one CUBIC stream may need ten seconds to grow into links of unlike delay, because
the first packet that comes over the slower one ends its slow start (HyStart)."""
CUT_LINK = 0
CUT_AFTER = 0.3
"""The link is cut when this part of the file has arrived ..."""
CUT_S = 4.0
"""... for so long."""
SETTLE_S = 1.0
LOOK_S = 0.25
"""Between two looks at what is going on."""


def run_demo(output: Path, file_bytes: int) -> bool:
    """Play the demo and write its result; return whether the file arrived intact.

    Raises:
        LabError: it could not be played.
    """
    began = time.monotonic()
    result = DemoResult(file_bytes=file_bytes)
    plan = Plan.pair(*(LinkSpec.even("emulated", wire) for wire in (FAST, SLOW)))
    with DemoView((FAST, SLOW)) as view:
        view.phase("building two sites and two links")
        with build(NAME, plan) as lab:
            _measure_links(lab, result, view)
            view.phase("starting the tunnel: keys, BPF programs, handshake")
            with overlay(lab) as running:
                time.sleep(SETTLE_S)
                _measure_bond(lab, running, result, view)
                _copy_with_cut(lab, running, result, view)
                view.maps(running.edges["hub"].plan.pin_root)
        result.duration_s = time.monotonic() - began
        view.report(result)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(_rounded(asdict(result)), indent=2) + "\n")
    view.written(output)
    return result.checksum_ok


def _measure_links(lab: Lab, result: DemoResult, view: DemoView) -> None:
    """Plain TCP over each link, no tunnel: what one has without it."""
    edge, hub = lab.namespace("edge"), lab.namespace("hub")
    for number, port in enumerate(lab.ports("edge")):
        view.phase(f"link {number} alone, without the tunnel: iperf3, {ALONE_S:g} s")
        load = Iperf(edge, hub, port.far_address, duration_s=ALONE_S, skip_s=1)
        result.single_link_mbps.append(load.wait().goodput_bps / 1e6)
    result.sum_of_links_mbps = sum(result.single_link_mbps)


def _measure_bond(lab: Lab, running: Overlay, result: DemoResult, view: DemoView) -> None:
    """TCP through the tunnel."""
    view.phase(f"both links bonded: iperf3, {BOND_STREAMS} streams, {BOND_S:g} s")
    before = sent_bytes(running, "edge")
    edge, hub = lab.namespace("edge"), lab.namespace("hub")
    address = running.edges["hub"].address
    load = Iperf(edge, hub, address, duration_s=BOND_S, streams=BOND_STREAMS, skip_s=2)
    try:
        _watch(running, view, lambda: load.running)
        measured: IperfResult = load.wait()
    finally:
        load.close()
    result.bonded_mbps = measured.goodput_bps / 1e6
    result.efficiency = result.bonded_mbps / result.sum_of_links_mbps
    shares = shares_ppm(before, sent_bytes(running, "edge"), len(lab.links))
    result.shares = [share / 1e6 for share in shares]


def _copy_with_cut(lab: Lab, running: Overlay, result: DemoResult, view: DemoView) -> None:
    """Copy a file; cut a link in the middle, restore it, and listen to a 5 ms stream all the while."""
    original, arrived = lab.home.directory / "file", lab.home.directory / "file.arrived"
    make_file(original, result.file_bytes)
    edge, hub = lab.namespace("edge"), lab.namespace("hub")
    address = running.edges["hub"].address
    view.phase(f"copying a file of {result.file_bytes // 1_000_000} MB through the bond")
    with probe_stream(edge, hub, address) as stream:
        begin_ns = time.monotonic_ns()
        copy = Copy(edge, hub, address, original, arrived, COPY_PORT)
        try:
            cut_ns, restored_ns = _cut_while(copy, arrived, lab, running, result, view)
            _watch(running, view, lambda: copy.running, lambda: _arrived(arrived, result))
            copied: CopyResult = copy.wait()
        finally:
            copy.close()
        record = stream.stop()
    before: Gap = record.judge(begin_ns, cut_ns)
    during: Gap = record.judge(cut_ns, restored_ns)
    result.steady_gap_ms = before.longest_ns / 1e6
    result.failover_gap_ms, result.packets_lost = during.longest_ns / 1e6, during.lost
    result.checksum_ok, result.file_mbps = copied.intact, copied.goodput_bps / 1e6


def _cut_while(
    copy: Copy, arrived: Path, lab: Lab, running: Overlay, result: DemoResult, view: DemoView
) -> tuple[int, int]:
    """Cut the link at its moment and restore it; return when."""

    def share() -> float:
        return _arrived(arrived, result)

    _watch(running, view, lambda: copy.running and share() < CUT_AFTER, share)
    if not copy.running:
        raise LabError("the file was through before the link could be cut; choose a larger --size")
    view.phase(f"link {CUT_LINK} is cut: every frame on it disappears, its interface stays up")
    lab.links[CUT_LINK].cut()
    cut_ns = time.monotonic_ns()
    until = time.monotonic() + CUT_S
    _watch(running, view, lambda: time.monotonic() < until, share)
    lab.links[CUT_LINK].restore()
    view.phase(f"link {CUT_LINK} works again")
    return cut_ns, time.monotonic_ns()


def _watch(
    running: Overlay, view: DemoView, going_on: Callable[[], bool], share: Callable[[], float] | None = None
) -> None:
    """Show the state of the paths until something ends."""
    while going_on():
        status = running.edges["edge"].status()
        view.show(status.get("paths", []), share() if share else None)
        time.sleep(LOOK_S)


def _arrived(file: Path, result: DemoResult) -> float:
    return file.stat().st_size / result.file_bytes if file.exists() else 0.0


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [short(item) for item in value]
        return round(value, 3) if isinstance(value, float) else value

    return {key: short(value) for key, value in values.items()}
