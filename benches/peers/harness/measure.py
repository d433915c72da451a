"""Runs one command and measures it; counts and warms files."""

import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

# How often a running command's anonymous memory is looked at.
SAMPLE_S = 0.02
READ_BYTES = 1 << 20
LOG_TAIL_BYTES = 2000


class BenchError(Exception):
    """A step of the benchmark failed; the message says which and why."""


@dataclass
class Usage:
    """What one command took."""

    wall_s: float
    """From start to exit."""
    cpu_s: float
    """User and system time of the process and the children it waited for."""
    rss_mb: float
    """Peak resident memory, page cache mapped into the process included."""
    anon_mb: float
    """Peak resident memory without file mappings, as sampled."""
    sync_s: float
    """What `sync` took right afterwards: what the command left in memory only."""


def run(argv, *, env, cwd, log):
    """Runs a command after a `sync` and returns its `Usage`.

    Its output is appended to the file `log`. Raises `BenchError` if it does not exit with 0.
    """
    argv = [str(part) for part in argv]
    with open(log, "ab") as out:
        out.write(f"\n$ {' '.join(argv)}\n".encode())
        out.flush()
        os.sync()
        start = time.monotonic()
        child = subprocess.Popen(
            argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
        peak = _AnonPeak(child.pid)
        try:
            _, status, used = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            child.wait()
            raise
        wall = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        anon_mb = peak.stop()
    if child.returncode != 0:
        raise BenchError(f"{' '.join(argv)}: exit code {child.returncode}\n{_tail(log)}")
    start = time.monotonic()
    os.sync()
    sync_s = time.monotonic() - start
    return Usage(
        wall_s=wall,
        cpu_s=used.ru_utime + used.ru_stime,
        rss_mb=used.ru_maxrss * 1024 / 1e6,
        anon_mb=anon_mb,
        sync_s=sync_s,
    )


class _AnonPeak:
    """Watches a process's anonymous resident memory from a thread."""

    def __init__(self, pid):
        self._path = f"/proc/{pid}/status"
        self._peak_kib = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self):
        while not self._done.wait(SAMPLE_S):
            try:
                with open(self._path, encoding="ascii", errors="replace") as status:
                    for line in status:
                        if line.startswith("RssAnon:"):
                            self._peak_kib = max(self._peak_kib, int(line.split()[1]))
            except OSError:
                return

    def stop(self):
        """Ends the watch and returns the peak in MB."""
        self._done.set()
        self._thread.join()
        return self._peak_kib * 1024 / 1e6


def _tail(log):
    """Returns the end of a log file."""
    with open(log, "rb") as file:
        file.seek(max(0, os.path.getsize(log) - LOG_TAIL_BYTES))
        return file.read().decode(errors="replace")


def check(argv, *, env=None, cwd=None):
    """Runs a command that is not measured and returns its standard output.

    Raises `BenchError` if it cannot be started or does not exit with 0.
    """
    argv = [str(part) for part in argv]
    try:
        done = subprocess.run(
            argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
        )  # fmt: skip
    except OSError as error:
        raise BenchError(f"{' '.join(argv)}: {error}") from error
    if done.returncode != 0:
        tail = (done.stdout + done.stderr)[-LOG_TAIL_BYTES:]
        raise BenchError(f"{' '.join(argv)}: exit code {done.returncode}\n{tail}")
    return done.stdout


def files_below(top):
    """Yields the regular files below a directory as `os.DirEntry`."""
    pending = [top]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield entry


def size_bytes(top):
    """Returns the bytes of all files below a directory."""
    return sum(entry.stat(follow_symlinks=False).st_size for entry in files_below(top))


def warm(top):
    """Reads every file below a directory once, so that it lies in the page cache."""
    buffer = bytearray(READ_BYTES)
    for entry in files_below(top):
        with open(entry.path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def same_content(left: Path, right: Path):
    """Raises `BenchError` if two directory trees differ."""
    check(["diff", "-r", "--no-dereference", left, right])
