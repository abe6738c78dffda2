"""Sites that run the product, for the tests of edge control: a lab with configurations to change.

``world(...)`` builds a lab (sdwan.lab), writes keys and configurations, lets the test change them, and
starts the edges. Everything is watched the way an operator would: status socket, ping, log.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from sdwan.lab.link import LinkSpec
from sdwan.lab.site import Edge, Overlay
from sdwan.lab.topology import Cable, Lab, Plan, build

Document = dict[str, Any]

_numbers = itertools.count()
"""A lab that lives for a module stands beside those of single tests; dead labs are swept by the next."""


def wait_until(what: Callable[[], object], why: str, timeout_s: float = 20.0) -> float:
    """Poll until something is true; return how long it took."""
    began = time.monotonic()
    while not what():
        if time.monotonic() - began > timeout_s:
            raise AssertionError(f"not within {timeout_s:g} s: {why}")
        time.sleep(0.02)
    return time.monotonic() - began


class World:
    """A lab whose sites run the product."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.overlay = Overlay(lab, rates_known=False)

    def __getitem__(self, site: str) -> Edge:
        return self.overlay.edges[site]

    def change(self, site: str, how: Callable[[Document], object]) -> None:
        """Change a site's configuration file."""
        file = self[site].plan.config_file
        document = yaml.safe_load(file.read_text())
        how(document)
        file.write_text(yaml.safe_dump(document, sort_keys=False))

    def start(self) -> None:
        """Start all edges and wait until every path is up."""
        self.overlay.start()

    def path(self, site: str, number: int, peer: str = "") -> Document:
        """Return the status of one path."""
        paths = self[site].status()["paths"]
        return next(p for p in paths if p["path"] == number and peer in ("", p["peer"]))

    def states(self, site: str) -> list[str]:
        """Return the states of a site's paths."""
        return [path["state"] for path in self[site].status()["paths"]]

    def log(self, site: str) -> str:
        """Return a site's log so far."""
        return self[site].log.read_text()

    def pings(self, site: str, address: str, *, count: int = 3, interval_s: float = 0.05) -> int:
        """Ping from a site; return how many answers came."""
        command = ["ping", "-q", "-c", str(count), "-i", f"{interval_s:g}", "-W", "1", address]
        result = subprocess.run(
            self.lab.namespace(site).command(command), capture_output=True, text=True, check=False, timeout=60
        )
        line = next(
            (line for line in result.stdout.splitlines() if "received" in line), "0 transmitted, 0 received"
        )
        return int(line.split(" received")[0].split()[-1])

    def reaches(self, site: str, address: str) -> bool:
        """Tell whether a ping comes through."""
        return self.pings(site, address, count=1) == 1

    def run(self, site: str, *command: str) -> str:
        """Run a command in a site's namespace."""
        return self.lab.namespace(site).run(list(command))


@contextmanager
def world(*specs: LinkSpec, edges: int = 1) -> Iterator[World]:
    """Build a hub with edges, each joined to it by links of these kinds (default: two bare ones)."""
    names = ("edge",) if edges == 1 else tuple(f"edge{n}" for n in range(1, edges + 1))
    kinds = specs or (LinkSpec(), LinkSpec())
    cables = tuple(Cable(name, "hub", spec) for name in names for spec in kinds)
    with build(f"t{os.getpid()}_{next(_numbers)}", Plan((*names, "hub"), cables)) as lab:
        made = World(lab)
        try:
            yield made
        finally:
            made.overlay.stop()
