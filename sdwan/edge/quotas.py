"""What the site's links have used of their monthly quotas.

Room: edge, control process. In come the counters the kernel keeps of every attached interface, and the
date; out goes which links are used up. ``sdwan.core.quota`` counts, ``sdwan.edge.memory`` remembers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sdwan.config.schema import LinkConfig
from sdwan.core.quota import Date, Quota
from sdwan.edge.memory import Memory
from sdwan.errors import ConfigError
from sdwan.io.maps import LinkStats


class Quotas:
    """The quotas of all links that have one, by link name."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._quotas: dict[str, Quota] = {}
        self._counted: dict[str, int] = {}
        """What each interface had carried when it was last asked."""

    def configure(self, configs: Iterable[LinkConfig]) -> None:
        """Take the operator's wishes; what was used stays used."""
        wanted = {config.name: config for config in configs if config.quota_bytes is not None}
        for name in set(self._quotas) - set(wanted):
            del self._quotas[name]
        for name, config in wanted.items():
            assert config.quota_bytes is not None
            if name in self._quotas:
                self._quotas[name].configure(config.quota_bytes, day=config.quota_day)
                continue
            try:
                text = self._memory.quota(name)
                self._quotas[name] = Quota.from_json(text, config.quota_bytes, day=config.quota_day)
            except ConfigError:
                self._quotas[name] = Quota(config.quota_bytes, day=config.quota_day)

    def __bool__(self) -> bool:
        """Tell whether any link has a quota."""
        return bool(self._quotas)

    def left_bytes(self, link: str) -> int | None:
        """Return what is left of a link's quota; None when it has none."""
        quota = self._quotas.get(link)
        return quota.left_bytes if quota else None

    def on_counters(self, carried: Mapping[str, LinkStats], *, today: Date) -> set[str]:
        """Count what the links carried; return those that were used up, or given back, by it."""
        changed = set()
        for name, quota in self._quotas.items():
            stats = carried.get(name)
            if stats is None:
                continue
            total = stats.tx_bytes + stats.rx_bytes
            before = self._counted.get(name, total)
            self._counted[name] = total
            was_exhausted = quota.is_exhausted
            # Counters begin anew when the programs are attached anew.
            quota.on_bytes(total - before if total >= before else total, today=today)
            if quota.is_exhausted != was_exhausted:
                changed.add(name)
            self._memory.note_quota(name, quota.to_json())
        return changed
