"""What the figures must reach, and whether they do: an honest miss is worth more than a moved goalpost.

Pure. In come the medians of one run; out comes one verdict per target that was measured in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Specification constants: what the project promises ------------------------------------------------

TCP_OVER_OPENVPN = 4.5
TCP_OVER_WIREGUARD_GO = 6.0
UDP_OVER_OPENVPN = 1.5
BOND_OF_CEILING = 0.95
PING_ADDED_MS = 0.4
GAP_MS = 150.0
DATA_PLANE_MIB = 150.0
STEER_NS = 450.0
MANY_PEERS_COST = 0.05


@dataclass(frozen=True)
class Verdict:
    """One target: what was wanted, what was measured, and whether that suffices."""

    name: str
    wanted: str
    measured: float
    unit: str
    met: bool


def judge(results: dict[str, Any]) -> list[Verdict]:
    """Judge every target whose figures are in ``results`` (the layout of build/benchmark.json)."""
    verdicts: list[Verdict] = []

    def at_least(name: str, measured: float, limit: float, unit: str) -> None:
        verdicts.append(Verdict(name, f"≥ {limit:g}", measured, unit, measured >= limit))

    def at_most(name: str, measured: float, limit: float, unit: str) -> None:
        verdicts.append(Verdict(name, f"≤ {limit:g}", measured, unit, measured <= limit))

    if "unshaped" in results:
        ours, bare = results["unshaped"]["ours"], results["unshaped"]["bare"]
        openvpn, wireguard = results["unshaped"]["openvpn"], results["unshaped"]["wireguard-go"]
        tcp_bps = ours["tcp1_bps"]
        at_least("one TCP stream, of OpenVPN", tcp_bps / openvpn["tcp1_bps"], TCP_OVER_OPENVPN, "x")
        at_least(
            "one TCP stream, of wireguard-go", tcp_bps / wireguard["tcp1_bps"], TCP_OVER_WIREGUARD_GO, "x"
        )
        at_least("200-byte UDP, of OpenVPN", ours["udp_pps"] / openvpn["udp_pps"], UDP_OVER_OPENVPN, "x")
        at_most("ping, added by the tunnel", ours["ping_ms"] - bare["ping_ms"], PING_ADDED_MS, "ms")
        at_most("data plane, resident", ours["resident_bytes"] / 2**20, DATA_PLANE_MIB, "MiB")
    for bond in results.get("bonded", []):
        at_least(f"bond of {bond['name']} Mbit/s, of its ceiling", bond["of_ceiling"], BOND_OF_CEILING, "")
    if "gap" in results:
        at_most("longest gap when a link is blackholed", results["gap"]["gap_ms"], GAP_MS, "ms")
    if "many_peers" in results:
        for load in ("tcp1", "udp"):
            at_most(f"cost of 100 peers, {load}", results["many_peers"][f"{load}_cost"], MANY_PEERS_COST, "")
    if "programs" in results and "steer, plain" in results["programs"]:
        at_most("BPF egress, plain packet", results["programs"]["steer, plain"], STEER_NS, "ns")
    return verdicts
