"""The shape of a site's configuration: strict, frozen models, one class per section of the file.

In comes the plain data of one YAML file, out goes a ``SiteConfig`` that never changes again. Strict
means: an unknown key is refused, and nothing is converted by guessing. The key in the file is the alias
where it differs from the attribute: the file says ``report_interval: 25ms``, the program reads
``report_interval_ns``. Build one in a test as the loader does::

    SiteConfig.model_validate({"site": "berlin", "private_key": "site.key", ...})

What a section and a key are stands in ``section``, classes and rules in ``policy``. Each field carries its
description, its kind and whether a reload can apply it; the reference page, the error texts and ``diff`` are
made from that, so a key is declared once and nowhere else. Rules that span several keys stand in ``check``.
"""

from __future__ import annotations

import base64
import logging
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sdwan.config.policy import RULES_MAX, ClassConfig, RuleConfig
from sdwan.config.section import (
    MILLISECOND_NS,
    SECOND_NS,
    Directory,
    DurationNs,
    FilePath,
    InnerInterface,
    Interface,
    IpAddress,
    KeyFacts,
    Mode,
    Name,
    Prefix,
    PublicKey,
    RateBps,
    Section,
    SizeBytes,
    SocketAddress,
    TunMtu,
    facts_of,
    key,
    keys_of,
    section_of,
)
from sdwan.model import CLASSES, DEFAULT_PORT, PEERS_MAX_DEFAULT, SteerMode

__all__ = [
    "BpfConfig", "ClassConfig", "ControlConfig", "EndpointConfig", "KeyFacts", "LinkConfig", "LinkRateConfig",
    "LogConfig", "MetricsConfig", "PeerConfig", "Prefix", "ProbeConfig", "RuleConfig", "Section",
    "SiteConfig", "SiteIdentity", "SteeringConfig", "TunConfig", "facts_of", "keys_of", "section_of",
]  # fmt: skip

# Implementation constants --------------------------------------------------------------------------

PEERS_MAX_LIMIT = 1024
"""Largest ``bpf.peers_max``: a few epochs of each still fit SDWAN_RECEIVERS_MAX (bpf/abi.h)."""


class TunConfig(Section):
    """The TUN interface applications use."""

    name: Interface = key(
        "sdwan01", "interface name", "Name of the TUN interface, at most 15 characters.",
        live=False, shown="sdwan01",
    )  # fmt: skip
    addresses: tuple[InnerInterface, ...] = key(
        ..., "list of address/length", "Addresses put on the TUN, IPv4 and IPv6.",
        strict=False, min_length=1, max_length=16,
    )  # fmt: skip
    mtu_bytes: TunMtu = key(
        None, "auto or bytes", "MTU of the TUN. `auto` follows the smallest path MTU that discovery finds.",
        alias="mtu", shown="auto",
    )  # fmt: skip
    """None = auto."""


class LinkRateConfig(Section):
    """What a link can carry, where the operator knows; a known rate is honoured as a cap."""

    up_bps: RateBps | None = key(
        None, "rate", "Rate towards the network. Without it the share is found by measuring.", alias="up"
    )
    down_bps: RateBps | None = key(
        None, "rate", "Rate from the network; told to the peer, which sends by it.", alias="down"
    )


class ProbeConfig(Section):
    """What to measure on a link besides the paths themselves."""

    icmp: IpAddress = key(
        ..., "address", "Host that answers ping; gives rtt and loss of a link on which no peer answers."
    )


class LinkConfig(Section):
    """One local WAN interface."""

    name: Name = key(..., "name", "Name of the link in logs, metrics and `endpoints[].link`.", live=False)
    interface: Interface = key(..., "interface name", "Network interface of the link.", live=False)
    rate: LinkRateConfig = key(LinkRateConfig(), "section", "Known rates of the link.", shown="measured")
    weight: float = key(
        1.0, "number 0..1000", "The operator's preference, a factor on what was measured. 0: no data here.",
        ge=0, le=1000, allow_inf_nan=False, shown="1.0",
    )  # fmt: skip
    metered: bool = key(
        False, "true or false", "Each byte costs: probe rarely while the link is idle.", shown="false"
    )
    quota_bytes: SizeBytes | None = key(
        None, "size", "What the link may carry in a month, both directions together; then it is used only "
        "when no other link is usable.", alias="quota",
    )  # fmt: skip
    quota_day: int = key(
        1, "number 1..28", "Day of the month on which the quota starts anew.", ge=1, le=28, shown="1"
    )
    only_when_needed: bool = key(
        False, "true or false", "A backup: carry data only while no other link is usable.", shown="false"
    )
    probe: ProbeConfig | None = key(None, "section", "Additional measurement of the link.")

    @property
    def rate_up_bps(self) -> int | None:
        """Configured rate towards the network, or None."""
        return self.rate.up_bps

    @property
    def rate_down_bps(self) -> int | None:
        """Configured rate from the network, or None."""
        return self.rate.down_bps


