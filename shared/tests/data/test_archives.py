import gzip
import io
import os
import stat
import tarfile
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sextet.data import DataError, UnsafeArchive, extract
from sextet.data.archives import _Writer, is_archive


def make_tar(path, *members, mode="w", **options):
    """Write members: (name, bytes) or ready TarInfos (with their bytes)."""
    with tarfile.open(path, mode, **options) as tar:
        for member, body in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            if info.isreg():
                info.size = info.size or len(body)
            tar.addfile(info, io.BytesIO(body))
    return path


def make_zip(path, *members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as bundle:
        for member, body in members:
            bundle.writestr(member, body)
    return path


def entry(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_refused(archive, tmp_path, error=UnsafeArchive, **limits):
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(error) as caught:
        extract(archive, tmp_path / "out", **limits)
    assert archive.name in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == before


GOOD = (("top.txt", b"1"), ("./folder/deep/file.bin", b"2" * 3000), ("folder/empty", b""))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_files_are_extracted(tmp_path, mode, form):
    archive = make_tar(tmp_path / "a", *GOOD, (entry("only/a/folder", tarfile.DIRTYPE), b""), mode=mode, format=form)
    assert is_archive(archive)
    out = extract(archive, tmp_path / "out")
    assert contents(out) == {"top.txt": b"1", "folder/deep/file.bin": b"2" * 3000, "folder/empty": b""}
    assert (out / "only/a/folder").is_dir()


def test_zip_files_are_extracted(tmp_path):
    archive = make_zip(tmp_path / "a.zip", *GOOD[::2], ("folder/sub/", b""))
    assert is_archive(archive)
    assert contents(extract(archive, tmp_path / "out")) == {"top.txt": b"1", "folder/empty": b""}


def test_long_and_foreign_names_are_extracted(tmp_path):
    names = ["d/" * 40 + "long" * 30, "Straße/naïve-名"]
    archive = make_tar(tmp_path / "a", *((name, b"x") for name in names))
    assert sorted(contents(extract(archive, tmp_path / "out"))) == sorted(names)


def test_an_empty_folder_may_be_given_and_a_full_one_not(tmp_path):
    archive = make_tar(tmp_path / "a", *GOOD)
    (tmp_path / "out").mkdir()
    extract(archive, tmp_path / "out")
    with pytest.raises(DataError, match="new or empty"):
        extract(archive, tmp_path / "out")


def test_modes_are_not_taken_over(tmp_path):
    info = tarfile.TarInfo("program")
    info.mode = 0o6777
    out = extract(make_tar(tmp_path / "a", (info, b"x")), tmp_path / "out")
    assert stat.S_IMODE((out / "program").stat().st_mode) & 0o7111 == 0


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a/..", "/etc/x", "//x", "..\\x", "C:/x", "C:\\x"])
@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_names_that_lead_outside(tmp_path, name, make):
    assert_refused(make(tmp_path / "a", ("good", b"1"), (name, b"2")), tmp_path)


@pytest.mark.parametrize(
    "info",
    [
        entry("link", tarfile.SYMTYPE, "/etc/passwd"),
        entry("link", tarfile.SYMTYPE, "good"),
        entry("link", tarfile.LNKTYPE, "good"),
        entry("link", tarfile.LNKTYPE, "../../outside"),
        entry("device", tarfile.CHRTYPE),
        entry("device", tarfile.BLKTYPE),
        entry("pipe", tarfile.FIFOTYPE),
        entry("sparse", tarfile.GNUTYPE_SPARSE),
        entry("unknown", b"Z"),
    ],
    ids=lambda info: f"{info.name}-{info.linkname}",
)
def test_anything_but_files_and_folders(tmp_path, info):
    assert_refused(make_tar(tmp_path / "a", ("good", b"1"), (info, b"")), tmp_path)


def test_a_file_through_a_link(tmp_path):
    members = (entry("way", tarfile.SYMTYPE, str(tmp_path)), b""), ("way/escaped", b"x")
    assert_refused(make_tar(tmp_path / "a", *members), tmp_path)


def test_a_link_in_a_zip(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert_refused(make_zip(tmp_path / "a.zip", (info, b"/etc/passwd")), tmp_path)


def test_a_nul_in_a_name(tmp_path):
    assert_refused(make_tar(tmp_path / "a", ("x", b""), mode="w", pax_headers={"path": "a\0b"}), tmp_path)
    archive = make_zip(tmp_path / "a.zip", ("axb", b"1"))
    archive.write_bytes(archive.read_bytes().replace(b"axb", b"a\0b"))
    assert_refused(archive, tmp_path, DataError)


@pytest.mark.parametrize(
    "names",
    [("a", "A"), ("a", "a"), ("d/x", "D/y"), ("a", "a/b"), ("a/b", "a"), ("é", "e\u0301"), ("ß", "SS")],
)
@pytest.mark.parametrize("make", [make_tar, make_zip])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_would_meet(tmp_path, names, make):
    assert_refused(make(tmp_path / "a", *((name, b"x") for name in names)), tmp_path)


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_too_many_entries_or_bytes(tmp_path, make):
    archive = make(tmp_path / "a", *((f"f{i}", b"x" * 10) for i in range(20)))
    assert_refused(archive, tmp_path, max_files=19)
    assert_refused(archive, tmp_path, max_bytes=199)
    assert len(contents(extract(archive, tmp_path / "out", max_files=20, max_bytes=200))) == 20


def test_bombs(tmp_path):
    zeros = bytes(4 << 20)
    assert_refused(make_zip(tmp_path / "a.zip", ("zeros", zeros)), tmp_path, max_bytes=1 << 20)
    assert_refused(make_tar(tmp_path / "a.tgz", ("zeros", zeros), mode="w:gz"), tmp_path, max_bytes=1 << 20)
    with gzip.open(tmp_path / "nothing but zeros", "wb") as stream:
        stream.write(zeros)
    assert_refused(tmp_path / "nothing but zeros", tmp_path, DataError, max_bytes=1 << 20)


def test_a_declared_size_is_believed_against_the_archive(tmp_path):
    info = tarfile.TarInfo("huge")
    info.size = 1 << 40
    archive = tmp_path / "a"
    archive.write_bytes(info.tobuf() + bytes(1024))
    assert_refused(archive, tmp_path)
    assert_refused(archive, tmp_path, DataError, max_bytes=1 << 41)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_bomb_in_an_extended_header(tmp_path, kind):
    header = tarfile.TarInfo("header")
    header.type, header.size = kind, 1 << 30
    (tmp_path / "a").write_bytes(header.tobuf() + bytes(10240))
    assert_refused(tmp_path / "a", tmp_path)


def test_a_lie_about_the_size_in_a_zip(tmp_path):
    archive = make_zip(tmp_path / "a.zip", ("zeros", bytes(100_000)), compression=zipfile.ZIP_STORED)
    archive.write_bytes(archive.read_bytes().replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    assert_refused(archive, tmp_path, DataError)


def test_a_negative_size_is_refused(tmp_path):
    writer = _Writer(tmp_path, max_bytes=10, max_files=10)
    with pytest.raises(UnsafeArchive, match=r"'a' declares -1 bytes"):
        writer.add("a", -1, io.BytesIO())


def test_a_member_that_holds_more_than_it_declares_stops_at_the_limit(tmp_path):
    writer = _Writer(tmp_path, max_bytes=10, max_files=10)
    with pytest.raises(UnsafeArchive, match="holds more than 10 bytes"):
        writer.add("a", 5, io.BytesIO(bytes(11)))


def test_a_compressed_stream_is_bounded_before_tar_sees_it(tmp_path):
    members = ((entry(f"folder {number}", tarfile.DIRTYPE), b"") for number in range(2200))
    archive = make_tar(tmp_path / "a.tgz", *members, mode="w:gz")
    with pytest.raises(UnsafeArchive, match="unpacks to more bytes than allowed"):
        extract(archive, tmp_path / "out", max_bytes=0)
    assert not (tmp_path / "out").exists()


def test_damaged_archives_leave_nothing(tmp_path):
    whole = make_tar(tmp_path / "whole.tgz", ("a", os.urandom(50_000)), mode="w:gz").read_bytes()
    for name, body in {"cut.tgz": whole[:30_000], "empty": b"", "text": b"no archive" * 100}.items():
        (tmp_path / name).write_bytes(body)
        assert_refused(tmp_path / name, tmp_path, DataError)
    assert not is_archive(tmp_path / "text")
    assert not is_archive(tmp_path / "absent")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_leaves_a_data_error_or_files_inside(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    make = data.draw(st.sampled_from([make_tar, make_zip]))
    body = bytearray(make(folder / "a", ("one", b"1" * 600), ("two/three", b"3")).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    (folder / "a").write_bytes(body[: data.draw(st.integers(0, len(body)))])
    try:
        extract(folder / "a", folder / "out", max_bytes=10_000, max_files=10)
    except DataError:
        assert os.listdir(folder) == ["a"]
    else:
        assert sorted(os.listdir(folder)) == ["a", "out"]
        assert not any(path.is_symlink() for path in folder.rglob("*"))
