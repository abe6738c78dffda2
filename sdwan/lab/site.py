"""The product in a lab: the running edge of each site.

Processes are started by the product's own command, ``sdwan edge run -c FILE``, inside the site's namespace,
with the files of sdwan.lab.configs. Everything is asked for the way an operator asks: through the status
socket and the pinned maps.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sdwan.errors import LabError
from sdwan.lab.configs import HUB, Settings, SitePlan, plan_sites, write_sites
from sdwan.lab.home import undisturbed
from sdwan.lab.namespace import end_processes
from sdwan.lab.topology import Lab

# Implementation constants --------------------------------------------------------------------------

UP_TIMEOUT_S = 90.0
"""Two first BCC compilations at once on a busy two-core machine took 20 s; this only stops a hang."""
POLL_S = 0.1
ASK_TIMEOUT_S = 3.0
LOG_LINES_SHOWN = 12
EDGE = [sys.executable, "-m", "sdwan.cli.main", "edge"]


class Edge:
    """The running product of one site."""

    def __init__(self, plan: SitePlan, lab: Lab) -> None:
        self.plan = plan
        self.namespace = lab.namespace(plan.name)
        self.home = lab.home
        self.log = plan.directory / "edge.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Inner IPv4 address."""
        return self.plan.address

    def start(self) -> None:
        """Start ``sdwan edge run`` in the site's namespace; its log goes to edge.log."""
        command = [*EDGE, "run", "-c", str(self.plan.config_file)]
        with self.log.open("ab") as log:
            self.process = self.namespace.start(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.home.note_process(self.process.pid)

    def status(self) -> dict[str, Any]:
        """Return the status as ``sdwan edge status --json`` prints it.

        Raises:
            LabError: the edge does not run or does not answer.
        """
        path = self.plan.directory / f"{self.plan.name}.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(ASK_TIMEOUT_S)
            try:
                line.connect(str(path))
                answer = b"".join(iter(lambda: line.recv(65536), b""))
                return dict(json.loads(answer))
            except (OSError, ValueError) as error:
                raise LabError(f"the edge of {self.plan.name} does not answer: {error}") from error

    def reload(self) -> None:
        """Have it read its configuration again (SIGHUP)."""
        if self.process is not None:
            self.process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """End it as an operator would (SIGTERM), by force if it does not."""
        if self.process is not None:
            end_processes([self.process.pid])
            self.process.wait()
            self.process = None

    def processes(self) -> dict[str, int]:
        """Return the process ids of control and data plane."""
        if self.process is None:
            raise LabError(f"the edge of {self.plan.name} is not running")
        control = self.process.pid
        children = Path(f"/proc/{control}/task/{control}/children").read_text().split()
        found = {"control": control}
        if children:
            found["data plane"] = int(children[0])
        return found

    def last_words(self) -> str:
        """Return the end of the log."""
        with suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])
        return "(no log)"


class Overlay:
    """The edges of a lab, by site."""

    def __init__(
        self, lab: Lab, *, hub: str = HUB, rates_known: bool = True, settings: Settings | None = None
    ):
        self.lab = lab
        self.hub = hub
        plans = plan_sites(lab, rates_known=rates_known)
        write_sites(plans, hub=hub, settings=settings)
        self.edges = {plan.name: Edge(plan, lab) for plan in plans}

    def start(self) -> None:
        """Start all edges and wait until every path of every dialling site is up.

        Raises:
            LabError: one ended, or they did not find each other; with the end of its log.
        """
        for edge in self.edges.values():
            edge.start()
        self.wait_up()

    def wait_up(self, *, timeout_s: float = UP_TIMEOUT_S) -> None:
        """Wait until every path is up at both ends."""
        deadline = time.monotonic() + timeout_s
        waiting = dict(self.edges)
        while waiting:
            for name, edge in list(waiting.items()):
                if edge.process is not None and edge.process.poll() is not None:
                    raise LabError(f"the edge of {name} ended:\n{edge.last_words()}")
                if self._is_up(edge):
                    del waiting[name]
            if waiting and time.monotonic() > deadline:
                logs = "\n".join(f"{name}:\n{edge.last_words()}" for name, edge in waiting.items())
                raise LabError(f"{', '.join(waiting)} did not come up within {timeout_s:g} s\n{logs}")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End all edges."""
        for edge in self.edges.values():
            edge.stop()

    def _is_up(self, edge: Edge) -> bool:
        try:
            paths = edge.status()["paths"]
        except (LabError, KeyError):
            return False
        expected = len(edge.plan.uplinks)
        return sum(path["state"] == "up" for path in paths) >= expected


@contextmanager
def overlay(lab: Lab, **options: Any) -> Iterator[Overlay]:
    """Run the product in all sites of a lab for the length of a ``with``. Options as of ``Overlay``."""
    made = Overlay(lab, **options)
    try:
        made.start()
        yield made
    finally:
        with undisturbed():
            made.stop()
