"""What is true of an edge at one moment, and every metric made of it.

Room: below edge and cli. Edge control fills a ``Snapshot`` (plain, frozen data) and gives it to
``Metrics.update``; whoever scrapes ``/metrics`` gets the newest one. The same snapshot, as JSON, is what
`sdwan edge status` and `sdwan edge top` show, so all always tell the same. Totals come straight from the
counters of kernel and data plane: nothing is counted a second time here, and a path that is gone leaves no
stale series.

``snapshot`` holds the data, ``declared`` the metrics, ``exposition`` their text, ``reference`` the page
docs/operate/metrics.md, which ``python -m sdwan.metrics`` prints. Imports only sdwan.model; blocks on
nothing; ``Metrics.update`` may be called from another thread than the scrape.
"""

from sdwan.metrics.declared import METRICS
from sdwan.metrics.exposition import Metrics
from sdwan.metrics.reference import reference
from sdwan.metrics.snapshot import ClassSnapshot, LinkSnapshot, PathSnapshot, PeerSnapshot, Snapshot

__all__ = [
    "METRICS",
    "ClassSnapshot",
    "LinkSnapshot",
    "Metrics",
    "PathSnapshot",
    "PeerSnapshot",
    "Snapshot",
    "reference",
]
