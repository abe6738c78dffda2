"""Small rooms of edge control that need no kernel: lock, load, reload, ICMP, metrics over HTTP."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdwan.config.schema import SiteConfig
from sdwan.edge.load import BURST, HOLD_NS, PER_SECOND, Load
from sdwan.edge.lock import SiteLock
from sdwan.edge.reload import applicable
from sdwan.edge.statusd import REQUEST_BYTES_MAX, MetricsServer, StatusServer
from sdwan.errors import AlreadyRunningError, KernelError
from sdwan.io.icmp import Pinger, _checksum
from sdwan.metrics import Snapshot

SECOND = 10**9
KEY = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE="


# Lock -------------------------------------------------------------------------------------------------


def test_a_site_has_one_daemon(tmp_path: Path) -> None:
    lock = SiteLock(tmp_path / "run" / "berlin.lock")
    with pytest.raises(AlreadyRunningError, match="berlin is running already"):
        SiteLock(tmp_path / "run" / "berlin.lock")
    lock.release()
    SiteLock(tmp_path / "run" / "berlin.lock").release()


def test_a_lock_file_is_no_way_to_write_elsewhere(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    (tmp_path / "berlin.lock").symlink_to(precious)
    with pytest.raises(KernelError):
        SiteLock(tmp_path / "berlin.lock")
    assert precious.read_text() == "keep me"


# Load -------------------------------------------------------------------------------------------------


def test_a_burst_of_handshakes_is_no_load_but_a_flood_is() -> None:
    load = Load()
    assert not any(load.on_arrival(SECOND) for _ in range(BURST))
    assert load.on_arrival(SECOND)


def test_load_is_over_when_the_flood_is() -> None:
    load = Load()
    for _ in range(BURST + 1):
        load.on_arrival(SECOND)
    assert load.on_arrival(SECOND + HOLD_NS // 2)
    assert not load.on_arrival(SECOND + 3 * HOLD_NS)


def test_the_pace_it_is_made_for_is_no_load() -> None:
    load = Load()
    pause_ns = SECOND // PER_SECOND + 1
    assert not any(load.on_arrival(n * pause_ns) for n in range(10 * PER_SECOND))


# Reload -----------------------------------------------------------------------------------------------


def site(**changes: Any) -> SiteConfig:
    document: dict[str, Any] = {
        "site": "berlin", "private_key": "site.key", "tun": {"addresses": ["10.77.1.1/24"]},
        "links": [{"name": "dsl", "interface": "eth0"}, {"name": "lte", "interface": "wwan0"}],
        "peers": [{"name": "hub", "public_key": KEY, "prefixes": ["10.77.2.0/24"]}],
    }  # fmt: skip
    return SiteConfig.model_validate(document | changes)


def test_what_is_live_is_taken_over_and_what_is_not_stays() -> None:
    new = site(
        port=9999,
        links=[
            {"name": "lte", "interface": "wwan9", "weight": 0.5},
            {"name": "third", "interface": "eth9"},
        ],
        peers=[],
        control={"report_interval": "50ms"},
    )
    config = applicable(site(), new)
    assert config.port == 4510
    assert [(link.name, link.interface, link.weight) for link in config.links] == [
        ("dsl", "eth0", 1.0),
        ("lte", "wwan0", 0.5),
    ]
    assert config.peers == ()
    assert config.control.report_interval_ns == 50_000_000


def test_nothing_changed_is_nothing_changed() -> None:
    assert applicable(site(), site()) == site()


def test_a_peer_that_comes_is_taken_whole() -> None:
    peers = [{"name": "other", "public_key": KEY, "prefixes": ["10.9.0.0/16"]}]
    assert [peer.name for peer in applicable(site(), site(peers=peers)).peers] == ["other"]


# ICMP -------------------------------------------------------------------------------------------------


def test_an_icmp_checksum_makes_the_whole_sum_zero() -> None:
    packet = struct.pack("!BBHHHQ", 8, 0, 0, 0x1234, 7, 0x1122334455667788)
    summed = packet[:2] + struct.pack("!H", _checksum(packet)) + packet[4:]
    assert _checksum(summed) == 0


@pytest.mark.root
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_loopback_answers_a_ping(address: str) -> None:
    pinger = Pinger(address, "lo")
    assert pinger.send(7, now_ns=1000)
    for _ in range(1000):
        echoes = pinger.read(now_ns=5000)
        if echoes:
            break
    pinger.close()
    assert [(echo.number, echo.rtt_ns) for echo in echoes] == [(7, 4000)]


@pytest.mark.root
def test_an_interface_that_is_not_there_is_said_so() -> None:
    with pytest.raises(KernelError, match="nowhere0"):
        Pinger("127.0.0.1", "nowhere0")


# Whom the edge answers ----------------------------------------------------------------------------------


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer


def ask_metrics(request: bytes) -> bytes:
    async def talk() -> bytes:
        server = MetricsServer(("127.0.0.1", 0), lambda: Snapshot(site="berlin"))
        await server.start()
        assert server._server is not None
        port = server._server.sockets[0].getsockname()[1]
        try:
            return await _ask(*await asyncio.open_connection("127.0.0.1", port), request)
        finally:
            await server.close()

    return asyncio.run(talk())


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"200 OK"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405 Method Not Allowed"),
        (b"\xff\x00nonsense\r\n\r\n", b"405 Method Not Allowed"),
        (b"x" * (REQUEST_BYTES_MAX * 4), b"400 Bad Request"),
    ],
)
def test_the_metrics_server_answers_what_it_is_there_for(request_: bytes, status: bytes) -> None:
    answer = ask_metrics(request_)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert (b"sdwan_" in answer) == (status == b"200 OK")


def test_the_status_socket_says_one_json_object_and_hangs_up(tmp_path: Path) -> None:
    async def talk(path: Path, take: Callable[[], Snapshot]) -> dict[str, Any]:
        server = StatusServer(path, take)
        await server.start()
        try:
            answer = json.loads(await _ask(*await asyncio.open_unix_connection(path), b""))
            assert path.stat().st_mode & 0o777 == 0o600
            return dict(answer)
        finally:
            await server.close()

    path = tmp_path / "berlin.sock"
    assert asyncio.run(talk(path, lambda: Snapshot(site="berlin")))["site"] == "berlin"
    assert not path.exists()


def test_a_file_in_the_way_of_the_status_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "berlin.sock"
    path.write_text("precious")
    with pytest.raises(KernelError, match="is no socket"):
        asyncio.run(StatusServer(path, lambda: Snapshot(site="berlin")).start())
    assert path.read_text() == "precious"
