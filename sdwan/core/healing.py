"""Healing: how much forward error correction the classes to one peer get, as news of its paths come in.

Pure; one per ``sdwan.core.tunnel.Tunnel``. In come what the kernel sent (who carries how much of which
class) and the rows of the peer's reports (how much is lost, and in what runs); out come the actions
SetProtection, and an Event that says why. It only translates: how loss clusters is found by
sdwan.core.burstiness, and what follows from it by sdwan.core.recovery.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from sdwan.core.actions import Action, Event, SetProtection
from sdwan.core.burstiness import LossMeter
from sdwan.core.capacity import State
from sdwan.core.classes import ClassSpec, Recovery
from sdwan.core.messages import PathReport
from sdwan.core.path import Path
from sdwan.core.recovery import Change, PathLoss, Protection, RecoveryPolicy
from sdwan.core.sent import Rows
from sdwan.core.wire import CLASS_MASK, DATA_TYPES
from sdwan.model import CLASSES, PATHS_PER_PEER, PathState

# Implementation constants -------------------------------------------------------------------------

SECOND_NS = 10**9
INTERVAL_NS = SECOND_NS // 2
"""Protection follows the loss of the last seconds, not of the last report."""
QUEUE_NS = 12_000_000
"""A queue that makes loss suspect: that of sdwan.core.capacity's law."""
RATE_RISE, RATE_FALL = 0.5, 0.1
"""Blocks are made for a class at work: between its bursts its rate means little, so it falls slowly."""

_DATA_LAST = max(DATA_TYPES)


class Healing:
    """The protection of one peer's traffic."""

    def __init__(self) -> None:
        self.policy = RecoveryPolicy()
        self._meters: dict[int, LossMeter] = {}
        self._sent = np.zeros((PATHS_PER_PEER, CLASSES), dtype=np.int64)
        """Datagrams since the last update."""
        self._rows_per_s = [0.0] * CLASSES
        self._updated_ns: int | None = None

    def of(self, traffic_class: int) -> Protection:
        """Return what is in force."""
        return self.policy.of(traffic_class)

    def on_sent(self, sends: Mapping[int, Rows]) -> None:
        """Take what the kernel sent, by path: rows of struct tx_record."""
        for path, records in sends.items():
            data = records[records["type"] <= _DATA_LAST]
            classes = data["class"] & CLASS_MASK
            self._sent[path] += np.bincount(classes, data["segments"], CLASSES).astype(np.int64)

    def on_report(self, row: PathReport) -> None:
        """Take what the peer counted on one path."""
        meter = self._meters.get(row.path)
        if meter is None:
            meter = self._meters[row.path] = LossMeter()
        meter.on_counts(row.opened, row.lost)

    def forget(self, path: int) -> None:
        """Forget what was measured on a path: it is gone, or leads elsewhere."""
        self._meters.pop(path, None)

    def restart(self) -> None:
        """Note that the data plane is another process now: nothing is in force until the next update."""
        self.policy = RecoveryPolicy()

    def update(self, paths: Collection[Path], specs: Sequence[ClassSpec], *, now_ns: int) -> list[Action]:
        """Return what is to change; most calls find that it is too early to ask."""
        last_ns = self._updated_ns
        if last_ns is not None and now_ns - last_ns < INTERVAL_NS:
            return []
        self._updated_ns = now_ns
        if last_ns is not None:
            self._measure_rates(specs, (now_ns - last_ns) / SECOND_NS)
        shares = self._sent.sum(axis=1)
        losses = [self._view(path, float(shares[path.number])) for path in paths]
        self._sent[:] = 0
        changes = self.policy.update(losses, specs, self._rows_per_s, now_ns=now_ns)
        return [action for change in changes for action in (_told(change), _event(change, specs))]

    def on_outcome(
        self, repairs: int, recovered: int, specs: Sequence[ClassSpec], *, now_ns: int
    ) -> list[Action]:
        """Take how many repairs came to the peer so far, and how many datagrams it made whole with them."""
        changes = self.policy.on_outcome(repairs, recovered, now_ns=now_ns)
        return [action for change in changes for action in (_told(change), _event(change, specs))]

    def _measure_rates(self, specs: Sequence[ClassSpec], elapsed_s: float) -> None:
        for number in range(CLASSES):
            is_copied = number < len(specs) and specs[number].recovery is Recovery.DUPLICATE
            on_paths = self._sent[:, number]
            rate = float(on_paths.max() if is_copied else on_paths.sum()) / elapsed_s
            if rate:  # a pause tells nothing of how fast the class flows when it does
                known = self._rows_per_s[number] or rate
                gain = RATE_RISE if rate > known else RATE_FALL
                self._rows_per_s[number] = known + gain * (rate - known)

    def _view(self, path: Path, share: float) -> PathLoss:
        meter = self._meters.get(path.number) or LossMeter()
        estimator = path.estimator
        is_suspect = estimator.state in (State.TEST, State.SHALLOW, State.COMPETE)
        return PathLoss(
            path=path.number,
            is_usable=path.state is PathState.UP and path.place.link_up and path.view().preference > 0,
            loss_ppm=meter.loss_ppm if meter.is_known else (path.prober.loss_ppm or 0) // 2,  # both ways
            load=min(estimator.delivered_bps / estimator.capacity_bps, 1.0),
            burst=meter.burst,
            share=share,
            rtt_ns=path.rtt_ns or 0,
            weather_ppm=estimator.weather_ppm,
            is_congested=is_suspect or estimator.queue_ns > QUEUE_NS,
        )


def _told(change: Change) -> SetProtection:
    now = change.protection
    return SetProtection(change.traffic_class, now.sources, now.repairs, now.close_ns // 1000)


def _event(change: Change, specs: Sequence[ClassSpec]) -> Event:
    now = change.protection
    number = change.traffic_class
    name = specs[number].name if number < len(specs) else str(number)
    fields: dict[str, object] = {"class": name, "sources": now.sources, "repairs": now.repairs}
    return Event("fec", fields | {"reason": change.reason})
