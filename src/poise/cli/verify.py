"""``poise verify``."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from poise.errors import ConfigError
from poise.publication import Verification, verify_folder

OFF = 1


def run(target: str, golden: Path | None, device: str, *, as_json: bool) -> None:
    """Compare with the golden scores; exit code 1 where any is off (2, as everywhere, where it cannot be told)."""
    found = _verified(target, golden, device)
    typer.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False) if as_json else _text(found))
    if not found.agrees:
        raise typer.Exit(OFF)


def _verified(target: str, golden: Path | None, device: str) -> Verification:
    if not target.startswith(("http://", "https://")):
        if golden is not None:
            raise ConfigError(f"{target} has golden scores of its own; --golden is for the address of a server")
        return verify_folder(Path(target), device=device)
    if golden is None:
        raise ConfigError(f"{target}: the golden scores are in the model's folder; name it with --golden FOLDER")
    from poise.client.protocol import require_httpx

    require_httpx()
    from poise.publication.remote import verify_url

    return verify_url(target, golden)


def _text(found: Verification) -> str:
    worst, facts = found.worst, found.to_dict()
    lines = [f"{found.source}: {facts['checked']} values of {facts['texts']} golden texts, read by {found.reader}"]
    if worst.found is None:
        lines.append(f"the text {worst.text!r} is not read as it was, or has no {worst.value}")
    else:
        lines.append(f"largest difference {worst.difference:.3g} ({worst.text}: {worst.value} {worst.known:.6g})")
    lines += [f"off: {one}" for one in facts["off"]]
    return "\n".join([*lines, "agrees" if found.agrees else "does not agree"])
