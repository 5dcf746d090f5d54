import copy
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import time
import zipfile

import numpy as np
import pytest

from sextet.data import (
    ChecksumMismatch,
    DataError,
    DataMissing,
    SourceUnavailable,
    adopt,
    content_hash,
    fetch,
    inspect,
    load,
    recorded_hash,
    state,
    store,
    verify,
)


@pytest.fixture
def good(local, pack, arrays):
    return local(pack(arrays))


@pytest.fixture
def other(local, pack, arrays):
    return local(pack(arrays | {"labels": np.array([0, 0])}))


def visible(root):
    return sorted(path.name for path in root.iterdir() if not path.name.startswith("."))


def test_fetch_then_load(tmp_path, make_tiny, good, arrays):
    passport = make_tiny(good)
    assert state(passport, tmp_path) == "absent"
    assert recorded_hash(passport, tmp_path) is None
    folder = fetch(passport, tmp_path)
    assert folder == tmp_path / "tiny"
    assert sorted(os.listdir(folder)) == ["images.npy", "labels.npy", "passport.json"]
    assert state(passport, tmp_path) == "present"
    assert verify(passport, tmp_path) == recorded_hash(passport, tmp_path) == content_hash(arrays)
    loaded = load(passport, tmp_path)
    assert good.calls == 1
    assert {name: array.tolist() for name, array in loaded.items()} == {n: a.tolist() for n, a in arrays.items()}
    assert all(isinstance(array, np.memmap) and not array.flags.writeable for array in loaded.values())


def test_the_record_says_what_lies_there(tmp_path, make_tiny, good, arrays):
    record = json.loads((fetch(make_tiny(good), tmp_path) / "passport.json").read_text())
    assert record["content_sha256"] == content_hash(arrays)
    assert (record["source"], record["got"]) == ("a local source", {"local": "1"})
    assert record["arrays"] == {"images": ["|u1", [2, 3, 3, 1]], "labels": ["<i8", [2]]}


def test_load_fetches_what_is_absent_and_only_then(tmp_path, make_tiny, good):
    load(make_tiny(good), tmp_path)
    load(make_tiny(good), tmp_path)
    fetch(make_tiny(good), tmp_path)
    assert good.calls == 1


def test_a_failed_source_lets_the_next_one_try(tmp_path, make_tiny, good, local):
    missing = local(error=SourceUnavailable("not available here: there is no npm"))
    fetch(make_tiny(missing, local(b"no archive"), good), tmp_path)
    assert (missing.calls, good.calls) == (1, 1)


def test_every_failure_is_told(tmp_path, make_tiny, local):
    passport = make_tiny(local(error=SourceUnavailable("no npm")), local(error=DataError("a second trouble")))
    with pytest.raises(DataMissing) as caught:
        load(passport, tmp_path)
    for part in ("Tiny", "no npm", "a second trouble", "CC0", "https://example.org", "Get data.npz", str(tmp_path)):
        assert part in str(caught.value)
    assert visible(tmp_path) == []


def test_without_download_absent_is_missing(tmp_path, make_tiny, good):
    with pytest.raises(DataMissing, match="can be fetched from a local source"):
        load(make_tiny(good), tmp_path, download=False)
    assert good.calls == 0


def test_a_wrong_content_is_kept_aside_and_never_used(tmp_path, make_tiny, other, arrays):
    passport = make_tiny(other)
    with pytest.raises(ChecksumMismatch) as caught:
        fetch(passport, tmp_path)
    found = content_hash(arrays | {"labels": np.array([0, 0])})
    assert (caught.value.expected, caught.value.found) == (content_hash(arrays), found)
    assert caught.value.expected in str(caught.value)
    assert found in str(caught.value)
    assert visible(tmp_path) == [f"tiny.rejected-{found[:8]}"]
    assert caught.value.kept == tmp_path / f"tiny.rejected-{found[:8]}"
    assert state(passport, tmp_path) == "absent"


def test_a_right_source_after_a_wrong_one(tmp_path, make_tiny, other, good):
    fetch(make_tiny(other, good), tmp_path)
    assert len(visible(tmp_path)) == 2
    assert state(make_tiny(good), tmp_path) == "present"


def test_content_built_here_is_its_own_identity(tmp_path, make_tiny, other):
    passport = make_tiny(other, pinned=False)
    fetch(passport, tmp_path)
    assert verify(passport, tmp_path) == recorded_hash(passport, tmp_path)


def test_a_wrong_number_of_rows_is_refused(tmp_path, make_tiny, local, pack, arrays):
    with pytest.raises(DataMissing, match="labels has 3 rows instead of 2"):
        fetch(make_tiny(local(pack(arrays | {"labels": np.zeros(3, np.int64)})), pinned=False), tmp_path)


