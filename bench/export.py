"""Do exported folders say the same under other versions of transformers?

    python bench/export.py --other /path/to/other/python --out docs/results/export

For tiny random models of many decoder families, with settings that older versions read under other names (rope bases and
scalings, sliding windows), the scalar and the parameter form are exported and read by ``bench/plain_reader.py`` under this
interpreter and the other. A further folder holds 500 simulated responses, whose scores from ``predict`` and ``poise score``
are compared with each other and with what plain transformers gives.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from poise.backbone import Backbone, BackboneConfig
from poise.data.records import Message
from poise.data.simulate import WorldConfig, simulate
from poise.errors import PoiseError
from poise.legacy_settings import legacy_settings
from poise.methods import method_class
from poise.model import IN_MEMORY, RewardModel
from poise.publication import export
from poise.report.tables import markdown_table
from poise.scoring import score_file

READER = Path(__file__).with_name("plain_reader.py")
ROWS = 500
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
ROPE = {"rope_type": "default", "rope_theta": 1e6}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LOCAL = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 3e4},
}
FAMILIES: dict[str, tuple[str, dict]] = {
    "llama": ("llama", {"rope_parameters": LLAMA3}),
    "mistral": ("mistral", {"rope_parameters": ROPE, "sliding_window": 24}),
    "qwen2": ("qwen2", {"rope_parameters": ROPE}),
    "qwen2, sliding window": (
        "qwen2",
        {"rope_parameters": ROPE, "use_sliding_window": True, "sliding_window": 24, "max_window_layers": 2},
    ),
    "qwen3": ("qwen3", {"rope_parameters": ROPE, "head_dim": 32}),
    "gemma": ("gemma", {"rope_parameters": ROPE, "head_dim": 16}),
    "gemma2": ("gemma2", {"rope_parameters": ROPE, "head_dim": 16, "sliding_window": 24}),
    "gemma3_text": ("gemma3_text", {"rope_parameters": LOCAL, "head_dim": 16, "sliding_window": 24}),
    "phi3": ("phi3", {"rope_parameters": ROPE, "original_max_position_embeddings": 2048}),
    "phi": ("phi", {"rope_parameters": ROPE | {"partial_rotary_factor": 0.25}}),
    "stablelm": ("stablelm", {"rope_parameters": ROPE | {"partial_rotary_factor": 0.25}}),
    "smollm3": ("smollm3", {"rope_parameters": ROPE}),
    "mixtral": ("mixtral", {"rope_parameters": ROPE, "num_local_experts": 4}),
    "gpt_neox": ("gpt_neox", {"rope_parameters": ROPE | {"partial_rotary_factor": 0.5}}),
    "gpt2": ("gpt2", {}),
}


def texts() -> list[tuple[tuple[Message, ...], tuple[Message, ...]]]:
    """500 simulated prompts with a response."""
    pairs = simulate(WorldConfig(train_pairs=ROWS)).preferences["train"][: ROWS // 2]
    return [(pair.prompt, side) for pair in pairs for side in (pair.chosen, pair.rejected)]


def tokenizer() -> PreTrainedTokenizerFast:
    """Chat tokens, a BOS that the tokenizer adds by itself, and an end of text that also pads: the usual traps."""
    roles = ["<|system|>", "<|user|>", "<|assistant|>"]
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", *roles]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator((m.content for prompt, response in texts() for m in (*prompt, *response)), trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
        extra_special_tokens=roles,
    )
    made.chat_template = (
        "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    return made


def model(kind: str, settings: dict, method: str) -> RewardModel:
    """A random backbone of a family with a random head."""
    words = tokenizer()
    config = AutoConfig.for_model(
        kind, **SHAPE | settings, vocab_size=len(words), bos_token_id=1, eos_token_id=2, pad_token_id=2
    )
    torch.manual_seed(0)
    with torch.no_grad():
        base = AutoModel.from_config(config)
        for (
            name,
            parameter,
        ) in base.named_parameters():  # the families' own starts are too small to tell positions apart
            if parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(4)
        head = method_class(method)(method_class(method).Config(), config.hidden_size)
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return RewardModel(Backbone(base, words, BackboneConfig(name=IN_MEMORY, dtype="float32")), head)


def rows(folder: Path, reward: RewardModel, work: Path) -> dict[str, float]:
    """500 responses by ``predict`` and ``poise score``; their texts and scores beside the exported folder."""
    data, scores = work / "rows.jsonl", work / "scores.parquet"
    lines = [{"prompt": [m._asdict() for m in p], "response": [m._asdict() for m in r]} for p, r in texts()]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf8")
    predicted = reward.predict([line["prompt"] for line in lines], [line["response"] for line in lines]).mean
    score_file(reward, str(data), scores)
    filed = torch.tensor(pyarrow.parquet.read_table(scores)["mean"].to_pylist())
    words = reward.backbone.tokenizer
    with (folder / "texts.jsonl").open("w", encoding="utf8") as file:
        for line, value in zip(lines, predicted.tolist(), strict=True):
            text = words.apply_chat_template(line["prompt"] + line["response"], tokenize=False)
            file.write(json.dumps({"text": text, "score": value}) + "\n")
    return {"rows": len(lines), "poise score": (filed - predicted).abs().max().item(), "spread": predicted.std().item()}


def without_older_names(folder: Path) -> Path:
    """A copy of an exported folder whose settings only transformers 5 reads."""
    copy = Path(shutil.copytree(folder, folder.with_name("bare")))
    config = json.loads((copy / "config.json").read_text("utf8"))
    kept = {name: value for name, value in config.items() if name not in legacy_settings(config)}
    (copy / "config.json").write_text(json.dumps(kept), "utf8")
    return copy


def readings(python: str, folders: list[Path]) -> dict:
    """What ``plain_reader.py`` says under an interpreter."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python, str(READER), *map(str, folders)], capture_output=True, text=True, check=True, env=environment
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", required=True, help="an interpreter with another version of transformers")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        refused: dict[str, str] = {}
        folders: dict[str, list[Path]] = {}
        bare: dict[str, Path] = {}
        for family, (kind, settings) in FAMILIES.items():
            place = work / family.replace(", ", "-").replace(" ", "-")
            try:
                export(model(kind, settings, "bt"), place / "scalar", "scalar")
                export(model(kind, settings, "drpo"), place / "params", "params")
            except (PoiseError, ValueError) as error:
                refused[family] = str(error)
                continue
            folders[family] = [place / "scalar", place / "params"]
            bare[family] = without_older_names(place / "scalar")
        equal = rows(folders["qwen3"][0], model(*FAMILIES["qwen3"], "bt"), work)
        every = [folder for pair in folders.values() for folder in pair]
        found = [readings(python, every) for python in (sys.executable, given.other)]
        control = readings(given.other, list(bare.values()))["folders"]
        result = {
            "command": "python bench/export.py --other PYTHON --out docs/results/export",
            "machine": platform.processor() or platform.machine(),
            "versions": [{k: one[k] for k in ("transformers", "torch")} for one in found],
            "families": {
                family: [{folder.name: one["folders"][str(folder)] for folder in pair} for one in found]
                for family, pair in folders.items()
            },
            "without older names": {family: control[str(folder)] for family, folder in bare.items()},
            "refused": refused,
            "rows": equal,
        }
    print(json.dumps(result, indent=1))
    if given.out:
        given.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", "utf8")
        given.out.with_suffix(".md").write_text(page(result), "utf8")


