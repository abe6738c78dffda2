#!/bin/bash
# Install what this project needs on Debian 12, 13 and Ubuntu 22.04, 24.04, and nothing that is there already.
#
# Room: called by the Makefile, or by hand. First every check, each failure one sentence and nothing changed; then
# the steps, each of which looks before it acts, so that a second run only looks.
#
#   packages  from the distribution, without recommended ones (BCC is only there: PyPI's "bcc" is something else)
#   venv      .venv on the distribution's Python with its site packages (where BCC lives), then this project
#   bpffs     mounted on /sys/fs/bpf
#   headers   a small tree of the installed UAPI headers for BCC (no kernel package is needed)

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly ROOT
readonly VENV=$ROOT/.venv
readonly STAMP=$VENV/.setup-stamp
readonly PYTHON=/usr/bin/python3

# Specification constants: the oldest system on which every part loads (README, "Systems").
readonly KERNEL_MIN=5.15
readonly PYTHON_MIN=3.10
# Implementation constant: BCC brings clang and LLVM; a minimal Debian 12 grew by 1.0 GB.
readonly DISK_MIN_MIB=2000

readonly PACKAGES=(
    python3-bpfcc python3-seccomp python3-venv # BCC, the sandbox, the virtual environment
    gcc libc6-dev linux-libc-dev               # UAPI headers, and the host compiler for tests of the BPF headers
    iproute2 ethtool nftables iputils-ping iperf3 procps
)
readonly BENCHMARK_PACKAGES=(openvpn wireguard-go wireguard-tools)

dry_run=false
benchmark=false
unprivileged=false

