"""Finds or installs the programs, each into the peers' directory and nowhere else.

Only package registries are asked, by their ordinary clients: cargo, pip, npm and apt.
"""

import os
import shutil
import sys
from pathlib import Path

from .measure import BenchError, check

RUSTIC_VERSION = "0.11.4"
BORG_VERSION = "1.4.5"
# Where restic is looked for, newest first; `None` is the machine's own release.
DEBIAN_SUITES = ("sid", "testing", "stable", None)
# Debian packages of the libraries that borg is compiled against, by their pkg-config names.
BORG_LIBRARIES = {
    "openssl": "libssl-dev",
    "liblz4": "liblz4-dev",
    "libzstd": "libzstd-dev",
    "libxxhash": "libxxhash-dev",
    "libacl": "libacl1-dev",
}
DEBIAN_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def say(text):
    """Tells the person at the terminal what goes on."""
    print(text, file=sys.stderr, flush=True)


class Installer:
    """Knows where each program belongs below `top`, and how to get it."""

    def __init__(self, top: Path, repository: Path, jobs: int):
        self.top = top
        self.repository = repository
        self.jobs = jobs
        top.mkdir(parents=True, exist_ok=True)

    def find(self, name):
        """Returns the path of a tool's program, installed if it was missing."""
        return {
            "strongroom": self.strongroom,
            "rustic": self.rustic,
            "restic": self.restic,
            "borg": self.borg,
            "borg-fixed": self.borg,
        }[name]()

    def strongroom(self):
        """Builds this repository's release binary."""
        say("strongroom: building")
        self.cargo("build", "--release", cwd=self.repository)
        target = os.environ.get("CARGO_TARGET_DIR", self.repository / "target")
        return Path(target) / "release" / "strongroom"

    def workloads(self):
        """Builds the program that makes the workloads."""
        say("workloads: building")
        manifest = self.repository / "benches" / "peers" / "workloads" / "Cargo.toml"
        target = self.top / "build" / "workloads"
        self.cargo(
            "build", "--release", "--locked", "--manifest-path", manifest, "--target-dir", target
        )
        return target / "release" / "peer-workloads"

    def rustic(self):
        """Compiles rustic from its crate."""
        binary = self.top / "rustic" / "bin" / "rustic"
        if not binary.exists():
            say(f"rustic: compiling {RUSTIC_VERSION}; this takes some minutes")
            build = self.top / "build" / "rustic"
            self.cargo(
                "install", "rustic-rs", "--version", RUSTIC_VERSION, "--locked",
                "--root", self.top / "rustic", "--target-dir", build,
            )
            shutil.rmtree(build)
        return binary

    def cargo(self, command, *rest, cwd="/"):
        """Runs cargo; by default away from the repository, whose configuration is not for peers."""
        check(["cargo", command, "--jobs", self.jobs, *rest], cwd=cwd)

    def borg(self):
        """Compiles borg from its Python package, in an environment of its own."""
        binary = self.top / "borg" / "bin" / "borg"
        if not binary.exists():
            missing = [
                package for name, package in BORG_LIBRARIES.items() if not has_library(name)
            ]
            if missing:
                apt_install(*missing)
            say(f"borg: compiling {BORG_VERSION}")
            check([sys.executable, "-m", "venv", self.top / "borg"])
            check([self.top / "borg" / "bin" / "pip", "install", f"borgbackup=={BORG_VERSION}"])
        return binary

    def restic(self):
        """Unpacks restic from the newest Debian package that runs on this machine.

        No registry of crates, Python or Node packages carries restic's program.
        """
        binary = self.top / "restic" / "usr" / "bin" / "restic"
        failures = []
        for suite in () if binary.exists() else DEBIAN_SUITES:
            try:
                say(f"restic: fetching from Debian {suite or '(own release)'}")
                unpack_debian("restic", suite, self.top / "restic")
                check([binary, "version"])
                break
            except BenchError as error:
                failures.append(str(error))
                shutil.rmtree(self.top / "restic", ignore_errors=True)
        if not binary.exists():
            raise BenchError("restic cannot be had:\n" + "\n".join(failures))
        return binary


def has_library(name):
    """Tells whether pkg-config knows a library."""
    try:
        check(["pkg-config", "--exists", name])
    except BenchError:
        return False
    return True


def apt_install(*packages):
    """Installs Debian packages; that needs root."""
    say(f"apt: installing {' '.join(packages)}")
    check(["apt-get", "update"])
    check(["apt-get", "install", "-y", *packages])


def unpack_debian(package, suite, to):
    """Downloads one package of a Debian suite and unpacks it below `to`, installing nothing.

    apt gets a configuration, lists and cache of its own, so that the machine's sources stay as
    they are.
    """
    shutil.rmtree(to, ignore_errors=True)
    apt = to / "apt"
    for part in ("state/lists/partial", "cache/archives/partial"):
        (apt / part).mkdir(parents=True)
    env = dict(os.environ)
    if suite is not None:
        sources = apt / "sources.list"
        sources.write_text(f"deb [signed-by={DEBIAN_KEYRING}] {debian_archive()} {suite} main\n")
        configuration = apt / "apt.conf"
        configuration.write_text(
            f'Dir::Etc::sourcelist "{sources}";\nDir::Etc::sourceparts "/dev/null";\n'
            f'Dir::State "{apt}/state";\nDir::Cache "{apt}/cache";\n'
            'Acquire::Languages "none";\nAPT::Sandbox::User "root";\n'
        )
        env["APT_CONFIG"] = str(configuration)
    check(["apt-get", "update"], env=env)
    check(["apt-get", "download", package], env=env, cwd=apt)
    for file in apt.glob("*.deb"):
        check(["dpkg-deb", "--extract", file, to])
    shutil.rmtree(apt)


def debian_archive():
    """Returns the address of the Debian archive that this machine uses."""
    form = "$(REPO_URI) $(ORIGIN) $(COMPONENT)"
    for line in check(["apt-get", "indextargets", "--format", form]).splitlines():
        uri, origin, component = line.split(" ", 2)
        if origin == "Debian" and component == "main" and uri.rstrip("/").endswith("/debian"):
            return uri
    raise BenchError("apt knows no Debian archive on this machine")
