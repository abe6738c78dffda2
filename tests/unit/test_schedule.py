"""Which steering mode the kernel is told."""

from __future__ import annotations

import pytest

from sdwan.core.schedule import Decision, mode_in_force
from sdwan.model import SteerMode


def _decision(shares: tuple[float, ...], ns_per_kib: tuple[int, ...]) -> Decision:
    return Decision(shares, ns_per_kib, (0,) * len(shares), burst_segments=1)


@pytest.mark.parametrize(
    ("wanted", "shares", "ns_per_kib", "told"),
    [
        (SteerMode.EARLIEST, (1.0, 0.5), (80, 160), SteerMode.EARLIEST),
        (SteerMode.EARLIEST, (1.0, 0.5), (80, 0), SteerMode.STRIDE),
        (SteerMode.EARLIEST, (1.0, 0.0), (80, 0), SteerMode.EARLIEST),
        (SteerMode.STRIDE, (1.0, 0.5), (80, 160), SteerMode.STRIDE),
        (SteerMode.DUPLICATE, (1.0, 0.5), (0, 0), SteerMode.DUPLICATE),
    ],
)
def test_earliest_delivery_needs_the_capacity_of_every_path_in_use(
    wanted: SteerMode, shares: tuple[float, ...], ns_per_kib: tuple[int, ...], told: SteerMode
) -> None:
    assert mode_in_force(wanted, _decision(shares, ns_per_kib)) is told
