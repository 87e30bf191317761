"""``poise data check``, ``poise data splits`` and ``poise data simulate``."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from poise.data.chat import ChatEncoder
from poise.data.check import check as check_file
from poise.data.check import describe
from poise.data.simulate import WorldConfig, simulate, write
from poise.errors import ConfigError, DataError
from poise.output import check_new_folder


def check(file: str, against: str | None, backbone: str | None, max_length: int | None, *, as_json: bool) -> None:
    """Print the report; exit code 2 where rows are broken."""
    if max_length is not None and backbone is None:
        raise ConfigError(f"--max-length {max_length} counts tokens; say how with --backbone")
    if backbone is None:
        report = check_file(file, against=against)
    else:
        from poise.cli.progress import counting, working

        with working("nothing was kept; the same command starts again") as terminal:
            report = check_file(file, _encoder(backbone, max_length), against, counting(terminal, "tokens"))
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(report), ensure_ascii=False))
    else:
        typer.echo("\n".join(describe(report)))
    if report.bad:
        raise DataError(
            f"{file}: {len(report.bad):,} of {report.rows:,} rows are broken; mend them as the report says, "
            "or train without them (data.bad_rows=drop)"
        )


def _encoder(backbone: str, max_length: int | None) -> ChatEncoder:
    from poise.backbone import BackboneConfig, load_encoder  # torch only where tokens are counted

    return load_encoder(BackboneConfig(name=backbone, max_length=max_length))


def splits(
    file: str,
    out: Path,
    new_models: Sequence[str],
    gold: str | None,
    shares: Mapping[str, float],
    device: str,
    *,
    as_json: bool,
) -> None:
    """Write training pairs and the four splits of responses, all with gold scores."""
    from poise.cli.evaluate import GOLD, judged
    from poise.cli.progress import BLOCKS, working
    from poise.evaluation.gold import candidates_of
    from poise.evaluation.robustness import generalisation_splits, write_splits
    from poise.evaluation.sets import check_gold, load_set

    if not (out / GOLD).exists():  # what an interrupted call has scored
        check_new_folder(out)
    whole = load_set(f"responses:{file}")
    named = [name.strip() for name in new_models if name.strip()]
    generalisation_splits(candidates_of(whole.items), named, **shares)  # refused before anything is judged
    if gold is not None:
        with working(BLOCKS) as terminal:
            (whole,) = judged([whole], gold, out, device, terminal)
    check_gold(whole)
    dealt = generalisation_splits(candidates_of(whole.items), named, **shares)
    written = write_splits(dealt, out)
    shutil.rmtree(out / GOLD, ignore_errors=True)
    if as_json:
        typer.echo(json.dumps({"files": {str(path): count for path, count in written.items()}}))
        return
    for path, count in written.items():
        typer.echo(f"{path}: {count:,} {'pairs' if path.stem == 'train' else 'responses'}")


def simulate_world(out: Path, options: Mapping[str, float], *, as_json: bool) -> None:
    """Write a world to a folder."""
    config = WorldConfig(**options)  # type: ignore[arg-type]
    check_new_folder(out)
    written = [str(path) for path in write(simulate(config), out)]
    typer.echo(json.dumps({"files": written}) if as_json else "\n".join(written))
