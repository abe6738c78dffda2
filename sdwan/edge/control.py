"""Edge control: the process that decides. Starts a site, turns its loop, stops it.

``run`` is what ``sdwan edge run`` calls. It takes the site's lock, has the kernel programs attached, opens
TUN and sockets, starts the data plane and then turns one asyncio loop:

    data plane spoke  ──> Site.on_messages        netlink spoke ──> Site.on_link_events
    every 10 ms under traffic, every 50 ms idle ──> Site.on_tick (ring, board, probes, timers)
    SIGHUP ──> reload     SIGTERM, SIGINT ──> a clean stop     data plane gone ──> another one

Nothing here knows the protocol (sdwan.core does) or a single peer (sdwan.edge.site does).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

from sdwan.config.diff import diff
from sdwan.config.load import load
from sdwan.config.schema import SiteConfig
from sdwan.edge import kernel
from sdwan.edge.commands import Commands, CommandServer
from sdwan.edge.events import EventLog
from sdwan.edge.icmp import LinkProbes
from sdwan.edge.lock import SiteLock
from sdwan.edge.plane import Plane, PlaneGone
from sdwan.edge.reload import applicable
from sdwan.edge.site import Site
from sdwan.edge.statusd import MetricsServer, StatusServer
from sdwan.edge.telemetry import Telemetry
from sdwan.errors import KernelError, SdwanError
from sdwan.io import logs, netlink
from sdwan.io.clock import now_ns
from sdwan.io.monitor import LinkMonitor

log = logs.get_log(__name__)

# Implementation constants --------------------------------------------------------------------------

TICK_BUSY_S = 0.010
"""Reports are due every 25 ms and silence is judged to 10 ms."""
TICK_IDLE_S = 0.050
"""How late the first report after a silence may be."""
REMEMBER_S = 60.0
"""How much a crash may forget."""
CHORES_S = 0.25
"""How often slow things are looked at: ICMP, heartbeat."""
HEARTBEAT_MAX_NS = 5 * 10**9
"""A data plane that shows no sign of life for this long is ended; idle, it shows one every 100 ms."""
RESPAWN_S = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Pause before each further start of a data plane that keeps dying."""
STEADY_NS = 30 * 10**9
"""One that lived this long is not one that keeps dying."""
GOODBYE_S = 0.05
"""Time for the data plane to seal and send the last messages."""


def run(config_path: Path) -> int:
    """Run the edge of one site until SIGTERM; return the exit code.

    Raises:
        ConfigError, KeyFileError: the configuration is refused; nothing was changed.
        AlreadyRunningError: this site is running already.
        KernelError, UnsupportedError: the system lacks something; what was begun is undone.
    """
    config = load(config_path)
    logs.setup(config.log.level_number, config.log.format)
    lock = SiteLock(config.lock_file)
    try:
        asyncio.run(_run(config_path, config))
    finally:
        lock.release()
    return 0


async def _run(config_path: Path, config: SiteConfig) -> None:
    attached = await asyncio.to_thread(kernel.ensure_attached, config)
    if attached:
        log.info("attached", links=",".join(attached))
    async with contextlib.AsyncExitStack() as undo:
        plane = Plane(config)
        undo.callback(plane.close)
        maps = kernel.open_maps(config)
        undo.callback(kernel.close, maps)
        plane.show(maps)
        kernel.set_up_tun(config)
        site = Site(config, maps, plane)
        edge = Edge(config_path, config, site, plane)
        undo.push_async_callback(edge.close)
        await edge.start()
        log.info("running", site=config.site, port=config.port, tun=config.tun.name, **plane.facts)
        await edge.stopped.wait()
        log.info("stopping", site=config.site)
        if edge.failure is not None:
            raise edge.failure


