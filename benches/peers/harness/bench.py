"""Runs the rows of a workload: every tool in turn on the same bytes."""

import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from .install import say
from .measure import Usage, run, same_content, size_bytes, warm
from .sources import Sources, at_one_path, copy_anew

FIRST = "first backup"
REDOWNLOADED = "re-downloaded"
UNCHANGED = "unchanged"
RESTORE_NEWEST = "restore newest"
RESTORE_OLDEST = "restore oldest"
VERIFY = "full verify"

# A tree of more files than this counts as many small files.
MANY_FILES = 1000
# ext4 passes over inodes freed in the last minutes, and creating files is some ten times slower
# meanwhile. Before restores of many files the bench waits until a probe of so many
# files takes less than so long, or for so long at most.
PROBE_FILES = 2000
PROBE_GOOD_S = 0.3
PROBE_WAIT_S = 320


@dataclass
class Measurement:
    """One run of one tool in one row."""

    workload: str
    row: str
    tool: str
    round: int
    usage: Usage
    source_mb: float
    """Bytes that the operation is about: the generation's, or for verify all generations'."""
    store_mb: float
    """Size of the store afterwards."""
    load: float
    """Load average of the last minute afterwards: well above 2, other work was in the way."""

    def as_json(self):
        """Returns the measurement as one flat object."""
        flat = asdict(self)
        usage = flat.pop("usage")
        return {**flat, **usage}


class Bench:
    """One workload, measured on all tools for a number of rounds."""

    def __init__(self, sources: Sources, tools, work: Path, log: Path):
        self.sources = sources
        self.tools = tools
        self.work = work
        self.log = log
        self.current = work / "current"
        self.measurements = []
        self.trash = work / "trash"
        self.trash.mkdir(exist_ok=True)
        self._many_files = sources.stats[0]["files"] > MANY_FILES
        self._turn = 0
        self._round = 0
        self._compared = set()

    def run_round(self):
        """Runs all rows once, on fresh stores."""
        self._round += 1
        for tool in self.tools:
            tool.reset()
        self._backups()
        sources = self.sources
        self._restores(RESTORE_NEWEST, "again", sources.newest())
        self._restores(RESTORE_OLDEST, "gen1", sources.generation(1))
        # Every generation was stored, and the newest twice more.
        stored_mb = sum(row["bytes"] for row in sources.stats) / 1e6
        for tool in self._in_turn():
            warm(tool.store)
            self._measure(VERIFY, tool, tool.verify(), stored_mb)
        for tool in self.tools:
            shutil.rmtree(tool.home)

    def close(self):
        """Deletes what the rounds left."""
        shutil.rmtree(self.trash)

    def _backups(self):
        """Measures the rows that write."""
        sources = self.sources
        for number in range(1, sources.workload.generations + 1):
            row = FIRST if number == 1 else f"generation {number}"
            self._backup_row(row, sources.generation(number), f"gen{number}")
        copy = self.work / "copy"
        copy_anew(sources.newest(), copy)
        self._backup_row(REDOWNLOADED, copy, "copy")
        self._backup_row(UNCHANGED, copy, "again")
        self._discard(copy)

    def _backup_row(self, row, generation, tag):
        with at_one_path(generation, self.current) as source:
            source_mb = size_bytes(source) / 1e6
            for tool in self._in_turn():
                warm(source)
                self._measure(row, tool, tool.backup(source, tag), source_mb)

    def _restores(self, row, tag, generation):
        to = self.work / "restored"
        source_mb = size_bytes(generation) / 1e6
        if self._many_files:
            self._wait_for_inodes()
        for tool in self._in_turn():
            warm(tool.store)
            self._measure(row, tool, tool.restore(tag, to), source_mb)
            if (row, tool.name) not in self._compared:
                same_content(generation, to)
                self._compared.add((row, tool.name))
            self._discard(to)

    def _discard(self, tree):
        """Deletes a tree; one of many files only at the end, see `PROBE_FILES`."""
        if self._many_files:
            tree.rename(self.trash / f"{time.monotonic_ns()}")
        else:
            shutil.rmtree(tree)

    def _wait_for_inodes(self):
        """Waits until files can be created at the usual speed."""
        deadline = time.monotonic() + PROBE_WAIT_S
        while True:
            probe = self.trash / f"probe-{time.monotonic_ns()}"
            probe.mkdir()
            start = time.monotonic()
            for number in range(PROBE_FILES):
                (probe / str(number)).touch()
            took = time.monotonic() - start
            if took < PROBE_GOOD_S:
                return
            if time.monotonic() > deadline:
                say(f"  creating files is still slow: {PROBE_FILES} took {took:.1f} s")
                return
            say("  waiting: creating files is slow after a deletion of many")
            time.sleep(20)

    def _in_turn(self):
        """Yields the tools; who comes first changes from row to row."""
        self._turn += 1
        start = self._turn % len(self.tools)
        return self.tools[start:] + self.tools[:start]

    def _measure(self, row, tool, operation, source_mb):
        argv, cwd = operation
        usage = run(argv, env=tool.env(), cwd=cwd, log=self.log)
        store_mb = size_bytes(tool.store) / 1e6
        load = os.getloadavg()[0]
        name = self.sources.workload.name
        self.measurements.append(
            Measurement(name, row, tool.name, self._round, usage, source_mb, store_mb, load)
        )
        say(
            f"  {name}, round {self._round}: {row:<14} {tool.name:<10} {usage.wall_s:7.2f} s "
            f"{usage.rss_mb:6.0f} MB  store {store_mb:7.0f} MB  load {load:.1f}"
        )
