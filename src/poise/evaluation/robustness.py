"""Does a reward model hold up on new prompts and on the responses of new models: four splits, and the spread of states in each.

Protocol of Hong et al. (On the Robustness of Reward Models for Language Model Alignment, ICML 2025): prompts, and the models
that responded, are each known from training or new. Any data with several responses per prompt and the name of the model
behind each will do; gold scores are a column of it or come from any scorer (``gold.py`` measures the order).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from poise.data.records import Preference, Text
from poise.data.splits import held_out, prompt_key
from poise.errors import ConfigError, DataError, unknown_choice
from poise.evaluation.items import plain
from poise.evaluation.metrics.hidden import effective_rank, norm_dispersion
from poise.output import replacing

IN_DOMAIN = "in_domain"


@dataclass(frozen=True)
class Candidate:
    """One response, the model that wrote it, and its gold score."""

    prompt: Text
    response: Text
    model: str
    gold: float = float("nan")


@dataclass(frozen=True)
class Generalisation:
    """Training responses, and evaluation ones by split; every prompt has at least two responses in each split it is in.

    ``in_domain``: other responses of known models to known prompts; ``prompt_ood``: new prompts, known models;
    ``response_ood``: known prompts, new models; ``mutual_ood``: both new.
    """

    train: tuple[Candidate, ...]
    evaluation: Mapping[str, tuple[Candidate, ...]]


def generalisation_splits(
    candidates: Sequence[Candidate], new_models: Collection[str], *, new_prompts: float = 0.1, in_domain: float = 0.1
) -> Generalisation:
    """Deal responses by prompt and model; the share ``new_prompts`` of prompts is chosen by hash, so it is the same in all data.

    ``in_domain`` is the share of known prompts of which two responses are withheld from training, where at least two remain.
    Raises ``ConfigError`` for models that do not occur and ``DataError`` where a split would be empty.
    """
    known = {one.model for one in candidates}
    if absent := sorted(set(new_models) - known):
        raise ConfigError(f"new_models names {absent}, which wrote no response; the data has {sorted(known)}")
    keys = [prompt_key(one.prompt) for one in candidates]
    is_new = held_out(keys, new_prompts, "generalisation:")
    cells: dict[tuple[bool, bool], dict[str, list[Candidate]]] = {}
    for one, key, new in zip(candidates, keys, is_new, strict=True):
        cells.setdefault((new, one.model in new_models), {}).setdefault(key, []).append(one)
    train, withheld = _withhold(cells.get((False, False), {}), in_domain)
    parts = {IN_DOMAIN: withheld}
    parts |= {
        name: [one for group in cells.get(cell, {}).values() if len(group) > 1 for one in group]
        for name, cell in (("prompt_ood", (True, False)), ("response_ood", (False, True)), ("mutual_ood", (True, True)))
    }
    if empty := [name for name, part in {"train": train, **parts}.items() if not part]:
        raise DataError(
            f"no prompt has enough responses for {', '.join(empty)}; give more data, larger shares or other new_models "
            f"(two responses of new models per prompt, four of known ones)"
        )
    return Generalisation(tuple(train), {name: tuple(part) for name, part in parts.items()})


def _withhold(groups: Mapping[str, Sequence[Candidate]], share: float) -> tuple[list[Candidate], list[Candidate]]:
    """(kept, withheld): two responses of a share of the prompts that have four; groups of one are left out."""
    chosen = held_out(list(groups), share, "in domain:")
    kept: list[Candidate] = []
    withheld: list[Candidate] = []
    for (key, group), some in zip(groups.items(), chosen, strict=True):
        if some and len(group) >= 4:
            dealt = sorted(group, key=lambda one: hashlib.sha256(f"{key}:{one.model}".encode()).digest())
            withheld += dealt[:2]
            kept += dealt[2:]
        elif len(group) > 1:
            kept += group
    return kept, withheld


def gold_pairs(candidates: Sequence[Candidate]) -> list[Preference]:
    """Every pair of responses to one prompt that the gold scores order, the better one chosen; ``strength`` is the difference."""
    pairs = []
    for group in _by_prompt(candidates).values():
        for i, j in combinations(group, 2):
            one, two = (candidates[k] for k in sorted((i, j), key=lambda k: -candidates[k].gold))
            if one.gold > two.gold:
                models = {"chosen_model": one.model, "rejected_model": two.model}
                pairs.append(
                    Preference(
                        prompt=one.prompt,
                        chosen=one.response,
                        rejected=two.response,
                        strength=one.gold - two.gold,
                        meta=models,
                    )
                )
    return pairs


def write_splits(dealt: Generalisation, folder: Path) -> dict[Path, int]:
    """``train.jsonl`` with preference pairs and a file of responses per split, whole or not at all; rows in each."""
    pairs = gold_pairs(dealt.train)
    files: dict[str, list[dict[str, Any]]] = {
        "train": [
            {name: plain(getattr(pair, name)) for name in ("prompt", "chosen", "rejected")}
            | {"strength": pair.strength, "meta": dict(pair.meta)}
            for pair in pairs
        ]
    }
    sizes = {"train": len(pairs)}
    for name, part in dealt.evaluation.items():
        sizes[name] = len(part)
        files[name] = [
            {
                "prompt": plain(prompt),
                "responses": [plain(part[i].response) for i in rows],
                "models": [part[i].model for i in rows],
                "gold": [part[i].gold for i in rows],
            }
            for prompt, rows in _by_prompt(part).items()
        ]
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        with replacing(folder / f"{name}.jsonl") as temporary:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            temporary.write_text(text, encoding="utf8")
    return {folder / f"{name}.jsonl": count for name, count in sizes.items()}


@dataclass(frozen=True)
class StatesKept:
    """How head inputs are spread in each set, and beside ``reference``'s: a ratio of dispersions, a difference of ranks."""

    dispersion: dict[str, float]
    rank: dict[str, float]
    dispersion_ratio: dict[str, float]
    rank_change: dict[str, float]


def states_kept(states: Mapping[str, ArrayLike], reference: str = IN_DOMAIN, *, seed: int = 0) -> StatesKept:
    """Norm dispersion and effective rank of the states [n, H] of each set; ranks at the size of the smallest set."""
    if reference not in states:
        raise ConfigError(unknown_choice("reference set", reference, states))
    rows = {name: np.asarray(given, dtype=np.float64) for name, given in states.items()}
    size = min(map(len, rows.values()))
    draw = np.random.default_rng(seed)
    dispersion = {name: norm_dispersion(given) for name, given in rows.items()}
    rank = {name: effective_rank(given[draw.permutation(len(given))[:size]]) for name, given in rows.items()}
    others = [name for name in rows if name != reference]
    return StatesKept(
        dispersion,
        rank,
        {name: dispersion[name] / dispersion[reference] for name in others if dispersion[reference]},
        {name: rank[name] - rank[reference] for name in others},
    )


def _by_prompt(candidates: Sequence[Candidate]) -> dict[Text, list[int]]:
    rows: dict[Text, list[int]] = {}
    for row, one in enumerate(candidates):
        rows.setdefault(one.prompt, []).append(row)
    return rows
