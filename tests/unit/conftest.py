"""Fixtures that several unit tests of the packet's walk share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.walk import Pair


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two sites, joined by whatever the test does with their datagrams."""
    pair = Pair()
    yield pair
    pair.close()
