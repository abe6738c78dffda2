"""What the kernel itself can do to a link: argument lists for tc, and whether this kernel has netem.

``kernel_has_netem`` tries, in a namespace of its own: a look at modules or versions would only prove that the
kernel looks able. Used by sdwan.lab.link, and by ``sdwan lab link shape`` for any interface.

TBF stands at the root and netem below it, not the other way round: TBF cuts super-packets into the frames
of the wire, so that netem loses and delays single frames. The drop-tail buffer is then netem's, and
counts frames, those on their way included.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sdwan.errors import LabError
from sdwan.lab.impairment import MILLION, SECOND_NS, Impairment
from sdwan.lab.namespace import Namespace, run

# Implementation constants --------------------------------------------------------------------------

FRAME_BYTES = 1514
"""A full Ethernet frame without FCS; rates count these."""
TBF_BURST_BYTES = 10 * FRAME_BYTES
"""More than any frame, less than a super-packet (so TBF cuts it up); 1.2 ms at 100 Mbit/s."""
NETEM_CARRIER_BPS = 40 * 10**9
"""Rate of a link without one: TBF is still wanted for cutting."""
NETEM_LIMIT_FRAMES_MAX = 100_000


def tbf(impairment: Impairment) -> list[str]:
    """Return the tc arguments for rate and buffer.

    Raises:
        LabError: the impairment asks for more than TBF can do.
    """
    if extra := sorted(_unlike_default(impairment) - {"rate_bps", "buffer_ns", "buffer_bytes"}):
        raise LabError(f"a tbf link has a rate and a buffer, not {', '.join(extra)}; use kind emulated")
    if not impairment.rate_bps:
        raise LabError("a tbf link needs a rate; use kind bare for a link without limits")
    return _tbf(impairment.rate_bps, buffer_bytes(impairment))


def netem(impairment: Impairment) -> list[list[str]]:
    """Return the tc arguments of the two qdiscs, root first (``handle``, ``parent`` included)."""
    rate_bps = impairment.rate_bps or NETEM_CARRIER_BPS
    waiting_bytes = buffer_bytes(impairment) + impairment.delay_ns * rate_bps // (8 * SECOND_NS)
    limit = min(max(waiting_bytes // FRAME_BYTES, 2), NETEM_LIMIT_FRAMES_MAX)
    arguments = ["netem", "limit", str(limit)]
    if impairment.delay_ns or impairment.jitter_ns:
        middle_ns = impairment.delay_ns + impairment.jitter_ns // 2
        arguments += ["delay", f"{middle_ns // 1000}us"]
        if impairment.jitter_ns:  # netem spreads to both sides; a rate makes it keep the order
            arguments += [f"{impairment.jitter_ns // 2000}us", "rate", str(NETEM_CARRIER_BPS)]
    if impairment.blackhole:
        arguments += ["loss", "100%"]
    elif impairment.burst_enter_ppm:
        shares = (impairment.burst_enter_ppm, impairment.burst_leave_ppm, impairment.burst_loss_ppm)
        arguments += ["loss", "gemodel", *map(_percent, shares)]
    elif impairment.loss_ppm:
        arguments += ["loss", _percent(impairment.loss_ppm)]
    if impairment.duplicate_ppm:
        arguments += ["duplicate", _percent(impairment.duplicate_ppm)]
    root = ["root", "handle", "1:", *_tbf(rate_bps, max(buffer_bytes(impairment), FRAME_BYTES))]
    return [root, ["parent", "1:1", "handle", "10:", *arguments]]


def netem_can(impairment: Impairment) -> bool:
    """Tell whether netem can do all of it: it knows no traces, no MTU holes and other reordering."""
    both_losses = impairment.loss_ppm and impairment.burst_enter_ppm
    return not (impairment.trace or impairment.mtu_bytes or impairment.reorder_ppm or both_losses)


def buffer_bytes(impairment: Impairment) -> int:
    """Return the drop-tail buffer in bytes."""
    rate_bps = impairment.rate_bps or NETEM_CARRIER_BPS
    return impairment.buffer_bytes or impairment.buffer_ns * rate_bps // (8 * SECOND_NS)


@cache
def kernel_has_netem() -> bool:
    """Find out whether this kernel accepts a netem qdisc, by adding one where it hurts nobody."""
    try:
        run(["unshare", "--net", "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"])
    except LabError:
        return False
    return True


def shape_interface(namespace: Namespace, interface: str, values: dict[str, Any]) -> None:
    """Shape what leaves any interface; its present root qdisc is replaced.

    Raises:
        LabError: the kernel lacks netem and the impairments need it, or there is no such interface.
    """
    impairment = Impairment.from_dict(values)
    replace = ["tc", "qdisc", "replace", "dev", interface]
    if netem_can(impairment) and kernel_has_netem():
        for arguments in netem(impairment):
            namespace.run([*replace, *arguments])
    else:
        namespace.run([*replace, "root", *tbf(impairment)])


def unshape_interface(namespace: Namespace, interface: str) -> None:
    """Give an interface its default qdisc back."""
    namespace.run(["tc", "qdisc", "delete", "dev", interface, "root"])


def _tbf(rate_bps: int, queue_bytes: int) -> list[str]:
    limit_bytes = queue_bytes + TBF_BURST_BYTES
    return ["tbf", "rate", f"{rate_bps}bit", "burst", str(TBF_BURST_BYTES), "limit", str(limit_bytes)]


def _percent(share_ppm: int) -> str:
    return f"{share_ppm * 100 / MILLION:.4f}%"


def _unlike_default(impairment: Impairment) -> set[str]:
    default = Impairment()
    names = Impairment.__dataclass_fields__
    return {name for name in names if getattr(impairment, name) != getattr(default, name)}
