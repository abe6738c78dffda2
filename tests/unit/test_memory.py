"""What a site remembers: survives a restart, and is never a reason not to start."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdwan.edge.memory import ENTRIES_MAX, Memory


def test_what_was_noted_is_there_after_a_restart(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "state" / "berlin.json")
    memory.note_capacity("hub", 1, 48_000_000)
    memory.note_quota("lte", "seven bytes")
    memory.save()
    again = Memory(tmp_path / "state" / "berlin.json")
    assert again.capacity_bps("hub", 1) == 48_000_000
    assert again.capacity_bps("hub", 0) is None
    assert again.quota("lte") == "seven bytes"
    assert again.quota("dsl") == ""


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", '{"capacity_bps": 7, "quota": []}', '{"capacity_bps": {"hub/0": "fast"}}',
        '{"capacity_bps": {"hub/0": -1}, "quota": {"lte": 3}}', '{"capacity_bps": {"hub/0": 1e99}}',
        "[" * 100_000,
    ],
    ids=lambda text: text[:20] or "nothing",
)  # fmt: skip
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "berlin.json"
    path.write_text(text)
    memory = Memory(path)
    assert memory.capacity_bps("hub", 0) is None
    assert memory.quota("lte") == ""


def test_the_memory_is_bounded(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "berlin.json")
    for number in range(ENTRIES_MAX + 10):
        memory.note_capacity(f"peer{number}", 0, 1)
    assert memory.capacity_bps(f"peer{ENTRIES_MAX + 1}", 0) is None
    memory.note_capacity("peer0", 0, 2)
    assert memory.capacity_bps("peer0", 0) == 2


def test_where_nothing_can_be_written_the_site_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    memory = Memory(tmp_path / "file" / "berlin.json")
    memory.note_capacity("hub", 0, 1)
    memory.save()
    assert memory.capacity_bps("hub", 0) == 1
