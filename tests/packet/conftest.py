"""The kernel under test, built once per run, emptied before each test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sdwan.io import netlink
from tests.packet import runner
from tests.packet.runner import Kernel


@pytest.fixture(scope="package")
def built(unique_name: Callable[[str], str]) -> Iterator[Kernel]:
    """Build in a network namespace of our own and on one CPU (stride keeps state for each); leave both."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    old = runner.enter_private_namespace()
    try:
        netlink.set_up("lo")
        netlink.add_address("lo", f"{runner.LOCAL}/32")
        netlink.add_address("lo", f"{runner.LOCAL6}/128")
        kernel = Kernel(Path("/sys/fs/bpf") / unique_name("packet") / "v2")
        yield kernel
        kernel.close()
    finally:
        runner.leave_namespace(old)
        os.sched_setaffinity(0, cpus)


@pytest.fixture
def kernel(built: Kernel) -> Kernel:
    """Give programs with empty maps; steering is on, no path is configured."""
    built.reset()
    return built
