import pytest

from poise.data import rows
from poise.data.load import iter_candidates, load_preferences, load_ratings
from poise.data.records import Message
from poise.data.splits import prompt_key
from poise.errors import DataError
from poise.methods import method_class
from poise.model import RewardModel
from tests.conftest import tiny_encoder

USER, GOOD, BAD = (
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "assistant", "content": "No."},
)


def test_explicit_conversational_row():
    pair = rows.preference({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, 7, "f")
    assert pair.prompt == (Message("user", "Hi"),)
    assert pair.chosen == (Message("assistant", "Hello!"),)
    assert (pair.row, pair.source, pair.label) == (7, "f", 1.0)


def test_implicit_conversational_row_shares_all_common_turns():
    middle = {"role": "assistant", "content": "And?"}
    pair = rows.preference({"chosen": [USER, middle, USER, GOOD], "rejected": [USER, middle, USER, BAD]})
    assert len(pair.prompt) == 3
    assert pair.chosen == (Message("assistant", "Hello!"),)


def test_implicit_strings_give_the_originals_back():
    chosen, rejected = "\n\nHuman: Hi\n\nAssistant: I am fine", "\n\nHuman: Hi\n\nAssistant: I was fine"
    pair = rows.preference({"chosen": chosen, "rejected": rejected})
    assert pair.prompt == "\n\nHuman: Hi\n\nAssistant:"
    assert pair.prompt + pair.chosen == chosen
    assert pair.prompt + pair.rejected == rejected


@pytest.mark.parametrize("prompt", ["Why is the sky blue?\n", "A list:\n1. sky\n", "Is it? ", "Go on… ", "\nNow. "])
def test_implicit_strings_without_a_marker_are_cut_after_a_line_else_a_sentence(prompt):
    for answers in (("Because", "Behold"), ("The sky is blue", "The sky is black"), ("Yes", "No")):
        pair = rows.preference({"chosen": prompt + answers[0], "rejected": prompt + answers[1]})
        assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, *answers)


def test_the_prompt_of_implicit_strings_does_not_depend_on_how_the_answers_begin():
    """A prompt with two keys would be trained on and evaluated."""
    question, answers = "How do I boil 3 eggs?\n", ["You put", "You may", "Put them", "Put it", "No"]
    pairs = [
        rows.preference({"chosen": question + a, "rejected": question + b}) for a in answers for b in answers if a != b
    ]
    assert {prompt_key(pair.prompt) for pair in pairs} == {prompt_key(question)}


@pytest.mark.parametrize("shared", ["The sky is ", "v1.5 of it ", "\n\n", " "])
def test_implicit_strings_that_share_no_line_or_sentence_are_refused(shared):
    with pytest.raises(rows.RowError, match=r"cannot tell where the prompt ends.*; add a column prompt"):
        rows.preference({"chosen": f"{shared}blue", "rejected": f"{shared}black"})


BLANK = {"role": "user", "content": " \n"}


@pytest.mark.parametrize("prompt", ["", " \n", [BLANK], [USER, GOOD, BLANK], [USER, GOOD, BLANK, GOOD]])
def test_an_empty_prompt_is_refused(prompt):
    for read, columns in (
        (rows.preference, {"chosen": "a", "rejected": "b"}),
        (rows.rating, {"response": "a", "ratings": [1]}),
        (rows.ranking, {"responses": ["a", "b"], "ranks": [1, 2]}),
    ):
        with pytest.raises(rows.RowError, match="'prompt' is empty; remove the row"):
            read({"prompt": prompt, **columns})


def test_a_model_refuses_an_empty_prompt():
    backbone = tiny_encoder()
    model = RewardModel(backbone, method_class("bt")(method_class("bt").Config(), backbone.hidden_size))
    for prompt in ("", " \n", [BLANK]):
        with pytest.raises(DataError, match="response 0: 'prompt' is empty"):
            model.predict(prompt, "Hello!")


def test_an_earlier_blank_turn_is_no_empty_prompt():
    assert rows.aligned(rows.text([BLANK, GOOD, USER], "prompt"), "Ho")[0][-1].content == "Hi"


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"p_chosen": 0.8}, "'tie' is true, but 'p_chosen' is 0.8"),
        ({"votes": [3, 1]}, "'tie' is true, but 'votes' are 3 to 1 without a tie"),
    ],
)
def test_a_tie_with_another_label_is_refused(columns, problem):
    with pytest.raises(rows.RowError, match=problem):
        rows.preference({"prompt": "p", "chosen": "a", "rejected": "b", "tie": True, **columns})


@pytest.mark.parametrize("columns", [{"p_chosen": 0.5}, {"votes": [2, 2]}, {"votes": [2, 1, 3]}])
def test_a_tie_with_the_label_of_one_is_read(columns):
    assert rows.preference({"prompt": "p", "chosen": "a", "rejected": "b", "tie": True, **columns}).tie


