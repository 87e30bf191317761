"""Results as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from poise.evaluation.chosen import BestOfNResult
from poise.evaluation.result import EvaluationResult
from poise.evaluation.suite import SetResult, SuiteResult
from poise.report import tables

COLUMNS = ("accuracy", "nll", "brier", "ece", "smooth_ece", "aurc")


def result_table(results: Mapping[str, EvaluationResult]) -> str:
    """One row a metric, one column a result, with intervals; the longer-wins baseline below."""
    names = list(results)
    rows = [[key, *(_cell(results[n], key) for n in names)] for key in COLUMNS]
    rows.append(["tie rate", *(f"{results[n].tie_rate:.3f}" for n in names)])
    rows.append(["longer wins", *(_baseline(results[n], "longer_wins") for n in names)])
    rows.append(["pairs / prompts", *(f"{results[n].data.rows:,} / {results[n].data.prompts:,}" for n in names)])
    return tables.plain_table(["", *names], rows).rstrip("\n")


def _cell(result: EvaluationResult, key: str) -> str:
    return tables.value_with_bounds(result.metrics[key]) if key in result.metrics else "—"


def _baseline(result: EvaluationResult, key: str) -> str:
    return tables.value_with_bounds(result.baselines[key]) if key in result.baselines else "—"


def suite_table(result: SuiteResult) -> str:
    """Every set as a block: its figures with intervals beside the trivial scorers'."""
    return "\n\n".join(_set_table(one) for one in result.sets)


def _set_table(one: SetResult) -> str:
    baselines = list(one.baselines)
    rows = [
        [name, tables.value_with_bounds(figure), *(_plain(one.baselines[b].get(name)) for b in baselines)]
        for name, figure in one.figures.items()
    ]
    if one.pairs is not None:
        rows += [[key, _cell(one.pairs, key), *[""] * len(baselines)] for key in COLUMNS if key in one.pairs.metrics]
        rows.append(["tie rate", f"{one.pairs.tie_rate:.3f}"])
        if one.kind == "pairs":
            rows.append(["longer wins", _baseline(one.pairs, "longer_wins")])
    for rating in one.ratings:
        floor = f" (split-half floor {rating.floor['split_half']:.3f})" if rating.floor else ""
        about = "" if rating.known else ": no belief about it, order only"
        rows.append([f"{rating.attribute}{about}", f"{rating.items:,} items, {rating.raters:.1f} raters{floor}"])
        rows += [[f"  {name}", tables.value_with_bounds(figure)] for name, figure in rating.metrics.items()]
        rows += _choice(rating.best_of_n, "  ")
    rows += _choice(one.best_of_n, "")
    rows += [
        [f"{name} of {subset}", tables.number(value)] for name, by in one.states.items() for subset, value in by.items()
    ]
    rows += [[f"{name} (bias)", tables.value_with_bounds(figure)] for name, figure in one.bias.items()]
    title = f"{one.name}: {one.items:,} items, {one.responses:,} responses"
    table = tables.plain_table(["", "", *baselines], rows).rstrip("\n").partition("\n")
    head = f"{table[0]}\n" if baselines else ""
    notes = [*(f"{count:,} {what}" for what, count in one.counts.items()), *one.notes]
    return "\n".join([title, f"{head}{table[2]}", *(f"! {note}" for note in notes)])


def _choice(found: BestOfNResult | None, indent: str) -> list[list[str]]:
    """The gold gained by the best of n, then where it peaks."""
    if found is None:
        return []
    gains = {f"gold, best of {n}": gold for n, gold in zip(found.n, found.gold, strict=True) if n > 1}
    return [[f"{indent}{name}", tables.value_with_bounds(value)] for name, value in (gains | found.summary).items()]


def size(count: float) -> str:
    """Bytes in the unit that people would choose."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def _plain(value: float | None) -> str:
    return "—" if value is None else tables.number(value)
