"""scripts/setup.sh on systems that cannot: one sentence, a non-zero exit, and nothing was changed.

Each unfit system is this one seen through a mount namespace, a personality or a smaller set of capabilities
of its own, so nothing outside the child notices. What a fit system gets is proved by every ``make test``.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

SETUP = Path(__file__).parents[2] / "scripts" / "setup.sh"


def run_setup(*prefix: str, options: tuple[str, ...] = ("--dry-run",)) -> subprocess.CompletedProcess[str]:
    command = [*prefix, str(SETUP), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def behind_mounts(script: str) -> list[str]:
    """Return the prefix of a command that runs behind the mounts ``script`` makes, for itself only."""
    return ["unshare", "--mount", "sh", "-ec", f'{script}; exec "$@"', "sh"]


def release(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "os-release").write_text(text)
    return behind_mounts(f"mount --bind {tmp_path}/os-release /etc/os-release")


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """It ended with one sentence that has these words, before any step began."""
    assert done.returncode == 1, done.stdout
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("setup: ")
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('ID=debian\nVERSION_ID="11"\nPRETTY_NAME="Debian GNU/Linux 11"', "Debian GNU/Linux 11"),
        ('ID=ubuntu\nVERSION_ID="20.04"\nPRETTY_NAME="Ubuntu 20.04.6 LTS"', "Ubuntu 20.04.6 LTS"),
        ('ID=fedora\nVERSION_ID=40\nPRETTY_NAME="Fedora Linux 40"', "Fedora Linux 40"),
        ("", "an unknown system"),
    ],
)
def test_a_system_that_is_too_old_or_foreign_is_refused_by_name(tmp_path, text, name):
    assert_refused(run_setup(*release(tmp_path, text)), name, "Debian 12", "Ubuntu 22.04")


@pytest.mark.parametrize(
    "text",
    [
        'ID=debian\nVERSION_ID="12"',
        'ID=debian\nVERSION_ID="13"',
        "ID=debian",  # testing and unstable have no version
        'ID=ubuntu\nVERSION_ID="22.04"',
        'ID=ubuntu\nVERSION_ID="24.04"',
    ],
)
def test_a_system_that_is_new_enough_passes_the_checks(tmp_path, text):
    done = run_setup(*release(tmp_path, text))
    assert (done.returncode, done.stderr) == (0, "")
    assert "packages:" in done.stdout


def test_an_old_kernel_is_refused_with_both_versions():
    assert_refused(run_setup("setarch", "--uname-2.6"), "the kernel is 2.6", "5.15")


def test_a_machine_without_tun_is_told_how_to_get_it():
    assert_refused(run_setup(*behind_mounts("mount -t tmpfs tmpfs /dev/net")), "/dev/net/tun", "modprobe tun")


@pytest.mark.parametrize("capability", ["net_admin", "sys_admin"])
def test_a_container_that_lacks_a_capability_is_told_which(capability):
    done = run_setup("setpriv", f"--bounding-set=-{capability}")
    assert_refused(done, f"CAP_{capability.upper()}")


def test_an_unknown_option_is_refused():
    assert_refused(run_setup(options=("--frobnicate",)), "--frobnicate", "--help")


def test_help_names_every_option():
    done = run_setup(options=("--help",))
    assert done.returncode == 0
    for option in ("--benchmark", "--unprivileged", "--dry-run"):
        assert option in done.stdout
