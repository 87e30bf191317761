"""Read exported folders with transformers alone, in whatever version runs this file; poise need not be installed.

    python bench/plain_reader.py FOLDER…      prints one JSON object: versions, and by folder the largest difference

Every golden text is read by each way that users go: the tokenizer on the rendered text, the chat template with its own
tokenisation, alone, in a right-padded and in a left-padded batch, and (one output) the text-classification pipeline. With a
``texts.jsonl`` ({"text", "score"} lines) in a folder, those are scored in right-padded batches and by the pipeline too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

BATCH = 32


@torch.inference_mode()
def outputs(model, tokenizer, texts, side: str, size: int) -> torch.Tensor:
    """[N, K] in padded batches."""
    found = []
    for start in range(0, len(texts), size):
        inputs = tokenizer(texts[start : start + size], padding=True, padding_side=side, return_tensors="pt")
        found.append(model(**inputs).logits.float())
    return torch.cat(found)


def largest(found: torch.Tensor, known: torch.Tensor) -> float:
    assert found.shape == known.shape
    return (found - known).abs().max().item()


def read(folder: Path) -> dict[str, float]:
    """The largest difference by way of reading; raises where token ids differ or weights are missing."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder, torch_dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"], info["missing_keys"]
    model.eval()
    golden = [json.loads(line) for line in (folder / "golden.jsonl").read_text("utf8").splitlines()]
    known, texts = torch.tensor([one["raw"] for one in golden]), [one["text"] for one in golden]
    for one in golden:
        assert tokenizer(one["text"])["input_ids"] == one["input_ids"], "other token ids from the text"
        rendered = tokenizer.apply_chat_template(one["messages"], tokenize=True, return_dict=False)
        assert list(rendered) == one["input_ids"], "other token ids from the chat template"
    ways = {
        "alone": largest(outputs(model, tokenizer, texts, "right", 1), known),
        "right-padded": largest(outputs(model, tokenizer, texts, "right", BATCH), known),
        "left-padded": largest(outputs(model, tokenizer, texts, "left", BATCH), known),
    }
    if known.shape[1] == 1:
        ways["pipeline"] = largest(piped(model, tokenizer, texts), known)
    if (folder / "texts.jsonl").exists():
        rows = [json.loads(line) for line in (folder / "texts.jsonl").read_text("utf8").splitlines()]
        scores, many = torch.tensor([[row["score"]] for row in rows]), [row["text"] for row in rows]
        ways["texts, right-padded"] = largest(outputs(model, tokenizer, many, "right", BATCH), scores)
        ways["texts, pipeline"] = largest(piped(model, tokenizer, many), scores)
    return ways


def piped(model, tokenizer, texts) -> torch.Tensor:
    """[N, 1] from ``pipeline("text-classification")`` as it comes, in batches."""
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    return torch.tensor([[one["score"]] for one in classify(texts, batch_size=BATCH)])


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, object] = {}
    for name in sys.argv[1:]:
        try:
            found[name] = read(Path(name))
        except Exception as error:
            found[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    print(json.dumps({"transformers": transformers.__version__, "torch": torch.__version__, "folders": found}))


if __name__ == "__main__":
    main()
