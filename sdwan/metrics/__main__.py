"""``python -m sdwan.metrics``: print docs/operate/metrics.md."""

from sdwan.metrics.reference import reference

print(reference(), end="")
