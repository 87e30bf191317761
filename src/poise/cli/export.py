"""``poise export``."""

from __future__ import annotations

from pathlib import Path

import typer

from poise.errors import ConfigError, unknown_choice
from poise.model import RewardModel
from poise.output import check_writable
from poise.publication import FORMS, About, export
from poise.publication.hub import check_repo, push


def run(run: Path, out: Path, form: str, repo: str | None, *, public: bool, license: str | None) -> None:
    """Write the folder or folders, and upload them where a repository is named."""
    if form not in FORMS:
        raise ConfigError(unknown_choice("form", form, FORMS))
    if repo is not None:
        check_repo(repo)
    check_writable(out)
    about = About.of_run(run, license)
    written = export(RewardModel.load(run, device="cpu"), out, form, about)
    for one in written:
        found = one.verification
        typer.echo(
            f"{one.folder}: {one.form}, {len(found.checks)} golden outputs read by {found.reader}, "
            f"largest difference {found.worst.difference:.2g}"
        )
    for address in push(written, repo, private=not public) if repo else []:
        typer.echo(address)
