"""What the figures were measured on: without it they mean nothing."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def describe() -> dict[str, Any]:
    """Return machine, kernel, commit and the versions of everything that took part."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _first_line(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]),
        "changed_files": len(_output(["git", "-C", str(ROOT), "status", "--porcelain"]).splitlines()),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "system": _system(),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in ("cryptography", "numpy")},
        "openvpn": _first_line(["openvpn", "--version"]),
        "wireguard_go": _package("wireguard-go"),
        "iperf3": _first_line(["iperf3", "--version"]),
        "load_before": os.getloadavg()[0],
    }


def _processor() -> str:
    match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return match[1].strip() if match else platform.machine()


def _system() -> str:
    match = re.search(r'PRETTY_NAME="(.+)"', Path("/etc/os-release").read_text())
    return match[1] if match else "unknown"


def _package(name: str) -> str:
    return _first_line(["dpkg-query", "-W", "-f", "${Version}", name])


def _first_line(argv: list[str]) -> str:
    return next(iter(_output(argv).splitlines()), "unknown")


def _output(argv: list[str]) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""
