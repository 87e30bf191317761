"""Two processes that each hold half of a batch; a file of its own, so that they start without the studies' imports."""

from __future__ import annotations

import os
import socket
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from poise.methods.bradley_terry import batch_sum_to_zero

SCOPES = ("global", "micro")


def rewards(seed: int) -> torch.Tensor:
    """[2 processes, 16]."""
    return torch.randn(2, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slopes(seed: int) -> dict[str, list[float]]:
    """∂penalty/∂reward by scope, [32], as each of two processes has it for its own half."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = processes.get_context("spawn").SimpleQueue()
    processes.spawn(_rank, args=(seed, port, queue), nprocs=2)
    found = dict(queue.get() for _ in range(2))
    return {scope: found[0][scope] + found[1][scope] for scope in SCOPES}


def _rank(rank: int, seed: int, port: int, queue: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    found = {}
    for scope in SCOPES:
        mine = rewards(seed)[rank].clone().requires_grad_()
        (slope,) = torch.autograd.grad(batch_sum_to_zero(mine.mean(), scope), mine)
        found[scope] = slope.tolist()
    queue.put((rank, found))
    dist.destroy_process_group()
