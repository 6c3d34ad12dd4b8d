"""A filter of system calls for programs that need none of them: no new processes, sockets, mounts, tracing.

Nor memory that a process keeps without mapping it, which no limit of its address space counts. Written
as classic BPF (linux/filter.h, linux/seccomp.h): a denied call fails with EPERM, `clone3` with ENOSYS so
that the C library falls back to `clone`, and `clone` may make threads only.
"""

from __future__ import annotations

import errno
import platform
import struct

__all__ = ["seccomp_filter"]

_LOAD, _JUMP_EQUAL, _JUMP_SET, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000  # numbers of the other ABI of x86-64: denied whole

# io_uring_setup, open_tree, move_mount, fsopen, fsconfig, fsmount, fspick, pidfd_open, pidfd_getfd,
# process_madvise, mount_setattr, memfd_secret: numbered alike on all architectures.
_COMMON = (425, 428, 429, 430, 431, 432, 433, 434, 438, 440, 442, 447)
_CLONE3 = 435
_DENIED: dict[str, tuple[int, int, tuple[int, ...]]] = {
    # audit number, clone, then: fork vfork socket ptrace pivot_root chroot mount umount2 init_module
    # kexec_load add_key request_key keyctl unshare perf_event_open setns process_vm_readv process_vm_writev
    # finit_module bpf userfaultfd memfd_create shmget msgget semget vmsplice
    # setsockopt, which makes the buffer of a socketpair large (AArch64 has no fork and vfork)
    "x86_64": (0xC000003E, 56, (57, 58, 41, 101, 155, 161, 165, 166, 175, 246, 248, 249, 250, 272, 298, 308,
                                310, 311, 313, 321, 323, 319, 29, 68, 64, 278, 54)),
    "aarch64": (0xC00000B7, 220, (198, 117, 41, 51, 40, 39, 105, 104, 217, 218, 219, 97, 241, 268, 270, 271,
                                  273, 280, 282, 279, 194, 186, 190, 75, 208)),
}  # fmt: skip


def seccomp_filter(machine: str = "") -> bytes:
    """Return the filter for a machine, this one by default; empty where its system calls are not known."""
    known = _DENIED.get(machine or platform.machine())
    if known is None:
        return b""
    audit, clone, denied = known
    deny = _ERRNO | errno.EPERM
    program = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_JUMP_EQUAL, audit, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
        _step(_JUMP_GREATER_EQUAL, _X32, 0, 1),
        _step(_RETURN, deny),
        _step(_JUMP_EQUAL, _CLONE3, 0, 1),
        _step(_RETURN, _ERRNO | errno.ENOSYS),
    ]
    for number in (*denied, *_COMMON):
        program += [_step(_JUMP_EQUAL, number, 0, 1), _step(_RETURN, deny)]
    program += [
        _step(_JUMP_EQUAL, clone, 0, 3),
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_JUMP_SET, _CLONE_THREAD, 1, 0),
        _step(_RETURN, deny),
        _step(_RETURN, _ALLOW),
    ]
    return b"".join(program)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
