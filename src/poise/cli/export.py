"""``poise export``."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from poise.cli.choices import one_of
from poise.cli.progress import working
from poise.model import RewardModel
from poise.output import check_writable
from poise.publication import FORMS, About, export
from poise.publication.hub import check_repo, push


def run(run: Path, out: Path, form: str, repo: str | None, *, public: bool, license: str | None, as_json: bool) -> None:
    """Write the folder or folders, and upload them where a repository is named."""
    one_of("form", form, FORMS)
    if repo is not None:
        check_repo(repo)
    check_writable(out)
    about = About.of_run(run, license)
    with working("nothing was written; the same command starts anew"):
        written = export(RewardModel.load(run, device="cpu"), out, form, about)
    addresses = push(written, repo, private=not public) if repo else []
    if as_json:
        found_in = [
            {"folder": str(one.folder), "form": one.form, "verification": one.verification.to_dict()} for one in written
        ]
        typer.echo(json.dumps({"exports": found_in, "addresses": addresses}, ensure_ascii=False))
        return
    for one in written:
        found = one.verification
        typer.echo(
            f"{one.folder}: {one.form}, {len(found.checks)} golden outputs read by {found.reader}, "
            f"largest difference {found.worst.difference:.2g}"
        )
    for address in addresses:
        typer.echo(address)
