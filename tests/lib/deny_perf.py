"""perf_event_open refused by a seccomp filter, as containers do it.

As a program, `deny_perf.py EPERM|ENOSYS COMMAND...` runs a command so; `install`
does it to this process and all that it starts from then on, for good."""

import ctypes
import errno
import os
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD_NUMBER, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, JMP|JEQ|K, RET|K
ERRNO, ALLOW = 0x00050000, 0x7FFF0000
NUMBERS = {"x86_64": {"perf_event_open": 298, "ptrace": 101},
           "aarch64": {"perf_event_open": 241, "ptrace": 117}}


def install(*refusals):
    """Each of `refusals` is (system call, errno)."""
    numbers = NUMBERS[platform.machine()]
    code = struct.pack("=HBBI", LOAD_NUMBER, 0, 0, 0)
    for call, error in refusals:
        code += struct.pack("=HBBI", JUMP_IF_EQUAL, 0, 1, numbers[call])
        code += struct.pack("=HBBI", RETURN, 0, 0, ERRNO | error)
    code += struct.pack("=HBBI", RETURN, 0, 0, ALLOW)
    rows = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(
        struct.pack("@HP", len(code) // 8, ctypes.addressof(rows)))
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0 and libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")


def denied(*words, error="EPERM", ptrace=False):
    """The words that run a command so."""
    more = ["--ptrace"] if ptrace else []
    return [sys.executable, "-S", "-E", os.path.abspath(__file__), *more, error, *words]


if __name__ == "__main__":
    refused = [("perf_event_open", errno.EPERM)]
    arguments = sys.argv[1:]
    if arguments[0] == "--ptrace":
        arguments = arguments[1:]
        refused.append(("ptrace", errno.EPERM))
    refused[0] = ("perf_event_open", getattr(errno, arguments[0]))
    install(*refused)
    os.execvp(arguments[1], arguments[1:])
