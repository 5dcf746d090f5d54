"""The command line."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from cdfsl_ata_testing.official_folders import write_eurosat

from cdfsl_ata import cli
from cdfsl_ata.datasets import DOMAINS, decode, passport
from sextet.data import recorded_hash


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of `cdfsl-ata` with some arguments."""
    monkeypatch.setattr(sys, "argv", ["cdfsl-ata", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code or 0  # pyright: ignore[reportReturnType]


def test_adopt_stores_a_domain_and_names_what_could_not_be_read(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setenv("SEXTET_DATA", str(tmp_path / "data"))
    folder = write_eurosat(tmp_path / "raw", 2)
    (folder / "2750" / "River" / "River_0001.jpg").write_bytes(b"")
    words = ("adopt", "--domain", "eurosat", "--folder", str(folder))
    assert run(monkeypatch, *words) == 2
    assert "River_0001.jpg is not read" in capsys.readouterr().err
    assert run(monkeypatch, *words, "--unreadable", "skip") == 0
    told = capsys.readouterr().out
    assert "1 images could not be read and were left out: River/River_0001.jpg" in told
    stored = tmp_path / "data" / "cdfsl-eurosat"
    assert np.load(stored / "novel_images.npy", mmap_mode="r").shape == (19, 257, 257, 3)
    assert json.loads((stored / "passport.json").read_text())["facts"]["unreadable"] == "1"


def test_a_folder_without_the_domain_is_missing_data(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setenv("SEXTET_DATA", str(tmp_path / "data"))
    (tmp_path / "raw").mkdir()
    assert run(monkeypatch, "adopt", "--domain", "cub", "--folder", str(tmp_path / "raw")) == 3
    assert "Get CUB_200_2011.tgz" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("adopt", "--domain", "birds", "--folder", "."),
        ("paper", "--folder", "{}", "--head", "maml"),
        ("paper", "--folder", "{}", "--head", "tpn", "--method", "lrp"),
        ("paper", "--folder", "{}", "--tuning.together", "0"),
        ("laptop", "--folder", "{}", "--domain", "nowhere"),
    ],
)
def test_bad_settings_are_bad_input_before_anything_starts(monkeypatch, capsys, tmp_path, words) -> None:
    assert run(monkeypatch, *(word.format(tmp_path) for word in words)) == 2
    assert "expected" in (said := capsys.readouterr().err) or "lrp is defined for" in said
    assert not list(tmp_path.iterdir())


def test_quirks_have_options(monkeypatch, capsys) -> None:
    assert run(monkeypatch, "paper", "--help") == 0
    told = capsys.readouterr().out
    for name in ("bn-mode", "support-order", "graph-queries", "pseudo-order", "tuned-mode", "train-shots", "preset"):
        assert f"-{name}" in told or f".{name}" in told


def test_adopting_leaves_the_users_files_alone(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("SEXTET_DATA", str(tmp_path / "data"))
    folder = write_eurosat(tmp_path / "raw", 1)
    before = decode(folder / "2750", DOMAINS["eurosat"], 6)
    monkeypatch.setattr("cdfsl_ata.datasets.passport", lambda domain, **_: small(domain))
    assert run(monkeypatch, "adopt", "--domain", "eurosat", "--folder", str(folder)) == 0
    after = decode(folder / "2750", DOMAINS["eurosat"], 6)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert recorded_hash(small(DOMAINS["eurosat"]), tmp_path / "data")


def small(domain):
    """Its passport for six pixels and any number of images."""
    return replace(passport(domain, side=6), counts={})
