"""The harness of all tests: capabilities decide what runs, and nothing they made is left behind.

A test marked ``root``, ``bpf`` or ``netns`` runs where the machine can do that (tests/capabilities.py finds
out by trying), is skipped where not, and fails instead of being skipped when ``SDWAN_REQUIRE`` names the
capability.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests import capabilities, leftovers

_required = pytest.StashKey[frozenset[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Read SDWAN_REQUIRE once; a name that is no capability ends the run."""
    try:
        config.stash[_required] = capabilities.parse_required(os.environ.get("SDWAN_REQUIRE", ""))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, fail or run a marked test, before any of its fixtures."""
    wanted = [name for name in capabilities.PROBES if item.get_closest_marker(name)]
    decision, reason = capabilities.verdict(wanted, item.config.stash[_required], capabilities.missing)
    if decision is capabilities.Verdict.FAIL:
        pytest.fail(reason, pytrace=False)
    if decision is capabilities.Verdict.SKIP:
        pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def clean_kernel() -> Iterator[None]:
    """Remove namespaces and pins of dead runs at the start, and ours at the end; count descriptors."""
    leftovers.sweep()
    before = leftovers.open_descriptors()
    yield
    leftovers.sweep()
    leaked = leftovers.open_descriptors() - before
    assert leaked <= leftovers.DESCRIPTORS_LEFT_MAX, f"the tests left {leaked} descriptors open"


@pytest.fixture(scope="session")
def unique_name() -> Callable[[str], str]:
    """Give names no other test run uses: ``unique_name("hub")``; what bears one is removed at the end."""
    return leftovers.unique