class EndpointConfig(Section):
    """One address under which a peer can be reached."""

    address: SocketAddress = key(
        ..., "address:port", "UDP address of the peer; IPv6 in brackets and quotes: `'[2001:db8::1]:4510'`."
    )
    link: Name | None = key(
        None, "name", "Use the endpoint over this link only. Without it: over every link.", shown="every link"
    )


class PeerConfig(Section):
    """One other site."""

    name: Name = key(..., "name", "Name of the peer in logs and metrics.")
    public_key: PublicKey = key(..., "key", "Public key of the peer, 44 characters of base64.")
    preshared_key: FilePath | None = key(
        None, "path", "File (mode 0600) with a key both sites share, mixed in beside the public keys."
    )
    prefixes: tuple[Prefix, ...] = key(
        ..., "list of prefixes",
        "Inner prefixes behind the peer: what is sent to them goes to it, what it sends must come from them. "
        "Where prefixes of two peers nest, the more specific one wins.",
        strict=False, min_length=1, max_length=256,
    )  # fmt: skip
    endpoints: tuple[EndpointConfig, ...] = key(
        (), "list", "Where the peer can be reached. A site without them waits for the peer, as a hub does.",
        strict=False, max_length=8, shown="wait",
    )  # fmt: skip

    @property
    def public_key_text(self) -> str:
        """The public key as the file has it."""
        return base64.b64encode(self.public_key).decode()


class SteeringConfig(Section):
    """How the kernel chooses the path of a datagram."""

    mode: Mode = key(
        SteerMode.EARLIEST, "earliest, stride, pin or duplicate",
        "`earliest`: the path that delivers first, while the capacity of every path is configured or has "
        "been measured, else as `stride`; `stride`: shares by weight; `pin`: the heaviest path; "
        "`duplicate`: a copy on every path.", shown="earliest",
    )  # fmt: skip
    classes: dict[Annotated[int, Field(ge=0, lt=CLASSES)], Mode] = key(
        {}, "map: class 0..7 to mode", "Another mode for single traffic classes.", shown="none"
    )

    def mode_of(self, traffic_class: int) -> SteerMode:
        """Return the mode of one traffic class."""
        return self.classes.get(traffic_class, self.mode)


class ControlConfig(Section):
    """Rhythm of the control loop."""

    report_interval_ns: DurationNs = key(
        25 * MILLISECOND_NS, "duration 10ms..50ms",
        "While traffic arrives, tell the peer this often what arrived on each path.",
        alias="report_interval", ge=10 * MILLISECOND_NS, le=50 * MILLISECOND_NS, shown="25ms",
    )  # fmt: skip
    probe_interval_ns: DurationNs = key(
        100 * MILLISECOND_NS, "duration 20ms..10s",
        "Probe each path this often while traffic flows on it; idle paths are probed less often.",
        alias="probe_interval", ge=20 * MILLISECOND_NS, le=10 * SECOND_NS, shown="100ms",
    )  # fmt: skip
    quiet_probe_interval_ns: DurationNs = key(
        10 * SECOND_NS, "duration 1s..60s",
        "Probe idle paths on metered links this often, and no other idle path less often.",
        alias="quiet_probe_interval", ge=SECOND_NS, le=60 * SECOND_NS, shown="10s",
    )  # fmt: skip
    keepalive_ns: DurationNs = key(
        25 * SECOND_NS, "duration 1s..120s",
        "Send a sign of life on an idle path this often, so that address translators keep it open.",
        alias="keepalive", ge=SECOND_NS, le=120 * SECOND_NS, shown="25s",
    )  # fmt: skip


class MetricsConfig(Section):
    """Where Prometheus finds the metrics."""

    listen: SocketAddress = key(
        ..., "address:port", "Serve `/metrics` here, over HTTP without authentication: use a local address.",
        live=False,
    )  # fmt: skip


