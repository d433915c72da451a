"""Counts the calls by which each tool asks for its data to be on disk."""

import shutil

from .measure import BenchError, check

SYSCALLS = ("fsync", "fdatasync", "sync_file_range", "syncfs", "sync", "msync")


def count_syncs(tool, source, trace):
    """Backs up `source` into a fresh store under strace; returns the calls as `{name: count}`."""
    tool.reset()
    argv, cwd = tool.backup(source, "sample")
    strace = ["strace", "-f", "-c", "-o", trace, "-e", f"trace={','.join(SYSCALLS)}"]
    check([*strace, *argv], env=tool.env(), cwd=cwd)
    counts = parse_summary(trace.read_text(encoding="utf-8"))
    shutil.rmtree(tool.home)
    return counts


def parse_summary(text):
    """Reads the table that `strace -c` writes: the call's name is last, its count fourth."""
    counts = dict.fromkeys(SYSCALLS, 0)
    for line in text.splitlines():
        fields = line.split()
        if fields and fields[-1] in counts:
            counts[fields[-1]] = int(fields[3])
    return counts


def ensure_strace():
    """Installs strace if it is missing."""
    if shutil.which("strace") is None:
        check(["apt-get", "install", "-y", "strace"])
    if shutil.which("strace") is None:
        raise BenchError("strace is missing and could not be installed")
