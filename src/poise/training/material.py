"""What one stage learns from: pairs and rated responses, as row numbers into one table of features or of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poise.data.batch import Batch, Targets
from poise.data.chat import Encoded
from poise.data.difficulty import curate
from poise.data.ratings import Ratings
from poise.data.splits import shares
from poise.distributions import RewardDistribution
from poise.errors import ConfigError
from poise.features import Features
from poise.methods import Method
from poise.pairing import PairFeatures, PairTexts
from poise.rated import RatedFeatures, RatedTexts
from poise.training.benchmarks import BenchmarkTexts
from poise.training.recipe import Recipe


@dataclass(frozen=True)
class HeadData:
    """Features to train on and to watch.

    ``train``: pairs; ``rated``: rated responses; either may be absent, not both. ``evaluate`` is only logged;
    ``validate`` is what a stage selects its best epoch by; ``watched`` are further sets to log, ``benchmarks`` those of a stage's end.
    ``token_rows`` [K, H]: the backbone's output weights of the method's rating tokens, for heads that start from them.
    """

    train: PairFeatures | None
    evaluate: PairFeatures | None = None
    validate: PairFeatures | None = None
    rated: RatedFeatures | None = None
    watched: Mapping[str, PairFeatures] = field(default_factory=dict)
    token_rows: Tensor | None = None
    benchmarks: tuple[BenchmarkTexts, ...] = ()

    @property
    def rated_attributes(self) -> tuple[str, ...]:
        """Names of what is rated: in the rated responses, else on the responses of the pairs."""
        return _rated_attributes(self.train, self.rated)

    @cached_property
    def features(self) -> Features:
        """All training features: those of the pairs, then those of the rated responses."""
        parts = [part.features for part in (self.train, self.rated) if part is not None]
        if len(parts) == 1:
            return parts[0]
        prompts = [p.prompt for p in parts if p.prompt is not None]
        return Features(
            torch.cat([p.response for p in parts]), torch.cat(prompts) if len(prompts) == len(parts) else None
        )


@dataclass(frozen=True)
class TextData:
    """The same as ``HeadData`` before any forward pass, for training through the backbone."""

    train: PairTexts | None
    evaluate: PairTexts | None = None
    validate: PairTexts | None = None
    rated: RatedTexts | None = None
    watched: Mapping[str, PairTexts] = field(default_factory=dict)
    benchmarks: tuple[BenchmarkTexts, ...] = ()

    @cached_property
    def texts(self) -> tuple[Encoded, ...]:
        """All training texts: those of the pairs, then the rated responses."""
        return tuple(text for part in (self.train, self.rated) if part is not None for text in part.texts)

    @cached_property
    def keys(self) -> tuple[object, ...]:
        """The prompt that each training text answers."""
        parts = [("pairs", self.train), ("rated", self.rated)]
        return tuple((name, key) for name, part in parts if part is not None for key in part.keys)

    @property
    def rated_attributes(self) -> tuple[str, ...]:
        """As ``HeadData.rated_attributes``."""
        return _rated_attributes(self.train, self.rated)


@dataclass(frozen=True)
class Material:
    """P pairs and R rated responses, as row numbers into the training responses: a stage's items, pairs first."""

    pairs: Tensor
    targets: Targets
    rated: Tensor
    ratings: Ratings | None

    def __len__(self) -> int:
        return len(self.pairs) + len(self.rated)

    @staticmethod
    def of(
        method: Method[Any, Any],
        data: HeadData | TextData,
        labels: str,
        pair_rows: Sequence[int],
        rated_rows: Sequence[int],
    ) -> Material:
        """The rows of a stage, as far as its method learns from them."""
        pairs, rated, ratings = torch.empty(0, 2, dtype=torch.long), torch.empty(0, dtype=torch.long), None
        targets = Targets.certain(0)
        if data.train is not None and "pairs" in method.learns_from:
            index = torch.tensor(list(pair_rows), dtype=torch.long)
            pairs, targets = data.train.pairs[index], data.train.targets(labels, method.attributes)[index]
        if data.rated is not None and "ratings" in method.learns_from:
            index = torch.tensor(list(rated_rows), dtype=torch.long)
            names = list(data.rated.scales)
            columns = torch.tensor([names.index(name) for name in method.attributes], dtype=torch.long)
            rated = index + (0 if data.train is None else _responses(data.train))
            ratings = data.rated.ratings.columns(columns)[index]
        return Material(pairs, targets, rated, ratings)

    def batch(
        self, items: Tensor, reference: RewardDistribution | None = None, generator: torch.Generator | None = None
    ) -> tuple[Batch, Tensor]:
        """Some items (numbers below ``len``) as a batch, with the row numbers of its responses: those of pairs first.

        ``reference`` has the distributions of all responses.
        """
        if not len(self.rated):
            chosen, rated, rows = items, None, self.pairs[items].flatten()
        else:
            is_pair = items < len(self.pairs)
            chosen, rated = items[is_pair], items[~is_pair] - len(self.pairs)
            rows = torch.cat([self.pairs[chosen].flatten(), self.rated[rated]])
        pairs = torch.arange(2 * len(chosen)).view(-1, 2)
        made = Batch(pairs, self.targets[chosen], None if reference is None else reference[rows], generator)
        if rated is not None and self.ratings is not None:
            made = replace(made, rated=torch.arange(2 * len(chosen), len(rows)), ratings=self.ratings[rated])
        return made, rows

    def whole(self) -> Batch:
        """All items at once, as row numbers into all responses."""
        return Batch(self.pairs, self.targets, rated=self.rated, ratings=self.ratings)


