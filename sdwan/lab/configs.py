"""Keys and configurations for the sites of a lab, or of real machines, as an operator would write them.

In comes which site has which interfaces and addresses; out comes one directory per site with ``site.key``
(0600) and ``site.yaml``. Nothing is started here (sdwan.lab.site does that).

Inner addresses: site number n (from 1) has 10.77.n.0/24 and fd77:n::/64, itself being .1 and ::1. The hub
waits; every other site dials each of the hub's addresses, over the link it stands on.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sdwan.core.noise import public_key
from sdwan.errors import LabError
from sdwan.io.keyfile import KEY_BYTES, write_key
from sdwan.io.layout import DEFAULT_PIN_ROOT
from sdwan.lab.topology import Lab
from sdwan.model import DEFAULT_PORT

# Implementation constants --------------------------------------------------------------------------

HUB = "hub"
TUN = "sdwan01"


@dataclass(frozen=True)
class Uplink:
    """One path as its site sees it: an interface, and what it dials there."""

    interface: str
    far_address: str
    """Where the hub is reached over it; unused on the hub."""
    rate_up_bps: int = 0
    """0 = not known."""
    rate_down_bps: int = 0


@dataclass(frozen=True)
class SitePlan:
    """All that one site's configuration is made from."""

    name: str
    number: int
    uplinks: tuple[Uplink, ...]
    directory: Path
    pin_root: Path = DEFAULT_PIN_ROOT
    runtime_dir: Path = Path("/run/sdwan")

    @property
    def address(self) -> str:
        """Inner IPv4 address."""
        return f"10.77.{self.number}.1"

    @property
    def address6(self) -> str:
        """Inner IPv6 address."""
        return f"fd77:{self.number}::1"

    @property
    def config_file(self) -> Path:
        """Its YAML file."""
        return self.directory / "site.yaml"

    @property
    def prefixes(self) -> list[str]:
        """Inner prefixes that belong to it."""
        return [f"10.77.{self.number}.0/24", f"fd77:{self.number}::/64"]


@dataclass(frozen=True)
class Settings:
    """What all sites of an overlay have in common."""

    extra: dict[str, Any] = field(default_factory=dict)
    """Further sections of the configuration, such as {"steering": {"mode": "earliest"}}."""
    links: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Further keys of single links, by interface."""
    strangers: int = 0
    """Peers the hub knows beside those of the lab, with keys nobody has: a hub with many customers."""


def plan_sites(lab: Lab, *, rates_known: bool = True) -> list[SitePlan]:
    """Plan the configuration of each site of a lab; ``rates_known`` writes the links' rates down."""
    plans = []
    for number, site in enumerate(lab.plan.sites, start=1):
        directory = lab.home.directory / site
        uplinks = []
        for port in lab.ports(site):
            cable = lab.plan.cables[port.link]
            up, down = cable.spec.forward.rate_bps, cable.spec.backward.rate_bps
            if cable.first != site:
                up, down = down, up
            known = (up, down) if rates_known else (0, 0)
            uplinks.append(Uplink(port.interface, port.far_address, *known))
        plans.append(SitePlan(site, number, tuple(uplinks), directory, lab.home.pin_root(site), directory))
    return plans


def plan_machines(
    directory: Path, hub: Sequence[tuple[str, str]], edges: Mapping[str, str]
) -> list[SitePlan]:
    """Plan a hub and its edges on real machines; files go to one directory per site below ``directory``.

    ``hub`` are its (interface, address) pairs; ``edges`` the interfaces of each edge, joined by ``+``. Each
    interface of an edge dials each address of the hub.
    """
    uplinks = {HUB: tuple(Uplink(interface, address) for interface, address in hub)}
    for name, interfaces in edges.items():
        if name == HUB:
            raise LabError(f"an edge cannot be called {HUB}")
        uplinks[name] = tuple(
            Uplink(interface, address) for interface in interfaces.split("+") for _, address in hub
        )
    return [
        SitePlan(name, number, links, directory / name)
        for number, (name, links) in enumerate(uplinks.items(), start=1)
    ]


def write_sites(plans: Sequence[SitePlan], *, hub: str = HUB, settings: Settings | None = None) -> None:
    """Make a key and a configuration file for each site; the hub waits, all others dial it.

    Raises:
        LabError: there is no such hub.
    """
    if hub not in {plan.name for plan in plans}:
        raise LabError(f"no site {hub} to be the hub; there are {', '.join(plan.name for plan in plans)}")
    publics = {}
    for plan in plans:
        plan.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        private = os.urandom(KEY_BYTES)
        (plan.directory / "site.key").unlink(missing_ok=True)
        write_key(plan.directory / "site.key", private)
        publics[plan.name] = base64.b64encode(public_key(private)).decode()
    for plan in plans:
        peers = [other for other in plans if (other.name == hub) != (plan.name == hub)]
        document = _document(plan, peers, publics, dials=plan.name != hub)
        settings = settings or Settings()
        merged = _merge(document, settings)
        if plan.name == hub:
            merged["peers"] = [*merged["peers"], *map(_stranger, range(settings.strangers))]
        plan.config_file.write_text(yaml.safe_dump(merged, sort_keys=False))


def _document(
    plan: SitePlan, peers: Sequence[SitePlan], publics: dict[str, str], dials: bool
) -> dict[str, Any]:
    links: list[dict[str, Any]] = []
    for uplink in {uplink.interface: uplink for uplink in plan.uplinks}.values():
        link: dict[str, Any] = {"name": uplink.interface, "interface": uplink.interface}
        rates = {"up": uplink.rate_up_bps, "down": uplink.rate_down_bps}
        if known := {way: f"{rate_bps}bit" for way, rate_bps in rates.items() if rate_bps}:
            link["rate"] = known
        links.append(link)
    described = []
    for peer in peers:
        entry: dict[str, Any] = {
            "name": peer.name,
            "public_key": publics[peer.name],
            "prefixes": peer.prefixes,
        }
        if dials:
            entry["endpoints"] = [
                {"address": _endpoint(uplink.far_address), "link": uplink.interface}
                for uplink in plan.uplinks
            ]
        described.append(entry)
    return {
        "site": plan.name,
        "private_key": "site.key",
        "tun": {"name": TUN, "addresses": [f"{plan.address}/24", f"{plan.address6}/64"]},
        "links": links,
        "peers": described,
        "bpf": {"pin_root": str(plan.pin_root)},
        "runtime_dir": str(plan.runtime_dir),
        "state_dir": str(plan.directory),
    }


def _stranger(number: int) -> dict[str, Any]:
    key = base64.b64encode(public_key(os.urandom(KEY_BYTES))).decode()
    prefix = f"10.{200 + number // 250}.{number % 250}.0/24"
    return {"name": f"stranger{number}", "public_key": key, "prefixes": [prefix]}


def _endpoint(address: str) -> str:
    return f"[{address}]:{DEFAULT_PORT}" if ":" in address else f"{address}:{DEFAULT_PORT}"


def _merge(document: dict[str, Any], settings: Settings) -> dict[str, Any]:
    merged = {**document}
    for section, values in settings.extra.items():
        own = merged.get(section)
        merged[section] = {**own, **values} if isinstance(own, dict) else values
    merged["links"] = [{**link, **settings.links.get(link["name"], {})} for link in document["links"]]
    return merged
