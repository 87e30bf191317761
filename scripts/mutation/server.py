"""Mutants in forks of one process that has imported the tests: each is judged by the tests that run its line."""

import ast
import hashlib
import json
import math
import os
import resource
import sys
import time
import types
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import pytest
from _pytest.runner import runtestprotocol
from mutation.mutants import Mutant

UNUSABLE = 4  # exit code
# no conftest.py: these tests need no backbone, whose import takes longer than all that follows
PLUGINS = ["-p", "no:cacheprovider", "-p", "no:terminal", "-p", "no:xdist"]
PYTEST = [*PLUGINS, "--noconftest", "--assert=plain", "-s", "-o", "addopts="]


def fixed_examples() -> None:
    """Property tests with the same examples every time, and without a search for smaller ones."""
    hypothesis.settings.register_profile(
        "mutation",
        derandomize=True,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.settings.load_profile("mutation")


class Unusable(Exception):
    """A mutant that cannot be put into a running program."""


def plain(value: object) -> object:
    """The function behind a property, a method or a wrapper."""
    value = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
    while hasattr(value, "__wrapped__"):
        value = value.__wrapped__
    return value


def transplant(new: object, old: object) -> None:
    """Give the functions of ``old`` the code of ``new``, wherever they are already in use."""
    if isinstance(new, type):
        for name, value in vars(new).items():
            if isinstance(value, int | float | str | dict | tuple) and not name.startswith("__"):
                type.__setattr__(old, name, value)
            elif name in vars(old):
                transplant(value, vars(old)[name])
    new, old = plain(new), plain(old)
    if isinstance(new, types.FunctionType) and isinstance(old, types.FunctionType):
        if new.__code__.co_freevars != old.__code__.co_freevars:
            raise Unusable
        old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__


def install(mutant: Mutant) -> None:
    """Make the change in the imported modules; constants that depend on it are made anew."""
    module = sys.modules[
        mutant.path.removeprefix("src/").removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    ]
    mutant.apply()
    try:
        code = compile(mutant.tree, mutant.path, "exec")
    except (SyntaxError, TypeError, ValueError) as error:
        raise Unusable from error
    top = mutant.tree.body[0]
    if isinstance(top, ast.FunctionDef | ast.ClassDef):
        scratch = dict(vars(module))
        exec(code, scratch)
        transplant(scratch[top.name], vars(module)[top.name])
        return
    changed: set[str] = set()
    for statement in ast.parse(Path(mutant.path).read_text("utf8")).body:
        same = statement.lineno == top.lineno
        names = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name)}
        if same or (isinstance(statement, ast.Assign | ast.AnnAssign) and names & changed):
            before = dict(vars(module))
            exec(code if same else compile(ast.Module([statement], []), mutant.path, "exec"), vars(module))
            for name in {n for n, value in vars(module).items() if before.get(n, value) is not value}:
                changed.add(name)
                for other in [m for key, m in sys.modules.items() if key.startswith(("poise.", "tests."))]:
                    if vars(other).get(name) is before[name]:
                        setattr(other, name, vars(module)[name])


def passes(items: list[Any]) -> bool:
    """Whether every test passes, up to the first that does not."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        if any(report.failed for report in runtestprotocol(item, nextitem=following, log=False)):
            return False
    return True


def live(mutant: Mutant, items: list[Any], seconds: float) -> None:
    """Exit with 0 if the mutant survives these tests."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1), os.dup2(quiet, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(10 + 3 * seconds),) * 2)
    resource.setrlimit(resource.RLIMIT_DATA, (2**33,) * 2)
    try:
        install(mutant)
        os._exit(not passes(items))
    except Unusable:
        os._exit(UNUSABLE)
    except BaseException:  # what a mutant does to the interpreter is its death
        os._exit(1)


class Run(NamedTuple):
    """A test, its seconds, and the lines that it runs by file."""

    test: Any
    seconds: float
    lines: dict[str, list[int]]

    def touches(self, mutant: Mutant) -> bool:
        """Whether the test can notice the mutant."""
        mine = self.lines.get(mutant.path, ())
        return bool(mine) if mutant.lines is None else any(line in mutant.lines for line in mine)


