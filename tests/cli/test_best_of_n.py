"""``poise best-of-n`` and ``poise score --utility`` as a user calls them."""

from __future__ import annotations

import json

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
