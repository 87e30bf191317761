"""What is known of a recipe's data before a run: read where it is here, else what was assumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from poise.backbone import is_causal, load_encoder
from poise.data.named import Kind, resolve
from poise.data.records import Preference, text_length
from poise.data.sources import on_the_hub
from poise.data.splits import prompt_key, shares
from poise.methods import method_class
from poise.readout import instruction_for
from poise.training.forecast.estimate import Assumed
from poise.training.forecast.shape import at_hand
from poise.training.prepare import check_stages
from poise.training.recipe import Recipe, Stage
from poise.training.split import Split, load_data

SAMPLE = 1000
"""Pairs whose tokens are counted; more would say the same."""
CHARACTERS = 4
"""Of a token, where no tokenizer is here: usual for English."""
PAIRS: tuple[Kind, ...] = ("preference", "ranking")
RATINGS: tuple[Kind, ...] = ("rating",)


@dataclass(frozen=True)
class Known:
    """Pairs by role, rated responses, and tokens of a pair, shared ones once; None where it cannot be told.

    ``how``: read, assumed or unknown; ``shares``: pairs of each stage where they were read.
    """

    how: str
    training: float | None = None
    prompts: int | None = None
    evaluation: float | None = None
    validation: float | None = None
    watched: float | None = None
    ratings: float | None = None
    left_out: int = 0
    tokens_per_pair: float | None = None
    tokens_how: str = "unknown"
    shares: tuple[int, ...] = ()
    assumptions: tuple[str, ...] = field(default=())

    def of_stage(self, number: int, stage: Stage) -> float | None:
        """Pairs that a stage sees."""
        if self.shares:
            return self.shares[number]
        return None if self.training is None else self.training * stage.share

    def ratings_of_stage(self, stage: Stage) -> float | None:
        """Rated responses that a stage sees."""
        return None if self.ratings is None else self.ratings * stage.share


def known_data(recipe: Recipe, settings: Any, assumed: Assumed) -> tuple[Known, Recipe, list[str]]:
    """(what is known, the recipe completed by the attributes that are rated, what could not be resolved)."""
    pairs = (*recipe.data.train, *recipe.data.evaluate, *(f for files in recipe.data.watched.values() for f in files))
    away = [one for one in pairs if not _here(one, PAIRS)]
    away += [one for one in recipe.data.ratings if not _here(one, RATINGS)]
    if not away:
        return _read(recipe, settings)
    names = [n for source in recipe.data.ratings if (found := resolve(source, RATINGS)) for n in found.dataset.scales]
    completed = recipe.for_data(tuple(dict.fromkeys(names))) if names else recipe
    training = (
        None
        if assumed.pairs is None
        else assumed.pairs * (1 if recipe.data.evaluate else 1 - recipe.data.evaluate_fraction)
    )
    told = [
        f"{name}={value:g}" for name in ("pairs", "ratings", "tokens") if (value := getattr(assumed, name)) is not None
    ]
    known = Known(
        how="unknown" if training is None else "assumed",
        training=training,
        evaluation=None if training is None or assumed.pairs is None else assumed.pairs - training,
        ratings=assumed.ratings if recipe.data.ratings else 0,
        tokens_per_pair=assumed.tokens,
        tokens_how="unknown" if assumed.tokens is None else "assumed",
        assumptions=(f"data: {', '.join(told)}, as given",) if told else (),
    )
    wanted = ["pairs", "tokens", *(["ratings"] if recipe.data.ratings else [])]
    lacking = [f"{name}=…" for name in wanted if getattr(assumed, name) is None]
    way = f"; say --assume {','.join(lacking)} for steps and time" if lacking else ""
    return known, completed, [f"data {', '.join(away)}: on the hub, and a dry run downloads none{way}"]


def _here(source: str, kinds: tuple[Kind, ...]) -> bool:
    """Whether a source can be read without the network; DataError where it is neither here nor on the hub."""
    named = resolve(source, kinds)
    return on_the_hub(named.rows if named else source) is None


def _read(recipe: Recipe, settings: Any) -> tuple[Known, Recipe, list[str]]:
    split = load_data(recipe)
    if split.conversational:
        split = split.as_conversations()
    completed = recipe.for_data(tuple(split.scales))
    check_stages(completed, split.training)
    keys = [prompt_key(pair.prompt) for pair in split.training]
    tokens, how = _tokens(completed, settings, split)
    known = Known(
        how="read",
        training=len(split.training),
        prompts=len(set(keys)),
        evaluation=len(split.evaluation),
        validation=len(split.validation),
        watched=sum(len(part) for part in split.watched.values()),
        ratings=len(split.ratings),
        left_out=len(split.bad),
        tokens_per_pair=tokens,
        tokens_how=how,
        shares=tuple(len(part) for part in shares(keys, [stage.share for stage in recipe.stages])),
    )
    return known, completed, []


def _tokens(recipe: Recipe, settings: Any, split: Split) -> tuple[float, str]:
    """(tokens of a pair, how that was found): what two responses share is read once by decoders."""
    sample = split.training[:: max(1, -(-len(split.training) // SAMPLE))]
    folder = at_hand(recipe.backbone)
    if folder is None or settings is None or not _has_tokenizer(folder):
        return _guess(sample), f"characters / {CHARACTERS}, no tokenizer is here"
    backbone = replace(recipe.backbone, name=str(folder), revision=None)
    words = method_class(recipe.method.name)(recipe.stage_options(recipe.stages[0]), hidden_size=1).rating_tokens
    if words and is_causal(settings) and backbone.readout == "auto":
        backbone = replace(
            backbone, readout="rating", rating_instruction=backbone.rating_instruction or instruction_for(words)
        )
    encoded = load_encoder(backbone).encode_many(
        [text for p in sample for text in ((p.prompt, p.chosen), (p.prompt, p.rejected))]
    )
    shared = is_causal(settings) and recipe.training.layout in ("auto", "tree")
    total = sum(len(one.ids) for one in encoded) - (sum(one.prompt_length for one in encoded[::2]) if shared else 0)
    return total / len(sample), f"counted in {len(sample):,} pairs"


def _has_tokenizer(folder: Path) -> bool:
    return any(
        (folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json")
    )


def _guess(sample: Sequence[Preference]) -> float:
    lengths = [2 * text_length(p.prompt) + text_length(p.chosen) + text_length(p.rejected) for p in sample]
    return sum(lengths) / len(sample) / CHARACTERS
