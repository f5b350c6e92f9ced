"""Runs code that a model wrote, in a child that may do little: seconds, memory and files are limited, the network off.

A program enters, whether it ran to its end leaves. On systems without these limits it is only a separate process in an
empty folder: that is said by `strength`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from functools import cache

SECONDS = 5
MEMORY = 512 * 2**20
_DONE = "localai-bench-done"

_GUARD = """
import builtins, os, sys
{limits}
def refuse(event, arguments):
    name = event.split(".")[0]
    if name in ("socket", "subprocess", "ctypes", "shutil", "winreg") or event in _CLOSED:
        raise PermissionError(event)
    if event == "open" and (arguments[1] or "r") not in ("r", "rb"):
        raise PermissionError(event)
    if event == "open" and not isinstance(arguments[0], int) and not _readable(str(arguments[0])):
        raise PermissionError(event)
_CLOSED = {{"os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.kill", "os.remove", "os.rename",
    "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate", "os.putenv",
    "signal.pthread_kill", "sys.addaudithook", "import._ctypes"}}
_roots = tuple(os.path.realpath(place) for place in (sys.prefix, sys.base_prefix, sys.base_exec_prefix))
def _readable(path):
    return os.path.realpath(path).startswith(_roots)
sys.addaudithook(refuse)
source = sys.stdin.read()
sys.stdin.close()
exec(compile(source, "answer", "exec"), {{"__name__": "answer"}})
os.write(1, b"{done}")
"""

_LIMITS = f"""
import resource
for limit, most in ((resource.RLIMIT_CPU, {SECONDS}), (resource.RLIMIT_AS, {MEMORY}), (resource.RLIMIT_FSIZE, 0),
                    (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(limit, (most, most))
try:
    os.unshare(os.CLONE_NEWUSER | os.CLONE_NEWNET)
except (AttributeError, OSError):
    pass
"""


@cache
def strength() -> str:
    """What holds the code back here, for the report."""
    if sys.platform == "win32":
        return "a process of its own, without limits of memory"
    return f"{SECONDS} s, {MEMORY // 2**20} MiB, no written files, no sockets, no other programs"


def passes(program: str, seconds: float = 6.0 * SECONDS) -> bool:
    """Whether `program` runs to its end without an error, within the limits.

    `seconds` are of the clock, more than it may compute, so that a busy machine does not make it fail.
    """
    guard = _GUARD.format(limits="" if sys.platform == "win32" else _LIMITS, done=_DONE)
    folder = tempfile.mkdtemp(prefix="localai-bench-")
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", guard],
            input=program.encode("utf-8", "replace"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            timeout=seconds,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        return False
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    # Exit code 0 alone would also be had by leaving before the tests.
    return done.returncode == 0 and done.stdout.endswith(_DONE.encode())