class Campaign:
    """A pytest plugin that runs mutants instead of tests."""

    def __init__(self, mutants: list[Mutant], results: Path, sources: list[Path], jobs: int, budget: float) -> None:
        self.mutants, self.results, self.sources, self.jobs, self.budget = mutants, results, sources, jobs, budget

    def pytest_runtestloop(self, session: Any) -> bool:
        """Run the tests once to see what each runs, then every mutant in a fork."""
        runs = sorted(self.baseline(session.items), key=lambda run: run.seconds)
        print(
            f"· {len(runs)} tests in {sum(run.seconds for run in runs):.0f} s, {len(self.mutants)} mutants", flush=True
        )
        running: dict[int, tuple[Mutant, float]] = {}
        for mutant in self.mutants:
            total, kept = 0.0, []
            for run in runs:
                if run.touches(mutant) and total + run.seconds < self.budget:
                    total += run.seconds
                    kept.append(run.test)
            if len(running) == self.jobs:
                self.reap(running)
            if pid := os.fork():
                running[pid] = mutant, time.monotonic()
            else:
                live(mutant, kept, total)
        while running:
            self.reap(running)
        return True

    def baseline(self, items: list[Any]) -> list[Run]:
        """Every test as it runs without a mutant; what is known of unchanged sources and tests is kept between campaigns."""
        support = [path for path in {item.path.parent for item in items} for path in path.glob("*.py")]
        mark = digest([*self.sources, *(path for path in support if not path.name.startswith("test_"))])
        store = self.results.with_name(f"lines-{mark}.jsonl")
        known = dict(map(json.loads, store.read_text("utf8").splitlines())) if store.exists() else {}
        names = {item: f"{digest([item.path])} {item.nodeid}" for item in items}
        new = [item for item in items if names[item] not in known]
        with store.open("a", buffering=1, encoding="utf8") as file:
            for item, following in zip(new, [*new[1:], None], strict=False):
                known[names[item]] = self.traced(item, following)
                file.write(json.dumps([names[item], known[names[item]]]) + "\n")
        return [Run(item, *known[names[item]]) for item in items]

    def traced(self, item: Any, following: Any) -> tuple[float, dict[str, list[int]]]:
        """Seconds and lines of one test, which must pass."""
        root = Path.cwd()
        files: dict[str, set[int]] = {str(path): set() for path in self.sources}

        def trace(frame: Any, event: str, _: object) -> Any:
            lines = files.get(frame.f_code.co_filename)
            if lines is None:
                return None
            if event == "line":
                lines.add(frame.f_lineno)
            return trace

        start = time.process_time()
        sys.settrace(trace)
        reports = runtestprotocol(item, nextitem=following, log=False)
        sys.settrace(None)
        if failed := [report.longreprtext for report in reports if report.failed]:
            sys.exit(f"{item.nodeid} fails without any mutant:\n{failed[0]}")
        found = {str(Path(path).relative_to(root)): sorted(lines) for path, lines in files.items() if lines}
        return time.process_time() - start, found

    def reap(self, running: dict[int, tuple[Mutant, float]]) -> None:
        """Wait for one mutant and write down what became of it."""
        pid, status = os.wait()
        mutant, since = running.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        # what cannot be put into a running program was not tried, and counts against the tests like a survivor
        fate = "survived" if code in (0, UNUSABLE) else "timeout" if code in (-9, -24) else "killed"
        row = {"name": mutant.name, "kind": mutant.kind, "fate": fate, "seconds": round(time.monotonic() - since, 1)}
        with self.results.open("a", encoding="utf8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def digest(files: list[Path]) -> str:
    """Of the contents of files."""
    found = hashlib.sha256()
    for path in sorted(files):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def run(campaign: Campaign, tests: list[str]) -> None:
    """Run the mutants in a process that has nothing else to do; it ends here."""
    fixed_examples()
    os._exit(int(pytest.main([*PYTEST, *tests], plugins=[campaign])))