class StageMaterial(NamedTuple):
    """What a stage learns from; ``curation``: which shares of its pairs were easy, boundary and hard, where it curates."""

    material: Material
    curation: dict[str, float]


def stage_material(
    method: Method[Any, Any],
    data: HeadData | TextData,
    recipe: Recipe,
    number: int,
    beliefs: RewardDistribution | None,
    seed: int,
) -> StageMaterial:
    """The share of the data that falls to a stage, checked, and thinned out by ``beliefs`` [N] where it curates.

    Raises ``ConfigError`` where nothing is left, and for pairs that the method's loss cannot learn from.
    """
    stage, sizes = recipe.stages[number], [stage.share for stage in recipe.stages]
    rows = (shares(part.prompts if part else (), sizes)[number] for part in (data.train, data.rated))
    found = StageMaterial(Material.of(method, data, recipe.data.labels, *rows), {})
    if stage.curate != "no":
        assert beliefs is not None  # the recipe was checked: the first stage does not curate
        found = _thinned(found.material, beliefs, stage.curate, seed)
    if not len(found.material):
        raise ConfigError(
            f"stage {stage.name!r} gets no {' or '.join(method.learns_from)}; raise its share or give more data"
        )
    if len(found.material.pairs):
        method.check_targets(found.material.targets)
    return found


def _responses(part: PairFeatures | PairTexts) -> int:
    return len(part.texts) if isinstance(part, PairTexts) else len(part.features)


def _rated_attributes(
    pairs: PairFeatures | PairTexts | None, rated: RatedFeatures | RatedTexts | None
) -> tuple[str, ...]:
    if rated is not None:
        return tuple(rated.scales)
    records = pairs.preferences if pairs is not None else ()
    return tuple(sorted({name for pair in records for name in pair.attributes}))


def _thinned(material: Material, beliefs: RewardDistribution, how: str, seed: int) -> StageMaterial:
    """Keep the pairs that ``beliefs`` [N] (of all responses) are unsure or wrong about, and as many easy ones."""
    pairs, targets = material.pairs, material.targets
    curated = curate(
        beliefs[pairs[:, 0]].prob_greater(beliefs[pairs[:, 1]]),
        targets.label,
        torch.Generator().manual_seed(seed),
        drop_hard=how == "drop_hard",
        flip_hard=how == "flip_hard",
    )
    kept = replace(targets, label=curated.label)[curated.keep]
    found = {f"curation/{kind}": share for kind, share in curated.shares.items()}
    return StageMaterial(replace(material, pairs=pairs[curated.keep], targets=kept), found)
