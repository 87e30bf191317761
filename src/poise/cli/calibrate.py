"""``poise calibrate``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import typer

from poise import checkpoint
from poise.calibration import Calibration
from poise.calibration_run import CalibrationReport, Elsewhere, PairReport, Wishes, calibrate
from poise.cli.caching import cache_of
from poise.cli.choices import on_bad, one_of
from poise.cli.progress import FEATURES, working
from poise.errors import ConfigError
from poise.evaluation.sets import EvaluationSet, Reading, kind_of, load_set
from poise.model import RewardModel
from poise.model_folder import CHECKPOINT, checkpoint_in
from poise.output import check_new_folder, check_writable
from poise.report.tables import plain_table, value_with_bounds
from poise.run_folder import PROMPTS, train_prompts
from poise.training.prepare import progress_of


class Options(NamedTuple):
    """The options of the command that say how to read and where to write."""

    labels: str
    include_train_prompts: bool
    bad_rows: str
    device: str
    out: Path | None


def run(
    folder: Path, data: Sequence[str], on: Sequence[str], wishes: Wishes, options: Options, *, as_json: bool
) -> None:
    """Fit a calibration and put it into the checkpoint, or into a copy of it."""
    labels, bad_rows = one_of("labels", options.labels, ("soft", "hard")), on_bad(options.bad_rows)
    if not data:
        raise ConfigError("there is nothing to calibrate on; give preference pairs or ratings:FILE, or --remove")
    path = checkpoint_in(folder)
    checkpoint.read_metadata(path)
    _check_out(path, options.out)
    known = set() if options.include_train_prompts else train_prompts(folder)
    reading = Reading(labels, bad_rows, known)
    sets, others = ([_load(name, reading) for name in names] for names in (data, on))
    with working(FEATURES) as terminal:
        for note in (f"{one.facts.name}: {note}" for one in (*sets, *others) for note in one.facts.notes):
            terminal.say(note)
        model = RewardModel.load(path, device=options.device)
        cache, progress = cache_of(folder, model.backbone), progress_of(terminal, "features")
        found = calibrate(model, sets, wishes, elsewhere=others, cache=cache, progress=progress)
    written = _write(path, options.out, found.report.calibration)
    if as_json:
        typer.echo(json.dumps(found.report.model_dump(mode="json"), indent=2))
    else:
        typer.echo(_told(found.report))
        typer.echo(f"\nCalibration written: {written}")


def remove(folder: Path, named: Sequence[str], out: Path | None, *, as_json: bool) -> None:
    """Take the calibration out of the checkpoint, or leave it out of a copy; what is ``named`` beside has no say in it."""
    if named:
        raise ConfigError(f"--remove takes the calibration away and fits none; leave out {', '.join(named)}")
    path = checkpoint_in(folder)
    if checkpoint.read_metadata(path).calibration is None:
        raise ConfigError(f"{folder} is not calibrated; there is nothing to remove")
    _check_out(path, out)
    written = _write(path, out, None)
    typer.echo(json.dumps({"removed": str(written)}) if as_json else f"Calibration removed: {written}")


def _check_out(path: Path, out: Path | None) -> None:
    if out is None:
        check_writable(path)
    else:
        check_new_folder(out)


def _load(name: str, reading: Reading) -> EvaluationSet:
    kind = kind_of(name)
    if kind not in ("benchmark", "pairs", "ratings"):
        raise ConfigError(
            f"{name}: a calibration is fitted to pairs and ratings; give FILE, pairs:FILE or ratings:FILE"
        )
    return load_set(f"pairs:{name}" if kind == "benchmark" else name, reading)


def _write(path: Path, out: Path | None, calibration: Calibration | None) -> Path:
    """The folder that now has the calibration: the checkpoint itself, or a copy that knows its training prompts too."""
    if out is None:
        checkpoint.recalibrate(path, calibration)
        return path
    with checkpoint.replacing(out) as temporary:
        shutil.copytree(path, temporary, dirs_exist_ok=True)
        if path.name == CHECKPOINT and (path.parent / PROMPTS).exists():
            shutil.copyfile(path.parent / PROMPTS, temporary / PROMPTS)
        checkpoint.recalibrate(temporary, calibration)
    return out


def _told(report: CalibrationReport) -> str:
    parts = [_of_pairs(report.pairs)] if report.pairs else []
    for one in report.ratings:
        scores = ", ".join(f"{name} {score:.4f}" for name, score in one.scores.items())
        parts.append(f"{one.attribute}: {one.method} (CRPS, cross-validated: {scores}); {one.rows:,} responses")
        interval = report.calibration.ratings[one.attribute].interval
        if interval is not None:
            parts[-1] += f"\n{interval.coverage:.0%} interval moved outwards by {interval.margin:.3g}"
    if (known := report.calibration.abstention) is not None:
        wanted = f"{known.error:.0%} error with probability {1 - known.delta:.0%}"
        parts.append(
            f"abstention: no threshold keeps to {wanted}; every pair is left unanswered"
            if known.threshold is None
            else f"abstention: answer where P(win) is {known.threshold:g} or more; that is {known.answered:.1%} of the "
            f"pairs, {known.observed:.1%} of them wrong; {wanted}"
        )
    return "\n\n".join([*parts, *(_of_elsewhere(one) for one in report.elsewhere)])


def _of_pairs(report: PairReport) -> str:
    scores = ", ".join(f"{name} {score:.4f}" for name, score in report.scores.items())
    sides = (report.before, report.after)
    rows = [[name, *(value_with_bounds(found[name]) for found in sides)] for name in report.before]
    return (
        f"pairs: {report.method} (NLL, cross-validated: {scores})\n\n"
        + plain_table(["", "before", "after (held out)"], rows)
        + f"\n{report.rows:,} pairs over {report.prompts:,} prompts, {report.changed} decisions changed"
    )


def _of_elsewhere(one: Elsewhere) -> str:
    told = [f"{name} {one.before[name].value:.4f} → {one.after[name].value:.4f}" for name in one.before]
    if one.answered is not None:
        told.append(f"{one.answered:.1%} answered" + ("" if one.error is None else f", {one.error:.1%} of them wrong"))
    told += [f"{name}: {share:.1%} of ratings inside" for name, share in one.coverage.items()]
    return f"{one.name}: " + "; ".join(told)
