"""Two real processes over gloo: the weights of one process on the concatenated batch, for every method."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from poise import run as runs
from poise.methods import METHODS
from poise.model import RewardModel
from poise.training.monitor import MetricsLog
from tests.conftest import on_disk, tiny_decoder, tiny_encoder, written
from tests.training.distributed_worker import train

WORKER = Path(__file__).with_name("distributed_worker.py")
ROOT = Path(__file__).parents[2]
PAIRS = 33


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny backbones, pairs of very different lengths, and rated responses of which some attributes are missing."""
    place = tmp_path_factory.mktemp("distributed")
    for name, made in (("decoder", tiny_decoder()), ("encoder", tiny_encoder())):
        if name == "encoder":
            made.model.config.update({"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
        on_disk(made, place / name)
    pairs, rated = [], []
    for i in range(PAIRS):
        prompt = f"How do I boil an egg for {i} minutes" + " in the small village by the sea" * (i % 4)
        good, bad = "yes, put it in water" + " and wait" * (i % 5), f"no, {i} times no"
        row = {"prompt": prompt, "chosen": good, "rejected": bad, "p_chosen": 0.6 + 0.1 * (i % 4)}
        pairs.append(row | {"attributes": {"clarity": [5, 1 + i % 3], "safety": [4, 2]}})
        rated.append({"prompt": prompt, "response": good, "ratings": {"clarity": [5, 4 - i % 2]}, "scale": [1, 5]})
        rated.append(
            {"prompt": prompt, "response": bad, "ratings": {"clarity": [1, 2], "safety": [2]}, "scale": [1, 5]}
        )
    for name, rows in (("pairs", pairs), ("rated", rated)):
        written(place / f"{name}.jsonl", rows)
    return place


def recipe(folder, method="bt", stages=None, *, backbone="decoder", **training):
    """The last step of an epoch has fewer items than the others, and slots without any."""
    stage = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3}
    return {
        "data": {"train": str(folder / "pairs.jsonl"), "ratings": str(folder / "rated.jsonl")},
        "backbone": {"name": str(folder / backbone), "dtype": "float32", "device": "cpu"},
        "method": method,
        "stages": [stage | s for s in stages or [{}]],
        "training": {"update": "full"} | training,
    }


def torchrun(*arguments: str, processes: int = 2, wait: bool = True):
    """Start ``python ARGUMENTS`` that many times, as the users' launcher does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(port)]
    command = [sys.executable, "-W", "ignore", "-m", *launch, *arguments]
    started = subprocess.Popen(
        command,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    if not wait:
        return started
    out, err = started.communicate(timeout=300)
    return started.returncode, out, err


def furthest(one: Path, other: Path) -> float:
    """The largest difference of any weight."""
    a, b = load_file(one / "weights.safetensors"), load_file(other / "weights.safetensors")
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a if a[name].numel())


def default(method):
    return [{**stage, "epochs": 1, "batch_size": 8, "learning_rate": 1e-3} for stage in method.default_stages]


BSR = {"name": "bt", "regulariser": "bsr", "coefficient": 0.05, "scope": "global"}
BATCH = {"name": "drpo", "samples": 8, "standardize": "batch"}
LONG = [{"epochs": 6}]
LOGGED = {"arguments": {"logging_steps": 1, "save_steps": 1000}}
JOBS = {
    **{f"{m.name}-full": (m.name, default(m), {}) for m in METHODS},
    **{f"{m.name}-lora-accumulated": (m.name, default(m), {"update": "lora", "accumulation": 2}) for m in METHODS},
    "bsr": (BSR, None, {}),
    "bsr-accumulated": (BSR, None, {"accumulation": 4}),
    "drpo-batch": (BATCH, None, {}),
    "drpo-batch-accumulated": (BATCH, None, {"accumulation": 2}),
    "vrm-encoder": ("vrm", None, {"accumulation": 2, "arguments": {"optim": "sgd"}, "backbone": "encoder"}),
    "long": ("bt", LONG, LOGGED),
}


@pytest.fixture(scope="module")
def trained(folder):
    """All jobs, in two processes; ``micro`` is one whose loss is not that of the step."""
    wanted = JOBS | {"micro": (BSR | {"scope": "micro"}, None, {"loss_over": "micro"})}
    jobs = [
        {"recipe": recipe(folder, method, stages, **training), "out": str(folder / "two" / name)}
        for name, (method, stages, training) in wanted.items()
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    code, _, err = torchrun(str(WORKER), str(folder / "jobs.json"))
    assert code == 0, err
    return folder


@pytest.mark.parametrize("name", JOBS)
def test_two_processes_learn_what_one_learns_from_the_whole_batch(trained, name):
    method, stages, training = JOBS[name]
    train(recipe(trained, method, stages, **(training | {"accumulation": 1})), trained / "one" / name)
    assert furthest(trained / "one" / name, trained / "two" / name) < 1e-6
    if name == "long":
        lines = [MetricsLog(trained / n / name / "metrics.jsonl").read() for n in ("one", "two")]
        assert len(lines[0]) == len(lines[1]) > 12
        for one, two in zip(*lines, strict=True):
            for line in (one, two):
                line.pop("unique_tokens_per_s", None)
            assert one == pytest.approx(two, abs=1e-5)


def test_a_loss_over_micro_batches_is_the_mean_of_theirs(trained):
    for accumulation in (2, 1):
        out = trained / "one" / f"micro-{accumulation}"
        train(recipe(trained, BSR | {"scope": "micro"}, loss_over="micro", accumulation=accumulation), out)
    assert furthest(trained / "one" / "micro-2", trained / "two" / "micro") < 1e-6
    assert furthest(trained / "one" / "micro-1", trained / "two" / "micro") > 1e-4


def test_a_stopped_run_of_two_processes_goes_on_to_the_same_weights(trained):
    """SIGTERM to the launcher, as a cluster's scheduler sends it."""
    (trained / "long.yaml").write_text(yaml.safe_dump(recipe(trained, "bt", LONG, **LOGGED)))
    run, log = trained / "stopped", trained / "stopped" / "metrics.jsonl"
    started = torchrun("-m", "poise", "train", str(trained / "long.yaml"), "--out", str(run), wait=False)
    while not log.exists() or len(log.read_text().splitlines()) < 3:
        assert started.poll() is None, started.communicate()[1]
    started.send_signal(signal.SIGTERM)
    _, err = started.communicate(timeout=60)
    assert err.count("interrupted; continue with") == 1, err
    assert list((run / "stages" / "0").glob("checkpoint-*/complete")), err
    code, out, err = torchrun("-m", "poise", "train", "--resume", str(run))
    assert code == 0, err
    assert out.count("accuracy") == err.count("training pairs:") == 1
    whole, found = load_file(trained / "two" / "long" / "weights.safetensors"), {}
    for path in (run / "checkpoint").glob("*.safetensors"):
        found |= load_file(path)
    for name, value in found.items():
        of = f"b.{name.removeprefix('model.')}" if name.startswith("model.") else f"m.{name}"
        assert torch.equal(value, whole[of])
    steps = [line["step"] for line in MetricsLog(log).read() if "loss" in line]
    assert steps == list(range(1, max(steps) + 1))


def test_an_error_is_said_once_and_every_process_ends_with_2(folder):
    (folder / "bad.yaml").write_text(yaml.safe_dump(recipe(folder, accumulation=3)))
    _, out, err = torchrun("-m", "poise", "train", str(folder / "bad.yaml"), "--out", str(folder / "bad"))
    assert (out + err).count("error:") == 1, err
    assert "accumulation × processes, 6" in err
    assert "exitcode  : 2" in err


def test_divided_weights_are_saved_whole_and_features_are_computed_together(folder):
    """FSDP2: trained in two processes that hold half of the weights each, loaded in one. And a head on features."""
    method = {"name": "drpo", "samples": 4}
    head = recipe(folder, method, update="head")
    jobs = [{"recipe": head | {"cache": str(folder / "cache")}, "out": str(folder / "divided" / "head")}]
    divided = {"fsdp": True, "fsdp_config": {"version": 2}, "use_cpu": False, "save_steps": 2}
    for update in ("full", "lora"):
        given = recipe(folder, method, update=update, accumulation=2, arguments=divided)
        jobs.append({"recipe": given, "out": str(folder / "divided" / update)})
    (folder / "divided.json").write_text(json.dumps(jobs))
    code, _, err = torchrun(str(WORKER), str(folder / "divided.json"), "--divided")
    assert code == 0, err
    for update in ("full", "lora", "head"):
        said = torch.load(folder / "divided" / update / "said.pt")
        loaded = RewardModel.load(folder / "divided" / update, device="cpu")
        assert torch.equal(loaded.predict("Is it?", "yes").mean, said)
        alone = runs.train(recipe(folder, method, update=update), folder / "alone" / update)
        assert torch.allclose(alone.model.predict("Is it?", "yes").mean, said, atol=1e-6)
    written = [len(load_file(path)["vectors"]) for path in (folder / "cache").rglob("*.safetensors")]
    assert (len(written), sum(written)) == (4, 2 * PAIRS), "each process computed a share of both sets"


def test_deepspeed_learns_the_same(folder):
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    auto = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    jobs = []
    for stage, update in ((1, "lora"), (2, "full"), (3, "full")):
        settings = dict.fromkeys(auto, "auto") | {
            "zero_optimization": {"stage": stage},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        }
        arguments = {"deepspeed": settings, "use_cpu": False}
        given = recipe(folder, update=update, accumulation=2, arguments=arguments)
        jobs.append({"recipe": given, "out": str(folder / "deepspeed" / str(stage))})
    (folder / "deepspeed.json").write_text(json.dumps(jobs))
    _, _, err = torchrun(str(WORKER), str(folder / "deepspeed.json"), "--divided")
    assert "DeepSpeed ZeRO-3 divides the weights; use stage 1 or 2" in err
    for stage, update in ((1, "lora"), (2, "full")):
        said = torch.load(folder / "deepspeed" / str(stage) / "said.pt")
        alone = runs.train(recipe(folder, update=update), folder / "undivided" / update)
        assert torch.allclose(alone.model.predict("Is it?", "yes").mean, said, atol=1e-6)
