"""A small decoder trained from scratch, through the backbone, on the simulated world: what its hidden states do.

Claims about hidden states need states that move. The decoder has a Qwen3 configuration (two layers, 64 wide) and a tokenizer
of its own; a training run takes half a minute on one core, and its figures are kept for the family's other studies.
"""

from __future__ import annotations

import json
import tempfile
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
def texts(setting: Setting) -> World:
    """The seed's texts; no label noise beside that of the raters and a little flipping."""
    sizes = {"train_pairs": setting.size(600, 16), "eval_pairs": setting.size(200, 8)}
    return simulate(WorldConfig(seed=setting.seed, flip_rate=0.05, **sizes))


def figures(setting: Setting, variant: str, epochs: float = 2) -> dict[str, Any]:
    """What a run of a variant (with 0 epochs: the start) says, computed once."""
    name = f"decoder-{variant}-{epochs:g}-{setting.seed}".replace(" ", "_")
    path = setting.runs / f"{name}.json"
    if not path.exists():
        with tempfile.TemporaryDirectory() as folder:
            found = measured(setting, variant, epochs, Path(folder))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf8")
    known: dict[str, Any] = json.loads(path.read_text("utf8"))
    return known


def measured(setting: Setting, variant: str, epochs: float, folder: Path) -> dict[str, Any]:
    """Train, then read states and rewards: of all splits after the whole training, else of the training set alone."""
    made = texts(setting)
    write(made, folder / "world")
    decoder(folder / "decoder", made, setting.seed)
    stage = {"batch_size": 16, "learning_rate": 1e-3, "warmup": 0.05}
    recipe = {
        "data": {"train": str(folder / "world" / "train.jsonl")},
        # 64 columns are too few for bfloat16 to pay on a processor
        "backbone": {"name": str(folder / "decoder"), "max_length": 512, "dtype": "float32"},
        "method": {"name": "bt", **VARIANTS[variant]},
        "stages": [stage | ({"epochs": epochs} if epochs else {"epochs": 0.01, "learning_rate": 1e-12})],
        "training": {"update": "full"},
        "seed": setting.seed,
    }
    model = train(recipe, folder / "run").model
    found: dict[str, Any] = {"weight_norm": model.method.linear_head().weight.detach().norm().item(), "splits": {}}  # type: ignore[union-attr]
    for name in ("train", *EVALUATION) if epochs == 2 else ("train",):
        read = made.ratings[name][: setting.size(400, 16)]  # as many of each: the effective rank depends on it
        found["splits"][name], states = of_split(model, read, made.preferences[name])
        found["splits"][name]["effective_rank"] = metrics.effective_rank(states)
    model.backbone.model.norm = torch.nn.Identity()
    for name, split in found["splits"].items():
        rows = made.ratings[name][: setting.size(200, 16)]
        before = model.features(model.backbone.encode([(r.prompt, r.response) for r in rows])).response
        split["dispersion_before_norm"] = metrics.norm_dispersion(before.double().numpy())
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
