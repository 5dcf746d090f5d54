"""What the source of the whole suite may not contain, and what importing it may not do."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for pattern in ("shared/src", "packages/*/src", "benchmarks/src", "benchmarks/speed", "benchmarks/fuzz", "tools")
    for folder in ROOT.glob(pattern)
    for path in folder.rglob("*.py")
)
READS_PICKLES = {
    "shared/src/sextet/data/legacy_pickle.py"
}  # arrays, numbers and containers; every other name is refused

UNSAFE = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "joblib.load",
    "pandas.read_pickle", "torch.jit.load", "yaml.load", "yaml.unsafe_load", "os.system", "eval", "exec",
}  # fmt: skip
SAFE_ONLY_WITH = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}


def dotted(node):
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def unsafe_calls(source):
    """(line, name) of every call that may execute what it reads."""
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield from ((node.lineno, name) for base in node.bases if (name := dotted(base)) in UNSAFE)
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        name = imported.get(name, name)
        words = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
        if name in UNSAFE or words.get("shell") is True:
            yield node.lineno, name
        if name in SAFE_ONLY_WITH:
            key, value = SAFE_ONLY_WITH[name]
            if words.get(key) is not value:
                yield node.lineno, f"{name} without {key}={value}"


@pytest.mark.parametrize(
    "line",
    [
        "pickle.load(file)", "torch.load(path)", "torch.load(path, weights_only=False)", "np.load(path)",
        "from pickle import loads as read\nread(data)", "eval(text)", "class A(pickle.Unpickler): pass",
        "subprocess.run(text, shell=True)", "yaml.load(text, Loader)",
    ],
)  # fmt: skip
def test_the_check_sees_what_is_unsafe(line):
    assert list(unsafe_calls(line))


def test_the_check_lets_the_rest_pass():
    safe = "torch.load(p, weights_only=True); np.load(p, allow_pickle=False); yaml.safe_load(t); model.eval()"
    assert not list(unsafe_calls(safe))


def test_nothing_that_is_read_is_executed():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in SOURCES if str(path.relative_to(ROOT)) not in READS_PICKLES
        for line, name in unsafe_calls(path.read_text())
    ]  # fmt: skip
    assert not found
    assert all((ROOT / path).exists() for path in READS_PICKLES)


IMPORTER = """
import importlib, pkgutil, sys, warnings
warnings.simplefilter("ignore")

def forbid(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise RuntimeError(f"{event} {args} at import")

sys.addaudithook(forbid)
count = 0
for package in sys.argv[1:]:
    top = importlib.import_module(package)
    for module in pkgutil.walk_packages(top.__path__, f"{package}."):
        if not module.name.startswith("nat_crf.fairseq_plugin.nat_crf_fairseq"):
            importlib.import_module(module.name)
            count += 1
print(count)
"""


def test_importing_everything_touches_no_network():
    packages = ["sextet", "bi_adapter", "lmim", "infocl", "cdfsl_ata", "fslstm", "nat_crf", "sextet_bench"]
    done = subprocess.run([sys.executable, "-c", IMPORTER, *packages], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) > 150


def test_actions_are_pinned_to_a_commit():
    used = [
        (path.name, line.strip()) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))
        for line in path.read_text().splitlines() if "uses:" in line
    ]  # fmt: skip
    assert used
    assert not [what for what in used if not re.search(r"uses: [\w/-]+@[0-9a-f]{40}  # v[\d.]+$", what[1])]
