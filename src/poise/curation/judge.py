"""What a model says about labelled pairs that it was not trained on: directly, or by cross-fitting.

Cross-fitting deals the prompts out to folds, trains the run's recipe on all folds but one, and judges that one, so that no
row is judged by a model that has seen its prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poise.data.load import as_conversation, load_ratings
from poise.data.merge import merge_duplicates
from poise.data.ratings import ratings_of_pairs
from poise.data.records import Preference, Rating
from poise.data.splits import held_out, prompt_number
from poise.distributions import RewardDistribution
from poise.distributions.disagreement import two_peaked
from poise.errors import ConfigError
from poise.feature_cache import FeatureCache
from poise.model import RewardModel
from poise.model_folder import run_of
from poise.pairing import PairFeatures
from poise.rated import RatedFeatures, rated_features
from poise.run_folder import RECIPE, train_prompts
from poise.training import prepare
from poise.training.heads import train_heads
from poise.training.material import HeadData
from poise.training.monitor import Reporter
from poise.training.recipe import Recipe, read_recipe
from poise.training.split import Split

FloatArray = NDArray[np.float64]
FOLDS = 5


@dataclass(frozen=True)
class Judgement:
    """About each of P pairs: ``p`` = P(chosen ≻ rejected), NaN where nobody may judge; ``disputed`` where one of the
    two beliefs has two peaks, as where people fall into two camps. ``folds`` is 0 where the model itself judged, ``seen``
    counts the pairs whose prompt it was trained on.
    """

    p: FloatArray
    disputed: NDArray[np.bool_]
    folds: int
    seen: int

    @property
    def judged(self) -> NDArray[np.bool_]:
        """[P] which pairs have a judgement."""
        return ~np.isnan(self.p)


def judge(
    model: RewardModel,
    run: Path,
    data: PairFeatures,
    *,
    folds: int | None,
    cache: FeatureCache | None = None,
    reporter: Reporter,
) -> Judgement:
    """Judge pairs. ``folds``: None cross-fits where the run was trained on any of the prompts, 0 never (pairs of training
    prompts are then not judged), K always. ConfigError where cross-fitting was asked for and cannot be done.
    """
    known = train_prompts(run)
    seen = np.array([prompt_number(pair.prompt) in known for pair in data.preferences])
    if folds is None:
        folds = FOLDS if seen.any() and _refusal(run) is None else 0
        if seen.any() and not folds:
            reporter.say(f"{int(seen.sum()):,} pairs of training prompts are not judged: {_refusal(run)}")
    if folds:
        recipe = _recipe(run, folds)
        reporter.say(f"cross-fitting: {folds} heads, each trained without the prompts that it judges")
        return replace(_cross_fitted(model, recipe, data, folds, cache, reporter), seen=int(seen.sum()))
    with torch.inference_mode():
        p, disputed = _beliefs(model.predict_features(data.features), data.pairs)
    return Judgement(np.where(seen, np.nan, p), disputed & ~seen, 0, int(seen.sum()))


def fold_of(prompts: Sequence[str], folds: int) -> NDArray[np.int64]:
    """[P] the fold of each pair, by the hash of its prompt key alone."""
    hashed = {key: int(hashlib.sha256(f"fold:{key}".encode()).hexdigest()[:12], 16) for key in set(prompts)}
    return np.array([hashed[key] % folds for key in prompts], dtype=np.int64)


def cross_fit(
    kind: Any,
    recipe: Recipe,
    data: PairFeatures,
    folds: int,
    *,
    rated: RatedFeatures | None = None,
    token_rows: Tensor | None = None,
    reporter: Reporter | None = None,
) -> Judgement:
    """K heads of the method class ``kind``, each trained by ``recipe`` on the pairs of the other folds.

    ConfigError where a fold would be all or nothing of the pairs.
    """
    fold = fold_of(data.prompts, folds)
    p, disputed = np.full(len(data), np.nan), np.zeros(len(data), dtype=np.bool_)
    if folds < 2 or len(np.unique(fold)) < 2:
        raise ConfigError(
            f"{folds} folds of {len(set(data.prompts)):,} prompts leave no part to train on; give 2 folds or more, and more prompts"
        )
    for number in np.unique(fold):
        mine = np.flatnonzero(fold == number)
        taken = {data.prompts[i] for i in mine}
        others = None if rated is None else _rated_without(rated, taken)
        material = _head_data(recipe, subset(data, np.flatnonzero(fold != number)), others, token_rows)
        method = train_heads(kind, recipe, material, reporter=reporter)
        with torch.inference_mode():
            held = subset(data, mine)
            p[mine], disputed[mine] = _beliefs(method(held.features).reward, held.pairs)
    return Judgement(p, disputed, folds, 0)


def subset(data: PairFeatures, rows: NDArray[np.int64]) -> PairFeatures:
    """Some of the pairs with the features of their own responses alone."""
    used, pairs = torch.unique(data.pairs[torch.from_numpy(rows)], return_inverse=True)
    return PairFeatures(
        features=data.features[used],
        pairs=pairs.view(-1, 2),
        preferences=tuple(data.preferences[i] for i in rows),
        prompts=tuple(data.prompts[i] for i in rows),
    )


def merged(data: PairFeatures) -> PairFeatures:
    """One pair per pair of responses, as a run merges them before it trains."""
    number = {
        (pair.prompt, text): int(row)
        for pair, both in zip(data.preferences, data.pairs.tolist(), strict=True)
        for text, row in zip((pair.chosen, pair.rejected), both, strict=True)
    }
    key = {pair.prompt: prompt for pair, prompt in zip(data.preferences, data.prompts, strict=True)}
    records = merge_duplicates(data.preferences)
    rows = [[number[pair.prompt, pair.chosen], number[pair.prompt, pair.rejected]] for pair in records]
    return replace(
        data, pairs=torch.tensor(rows), preferences=records, prompts=tuple(key[pair.prompt] for pair in records)
    )


def _beliefs(reward: RewardDistribution, pairs: Tensor) -> tuple[FloatArray, NDArray[np.bool_]]:
    disputed = two_peaked(reward)[pairs].any(1)  # in the precision of the model, whose rounding is no spread
    reward = reward.to(torch.float64)
    first, second = reward[pairs[:, 0]], reward[pairs[:, 1]]
    return first.prob_greater(second).cpu().numpy(), disputed.cpu().numpy()


def _head_data(recipe: Recipe, data: PairFeatures, rated: RatedFeatures | None, token_rows: Tensor | None) -> HeadData:
    """What a run would train on: repeats merged, and a validation part where a stage selects by one."""
    train = merged(data) if recipe.data.duplicates == "merge" else data
    if all(stage.select == "none" for stage in recipe.stages):
        return HeadData(train, rated=rated, token_rows=token_rows)
    out = np.array(held_out(train.prompts, recipe.data.validation_fraction, salt="validation"))
    parts = [subset(train, np.flatnonzero(rows)) for rows in (~out, out)]
    return HeadData(parts[0], validate=parts[1], rated=rated, token_rows=token_rows)


def _cross_fitted(
    model: RewardModel, recipe: Recipe, data: PairFeatures, folds: int, cache: FeatureCache | None, reporter: Reporter
) -> Judgement:
    method = model.method
    completed = recipe.for_data(tuple(model.scales))
    stages = prepare.methods(completed)
    rated = None
    if any("ratings" in stage.learns_from for stage in stages):
        rated = _ratings(model, completed, data.preferences, cache)
    token_rows = model.backbone.token_rows(method.rating_tokens) if method.rating_tokens else None
    return cross_fit(type(method), completed, data, folds, rated=rated, token_rows=token_rows, reporter=reporter)


def _ratings(
    model: RewardModel, recipe: Recipe, pairs: Sequence[Preference], cache: FeatureCache | None
) -> RatedFeatures:
    """Rated responses of the recipe's files and those that the pairs carry."""

    def records() -> Iterator[Rating]:
        yield from ratings_of_pairs(pairs)
        for source in recipe.data.ratings:
            yield from load_ratings(source, recipe.data.bad_rows).records

    rated = Split((), (), (), {}, tuple(records()), model.scales, ())
    texts = (rated.as_conversations() if model.conversational else rated).ratings
    return rated_features(model.backbone, texts, model.scales, cache, prompt_states=model.method.needs_prompt_state)


