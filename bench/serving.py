"""Serving one-sample requests: against scoring the same rows offline, and against a plain server, in one run.

64 clients on keep-alive connections each post one response to ``/v1/rewards`` and wait for its score, as frameworks for
reinforcement learning do; every answer is compared with the offline score. The plain server is FastAPI with one forward pass
per request, on the same checkpoint. Rows are groups: so many responses to one prompt, each sent by itself. Then twice the
load that the server can take, with a short queue, from clients that do not wait for each other: what is answered must be
right, the rest 503, memory flat.

The last line of stdout is one JSON object: ``share_of_offline``, ``speedup_vs_naive`` and ``errors`` of the first workload.
Usage: python bench/serving.py PAIRS.jsonl.gz [--kind decoder] [--dtype float32] [--group 8] [--seconds 60] [--skip-overload] [--out FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from load import closed_loop, one, open_loop
from scoring import checkpoint, say

CLIENTS, WARM_UP, TOLERANCE = 64, 3.0, 1e-4
PADDED_BFLOAT16 = 1.0  # the plain server adds in another order: in bfloat16 it is asked only whether it answers


def rows(model, data: str, prompts: int, group: int) -> list[tuple[object, object]]:
    """(prompt, response) with ``group`` responses to every prompt: its own two, then those of the next prompts."""
    from poise.data.load import as_conversation, load_preferences

    pairs = [as_conversation(p) for p in load_preferences(data, "drop").records]
    texts, at = [], 0
    while len(texts) < prompts * group:
        near = [r for p in pairs[at : at + group] for r in (p.chosen, p.rejected)]
        members = [(pairs[at].prompt, response) for response in list(dict.fromkeys(near))[:group]]
        if len(members) == group and not any(e.problem or e.cut for e in model.backbone.encode(members)):
            texts += members
        at += 1
    return texts


def offline(model, texts, repeats: int) -> tuple[list[float], float]:
    """Scores, and responses per second of ``poise evaluate``'s scorer, tokenising included."""
    from poise.scorers import Own

    scorer, seconds = Own(model, "offline"), []
    for _ in range(repeats):
        start = time.perf_counter()
        found = scorer.score(texts).beliefs["reward"].mean.tolist()
        seconds.append(time.perf_counter() - start)
    return found, len(texts) / statistics.median(seconds)


@contextmanager
def running(command: list[str], port: int):
    """A server process that is ready."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            for _ in range(600):
                if process.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(log.read().decode()[-2000:])
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield process
        finally:
            process.terminate()
            process.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def resident_mb(process: subprocess.Popen) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def request(prompt, response) -> bytes:
    text = {"prompt": [m._asdict() for m in prompt], "responses": [[m._asdict() for m in response]]}
    body = json.dumps({"inputs": [text], "include": []}).encode()
    head = f"POST /v1/rewards HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def measure(
    command: list[str],
    port: int,
    requests: list[bytes],
    scores: list[float],
    seconds: float,
    tolerance: float = TOLERANCE,
) -> dict:
    """Throughput and latency of 64 clients in a closed loop."""
    with running(command, port) as process:
        asyncio.run(closed_loop(port, requests, scores, CLIENTS, WARM_UP, tolerance))
        before, used = resident_mb(process), os.times()
        found = asyncio.run(closed_loop(port, requests, scores, CLIENTS, seconds, tolerance))
        own = os.times()
        found["generator_cpu_share"] = round((own.user + own.system - used.user - used.system) / seconds, 3)
        found["resident_mb"] = [round(before), round(resident_mb(process))]
        return found


def overload(command: list[str], port: int, requests: list[bytes], scores: list[float], rate: float, seconds: float):
    """Twice the rate, then one request by itself."""
    with running([*command, "--waiting-tokens", "4096"], port) as process:
        asyncio.run(closed_loop(port, requests, scores, CLIENTS, WARM_UP, TOLERANCE))
        memory = [resident_mb(process)]
        parts = []
        for _ in range(3):
            parts.append(asyncio.run(open_loop(port, requests, scores, 2 * rate, seconds / 3, TOLERANCE)))
            memory.append(resident_mb(process))
        alone = asyncio.run(one(port, requests[0], scores[0], TOLERANCE))
    total = {name: sum(part[name] for part in parts) for name in ("sent", "answered", "refused", "errors")}
    return {
        "offered_per_s": round(2 * rate, 1),
        **total,
        "p99_of_answers_s": max(part["p99_s"] for part in parts),
        "resident_mb": [round(m) for m in memory],
        "first_request_afterwards_s": alone,
    }


def workload(kind: str, dtype: str, group: int, options: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        model = checkpoint(kind, dtype, folder)
        texts = rows(model, options.data, options.responses // group, group)
        requests = [request(*text) for text in texts]
        tokens = sum(len(e.ids) for e in model.backbone.encode(texts)) / len(texts)
        offline(model, texts[:16], 1)  # the first rows pay for what is decided once
        scores, at_once = offline(model, texts, options.repeats)
        ports = free_port(), free_port(), free_port()
        serve = [sys.executable, "-m", "poise", "serve", str(folder), "--port"]
        ours = measure([*serve, str(ports[0])], ports[0], requests, scores, options.seconds)
        naive = [sys.executable, str(Path(__file__).with_name("plain_server.py")), str(folder), str(ports[1])]
        tolerance = TOLERANCE if dtype == "float32" else PADDED_BFLOAT16
        plain = measure(naive, ports[1], requests, scores, options.seconds / 3, tolerance)
        share, speedup = ours["per_s"] / at_once, ours["per_s"] / plain["per_s"]
        say(f"{kind} {dtype} groups of {group}: offline {at_once:.1f}/s, {ours}, plain {plain}")
        result = {
            "share_of_offline": round(share, 3),
            "speedup_vs_naive": round(speedup, 2),
            "errors": ours["errors"],
            "offline_per_s": round(at_once, 1),
            "served": ours,
            "plain": plain,
            "responses": len(texts),
            "tokens_per_response": round(tokens, 1),
        }
        if not options.skip_overload:
            rate = ours["per_s"]
            command = [*serve, str(ports[2])]
            result["overload"] = overload(command, ports[2], requests, scores, rate, options.seconds * 0.4)
            say(f"overload {result['overload']}")
        return result


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--kind", choices=["decoder", "encoder"], default="decoder")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--responses", type=int, default=480)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--skip-overload", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = workload(options.kind, options.dtype, options.group, options)
    result |= {"kind": options.kind, "dtype": options.dtype, "group": options.group}
    result |= {"clients": CLIENTS, "seconds": options.seconds, "threads": torch.get_num_threads()}
    if options.out:
        known = json.loads(options.out.read_text("utf8")) if options.out.exists() else {}
        known[f"{options.kind}_{options.dtype}_groups_of_{options.group}"] = result
        options.out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
