"""A timer that epoll can wait for, to the microsecond: timerfd(2), which Python has only from 3.13 on.

``epoll.poll`` itself rounds its timeout up to whole milliseconds, eight frame times of a 100 Mbit/s link.
Used by the emulator and by the probe stream.
"""

from __future__ import annotations

import ctypes
import os

# Specification constants (linux/timerfd.h, linux/time.h, linux/prctl.h) ----------------------------

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_TFD_NONBLOCK, _TFD_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_PR_SET_TIMERSLACK = 29
_SECOND_NS = 1_000_000_000

_libc = ctypes.CDLL(None, use_errno=True)


class _Itimerspec(ctypes.Structure):
    _fields_ = [
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    ]


class Timer:
    """One timerfd on CLOCK_MONOTONIC; readable once its moment has come."""

    def __init__(self) -> None:
        self.descriptor = _libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = _Itimerspec()
        self._argument = ctypes.byref(self._spec)

    def set(self, moment_ns: int | None) -> None:
        """Fire at ``moment_ns`` (at once if it is past); None = never. Also clears what was readable."""
        at_ns = 0 if moment_ns is None else max(moment_ns, 1)
        self._spec.value_s, self._spec.value_ns = divmod(at_ns, _SECOND_NS)
        _libc.timerfd_settime(self.descriptor, _TFD_TIMER_ABSTIME, self._argument, None)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)


def become_punctual(priority: int) -> bool:
    """Ask for real-time scheduling and no timer slack: a measuring instrument must not queue for the CPU.

    Returns:
        Whether the kernel granted it; without it the caller works on, less exactly.
    """
    _libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(priority))
    except OSError:
        return False
    return True
