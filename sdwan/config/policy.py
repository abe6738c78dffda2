"""Traffic classes and the rules that fill them, as the file has them.

One part of the shape in ``schema``. A key of a class that is not written is None here and keeps what the
ready class of that name has, or what a new class has by default; ``sdwan.edge.policy`` joins both. Rules
across keys stand in ``check_policy``.
"""

from __future__ import annotations

from typing import Literal

from sdwan.config.section import (
    MILLISECOND_NS,
    SECOND_NS,
    DscpSet,
    DurationNs,
    Mode,
    Name,
    NameList,
    PortRanges,
    PrefixSet,
    ProtocolSet,
    RateBps,
    Section,
    SharePpm,
    key,
)

# Implementation constants --------------------------------------------------------------------------

RULES_MAX = 2000
"""The same as in sdwan.core.classify, whose memory grows with the square."""
COMMENT_CHARS_MAX = 200


class SlaConfig(Section):
    """What a link must keep to carry a class."""

    latency_ns: DurationNs | None = key(None, "duration", "Largest round trip time.", alias="latency")
    jitter_ns: DurationNs | None = key(None, "duration", "Largest jitter.", alias="jitter")
    loss_ppm: SharePpm | None = key(None, "share", "Largest loss, such as `1%`.", alias="loss")
    worse_for_ns: DurationNs = key(
        SECOND_NS, "duration 100ms..60s", "So long beyond a limit, and the link is out for the class.",
        alias="worse_for", ge=100 * MILLISECOND_NS, le=60 * SECOND_NS, shown="1s",
    )  # fmt: skip
    better_for_ns: DurationNs = key(
        10 * SECOND_NS, "duration 1s..600s", "So long within all limits, and it is back.",
        alias="better_for", ge=SECOND_NS, le=600 * SECOND_NS, shown="10s",
    )  # fmt: skip


class ClassConfig(Section):
    """What one traffic class needs; what is not written stays as it is by default."""

    priority: int | None = key(
        None, "number 0..7", "0 is served first; classes of equal priority share.", ge=0, le=7, shown="3"
    )
    steering: Mode | None = key(
        None, "earliest, stride, pin or duplicate", "How paths are chosen, instead of `steering.mode`."
    )
    preference: Literal["any", "lowest_latency", "highest_bandwidth", "ordered"] | None = key(
        None, "any, lowest_latency, highest_bandwidth or ordered",
        "Links it would rather use. `any`: what delivers first; `lowest_latency`: only those about as quick "
        "as the quickest; `highest_bandwidth`: the widest until it is full; `ordered`: the first usable one "
        "of `links`.", alias="prefer", shown="any",
    )  # fmt: skip
    links: NameList | None = key(
        None, "list of names", "With `prefer: ordered` the order of preference; else the only links allowed, "
        "also when none of them is usable.", shown="all",
    )  # fmt: skip
    avoid_metered: bool | None = key(
        None, "true or false", "Use metered links only when no other is usable.", shown="false"
    )
    backup_links: NameList | None = key(
        None, "list of names", "Links used only when no other is usable.", shown="none"
    )
    recovery: Literal["none", "resend", "fec", "duplicate"] | None = key(
        None, "none, resend, fec or duplicate",
        "How losses are made good: `resend` costs a round trip, `fec` bytes, `duplicate` a copy on each "
        "link.", shown="resend",
    )  # fmt: skip
    deadline_ns: DurationNs | None = key(
        None, "duration 5ms..10s", "How long a packet is worth repairing; later ones wait no longer for it.",
        alias="deadline", ge=5 * MILLISECOND_NS, le=10 * SECOND_NS, shown="1s",
    )  # fmt: skip
    residual_loss_ppm: SharePpm | None = key(
        None, "share", "What `fec` may leave unrepaired.", alias="residual_loss", shown="0.01%"
    )
    playout_ns: DurationNs | None = key(
        None, "duration 0..2s", "Deliver evenly, so long after sending, instead of at once.",
        alias="playout", le=2 * SECOND_NS, shown="0ms",
    )  # fmt: skip
    rate_limit_bps: RateBps | None = key(None, "rate", "Of the whole class to one peer.", alias="rate_limit")
    queue_target_ns: DurationNs | None = key(
        None, "duration 1ms..1s", "Standing queue tolerated before packets are dropped or marked.",
        alias="queue_target", ge=MILLISECOND_NS, le=SECOND_NS, shown="40ms",
    )  # fmt: skip
    copy_dscp: bool | None = key(
        None, "true or false", "Show the DSCP of the packets inside on the outside.", shown="false"
    )
    sla: SlaConfig | None = key(None, "section", "Limits beyond which a link is not used for the class.")


class RuleConfig(Section):
    """Packets that meet every condition belong to a class."""

    dscp: DscpSet = key((), "names or numbers", "Such as `EF`, `[AF41, CS4]`, `AF4x` or `46`.", shown="any")
    protocols: ProtocolSet = key(
        (), "names or numbers", "`tcp`, `udp`, `icmp` (both families'), `esp` and so on, or 0..255.",
        alias="protocol", shown="any",
    )  # fmt: skip
    ports: PortRanges = key(
        (),
        "ports or ranges",
        "Of source or destination, such as `443` or `[5060-5061, 16384-32767]`.",
        shown="any",
    )
    source_ports: PortRanges = key((), "ports or ranges", "Of the source.", shown="any")
    destination_ports: PortRanges = key((), "ports or ranges", "Of the destination.", shown="any")
    prefixes: PrefixSet = key((), "prefixes", "Of source or destination, IPv4 and IPv6.", shown="any")
    source: PrefixSet = key((), "prefixes", "Of the source: who opened the conversation.", shown="any")
    destination: PrefixSet = key((), "prefixes", "Of the destination: who answers.", shown="any")
    direction: Literal["both", "out", "in"] = key(
        "both", "both, out or in", "Conversations opened from this site (`out`), towards it (`in`: what this "
        "site sends are the answers, so source and destination are exchanged), or either.", shown="both",
    )  # fmt: skip
    class_name: Name = key(..., "name", "The class of what matches.", alias="class")
    link: Name | None = key(
        None, "name", "Keep what matches on this link while it is usable: an application pinned to a link.",
        shown="as the class",
    )  # fmt: skip
    comment: str = key("", "text", "For people.", max_length=COMMENT_CHARS_MAX)