usage() {
    cat <<TEXT
Usage: scripts/setup.sh [--benchmark] [--unprivileged] [--dry-run] [--help]

Install what sdwan-bond needs: distribution packages, .venv, bpffs, headers for BCC.
Safe to repeat: what is there already is left alone.

  --benchmark     also install the rivals that \`make benchmark\` measures (${BENCHMARK_PACKAGES[*]})
  --unprivileged  only .venv, without root: enough for \`make check\`
  --dry-run       say what would be done and change nothing
  --help          this text

Exit code: 0 ready, 1 this system cannot (one sentence says why, nothing was changed) or a step failed.
TEXT
}

say() { printf 'setup: %s\n' "$*"; }

refuse() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

# run COMMAND...: do it, or with --dry-run only say it.
run() {
    if $dry_run; then
        say "would run: $*"
    else
        "$@"
    fi
}

# at_least HAVE MINIMUM: compare versions.
at_least() { [[ $(printf '%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]; }

# ---- Checks: nothing is changed here --------------------------------------------------------------------------

check_distribution() {
    local id version name
    # Testing and unstable have no version: they are newer than any number here.
    # shellcheck source=/dev/null
    read -r id version name < <(. /etc/os-release 2>/dev/null &&
        echo "${ID:-unknown} ${VERSION_ID:-999} ${PRETTY_NAME:-an unknown system}")
    case $id in
        debian) at_least "$version" 12 && return ;;
        ubuntu) at_least "$version" 22.04 && return ;;
    esac
    refuse "this is ${name:-an unknown system}; needed is Debian 12 or later or Ubuntu 22.04 or later" \
        "(elsewhere, install BCC for Python, gcc and the packages named in scripts/setup.sh by hand)."
}

check_python() {
    [[ -x $PYTHON ]] || return 0 # the packages bring it, in the distribution's version
    local version
    version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    at_least "$version" $PYTHON_MIN || refuse "$PYTHON is Python $version; needed is $PYTHON_MIN or later."
}

check_root() {
    [[ $EUID -eq 0 ]] || refuse "run as root: packages, bpffs and network namespaces need it" \
        "(lint and unit tests do not: make check)."
}

check_kernel() {
    local release
    release=$(uname -r)
    at_least "${release%%-*}" $KERNEL_MIN || refuse "the kernel is $release; needed is $KERNEL_MIN or later."
    grep -qw bpf /proc/filesystems || refuse "this kernel has no BPF file system (CONFIG_BPF_SYSCALL)."
}

check_capabilities() {
    local effective
    effective=$((16#$(sed -n 's/^CapEff:\t//p' /proc/self/status)))
    ((effective >> 12 & 1)) || refuse "root lacks CAP_NET_ADMIN here: give it to this container."
    ((effective >> 21 & 1)) || refuse "root lacks CAP_SYS_ADMIN here (BPF, namespaces): give it to this container."
}

check_tun() {
    if [[ ! -c /dev/net/tun ]] || ! { true <>/dev/net/tun; } 2>/dev/null; then
        refuse "/dev/net/tun cannot be opened: load the module (modprobe tun) or pass the device to this container."
    fi
}

check_disk() {
    local free_mib
    free_mib=$(df --output=avail --block-size=1M "$ROOT" | tail -n 1)
    [[ -f $STAMP ]] || ((free_mib >= DISK_MIN_MIB)) ||
        refuse "only ${free_mib// /} MiB are free in $ROOT; needed are $DISK_MIN_MIB."
}

check_system() {
    check_distribution
    check_python
    if ! $unprivileged; then
        check_root
        check_kernel
        check_capabilities
        check_tun
    fi
    check_disk
}

# ---- Steps ----------------------------------------------------------------------------------------------------

# missing PACKAGE...: print those that are not installed.
missing() {
    local installed
    installed=$(dpkg-query --show --showformat='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null |
        sed -n 's/^installed //p') || true
    comm -23 <(printf '%s\n' "$@" | sort -u) <(sort -u <<<"$installed")
}

# bpftool_packages: print the packages that bring bpftool here (Ubuntu has it per kernel).
bpftool_packages() {
    if command -v bpftool >/dev/null && bpftool version >/dev/null 2>&1; then
        return
    fi
    # shellcheck source=/dev/null
    case $(. /etc/os-release && echo "$ID") in
        debian) echo bpftool ;;
        ubuntu) printf '%s\n' linux-tools-common "linux-tools-$(uname -r)" ;;
    esac
}

apt() { run env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >/dev/null; }

step_packages() {
    local wanted=("${PACKAGES[@]}") absent optional
    $benchmark && wanted+=("${BENCHMARK_PACKAGES[@]}")
    mapfile -t absent < <(missing "${wanted[@]}")
    mapfile -t optional < <(bpftool_packages)
    if ((${#absent[@]} + ${#optional[@]} == 0)); then
        say "packages: all there"
        return
    fi
    say "packages: installing ${absent[*]} ${optional[*]}"
    apt update || refuse "apt-get update failed: is there a way to the package archive?"
    if ((${#absent[@]})); then
        apt install --no-install-recommends "${absent[@]}" ||
            refuse "apt-get could not install: ${absent[*]}."
    fi
    if ((${#optional[@]})); then # only for looking at maps; not every kernel has its package
        apt install --no-install-recommends "${optional[@]}" 2>/dev/null ||
            say "packages: no bpftool for kernel $(uname -r) here; only looking at maps by hand needs it"
    fi
}

# A venv is ours when it stands on the distribution's Python and sees its packages.
venv_is_right() {
    [[ -x $VENV/bin/python ]] &&
        grep -qx 'include-system-site-packages = true' "$VENV/pyvenv.cfg" &&
        [[ $(readlink -f "$VENV/bin/python") == "$(readlink -f $PYTHON)" ]]
}

step_venv() {
    if venv_is_right; then
        say "venv: $VENV there"
        return
    fi
    [[ ! -e $VENV ]] || refuse "$VENV does not stand on $PYTHON with its site packages: remove it and run again."
    say "venv: making $VENV on $PYTHON with its site packages"
    run "$PYTHON" -m venv --system-site-packages "$VENV" ||
        refuse "python3 -m venv failed: install python3-venv (or run this as root without --unprivileged)."
}

# fingerprint: what decides whether the installed project is the one in this folder.
fingerprint() { sha256sum "$ROOT/pyproject.toml" "$(readlink -f $PYTHON)" | sha256sum; }

step_project() {
    if [[ -f $STAMP && $(<"$STAMP") == "$(fingerprint)" ]]; then
        say "project: installed, pyproject.toml unchanged"
        return
    fi
    say "project: installing it and its Python dependencies into .venv"
    run "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable "${ROOT}[dev,pictures]" ||
        refuse "pip could not install the dependencies in pyproject.toml."
    $dry_run || fingerprint >"$STAMP"
}

step_bpffs() {
    if mountpoint --quiet /sys/fs/bpf; then
        say "bpffs: mounted"
        return
    fi
    say "bpffs: mounting /sys/fs/bpf"
    run mount -t bpf bpf /sys/fs/bpf || refuse "bpffs could not be mounted on /sys/fs/bpf."
}

step_headers() {
    say "headers: a tree of UAPI headers for BCC in /var/lib/sdwan/headers"
    run "$VENV/bin/python" -c 'import bcc; bcc.BPF' 2>/dev/null || refuse \
        "the Python module bcc is not BCC: .venv/bin/pip uninstall bcc, and apt-get install python3-bpfcc."
    run "$VENV/bin/python" -m sdwan.io.headers >/dev/null || refuse "the header tree could not be made."
}

main() {
    while (($#)); do
        case $1 in
            --benchmark) benchmark=true ;;
            --unprivileged) unprivileged=true ;;
            --dry-run) dry_run=true ;;
            --help | -h)
                usage
                return
                ;;
            *) refuse "unknown option $1; see scripts/setup.sh --help." ;;
        esac
        shift
    done
    check_system
    $unprivileged || step_packages
    step_venv
    step_project
    if ! $unprivileged; then
        step_bpffs
        step_headers
    fi
    say "ready"
}

main "$@"