def test_a_strength_below_zero_is_refused():
    with pytest.raises(rows.RowError, match=r"'strength' is -2, below 0; .*swap chosen and rejected"):
        rows.preference({"prompt": "p", "chosen": "a", "rejected": "b", "strength": -2})


def test_prompt_column_beside_full_conversations():
    pair = rows.preference({"prompt": "Hi", "chosen": [USER, GOOD], "rejected": [USER, BAD]})
    assert pair.prompt == (Message("user", "Hi"),)
    with pytest.raises(rows.RowError, match="prompt mismatch"):
        rows.preference({"prompt": "Bye", "chosen": [USER, GOOD], "rejected": [USER, BAD]})


@pytest.mark.parametrize(
    ("votes", "label"),
    [({"chosen": 3, "rejected": 1}, 0.75), ([1, 3], 0.25), ({"chosen": 1, "rejected": 1, "tie": 2}, 0.5)],
)
def test_votes_become_the_label(votes, label):
    assert rows.preference({"prompt": "p", "chosen": "a", "rejected": "b", "votes": votes}).label == label


def test_optional_columns():
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "strength": 2, "margin": "0.5", "tie": True, "annotator": 4}
    pair = rows.preference(row | {"attributes": {"helpful": [4, 1]}})
    assert (pair.strength, pair.margin, pair.label, pair.annotator) == (2.0, 0.5, 0.5, "4")
    assert pair.attributes == {"helpful": (4.0, 1.0)}


def test_quality_labels_reach_the_targets_and_turn_with_the_pair():
    from poise.data.batch import Targets
    from poise.data.merge import turned

    base = {"prompt": "p", "chosen": "a", "rejected": "b"}
    pairs = [
        rows.preference(base | {"quality": q}) for q in (["good", None], {"chosen": "normal", "rejected": "bad"}, None)
    ]
    quality = Targets.of(pairs).quality
    assert quality[0, 0] == 2
    assert quality[0, 1].isnan()
    assert quality[1].tolist() == [1, 0]
    assert quality[2].isnan().all()
    assert turned(pairs[1]).quality == ("bad", "normal")


def test_text_parts_are_joined_and_images_refused():
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert rows.text([parts], "prompt")[0].content == "ab"
    with pytest.raises(rows.RowError, match="not text"):
        rows.text([{"role": "user", "content": [{"type": "image"}]}], "prompt")


def test_ratings_in_the_three_forms():
    base = {"prompt": "p", "response": "r"}
    assert rows.rating(base | {"ratings": [1, 2]}).ratings == {"overall": (1.0, 2.0)}
    assert rows.rating(base | {"attributes": {"a": 3, "b": [1, 5], "c": None}}).ratings == {
        "a": (3.0,),
        "b": (1.0, 5.0),
    }
    assert rows.rating(base | {"ratings": 4, "scale": [1, 5]}).scale == (1.0, 5.0)
    assert rows.rating(base | {"ratings": None, "attributes": {"a": 3}}).ratings == {"a": (3.0,)}


def test_annotators_are_a_list_of_names():
    base = {"prompt": "p", "response": "r", "ratings": [1, 2]}
    assert rows.rating(base | {"annotators": ["x", 4]}).annotators == ("x", "4")
    for given in (5, "bob"):
        with pytest.raises(rows.RowError, match=r"'annotators' is .*; give a list"):
            rows.rating(base | {"annotators": given})


def test_rankings_become_all_pairs(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"prompt": "p", "responses": ["a", "b", "c"], "ranks": [2, 1, 2]}\n')
    pairs = load_preferences(path).records
    assert [(p.chosen, p.rejected, p.label) for p in pairs] == [("b", "a", 1.0), ("a", "c", 0.5), ("b", "c", 1.0)]


def test_responses_of_two_kinds_do_not_make_a_ranking():
    """The pair would keep a plain prompt, behind which a message is not read."""
    with pytest.raises(rows.RowError, match="'responses' are of different kinds"):
        rows.ranking({"prompt": "p", "responses": ["a", [GOOD]], "ranks": [1, 2]})


def test_all_readers_give_the_same_records(tmp_path):
    import gzip
    import json

    import pyarrow
    import pyarrow.parquet

    data = [
        {"prompt": f"p{i}", "chosen": f"a{i}", "rejected": f"b{i}", "votes": {"chosen": 2, "rejected": 1}}
        for i in range(5)
    ]
    lines = "".join(json.dumps(r) + "\n" for r in data)
    (tmp_path / "a.jsonl").write_text(lines)
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as f:
        f.write(lines)
    (tmp_path / "a.json").write_text(json.dumps(data))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(data), tmp_path / "a.parquet")
    cells = [f'{r["prompt"]},{r["chosen"]},{r["rejected"]},"{{""chosen"": 2, ""rejected"": 1}}"' for r in data]
    (tmp_path / "a.csv").write_text("\n".join(["prompt,chosen,rejected,votes", *cells]) + "\n")

    def seen(path):
        return [(p.prompt, p.chosen, p.rejected, p.label) for p in load_preferences(path).records]

    expected = seen(tmp_path / "a.jsonl")
    assert len(expected) == 5
    for name in ("a.jsonl.gz", "a.json", "a.parquet", "a.csv"):
        assert seen(tmp_path / name) == expected, name