def _rated_without(rated: RatedFeatures, prompts: set[str]) -> RatedFeatures:
    kept = [i for i, prompt in enumerate(rated.prompts) if prompt not in prompts]
    rows = torch.tensor(kept, dtype=torch.long)
    return replace(
        rated,
        features=rated.features[rows],
        ratings=rated.ratings[rows],
        records=tuple(rated.records[i] for i in kept),
        prompts=tuple(rated.prompts[i] for i in kept),
    )


def _refusal(run: Path) -> str | None:
    """Why a run cannot be cross-fitted, or None."""
    path = run_of(run) / RECIPE
    if not path.exists():
        return f"{run} has no recipe ({RECIPE}) to train further heads by"
    if read_recipe(path).training.update != "head":
        return f"{run} trained its backbone along, whose features have seen all labels"
    return None


def _recipe(run: Path, folds: int) -> Recipe:
    if folds < 2:
        raise ConfigError(f"--cross-fit {folds}; give 2 folds or more, or 0 for none")
    if (why := _refusal(run)) is not None:
        raise ConfigError(
            f"--cross-fit {folds}: {why}; judge by a run that was trained on other prompts (--cross-fit 0)"
        )
    return read_recipe(run_of(run) / RECIPE)


def as_read(model: RewardModel, pairs: Sequence[Preference]) -> list[Preference]:
    """The pairs as the model reads them."""
    return [as_conversation(pair) for pair in pairs] if model.conversational else list(pairs)
