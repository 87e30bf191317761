"""The command that says what is installed here."""

from __future__ import annotations

from poise.cli.declared.app import ABOUT, Json, command


@command(ABOUT, "poise env", "poise env --json")
def env(json_: Json = False) -> None:
    """Say what a bug report needs: versions, devices, threads, extras, and the caches with their sizes."""
    from poise.cli import env as command

    command.run(as_json=json_)
