"""Golden scores once more: by our loader for our checkpoints, by plain transformers for exported folders, over HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from poise import checkpoint
from poise.backbone import device_of, explained
from poise.data.records import Message
from poise.errors import CheckpointError
from poise.golden import first_parameters, golden_text
from poise.model import RewardModel
from poise.model_folder import checkpoint_in
from poise.publication.golden import PlainGolden, read_plain_golden


@dataclass(frozen=True)
class Check:
    """One number of one golden text: what was recorded, what was found now, and whether that is close enough.

    ``found`` is None where the text is not read as the same tokens.
    """

    text: str
    value: str
    known: float
    found: float | None
    tolerance: float

    @property
    def difference(self) -> float:
        """|found − known|, infinite where nothing was found."""
        return float("inf") if self.found is None else abs(self.found - self.known)

    @property
    def agrees(self) -> bool:
        """Whether the difference is within ``tolerance`` · (1 + |known|)."""
        return self.difference <= self.tolerance * (1 + abs(self.known))


@dataclass(frozen=True)
class Verification:
    """What became of the golden scores of ``source``, read by ``reader``."""

    source: str
    reader: str
    checks: tuple[Check, ...]

    @property
    def worst(self) -> Check:
        """The largest difference."""
        return max(self.checks, key=lambda one: one.difference)

    @property
    def agrees(self) -> bool:
        """Whether all of them do."""
        return all(one.agrees for one in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; a text that is read as other tokens has no difference."""
        worst = self.worst
        return {
            "source": self.source,
            "reader": self.reader,
            "agrees": self.agrees,
            "checked": len(self.checks),
            "texts": len({one.text for one in self.checks}),
            "largest_difference": None if worst.found is None else worst.difference,
            "worst": {"text": worst.text, "value": worst.value, "known": worst.known, "found": worst.found},
            "off": [f"{one.text}: {one.value}" for one in self.checks if not one.agrees],
        }


def verify_folder(folder: Path, *, device: str = "auto") -> Verification:
    """Score the golden texts of a run, a checkpoint or an exported folder again.

    Raises ``CheckpointError`` where the folder is neither, or has no golden scores.
    """
    path = checkpoint_in(folder)
    if checkpoint.is_checkpoint(path):
        return _of_checkpoint(path, device)
    return _of_plain_folder(path, device)


@torch.inference_mode()
def _of_checkpoint(folder: Path, device: str) -> Verification:
    model, golden = RewardModel.load(folder, device=device, verify=False, raw=True), checkpoint.read_golden(folder)
    checks: list[Check] = []
    for known in golden:
        encoded = model.backbone.encode([golden_text(tuple(Message(**m) for m in known.messages))])
        same = list(encoded[0].ids) == known.input_ids
        reward = model.predict_encoded(encoded) if same else None
        found = {} if reward is None else {"score": reward.mean[0].item(), **first_parameters(reward)}
        checks += compared(known.id, {"score": known.score, **known.params}, found, known.tolerance)
    return made(str(folder), "poise", checks)


@torch.inference_mode()
def _of_plain_folder(folder: Path, device: str) -> Verification:
    golden, place = read_plain_golden(folder), device_of(device)
    with explained(str(folder), str(folder)):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=getattr(torch, golden[0].dtype), use_safetensors=True, output_loading_info=True
        )
    if info["missing_keys"] or info["mismatched_keys"]:
        lacking = min([*info["missing_keys"], *(str(k) for k in info["mismatched_keys"])])
        raise CheckpointError(f"{folder} lacks the weights of {lacking}, which would be random; export the run again")
    model = model.eval().to(place)
    same = [one for one in golden if all(ids == one.input_ids for ids in plain_ids(tokenizer, one))]
    checks = [
        check for one in golden if one not in same for check in compared(one.id, {"raw": one.raw}, {}, one.tolerance)
    ]
    together = [model(**inputs.to(place)).logits for inputs in _batches(tokenizer, same)]
    alone = [model(**_batch(tokenizer, [one]).to(place)).logits for one in same]
    for way, logits in (("raw", alone), ("raw in a batch", together)):
        rows = torch.cat(logits).float().cpu().tolist() if logits else []
        for one, row in zip(same, rows, strict=True):
            checks += compared(one.id, {way: one.raw}, {way: row}, one.tolerance)
    return made(str(folder), "transformers", checks)


def plain_ids(tokenizer: Any, one: PlainGolden) -> list[list[int]]:
    """The token ids of a golden text by every way that plain readers tokenise it."""
    pair = () if one.text_pair is None else (one.text_pair,)
    found = [list(tokenizer(one.text, *pair)["input_ids"])]
    if one.rendered:
        found.append(list(tokenizer.apply_chat_template(one.messages, tokenize=True, return_dict=False)))
    return found


def compared(
    text: str,
    known: Mapping[str, list[float] | float],
    found: Mapping[str, list[float] | float | None],
    tolerance: float,
) -> list[Check]:
    """A check per number; none found where a name is missing."""
    checks = []
    for name, value in known.items():
        values = value if isinstance(value, list) else [value]
        given = found.get(name)
        now = given if isinstance(given, list) else [given] * len(values)
        numbered = len(values) > 1
        checks += [
            Check(text, f"{name}[{i}]" if numbered else name, a, b, tolerance)
            for i, (a, b) in enumerate(zip(values, now, strict=True))
        ]
    return checks


def made(source: str, reader: str, checks: Sequence[Check]) -> Verification:
    """The verification of at least one number."""
    if not checks:
        raise CheckpointError(f"{source} has no golden scores to check; write it again with this poise")
    return Verification(source, reader, tuple(checks))


def _batches(tokenizer: Any, golden: Sequence[PlainGolden]) -> Iterable[Any]:
    return [_batch(tokenizer, golden)] if golden else []


def _batch(tokenizer: Any, golden: Sequence[PlainGolden]) -> Any:
    texts, pairs = [one.text for one in golden], [one.text_pair for one in golden]
    second = pairs if pairs[0] is not None else None
    return tokenizer(texts, second, padding=True, return_tensors="pt")
