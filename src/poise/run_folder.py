"""The files of a run folder: what is written before the first step, and what a resumed run checks.

recipe.yaml        resolved, defaults included          metrics.jsonl    one line per logged step
environment.json   versions, seeds, hash of the data    checkpoint/      the model
result.json        the held-out evaluation              report.html      all of it for people
train_prompts.npy  hashes of the training prompts, so that a later evaluation can leave them out
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
import yaml

from poise.data.records import Preference, Rating
from poise.data.splits import prompt_number
from poise.errors import CheckpointError, ConfigError
from poise.model_folder import run_of
from poise.output import check_new_folder, check_writable, replacing
from poise.training.material import HeadData, TextData
from poise.training.recipe import Recipe, read_recipe

RECIPE, ENVIRONMENT, RESULT, METRICS = "recipe.yaml", "environment.json", "result.json", "metrics.jsonl"
REPORT, PROMPTS = "report.html", "train_prompts.npy"
STATE, STAGES = "state.safetensors", "stages"
VERSIONS = ("poise", "torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy")


def check_folder(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Refuse (``ConfigError``) a folder that is taken, or that holds nothing this recipe could continue."""
    if not resume:
        if (folder / RECIPE).exists():
            raise ConfigError(f"{folder} exists already; continue it with resume, or choose another folder")
        check_new_folder(folder)
        return
    path = folder / RECIPE
    if not path.exists():
        raise ConfigError(f"{folder} holds no run to resume (no {RECIPE}); start it without resume")
    if (folder / RESULT).exists() and not (folder / STATE).exists() and not (folder / STAGES).exists():
        raise ConfigError(f"{folder} holds a finished run; there is nothing to resume")
    check_writable(folder)
    before = json.loads(json.dumps(read_recipe(path).to_dict()))
    changed = sorted(k for k, v in recipe.to_dict().items() if before.get(k) != json.loads(json.dumps(v)))
    if changed:
        raise ConfigError(
            f"{folder}: the recipe differs from the one this run was started with ({', '.join(changed)}); a resumed run must not change"
        )


def start(
    folder: Path, recipe: Recipe, data: HeadData | TextData, resume: bool, off_grid_mass: float | None = None
) -> None:
    """The run folder with everything that is known before the first step."""
    if not resume and (folder / RECIPE).exists():  # of a run that began while this one read its data
        raise ConfigError(f"{folder} exists already; choose another folder")
    digest = _digest(data)
    if resume and (folder / ENVIRONMENT).exists():  # not where the run was killed before it had written it
        before = json.loads((folder / ENVIRONMENT).read_text(encoding="utf8")).get("data_sha256")
        if before != digest:
            raise ConfigError(
                f"{folder}: the data is not what this run was started on; restore the files, or start anew in another folder"
            )
    seen: list[Preference | Rating] = []
    for part in (data.train, data.validate, data.rated):
        seen.extend(() if part is None else part.records)
    hashes = sorted({prompt_hash(record) for record in seen})
    environment = {
        "versions": {name: _version(name) for name in VERSIONS} | {"python": platform.python_version()},
        "seeds": {"seed": recipe.seed},
        "threads": torch.get_num_threads(),
        "data_sha256": digest,
        **({} if off_grid_mass is None else {"off_grid_mass": off_grid_mass}),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            written = yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True)
            with replacing(folder / RECIPE) as temporary:
                temporary.write_text(written, encoding="utf8")
        with replacing(folder / ENVIRONMENT) as temporary:
            temporary.write_text(json.dumps(environment, indent=2) + "\n", encoding="utf8")
        np.save(folder / PROMPTS, np.asarray(hashes, dtype=np.int64))
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}); choose another folder") from None


def _digest(data: HeadData | TextData) -> str:
    """Hash of all records that were kept, in their order: training on others would not be a continuation."""
    digest = hashlib.sha256()
    for part in (data.train, data.evaluate, data.validate, data.rated):
        digest.update(b"|")
        for record in () if part is None else part.records:
            digest.update(repr(replace(record, meta={}, source="")).encode("utf8", "surrogatepass"))
    return digest.hexdigest()


def clear_state(folder: Path) -> None:
    """Remove what a finished run no longer needs for resuming, and what killed processes had not written whole."""
    (folder / STATE).unlink(missing_ok=True)
    shutil.rmtree(folder / STAGES, ignore_errors=True)
    for left in (*folder.glob(".*.partial"), *folder.glob(".*.old")):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def train_prompts(folder: Path) -> set[int]:
    """Hashes of the prompts a run was trained on; empty where the folder does not know them."""
    path = run_of(folder) / PROMPTS
    try:
        return set(np.load(path, allow_pickle=False).tolist()) if path.exists() else set()
    except (OSError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); remove it to evaluate on every prompt") from None


def prompt_hash(record: Preference | Rating) -> int:
    """The 63-bit form of a prompt's key, as ``train_prompts.npy`` stores it."""
    return prompt_number(record.prompt)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
