"""A small decoder trained from scratch, through the backbone, on the simulated world: what its hidden states do.

Claims about hidden states need states that move. The decoder has a Qwen3 configuration (two layers, 64 wide) and a tokenizer
of its own; one training run takes about a minute on one core, and its figures are kept beside the runs for other studies.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from experiments.claims.claim import Setting
from experiments.claims.worlds import EVALUATION
from poise import RewardModel, train
from poise.data.records import Rating
from poise.data.simulate import World, WorldConfig, simulate
from poise.data.simulate.storage import write
from poise.evaluation import metrics
from poise.evaluation.metrics.within_prompt import kendall

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VARIANTS: dict[str, dict[str, Any]] = {
    "bt": {},
    "bsr 1e-4": {"regulariser": "bsr", "coefficient": 1e-4},
    "bsr": {"regulariser": "bsr", "coefficient": 1e-3},
    "bsr 1e-2": {"regulariser": "bsr", "coefficient": 1e-2},
    "dr": {"loss": "dr"},
    "norm": {"loss": "norm"},
}


@lru_cache(1)
def world(seed: int, pairs: int, evaluation: int) -> World:
    """The texts of a seed; no label noise beside that of the raters."""
    return simulate(WorldConfig(seed=seed, train_pairs=pairs, eval_pairs=evaluation, flip_rate=0.05))


def figures(setting: Setting, variant: str, seed: int, epochs: float = 2) -> dict[str, Any]:
    """What a run of a variant (with 0 epochs: the start) says, computed once."""
    size = setting.size(1200, 32)
    path = setting.runs / f"{size}-{variant}-{epochs:g}-{seed}.json".replace(" ", "_")
    if not path.exists():
        found = measured(setting, variant, seed, epochs)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf8")
    known: dict[str, Any] = json.loads(path.read_text("utf8"))
    return known


def measured(setting: Setting, variant: str, seed: int, epochs: float) -> dict[str, Any]:
    """Train, then read states and rewards of all splits."""
    made = world(seed, setting.size(1200, 32), setting.size(400, 16))
    folder = setting.runs / f"{variant}-{epochs:g}-{seed}".replace(" ", "_")
    shutil.rmtree(folder, ignore_errors=True)
    write(made, folder / "world")
    decoder(folder / "decoder", made, seed)
    recipe = {
        "data": {"train": str(folder / "world" / "train.jsonl"), "evaluate": str(folder / "world" / "in_domain.jsonl")},
        "backbone": {"name": str(folder / "decoder"), "max_length": 512},
        "method": {"name": "bt", **VARIANTS[variant]},
        "stages": [
            {"epochs": max(epochs, 0.01), "batch_size": 16, "learning_rate": 1e-3 if epochs else 1e-12, "warmup": 0.05}
        ],
        "training": {"update": "full"},
        "seed": seed,
    }
    model = train(recipe, folder / "run").model
    found: dict[str, Any] = {"weight_norm": model.method.linear_head().weight.detach().norm().item(), "splits": {}}  # type: ignore[union-attr]
    states = {}
    for name in ("train", *EVALUATION):
        found["splits"][name], states[name] = of_split(
            model, made.ratings[name][: setting.size(1600, 40)], made.preferences[name]
        )
    least = min(map(len, states.values()))
    for name, rows in states.items():
        found["splits"][name]["effective_rank"] = metrics.effective_rank(rows[:least])
    shutil.rmtree(folder)
    return found


def of_split(
    model: RewardModel, rated: Sequence[Rating], pairs: Sequence[Any]
) -> tuple[dict[str, float], np.ndarray[Any, Any]]:
    """(figures, states [n, H]) of the responses of a split: order kept within prompts, accuracy, norms."""
    encoded = model.backbone.encode([(r.prompt, r.response) for r in rated])
    features = model.features(encoded)
    reward = model.predict_features(features).mean.double().numpy()
    gold = np.array([float(r.meta["true_utility"]) for r in rated])  # type: ignore[arg-type]
    prompts: dict[Any, list[int]] = {}
    for i, record in enumerate(rated):
        prompts.setdefault(record.prompt, []).append(i)
    tau = [kendall(reward[rows], gold[rows]) for rows in prompts.values() if len(rows) > 1 and np.ptp(gold[rows]) > 0]
    states = features.response.double().numpy()
    rows_of = np.array([p.meta["responses"] for p in pairs]) - 1  # rows count from 1
    ends = rows_of[(rows_of < len(rated)).all(1)]
    difference = np.linalg.norm(states[ends[:, 0]] - states[ends[:, 1]], axis=1)
    right = np.sign(reward[ends[:, 0]] - reward[ends[:, 1]])
    found = {
        "tau": float(np.nanmean(tau)),
        "accuracy": float((right > 0).mean() + 0.5 * (right == 0).mean()),
        "dispersion": metrics.norm_dispersion(states),
        "difference_mean": float(difference.mean()),
        "difference_variance": float(difference.var()),
        "difference_skew": float(scipy.stats.skew(difference)),
    }
    return found, states


def decoder(folder: Path, made: World, seed: int) -> None:
    """A fresh decoder and its tokenizer, as a Hugging Face folder."""
    special = ["<pad>", "<unk>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>"]
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [m.content for r in made.ratings["train"][:2000] for m in (*r.prompt, *r.response)]
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=2000, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>")
    tokenizer.chat_template = TEMPLATE
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        intermediate_size=192,
        max_position_embeddings=1024,
        pad_token_id=0,
        eos_token_id=2,
    )
    torch.manual_seed(seed)
    Qwen3Model(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
