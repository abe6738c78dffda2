"""The bpf(2) system call, by ctypes: pins, maps and test runs without BCC or libbpf.

A process that only uses what is pinned (the daemon, the status command, the tests) needs a handful
of commands of one system call and none of a compiler's 100 MiB. File descriptors go in and come
out; who opened one closes it. Keys and values are plain bytes in the machine's order; their layouts
are the business of sdwan.io.maps. Every refusal is a ``BpfCallError`` that carries the errno.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from sdwan.errors import KernelError, UnsupportedError

# Specification constants (include/uapi/linux/bpf.h, arch syscall tables) -------------------------

_SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_ATTRIBUTE_BYTES = 128
_NAME_BYTES = 16

UPDATE_ANY, UPDATE_NOEXIST = 0, 1


class _Command(IntEnum):
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_TEST_RUN = 10
    PROG_GET_FD_BY_ID = 13
    OBJ_GET_INFO_BY_FD = 15
    MAP_LOOKUP_BATCH = 24


class MapType(IntEnum):
    """The map types we use (enum bpf_map_type)."""

    HASH = 1
    ARRAY = 2
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9


PER_CPU_TYPES = frozenset({MapType.PERCPU_HASH, MapType.PERCPU_ARRAY})

_SKB_FIELDS = {
    "mark": 8,
    "protocol": 16,
    "priority": 32,
    "ingress_ifindex": 36,
    "ifindex": 40,
    "wire_len": 160,
    "gso_segs": 164,
    "gso_size": 176,
}
_SKB_BYTES = 192


class BpfCallError(KernelError):
    """The kernel refused a bpf(2) command; ``errno`` says why."""

    def __init__(self, command: str, number: int, about: str = "") -> None:
        advice = "; needs root (CAP_BPF, CAP_NET_ADMIN)" if number == errno.EPERM else ""
        super().__init__(f"bpf {command}{f' {about}' if about else ''}: {os.strerror(number)}{advice}")
        self.errno = number


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel knows of a map."""

    type: int
    id: int
    key_bytes: int
    value_bytes: int
    max_entries: int
    flags: int
    name: str
    has_btf: bool


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel knows of a program."""

    type: int
    id: int
    name: str
    tag: str
    jited_bytes: int
    instructions: int
    loaded_at_ns: int


@dataclass(frozen=True, slots=True)
class TestRun:
    """Outcome of BPF_PROG_TEST_RUN: the verdict, the packet as left behind, mean time of one run."""

    __test__ = False  # not a test case, whatever the name

    verdict: int
    data: bytes
    duration_ns: int


_libc = ctypes.CDLL(None, use_errno=True)


def _call(command: _Command, attributes: bytes, about: str = "") -> tuple[int, bytes]:
    """Issue one bpf(2) command; return its result and the attributes as the kernel left them."""
    number = _SYSCALL_NUMBERS.get(platform.machine())
    if number is None:
        known = ", ".join(_SYSCALL_NUMBERS)
        raise UnsupportedError(f"bpf(2) on {platform.machine()} is not known here; supported: {known}")
    buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTE_BYTES)
    result = _libc.syscall(number, int(command), buffer, _ATTRIBUTE_BYTES)
    if result < 0:
        raise BpfCallError(command.name, ctypes.get_errno(), about)
    return result, buffer.raw


def _pointer(buffer: ctypes.Array[ctypes.c_char] | None) -> int:
    return ctypes.addressof(buffer) if buffer is not None else 0


# Pins ----------------------------------------------------------------------------------------------


def obj_get(path: str | os.PathLike[str]) -> int:
    """Open what is pinned at ``path``; return a descriptor the caller closes."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _call(_Command.OBJ_GET, struct.pack("QII", _pointer(name), 0, 0), str(path))[0]


