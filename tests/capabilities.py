"""What this machine can do, found out by doing it once, and what that means for a marked test.

The markers ``root``, ``bpf`` and ``netns`` (pyproject.toml) name capabilities. Each has a probe here that
really tries: a look at a version or at a device would only prove that the machine looks able. A probe
returns None, or one sentence that says what is missing and how to get it.

tests/conftest.py is the only caller: it asks ``verdict`` before each marked test. A skip must be proved
harmless, so ``SDWAN_REQUIRE=root,bpf,netns`` turns the skips of those capabilities into failures.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from enum import Enum
from functools import cache
from pathlib import Path

BPFFS = Path("/sys/fs/bpf")
PROBE_TIMEOUT_S = 120
"""A first BCC compilation on a busy two-core machine took 7 s; this only stops a hang."""

_BPF_PROBE = """
import os
from sdwan.io import headers
os.environ["BCC_KERNEL_SOURCE"] = str(headers.ensure())
import bcc
if not hasattr(bcc, "BPF"):
    raise SystemExit("the module called bcc is not BCC (the one on PyPI is something else): "
                     "pip uninstall bcc, then apt-get install python3-bpfcc")
program = bcc.BPF(text="int probe(struct __sk_buff *skb) { return 0; }")
program.load_func("probe", bcc.BPF.SCHED_CLS)
"""


class Verdict(Enum):
    """What to do with a test that asks for capabilities."""

    RUN = "run"
    SKIP = "skip"
    FAIL = "fail"


def verdict(
    wanted: Iterable[str], required: frozenset[str], probe: Callable[[str], str | None]
) -> tuple[Verdict, str]:
    """Decide about one test from the capabilities it wants; the sentence says why it does not run."""
    missing = [(name, reason) for name in wanted if (reason := probe(name)) is not None]
    for name, reason in missing:
        if name in required:
            return Verdict.FAIL, f"SDWAN_REQUIRE demands {name}: {reason}"
    if missing:
        name, reason = missing[0]
        return Verdict.SKIP, f"needs {name}: {reason}"
    return Verdict.RUN, ""


def parse_required(text: str) -> frozenset[str]:
    """Parse the comma list of SDWAN_REQUIRE.

    Raises:
        ValueError: a name that is no capability (a typo would otherwise switch the guard off).
    """
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    unknown = sorted(names - PROBES.keys())
    if unknown:
        raise ValueError(f"SDWAN_REQUIRE: {', '.join(unknown)} unknown; capabilities are {', '.join(PROBES)}")
    return names


@cache
def missing(name: str) -> str | None:
    """Probe one capability, once per run: None when it is there, else what is missing."""
    return PROBES[name]()


def probe_root() -> str | None:
    """Ask for uid 0."""
    return None if os.geteuid() == 0 else "uid is not 0: run as root"


def probe_bpf() -> str | None:
    """Load a trivial program through BCC, in a process of its own: this one stays free of bcc."""
    if os.geteuid() != 0:
        return "uid is not 0: run as root"
    if not os.path.ismount(BPFFS):
        return f"{BPFFS} is not mounted: mount -t bpf bpf {BPFFS}"
    return _try([sys.executable, "-c", _BPF_PROBE], "BCC did not load a program")


def probe_netns() -> str | None:
    """Make a network namespace with a veth pair in it."""
    if os.geteuid() != 0:
        return "uid is not 0: run as root"
    script = "ip link add probe0 type veth peer name probe1 && ip link set probe0 up"
    return _try(["unshare", "--net", "sh", "-c", script], "no network namespace with a veth pair")


PROBES: dict[str, Callable[[], str | None]] = {
    "root": probe_root,
    "bpf": probe_bpf,
    "netns": probe_netns,
}


def _try(command: list[str], failure: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{failure}: {error}"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return f"{failure}: {lines[-1]}"