def page(result: dict) -> str:
    """The result as Markdown."""
    names = [f"transformers {v['transformers']}" for v in result["versions"]]

    def cell(readings: dict, left: bool) -> str:
        broken = [r for r in readings.values() if isinstance(r, str)]
        if broken:
            return broken[0]
        ways = [(way, v) for reading in readings.values() for way, v in reading.items() if "texts" not in way]
        return f"{max(v for way, v in ways if left == (way == 'left-padded')):.1e}"

    control = result["without older names"]
    table = markdown_table(
        ["family", *names, *(f"{name}, left-padded" for name in names), f"{names[1]}, without the older names"],
        [
            [f, *(cell(one, left) for left in (False, True) for one in each), cell({"scalar": control[f]}, False)]
            for f, each in result["families"].items()
        ],
    )
    equal = result["rows"]
    wide = [
        [name, *(f"{v:.1e}" for way, v in each["scalar"].items() if "texts" in way)]
        for name, each in zip(names, result["families"]["qwen3"], strict=True)
    ]
    refused = "".join(f"- {family}: {why}\n" for family, why in result["refused"].items())
    return f"""# Exported folders under two versions of transformers

`{result["command"]}` ({", ".join(f"transformers {v['transformers']} with torch {v['torch']}" for v in result["versions"])}; the second is
what RewardBench 0.1.5 pins, in an environment of its own without poise).

Tiny random decoders with the settings that the two versions name differently (rope bases and scalings, sliding windows, partial
rotation), a tokenizer that adds a BOS by itself, and a pad token equal to the end of text. The largest difference in float32 between poise
and plain transformers over both forms (`bt` scalar, `drpo` parameters), all golden texts, and the ways to read them: alone, in a
right-padded batch, by the text-classification pipeline; left-padded batches apart. The token ids are equal in every case, or the cell says so. The last column is a control: the same scalar folder
with the settings of transformers 5 alone in its config.json, as `save_pretrained` writes it; nothing warns there.

{table}
{"Refused by the export itself:" + chr(10) * 2 + refused if refused else ""}
GPT-2 counts its positions from the left whatever is padded, in either version of transformers: such families are read right-padded, as the
exported tokenizer does.

{equal["rows"]} simulated responses (standard deviation of their scores {equal["spread"]:.2f}), qwen3: `poise score` against `predict`
{equal["poise score"]:.1e}; the exported folder against `predict`:

{markdown_table(["", "right-padded batches of 32", "text-classification pipeline"], wide)}"""


if __name__ == "__main__":
    main()