@pytest.mark.parametrize("before", [b" ", b"\n\n  ", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n\t"])
def test_a_json_array_may_begin_with_white_space(tmp_path, before):
    path = tmp_path / "a.json"
    path.write_bytes(
        before + b'[{"prompt": "p", "chosen": "a", "rejected": "b"},\n {"prompt": "q", "chosen": "a", "rejected": "b"}]'
    )
    assert [p.prompt for p in load_preferences(path).records] == ["p", "q"]


def test_csv_answers_that_are_json_stay_text_unless_they_are_messages(tmp_path):
    import csv
    import json

    path = tmp_path / "a.csv"
    answers = ["[1, 2]", '["a"]', "{}", "[]", '{"a": 1}', '[{"role": "user"}]', "[1, 2"]
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["prompt", "chosen", "rejected"])
        writer.writerows(["[3]", answer, "no"] for answer in answers)
        writer.writerow([json.dumps([USER]), json.dumps([GOOD]), json.dumps(BAD)])
    *texts, talk = load_preferences(path).records
    assert [p.chosen for p in texts] == answers
    assert {p.prompt for p in texts} == {"[3]"}
    assert (talk.prompt, talk.rejected) == ((Message("user", "Hi"),), (Message("assistant", "No."),))


def test_csv_lists_of_responses_and_completions_of_messages_are_read(tmp_path):
    import csv
    import json

    path = tmp_path / "a.csv"
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows(
            [["prompt", "responses", "completion"], ["p", '["a", "b"]', ""], ["p", "", json.dumps([GOOD])]]
        )
    found = list(iter_candidates(path, []))
    assert [c.response for c in found] == ["a", "b", (Message("assistant", "Hello!"),)]


def test_csv_ratings_have_their_scale_and_raters(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        'prompt,response,ratings,scale,annotators\np,"a","{""help"": [2, 4]}","[1, 5]","[""x"", ""y""]"\n',
        encoding="utf8",
    )
    (found,) = load_ratings(path).records
    assert (found.scale, found.annotators, found.ratings) == ((1.0, 5.0), ("x", "y"), {"help": (2.0, 4.0)})


def test_csv_flags_and_long_texts_are_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"prompt,chosen,rejected,tie\np,{'long ' * 40_000},b,0\np,a,b,1\n", encoding="utf8")
    long, tie = load_preferences(path).records
    assert (len(long.chosen), long.label, tie.label) == (200_000, 1.0, 0.5)


def test_a_csv_column_has_one_meaning(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,chosen,rejected,chosen\np,a,b,c\n", encoding="utf8")
    with pytest.raises(DataError, match="names the column 'chosen' twice; rename or remove one"):
        load_preferences(path)


def test_saved_dataset_folder(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([{"prompt": "p", "chosen": "a", "rejected": "b"}]).save_to_disk(str(tmp_path / "d"))
    assert load_preferences(tmp_path / "d").records[0].chosen == "a"


def test_bad_rows_are_named_or_dropped(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"prompt": "p", "chosen": "a", "rejected": "a"}\n{"prompt": "p", "chosen": "a", "rejected": "b"}\n'
    )
    with pytest.raises(DataError, match="row 1: 'chosen' and 'rejected' are identical"):
        load_preferences(path)
    loaded = load_preferences(path, on_bad="drop")
    assert len(loaded.records) == 1
    assert loaded.bad[0].row == 1


def test_candidates_from_every_form(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text(
        '{"prompt": "p", "response": "r"}\n{"prompt": "p", "responses": ["a", "b"]}\n{"prompt": "p", "chosen": "c", "rejected": "d"}\n'
    )
    found = list(iter_candidates(path, []))
    assert [(c.row, c.part) for c in found] == [
        (1, "response"),
        (2, "responses[0]"),
        (2, "responses[1]"),
        (3, "chosen"),
        (3, "rejected"),
    ]


def test_real_files_are_read_whole(shared_data):
    expected = {"hh_harmless_test": 2308, "pku_saferlhf_5k": 5135, "rag_crowd": 1352, "ukpconvarg": 13638}
    for name, rows_expected in expected.items():
        loaded = load_preferences(shared_data / "pairs" / f"{name}.jsonl.gz", on_bad="drop")
        assert len(loaded.records) + len(loaded.bad) == rows_expected
        assert len(loaded.bad) <= 1, (name, loaded.bad[:3])
    votes = load_preferences(shared_data / "pairs" / "ukpconvarg.jsonl.gz", on_bad="drop").records
    assert all(p.votes is not None and abs(p.votes.share - p.label) < 1e-9 for p in votes)
    ratings = load_ratings(shared_data / "ratings" / "dices.jsonl.gz")
    assert len(ratings.records[0].ratings["safety"]) > 20
