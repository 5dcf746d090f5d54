import io
import os
import tarfile

import pytest

from sextet.data import DataError, DebianPackage, NpmPackage, PythonPackage, SourceUnavailable, UnsafeArchive, packages


@pytest.fixture
def clients(tmp_path, monkeypatch):
    """Return a function that puts a shell script in place of a package client; no other client is found."""
    folder = tmp_path / "clients"
    folder.mkdir()
    for tool in ("sh", "cp", "mkdir", "echo", "cat", "basename"):
        (folder / tool).symlink_to(next(f for p in os.defpath.split(":") if os.path.exists(f := f"{p}/{tool}")))
    monkeypatch.setenv("PATH", str(folder))

    def put(name, script):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return put


@pytest.fixture
def into(tmp_path):
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "leftover").write_text("of an interrupted call")
    return tmp_path / "into"


def archive(path, name):
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.size = 4
        tar.addfile(info, io.BytesIO(b"data"))
    return path


@pytest.fixture
def debian(clients):
    clients("apt-cache", "echo alpha; echo beta")
    clients("apt-get", 'shift; for name in "$@"; do echo data > "${name}_1.0_all.deb"; done')
    clients(
        "dpkg-deb",
        'case $1 in --show) n=$(basename "$4"); echo "${n%%_*} 1.0" ;; -x) mkdir -p "$3/usr"; cp "$2" "$3/usr" ;; esac',
    )


def test_debian_packages_lie_each_in_its_own_folder(debian, into):
    assert DebianPackage(("alpha",), optional=("beta", "gamma")).fetch(into) == {"alpha": "1.0", "beta": "1.0"}
    files = sorted(str(path.relative_to(into)) for path in into.rglob("*") if path.is_file())
    assert files == ["alpha/usr/alpha_1.0_all.deb", "beta/usr/beta_1.0_all.deb"]


def test_on_a_fresh_machine_the_lists_are_fetched_into_a_folder_of_our_own(debian, clients, into):
    clients("apt-cache", '[ "$1" = -o ] && cat "${2#*=}/list"; true')
    clients(
        "apt-get",
        """
        lists=${2#*=}; shift 4
        case $1 in
            update) echo alpha > "$lists/list" ;;
            download) echo data > "${2}_1.0_all.deb" ;;
        esac""",
    )
    assert DebianPackage(("alpha",), optional=("beta",)).fetch(into) == {"alpha": "1.0"}
    assert [path.name for path in into.iterdir()] == ["alpha"]


def test_a_needed_debian_package_that_apt_does_not_know(debian, into):
    with pytest.raises(SourceUnavailable, match="no package gamma, also after an update of its lists"):
        DebianPackage(("alpha", "gamma")).fetch(into)


def test_a_failing_client_is_quoted(debian, clients, into):
    clients("apt-get", "echo 'E: Could not resolve host' >&2; exit 100")
    with pytest.raises(SourceUnavailable, match=r"apt-get download failed \(100\): E: Could not resolve host"):
        DebianPackage(("alpha",)).fetch(into)


def test_an_npm_package_is_unpacked(clients, into, tmp_path):
    packed = archive(tmp_path / "p.tgz", "package/file")
    clients("npm", f'echo "$@" > asked; cp {packed} .')
    assert NpmPackage("thing", "1.2.3").fetch(into) == {"thing": "1.2.3"}
    assert (into / "unpacked" / "package" / "file").read_bytes() == b"data"
    assert (into / "asked").read_text().split() == ["pack", "thing@1.2.3", "--ignore-scripts", "--silent"]
    assert not (into / "leftover").exists()


def test_an_npm_that_leaves_nothing(clients, into):
    clients("npm", "echo done")
    with pytest.raises(DataError, match=r"npm pack thing@1\.2\.3 left 0 archives"):
        NpmPackage("thing", "1.2.3").fetch(into)


def test_a_client_that_does_not_end_is_not_available(clients, into, monkeypatch):
    monkeypatch.setattr(packages, "TIMEOUT", 0.1)
    clients("npm", "while true; do :; done")
    with pytest.raises(SourceUnavailable, match=r"npm did not run: .*timed out"):
        NpmPackage("thing", "1.2.3").fetch(into)


def test_a_hostile_npm_package_is_refused(clients, into, tmp_path):
    clients("npm", f"cp {archive(tmp_path / 'p.tgz', '../../file')} .")
    with pytest.raises(UnsafeArchive):
        NpmPackage("thing", "1.2.3").fetch(into)


@pytest.mark.parametrize("source", [DebianPackage(("alpha",)), NpmPackage("thing", "1.2.3")])
def test_a_missing_client_is_not_available_here(clients, into, source):
    with pytest.raises(SourceUnavailable, match="not available here"):
        source.fetch(into)


def test_a_file_of_an_installed_package(into):
    assert list(PythonPackage("numpy", ("numpy/version.py",)).fetch(into)) == ["numpy"]
    assert (into / "version.py").is_file()


def test_a_python_package_that_is_absent_or_lacks_the_file(into):
    with pytest.raises(SourceUnavailable, match="not installed"):
        PythonPackage("no-such-distribution", ("x",)).fetch(into)
    with pytest.raises(SourceUnavailable, match="has no file"):
        PythonPackage("numpy", ("numpy/no_such_file",)).fetch(into)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (DebianPackage(("alpha",), ("beta", "gamma")), "Debian package alpha and 2 more"),
        (NpmPackage("thing", "1.2.3"), "npm package thing 1.2.3"),
        (PythonPackage("numpy", ()), "Python package numpy"),
    ],
)
def test_sources_say_what_they_are(source, said):
    assert source.describe() == said
