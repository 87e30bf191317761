"""Which feature cache a command uses that reads a trained model."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from poise.backbone import Backbone
from poise.errors import ConfigError
from poise.feature_cache import FeatureCache, default_cache
from poise.model_folder import CHECKPOINT, run_of
from poise.run_folder import RECIPE
from poise.training.recipe import read_recipe


def cache_of(model: Path, backbone: Backbone) -> FeatureCache:
    """The cache of the run that ``model`` (a run or its checkpoint) belongs to where it is on this machine, else the default."""
    return FeatureCache(_recorded(run_of(model)) or default_cache(), backbone.fingerprint(), backbone.hidden_size)


def _recorded(run: Path) -> Path | None:
    recipe = run / RECIPE
    if not (recipe.exists() and (run / CHECKPOINT).is_dir()):
        return None
    with suppress(ConfigError):  # a recipe that this version cannot read is no reason not to use the model
        recorded = read_recipe(recipe).cache
        folder = Path(recorded).expanduser() if recorded else None
        return folder if folder is not None and folder.is_dir() else None
    return None
