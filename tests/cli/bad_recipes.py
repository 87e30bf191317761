"""Recipes and texts that cannot be meant: every mistake is found before anything heavy is loaded, where that is possible."""

from __future__ import annotations

import json

import torch

from tests.cli.place import GOOD, Case, Place, pairs

LONG = "I would put each of them in boiling water for eight minutes. " * 30
LONG_PROMPT = [{"role": "user", "content": LONG}]


def recipe_file(content: bytes | str):
    return lambda place: ["train", place.write("recipe.yaml", content), "--out", "out"]


def setting(*overrides: str):
    return lambda place: place.train(None, *(part for one in overrides for part in ("--set", one)))


def changed(**changes):
    return lambda place: place.train(changes)


def stage(**options):
    return lambda place: place.stages(options)


def split(train: list[dict], evaluate: list[dict], **options):
    def make(place: Place):
        train_file, evaluate_file = place.data(*train, name="train.jsonl"), place.data(*evaluate, name="held.jsonl")
        return place.train({"data": {"train": str(train_file), "evaluate": str(evaluate_file), **options}})

    return make


def data(rows: list[dict], **options):
    return lambda place: place.train({"data": {"train": str(place.data(*rows)), **options}})


def backbone(*rows: dict, **options):
    return lambda place: place.with_backbone(*rows, **options)


def folder_without(*patterns: str):
    def make(place: Place):
        folder = place.copied_backbone()
        for path in [path for pattern in patterns for path in folder.glob(pattern)]:
            path.unlink()
        return place.with_backbone(name=str(folder))

    return make


def folder_with(name: str, content: bytes):
    def make(place: Place):
        place.copied_backbone()
        place.write(f"backbone/{name}", content)
        return place.with_backbone(name=str(place.folder / "backbone"))

    return make


def pickled_weights(place: Place):
    folder = place.copied_backbone()
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(2)}, folder / "pytorch_model.bin")
    return place.with_backbone(name=str(folder))


def lower_case(place: Place):
    """A tokenizer to which the two answers of every pair are one text."""
    folder = place.copied_backbone()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"normalizer": {"type": "Lowercase"}}))
    rows = [row | {"chosen": answer("Yes!"), "rejected": answer("YES!")} for row in pairs(20)]
    return place.with_backbone(*rows, name=str(folder))


def answer(content: str) -> list[dict]:
    return [{"role": "assistant", "content": content}]


