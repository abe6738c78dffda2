"""Monthly quotas of a site's links: counted from the interfaces, remembered, given back with the month."""

from __future__ import annotations

from pathlib import Path

from sdwan.config.schema import LinkConfig
from sdwan.edge.memory import Memory
from sdwan.edge.quotas import Quotas
from sdwan.io.maps import LinkStats

NOVEMBER, DECEMBER = (2026, 11, 22), (2026, 12, 1)


def lte(**changes: object) -> LinkConfig:
    return LinkConfig.model_validate({"name": "lte", "interface": "wwan0", "quota": "1MB"} | changes)


def carried(size_bytes: int) -> dict[str, LinkStats]:
    return {"lte": LinkStats(tx_bytes=size_bytes // 4, rx_bytes=size_bytes - size_bytes // 4)}


def test_both_directions_count_and_the_month_gives_back(tmp_path: Path) -> None:
    quotas = Quotas(Memory(tmp_path / "memory.json"))
    quotas.configure([lte()])
    assert quotas.on_counters(carried(5_000_000), today=NOVEMBER) == set()  # carried before we looked
    assert quotas.left_bytes("lte") == 1_000_000
    assert quotas.on_counters(carried(5_900_000), today=NOVEMBER) == set()
    assert quotas.left_bytes("lte") == 100_000
    assert quotas.on_counters(carried(6_000_000), today=NOVEMBER) == {"lte"}
    assert quotas.left_bytes("lte") == 0
    assert quotas.on_counters(carried(6_000_000), today=DECEMBER) == {"lte"}
    assert quotas.left_bytes("lte") == 1_000_000


def test_counters_that_begin_anew_are_no_gift(tmp_path: Path) -> None:
    quotas = Quotas(Memory(tmp_path / "memory.json"))
    quotas.configure([lte()])
    quotas.on_counters(carried(700_000), today=NOVEMBER)
    quotas.on_counters(carried(200_000), today=NOVEMBER)
    assert quotas.left_bytes("lte") == 800_000


def test_a_restart_and_a_reload_forget_nothing(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory.json")
    quotas = Quotas(memory)
    quotas.configure([lte()])
    quotas.on_counters(carried(0), today=NOVEMBER)
    quotas.on_counters(carried(400_000), today=NOVEMBER)
    quotas.configure([lte(quota="2MB")])
    assert quotas.left_bytes("lte") == 1_600_000
    memory.save()
    again = Quotas(Memory(tmp_path / "memory.json"))
    again.configure([lte()])
    assert again.left_bytes("lte") == 600_000


def test_a_link_without_a_quota_is_never_used_up(tmp_path: Path) -> None:
    quotas = Quotas(Memory(tmp_path / "memory.json"))
    quotas.configure([lte(quota=None)])
    assert not quotas
    assert quotas.on_counters(carried(1 << 60), today=NOVEMBER) == set()
    assert quotas.left_bytes("lte") is None
