"""Attaching, replacing and detaching: under traffic, beside other makers' filters, across restarts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sdwan.edge.kernel import ensure_attached
from sdwan.errors import KernelError
from sdwan.io import attach, bpf, bpfsys, entry, hooks, netlink, sources
from sdwan.io.hooks import Direction
from sdwan.io.layout import layout_path
from sdwan.io.maps import Maps
from sdwan.lab.namespace import inside
from sdwan.model import DropReason
from tests.netns.kernel_world import (
    LINKS,
    PEER,
    Site,
    collect,
    datagram,
    lone_site,
    sequences,
    tool,
    two_sites,
)

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.netns]

Sites = tuple[Site, Site]


@pytest.fixture
def sites(unique_name: Callable[[str], str]) -> Iterator[Sites]:
    """Build both sites for one test, which may take them apart."""
    with two_sites(unique_name) as sites:
        yield sites


@pytest.fixture(scope="module")
def standing(unique_name: Callable[[str], str]) -> Iterator[Sites]:
    """Build both sites once, for tests that leave them as they are."""
    with two_sites(unique_name) as sites:
        yield sites


@pytest.fixture
def alone(unique_name: Callable[[str], str]) -> Iterator[Site]:
    """One namespace with two idle links and nothing attached."""
    with lone_site(unique_name) as site:
        yield site


def found_filters(site: Site, name: str) -> list[hooks.Filter]:
    with site.here():
        return hooks.filters(netlink.need_link(name).index)


# Replacing -----------------------------------------------------------------------------------------


def test_replacing_every_program_under_traffic_loses_nothing(sites):
    first, second = sites
    stop = threading.Event()
    sent = 0

    def send_until_stopped() -> None:
        nonlocal sent
        with first.sender() as sender:
            while not stop.wait(0.0005):
                sender.send(datagram(sent, size=600))
                sent += 1

    with second.receiver() as receiver:
        sender = threading.Thread(target=send_until_stopped)
        sender.start()
        try:
            first.attach()  # compiled anew
            second.attach()
            for site in (first, second) * 3:
                with site.here():
                    attach.attach(LINKS, site.pin_root, hook=attach.Hook.TC)
        finally:
            stop.set()
            sender.join()
        headers = collect(receiver, sent)
    assert sent > 200
    assert sorted(header.counter for header in headers) == list(range(sent))
    for path in (0, 1):
        numbers = sequences(headers, path)
        assert numbers == list(range(len(numbers)))
        assert int(second.maps.rx_state[PEER * 8 + path]["lost"]) == 0


def test_counters_and_sequences_outlive_every_process(standing):
    first, second = standing
    first.weigh(1)
    with first.sender() as sender, second.receiver() as receiver:
        for number in range(10):
            sender.send(datagram(number))
        (*_, last) = collect(receiver, 10)
        sent = int(first.maps.tx_stats()["datagrams"][PEER * 8])
        assert tool(first, "attach", *LINKS, "--hook", "tc", "--peers", "4").returncode == 0
        sender.send(datagram(10))
        assert [header.link_sequence for header in collect(receiver, 1)] == [last.link_sequence + 1]
    assert int(Maps.open(first.pin_root).tx_stats()["datagrams"][PEER * 8]) == sent + 1


def test_maps_of_another_size_are_refused_and_nothing_changes(standing):
    first, _ = standing
    result = tool(first, "attach", *LINKS, "--peers", "8")
    assert result.returncode == 1
    assert "--peers 4" in result.stderr
    assert "Traceback" not in result.stderr
    assert first.maps.peers_max == 4
    assert tool(first, "attach", *LINKS, "--peers", "4").returncode == 0


def outdated(site: Site) -> tuple[bool, set[str]]:
    """Tell whether what is pinned is of another version, and which links run what is not pinned."""
    with site.here():
        status = attach.status(site.pin_root)
    return status.outdated, {link.link for link in status.links if link.outdated}


def test_programs_of_other_sources_are_noticed_link_by_link(alone, monkeypatch):
    alone.attach()
    assert outdated(alone) == (False, set())
    monkeypatch.setattr(sources, "sha256", lambda: "f" * 64)
    assert outdated(alone) == (True, set())
    report = json.loads(tool(alone, "status", "--json").stdout)  # a process of the version that is pinned
    assert (report["outdated"], report["links"][0]["outdated"]) == (False, False)
    with alone.here():
        bpf.build(alone.pin_root, peers_max=4)
        attach.attach(LINKS[:1], alone.pin_root, hook=attach.Hook.TC)
    assert outdated(alone) == (False, {LINKS[1]})
    with alone.here():
        attach.attach(LINKS, alone.pin_root, hook=attach.Hook.TC)
    assert outdated(alone) == (False, set())
    monkeypatch.undo()
    assert "of another version" in tool(alone, "status").stdout


def test_a_starting_site_replaces_programs_of_another_version_and_says_so(alone, caplog):
    config = SimpleNamespace(
        links=[SimpleNamespace(interface=name) for name in LINKS],
        bpf=SimpleNamespace(pin_root=alone.pin_root, peers_max=4, hook="tc"),
    )
    alone.attach()
    layout = layout_path(alone.pin_root)
    description = json.loads(layout.read_text())
    layout.write_text(json.dumps({**description, "source_sha256": "0" * 64}))
    with alone.here(), caplog.at_level("INFO", logger="sdwan"):
        assert sorted(ensure_attached(config)) == sorted(LINKS)
        assert ensure_attached(config) == []
    assert [record.getMessage() for record in caplog.records] == ["programs_outdated"]
    assert json.loads(layout.read_text()) == description


# Detaching -----------------------------------------------------------------------------------------


def test_detach_takes_only_what_is_ours(alone):
    alone.attach()
    with alone.here(), bpfsys.opened(alone.pin_root / "progs/sdwan_count") as program:
        index = netlink.need_link(LINKS[0]).index
        netlink.call(
            "adding a stranger's filter",
            lambda route: route.tc(
                "add-filter", "bpf", index, handle=7, prio=3, protocol=3, fd=program, name="stranger",
                parent=Direction.EGRESS.value, classid=1, direct_action=True,
            ),
        )  # fmt: skip
    with alone.here():
        assert sorted(attach.detach(pin_root=alone.pin_root)) == sorted([*LINKS, entry.DEFAULT_NAME])
    assert [found.name for found in found_filters(alone, LINKS[0])] == ["stranger"]
    assert "clsact" in alone.namespace.run(["tc", "qdisc", "show", "dev", LINKS[0]])
    assert "clsact" not in alone.namespace.run(["tc", "qdisc", "show", "dev", LINKS[1]])
    assert not alone.pin_root.exists()
    assert not layout_path(alone.pin_root).exists()
    with alone.here():
        assert netlink.find_link(entry.DEFAULT_NAME) is None


def test_a_strangers_filter_in_our_place_is_not_replaced(alone):
    bpf.build(alone.pin_root, peers_max=4)
    with alone.here(), bpfsys.opened(alone.pin_root / "progs/sdwan_count") as program:
        index = netlink.need_link(LINKS[0]).index

        def add(route: object) -> None:
            route.tc("add", "clsact", index)  # type: ignore[attr-defined]
            route.tc(  # type: ignore[attr-defined]
                "add-filter", "bpf", index, handle=hooks.HANDLE, prio=hooks.PRIORITY, protocol=3, fd=program,
                name="stranger", parent=Direction.EGRESS.value, classid=1, direct_action=True,
            )  # fmt: skip

        netlink.call("adding a stranger's filter", add)
        with pytest.raises(KernelError, match="stranger"):
            attach.attach(LINKS, alone.pin_root)
    assert [found.name for found in found_filters(alone, LINKS[0])] == ["stranger"]


def test_one_link_can_be_detached_alone(sites):
    first, second = sites
    assert tool(first, "detach", LINKS[0]).returncode == 0
    assert found_filters(first, LINKS[0]) == []
    assert len(found_filters(first, LINKS[1])) == 2
    with first.sender() as sender, second.receiver() as receiver:
        for number in range(10):
            sender.send(datagram(number))
        assert len(collect(receiver, 10)) == 10


def test_detaching_twice_is_no_error(alone):
    for _ in range(2):
        result = tool(alone, "detach")
        assert (result.returncode, result.stderr) == (0, "")


# Alone, with no tunnel -----------------------------------------------------------------------------


def test_attached_alone_it_counts_and_touches_nothing(standing):
    """No port, no mark: traffic of any kind passes, also to what would be our port."""
    first, second = standing
    second.maps.set_port(0)
    second.maps.config["mark"] = 0
    dropped = second.maps.drops()
    with first.sender() as sender, second.receiver() as receiver:
        sender.send(datagram(1))
        assert len(collect(receiver, 1)) == 1
    report = json.loads(tool(second, "status", "--json").stdout)
    assert (report["port"], report["steering"]) == (0, False)
    assert second.maps.drops() == dropped
    links = {link["link"]: link for link in report["links"]}
    assert all(links[name]["stats"]["rx_packets"] > 0 for name in LINKS)
    assert "no tunnel is configured" in tool(second, "status").stdout
    second.configure(first)


def test_what_nobody_marked_never_leaves_the_entry(standing):
    first, second = standing
    before = first.maps.drops()[DropReason.UNMARKED]
    with first.sender() as sender, second.receiver() as receiver:
        sender.setsockopt(1, 36, 0)  # SOL_SOCKET, SO_MARK
        sender.send(datagram(1))
        sender.setsockopt(1, 36, 0x5D)
        sender.send(datagram(2))
        assert [header.counter for header in collect(receiver, 1)] == [2]
    assert first.maps.drops()[DropReason.UNMARKED] > before


# Refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("description", "arguments", "sentence"),
    [
        ("no such interface", ["attach", "wan0", "nowhere0"], "there is no interface nowhere0 here"),
        ("loopback", ["attach", "lo"], "lo is no WAN link"),
        ("named twice", ["attach", "wan0", "wan0"], "named twice"),
        ("counters of nothing", ["counters"], "is not attached: run 'sdwan-bpf attach'"),
        ("weights of nothing", ["weights", "set", "1", "1"], "is not attached: run 'sdwan-bpf attach'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refusal_is_one_sentence_and_changes_nothing(alone, description, arguments, sentence):
    result = tool(alone, *arguments)
    assert result.returncode == 1, description
    assert sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not alone.pin_root.exists()
    assert found_filters(alone, LINKS[0]) == []


def test_a_place_that_is_no_bpffs_is_refused(alone, tmp_path):
    alone.pin_root = tmp_path / "v1"
    result = tool(alone, "attach", LINKS[0])
    assert result.returncode == 1
    assert "is no bpffs: mount -t bpf" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_root_it_says_so():
    code = (
        "import os, pathlib; from sdwan.io import bpf; os.setresuid(65534, 65534, 65534);"
        "bpf.check_system(pathlib.Path('/sys/fs/bpf/x'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "UnsupportedError: loading BPF programs needs root" in done.stderr


def test_a_damaged_layout_file_is_told_and_repaired_by_attaching(alone):
    alone.attach()
    layout_path(alone.pin_root).write_text("{")
    with pytest.raises(KernelError, match="damaged"):
        Maps.open(alone.pin_root)
    alone.attach()
    Maps.open(alone.pin_root).close()


def test_layout_files_of_pins_that_were_removed_by_hand_are_cleared_away(alone):
    alone.attach()
    elsewhere = alone.pin_root.parent / "v2"
    bpf.build(elsewhere, peers_max=4)
    shutil.rmtree(elsewhere)
    alone.attach()
    assert not layout_path(elsewhere).exists()
    assert layout_path(alone.pin_root).exists()


def test_a_map_of_another_layout_is_refused_by_name(alone):
    """As an older version would have left it: BCC itself would adopt it unseen."""
    alone.attach()
    maps = alone.pin_root / "maps"
    (maps / "stride").unlink()
    with bpfsys.opened(maps / "drops") as descriptor:
        bpfsys.obj_pin(descriptor, maps / "stride")
    with pytest.raises(KernelError, match=r"another version \(map stride: 8 bytes .* detach"):
        alone.attach()


# What bpftool shows --------------------------------------------------------------------------------


NAMED_FIELDS = {
    "cfg": {"schema", "bank", "mark", "port"},
    "paths": {"ifindex", "flags", "mtu", "remote4"},
    "weights": {"mode", "inverse", "bound_us"},
    "busy": {"until_ns", "idle_ns"},
    "tx_state": {"next_sequence"},
    "tx_stats": {"datagrams", "bytes"},
    "rx_state": {"lost", "late", "jitter_us16"},
    "link_stats": {"tx_bytes", "rx_tunnel_bytes"},
}


@pytest.mark.parametrize("name", NAMED_FIELDS)
def test_bpftool_shows_every_map_with_named_fields(standing, name):
    if shutil.which("bpftool") is None:
        pytest.fail("bpftool is missing: apt-get install bpftool")
    first, _ = standing
    dump = ["bpftool", "--json", "map", "dump", "pinned", str(first.pin_root / "maps" / name)]
    rows = json.loads(subprocess.run(dump, capture_output=True, check=True).stdout)
    row = rows[0]["formatted"]
    value = row["value"] if "value" in row else row["values"][0]["value"]
    assert NAMED_FIELDS[name] <= set(value)


def test_two_sites_on_one_machine_do_not_mix(standing):
    first, second = standing
    assert first.pin_root != second.pin_root
    assert layout_path(first.pin_root) != layout_path(second.pin_root)
    first.maps.tx_state[1]["next_sequence"] = 7
    assert int(second.maps.tx_state[1]["next_sequence"]) != 7
    with inside(first.namespace.path):
        assert attach.status(first.pin_root).pinned
    assert Path(layout_path(first.pin_root)).stat().st_mode & 0o777 == 0o644
