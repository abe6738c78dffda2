"""Forward error correction, with the product on a real kernel: learnt from reports, told by the board.

edge (10.77.1.1) ══ wan0, wan1: emulated, 20 Mbit/s, 10 % loss ══ (10.77.2.1) hub
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from sdwan.lab.impairment import Impairment
from sdwan.lab.link import LinkSpec
from tests.netns.edge_world import World, wait_until, world

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.netns]

MS = 1_000_000
MBIT = 1_000_000
HUB = "10.77.2.1"
LOSS_PPM = 100_000
AF41 = 34 << 2
PORT = 7000
SENDER = """
import socket, sys, time
address, port, tos, count, pause = sys.argv[1], *map(int, sys.argv[2:5]), float(sys.argv[5])
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
    for number in range(count):
        sock.sendto(number.to_bytes(4, "big") * 300, (address, port))
        time.sleep(pause)
"""


@pytest.fixture(scope="module")
def pair() -> Iterator[World]:
    links = [
        LinkSpec.even("emulated", Impairment(rate_bps=20 * MBIT, delay_ns=delay_ns, loss_ppm=LOSS_PPM))
        for delay_ns in (5 * MS, 10 * MS)
    ]
    with world(*links) as made:
        made.start()
        yield made


def send_video(pair: World, count: int) -> None:
    """Send datagrams that the ready rules take for video, 500 a second."""
    edge = pair.lab.namespace("edge").name
    command = ["nsenter", f"--net=/run/netns/{edge}", "python3", "-c", SENDER, HUB]
    subprocess.run([*command, *map(str, (PORT, AF41, count, 0.002))], check=True, timeout=30)


def counted(pair: World, site: str, name: str) -> int:
    return int(pair[site].status()["peers"][0][name])


def missing(pair: World) -> int:
    """Return how many packets went in at the edge and did not come out at the hub."""
    return counted(pair, "edge", "sent_packets") - counted(pair, "hub", "received_packets")


def test_loss_is_learnt_and_most_of_it_mended_without_a_round_trip(pair: World) -> None:
    send_video(pair, 1000)
    wait_until(lambda: counted(pair, "edge", "repairs_sent") > 0, "the first repairs")
    before = {name: counted(pair, "edge", name) for name in ("sent_packets", "repairs_sent", "resent")}
    recovered, lost = counted(pair, "hub", "recovered"), missing(pair)
    send_video(pair, 2000)
    sent, repairs, resent = (counted(pair, "edge", name) - before[name] for name in before)
    recovered = counted(pair, "hub", "recovered") - recovered
    assert recovered > 80, "of 200 or so that were lost"
    assert recovered > 2 * resent, "the asking waits for what repairs bring"
    assert repairs <= 0.5 * sent + 16, "never more than half of the rows"
    wait_until(lambda: missing(pair) - lost <= 10, "all but five in a thousand")
