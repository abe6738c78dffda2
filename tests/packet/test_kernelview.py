"""What the data plane sees of the kernel: everything it needs, to read only, with no privilege left."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sdwan.core.wire import Type
from sdwan.errors import KernelError
from sdwan.io.kernelview import KernelView
from sdwan.io.layout import describe_dtype, dtype_of
from sdwan.io.maps import Weights
from sdwan.model import SteerMode
from tests.packet.runner import PEER, Kernel, datagram

pytestmark = [pytest.mark.root, pytest.mark.bpf]

ROOT = Path(__file__).parents[2]
ROW = PEER * 8

CHILD = """
import ctypes, json, mmap, os, sys
from sdwan.io.kernelview import KernelView
text, descriptors, peer = sys.argv[1], [int(word) for word in sys.argv[2].split(",")], int(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)
os.setgroups([]); os.setresgid(64510, 64510, 64510); os.setresuid(64510, 64510, 64510)
libc.prctl(38, 1, 0, 0, 0)

def link_of(number):
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""

def made_writable(array):
    return libc.mprotect(ctypes.c_void_p(array.ctypes.data), mmap.PAGESIZE, 3) == 0

view = KernelView.open(text, descriptors)
arrays = [view.cfg, view.busy, view.weights, view.paths]
print(json.dumps({
    "uid": os.getuid(),
    "loaded": sorted({"pyroute2", "bcc", "sdwan.io.bpfsys", "sdwan.io.maps"} & set(sys.modules)),
    "port": int(view.cfg[0]["port"]),
    "until_ns": int(view.busy[peer * 8]["until_ns"]),
    "bound_us": view.weights_of(peer, 2)["bound_us"].tolist(),
    "remote_port": int(view.paths[peer * 8]["remote_port"]),
    "found": view.ring.find(peer, [5, 6]),
    "writable": any(array.flags.writeable or made_writable(array) for array in arrays),
    "left_open": [link for link in map(link_of, os.listdir("/proc/self/fd")) if "bpf" in link],
}))
"""


@pytest.fixture
def used(kernel: Kernel) -> Kernel:
    """Path 0 with a rate and a bound for class 2, and one datagram sent on it."""
    kernel.add_path(0)
    weights = Weights(SteerMode.EARLIEST, (1,), ns_per_kib=(1_000_000,), bound_us=(4000,))
    kernel.maps.write_weights({(PEER, 2): weights})
    kernel.steer(datagram(flags=2, counter=5))
    return kernel


@pytest.fixture
def handed(used: Kernel) -> Iterator[tuple[list[int], str]]:
    """What control hands to the data plane: copies, as a child gets them."""
    descriptors, text = KernelView.describe(used.maps)
    copies = [os.dup(descriptor) for descriptor in descriptors]
    yield copies, text
    for descriptor in copies:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def test_a_process_without_privilege_reads_and_cannot_write(used, handed):
    descriptors, text = handed
    words = [sys.executable, "-c", CHILD, text, ",".join(map(str, descriptors)), str(PEER)]
    child = subprocess.run(
        words, pass_fds=descriptors, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert child.returncode == 0, child.stderr
    seen = json.loads(child.stdout)
    sent = used.maps.ring.find(PEER, [5])[5]
    assert seen == {
        "uid": 64510,
        "loaded": [],
        "port": int(used.maps.config["port"]),
        "until_ns": int(used.maps.busy[ROW]["until_ns"]),
        "bound_us": [4000] + [0] * 7,
        "remote_port": int(used.maps.live["paths"][ROW]["remote_port"]),
        "found": {"5": list(sent)},
        "writable": False,
        "left_open": [],
    }


def test_the_views_are_live(used, handed):
    descriptors, text = handed
    view = KernelView.open(text, descriptors)
    used.maps.write_weights({(PEER, 2): Weights(SteerMode.PIN, (1,))})
    assert view.weights_of(PEER, 2)["mode"] == SteerMode.PIN
    before = int(view.busy[ROW]["until_ns"])
    used.maps.busy[ROW]["until_ns"] = before + 7
    assert view.busy[ROW]["until_ns"] == before + 7
    used.steer(datagram(flags=2, counter=6))
    assert view.ring.read_new()["first_counter"].tolist() == [6]


def test_the_ring_finds_what_was_sent_in_bursts_resent_and_pinned(used):
    """The kernel's records, as they are, agree with the headers that left."""
    used.add_path(1)
    used.maps.write_weights({(PEER, 0): Weights(shares=(1,)), (PEER, 1): Weights(shares=(0, 1))})
    before_ns = time.monotonic_ns()
    burst = b"".join(datagram(counter=100 + i) for i in range(3))
    used.steer(burst, segment_bytes=84)
    control = used.steer(datagram(Type.CONTROL, flags=1, counter=101))
    again = used.steer(datagram(flags=1, counter=101))
    found = used.maps.ring.find(PEER, [100, 101, 102, 103])
    assert {counter: took[:2] for counter, took in found.items()} == {
        100: (0, 1), 101: (1, again.header.link_sequence), 102: (0, 3),
    }  # fmt: skip
    assert control.header.path == 1
    assert all(before_ns < took[2] < time.monotonic_ns() for took in found.values())
    assert used.maps.ring.sent_on(PEER, 0, 1) == [(101, 2, 2)]
    assert used.maps.ring.sent_on(PEER, 1, 0) == [(101, 1, 1)]


@pytest.mark.parametrize("text", ["", "[]", "{}", '[{"map": "cfg"}]', "[1, 2, 3, 4, 5, 6]"])
def test_a_damaged_description_is_refused(handed, text):
    with pytest.raises(KernelError, match="cannot be seen"):
        KernelView.open(text, handed[0])


def test_a_descriptor_that_is_no_map_is_refused(handed):
    descriptors, text = handed
    reader, writer = os.pipe()
    with pytest.raises(KernelError, match="cannot be seen"):
        KernelView.open(text, [*descriptors[:-1], reader])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reader)  # closed all the same
    os.close(writer)


def test_every_live_map_survives_its_description(kernel):
    """Offsets, arrays and records within records, as BCC saw them in C."""
    for name, view in kernel.maps.live.items():
        assert dtype_of(json.loads(json.dumps(describe_dtype(view.dtype)))) == view.dtype, name
    assert dtype_of(describe_dtype(np.dtype("u8"))) == np.dtype("u8")
