"""``poise serve``."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from poise.errors import ConfigError

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


@dataclass(frozen=True)
class Place:
    """Where to listen, and on what to compute."""

    host: str
    port: int
    device: str
    raw: bool


def run(models: list[str], place: Place, api_key_file: Path | None, api_key: str | None, **settings: object) -> None:
    """Serve until stopped; the key comes from a file or from the environment, never from the command line."""
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"serving needs {package}, which is not installed; run: pip install 'poise[serve]'")
    from poise.serving.server import serve
    from poise.serving.settings import Settings

    key = api_key_file.read_text("utf8").strip() if api_key_file else api_key
    chosen = Settings(api_key=key, **{name: value for name, value in settings.items() if value is not None})  # type: ignore[arg-type]
    serve(models, chosen, host=place.host, port=place.port, device=place.device, raw=place.raw)
