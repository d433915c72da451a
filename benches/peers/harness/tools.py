"""The programs that are measured, each as the command lines of the same five operations."""

import os
import re
import shutil
from pathlib import Path

from .measure import check

PASSWORD = "benchmark"
DEPLOYMENT = "bench"


class Tool:
    """One program with a store of its own.

    Every operation returns `(argv, cwd)`. A backup takes what lies in `source`, one directory per
    member; a restore writes the same directories into `to`, which does not exist yet.
    """

    name = ""
    note = ""

    def __init__(self, binary: Path, home: Path):
        self.binary = binary
        self.home = home
        """Holds the store, the cache, and what the program would put into the user's home."""
        self.store = home / "store"

    def reset(self):
        """Makes an empty store."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        check(self.init(), env=self.env())

    def env(self):
        """Returns the environment of every command: nothing outside `home` is read or written."""
        env = {
            key: value
            for key, value in os.environ.items()
            if not re.match(r"(RESTIC|RUSTIC|BORG|STRONGROOM|XDG)_", key)
        }
        home = str(self.home)
        return {**env, "HOME": home, "XDG_CACHE_HOME": f"{home}/cache", "LC_ALL": "C.UTF-8"}

    def version(self):
        """Returns the version that the program tells."""
        text = check([self.binary, "--version"])
        found = re.search(r"\d+\.\d+\.\d+\S*", text)
        return found.group(0) if found else text.strip()

    def init(self):
        raise NotImplementedError

    def backup(self, source: Path, tag: str):
        raise NotImplementedError

    def restore(self, tag: str, to: Path):
        raise NotImplementedError

    def verify(self):
        raise NotImplementedError


class Strongroom(Tool):
    """This project; the tag's place in the order of backups is the generation's number."""

    name = "strongroom"
    note = "defaults"

    def __init__(self, binary, home):
        super().__init__(binary, home)
        self._tags = []

    def reset(self):
        self._tags = []
        super().reset()

    def init(self):
        return [self.binary, "init", "--store", self.store]

    def backup(self, source, tag):
        self._tags.append(tag)
        members = [f"{path.name}={path}" for path in sorted(source.iterdir())]
        argv = [self.binary, "backup", "--store", self.store, "--name", DEPLOYMENT]
        return [*argv, *members, "--json"], source

    def restore(self, tag, to):
        newest = tag == self._tags[-1]
        generation = DEPLOYMENT if newest else f"{DEPLOYMENT}@g{self._tags.index(tag) + 1}"
        return [self.binary, "restore", generation, "--to", to, "--store", self.store], to.parent

    def verify(self):
        return [self.binary, "verify", "--full", "--store", self.store], self.home


class Restic(Tool):
    """restic; it knows no store without encryption."""

    name = "restic"
    note = "defaults: encrypted, zstd level 3"

    def env(self):
        return {
            **super().env(),
            "RESTIC_REPOSITORY": str(self.store),
            "RESTIC_PASSWORD": PASSWORD,
            "RESTIC_CACHE_DIR": str(self.home / "cache"),
        }

    def version(self):
        return check([self.binary, "version"]).split()[1]

    def init(self):
        return [self.binary, "init"]

    def backup(self, source, tag):
        return [self.binary, "backup", "--tag", tag, "."], source

    def restore(self, tag, to):
        return [self.binary, "restore", "latest", "--tag", tag, "--target", to], to.parent

    def verify(self):
        return [self.binary, "check", "--read-data"], self.home


class Rustic(Tool):
    """rustic; it writes restic's format, which is always encrypted."""

    name = "rustic"
    note = "defaults: encrypted, zstd level 3"

    def env(self):
        return {
            **super().env(),
            "RUSTIC_REPOSITORY": str(self.store),
            "RUSTIC_PASSWORD": PASSWORD,
            "RUSTIC_CACHE_DIR": str(self.home / "cache"),
            "RUSTIC_NO_PROGRESS": "true",
        }

    def init(self):
        return [self.binary, "init"]

    def backup(self, source, tag):
        # A tag and not a label: snapshots of another label would not be taken as parent.
        return [self.binary, "backup", "--tag", tag, "."], source

    def restore(self, tag, to):
        return [self.binary, "restore", "--filter-tags", tag, "latest", to], to.parent

    def verify(self):
        return [self.binary, "check", "--read-data"], self.home


class Borg(Tool):
    """borg without encryption, with its default compression and chunker."""

    name = "borg"
    note = "--encryption none, lz4, content-defined chunks of 2 MiB"
    options = ()

    def env(self):
        return {
            **super().env(),
            "BORG_BASE_DIR": str(self.home),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        }

    def init(self):
        return [self.binary, "init", "--encryption", "none", self.store]

    def backup(self, source, tag):
        return [self.binary, "create", *self.options, f"{self.store}::{tag}", "."], source

    def restore(self, tag, to):
        to.mkdir()
        return [self.binary, "extract", f"{self.store}::{tag}"], to

    def verify(self):
        return [self.binary, "check", "--verify-data", self.store], self.home


class BorgFixed(Borg):
    """borg as fast as it gets on memory images: no compression, fixed chunks."""

    name = "borg-fixed"
    note = "--encryption none, no compression, fixed chunks of 64 KiB"
    options = ("--compression", "none", "--chunker-params", "fixed,65536")


TOOLS = {tool.name: tool for tool in (Strongroom, Rustic, Restic, Borg, BorgFixed)}
TOOLS_DEFAULT = ("strongroom", "rustic", "restic", "borg")