def test_verify_finds_a_changed_byte_and_load_heals(tmp_path, make_tiny, good):
    passport = make_tiny(good)
    path = fetch(passport, tmp_path) / "images.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert state(passport, tmp_path) == "present"
    with pytest.raises(ChecksumMismatch):
        verify(passport, tmp_path)
    assert state(passport, tmp_path) == "absent"
    load(passport, tmp_path)
    assert verify(passport, tmp_path)


def test_verify_of_nothing(tmp_path, make_tiny, good):
    with pytest.raises(DataMissing):
        verify(make_tiny(good), tmp_path)


def damage_cut(folder):
    path = folder / "images.npy"
    path.write_bytes(path.read_bytes()[:-1])


def damage_missing(folder):
    (folder / "labels.npy").unlink()


def damage_pickle(folder):
    (folder / "labels.npy").write_bytes(pickle.dumps([1, 0]))


def damage_record(folder):
    (folder / "passport.json").write_text("{")


def damage_names(folder):
    record = json.loads((folder / "passport.json").read_text())
    record["arrays"] = {"../outside": ["|u1", [1]]}
    (folder / "passport.json").write_text(json.dumps(record))


def damage_shape(folder):
    np.save(folder / "labels.npy", np.zeros(2, np.int32))


def damage_hash(folder):
    record = json.loads((folder / "passport.json").read_text())
    (folder / "passport.json").write_text(json.dumps(record | {"content_sha256": "0" * 64}))


def damage_header(folder):
    header = b"{'descr': (\n"  # not even tokens of Python, which numpy answers with an error of the tokenizer
    (folder / "labels.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


DAMAGES = [
    damage_cut, damage_missing, damage_pickle, damage_record, damage_names, damage_shape, damage_hash, damage_header
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_is_broken_is_not_used_and_fetched_again(tmp_path, make_tiny, good, damage):
    passport = make_tiny(good)
    damage(fetch(passport, tmp_path))
    status, details = inspect(passport, tmp_path)
    assert status == "broken"
    assert "tiny" in details
    assert recorded_hash(passport, tmp_path) is None
    with pytest.raises(DataError, match="tiny"):
        load(passport, tmp_path, download=False)
    load(passport, tmp_path)
    assert good.calls == 2
    assert visible(tmp_path) == ["tiny", "tiny.rejected-broken"]


def test_an_interrupted_store_leaves_nothing_visible(tmp_path, make_tiny, good, monkeypatch):
    save, saved = np.save, []

    def save_once(*args, **kwargs):
        if saved:
            raise KeyboardInterrupt
        saved.append(args)
        save(*args, **kwargs)

    monkeypatch.setattr(np, "save", save_once)
    with pytest.raises(KeyboardInterrupt):
        fetch(make_tiny(good), tmp_path)
    assert visible(tmp_path) == []
    monkeypatch.undo()
    fetch(make_tiny(good), tmp_path)
    assert visible(tmp_path) == ["tiny"]
    assert not (tmp_path / ".work" / "tiny").exists()


@pytest.fixture
def user(tmp_path, pack, arrays):
    """A user's folder with the data two levels down, beside things that are none of ours."""
    folder = tmp_path / "user" / "some" / "where"
    folder.mkdir(parents=True)
    (folder / "data.npz").write_bytes(pack(arrays))
    (tmp_path / "user" / "notes.txt").write_text("mine")
    return tmp_path / "user"


def test_adopt_a_folder(tmp_path, make_tiny, user):
    before = sorted(user.rglob("*"))
    assert adopt(make_tiny(), user, tmp_path / "root") == tmp_path / "root" / "tiny"
    assert state(make_tiny(), tmp_path / "root") == "present"
    assert sorted(user.rglob("*")) == before


def test_adopt_takes_the_folder_whose_content_fits(tmp_path, make_tiny, user, other):
    (user / "data.npz").write_bytes(other.body)
    adopt(make_tiny(), user, tmp_path / "root")
    assert verify(make_tiny(), tmp_path / "root")


def test_adopt_looks_into_so_many_folders_and_no_more(tmp_path, make_tiny, user, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / "many" / name).mkdir(parents=True)
    shutil.move(user / "some" / "where", tmp_path / "many" / "d")
    monkeypatch.setattr(store, "MAX_FOLDERS", 4)
    with pytest.raises(DataMissing, match="no Tiny"):
        adopt(make_tiny(), tmp_path / "many", tmp_path / "root")
    monkeypatch.setattr(store, "MAX_FOLDERS", 5)
    adopt(make_tiny(), tmp_path / "many", tmp_path / "root")


@pytest.mark.parametrize("inside", [True, False])
def test_adopt_an_archive(tmp_path, make_tiny, user, inside):
    archive = shutil.make_archive(str(tmp_path / "held" / "data"), "gztar", user)
    adopt(make_tiny(), tmp_path / "held" if inside else archive, tmp_path / "root")
    assert state(make_tiny(), tmp_path / "root") == "present"


def test_adopt_one_file(tmp_path, make_tiny, arrays):
    np.save(tmp_path / "data.npy", arrays["labels"])
    with pytest.raises(DataMissing):
        adopt(make_tiny(), tmp_path / "data.npy", tmp_path / "root")


def test_adopt_looks_past_a_bad_archive(tmp_path, make_tiny, user):
    with zipfile.ZipFile(user / "a.zip", "w") as bad:
        bad.writestr("../escape", b"")
    shutil.make_archive(str(user / "b"), "zip", user / "some")
    shutil.rmtree(user / "some")
    adopt(make_tiny(), user, tmp_path / "root")
    assert state(make_tiny(), tmp_path / "root") == "present"


def test_adopt_replaces_what_was_there(tmp_path, make_tiny, user, other):
    fetch(make_tiny(other, pinned=False), tmp_path / "root")
    adopt(make_tiny(), user, tmp_path / "root")
    assert verify(make_tiny(), tmp_path / "root")
    assert visible(tmp_path / "root") == ["tiny"]


def test_adopt_refuses_other_content_and_leaves_it(tmp_path, make_tiny, other):
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "data.npz").write_bytes(other.body)
    with pytest.raises(ChecksumMismatch, match="left unused at") as caught:
        adopt(make_tiny(), tmp_path / "user", tmp_path / "root")
    assert caught.value.kept == tmp_path / "user"
    assert (tmp_path / "user" / "data.npz").exists()
    assert visible(tmp_path / "root") == []


def test_adopt_nothing(tmp_path, make_tiny):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "absent"):
        with pytest.raises(DataMissing, match=folder):
            adopt(make_tiny(), tmp_path / folder, tmp_path / "root")


