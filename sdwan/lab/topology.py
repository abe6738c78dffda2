"""Sites and links become a lab: namespaces, wires, addresses; and nothing of it stays behind.

                 10.90.0.1 ┌──────┐ link 0 ┌──────┐ 10.90.0.2
        ┌───────┐ wan0 ────┤      ├────────┤      ├──── wan0 ┌───────┐
        │  edge │          └──────┘        └──────┘          │  hub  │
        └───────┘ wan1 ────────────  link 1  ──────────  wan1└───────┘
                 10.90.1.1                         10.90.1.2

Each link L is a subnet of its own, 10.90.L.0/24 and fd90:L::/64; its first end is .1, its second .2. The
n-th link of a site is that site's interface ``wan<n>``. Any number of sites and links: a hub with three
edges of two links each is six links.

In comes a ``Plan``; out comes a ``Lab``. ``build`` is a context manager: whatever ends the block, also a
signal (see ``home.ending_cleanly``), everything is removed. ``Lab.keep`` lets it stay, ``reopen`` finds it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sdwan.errors import LabError
from sdwan.lab import home as homes
from sdwan.lab.home import Home
from sdwan.lab.impairment import Impairment
from sdwan.lab.link import EmulatedLink, Link, LinkEnd, LinkSpec, VethLink, connect, start_emulator
from sdwan.lab.namespace import Namespace

# Implementation constants --------------------------------------------------------------------------

LINKS_MAX = 250
"""The link's number is a byte of its IPv4 subnet."""


@dataclass(frozen=True)
class Cable:
    """One link of a plan: which sites it joins, and what it shall be."""

    first: str
    second: str
    spec: LinkSpec = field(default_factory=LinkSpec)


@dataclass(frozen=True)
class Plan:
    """What a lab shall be: the sites in order, and the cables between them."""

    sites: tuple[str, ...]
    cables: tuple[Cable, ...]
    outside: dict[str, str] = field(default_factory=dict)
    """Sites that live in a namespace which is there already, by its name; empty = the machine's own. The lab
    puts its links and edges there, and takes only those away."""

    def __post_init__(self) -> None:
        if unknown := sorted(self.outside.keys() - set(self.sites)):
            raise LabError(f"{', '.join(unknown)} is no site; there are {', '.join(self.sites)}")
        if len(self.cables) > LINKS_MAX:
            raise LabError(f"{len(self.cables)} links; a lab has at most {LINKS_MAX}")
        for cable in self.cables:
            for site in (cable.first, cable.second):
                if site not in self.sites:
                    raise LabError(
                        f"a link ends at {site}, which is no site; there are {', '.join(self.sites)}"
                    )

    @classmethod
    def pair(cls, *specs: LinkSpec, sites: tuple[str, str] = ("edge", "hub")) -> Plan:
        """Plan two sites with these links between them."""
        return cls(sites, tuple(Cable(*sites, spec) for spec in specs))


@dataclass(frozen=True)
class Port:
    """A site's end of a link: interface, own address and the address at the far end (IPv4)."""

    link: int
    interface: str
    address: str
    far_address: str
    far_site: str