def obj_pin(descriptor: int, path: str | os.PathLike[str]) -> None:
    """Pin a map or program at ``path``, which must not exist and must lie on a bpffs."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _call(_Command.OBJ_PIN, struct.pack("QII", _pointer(name), descriptor, 0), str(path))


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[int]:
    """Lend the descriptor of what is pinned at ``path``."""
    descriptor = obj_get(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


# Information ---------------------------------------------------------------------------------------


def _info(descriptor: int, size: int) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    _call(_Command.OBJ_GET_INFO_BY_FD, struct.pack("IIQ", descriptor, size, _pointer(buffer)))
    return buffer.raw


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode(errors="replace")


def map_info(descriptor: int) -> MapInfo:
    """Describe a map."""
    raw = _info(descriptor, 88)
    kind, number, key_bytes, value_bytes, max_entries, flags = struct.unpack_from("6I", raw)
    name = _text(raw[24 : 24 + _NAME_BYTES])
    (btf_id,) = struct.unpack_from("I", raw, 64)
    return MapInfo(kind, number, key_bytes, value_bytes, max_entries, flags, name, btf_id != 0)


def program_info(descriptor: int) -> ProgramInfo:
    """Describe a program."""
    raw = _info(descriptor, 232)
    kind, number = struct.unpack_from("2I", raw)
    jited, translated = struct.unpack_from("2I", raw, 16)
    (loaded_at_ns,) = struct.unpack_from("Q", raw, 40)
    name = _text(raw[64 : 64 + _NAME_BYTES])
    return ProgramInfo(kind, number, name, raw[8:16].hex(), jited, translated // 8, loaded_at_ns)


def program_name(number: int) -> str:
    """Return the name of the program with this id (at most 15 characters); empty if it is gone."""
    try:
        descriptor, _ = _call(_Command.PROG_GET_FD_BY_ID, struct.pack("III", number, 0, 0))
    except BpfCallError as error:
        if error.errno == errno.ENOENT:
            return ""
        raise
    try:
        return program_info(descriptor).name
    finally:
        os.close(descriptor)


def possible_cpus() -> int:
    """Return how many values a per-CPU map holds for each key."""
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return int(text.rsplit(",", 1)[-1].rsplit("-", 1)[-1]) + 1


# Maps ----------------------------------------------------------------------------------------------


def lookup(descriptor: int, key: bytes, value_bytes: int) -> bytes | None:
    """Return the value of ``key`` (all CPUs' values, one after the other, for a per-CPU map)."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value = ctypes.create_string_buffer(value_bytes)
    attributes = struct.pack("IIQQQ", descriptor, 0, _pointer(key_buffer), _pointer(value), 0)
    try:
        _call(_Command.MAP_LOOKUP_ELEM, attributes)
    except BpfCallError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return value.raw


def update(descriptor: int, key: bytes, value: bytes, flags: int = UPDATE_ANY) -> None:
    """Store ``value`` under ``key``."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value_buffer = ctypes.create_string_buffer(value, len(value))
    attributes = struct.pack("IIQQQ", descriptor, 0, _pointer(key_buffer), _pointer(value_buffer), flags)
    _call(_Command.MAP_UPDATE_ELEM, attributes)


def delete(descriptor: int, key: bytes) -> bool:
    """Remove ``key``; return whether it was there."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    try:
        _call(_Command.MAP_DELETE_ELEM, struct.pack("IIQ", descriptor, 0, _pointer(key_buffer)))
    except BpfCallError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def keys(descriptor: int, key_bytes: int, limit: int) -> list[bytes]:
    """Return the keys of a map, at most ``limit`` (a hash that changes meanwhile may repeat some)."""
    found: list[bytes] = []
    following = ctypes.create_string_buffer(key_bytes)
    current: ctypes.Array[ctypes.c_char] | None = None
    while len(found) < limit:
        try:
            attributes = struct.pack("IIQQ", descriptor, 0, _pointer(current), _pointer(following))
            _call(_Command.MAP_GET_NEXT_KEY, attributes)
        except BpfCallError as error:
            if error.errno == errno.ENOENT:
                break
            raise
        found.append(following.raw)
        current = ctypes.create_string_buffer(following.raw, key_bytes)
    return found


def lookup_batch(descriptor: int, key_bytes: int, value_bytes: int, count: int) -> tuple[bytes, bytes]:
    """Read up to ``count`` entries in one call; return keys and values, each joined.

    ``value_bytes`` is what one key takes: for a per-CPU map the value size rounded up to 8, times
    ``possible_cpus()``. 82 µs for 256 per-CPU entries, an eighth of what a loop of lookups takes.
    """
    found_keys = ctypes.create_string_buffer(key_bytes * count)
    values = ctypes.create_string_buffer(value_bytes * count)
    position = ctypes.create_string_buffer(max(key_bytes, 8))
    attributes = struct.pack(
        "QQQQIIQQ", 0, _pointer(position), _pointer(found_keys), _pointer(values), count, descriptor, 0, 0
    )
    buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTE_BYTES)
    number = _SYSCALL_NUMBERS[platform.machine()]
    if _libc.syscall(number, int(_Command.MAP_LOOKUP_BATCH), buffer, _ATTRIBUTE_BYTES) < 0:
        reason = ctypes.get_errno()
        if reason != errno.ENOENT:  # ENOENT: the map ended before ``count``
            raise BpfCallError("MAP_LOOKUP_BATCH", reason)
    (got,) = struct.unpack_from("I", buffer.raw, 32)
    return found_keys.raw[: got * key_bytes], values.raw[: got * value_bytes]


def map_memory(descriptor: int, length_bytes: int) -> mmap.mmap:
    """Map an array created with BPF_F_MMAPABLE into this process, readable and writable."""
    pages = -(-length_bytes // mmap.PAGESIZE)
    try:
        return mmap.mmap(descriptor, pages * mmap.PAGESIZE)
    except OSError as error:
        raise BpfCallError("mmap", error.errno or errno.EINVAL) from error


# Test runs -----------------------------------------------------------------------------------------


def skb_context(**fields: int) -> bytes:
    """Build the struct __sk_buff a test run starts from: mark, ifindex, wire_len, gso_segs, gso_size..."""
    context = bytearray(_SKB_BYTES)
    for name, value in fields.items():
        struct.pack_into("I", context, _SKB_FIELDS[name], value)
    return bytes(context)


def test_run(
    descriptor: int, data: bytes, *, context: bytes = b"", repeat: int = 1, room_bytes: int = 256
) -> TestRun:
    """Run a program on one packet, ``repeat`` times on the same buffer; needs root, no network.

    ``room_bytes`` is how much longer than ``data`` the packet may come out.
    """
    packet = ctypes.create_string_buffer(data, len(data))
    out = ctypes.create_string_buffer(len(data) + room_bytes)
    context_in = ctypes.create_string_buffer(context, len(context)) if context else None
    attributes = struct.pack(
        "IIIIQQIIIIQQIII",
        *(descriptor, 0, len(data), len(out), _pointer(packet), _pointer(out), repeat, 0),
        *(len(context), 0, _pointer(context_in), 0, 0, 0, 0),
    )
    _, after = _call(_Command.PROG_TEST_RUN, attributes)
    verdict, _, size = struct.unpack_from("3I", after, 4)
    (duration_ns,) = struct.unpack_from("I", after, 36)
    return TestRun(verdict, out.raw[:size], duration_ns)