def same_prompt(number: int) -> list[dict]:
    return [{"prompt": "The same", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(number)]


FILES = [
    Case("missing recipe", lambda place: ["train", "nowhere.yaml"], ("nowhere.yaml", "give the path of a recipe")),
    Case("recipe is a folder", lambda place: ["train", place.folder], ("cannot be read", "give the path of a recipe")),
    Case("binary recipe", recipe_file(bytes(range(256))), ("recipe.yaml", "not a text file", "give a YAML recipe")),
    Case("recipe with control characters", recipe_file("a: \x07"), ("recipe.yaml: not valid YAML", "mend it")),
    Case("YAML syntax", recipe_file("data: {train: [x]\nmethod: bt\n"), ("not valid YAML in line 2", "mend it there")),
    Case("YAML tag of Python", recipe_file("data: !!python/name:os.system x"), ("not valid YAML in line 1", "mend it")),
    Case("YAML that holds itself", recipe_file("data: &a {train: *a}\nmethod: bt\n"), ("nested too deeply", "write")),
    Case("YAML date that does not exist", recipe_file("name: 2024-99-99\n"), ("not valid YAML", "quotes")),
    Case("empty recipe", recipe_file(""), ("recipe.yaml: the recipe is empty", "data: and method:")),
    Case("recipe is a list", recipe_file("- data\n- method\n"), ("not a mapping", "write keys such as")),
    Case("recipe without data", recipe_file("method: bt\n"), ("data is missing", "add it")),
    Case("recipe without method", recipe_file("data: {train: x.jsonl}\n"), ("method is missing", "add it")),
    Case("recipe without train", recipe_file("data: {}\nmethod: bt\n"), ("data.train is missing", "no default")),
    Case("neither recipe nor resume", lambda place: ["train"], ("neither a recipe nor --resume", "give a recipe")),
]

KEYS = [
    Case("unknown top-level key", changed(stagse=[]), ("recipe.yaml: unknown key 'stagse'", "did you mean 'stages'")),
    Case("unknown nested key", stage(learning_rat=1), ("'stages.0.learning_rat'", "did you mean 'learning_rate'")),
    Case("unknown data key", changed(data={"trian": "x"}), ("'data.trian'", "did you mean 'train'")),
    Case("key that is a number", changed(**{"7": 1}), ("unknown key '7'", "valid keys here")),
    Case("learning rate in words", stage(learning_rate="fast"), ("stages.0.learning_rate is 'fast'", "finite number")),
    Case(
        "learning rate infinite", stage(learning_rate=float("inf")), ("stages.0.learning_rate is inf", "finite number")
    ),
    Case("learning rate zero", stage(learning_rate=0), ("stages.0: learning_rate is 0", "must be positive")),
    Case("negative epochs", stage(epochs=-1), ("stages.0: epochs is -1", "must be positive")),
    Case("batch size of 1.5", stage(batch_size=1.5), ("stages.0.batch_size is 1.5", "a whole number")),
    Case("negative weight decay", stage(weight_decay=-0.1), ("weight_decay is -0.1", "must not be negative")),
    Case("warmup of 2", stage(warmup=2), ("warmup is 2", "share of steps")),
    Case("share of 0", stage(share=0), ("share is 0", "(0, 1]")),
    Case(
        "shares above 1", lambda p: p.stages({"share": 0.6}, {"share": 0.6}), ("add up to more than 1", "give shares")
    ),
    Case("patience without a metric", stage(patience=2), ("patience is 2 with select=none", "metric to watch")),
    Case("unknown stage metric", stage(select="f1"), ("stages.0.select is 'f1'", "choose from none, accuracy")),
    Case("unknown schedule", stage(schedule="step"), ("stages.0.schedule is 'step'", "choose from constant")),
    Case("no stages", changed(stages=[]), ("stages is empty", "give at least one")),
    Case("stages as words", changed(stages="two"), ("stages is 'two'", "give a list")),
    Case("unknown method", changed(method="btt"), ("unknown method 'btt'", "did you mean 'bt'")),
    Case("method without a name", changed(method={"loss": "bt"}), ("method has no name", "write method")),
    Case("unknown loss", changed(method={"name": "bt", "loss": "hing"}), ("method.loss is 'hing'", "choose from bt")),
    Case("option of another method", changed(method={"name": "bt", "kappa": 1}), ("'method.kappa'", "valid keys here")),
    Case("option that is out of range", changed(method={"name": "drpo", "samples": 1}), ("samples is 1", "at least 2")),
    Case(
        "option that is no number", changed(method={"name": "drpo", "kappa": float("nan")}), ("method.kappa", "finite")
    ),
    Case("unknown option in a stage", stage(method={"lose": "bt"}), ("'stages.0.method.lose'", "did you mean 'loss'")),
    Case(
        "first stage refers to a previous one",
        changed(method={"name": "drpo", "reference": "previous_stage"}),
        ("stages.0 is the first stage", "put a stage before it"),
    ),
    Case(
        "gate before the attributes",
        changed(method={"name": "qrm", "objective": "gate"}, stages=[{}]),
        ("stages.0 is the first stage", "put a stage before it"),
    ),
    Case("negative seed", changed(seed=-1), ("seed is -1", "between 0")),
    Case("seed too large", changed(seed=2**80), ("seed is 1208925819614629174706176", "between 0")),
    Case("name that is a path", changed(name="../elsewhere"), ("name is '../elsewhere'", "name a folder")),
    Case("empty name", changed(name=""), ("name is ''", "name a folder")),
    Case("no training data", changed(data={"train": []}), ("data: train is empty", "name at least one")),
    Case("evaluate fraction 0", data(pairs(9), evaluate_fraction=0), ("evaluate_fraction is 0", "between 0 and 1")),
    Case("unknown labels", data(pairs(9), labels="softt"), ("data.labels is 'softt'", "choose from soft, hard")),
    Case(
        "flag in words",
        changed(backbone={"name": "x", "trust_remote_code": "yes"}),
        ("trust_remote_code", "true or false"),
    ),
]

OVERRIDES = [
    Case("--set without a value", setting("seed"), ("--set 'seed'", "write key.key=value")),
    Case("--set without a key", setting("=3"), ("--set '=3'", "write key.key=value")),
    Case("--set of broken YAML", setting("seed={3"), ("--set 'seed={3'", "not valid YAML", "mend it")),
    Case("--set beyond the list", setting("stages.3.epochs=1"), ("--set stages.3", "choose from 0 to 0")),
    Case("--set into a word", setting("name.first=x"), ("'name.first' does not exist", "single value")),
    Case("--set of an odd index", setting("stages.².epochs=1"), ("--set stages.²", "choose from 0 to 0")),
    Case("--set of an unknown key", setting("stages.0.epoch=1"), ("'stages.0.epoch'", "did you mean 'epochs'")),
    Case("--set of a wrong type", setting("seed=soon"), ("seed is 'soon'", "a whole number")),
]

SPLITS = [
    Case(
        "training prompts all held out",
        split(pairs(6), pairs(6)),
        ("train.jsonl: 6 of 6 pairs", "held.jsonl", "give other training or evaluation data"),
    ),
    Case(
        "overlap refused",
        split(pairs(6), pairs(4), overlap="error"),
        ("train.jsonl: 4 of 6 pairs", "held.jsonl", "set data.overlap=drop"),
    ),
    Case(
        "one prompt cannot be split", data(same_prompt(20)), ("data.jsonl: no", "after the split", "give more prompts")
    ),
    Case(
        "bad rows dropped, none left",
        data([GOOD | {"chosen": ""}], bad_rows="drop"),
        ("row 1: 'chosen' is empty", "fill"),
    ),
    Case("stage without pairs", stage(share=1e-6, name="zero"), ("stage 'zero' gets no pair", "raise its share")),
    Case(
        "loss that needs strengths",
        changed(method={"name": "bt", "loss": "ordinal"}),
        ("needs a strength in every row",),
    ),
]

TEXTS = [
    Case(
        "prompt longer than the context",
        backbone({**pairs(1)[0], "prompt": LONG_PROMPT}, *pairs(20), truncate="error"),
        ("data.jsonl: row 1: ", "longer than max_length 128", "raise backbone.max_length or shorten"),
        loads=True,
    ),
    Case(
        "every response longer than the context",
        backbone(*({**row, "chosen": LONG, "rejected": LONG + "No"} for row in pairs(20))),
        ("data.jsonl: row", "the response alone takes", "raise backbone.max_length or shorten"),
        loads=True,
    ),
    Case(
        "every pair identical once encoded",
        lower_case,
        ("data.jsonl: row", "identical once encoded", "remove the row"),
        loads=True,
    ),
]

BACKBONES = [
    Case(
        "backbone that does not exist",
        backbone(name="./nowhere"),
        ("./nowhere", "check the name or folder"),
        loads=True,
    ),
    Case(
        "backbone folder without config",
        folder_without("config.json"),
        ("no config.json", "give the folder"),
        loads=True,
    ),
    Case("backbone folder without weights", folder_without("*.safetensors"), ("no safetensors", "convert"), loads=True),
    Case("backbone folder of pickles", pickled_weights, ("no safetensors weights", "convert the model"), loads=True),
    Case(
        "backbone without a tokenizer",
        folder_without("token*"),
        ("tokenizer without a vocabulary", "put the tokenizer's files"),
        loads=True,
    ),
    Case("damaged weights", folder_with("model.safetensors", b"x" * 99), ("cannot load backbone", "check"), loads=True),
    Case("cut weights", folder_with("model.safetensors", b""), ("cannot load backbone", "check the"), loads=True),
    Case("damaged config", folder_with("config.json", b"{"), ("cannot load backbone", "check the"), loads=True),
    Case("config that is a list", folder_with("config.json", b"[]"), ("cannot load backbone", "check the"), loads=True),
    Case("damaged tokenizer", folder_with("tokenizer.json", b"{}"), ("cannot load backbone", "check the"), loads=True),
    Case(
        "max_length above the model's", backbone(max_length=9999), ("9999", "reads at most 128", "choose"), loads=True
    ),
    Case("max_length of 3", backbone(max_length=3), ("backbone: max_length is 3", "at least 8")),
    Case("unknown dtype", backbone(dtype="int8"), ("backbone.dtype is 'int8'", "choose from auto")),
    Case("unknown device", backbone(device="gpu"), ("unknown device 'gpu'", "use auto, cpu"), loads=True),
    Case("device of another machine", backbone(device="xpu"), ("device 'xpu' cannot be used", "use auto"), loads=True),
    Case("cuda without a GPU", backbone(device="cuda"), ("torch sees no GPU", "use device=auto or cpu"), loads=True),
    Case(
        "feature cache that is a file",
        lambda place: place.train({"cache": str(place.write("cache", b""))}),
        ("feature cache", "set cache to another folder"),
        loads=True,
    ),
]

CASES = [*FILES, *KEYS, *OVERRIDES, *SPLITS, *TEXTS, *BACKBONES]