class LogConfig(Section):
    """What is logged, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = key(
        "info", "debug, info, warning or error", "Least severity that is logged.", shown="info"
    )
    format: Literal["text", "json"] = key(
        "text", "text or json", "One line of `key=value` for people, or one JSON object a line.", shown="text"
    )

    @property
    def level_number(self) -> int:
        """The level as ``logging`` counts it."""
        return int(getattr(logging, self.level.upper()))


class BpfConfig(Section):
    """Where the kernel programs live and how large their tables are."""

    pin_root: Directory = key(
        Path("/sys/fs/bpf/sdwan/v2"), "directory", "Where programs and maps are pinned; must be on a bpffs.",
        live=False, shown="/sys/fs/bpf/sdwan/v2",
    )  # fmt: skip
    peers_max: int = key(
        PEERS_MAX_DEFAULT, f"number 2..{PEERS_MAX_LIMIT}",
        "Peers the maps are sized for; number 0 is nobody, so one fewer can be configured.",
        live=False, ge=2, le=PEERS_MAX_LIMIT, shown=str(PEERS_MAX_DEFAULT),
    )  # fmt: skip
    hook: Literal["auto", "tc", "xdp"] = key(
        "auto", "auto, tc or xdp",
        "Where received datagrams are accounted. `auto`: native XDP where the driver can, else TC.",
        live=False, shown="auto",
    )  # fmt: skip


class SiteIdentity(Section):
    """What it takes to find the running edge of a site."""

    site: Name = key(..., "name", "Name of this site.", live=False)
    runtime_dir: Directory = key(
        Path("/run/sdwan"), "directory", "Directory of the lock file and of the status socket.",
        live=False, shown="/run/sdwan",
    )  # fmt: skip

    state_dir: Directory = key(
        Path("/var/lib/sdwan"), "directory",
        "Directory of what is remembered over restarts: measured rates, used quotas.",
        live=False, shown="/var/lib/sdwan",
    )  # fmt: skip

    @property
    def memory_file(self) -> Path:
        """Where measured rates and used quotas are remembered."""
        return self.state_dir / f"{self.site}.memory.json"

    @property
    def status_socket(self) -> Path:
        """Unix socket on which the running edge tells its status."""
        return self.runtime_dir / f"{self.site}.sock"

    @property
    def command_socket(self) -> Path:
        """Unix socket on which the running edge takes commands (sdwan.edge.commands)."""
        return self.runtime_dir / f"{self.site}.ctl"

    @property
    def lock_file(self) -> Path:
        """Held by the running edge; contains its process id."""
        return self.runtime_dir / f"{self.site}.lock"


class SiteConfig(SiteIdentity):
    """Everything one site is told; one file."""

    private_key: FilePath = key(
        ..., "path", "File (mode 0600) with the site's private key, made by `sdwan keygen`. A relative path "
        "is meant from the directory of this file.", live=False,
    )  # fmt: skip
    port: int = key(
        DEFAULT_PORT, "number 1..65535", "UDP port of this site on every link.",
        live=False, ge=1, le=65535, shown=str(DEFAULT_PORT),
    )  # fmt: skip
    tun: TunConfig = key(..., "section", "The TUN interface applications use.")
    links: tuple[LinkConfig, ...] = key(
        ..., "list, at most 8", "Local WAN interfaces.", strict=False, min_length=1, max_length=8, live=False
    )
    peers: tuple[PeerConfig, ...] = key(
        (), "list", "Other sites.", strict=False, max_length=PEERS_MAX_LIMIT - 1, shown="none"
    )
    steering: SteeringConfig = key(SteeringConfig(), "section", "How the path of a datagram is chosen.")
    classes: dict[Name, ClassConfig] = key(
        {}, "map: name to section", "Traffic classes. `bulk`, `interactive`, `video` and `voice` exist "
        "without being written and can be changed here; at most eight. Write the same at both ends.",
        shown="the ready four",
    )  # fmt: skip
    rules: tuple[RuleConfig, ...] = key(
        (), f"list, at most {RULES_MAX}", "Which packets belong to which class: the first match wins; what "
        "no rule names is `bulk`.", strict=False, max_length=RULES_MAX, shown="the ready rules",
    )  # fmt: skip
    control: ControlConfig = key(ControlConfig(), "section", "Rhythm of the control loop.")
    metrics: MetricsConfig | None = key(None, "section", "Export metrics.", live=False, shown="not exported")
    log: LogConfig = key(LogConfig(), "section", "Logging.")
    bpf: BpfConfig = key(BpfConfig(), "section", "Kernel programs.", live=False)

    def link(self, name: str) -> LinkConfig:
        """Return the link of that name (KeyError if there is none)."""
        for link in self.links:
            if link.name == name:
                return link
        raise KeyError(name)
