"""Texts that a framework rendered: where the completion begins and ends, and what a template makes of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.errors import ConfigError, DataError
from poise.policy.adapters.rendered import OVERLAP, Template, completion_of, plain
from tests.conftest import tiny_tokenizer

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
PASSTHROUGH = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def test_prompts_of_another_template_are_refused():
    policy = Template(tiny_tokenizer(encoder=False, template=CHATML))
    assert policy.find("<|user|>Hi<eos><|assistant|>") is None
    with pytest.raises(DataError, match="was not rendered by this chat template"):
        policy.messages("<|user|>Hi<eos><|assistant|>")
    with pytest.raises(ConfigError, match="no tokenizer can be loaded from '/nowhere'"):
        Template("/nowhere")
    with pytest.raises(ConfigError, match="puts nothing between messages; leave template out"):
        Template(tiny_tokenizer(encoder=False, template=PASSTHROUGH))


def test_completions_are_found_in_queries():
    assert completion_of("Ask:4</s>", "Ask:") == "4"
    assert completion_of("Ask:4<|im_end|>\n<|endoftext|>", "Ask:") == "4"
    assert completion_of("Ask:a <|b|> c", "Ask:") == "a <|b|> c"  # only at the end
    assert completion_of("Ask:4 \n", "Ask:") == "4 \n"
    assert completion_of("Ask:It is E[|X|]", "Ask:") == "It is E[|X|]"
    long = "the beginning was cut off " * 20 + "Ask:"
    assert completion_of(long[200:] + "4", long) == "4"
    with pytest.raises(DataError, match="does not begin with its prompt"):
        completion_of("something else", "Ask:")


@pytest.mark.parametrize(
    "mark",
    [
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "[EOS]",
        "<seed:eos>",
        "<turn|>",
        "[|endofturn|]",
        "<end_of_turn>",
        "<|eot_id|>",
    ],
)
def test_end_marks_are_no_part_of_the_completion(mark):
    assert completion_of(f"Ask:It is 4.{mark}", "Ask:") == "It is 4."
    assert completion_of(f"Ask:It is 4. {mark}\n{mark}", "Ask:") == "It is 4."
    assert completion_of(f"Ask:{mark}", "Ask:") == ""
    assert completion_of(f"Ask:{mark} means the end.", "Ask:") == f"{mark} means the end."


def test_special_tokens_of_the_policy_are_no_part_of_the_completion():
    assert completion_of("Ask:4~~end<|pad|>", "Ask:") == "4~~end"
    assert completion_of("Ask:4~~end<|pad|>", "Ask:", ("end", "~~end")) == "4"


def test_a_completion_may_repeat_its_prompt():
    assert completion_of("<s> Q\nQ A", "Q") == "\nQ A"
    asked = "What is 2 + 2? Think step by step, then say nothing but the number of them all. Thanks!"
    assert len(asked) > OVERLAP
    for prompt in (asked, asked * 2):
        for before in ("", "<s> ", "<|begin_of_text|>"):
            assert completion_of(f"{before}{prompt}\n{asked} It is 4.", prompt) == f"\n{asked} It is 4."
    assert completion_of(f"{asked[9:]}{asked}4", asked * 2) == "4"


@given(st.text("ab ", min_size=1, max_size=90), st.text("abc ", max_size=90))
def test_a_prompt_after_a_special_token_ends_where_it_ends(prompt, completion):
    assert completion_of(f"<S>{prompt}{completion}", prompt) == completion


@pytest.mark.parametrize(
    "prompt",
    [
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
        "<\uff5cbegin\u2581of\u2581sentence\uff5c><\uff5cUser\uff5c>Hi<\uff5cAssistant\uff5c>",
        "<s>[INST] Hi [/INST]",
        "[INST] Hi [/INST]",
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
        "<bos><|turn>user\nHi<turn|>\n<|turn>model\n",
        "[gMASK]<sop><|user|>\nHi<|assistant|>",
        "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi",
        "<SPECIAL_10>System\n\n<SPECIAL_11>User\nHi\n<SPECIAL_11>Assistant\n",
        "[|user|]Hi\n[|assistant|]",
    ],
)
def test_what_begins_like_a_rendered_prompt_is_not_plain(prompt):
    with pytest.raises(ConfigError, match=r"rendered with a chat template already.*give the policy's tokenizer"):
        plain(prompt)


@pytest.mark.parametrize(
    "prompt",
    ["", "What does <|im_end|> mean?", "<p><b>Bold</b> | text</p>", "[1] [2] |x| <= 3", "a < b |> c", "# [INST]"],
)
def test_what_people_write_is_plain(prompt):
    assert plain(prompt) == prompt
