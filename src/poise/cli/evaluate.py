"""``poise evaluate``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import typer

from poise.cli.caching import cache_of
from poise.cli.choices import on_bad, one_of
from poise.cli.progress import BLOCKS, counting, working
from poise.cli.show import suite_table
from poise.errors import ConfigError
from poise.evaluation.harness import PARTS, Scoring, score_sets
from poise.evaluation.predictions import FILE, Predictions, SetPredictions, copy, read
from poise.evaluation.sets import EvaluationSet, Reading, check_gold, judged_by, kind_of, load_set, parse_sets
from poise.evaluation.suite import SuiteResult, measure
from poise.model_folder import CHECKPOINT
from poise.output import check_new_folder, check_writable, replacing
from poise.report.extras import missing_packages
from poise.report.suite import examples_of, suite_markdown, suite_page
from poise.run_folder import train_prompts
from poise.scorers import Own, open_scorer
from poise.training.monitor import Terminal
from poise.utility import parse_utility

RESULT, REPORT, MARKDOWN = "result.json", "report.html", "report.md"
GOLD = "gold"
UNKEPT = "with --out FOLDER the scores are kept, and the same command goes on"


class Options(NamedTuple):
    """The options of the command."""

    labels: str
    include_train_prompts: bool
    bad_rows: str
    device: str
    resamples: int
    raw: bool = False
    utility: str = "mean"
    gold: str | None = None


def run(model: str | None, on: Sequence[str], out: Path | None, options: Options, *, as_json: bool) -> None:
    """Score the sets ``on`` by ``model``, and measure; prompts of the model's own training are left out of files."""
    labels, bad_rows = one_of("labels", options.labels, ("soft", "hard")), on_bad(options.bad_rows)
    if model is None:
        raise ConfigError("no model was named; give one, or --from predictions.parquet")
    names = parse_sets(on)
    parse_utility(options.utility)
    if options.gold is not None and not any(kind_of(name) == "responses" for name in names):
        raise ConfigError(f"--gold {options.gold} judges sets of responses, and there is none; add --on responses:FILE")
    if out is not None:
        _check_out(out)
    known = set() if options.include_train_prompts or not Path(model).is_dir() else train_prompts(Path(model))
    reading = Reading(labels, bad_rows, known)
    sets = [load_set(name, reading) for name in names]
    place = nullcontext(out) if out is not None else tempfile.TemporaryDirectory(prefix="poise-")
    with working(BLOCKS if out is not None else UNKEPT) as terminal, place as given:
        for note in (f"{one.facts.name}: {note}" for one in sets for note in one.facts.notes):
            terminal.say(note)
        folder = Path(given)
        scorer = open_scorer(model, device=options.device, raw=options.raw)
        if options.gold is not None:
            sets = judged(sets, options.gold, folder, options.device, terminal)
        for one in sets:
            check_gold(one)
        if isinstance(scorer, Own) and Path(model).is_dir():
            scorer.cache = cache_of(Path(model), scorer.model.backbone)
        predictions = _scored(scorer, sets, folder, terminal, options.utility)
        shutil.rmtree(folder / GOLD, ignore_errors=True)  # the gold scores are in the predictions
    _show(predictions, out, options.resamples, kept=out, as_json=as_json)


def judged(
    sets: Sequence[EvaluationSet], gold: str, folder: Path, device: str, terminal: Terminal
) -> list[EvaluationSet]:
    """Sets of responses with the gold scores of another scorer, which are kept until everything is scored."""
    mine = [one for one in sets if kind_of(one.facts.name) == "responses"]
    scorer = open_scorer(gold, device=device)
    place = folder / GOLD
    found = read(place / FILE) if (place / FILE).exists() else None
    if found is None or found.scorer != {**scorer.facts, "utility": "mean"} or _texts(found.sets) != _texts(mine):
        found = _scored(scorer, mine, place, terminal, "mean", what="gold scores")
    return [judged_by(one, found) if one in mine else one for one in sets]


def _texts(sets: Sequence[EvaluationSet] | Sequence[SetPredictions]) -> list[Any]:
    """What is scored of sets, by their names."""
    return [(one.facts.name, [(item.prompt, item.responses) for item in one.items]) for one in sets]


def again(
    source: Path, out: Path | None, resamples: int, utility: str | None, named: Sequence[str | None], *, as_json: bool
) -> None:
    """Measure saved predictions once more, and keep them with ``out``; what is ``named`` beside them has no say in it."""
    if superfluous := [name for name in named if name is not None]:
        raise ConfigError(
            f"--from {source} measures what was scored and needs neither a model nor data; leave out {', '.join(superfluous)}"
        )
    utility = None if utility is None else parse_utility(utility).spec
    predictions = read(source)
    if out is not None:
        _check_out(out)
        if (out / FILE).exists() and not _same_answers(read(out), predictions):
            raise ConfigError(f"{out} holds another evaluation; choose another folder")
        out.mkdir(parents=True, exist_ok=True)
        copy(source, out / FILE, utility)
    _show(predictions, out, resamples, utility, kept=source, as_json=as_json)


def _same_answers(one: Predictions, other: Predictions) -> bool:
    """Whether one scorer said both, of the same texts."""
    scorers = [{**predictions.scorer, "utility": None} for predictions in (one, other)]
    return scorers[0] == scorers[1] and _texts(one.sets) == _texts(other.sets)


def _check_out(out: Path) -> None:
    """A new folder or that of an evaluation, so that no run's own result is lost."""
    if not any((out / known).exists() for known in (FILE, PARTS, RESULT, GOLD)) or (out / CHECKPOINT).exists():
        check_new_folder(out)
    check_writable(out)


def _scored(
    scorer: Scoring,
    sets: Sequence[EvaluationSet],
    folder: Path,
    terminal: Terminal,
    utility: str,
    what: str = "scoring",
) -> Predictions:
    terminal.begin(what, sum(len(item.responses) for one in sets for item in one.items))
    scored = score_sets(scorer, sets, folder, lambda done, _: terminal.advance(done), utility=utility)
    terminal.close()
    return scored


def _show(
    predictions: Predictions,
    out: Path | None,
    resamples: int,
    utility: str | None = None,
    *,
    kept: Path | None,
    as_json: bool,
) -> None:
    with working(UNKEPT if kept is None else f"measure again with: poise evaluate --from {kept}") as terminal:
        progress = counting(terminal, "measuring")
        result = measure(predictions, resamples=resamples, utility=utility, progress=progress)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            with replacing(out / RESULT) as temporary:
                result.save(temporary)
            _report(result, predictions, out)
    typer.echo(result.to_json() if as_json else suite_table(result), nl=not as_json)


def _report(result: SuiteResult, predictions: Predictions, out: Path) -> None:
    examples = examples_of(predictions)
    with replacing(out / MARKDOWN) as temporary:
        temporary.write_text(suite_markdown([result], examples=examples), encoding="utf8")
    if missing := missing_packages():
        typer.echo(f"no {REPORT}: {missing}", err=True)
        return
    with replacing(out / REPORT) as temporary:
        temporary.write_text(suite_page([result], examples=examples), encoding="utf8")
