"""The sandbox: a process that entered it keeps its loop and loses everything else.

Each test runs a child that enters the sandbox and then tries something; the child's answer comes back over a
pipe it had before. As root this also proves that the uid is gone for good.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdwan.edge.sandbox import UID

pytest.importorskip("seccomp", reason="the filter is made by python3-seccomp of the distribution")

CHILD = """
import array, ctypes, json, mmap, os, select, signal, socket, subprocess, sys, threading, time
from sdwan.edge import sandbox
sys.stdout.flush()
udp_a, udp_b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
for sock in (udp_a, udp_b):
    sock.bind(("127.0.0.1", 0))
left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
poll = select.epoll()
libc = ctypes.CDLL(None, use_errno=True)

def number(call):
    result = call()
    if isinstance(result, int) and result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result

def attempt(call):
    try:
        call()
    except BaseException as error:
        return f"{type(error).__name__} {getattr(error, 'errno', '')}".strip()
    return "worked"

done = sandbox.enter()
answer = attempt(lambda: __CALL__)
os.write(1, json.dumps([done, answer]).encode())
os._exit(0)
"""


def try_in_sandbox(call: str) -> tuple[str, str]:
    """Run one expression in the sandbox; return what entering it said, and how the attempt ended."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD.replace("__CALL__", call)],
        capture_output=True, text=True, timeout=30, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    done, answer = json.loads(child.stdout)
    return done, answer


REFUSED = {
    "open a file": "open('/etc/passwd')",
    "open /dev/null": "os.open('/dev/null', os.O_RDONLY)",
    "make a file": "os.open('/tmp/x', os.O_CREAT | os.O_WRONLY)",
    "make a UDP socket": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "make a TCP socket": "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "make a netlink socket": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "connect a socket it has": "udp_a.connect(udp_b.getsockname())",
    "bind a socket it has": "udp_a.bind(('127.0.0.1', 0))",
    "set a mark": "udp_a.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1)",
    "fork": "os.fork()",
    "run a program": "subprocess.run(['/bin/true'])",
    "become another program": "os.execv('/bin/true', ['/bin/true'])",
    "start a thread": "threading.Thread(target=print).start()",
    "kill its parent": "os.kill(os.getppid(), 0)",
    "trace": "number(lambda: libc.ptrace(0, 0, 0, 0))",
    "load a BPF program": "number(lambda: libc.syscall(321, 0, 0, 0))",
    "enter a namespace": "number(lambda: libc.setns(0, 0))",
    "mount": "number(lambda: libc.mount(b'x', b'/tmp', b'tmpfs', 0, None))",
    "become root": "os.setuid(0)",
    "become root by all three ids": "os.setresuid(0, 0, 0)",
    "change its file system root": "os.chroot('/')",
    "send a terminal its input": "number(lambda: libc.ioctl(0, 0x5412, b'x'))",
    "change an interface": "number(lambda: libc.ioctl(udp_a.fileno(), 0x8914, bytes(40)))",
    "change its limits": "__import__('resource').setrlimit(7, (5, 5))",
}  # fmt: skip

ALLOWED = {
    "send and receive datagrams": "(udp_a.sendto(b'x', udp_b.getsockname()), udp_b.recvmsg(10, 100))",
    "write in parts": "os.writev(left.fileno(), [b'a', b'b'])",
    "read what was written": "(left.send(b'x'), os.readv(right.fileno(), [bytearray(9)]))",
    "receive descriptors": "(socket.send_fds(left, [b'x'], [0]), socket.recv_fds(right, 9, 4)[1][0])",
    "adopt a socket it was handed": "socket.socket(fileno=udp_a.detach()).setblocking(False)",
    "wait for events": "(poll.register(udp_a.fileno(), 1), poll.poll(0.001))",
    "read the monotonic clock": "time.monotonic_ns()",
    "get memory": "bytearray(64 << 20)",
    "give memory back": "mmap.mmap(-1, 1 << 20).close()",
    "install a signal handler": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "close what it has": "udp_b.close()",
}  # fmt: skip


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_it_can_no_longer(call):
    _, answer = try_in_sandbox(call)
    assert answer.startswith(("PermissionError 1", "OSError 1", "RuntimeError")), answer


@pytest.mark.parametrize("call", ALLOWED.values(), ids=ALLOWED)
def test_it_still_can(call):
    _, answer = try_in_sandbox(call)
    assert answer == "worked"


def test_it_says_what_it_did():
    done, _ = try_in_sandbox("None")
    assert "no_new_privs" in done
    assert ("uid 64510" in done) == (os.geteuid() == 0)


def test_no_uid_no_group_no_capability_is_left():
    script = (
        CHILD.replace("poll = select.epoll()", "status = os.open('/proc/self/status', os.O_RDONLY)")
        .replace("answer = attempt(lambda: __CALL__)", "answer = os.read(status, 8192).decode()")
    )  # fmt: skip
    command = [sys.executable, "-c", script]
    child = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    _, text = json.loads(child.stdout)
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    if os.geteuid() == 0:
        assert status["Uid"].split() == [str(UID)] * 4
        assert status["Gid"].split() == [str(UID)] * 4
        assert status["Groups"].split() == []
    for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(status[name], 16) == 0, name
