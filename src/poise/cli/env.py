"""``poise env``: what is installed here and where things are kept."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import typer
from huggingface_hub import constants
from packaging.requirements import Requirement

from poise.backbone import dtype_of
from poise.cli.show import size
from poise.feature_cache import default_cache
from poise.version import __version__

VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PYTORCH_CUDA_ALLOC_CONF", "WORLD_SIZE", "POISE_CACHE"),
    *("HF_HOME", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"),
)
"""Settings that change what happens; none that could hold a secret."""


def run(*, as_json: bool) -> None:
    """Print everything; nothing is loaded, asked for over the network, or written."""
    found = facts()
    typer.echo(json.dumps(found, indent=2) if as_json else _told(found))


def facts() -> dict[str, Any]:
    """Versions, devices, extras and caches."""
    needed, extras = _declared()
    names = [r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return {
        "poise": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in ("torch", *sorted({*names} - {"torch"}))},
        "torch": {"cuda": torch.version.cuda, "hip": torch.version.hip, "gpus_usable": torch.cuda.is_available()},
        "processor": {
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "auto_dtype": str(dtype_of("auto", torch.device("cpu"))).removeprefix("torch."),
        },
        "gpus": [_gpu(number) for number in range(torch.cuda.device_count())],
        "extras": {extra: _extra(extra, needed) for extra in extras},
        "caches": {
            "features": _cache(default_cache()),
            "models and datasets of the hub": _cache(Path(constants.HF_HOME)),
        },
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _declared() -> tuple[list[Requirement], list[str]]:
    """What poise needs and its extras; nothing where it runs from a folder that is not installed."""
    try:
        known = metadata.metadata("poise")
    except metadata.PackageNotFoundError:
        return [], []
    return [Requirement(text) for text in known.get_all("Requires-Dist") or ()], sorted(
        known.get_all("Provides-Extra") or ()
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gpu(number: int) -> dict[str, Any]:
    known = torch.cuda.get_device_properties(number)
    auto = str(dtype_of("auto", torch.device("cuda", number))).removeprefix("torch.")
    return {
        "name": known.name,
        "bytes": known.total_memory,
        "capability": f"{known.major}.{known.minor}",
        "auto_dtype": auto,
    }


def _extra(extra: str, needed: list[Requirement]) -> dict[str, str | None]:
    """Each package of an extra with its version, None where it is missing or not a version that will do."""
    found: dict[str, str | None] = {}
    for one in needed:
        if one.marker is None or one.marker.evaluate({"extra": ""}) or not one.marker.evaluate({"extra": extra}):
            continue
        if one.name == "poise":  # an extra that contains another
            for other in one.extras:
                found |= _extra(other, needed)
            continue
        version = _version(one.name)
        found[one.name] = version if version is not None and one.specifier.contains(version, prereleases=True) else None
    return found


def _cache(folder: Path) -> dict[str, Any]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()] if folder.exists() else []
    return {"folder": str(folder), "files": len(files), "bytes": sum(path.stat().st_size for path in files)}


def _told(found: Mapping[str, Any]) -> str:
    build = found["torch"]
    made_for = (
        f"CUDA {build['cuda']}" if build["cuda"] else f"ROCm {build['hip']}" if build["hip"] else "processors only"
    )
    cpu = found["processor"]
    lines = [
        f"poise {found['poise']}, Python {found['python']}, {found['platform']}",
        ", ".join(f"{name} {version or 'missing'}" for name, version in found["packages"].items()),
        f"torch is built for {made_for}",
        f"processor: {cpu['cores']} cores, {cpu['threads']} threads in use, dtype auto is {cpu['auto_dtype']}",
        *(
            f"GPU: {one['name']}, {size(one['bytes'])}, capability {one['capability']}, dtype auto is {one['auto_dtype']}"
            for one in found["gpus"]
        ),
        *([] if found["gpus"] else ["GPU: none"]),
        "extras:",
        *(f"  {extra:<8}{_complete(packages)}" for extra, packages in found["extras"].items()),
        "caches:",
        *(
            f"  {name}: {one['folder']} ({one['files']:,} files, {size(one['bytes'])})"
            for name, one in found["caches"].items()
        ),
        *(f"{name}={value}" for name, value in found["environment"].items()),
    ]
    return "\n".join(lines)


def _complete(packages: Mapping[str, str | None]) -> str:
    missing = [name for name, version in packages.items() if version is None]
    return f"missing {', '.join(missing)}" if missing else ", ".join(f"{name} {v}" for name, v in packages.items())
