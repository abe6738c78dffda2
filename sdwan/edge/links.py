"""The site's links as they are at this moment, and the place a path has on them.

Room: edge, control process. In come netlink's list of interfaces and the monitor's events; out come
``Place``s for the tunnels. A link may be absent (a modem that is not plugged in): its paths are then down,
and come back with it. Nothing is decided here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace

from sdwan.config.schema import LinkConfig
from sdwan.core.path import Place
from sdwan.core.roaming import Whereabouts
from sdwan.io.monitor import Change, LinkEvent
from sdwan.io.netlink import Link

# Implementation constants --------------------------------------------------------------------------

MTU_UNKNOWN = 1500
"""Of a link that is absent: bounds nothing until it is there."""


@dataclass(frozen=True, slots=True)
class LinkState:
    """One configured link and what netlink says of its interface."""

    config: LinkConfig
    ifindex: int = 0
    """0 = there is no such interface."""
    up: bool = False
    """It is there and has carrier."""
    mtu: int = MTU_UNKNOWN
    addresses: tuple[str, ...] = ()
    """With prefix length, as netlink lists them."""


class Links:
    """All links of the site, by name."""

    def __init__(self, configs: Iterable[LinkConfig]) -> None:
        self.states = {config.name: LinkState(config) for config in configs}
        self.drained: dict[str, int] = {}
        """Since when (CLOCK_MONOTONIC) an operator wants no new data on a link; a reload changes nothing."""
        self.used_up: set[str] = set()
        """Links whose quota of the month is spent."""

    def configure(self, configs: Iterable[LinkConfig]) -> None:
        """Take new wishes for the links there are (a reload adds and removes none)."""
        for config in configs:
            if config.name in self.states:
                self.states[config.name] = replace(self.states[config.name], config=config)

    def set_drained(self, name: str, drained: bool, *, now_ns: int) -> bool:
        """Take or give back the right to carry data; tell whether that is news."""
        is_news = drained != (name in self.drained)
        if drained:
            self.drained.setdefault(name, now_ns)
        else:
            self.drained.pop(name, None)
        return is_news

    def refresh(self, present: Iterable[Link]) -> set[str]:
        """Take the list of interfaces; return the names of links that changed."""
        by_name = {link.name: link for link in present}
        changed = set()
        for name, state in self.states.items():
            found = by_name.get(state.config.interface)
            now = LinkState(state.config)
            if found is not None:
                now = LinkState(state.config, found.index, found.carrier, found.mtu, found.addresses)
            if now != state:
                self.states[name] = now
                changed.add(name)
        return changed

    def on_event(self, event: LinkEvent) -> set[str]:
        """Take word of a carrier at once; everything else waits for ``refresh``."""
        changed = set()
        for name, state in self.states.items():
            is_it = event.change is Change.LINK and event.ifindex == state.ifindex != 0
            if is_it and event.carrier != state.up:
                self.states[name] = replace(state, up=event.carrier)
                changed.add(name)
        return changed

    def place(self, name: str, remote: tuple[str, int], previous: Place | None) -> Place | None:
        """Return where a configured path leads; None while the link has never had a fitting address."""
        state = self.states[name]
        local = _source(state.addresses, remote[0])
        if local is not None and state.ifindex:
            whereabouts = Whereabouts(remote, local, state.ifindex)
            return self._place(state, whereabouts, link_up=state.up)
        if previous is None:
            return None
        return self._place(state, replace(previous.whereabouts, remote=remote), link_up=False)

    def place_at(self, whereabouts: Whereabouts) -> Place:
        """Return where a learned path leads: its link is the one the peer's datagrams arrive on."""
        for state in self.states.values():
            if state.ifindex == whereabouts.ifindex:
                has_address = any(a.partition("/")[0] == whereabouts.local for a in state.addresses)
                return self._place(state, whereabouts, link_up=state.up and has_address)
        return Place(whereabouts, f"if{whereabouts.ifindex}", link_up=True, link_mtu=MTU_UNKNOWN)

    def _place(self, state: LinkState, whereabouts: Whereabouts, *, link_up: bool) -> Place:
        config = state.config
        return Place(
            whereabouts,
            config.name,
            link_up=link_up,
            link_mtu=state.mtu,
            metered=config.metered,
            weight=0.0 if config.name in self.drained else config.weight,
            rate_up_bps=config.rate_up_bps,
            rate_down_bps=config.rate_down_bps,
            is_backup=config.only_when_needed,
            is_used_up=config.name in self.used_up,
        )


def _source(addresses: Iterable[str], remote: str) -> str | None:
    """Return our address to reach ``remote`` from: one on its subnet, else the first of its family."""
    target = ipaddress.ip_address(remote)
    fitting = [a for a in map(ipaddress.ip_interface, addresses) if a.version == target.version]
    for interface in fitting:
        if target in interface.network:
            return str(interface.ip)
    return str(fitting[0].ip) if fitting else None
