"""Both sides of `benchmarks/speed/nat_crf_lengths.py` translate a sentence of the length that they are timed for."""

import importlib
from pathlib import Path

import torch

from nat_crf.sequences import EOS

WORDS = 7


def test_both_sides_make_as_many_words_as_the_source_has(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    lengths = importlib.import_module("benchmarks.speed.nat_crf_lengths")
    models = lengths.Models(lengths.Arguments(size="paper-iwslt14", vocab=50))
    source = torch.tensor([[*range(10, 10 + WORDS), EOS]])
    for model in (models.nart, models.crf, models.dcrf):
        (translation,) = models.pass_of(model, source)()
        assert translation[0].length == WORDS + 1
    (rescored,) = models.pass_of(models.dcrf, source, rescored=True)()
    assert len(rescored) == 1
    steps = []
    models.teacher.decoder.register_forward_hook(lambda *_: steps.append(1))
    models.search(source, 4)()
    assert len(steps) == WORDS + 1
