import hashlib

import pytest

from sextet.data import AllOf, ChecksumMismatch, DataError, SourceUnavailable, Url, fetch, load

BODY = bytes(range(256)) * 2000


def sha256(body):
    return hashlib.sha256(body).hexdigest()


@pytest.fixture
def url(server):
    def build(**changes):
        return Url(server.url("file"), "file.bin", **{"sha256": sha256(BODY), "backoff": 0.001} | changes)

    return build


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_good_download_lies_alone_under_its_final_name(server, reply, url, tmp_path):
    server.replies["file"] = reply(BODY)
    got = url().fetch(tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert names(tmp_path) == ["file.bin"]
    assert got == {server.url("file"): f"sha256:{sha256(BODY)}"}


def test_the_md5_of_the_publisher_is_enough(server, reply, url, tmp_path):
    server.replies["file"] = reply(BODY)
    url(sha256=None, md5=hashlib.md5(BODY).hexdigest()).fetch(tmp_path)
    assert names(tmp_path) == ["file.bin"]


def test_what_is_there_already_is_not_downloaded_again(server, reply, url, tmp_path):
    server.replies["file"] = reply(BODY)
    url().fetch(tmp_path)
    url().fetch(tmp_path)
    assert len(server.ranges) == 1


def test_a_cut_connection_is_resumed_where_it_broke(server, reply, url, tmp_path):
    server.replies["file"] = reply(BODY, cut_after=[100_000, 70_000])
    url().fetch(tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert server.ranges == [None, "bytes=100000-", "bytes=170000-"]


def test_a_later_call_resumes_what_an_earlier_one_left(server, reply, url, tmp_path):
    server.replies["file"] = reply(BODY, cut_after=[100_000])
    with pytest.raises(SourceUnavailable):
        url(attempts=1).fetch(tmp_path)
    assert names(tmp_path) == ["file.bin.part"]
    url().fetch(tmp_path)
    assert server.ranges == [None, "bytes=100000-"]
    assert names(tmp_path) == ["file.bin"]


def test_a_server_that_ignores_ranges_is_read_from_the_start(server, reply, url, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(BODY[:1000])
    server.replies["file"] = reply(BODY, ignore_range=True)
    url().fetch(tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == BODY


def test_another_range_than_asked_for_is_not_appended(server, reply, url, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(BODY[:1000])
    server.replies["file"] = reply(BODY, content_range="bytes 5-10/*")
    url().fetch(tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert server.ranges == ["bytes=1000-", None]


@pytest.mark.parametrize("leftover", [b"of another version", BODY, BODY + b"more"])
def test_any_partial_file_ends_in_the_right_file(server, reply, url, tmp_path, leftover):
    (tmp_path / "file.bin.part").write_bytes(leftover)
    server.replies["file"] = reply(BODY)
    url().fetch(tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("body", [b"", b"<html>log in first</html>", BODY[:-1], BODY + b"x"])
def test_a_wrong_body_never_gets_the_final_name(server, reply, url, tmp_path, body):
    server.replies["file"] = reply(body)
    with pytest.raises(ChecksumMismatch) as caught:
        url().fetch(tmp_path)
    kept = f"file.bin.rejected-{sha256(body)[:8]}"
    assert names(tmp_path) == [kept]
    assert caught.value.kept == tmp_path / kept
    assert sha256(BODY) in str(caught.value)
    assert sha256(body) in str(caught.value)


def test_a_length_longer_than_the_body_is_a_broken_connection(server, reply, url, tmp_path):
    server.replies["file"] = reply(b"short", claimed_length=1000)
    with pytest.raises(DataError):
        url().fetch(tmp_path)
    assert not (tmp_path / "file.bin").exists()


def test_a_length_shorter_than_the_body_is_a_wrong_body(server, reply, url, tmp_path):
    server.replies["file"] = reply(BODY, claimed_length=1000)
    with pytest.raises(ChecksumMismatch):
        url().fetch(tmp_path)
    assert not (tmp_path / "file.bin").exists()


@pytest.mark.parametrize("claimed_length", [None, -1, 10])
def test_no_more_than_the_allowed_bytes_are_taken(server, reply, url, tmp_path, claimed_length):
    server.replies["file"] = reply(BODY, claimed_length=claimed_length)
    with pytest.raises(DataError, match="larger than" if claimed_length != 10 else "expected hash"):
        url(max_bytes=1000).fetch(tmp_path)
    assert not (tmp_path / "file.bin").exists()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1000


def test_a_busy_server_is_asked_again(server, reply, url, tmp_path):
    server.replies["file"] = reply(BODY, fail_first=2)
    url().fetch(tmp_path)
    assert len(server.ranges) == 3


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (500, 3)])
def test_a_refusal_is_named_and_final(server, reply, url, tmp_path, status, requests):
    server.replies["file"] = reply(BODY, status=status)
    with pytest.raises(SourceUnavailable, match=str(status)):
        url().fetch(tmp_path)
    assert len(server.ranges) == requests
    assert names(tmp_path) == []


def test_no_server_at_all(url, server, tmp_path):
    gone = Url("http://127.0.0.1:1/file", "file.bin", sha256=sha256(BODY), backoff=0.001)
    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1:1"):
        gone.fetch(tmp_path)


def test_every_part_of_a_source_is_fetched(server, reply, tmp_path):
    server.replies |= {"a": reply(b"A"), "b": reply(b"B")}
    both = AllOf(tuple(Url(server.url(name), name, sha256=sha256(name.upper().encode())) for name in "ab"))
    assert len(both.fetch(tmp_path)) == 2
    assert names(tmp_path) == ["a", "b"]
    assert both.describe() == f"{server.url('a')} and 1 more"


def test_a_dataset_from_the_web(server, reply, tmp_path, make_tiny, arrays, pack):
    body = pack(arrays)
    server.replies["data"] = reply(body, cut_after=[50])
    passport = make_tiny(Url(server.url("data"), "data.npz", sha256=sha256(body), backoff=0.001))
    fetch(passport, tmp_path)
    assert load(passport, tmp_path, download=False)["labels"].tolist() == [1, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "file:///etc/passwd", "sha256": "0"},
        {"url": "ftp://example.org/x", "sha256": "0"},
        {"sha256": None},
        {"sha256": "0", "md5": "0"},
        {"sha256": "0", "filename": "../x"},
    ],
)
def test_a_url_says_what_is_wrong_with_it(wrong):
    with pytest.raises(ValueError, match=r"url must|sha256 or md5|bare file name"):
        Url(**{"url": "https://example.org/x", "filename": "x"} | wrong)
