"""A policy's answers to prompts, drawn as in training, and how far two policies are apart on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poise.policy.recipe import PolicyRecipe

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True)
class Answers:
    """``texts`` as strings, or as messages to prompts that are messages; token rows of prompt and answer."""

    texts: list[Any]
    prompts: list[list[int]]
    tokens: list[list[int]]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each answer, the end included."""
        return [len(row) for row in self.tokens]


@torch.no_grad()
def answer(model: Any, tokenizer: Any, prompts: Sequence[Any], arguments: Any, recipe: PolicyRecipe) -> Answers:
    """One answer to each prompt with the sampling of TRL's ``arguments``; the recipe's seed decides the draws."""
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    chosen = {name: getattr(arguments, name) for name in SAMPLING} | (arguments.generation_kwargs or {})
    sampling = {name: value for name, value in chosen.items() if value is not None}
    ends = _ends(model, tokenizer)
    texts: list[Any] = []
    heads: list[list[int]] = []
    tails: list[list[int]] = []
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        for i in range(0, len(prompts), recipe.evaluation.batch_size):
            block = prompts[i : i + recipe.evaluation.batch_size]
            rows = [_encoded(prompt, tokenizer) for prompt in block]
            batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(model.device)
            drawn = model.generate(
                **batch,
                do_sample=True,
                max_new_tokens=arguments.max_completion_length,
                pad_token_id=tokenizer.pad_token_id,
                **{"eos_token_id": ends} | sampling,
            )[:, batch["input_ids"].shape[1] :]
            for prompt, row, tail in zip(block, rows, drawn.tolist(), strict=True):
                last = next((place for place, token in enumerate(tail, 1) if token in ends), len(tail))
                kept = tail[:last]
                text = tokenizer.decode(kept, skip_special_tokens=True)
                texts.append(text if isinstance(prompt, str) else [{"role": "assistant", "content": text}])
                heads.append(row)
                tails.append(kept)
    return Answers(texts, heads, tails)


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends an answer: the tokenizer's, and those of the model, an end of turn for one; as TRL has it."""
    known = model.generation_config.eos_token_id
    ends = [tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])]
    return [token for token in dict.fromkeys(ends) if token is not None]


@torch.no_grad()
def divergence(policy: Any, reference: Any, answers: Answers) -> NDArray[np.float64]:
    """KL(policy ‖ reference) [nat] along each of the policy's own answers, over the whole vocabulary at every token: [B]."""
    found = []
    for head, tail in zip(answers.prompts, answers.tokens, strict=True):
        new, old = (_log_probs(model, head, tail) for model in (policy, reference))
        found.append(float((new.exp() * (new - old)).sum()))
    return np.array(found)


def _log_probs(model: Any, head: list[int], tail: list[int]) -> Tensor:
    ids = torch.tensor([head + tail], device=model.device)
    logits: Tensor = model(ids).logits[0, len(head) - 1 : -1].float()
    return logits.log_softmax(-1).cpu()


def _encoded(prompt: Any, tokenizer: Any) -> list[int]:
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    given = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)
    return list(given["input_ids"])
