"""One fact, three places: docs/wire.md, bpf/abi.h and Python say the same.

The C header and the page are read as text, so this runs without a compiler and without root. What BCC makes
of the header (sizes, offsets) is proved in tests/packet.
"""

from __future__ import annotations

import re
from enum import IntEnum
from pathlib import Path

import pytest

from sdwan import model
from sdwan.config.schema import BpfConfig
from sdwan.core import sent, wire
from sdwan.io import layout, ring

ROOT = Path(__file__).parents[2]
ABI = (ROOT / "bpf" / "abi.h").read_text()
PAGE = (ROOT / "docs" / "wire.md").read_text()

FIELD_BYTES = {"u8": 1, "u16": 2, "__be16": 2, "u32": 4, "__be32": 4, "u64": 8, "__be64": 8}


def defines() -> dict[str, int]:
    """Return every ``#define NAME number`` of abi.h."""
    return {
        name: int(value, 0) for name, value in re.findall(r"^#define (\w+) (0x[0-9a-f]+|\d+)\b", ABI, re.M)
    }


def enum_of(name: str) -> dict[str, int]:
    """Return the members of a C enum in abi.h; each must have its number written out."""
    body = re.search(rf"enum {name} \{{(.*?)\}};", ABI, re.S)
    assert body, f"enum {name} is not in bpf/abi.h"
    text = re.sub(r"/\*.*?\*/", "", body[1], flags=re.S)
    members = [member.strip() for member in text.split(",") if member.strip()]
    return {key.strip(): int(value, 0) for key, value in (member.split("=") for member in members)}


def struct_fields(name: str) -> list[tuple[str, int, int]]:
    """Return (field, offset, size) of a naturally aligned C struct of plain integers."""
    body = re.search(rf"struct {name} \{{(.*?)\}};", ABI, re.S)
    assert body, f"struct {name} is not in bpf/abi.h"
    text = re.sub(r"/\*.*?\*/", "", body[1], flags=re.S)
    fields, offset = [], 0
    for kind, field in re.findall(r"(\w+) (\w+);", text):
        size = FIELD_BYTES[kind]
        assert offset % size == 0, f"{name}.{field} would be padded by the compiler"
        fields.append((field, offset, size))
        offset += size
    return fields


def python_names(enum: type[IntEnum], below: int | None = None) -> dict[str, int]:
    return {member.name: member.value for member in enum if below is None or member.value < below}


# Enums -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("c_name", "prefix", "python"),
    [
        ("sdwan_type", "SDWAN_TYPE_", python_names(wire.Type)),
        ("drop_reason", "DROP_", python_names(model.DropReason, below=32)),
        ("steer_mode", "STEER_", python_names(model.SteerMode)),
    ],
)
def test_c_and_python_number_things_alike(c_name, prefix, python):
    assert {name.removeprefix(prefix): value for name, value in enum_of(c_name).items()} == python


def test_every_kernel_reason_has_a_slot_in_the_drops_map():
    assert max(enum_of("drop_reason").values()) < defines()["SDWAN_DROP_REASONS"] == 32


# Constants ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("c_name", "python"),
    [
        ("SDWAN_WIRE_VERSION", wire.VERSION),
        ("SDWAN_HEADER_BYTES", wire.HEADER_BYTES),
        ("SDWAN_TAG_BYTES", wire.TAG_BYTES),
        ("SDWAN_CLASS_MASK", wire.CLASS_MASK),
        ("SDWAN_FLAG_DUPLICATE", wire.FLAG_DUPLICATE),
        ("SDWAN_PATHS_PER_PEER", model.PATHS_PER_PEER),
        ("SDWAN_CLASSES", model.CLASSES),
        ("SDWAN_PATH_CHOOSE", model.PATH_CHOOSE),
        ("SDWAN_PATH_PIN", model.PATH_PIN),
    ],
)
def test_c_and_python_share_a_constant(c_name, python):
    assert defines()[c_name] == python


def test_the_maps_layout_has_one_number_and_it_is_in_the_default_pin_path():
    assert defines()["SDWAN_SCHEMA"] == layout.SCHEMA
    assert layout.DEFAULT_PIN_ROOT.name == f"v{layout.SCHEMA}"
    assert BpfConfig().pin_root == layout.DEFAULT_PIN_ROOT


def test_the_ring_knows_data_by_its_types():
    first, last = ring._DATA_TYPE_FIRST, ring._DATA_TYPE_LAST
    assert set(range(first, last + 1)) == set(wire.DATA_TYPES)


def test_the_sent_log_reads_fields_the_ring_has():
    in_c = {name: size for name, _, size in struct_fields("tx_record")}
    assert {name: sent.SENT[name].itemsize for name in sent.SENT.names}.items() <= in_c.items()


# The header's layout -----------------------------------------------------------------------------


def test_python_packs_the_header_where_c_reads_it():
    values = {
        "version": wire.VERSION, "path": 0x81, "class_flags": 0x25, "reserved": 0, "receiver": 0x11223344,
        "type": 0x01, "index": 7, "segments": 44, "template_words": 13, "counter": 0x55667788,
        "link_sequence": 0x99AABBCC, "send_time_us": 0xDDEEFF01,
    }  # fmt: skip
    packed = wire.Header(
        path=values["path"],
        class_flags=values["class_flags"],
        receiver=values["receiver"],
        type=values["type"],
        index=values["index"],
        segments=values["segments"],
        template_bytes=values["template_words"] * 4,
        counter=values["counter"],
        link_sequence=values["link_sequence"],
        send_time_us=values["send_time_us"],
    ).pack()
    fields = struct_fields("sdwan_header")
    assert {name: int.from_bytes(packed[at : at + size], "big") for name, at, size in fields} == values
    assert len(packed) == sum(size for _, _, size in fields) == wire.HEADER_BYTES


def test_the_nonce_is_twelve_bytes_from_receiver_to_counter():
    offsets = {name: (at, at + size) for name, at, size in struct_fields("sdwan_header")}
    assert slice(offsets["receiver"][0], offsets["counter"][1]) == wire.NONCE
    assert wire.NONCE.stop - wire.NONCE.start == 12


# The page ----------------------------------------------------------------------------------------


def test_the_page_lists_every_type_with_its_number():
    rows = re.findall(r"^\| `(0x[0-9a-f]{2})` \| ([A-Z ]+?)(?:,| \|)", PAGE, re.M)
    listed = {name.strip().replace(" ", "_"): int(value, 0) for value, name in rows}
    assert listed == python_names(wire.Type)


def test_the_page_states_the_overhead_the_code_has():
    stated = re.search(r"\*\*(\d+) bytes\*\*; over IPv6 (\d+)", PAGE)
    assert stated, "docs/wire.md no longer states the overhead per packet"
    assert (int(stated[1]), int(stated[2])) == (
        wire.sealed_overhead_bytes(outer_ipv6=False),
        wire.sealed_overhead_bytes(outer_ipv6=True),
    )