class Lab:
    """A lab that stands: sites by name, links by number."""

    def __init__(self, home: Home, plan: Plan) -> None:
        self.home = home
        self.plan = plan
        self.links: list[Link] = []

    def namespace(self, site: str) -> Namespace:
        """Return the namespace of a site."""
        if site not in self.plan.sites:
            raise LabError(f"no site {site}; there are {', '.join(self.plan.sites)}")
        if site in self.plan.outside:
            return Namespace(self.plan.outside[site])
        return self.home.namespace(site)

    def ports(self, site: str) -> list[Port]:
        """Return a site's ends of its links, wan0 first."""
        ports: list[Port] = []
        for number, cable in enumerate(self.plan.cables):
            for own, far, host, far_host in (
                (cable.first, cable.second, 1, 2),
                (cable.second, cable.first, 2, 1),
            ):
                if own == site:
                    addresses = (f"10.90.{number}.{host}", f"10.90.{number}.{far_host}")
                    ports.append(Port(number, f"wan{len(ports)}", *addresses, far))
        return ports

    def keep(self) -> None:
        """Let the lab stand after this process; ``reopen`` finds it."""
        record = {"plan": asdict(self.plan), "kinds": [link.kind for link in self.links]}
        (self.home.directory / "lab.json").write_text(json.dumps(record))
        self.home.keep()

    def end(self, link: int, site: str) -> LinkEnd:
        """Return one end of a link.

        Raises:
            LabError: the link does not end at that site.
        """
        for port in self.ports(site):
            if port.link == link:
                host = port.address.rpartition(".")[2]
                addresses = (f"{port.address}/24", f"fd90:{link}::{host}/64")
                return LinkEnd(self.namespace(site), port.interface, addresses)
        raise LabError(f"link {link} does not end at {site}")

    def _control(self) -> Path:
        """Return the emulator's control socket; start the emulator when first asked."""
        control = self.home.directory / "emulator.sock"
        if not control.exists():
            self.home.note_process(start_emulator(control).pid)
        return control

    def _build(self) -> None:
        for site in self.plan.sites:
            namespace = self.namespace(site)
            if site not in self.plan.outside:
                namespace.create()
            elif not namespace.exists():
                raise LabError(f"there is no namespace {namespace.name}; `ip netns add` makes one")
        for number, cable in enumerate(self.plan.cables):
            ends = (self.end(number, cable.first), self.end(number, cable.second))
            name = f"link{number}"
            for end in ends:
                self._announce(end)
            self.links.append(connect(cable.spec, ends, name=name, emulator=self._control))

    def _announce(self, end: LinkEnd) -> None:
        """Note an interface before it is made; one that is there already is not ours to take away."""
        listed = json.loads(end.namespace.run(["ip", "-j", "link", "show"]))
        if any(link.get("ifname") == end.interface for link in listed):
            where = end.namespace.name or "this machine"
            raise LabError(f"{where} has an interface {end.interface} already; remove it, or use a namespace")
        self.home.note_interface(end.namespace, end.interface)


@contextmanager
def build(name: str, plan: Plan) -> Iterator[Lab]:
    """Build a lab for the length of a ``with``; sweep up first what dead labs left.

    Raises:
        LabError: a lab of this name stands, or the plan cannot be built here.
    """
    homes.sweep()
    home = Home(name)
    home.claim()
    lab = Lab(home, plan)
    kept = home.directory / "kept"
    try:
        lab._build()
        yield lab
    except BaseException:
        kept.unlink(missing_ok=True)
        raise
    finally:
        if not kept.exists():
            with homes.undisturbed():
                home.remove()


def reopen(name: str) -> Lab:
    """Return a lab that another process built and kept.

    Raises:
        LabError: there is none of this name.
    """
    home = Home(name)
    try:
        record = json.loads((home.directory / "lab.json").read_text())
    except FileNotFoundError:
        standing = ", ".join(other.name for other in homes.homes()) or "none"
        raise LabError(f"no lab {name} stands; there are: {standing}") from None
    lab = Lab(home, _plan_from(record["plan"]))
    for number, (cable, kind) in enumerate(zip(lab.plan.cables, record["kinds"], strict=True)):
        ends = (lab.end(number, cable.first), lab.end(number, cable.second))
        if kind == "emulated":
            link: Link = EmulatedLink(cable.spec, ends, home.directory / "emulator.sock", f"link{number}")
        else:
            link = VethLink(kind, cable.spec, ends)
        lab.links.append(link)
    return lab


def _plan_from(values: dict[str, Any]) -> Plan:
    cables = []
    for cable in values["cables"]:
        forward, backward = (Impairment.from_dict(cable["spec"][way]) for way in ("forward", "backward"))
        spec = replace(LinkSpec(**cable["spec"]), forward=forward, backward=backward)
        cables.append(Cable(cable["first"], cable["second"], spec))
    return Plan(tuple(values["sites"]), tuple(cables), values["outside"])
