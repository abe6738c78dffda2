"""Giving up privileges: the data plane parses what strangers send, so it keeps none.

Called once by sdwan.edge.dataplane, after everything it needs is open. Afterwards: a uid of its own, no
capability, no way to gain any, and only the system calls its loop makes. A refused call returns EPERM
instead of killing the process: connectivity fails open, and nothing it could reach matters.
"""

from __future__ import annotations

import ctypes
import os

from sdwan.errors import UnsupportedError

# Specification constants (asm-generic/ioctls.h, linux/prctl.h) -------------------------------------

_FIONBIO = 0x5421
"""The one ioctl that is left: setting a socket non-blocking."""
_PR_SET_NO_NEW_PRIVS = 38

# Implementation constants -------------------------------------------------------------------------

UID = 64510
"""A uid nobody else has; no account is needed for it."""

_ALLOWED = (
    "read", "readv", "write", "writev", "close", "fstat", "newfstatat", "lseek",
    "recvmsg", "recvfrom", "sendmsg", "sendto", "shutdown", "getsockopt", "getsockname",
    "epoll_wait", "epoll_pwait", "epoll_pwait2", "epoll_ctl", "ppoll", "poll", "select", "pselect6",
    "mmap", "munmap", "mremap", "madvise", "mprotect", "brk", "futex", "sched_yield",
    "clock_gettime", "clock_nanosleep", "gettimeofday", "nanosleep", "getrandom", "getpid", "gettid",
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall",
    "exit", "exit_group", "fcntl", "rseq", "set_robust_list", "tgkill",
)  # fmt: skip


def enter(uid: int = UID) -> str:
    """Drop to ``uid`` and lock the system calls down; return what was done, for the log.

    Raises:
        UnsupportedError: we are root and could not stop being it, or the kernel is too old.
    """
    done = []
    if os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        except OSError as error:
            raise UnsupportedError(f"data plane: cannot become uid {uid}: {error.strerror}") from error
        done.append(f"uid {uid}")
    done.append(_no_new_privileges())
    done.append(_filter_system_calls())
    return ", ".join(done)


def _no_new_privileges() -> str:
    if ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise UnsupportedError("data plane: this kernel has no no_new_privs; Linux 3.5 or later is needed")
    return "no_new_privs"


def _filter_system_calls() -> str:
    try:
        import seccomp  # libseccomp's own binding: python3-seccomp of the distribution
    except ImportError:
        return "no seccomp filter (install python3-seccomp)"
    wanted = seccomp.SyscallFilter(defaction=seccomp.ERRNO(1))
    for name in _ALLOWED:
        try:
            wanted.add_rule(seccomp.ALLOW, name)
        except (RuntimeError, ValueError, OSError):
            continue  # not a system call of this architecture or of this libseccomp
    non_blocking = seccomp.Arg(1, seccomp.EQ, _FIONBIO)
    wanted.add_rule(seccomp.ALLOW, "ioctl", non_blocking)
    wanted.load()
    return f"seccomp filter of {len(_ALLOWED)} calls"
