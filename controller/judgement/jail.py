"""The program inside the sandbox: shuts itself in, then runs an answer and its tests. Started by `sandbox` with `python -I -S -c`.

It imports nothing of ours, because from the moment the answer runs nothing here can be trusted. What it was able to shut is
reported first, on a pipe of its own; the result comes last, with a word that the answer was never told.

Order: own namespaces (mounts, network, processes, IPC; with a user namespace where we are not root) -> empty file systems over
where people and programs keep things -> two children, so that the end of the first ends all -> Landlock (what may be read, what
written) -> no capabilities, uid nobody where we were root -> limits -> the answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import struct
import sys
import traceback
import types
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
NOBODY = 65534
READ = 0b1101  # Landlock: execute, read a file, read a directory
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
HIDDEN = ("/root", "/home", "/run", "/var/run", "/tmp", "/var/tmp", "/dev/shm", "/mnt", "/media", "/srv")
READONLY, NOSUID, NODEV, NOEXEC, REMOUNT, NOATIME, BIND, RECURSIVE, PRIVATE, RELATIME = (
    1 << bit for bit in (0, 1, 2, 3, 5, 10, 12, 14, 18, 21)
)


def main() -> None:
    job = json.loads(sys.stdin.buffer.read())
    root = os.geteuid() == 0
    shut = {"namespaces": unshared(root), "files": False, "landlock": False}
    if shut["namespaces"]:
        shut["files"] = hidden(job["keep"])
        supervised()
    LIBC.prctl(38, 1, 0, 0, 0)  # no new privileges
    work = "/tmp" if shut["files"] else job["work"]
    shut["landlock"] = landlocked(job["keep"], work)
    dropped(root)
    refused = "isolation" if not all(shut.values()) and not job["weak"] else ""
    if not os.access(os.__file__, os.R_OK):
        refused = refused or "interpreter"
    send(job, {"shut": shut, "refused": refused})
    if refused:
        os._exit(0)
    os.chdir(work)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.closerange(3, job["fd"])
    os.closerange(job["fd"] + 1, 4096)
    limited(job)
    result = tested(job["code"], job["tests"], job["libraries"])
    sys.stdout.flush()
    send(job, {"nonce": job["nonce"], **result})
    os._exit(0)  # threads and exit hooks of the answer have no more say


def send(job: dict[str, Any], message: dict[str, Any]) -> None:
    os.write(job["fd"], json.dumps(message).encode() + b"\n")


# -- shutting in -------------------------------------------------------------------------------------------------------


def unshared(root: bool) -> bool:
    """Own mounts, network without any interface up, processes and IPC."""
    ours = NEWNS | NEWIPC | NEWPID | NEWNET
    uid, gid = os.geteuid(), os.getegid()
    if root and LIBC.unshare(ours) == 0:
        return True
    if LIBC.unshare(ours | NEWUSER) != 0:
        return False
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    except OSError:
        return False
    return True


def hidden(keep: list[str]) -> bool:
    """Empty file systems over HIDDEN; what Python needs of it (`keep`) is put back read-only. /proc goes last: it names the
    held folders.
    """
    if mounted(None, "/", None, PRIVATE | RECURSIVE):
        return False
    places = sorted({os.path.realpath(path) for path in HIDDEN if os.path.isdir(path)} - set(keep))
    buried = [path for path in keep if any(path.startswith(f"{place}/") for place in places)]
    held = [os.open(path, os.O_PATH) for path in buried]
    for place in places:
        size = b"size=64m,mode=1777" if place == "/tmp" else b"size=1m,mode=755"
        if os.path.isdir(place) and mounted("tmpfs", place, "tmpfs", NOSUID | NODEV, size):
            return False
    for path, fd in zip(buried, held, strict=True):
        os.makedirs(path, exist_ok=True)
        if mounted(f"/proc/self/fd/{fd}", path, None, BIND | RECURSIVE):
            return False
        os.close(fd)  # a way round everything above, were it left open
        flags = os.statvfs(path).f_flag
        kept = flags & (NOSUID | NODEV | NOEXEC | NOATIME) | (RELATIME if flags & 4096 else 0)  # the kernel refuses to drop these
        if mounted(None, path, None, REMOUNT | BIND | READONLY | kept):
            return False
    return not any(mounted("tmpfs", place, "tmpfs", NOSUID | NODEV, b"size=4k,mode=555") for place in ("/proc", "/sys"))


def mounted(source: str | None, target: str, kind: str | None, flags: int, data: bytes | None = None) -> int:
    """0, or the error number."""
    texts = [text.encode() if text is not None else None for text in (source, target, kind)]
    return ctypes.get_errno() or 1 if LIBC.mount(*texts, ctypes.c_ulong(flags), data) else 0


def supervised() -> None:
    """Returns in the grandchild only. The child is the first process of its namespace: when it ends, the kernel ends all others."""
    child = os.fork()
    if child:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
        os._exit(0)
    LIBC.prctl(1, 9, 0, 0, 0)  # dies with its parent
    grandchild = os.fork()
    if not grandchild:
        return
    while True:
        pid, _ = os.wait()
        if pid == grandchild:
            os._exit(0)


def landlocked(keep: list[str], work: str) -> bool:
    """Reads only SYSTEM and `keep`, writes only `work`, no TCP. False where the kernel has no Landlock (before 5.13, or
    switched off).
    """
    version = LIBC.syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return False
    every = (1 << 13) - 1 | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0) | (1 << 15 if version >= 5 else 0)
    rules = struct.pack("QQQ", every, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = LIBC.syscall(444, rules, ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        return False
    files = 0b111 | (1 << 14 if version >= 3 else 0)  # what a rule on a plain file may grant
    for path, access in [*((path, READ) for path in (*SYSTEM, *keep)), (work, every), ("/dev/null", READ | 2)]:
        with contextlib.suppress(OSError):
            place = os.open(path, os.O_PATH)
            if not os.path.isdir(path):
                access &= files
            LIBC.syscall(445, ruleset, 1, struct.pack("=Qi", access, place), ctypes.c_uint32(0))
            os.close(place)
    return bool(LIBC.syscall(446, ruleset, ctypes.c_uint32(0)) == 0)


def dropped(root: bool) -> None:
    """Nobody instead of root, and no capabilities, not even inside the namespaces."""
    if root:
        with contextlib.suppress(OSError):  # inside a user namespace there is nobody else to become
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
    LIBC.capset(struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0] * 6))


def limited(job: dict[str, Any]) -> None:
    limits = {
        resource.RLIMIT_CPU: job["cpu"],
        resource.RLIMIT_AS: job["memory"],
        resource.RLIMIT_FSIZE: job["file_size"],
        resource.RLIMIT_NOFILE: job["files"],
        resource.RLIMIT_NPROC: job["processes"],
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))


# -- the answer and its tests ------------------------------------------------------------------------------------------


def tested(code: str, tests: str, libraries: list[str]) -> dict[str, Any]:
    """{passed, total, why}, or {missing} where the tests need a module that is not there."""
    sys.path[:0] = libraries
    solution = types.ModuleType("solution")
    sys.modules["solution"] = solution
    try:
        exec(compile(code, "answer.py", "exec"), solution.__dict__)
    except BaseException as error:
        return {"passed": 0, "total": 1, "why": f"the answer does not run: {told(error)}"}
    space = {**solution.__dict__, "__name__": "tests"}
    try:
        exec(compile(tests, "tests.py", "exec"), space)
    except ModuleNotFoundError as error:
        return {"missing": str(error.name)}
    except BaseException as error:
        return {"passed": 0, "total": 1, "why": f"the tests fail: {told(error)}"}
    return counted({name: value for name, value in space.items() if solution.__dict__.get(name) is not value})


def counted(space: dict[str, Any]) -> dict[str, Any]:
    import unittest

    passed, failures = 0, []
    functions = {name: value for name, value in space.items() if name.startswith("test") and isinstance(value, types.FunctionType)}
    for name, function in functions.items():
        try:
            function()
            passed += 1
        except BaseException as error:
            failures.append(f"{name}: {told(error)}")
    for name, value in space.items():
        if isinstance(value, type) and issubclass(value, unittest.TestCase) and value is not unittest.TestCase:
            result = unittest.TestResult()
            unittest.defaultTestLoader.loadTestsFromTestCase(value).run(result)
            bad = [*result.failures, *result.errors]
            passed += result.testsRun - len(bad) - len(result.skipped)
            failures += [f"{name}: {text.strip().splitlines()[-1]}" for _, text in bad]
    total = passed + len(failures)
    if total == 0:
        return {"passed": 1, "total": 1, "why": "the tests ran to their end"}
    first = f"; {failures[0]}" if failures else ""
    return {"passed": passed, "total": total, "why": f"{passed} of {total} tests passed{first}"[:500]}


def told(error: BaseException) -> str:
    """Type, text and the line of the answer or the tests."""
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in ("answer.py", "tests.py")]
    where = f" ({places[-1].filename}:{places[-1].lineno})" if places else ""
    try:
        text = str(error)
    except BaseException:
        text = "its text cannot be read"
    return f"{type(error).__name__}: {text}"[:300] + where


if __name__ == "__main__":
    main()