class Edge:
    """The running edge: a Site, and everything that calls it."""

    def __init__(self, config_path: Path, config: SiteConfig, site: Site, plane: Plane) -> None:
        self.stopped = asyncio.Event()
        self.failure: SdwanError | None = None
        """Why it cannot go on."""
        self._config_path = config_path
        self._config = config
        self._site = site
        self._plane = plane
        self._probes = LinkProbes()
        self._events = EventLog()
        self._telemetry = Telemetry(site, self._probes, self._events)
        self._monitor = LinkMonitor()
        self._loop = asyncio.get_running_loop()
        self._deaths = 0
        self._started_ns = 0
        self._channel: int | None = None
        self._attaching: asyncio.Task[None] | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._servers: list[StatusServer | MetricsServer | CommandServer] = []

    async def start(self) -> None:
        """Start the data plane, the servers and the loop."""
        self._events.install()
        commands = Commands(self._telemetry.snapshot, self._events, self._set_drained)
        self._servers.append(StatusServer(self._config.status_socket, self._telemetry.snapshot))
        self._servers.append(CommandServer(self._config.command_socket, commands))
        if self._config.metrics is not None:
            self._servers.append(MetricsServer(self._config.metrics.listen, self._telemetry.snapshot))
        for server in self._servers:
            await server.start()
        self._start_plane()
        self._site.configure(self._config)
        self._probes.configure(self._config)
        self._loop.add_reader(self._monitor.fileno(), self._on_netlink)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        for sign in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(sign, self.stopped.set)
        self._tick()
        self._chores()
        self._remember()

    async def close(self) -> None:
        """Say goodbye and stop calling."""
        self._site.close()
        await asyncio.sleep(GOODBYE_S)
        for timer in self._timers.values():
            timer.cancel()
        self._forget_channel()
        self._loop.remove_reader(self._monitor.fileno())
        self._monitor.close()
        self._probes.close()
        for server in self._servers:
            await server.close()
        self._events.uninstall()

    # What calls the site ----------------------------------------------------------------------------

    def _tick(self) -> None:
        busy = now_ns() < self._site.busy_until_ns
        self._timers["tick"] = self._loop.call_later(TICK_BUSY_S if busy else TICK_IDLE_S, self._tick)
        self._read_plane()
        self._site.on_tick()
        self._plane.flush()

    def _read_plane(self) -> None:
        if self._channel is None:
            return
        try:
            self._site.on_messages(self._plane.read())
        except PlaneGone as gone:
            self._on_plane_gone(str(gone))

    def _on_netlink(self) -> None:
        self._site.on_link_events(self._monitor.read())
        if self._site.is_unattached and self._attaching is None:
            self._attaching = self._loop.create_task(self._attach())

    async def _attach(self) -> None:
        """Attach the programs to an interface that appeared, in a thread: compiling takes a second."""
        self._site.is_unattached = False
        try:
            attached = await asyncio.to_thread(kernel.ensure_attached, self._config)
            log.info("attached", links=",".join(attached))
        except KernelError as error:
            log.error("attach_failed", error=str(error))
        self._attaching = None

    def _chores(self) -> None:
        self._timers["chores"] = self._loop.call_later(CHORES_S, self._chores)
        self._site.count_quotas()
        self._probes.on_tick()
        self._telemetry.on_tick()
        heartbeat_ns = int(self._plane.board.total[0]["heartbeat_ns"]) or self._started_ns
        if self._channel is not None and now_ns() - heartbeat_ns > HEARTBEAT_MAX_NS:
            log.error("dataplane_hangs", heartbeat_age_s=(now_ns() - heartbeat_ns) / 1e9)
            self._plane.kill()

    def _remember(self) -> None:
        self._timers["remember"] = self._loop.call_later(REMEMBER_S, self._remember)
        self._site.remember()

    # The data plane ---------------------------------------------------------------------------------

    def _start_plane(self) -> None:
        self._plane.start()
        self._started_ns = now_ns()
        self._channel = self._plane.fileno()
        self._loop.add_reader(self._channel, self._read_plane)
        if self._plane.starts > 1:
            self._site.on_plane_started()

    def _forget_channel(self) -> None:
        if self._channel is not None:
            self._loop.remove_reader(self._channel)
            self._channel = None

    def _on_plane_gone(self, reason: str) -> None:
        self._forget_channel()
        if self.stopped.is_set():
            return
        if netlink.find_link(self._config.tun.name) is None:
            self.failure = KernelError(f"the TUN {self._config.tun.name} was removed; start the edge again")
            self.stopped.set()
            return
        self._deaths = 0 if now_ns() - self._started_ns > STEADY_NS else self._deaths + 1
        pause_s = RESPAWN_S[min(self._deaths, len(RESPAWN_S) - 1)]
        log.error("dataplane_died", reason=reason, restart_in_s=pause_s)
        self._timers["respawn"] = self._loop.call_later(pause_s, self._start_plane)

    # Wishes -----------------------------------------------------------------------------------------

    def _set_drained(self, link: str, drained: bool, force: bool) -> None:
        self._site.set_drained(link, drained, force)
        self._telemetry.forget()

    def _reload(self) -> None:
        """Take the configuration file again; a wrong one is refused and nothing changes."""
        try:
            wanted = load(self._config_path)
            changes = diff(self._config, wanted)
            config = applicable(self._config, wanted)
            self._site.configure(config)
            kernel.set_addresses(config.tun.name, self._config.tun.addresses, config.tun.addresses)
        except SdwanError as error:
            self._telemetry.reloads_refused += 1
            log.error("reload_refused", error=str(error))
            return
        finally:
            self._telemetry.forget()
        self._config = config
        logs.setup(config.log.level_number, config.log.format)
        self._probes.configure(config)
        self._telemetry.reloads_applied += 1
        for change in changes:
            (log.info if change.live else log.warning)("config_change", change=str(change))
        log.info("reloaded", changes=len(changes), waiting_for_restart=sum(not c.live for c in changes))
