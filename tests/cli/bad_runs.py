"""Runs, checkpoints and outputs that cannot be used."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.cli.place import Case, Place, jsonl, pairs, trained_pairs

UNWRITABLE = "/proc/poise"  # root may write everywhere else


def evaluating(*options: str, damage=None, data: list[dict] | None = None):
    """``poise evaluate`` on a copy of the trained run that ``damage`` has treated."""

    def make(place: Place):
        run = place.copied_run()
        if damage is not None:
            damage(run / "checkpoint")
        return ["evaluate", run, place.data(*(data or pairs(9, start=100))), *options]

    return make


def removed(name: str):
    return lambda checkpoint: (checkpoint / name).unlink()


def replaced(name: str, content: bytes):
    return lambda checkpoint: (checkpoint / name).write_bytes(content)


def metadata(**changes):
    def damage(checkpoint: Path):
        path = checkpoint / "config.json"
        config = json.loads(path.read_text())
        config["reward_distribution"] |= changes
        path.write_text(json.dumps(config))

    return damage


def other_config(config: object):
    return replaced("config.json", json.dumps(config).encode())


def other_scores(checkpoint: Path):
    path = checkpoint / "golden.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_bytes(jsonl(*({**line, "score": line["score"] + 1} for line in lines)))


def other_backbone(place: Place):
    """The backbone that the checkpoint refers to has been trained on since."""
    folder, run = place.copied_backbone(), place.copied_run()
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor + 0.01 for name, tensor in tensors.items()}, path, {"format": "pt"})
    known = json.loads((run / "checkpoint" / "config.json").read_text())["reward_distribution"]["backbone"]
    metadata(backbone=known | {"name": str(folder)})(run / "checkpoint")
    return ["evaluate", run, place.data(*pairs(9, start=100))]


def vanished_backbone(place: Place):
    run = place.copied_run()
    known = json.loads((run / "checkpoint" / "config.json").read_text())["reward_distribution"]["backbone"]
    metadata(backbone=known | {"name": str(place.folder / "gone")})(run / "checkpoint")
    return ["evaluate", run, place.data(*pairs(9, start=100))]


def damaged_prompts(place: Place):
    run = place.copied_run()
    (run / "train_prompts.npy").write_bytes(b"junk")
    return ["evaluate", run, place.data(*pairs(9, start=100))]


def scoring(out: str, *rows: dict):
    return lambda place: ["score", place.run, place.data(*rows), "--out", place.folder / out]


def scoring_into_folder(place: Place):
    (place.folder / "scores.parquet").mkdir()
    return ["score", place.run, place.data(), "--out", place.folder / "scores.parquet"]


def out_exists(place: Place):
    place.write("out/notes.txt", "mine")
    return place.train()


def out_is_a_run(place: Place):
    place.write("out/recipe.yaml", "name: x")
    return place.train()


def out_is_a_file(place: Place):
    place.write("out", "mine")
    return place.train()


def out_under_a_file(place: Place):
    place.write("file", "mine")
    return [*place.train()[:2], "--out", place.folder / "file" / "deep" / "out"]


def interrupted(*options: str, name: str | None = None, content: bytes = b""):
    """``poise train --resume`` of a run as an interrupt leaves it, with one file replaced."""

    def make(place: Place):
        run = place.copied_run()
        (run / "report.html").unlink()
        if name is not None:
            (run / name).write_bytes(content)
        return ["train", "--resume", run, *options]

    return make


def simulate_into_full(place: Place):
    place.write("world/mine.txt", "x")
    return ["data", "simulate", "--out", place.folder / "world"]


def simulate_under_file(place: Place):
    place.write("file", "x")
    return ["data", "simulate", "--out", place.folder / "file" / "world"]


def second_file_missing(place: Place):
    return ["data", "check", place.data(), "--against", "nowhere.jsonl"]


OUTPUTS = [
    Case("out folder is not empty", out_exists, ("out exists already", "choose a new or empty folder")),
    Case("out folder is a run", out_is_a_run, ("out exists already", "continue it with resume")),
    Case("out folder is a file", out_is_a_file, ("out exists already", "choose a new")),
    Case("out under a file", out_under_a_file, ("cannot be made", "is not a folder", "choose another")),
    Case(
        "unwritable out folder",
        lambda place: [*place.train()[:2], "--out", UNWRITABLE],
        (f"{UNWRITABLE} cannot be written", "choose another folder"),
    ),
    Case("evaluation over a run", evaluating("--out", "run"), ("run exists already", "choose a new or empty folder")),
    Case("evaluation into an unwritable folder", evaluating("--out", "/proc/found"), ("/proc", "cannot be")),
    Case("no set to evaluate on", lambda p: ["evaluate", p.run], ("nothing to evaluate on", "--on")),
    Case("no model to evaluate", lambda p: ["evaluate", "--on", "pairs:x"], ("no model was named", "--from")),
    Case(
        "unknown benchmark",
        lambda p: ["evaluate", p.run, "--on", "reward_bnch"],
        ("unknown evaluation set 'reward_bnch'", "pairs:FILE"),
    ),
    Case(
        "a set named twice", lambda p: ["evaluate", p.run, "--on", "pairs:a,pairs:a"], ("named twice", "name each once")
    ),
    Case(
        "copies of a benchmark",
        lambda p: ["evaluate", p.run, "--on", "reward_bench,reward_bench=copy"],
        ("named twice", "name each once"),
    ),
    Case(
        "saved predictions beside a model and data",
        lambda p: ["evaluate", "other", "data.jsonl", "--from", "found"],
        (
            "--from found measures what was scored and needs neither a model nor data",
            "leave out other, pairs:data.jsonl",
        ),
    ),
    Case(
        "options of scoring beside saved predictions",
        lambda p: ["evaluate", "--from", "found", "--labels", "hard", "--raw"],
        ("--from found measures what was scored", "leave out --labels, --raw"),
    ),
    Case(
        "predictions that are none", lambda p: ["evaluate", "--from", p.data()], ("data.jsonl", "poise evaluate wrote")
    ),
    Case(
        "a function that is not there",
        lambda p: ["evaluate", f"{p.write('f.py', 'x = 1')}:score", p.data()],
        ("no function 'score'", "FILE.py:FUNCTION"),
        loads=True,
    ),
    Case(
        "a function that gives NaN",
        lambda p: [
            "evaluate",
            f"{p.write('f.py', 'def score(p, r): return [float(0) / 1 * 1e999] * len(r)')}:score",
            p.data(),
        ],
        ("f.py:score gave", "one finite number"),
        loads=True,
    ),
    Case(
        "a function that gives words",
        lambda p: ["evaluate", f"{p.write('f.py', 'def score(p, r): return list(chr(97) * len(r))')}:score", p.data()],
        ("f.py:score gave scores that are no numbers", "give one per response"),
        loads=True,
    ),
    Case("a comparison of one", lambda p: ["compare", p.folder], ("two evaluations or more", "poise evaluate --out")),
    Case("scores that are not Parquet", scoring("scores.csv"), ("scores.csv", "ends in .parquet")),
    Case("scores into a missing folder", scoring("no/s.parquet"), ("s.parquet cannot be written", "make it first")),
    Case("scores over a folder", scoring_into_folder, ("scores.parquet is a folder", "give the name of a file")),
    Case(
        "scores into an unwritable folder",
        lambda p: ["score", p.run, p.data(), "--out", "/proc/s.parquet"],
        ("/proc cannot",),
    ),
    Case("simulate into a full folder", simulate_into_full, ("world exists already", "choose a new or empty")),
    Case("simulate under a file", simulate_under_file, ("cannot be made", "choose another")),
    Case(
        "simulate without raters",
        lambda _: ["data", "simulate", "--out", "w", "--raters", 0],
        ("raters is 0", "at least 1"),
    ),
    Case(
        "simulate with flip rate 2",
        lambda _: ["data", "simulate", "--out", "w", "--flip-rate", 2],
        ("flip_rate is 2", "0 and 1"),
    ),
    Case("demo without pairs", lambda _: ["demo", "--out", "w", "--pairs", 0], ("train_pairs is 0", "at least 1")),
    Case("demo into a full folder", lambda p: ["demo", "--out", p.data().parent], ("exists already", "choose a new")),
]

RESUMED = [
    Case(
        "resume of a folder without a run",
        lambda p: ["train", "--resume", p.folder],
        ("holds no run to resume", "give the"),
    ),
    Case(
        "resume with --set", interrupted("--set", "seed=3"), ("--resume continues a run as it was", "leave out --set")
    ),
    Case("resume with --out", interrupted("--out", "new"), ("--resume continues a run as it was", "leave out --set")),
    Case(
        "resume of a finished run",
        lambda place: ["train", "--resume", place.copied_run()],
        ("run holds a finished run", "nothing to resume"),
    ),
    Case(
        "recipe and resume",
        lambda p: [*p.train()[:2], "--resume", p.run],
        ("both a recipe and --resume", "or --resume FOLDER"),
    ),
    Case(
        "resume by a damaged recipe",
        interrupted(name="recipe.yaml", content=b"\xff"),
        ("recipe.yaml", "not a text file"),
    ),
    Case(
        "resume from a damaged state",
        interrupted(name="state.safetensors", content=b"junk"),
        ("state.safetensors", "cannot be read", "delete it to start anew"),
        loads=True,
    ),
]

CHECKPOINTS = [
    Case("no checkpoint at all", lambda p: ["evaluate", p.folder, p.data()], ("not a poise checkpoint", "trained run")),
    Case(
        "run folder that does not exist",
        lambda p: ["evaluate", "gone", p.data()],
        ("gone: not a poise checkpoint", "give"),
    ),
    Case(
        "model folder of another kind",
        lambda p: ["evaluate", p.backbone, p.data()],
        ("no key 'reward_distribution'", "give"),
    ),
    Case("checkpoint without a head", evaluating(damage=removed("head.safetensors")), ("has no head", "random")),
    Case(
        "damaged head", evaluating(damage=replaced("head.safetensors", b"junk")), ("the head cannot be read", "damaged")
    ),
    Case(
        "head of another method",
        evaluating(damage=metadata(method="drpo", options={})),
        ("head does not fit", "damaged"),
    ),
    Case(
        "unknown method in a checkpoint",
        evaluating(damage=metadata(method="rlhf")),
        ("checkpoint: ", "'rlhf'", "choose"),
    ),
    Case(
        "unknown option in a checkpoint",
        evaluating(damage=metadata(options={"x": 1})),
        ("checkpoint: ", "'x'", "damaged"),
    ),
    Case(
        "schema of the future",
        evaluating(damage=metadata(schema_version=99)),
        ("checkpoint format 99", "install that version or a later one"),
    ),
    Case("metadata with a hole", evaluating(damage=metadata(hidden_size=None)), ("hidden_size", "damaged")),
    Case(
        "metadata of words",
        evaluating(damage=other_config({"reward_distribution": "x"})),
        ("no key 'reward_distribution'", "give"),
    ),
    Case("config.json that is a list", evaluating(damage=other_config([])), ("no key 'reward_distribution'", "give")),
    Case(
        "config.json that is cut",
        evaluating(damage=replaced("config.json", b"{")),
        ("config.json: cannot be read", "damaged"),
    ),
    Case(
        "damaged golden scores",
        evaluating(damage=replaced("golden.jsonl", b"{\n")),
        ("golden.jsonl: cannot", "damaged"),
    ),
    Case(
        "binary golden scores",
        evaluating(damage=replaced("golden.jsonl", b"\xff")),
        ("golden.jsonl: cannot", "damaged"),
    ),
    Case(
        "other golden scores",
        evaluating(damage=other_scores),
        ("golden text", "weights or libraries differ"),
        loads=True,
    ),
    Case("changed backbone", other_backbone, ("not the one of training", "restore it"), loads=True),
    Case("vanished backbone", vanished_backbone, ("gone", "check the name or folder"), loads=True),
    Case("damaged list of prompts", damaged_prompts, ("train_prompts.npy", "cannot be read", "remove it")),
    Case(
        "every prompt trained on",
        lambda p: ["evaluate", p.run, p.data(*trained_pairs(p.run))],
        ("data.jsonl: every prompt", "--include-train-prompts"),
    ),
]

ARGUMENTS = [
    Case("unknown labels option", evaluating("--labels", "sft"), ("unknown labels 'sft'", "did you mean 'soft'")),
    Case("unknown bad-rows option", evaluating("--bad-rows", "skip"), ("unknown bad-rows 'skip'", "choose from")),
    Case(
        "evaluate on an unknown device", evaluating("--device", "gpu"), ("unknown device 'gpu'", "use auto"), loads=True
    ),
    Case(
        "token limit without a backbone",
        lambda p: ["data", "check", p.data(), "--max-length", 9],
        ("--max-length 9", "--backbone"),
    ),
    Case(
        "tokens by a missing backbone",
        lambda p: ["data", "check", p.data(), "--backbone", "./gone"],
        ("'./gone'", "check the name or folder"),
    ),
    Case("overlap with a missing file", second_file_missing, ("nowhere.jsonl: no such file", "check the path")),
    Case(
        "row without a response to score",
        scoring("s.parquet", {"prompt": "Hi", "response": "Ho"}, {"prompt": "Hi"}),
        ("data.jsonl: row 2: ", "no response to score", "give a column"),
    ),
    Case(
        "score with an unknown bad-rows option",
        lambda p: ["score", p.run, p.data(), "--out", "s.parquet", "--bad-rows", "skip"],
        ("unknown bad-rows 'skip'", "choose from"),
    ),
    Case(
        "no usable row to score",
        lambda p: ["score", p.run, p.data({"prompt": "Hi"}), "--out", "s.parquet", "--bad-rows", "drop"],
        ("data.jsonl: no row holds a response to score", "row 1: no response to score", "give a column"),
    ),
    Case(
        "several bad rows to score",
        scoring("s.parquet", {"prompt": " ", "response": "Ho"}, {"prompt": "Hi", "response": " "}),
        ("data.jsonl: row 1: 'prompt' is empty", "row 2: 'response' is empty", "--bad-rows drop"),
    ),
    Case(
        "no response to score fits",
        lambda p: [
            *("score", p.run, p.data({"prompt": "Hi", "response": "Ho " * 500})),
            *("--out", "s.parquet", "--bad-rows", "drop"),
        ],
        ("data.jsonl: no response to score fits", "the response alone takes", "shorten"),
        loads=True,
    ),
    Case(
        "response to score is too long",
        scoring("s.parquet", {"prompt": "Hi", "response": "Ho"}, {"prompt": "Hi", "response": "Ho " * 500}),
        ("data.jsonl: row 2: response", "the response alone takes", "shorten"),
        loads=True,
    ),
]

CASES = [*(OUTPUTS if os.path.isdir("/proc") else []), *RESUMED, *CHECKPOINTS, *ARGUMENTS]
