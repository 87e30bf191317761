"""GRPO with a risk-aware reward: the policy earns the mean of the worst tenth of what people may think, not the average.

python examples/grpo_risk_aware.py [POLICY]        (default: a tiny policy of random weights, so that it runs anywhere)
"""

from __future__ import annotations

import sys

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer

import poise
from poise.data.simulate import WorldConfig, simulate, write

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def reward_model() -> poise.RewardModel:
    """A Gaussian reward from preferences with votes: how good, and how much people differ."""
    write(simulate(WorldConfig(train_pairs=40, eval_pairs=2, ratings_per_response=1)), "world")
    data = {"train": "world/train.jsonl"}
    return poise.train({"data": data, "backbone": "minilm", "method": "drpo_exact"}, out="runs/reward").model


def tiny_policy(texts: list[str]) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    """Random weights; in earnest this is ``Qwen/Qwen3-0.6B`` or your own."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel()
    special = ["<pad>", "<eos>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
    tokenizer.chat_template = TEMPLATE
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), **shape, **heads)), tokenizer


def main(policy: str | None = None, steps: int = 3) -> GRPOTrainer:
    """Train a policy for a few steps; the log has the reward's spread beside the reward."""
    model = reward_model()
    pairs = poise.load_preferences("world/train.jsonl").records
    prompts = [{"prompt": [message._asdict() for message in pair.prompt]} for pair in pairs[:8]]
    if policy is None:
        made, tokenizer = tiny_policy([message.content for pair in pairs for message in pair.chosen])
    else:
        made, tokenizer = AutoModelForCausalLM.from_pretrained(policy), AutoTokenizer.from_pretrained(policy)
    reward = poise.as_reward_function(model, "cvar:0.1", too_long="truncate-prompt", empty=-3.0)
    arguments = GRPOConfig(
        output_dir="runs/policy",
        max_steps=steps,
        num_generations=4,
        per_device_train_batch_size=8,
        max_completion_length=24,
        learning_rate=1e-3,
        beta=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        bf16=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = GRPOTrainer(
        model=made,
        processing_class=tokenizer,
        reward_funcs=reward,
        train_dataset=Dataset.from_list(prompts),
        args=arguments,
    )
    trainer.train()
    for step in (line for line in trainer.state.log_history if "reward" in line):
        name = reward.__name__
        print(
            f"reward {step['reward']:+.2f} (worst tenth)   mean {step[f'{name}/mean']:+.2f}   spread {step[f'{name}/std']:.2f}"
        )
    return trainer


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