def test_errors_survive_a_process_border(tmp_path):
    error = copy.copy(ChecksumMismatch("x", "a", "b", tmp_path))
    assert (error.expected, error.found, error.kept) == ("a", "b", tmp_path)
    assert str(error) == f"x: expected hash a, found b; left unused at {tmp_path}"


FETCHER = """
    import sys, numpy as np
    from pathlib import Path
    from sextet.data import Passport, Url, content_hash, fetch
    url, digest, root, content = sys.argv[1:]
    passport = Passport(
        name="shared", title="Shared", homepage="", licence="", size="", sources=(Url(url, "a.npy", sha256=digest),),
        decode=lambda folder: {"a": np.load(folder / "a.npy")}, content_sha256=content, instructions="",
    )
    print(fetch(passport, Path(root)))
"""


def test_two_processes_at_once_make_one_download(tmp_path, server, reply):
    array = np.arange(1000)
    np.save(tmp_path / "a.npy", array)
    body = (tmp_path / "a.npy").read_bytes()
    server.replies["a"] = reply(body)
    words = [server.url("a"), hashlib.sha256(body).hexdigest(), str(tmp_path / "root"), content_hash({"a": array})]
    command = [sys.executable, "-c", textwrap.dedent(FETCHER), *words]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(server.ranges) == 1
    assert np.load(tmp_path / "root" / "shared" / "a.npy").tolist() == array.tolist()


def test_a_killed_download_is_resumed(tmp_path, server, reply):
    array = np.arange(200_000)
    np.save(tmp_path / "a.npy", array)
    body = (tmp_path / "a.npy").read_bytes()
    server.replies["a"] = reply(body, hold_after=[800_000])
    words = [server.url("a"), hashlib.sha256(body).hexdigest(), str(tmp_path / "root"), content_hash({"a": array})]
    command = [sys.executable, "-c", textwrap.dedent(FETCHER), *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    part = tmp_path / "root" / ".work" / "shared" / "0-Url" / "a.npy.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 100_000):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    server.release.set()
    have = part.stat().st_size
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert server.ranges == [None, f"bytes={have}-"]
    assert np.load(tmp_path / "root" / "shared" / "a.npy").tolist() == array.tolist()


def test_importing_is_quick_and_light():
    code = "import sys, sextet.data; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["torch", "torchvision", "sklearn", "PIL", "requests", "pooch", "rich"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
