"""Makes the workloads' files: generation after generation, each in a directory of its own."""

import base64
import contextlib
import hashlib
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from .install import say
from .measure import BenchError, check, size_bytes

PACKAGE_LIST = Path(__file__).resolve().parent.parent / "npm-packages.txt"
SCALES = {"small": 0.1, "full": 1.0}


@dataclass(frozen=True)
class Workload:
    """What is known of a workload before it is made."""

    name: str
    generations: int
    generation_mb: float
    """Size of a generation at full scale."""
    store_factor: float
    """What a tool leaves on disk until the end, in generations; for the check of free space."""


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("memory", 5, 2050, 2.2),
        Workload("random", 3, 4300, 2.0),
        Workload("database", 3, 650, 2.0),
        # Last, because deleting its files slows down what comes after; see bench.py.
        Workload("tree", 4, 490, 4.0),
    )
}


@dataclass
class Sources:
    """A workload's files on disk."""

    workload: Workload
    origin: str
    """Where the content is from, in words."""
    dir: Path
    stats: list
    """Per generation: files, bytes, and what changed."""

    def generation(self, number):
        """Returns the directory of a generation, counted from 1."""
        return self.dir / f"gen{number}"

    def newest(self):
        """Returns the directory of the last generation."""
        return self.generation(self.workload.generations)


class SourceMaker:
    """Makes workloads below `top`, or takes them as they are if they were made before."""

    def __init__(self, generator: Path, top: Path, npm_dir: Path, tree_from: str):
        self.generator = generator
        self.top = top
        self.npm_dir = npm_dir
        self.tree_from = tree_from

    def make(self, workload: Workload, scale: float):
        """Returns the workload's `Sources`."""
        to = self.top / f"{workload.name}-{scale:g}"
        record = to / "complete.json"
        made_by = self._made_by(workload)
        known = json.loads(record.read_text()) if record.exists() else {}
        generations = [to / f"gen{number + 1}" for number in range(workload.generations)]
        if known.get("made_by") != made_by or not all(path.is_dir() for path in generations):
            shutil.rmtree(to, ignore_errors=True)
            to.mkdir(parents=True)
            origin = self._fill(workload, scale, to)
            stats = json.loads(check([self.generator, "stats", to]))
            known = {"made_by": made_by, "origin": origin, "stats": stats}
            record.write_text(json.dumps(known))
        return Sources(workload, known["origin"], to, known["stats"])

    def _made_by(self, workload):
        """Returns a digest of what decides the bytes, so that others are not taken for these."""
        digest = hashlib.sha256(self.generator.read_bytes())
        if workload.name == "tree":
            digest.update(self.tree_from.encode() + PACKAGE_LIST.read_bytes())
        return digest.hexdigest()

    def _fill(self, workload, scale, to):
        say(f"{workload.name}: making {workload.generations} generations at scale {scale:g}")
        if workload.name == "tree" and self.tree_from != "synthetic":
            try:
                return self._npm_trees(scale, to)
            except BenchError as error:
                if self.tree_from == "npm":
                    raise
                say(f"tree: npm packages cannot be had, made up instead: {error}")
        check([
            self.generator, workload.name, to,
            "--scale", f"{scale:g}", "--generations", workload.generations,
        ])  # fmt: skip
        return "synthetic, seeded"

    def _npm_trees(self, scale, to):
        """Unpacks npm packages in consecutive versions; returns the origin in words."""
        rows = [
            line.split()
            for line in PACKAGE_LIST.read_text(encoding="utf-8").splitlines()
            if not line.startswith("#")
        ]
        names = list(dict.fromkeys(name for _, name, _, _ in rows))
        names = names[: max(2, math.ceil(len(names) * min(scale, 1)))]
        self.npm_dir.mkdir(parents=True, exist_ok=True)
        for generation, name, version, digest in rows:
            if name in names:
                package = npm_package(self.npm_dir, name, version, digest)
                member = to / f"gen{generation}" / package_file_stem(name)
                member.mkdir(parents=True)
                # Times are those of unpacking, as after a download.
                check(["tar", "-xzmf", package, "-C", member, "--strip-components=1",
                       "--no-same-owner"])  # fmt: skip
        return f"{len(names)} npm packages in consecutive versions"


def package_file_stem(name):
    """Returns an npm package's name as npm writes it in file names."""
    return name.removeprefix("@").replace("/", "-")


def npm_package(npm_dir, name, version, digest):
    """Returns the file of a package version, downloaded if missing; checks its digest."""
    file = npm_dir / f"{package_file_stem(name)}-{version}.tgz"
    if not file.exists():
        check(["npm", "pack", "--silent", "--pack-destination", npm_dir, f"{name}@{version}"])
    found = "sha512-" + base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode()
    if found != digest:
        file.unlink()
        raise BenchError(f"{name}@{version}: digest mismatch (expected {digest}, found {found})")
    return file


@contextlib.contextmanager
def at_one_path(generation: Path, current: Path):
    """Gives a generation the path under which all generations are backed up.

    The directory is renamed and not copied: its files keep their inodes and times.
    """
    generation.rename(current)
    try:
        yield current
    finally:
        current.rename(generation)


def copy_anew(source: Path, to: Path):
    """Copies a generation as a new download: same content, new inodes, new times."""
    shutil.rmtree(to, ignore_errors=True)
    check(["cp", "-r", source, to])


def describe(sources):
    """Returns one line per generation on size and change."""
    lines = []
    for row in sources.stats:
        line = f"gen{row['generation']}: {row['files']} files, {row['bytes'] / 1e6:.0f} MB"
        if row["generation"] > 1:
            line += (
                f"; {100 * row['pages_4k_changed']:.0f}% of 4 KiB pages and "
                f"{100 * row['blocks_64k_changed']:.0f}% of 64 KiB blocks changed"
            )
        lines.append(line)
    return lines


def need_space(sources_dir, workloads, tools_count, scale):
    """Raises `BenchError` if the largest workload would fill the disk."""
    for workload in workloads:
        generations = workload.generations + 1 + tools_count * workload.store_factor
        need_mb = generations * workload.generation_mb * scale
        # What an earlier run left is used again or replaced.
        have = (shutil.disk_usage(sources_dir).free + size_bytes(sources_dir)) / 1e6
        if have < need_mb * 1.1:
            raise BenchError(
                f"{workload.name} at scale {scale:g} needs about {need_mb / 1e3:.0f} GB below "
                f"{sources_dir}, and {have / 1e3:.0f} GB are free"
            )

