"""The contract between a package and whoever runs its experiments.

A package offers recipes as entry points of the group `sextet.recipes`. A recipe takes a frozen config and a context and
returns scores; it knows nothing of tables, and who runs it knows nothing of its method.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sextet.files import remove_leftovers, write_atomic

if TYPE_CHECKING:
    from sextet.data import Passport

_PARSING = threading.Lock()  # two threads at once in Python 3.11's ast.parse may end in a SystemError


@dataclass(frozen=True)
class Scores:
    """One metric, with what a statistician needs: a score for every episode, image or sentence.

    Attributes:
        values: the scores, in the order of the units; two runs over the same units can be compared in pairs.
        unit: what one score belongs to.
    """

    values: tuple[float, ...]
    unit: str = "episode"

    def __post_init__(self) -> None:
        if len(self.values) == 0:
            raise ValueError("scores: expected at least one finite number, got none")
        for index, value in enumerate(self.values):
            if not math.isfinite(value):
                raise ValueError(f"scores: expected finite numbers, got {value} at {self.unit} {index}")

    @property
    def mean(self) -> float:
        """Arithmetic mean."""
        return math.fsum(self.values) / len(self.values)

    @property
    def standard_error(self) -> float:
        """Standard error of the mean over the units; 0 for a single value."""
        n = len(self.values)
        if n < 2:
            return 0.0
        mean = self.mean
        return math.sqrt(math.fsum((value - mean) ** 2 for value in self.values) / (n - 1) / n)


Metrics = Mapping[str, Scores]


@dataclass
class Ledger:
    """What the stages that a run asked for cost, whichever run built them.

    Attributes:
        costs: name of a stage's folder -> seconds of building it (since it was last begun), stages within it apart.
        inside_s: seconds that this run spent in `RunContext.stage`, building or waiting.
    """

    costs: dict[str, float] = field(default_factory=dict)
    inside_s: float = 0.0

    def build(self, name: str, build: Callable[[], None]) -> dict[str, float]:
        """Call `build`; what it cost by stage: its own seconds as `name`, and the stages that it asked for."""
        costs, inside, start = self.costs, self.inside_s, time.perf_counter()
        self.costs, self.inside_s = {}, 0.0
        try:
            build()
            own = time.perf_counter() - start - self.inside_s
            return self.costs | {name: round(own, 3)}
        finally:
            self.costs, self.inside_s = costs, inside


@dataclass(frozen=True)
class RunContext:
    """Where and how one run happens. Everything else that determines its result is in the config and the seed.

    Attributes:
        directory: the run's own folder; a run that is started again there continues.
        stages: folder of results that several runs share (`stage`).
        seed: the run's seed.
        device: for `cuda.select_device`.
        data_root: where datasets lie; None for the default.
        progress: whether to show progress on a terminal.
        ledger: of the stages that were asked for.
    """

    directory: Path
    stages: Path
    seed: int
    device: str = "auto"
    data_root: Path | None = None
    progress: bool = True
    ledger: Ledger = field(default_factory=Ledger, compare=False)

    def stage(self, name: str, config: Any, build: Callable[[Path], None], *, uses: Sequence[str] = ()) -> Path:
        """The folder of an intermediate result (a pre-trained network, say), built once and then shared.

        A stage is identified by its name, its config and the source code it is built with; runs that need the same
        one wait for each other. `build(folder)` may be interrupted: it is called again with the same folder.

        Args:
            name: short, for people who look into the folder.
            config: a dataclass or plain values; everything the result depends on, the seed included.
            build: makes the result in the folder it is given.
            uses: further modules whose code the result depends on; that of `build` is always counted.
        """
        from filelock import FileLock

        from sextet.cuda import select_device

        start = time.perf_counter()
        owner: Any = build
        while isinstance(owner, functools.partial):
            owner = owner.func
        modules = sorted({owner.__module__, *uses})
        code = {path: sha for module in modules for path, sha in module_closure(module).items()}
        kind = select_device(self.device).type
        key = fingerprint({"stage": name, "config": plain(config), "code": code, "device": kind})
        folder = self.stages / f"{name}-{key[:16]}"
        done = folder / "complete.json"
        self.stages.mkdir(parents=True, exist_ok=True)
        with FileLock(self.stages / f".{folder.name}.lock"):
            if not done.exists():
                folder.mkdir(exist_ok=True)
                remove_leftovers(folder)
                costs = self.ledger.build(folder.name, functools.partial(build, folder))
                content = {"config": plain(config), "code": code, "costs": costs}
                write_atomic(done, json.dumps(content, indent=1).encode())
        self.ledger.costs |= json.loads(done.read_text())["costs"]
        self.ledger.inside_s += time.perf_counter() - start
        return folder


@dataclass(frozen=True)
class Recipe:
    """An experiment that a package offers.

    Attributes:
        config: frozen dataclass; every field has a default and a plain type.
        run: (config, context) -> metrics by name.
        data: config -> the datasets it needs.
        describe: one sentence for `sextet explain`.
    """

    config: type
    run: Callable[[Any, RunContext], Metrics]
    data: Callable[[Any], Sequence[Passport]]
    describe: str = ""

    def configure(self, values: Mapping[str, Any]) -> Any:
        """A config with `values` over its defaults.

        Raises:
            ValueError: unknown field (nearest names suggested), or a value of another type than the default.
        """
        return configure(self.config, values)


def configure(default: Any, values: Mapping[str, Any]) -> Any:
    """`default`, a frozen dataclass or its class, with `values` in place of some fields; mappings go into fields that
    are dataclasses themselves, lists become tuples.

    Raises:
        ValueError: unknown field, or a value whose type does not fit the default's.
    """
    default = default() if isinstance(default, type) else default
    chosen = {}
    for name, value in values.items():
        where = f"{type(default).__name__}.{name}"
        if name not in default.__dataclass_fields__:
            known = list(default.__dataclass_fields__)
            raise ValueError(f"{type(default).__name__} has no field {name!r}{suggestion(name, known)}")
        before = getattr(default, name)
        if dataclasses.is_dataclass(before) and isinstance(value, Mapping):
            chosen[name] = configure(before, value)
            continue
        value = _tuples(value)
        if isinstance(before, float) and type(value) is int:
            value = float(value)
        if before is not None and type(value) is not type(before):
            raise ValueError(f"{where}: expected {type(before).__name__} like {before!r}, got {value!r}")
        chosen[name] = value
    return dataclasses.replace(default, **chosen)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def suggestion(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """ "; did you mean a or b?" for a misspelt name, or the list of known ones where none is near."""
    import difflib

    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; known: {', '.join(sorted(known))}"


def plain(config: Any) -> Any:
    """A dataclass (or plain values) as nested dicts, lists and numbers that JSON can hold."""
    content = (
        dataclasses.asdict(config) if dataclasses.is_dataclass(config) and not isinstance(config, type) else config
    )
    return json.loads(json.dumps(content))


def fingerprint(content: Any) -> str:
    """SHA-256 of plain values, independent of the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def module_closure(module: str) -> dict[str, str]:
    """SHA-256 of a module's file and of every file it imports, directly or not, from its own package and `sextet`.

    Keys are module names, so the result is the same wherever the code is installed. Imports are read off the source,
    those inside functions too; parents' `__init__` files, which only gather names, count where they are imported from.
    """
    packages = {module.partition(".")[0], "sextet"}
    seen: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        source = Path(spec.origin).read_bytes()
        seen[name] = hashlib.sha256(source).hexdigest()
        waiting += _imported_modules(source, packages)
    return dict(sorted(seen.items()))


def _imported_modules(source: bytes, packages: set[str]) -> list[str]:
    """Full names of the modules of `packages` that a file imports (absolute imports; the code style has no others)."""
    found = []
    with _PARSING:
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in packages]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in packages:
            children = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [child for child in children if _is_module(child)]
            found += modules if len(modules) == len(children) else [node.module, *modules]
    return found


def _is_module(name: str) -> bool:
    """Whether `package.name` is a module and not merely a name inside the package."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
