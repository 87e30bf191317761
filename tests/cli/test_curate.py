"""``poise curate``, ``poise select`` and ``poise monitor`` on a trained run: what they write, and what they refuse."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from poise.data.load import load_preferences
from poise.data.rows import preference, ranking
from poise.run_folder import prompt_hash, train_prompts
from tests.cli.place import Place, jsonl, pairs, poise
from tests.cli.test_bad_input import refused

BAD = {"prompt": "Nothing?", "chosen": "same", "rejected": "same"}


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf8").splitlines()]


@pytest.fixture(scope="module")
def good_run(tmp_path_factory, saved_backbone):
    """A run that has learned what there is to learn."""
    place = Place(tmp_path_factory.mktemp("good"), saved_backbone, Path())
    outcome = poise(*place.train({"stages": [{"epochs": 40, "batch_size": 8, "learning_rate": 0.03}]}))
    assert outcome.code == 0, outcome.err
    return place.folder / "out"


@pytest.fixture
def place(place, good_run):
    return replace(place, run=good_run)


def wrong(number: int, start: int) -> list[dict]:
    """Pairs whose label is turned round."""
    votes = {"chosen": 5, "rejected": 0}
    return [
        row | {"chosen": row["rejected"], "rejected": row["chosen"], "votes": votes} for row in pairs(number, start)
    ]


def data(place: Place, name: str = "data.jsonl"):
    """Pairs that the run was trained on, new ones, one that repeats, one that cannot be read, and two wrong labels."""
    rows = [*pairs(24), *pairs(80, start=100), pairs(1)[0], BAD, *wrong(1, 190), *wrong(1, 260)]
    return place.write(name, jsonl(*rows)), rows


REPEAT, UNREADABLE, WRONG = 105, 106, {107, 108}
SURE = ("--doubt", "0.55")  # where most votes are 3 to 1 or 2, nobody is surer


def curated(place: Place, *options):
    path, rows = data(place)
    outcome = poise("curate", place.run, path, "--out", "curated.jsonl", *options)
    assert outcome.code == 0, outcome.err
    return outcome, rows, rows_of(place.folder / "curated.jsonl"), rows_of(place.folder / "curated.dropped.jsonl")


def test_every_row_is_in_one_of_the_two_files(place):
    outcome, rows, kept, dropped = curated(place, "--mislabels", "drop", *SURE, "--mix", "drpo", "--json")
    assert Counter(row["source_row"] for row in [*kept, *dropped]) == Counter(range(1, len(rows) + 1))
    assert all(row["reason"] for row in [*kept, *dropped])
    assert {row["action"] for row in kept} == {"keep"}
    assert {row["action"] for row in dropped} == {"drop"}
    facts = json.loads(outcome.out)
    assert facts["rows"] == facts["kept"] + facts["left_out"] == len(rows) == sum(facts["actions"].values())
    assert facts["kept"] == len(kept)
    reasons = {row["source_row"]: row["reason"] for row in dropped}
    assert "identical" in reasons[UNREADABLE]
    assert reasons[REPEAT].startswith("repeats row 1")
    assert {row for row, reason in reasons.items() if "the label looks wrong" in reason} == WRONG


def test_what_is_kept_reads_back_as_it_came(place):
    _, rows, kept, _ = curated(place)
    read = load_preferences(place.folder / "curated.jsonl").records
    for row, record in zip(kept, read, strict=True):
        came = rows[row["source_row"] - 1]
        assert [row[name] for name in ("prompt", "chosen", "rejected")] == [
            came["prompt"],
            came["chosen"],
            came["rejected"],
        ]
        votes = came["votes"]
        assert record.label == pytest.approx(votes["chosen"] / (votes["chosen"] + votes["rejected"]))
        assert 0 <= row["model_p_chosen"] <= 1
        assert row["group"] in ("easy", "boundary", "hard")


def test_training_prompts_are_judged_by_heads_that_have_not_seen_them(place):
    outcome, _, kept, _ = curated(place)
    assert "cross-fitting: 5 heads" in outcome.err
    assert all(row["model_p_chosen"] is not None for row in kept)
    path, rows = data(place)
    assert poise("curate", place.run, path, "--out", "direct.jsonl", "--cross-fit", 0).code == 0
    known = train_prompts(place.run)
    direct = rows_of(place.folder / "direct.jsonl")
    for row in direct:
        seen = prompt_hash(preference(row)) in known
        assert seen == (row["group"] == "not judged") == (row["model_p_chosen"] is None)
    assert 0 < sum(row["group"] == "not judged" for row in direct) < len(direct) <= len(rows)


def test_flips_soft_labels_the_queue_and_parquet_are_read_by_training(place):
    path, _ = data(place)
    options = ["--mislabels", "flip", *SURE, "--queue", "queue.parquet", "--queue-size", 5, "--report", "found.md"]
    outcome = poise("curate", place.run, path, "--out", "flipped.parquet", *options)
    assert outcome.code == 0, outcome.err
    read = load_preferences(place.folder / "flipped.parquet").records
    assert all(pair.chosen[0].content.startswith("Put") for pair in read)
    assert re.search(r"label looks wrong +\| flip +\| 2 ", (place.folder / "found.md").read_text("utf8"))
    queue = load_preferences(place.folder / "queue.parquet").records
    assert len(queue) == 5
    soft = poise("curate", place.run, path, "--out", "soft.jsonl", "--mislabels", "soft", *SURE)
    assert soft.code == 0, soft.err
    rows = [row for row in rows_of(place.folder / "soft.jsonl") if row["action"] == "soft"]
    assert {row["source_row"] for row in rows} == WRONG
    assert all("votes" not in row and row["p_chosen"] <= 0.4 for row in rows)
    asked = poise("curate", place.run, path, "--out", "asked.jsonl", "--mislabels", "review", *SURE)
    assert asked.code == 0, asked.err
    aside = [row for row in rows_of(place.folder / "asked.dropped.jsonl") if row["action"] == "review"]
    assert {row["source_row"] for row in aside} == WRONG


def test_evaluation_prompts_are_left_out_and_the_report_shows_it(place):
    held = place.write("held.jsonl", jsonl(*pairs(3, start=100)))
    outcome, rows, kept, dropped = curated(place, "--against", held)
    found = [row for row in dropped if "its prompt is" in row["reason"]]
    assert {row["source_row"] for row in found} >= {25, 26, 27}
    assert not {25, 26, 27} & {row["source_row"] for row in kept}
    page = (place.folder / "curated.html").read_text("utf8")
    assert "prompt is in the evaluation data" in page
    assert f"{len(kept)} of {len(rows)} rows stay" in page
    assert outcome.out


def test_the_same_command_writes_the_same_bytes(place):
    first = curated(place, "--mix", "drpo")
    before = {
        name: (place.folder / name).read_bytes() for name in ("curated.jsonl", "curated.dropped.jsonl", "curated.html")
    }
    assert first[2] == curated(place, "--mix", "drpo")[2]
    assert before == {name: (place.folder / name).read_bytes() for name in before}


def candidates(place: Place):
    rows = [
        {"prompt": f"How do I boil {i} eggs?", "responses": [f"Slowly, {i}.", f"Fast, {i}.", f"Never {i}."]}
        for i in range(40, 50)
    ]
    return place.write("candidates.jsonl", jsonl(*rows))


@pytest.mark.parametrize("by", ["variance", "bald", "uncertainty", "random"])
def test_selected_pairs_can_be_labelled_and_read(place, by):
    out = place.folder / "ask.jsonl"
    outcome = poise("select", place.run, candidates(place), "--budget", 7, "--per-prompt", 1, "--by", by, "--out", out)
    assert outcome.code == 0, outcome.err
    rows = rows_of(out)
    assert [row["rank"] for row in rows] == list(range(1, 8))
    assert len({row["source_row"] for row in rows}) == 7
    labelled = ranking(rows[0] | {"ranks": [1, 2]})
    assert len(labelled.responses) == 2


def test_a_run_carries_its_reference_and_finds_no_drift_in_its_own_data(place):
    run = place.copied_run()
    reference = json.loads((run / "checkpoint" / "reference.json").read_text())
    assert set(reference["measures"]) == {"reward", "length", "confidence"}  # a point has no spread
    known = train_prompts(run)
    held = [
        row
        for row in pairs(24)
        if prompt_hash(load_preferences(place.data(row, name="one.jsonl")).records[0]) not in known
    ]
    assert reference["measures"]["confidence"]["rows"] == len(held)
    path = place.data(*held)
    assert poise("monitor", run, path).code == 0
    found = poise("monitor", run, path, "--json")
    assert found.code == 0
    assert all(one["ks"] < 1e-5 for one in json.loads(found.out)["measures"])


def test_drift_is_exit_code_one(place):
    run = place.copied_run()
    rows = random.Random(0).sample(pairs(400, start=100), 400)
    assert poise("monitor", run, place.data(*rows[:200]), "--make-reference").code == 0
    same = poise("monitor", run, place.data(*rows[200:]))
    assert same.code == 0, same.out
    assert "No drift" in same.out
    longer = [
        row
        | {
            side: [{"role": "assistant", "content": row[side][0]["content"] + " And so on." * 4}]
            for side in ("chosen", "rejected")
        }
        for row in rows[200:]
    ]
    found = poise("monitor", run, place.data(*longer), "--json")
    assert found.code == 1, found.err
    assert "length" in json.loads(found.out)["drifted"]


def without_reference(place: Place):
    run = place.copied_run()
    (run / "checkpoint" / "reference.json").unlink()
    return ["monitor", run, place.data(*pairs(5))]


def reference_of_another(place: Place):
    run = place.copied_run()
    path = run / "checkpoint" / "reference.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"head_sha256": "0"}))
    return ["monitor", run, place.data(*pairs(5))]


def broken_reference(place: Place):
    run = place.copied_run()
    (run / "checkpoint" / "reference.json").write_text("{")
    return ["monitor", run, place.data(*pairs(5))]


def checkpoint_alone(place: Place):
    run = place.copied_run()
    (run / "recipe.yaml").unlink()
    return run


def curating(*options):
    return lambda place: ["curate", place.run, place.data(*pairs(5)), "--out", place.folder / "c.jsonl", *options]


def selecting(*options):
    return lambda place: ["select", place.run, candidates(place), "--out", place.folder / "a.jsonl", *options]


def monitoring(*options):
    return lambda place: ["monitor", place.run, place.data(*pairs(5)), *options]


REFUSED = {
    "unknown way with mislabels": (
        curating("--mislabels", "flop"),
        ("unknown mislabels 'flop'", "did you mean 'flip'"),
    ),
    "a doubt that is none": (curating("--doubt", 0.4), ("doubt is 0.4", "give more")),
    "a mix of two": (curating("--mix", "0.5,0.5"), ("--mix '0.5,0.5'", "0.3,0.6,0.1")),
    "a mix of nothing": (curating("--mix", "0,0,0"), ("mix is (0.0, 0.0, 0.0)", "three shares")),
    "one fold": (curating("--cross-fit", 1), ("--cross-fit 1", "2 folds or more")),
    "out of an unknown kind": (
        lambda p: ["curate", p.run, p.data(), "--out", p.folder / "c.csv"],
        ("c.csv", ".jsonl or .parquet"),
    ),
    "out over the data": (lambda p: ["curate", p.run, p.data(), "--out", p.folder / "data.jsonl"], ("named twice",)),
    "report of an unknown kind": (curating("--report", "r.pdf"), ("r.pdf", ".html or .md")),
    "similarity of 0": (curating("--near", 0), ("near is 0", "at most at 1")),
    "curating no file": (lambda p: ["curate", p.run, "no.jsonl", "--out", "c.jsonl"], ("no.jsonl: no such file",)),
    "all rows bad": (
        lambda p: ["curate", p.run, p.data(BAD, BAD), "--out", p.folder / "c.jsonl"],
        ("no usable row is left", "identical"),
    ),
    "a budget of 0": (selecting("--budget", 0), ("--budget is 0", "at least 1")),
    "unknown acquisition": (selecting("--budget", 3, "--by", "bold"), ("'bold'", "did you mean 'bald'")),
    "candidates without rivals": (
        lambda p: [
            "select",
            p.run,
            p.data({"prompt": "a?", "response": "b"}),
            "--budget",
            1,
            "--out",
            p.folder / "a.jsonl",
        ],
        ("two different responses", "give a column responses"),
    ),
    "an alpha of 2": (monitoring("--alpha", 2), ("--alpha 2", "between 0 and 1")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused_before_a_model_is_loaded(name, place, monkeypatch):
    from tests.cli.test_bad_input import no_loading

    no_loading(monkeypatch)
    make, says = REFUSED[name]
    refused(place, make(place), says)


REFUSED_LATER = {
    "no reference": (without_reference, ("holds no reference", "--make-reference")),
    "reference of another model": (reference_of_another, ("of another model", "--make-reference")),
    "broken reference": (broken_reference, ("not a reference of poise", "--make-reference")),
    "select without recipe": (
        lambda p: ["select", checkpoint_alone(p), candidates(p), "--budget", 2, "--out", p.folder / "a.jsonl"],
        ("no recipe", "--labelled none"),
    ),
    "cross-fit without recipe": (
        lambda p: ["curate", checkpoint_alone(p), p.data(), "--out", p.folder / "c.jsonl", "--cross-fit", 3],
        ("--cross-fit 3", "no recipe"),
    ),
}


@pytest.mark.parametrize("name", REFUSED_LATER)
def test_what_a_run_lacks_is_said(name, place):
    make, says = REFUSED_LATER[name]
    arguments = make(place)
    before = place.fingerprint()
    outcome = poise(*arguments)
    assert outcome.code == 2, outcome
    assert all(said in outcome.err for said in says), outcome.err
    assert place.fingerprint() == before
