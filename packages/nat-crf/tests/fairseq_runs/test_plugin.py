"""The plug-in in real fairseq runs: preprocess, train, generate, and our models from its checkpoints.

Needs an environment with fairseq (`make test-fairseq`); the workspace's own has none.
"""

import math
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nat_crf import translate_batch
from nat_crf.fairseq_plugin import USER_DIR
from nat_crf.published import load_published
from nat_crf.sequences import pad_batch
from nat_crf.vocabulary import Vocabulary

pytest.importorskip("fairseq")
SIZES = "--encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 32 --decoder-embed-dim 32 --encoder-ffn-embed-dim 64"
SIZES += " --decoder-ffn-embed-dim 64 --encoder-attention-heads 2 --decoder-attention-heads 2 --dropout 0"
TRAINING = "--task translation_lev --noise full_mask --share-all-embeddings --apply-bert-init --optimizer adam"
TRAINING += " --adam-betas (0.9,0.98) --lr 0.005 --lr-scheduler inverse_sqrt --warmup-updates 20 --label-smoothing 0.1"
TRAINING += (
    " --decoder-learned-pos --encoder-learned-pos --pred-length-offset --length-loss-factor 0.1 --max-tokens 400"
)
TRAINING += " --no-progress-bar --log-interval 10 --cpu --seed 1 --no-epoch-checkpoints --max-source-positions 64"
TRAINING += " --max-target-positions 64 --num-workers 0"


def fairseq(command: str, *arguments: str, fails: bool = False) -> str:
    """Run one of fairseq's programs; its output."""
    # fairseq's checkpoints pickle an argparse namespace, which torch refuses by default
    settings = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "OMP_NUM_THREADS": "1"}
    program = Path(sys.executable).with_name(f"fairseq-{command}")
    run = subprocess.run(
        [program, *arguments], env=os.environ | settings, capture_output=True, text=True, check=False, timeout=600
    )
    output = run.stdout + run.stderr
    assert (run.returncode != 0) == fails, output[-4000:]
    return output


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A binarised corpus: sentences of 3 to 6 words, translated word by word into one of two vocabularies."""
    folder, generator = tmp_path_factory.mktemp("corpus"), random.Random(0)
    for part, count in (("train", 400), ("valid", 20), ("test", 20)):
        sources = [[generator.randrange(12) for _ in range(generator.randint(3, 6))] for _ in range(count)]
        modes = [generator.choice("xy") for _ in sources]
        (folder / f"{part}.en").write_text("".join(" ".join(f"w{word}" for word in row) + "\n" for row in sources))
        targets = (" ".join(f"{mode}{word}" for word in row) for row, mode in zip(sources, modes, strict=True))
        (folder / f"{part}.de").write_text("".join(f"{target}\n" for target in targets))
    prefixes = [f"--{part}pref={folder / part}" for part in ("train", "valid", "test")]
    languages = ("--source-lang", "en", "--target-lang", "de")
    fairseq("preprocess", *languages, *prefixes, "--joined-dictionary", f"--destdir={folder / 'binary'}")
    return folder / "binary"


def losses(log: str) -> list[float]:
    """Training losses in the order of the log."""
    return [
        float(value) for value in re.findall(r"\| loss ([0-9.]+) \|| loss=([0-9.]+),", log) for value in value if value
    ]


@pytest.mark.parametrize(
    ("architecture", "criterion", "dynamic"),
    [("nat_crf", ("nat_loss",), False), ("nat_dcrf", ("nat_crf_loss", "--crf-normalisation", "token"), True)],
)
def test_trains_generates_and_is_imported(
    architecture: str, criterion: tuple[str, ...], dynamic: bool, corpus: Path, tmp_path: Path
) -> None:
    own = ["--user-dir", str(USER_DIR), "--arch", architecture, "--crf-beam-approx", "8", "--crf-lowrank-approx", "8"]
    saved = ["--save-dir", str(tmp_path), "--max-update", "150", "--criterion", *criterion]
    log = fairseq("train", str(corpus), *own, *SIZES.split(), *TRAINING.split(), *saved)
    found = losses(log)
    assert len(found) >= 5
    assert all(map(math.isfinite, found))
    assert found[-1] < 0.7 * found[0]

    checkpoint = tmp_path / "checkpoint_last.pt"
    plugin, path = ["--user-dir", str(USER_DIR), "--task", "translation_lev"], ["--path", str(checkpoint), "--cpu"]
    common = [str(corpus), *plugin, *path, "--gen-subset", "test", "--beam", "1", "--required-batch-size-multiple", "1"]
    generated = {}
    for candidates in (1, 9):
        several = ["--iter-decode-with-beam", str(candidates)] if candidates > 1 else []
        output = fairseq("generate", *common, "--iter-decode-max-iter", "0", *several)
        pairs = re.findall(r"^H-(\d+)\t\S+\t(.*)$", output, flags=re.MULTILINE)
        generated[candidates] = {int(number): text.split() for number, text in pairs}
        assert len(generated[candidates]) == 20
    refused = fairseq("generate", *common, "--iter-decode-max-iter", "2", fails=True)
    assert "--iter-decode-max-iter: expected 0, got 2" in refused

    model = load_published(checkpoint, heads=2, beam=8).eval()
    assert model.config.crf == ("dynamic" if dynamic else "static")
    vocabulary = Vocabulary.load(corpus / "dict.en.txt")
    lines = (corpus.parent / "test.en").read_text().splitlines()
    source = pad_batch([vocabulary.encode(line.split()) for line in lines], "bos-eos")
    for candidates, expected in generated.items():
        ours = translate_batch(model, source, candidates=candidates)
        words = [vocabulary.decode(row[0].words) for row in ours]
        assert words == [expected[number] for number in range(20)]
    assert torch.isfinite(torch.tensor([row[0].score for row in ours])).all()
