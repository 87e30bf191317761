"""``poise best-of-n`` and ``poise score --utility`` as a user calls them."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet
import pytest

from tests.cli.place import Place, jsonl, pairs, poise


@pytest.fixture
def responses(place):
    rows = [{"prompt": f"What is {i} + 2?", "responses": [f"It is {k}." for k in range(i, i + 5)]} for i in range(6)]
    return place.write("responses.jsonl", jsonl(*rows))


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_choosing_prints_what_it_cost_and_how_sure_it_is(place: Place, responses):
    out = place.folder / "choices.jsonl"
    options = ("--utility", "entropic:1", "--min-p-best", "0.99", "--stop-at", "0.5")
    outcome = poise("best-of-n", place.run, responses, "--out", out, *options)
    assert outcome.code == 0, outcome.err
    assert f"6 choices among 30 responses: {out}" in outcome.out
    assert "entropic:1 " in outcome.out
    assert "abstained 6 times: P(best) below 0.99" in outcome.out
    found = lines(out)
    assert f"{sum(line['needed'] for line in found)} responses would have been enough" in outcome.out
    assert [line["response"] for line in found] == [f"It is {i + line['choice']}." for i, line in enumerate(found)]


def test_json_saved_scores_and_fewer_responses(place: Place, responses):
    scores, out = place.folder / "scores.parquet", place.folder / "choices.parquet"
    given = ("--utility", "cvar:0.2", "--utility", "win_rate")
    outcome = poise("score", place.run, responses, "--out", scores, *given)
    assert outcome.code == 0, outcome.err
    assert {"cvar:0.2", "win_rate", "group"} <= set(pyarrow.parquet.read_schema(scores).names)
    again = poise("best-of-n", "--from", scores, "--out", out, "--n", 3, "--no-wins", "--json")
    assert again.code == 0, again.err
    said = json.loads(again.out)
    assert (said["prompts"], said["responses"], said["out"]) == (6, 18, str(out))
    assert said["utility"] >= said["utility_at_random"]
    assert pyarrow.parquet.read_table(out).num_rows == 6


def test_saved_evaluations_are_choices_too(place: Place):
    evaluation = place.folder / "evaluation"
    outcome = poise("evaluate", place.run, place.data(*pairs(8, start=100)), "--out", evaluation)
    assert outcome.code == 0, outcome.err
    outcome = poise("best-of-n", "--from", evaluation, "--out", place.folder / "choices.jsonl")
    assert outcome.code == 0, outcome.err
    found = lines(place.folder / "choices.jsonl")
    assert len(found) == 8
    assert all(line["set"].startswith("pairs:") and line["prompt"] and len(line["p_best"]) == 2 for line in found)


def test_rated_responses_of_an_evaluation_compete_as_those_of_the_file_do(place: Place):
    prompts = ["How?"] * 4 + ["Why?"] * 2 + ["When?"] + ["How?"] * 2
    rated = [{"prompt": p, "response": f"Like {i}.", "ratings": {"quality": i}} for i, p in enumerate(prompts)]
    data, evaluation = place.data(*rated), place.folder / "evaluation"
    assert poise("evaluate", place.run, "--on", f"ratings:{data}", "--out", evaluation).code == 0
    for source, out in (([place.run, data], "file.jsonl"), (["--from", evaluation], "evaluation.jsonl")):
        outcome = poise("best-of-n", *source, "--out", out)
        assert outcome.code == 0, outcome.err
    assert "4 choices among 9 responses" in outcome.out
    by_file, found = lines(place.folder / "file.jsonl"), lines(place.folder / "evaluation.jsonl")
    assert [line["parts"] for line in found] == [[f"row {row}" for row in line["rows"]] for line in by_file]
    for here, there in zip(found, by_file, strict=True):
        assert (here["item"], here["part"]) == (f"row {there['group']}", f"row {there['row']}")
        assert (here["prompt"], here["response"]) == (there["prompt"], there["response"])
        assert here["p_best"] == pytest.approx(there["p_best"], abs=1e-5)


def test_scores_and_choices_never_take_the_place_of_what_they_are_about(place: Place, responses):
    evaluation, scores = place.folder / "evaluation", place.folder / "scores.parquet"
    rows = place.data(*pairs(8, start=100))
    assert poise("evaluate", place.run, rows, "--out", evaluation).code == 0
    rated = {"prompt": ["How?", "Why?"], "response": ["So.", "For that."]}
    pyarrow.parquet.write_table(pyarrow.table(rated), scores)
    (place.folder / "link.parquet").symlink_to(scores)
    before = place.fingerprint()
    for arguments in (
        ["best-of-n", "--from", evaluation, "--out", evaluation / "predictions.parquet"],
        ["best-of-n", place.run, responses, "--out", "responses.jsonl"],
        ["score", place.run, scores, "--out", "scores.parquet"],
        ["score", place.run, "link.parquet", "--out", scores],
        ["score", place.run, f"named:skywork-80k-v0.2@{scores}", "--out", scores],
        ["score", "http://127.0.0.1:9", scores, "--out", scores],
    ):
        outcome = poise(*arguments)
        assert outcome.code == 2, outcome
        assert "is the data itself; give every file a name of its own" in outcome.err
        assert place.fingerprint() == before


@pytest.mark.parametrize(
    "given", [("--raw",), ("--bad-rows", "bogus"), ("--device", "cpu"), ("--bad-rows", "drop", "--raw")]
)
def test_saved_rewards_take_no_option_about_scoring(place: Place, given):
    outcome = poise("best-of-n", "--from", "scores.parquet", "--out", "choices.jsonl", *given)
    assert outcome.code == 2, outcome
    named = ", ".join(option for option in given if option.startswith("--"))
    assert f"neither a model nor a file of responses; leave out {named}\n" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["RUN", "ROWS", "--utility", "cvr"], "unknown utility 'cvr'; did you mean 'cvar'?"),
        (["RUN", "ROWS", "--utility", "shrinkage"], "does not say what the model does not know"),
        (["RUN", "ROWS", "--min-p-best", "2"], "min-p-best is 2.0; it must be a probability"),
        (["RUN", "ROWS", "--n", "0"], "n is 0; it must be at least 1"),
        (["RUN", "ROWS", "--out", "choices.csv"], "give a file name that ends so"),
        (["RUN"], "a model or a file of responses is missing; give both, or --from"),
        (["RUN", "--from", "ROWS"], "leave out"),
        (["--from", "ROWS"], "cannot be read as saved rewards"),
        (["--from", "nothing.parquet"], "nothing.parquet"),
    ],
)
def test_what_is_refused(place: Place, responses, arguments, says):
    known = {"RUN": place.run, "ROWS": responses}
    given = [known.get(argument, argument) for argument in arguments]
    out = [] if "--out" in arguments else ["--out", place.folder / "choices.jsonl"]
    before = place.fingerprint()
    outcome = poise("best-of-n", *given, *out)
    assert outcome.code == 2, outcome
    assert outcome.err.count("error: ") == 1
    assert says in outcome.err
    assert "; " in outcome.err
    assert place.fingerprint() == before
