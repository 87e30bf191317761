"""How much memory and time a training run takes: arithmetic on the numbers of parameters, tokens and devices.

A matrix product costs 2 floating point operations per weight and token; its backward pass costs that once for the inputs'
gradient and once for the weights'. Attention between tokens is not counted (7 % more for 8 billion weights at 2,048 tokens).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from poise.errors import ConfigError, unknown_choice
from poise.training.forecast.shape import Shape
from poise.training.recipe import TrainingConfig

UTILISATION = 0.4
"""Share of a matrix product's rate that whole steps reach: our assumption, of the size that large trainings report."""
MATRIX, TRIES = 1024, 5
ADAM_STATES = 2


@dataclass(frozen=True)
class Assumed:
    """What is not at hand: pairs and rated responses of the data, tokens of a pair; and what it is to run on.

    ``tflops``: rate of a bfloat16 matrix product on one device, 10¹² a second; measured here where it is not given.
    """

    pairs: float | None = None
    ratings: float | None = None
    tokens: float | None = None
    gpus: float | None = None
    tflops: float | None = None
    utilisation: float = UTILISATION

    @staticmethod
    def of(given: Sequence[str]) -> Assumed:
        """From ``pairs=80000`` and the like, also several separated by commas."""
        names, found = [one.name for one in fields(Assumed)], dict[str, float]()
        for item in (part for one in given for part in one.split(",")):
            name, _, value = item.partition("=")
            if name.strip() not in names:
                raise ConfigError(unknown_choice("assumption", name.strip(), names))
            try:
                found[name.strip()] = number = float(value)
            except ValueError:
                number = 0.0
            if not 0 < number < float("inf"):
                raise ConfigError(f"--assume {item}: {value!r} is no positive number; write e.g. pairs=80000,gpus=8")
        if not found.get("gpus", 1.0).is_integer():
            raise ConfigError(f"--assume gpus={found['gpus']:g}: give a whole number")
        if found.get("utilisation", 0.0) > 1:
            raise ConfigError(f"--assume utilisation={found['utilisation']:g}: it is a share, at most 1")
        return Assumed(**found)

    @property
    def processes(self) -> int:
        """One for each GPU."""
        return int(self.gpus or 1)


@dataclass(frozen=True)
class Memory:
    """Bytes on each device: ``fixed`` ones by name, and activations of a micro-batch, as expected and at most."""

    fixed: dict[str, float]
    activations: float | None
    activations_most: float | None

    @property
    def total(self) -> float:
        """With the expected activations, where they are known."""
        return sum(self.fixed.values()) + (self.activations or 0)

    @property
    def most(self) -> float:
        """With texts that are all as long as allowed."""
        return sum(self.fixed.values()) + (self.activations_most or 0)


def bytes_of_weight(dtype: str) -> int:
    """In training: ``auto`` keeps weights in float32."""
    return 2 if dtype in ("bfloat16", "float16") else 4


def training_memory(
    shape: Shape, head: int, dtype: str, config: TrainingConfig, processes: int, tokens: tuple[float, float]
) -> Memory:
    """Training through the backbone, on each of ``processes`` devices; ``tokens`` of a micro-batch, expected and at most.

    AdamW keeps two numbers per trained weight. FSDP divides weights, gradients and those; plain data parallelism keeps
    buckets of gradients beside the gradients. The head (``head`` weights) is float32.
    """
    size, parts = bytes_of_weight(dtype), processes if config.arguments.get("fsdp") else 1
    adapters = shape.trained if config.update == "lora" else 0
    weights = (shape.parameters + adapters) * size + head * 4
    gradients = shape.trained * size + head * 4
    fixed = {
        "weights": weights / parts,
        "gradients": gradients / parts,
        "optimizer": ADAM_STATES * gradients / parts,
        **({"gradient buckets": gradients} if processes > 1 and parts == 1 else {}),
    }
    known = shape.activations
    if known is None:
        return Memory(fixed, None, None)
    checkpointed = recomputes(config)
    if known.copies and not (checkpointed and config.update == "lora"):  # autocast keeps converted only what is trained
        fixed["weights in bfloat16"] = known.copies
    per_token = known.outside + (known.inputs + known.layer if checkpointed else known.layers)
    return Memory(fixed, per_token * tokens[0], per_token * tokens[1])


def recomputes(config: TrainingConfig) -> bool:
    """Whether layers are computed again in the backward pass in place of being kept; also as FSDP's own option."""
    given = config.arguments
    divided = given.get("fsdp_config")
    inside = divided.get("activation_checkpointing") if isinstance(divided, dict) else False
    return bool(given.get("activation_checkpointing") or given.get("gradient_checkpointing") or inside)


def operations_per_token(shape: Shape, config: TrainingConfig) -> float:
    """Of one training step through the backbone: 6 per weight, 4 with adapters, 2 more where layers or texts are read twice."""
    multiplied = shape.parameters - shape.embedding
    per_weight = 4 if config.update == "lora" else 6
    if recomputes(config):
        per_weight += 2
    if config.loss_over == "step" and config.accumulation > 1:
        per_weight += 2
    return per_weight * multiplied + (6 * shape.trained if config.update == "lora" else 0)


def reading_per_token(shape: Shape) -> float:
    """Of one forward pass without gradient."""
    return 2 * (shape.parameters - shape.embedding)


def measured_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations per second of a matrix product on this machine, the best of a few."""
    size = MATRIX if device.type == "cpu" else 8 * MATRIX
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(TRIES + 1):  # the first one also warms up
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
