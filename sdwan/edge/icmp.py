"""Links that are measured by ping, because no peer of ours answers on them or the operator wants it so.

Room: edge, control process. One ``Pinger`` (the socket) and one ``Prober`` (the judgement) for each link
whose configuration has ``probe: {icmp: ADDRESS}``. What is measured is shown in status and metrics; it
decides nothing about the paths of a peer, whose own probes and reports know better.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from sdwan.config.schema import LinkConfig, SiteConfig
from sdwan.core.probe import Prober
from sdwan.errors import KernelError
from sdwan.io.clock import entropy, now_ns
from sdwan.io.icmp import Pinger
from sdwan.io.logs import get_log

log = get_log(__name__)

# Implementation constants --------------------------------------------------------------------------

INTERVAL_NS = 10**9
"""Somebody else's host answers: once a second is what ping does."""


@dataclass(slots=True)
class _Measured:
    address: str
    interface: str
    prober: Prober
    pinger: Pinger | None = None
    """None while the interface is absent."""


class LinkProbes:
    """The echo requests of all links that want them."""

    def __init__(self) -> None:
        self._links: dict[str, _Measured] = {}
        self._tokens: dict[int, tuple[str, int]] = {}
        """By the 16 bits that travel: link and token."""

    def of(self, link: str) -> Prober | None:
        """Return the measurements of a link, if it is measured."""
        measured = self._links.get(link)
        return measured.prober if measured else None

    def configure(self, config: SiteConfig) -> None:
        """Measure the links that want it, and no others."""
        wanted = {link.name: link for link in config.links if link.probe is not None}
        for name, measured in tuple(self._links.items()):
            if name not in wanted or _target(wanted[name]) != (measured.address, measured.interface):
                self._close(measured)
                del self._links[name]
        for name, link in wanted.items():
            if name not in self._links:
                prober = Prober(entropy=entropy, now_ns=now_ns())
                self._links[name] = _Measured(*_target(link), prober)

    def on_tick(self) -> None:
        """Send what is due; called a few times a second."""
        moment_ns = now_ns()
        for name, measured in self._links.items():
            if measured.pinger is None and not self._open(name, measured):
                continue
            token = measured.prober.on_timer(now_ns=moment_ns, interval_ns=INTERVAL_NS)
            if token is not None and measured.pinger is not None:
                self._tokens[token & 0xFFFF] = (name, token)
                measured.pinger.send(token & 0xFFFF, now_ns=moment_ns)

    def close(self) -> None:
        """Stop measuring."""
        for measured in self._links.values():
            self._close(measured)
        self._links.clear()

    def _open(self, name: str, measured: _Measured) -> bool:
        try:
            pinger = Pinger(measured.address, measured.interface)
        except KernelError as error:
            log.debug("icmp_refused", link=name, error=str(error))
            return False
        measured.pinger = pinger
        asyncio.get_running_loop().add_reader(pinger.fileno(), self._collect, pinger)
        return True

    def _collect(self, pinger: Pinger) -> None:
        for echo in pinger.read(now_ns=now_ns()):
            name, token = self._tokens.pop(echo.number, ("", 0))
            if name in self._links:
                self._links[name].prober.on_reply(token, echo.rtt_ns)
        if len(self._tokens) > 1024:
            self._tokens.clear()

    def _close(self, measured: _Measured) -> None:
        if measured.pinger is not None:
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(measured.pinger.fileno())
            measured.pinger.close()
            measured.pinger = None


def _target(link: LinkConfig) -> tuple[str, str]:
    assert link.probe is not None
    return str(link.probe.icmp), link.interface
