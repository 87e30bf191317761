"""Rating tokens: the text that asks for them, the weights that predict them, and heads that start as the model's answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.decoders import ByteLevel
from transformers import AutoModelForCausalLM

from poise.backbone import Backbone, BackboneConfig
from poise.data.chat import MEND_ROLES, SHORTEN, ChatEncoder
from poise.data.records import Message
from poise.errors import BackboneError, ConfigError
from poise.extraction import extract
from poise.features import Features
from poise.methods.ordinal import Ordinal, OrdinalConfig
from poise.model import IN_MEMORY, RewardModel
from poise.readout import DIGITS, TokenHead, instruction_for
from tests.conftest import TEMPLATE, on_disk, tiny_decoder, tiny_encoder, tiny_tokenizer
from tests.test_backbone import texts_for

ASK = "how good is it"
QUESTION, ANSWER = (Message("user", "What is 2 + 2?"),), (Message("assistant", "the fox says 4"),)
KINDS = [("Qwen3", False), ("Qwen3", True), ("Llama", True), ("Llama", False), ("Cohere", True), ("Granite", False)]


def language_model(kind: str, tied: bool, **changes):
    """A tiny model with random weights, large enough that its digits differ in probability."""
    tokenizer = tiny_tokenizer(encoder=False, template=TEMPLATE)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    limits = {"intermediate_size": 64, "max_position_embeddings": 256, "head_dim": 8, "vocab_size": len(tokenizer)}
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    scaling = {"logits_scaling": 8.0} if kind == "Granite" else {}
    config = getattr(transformers, f"{kind}Config")(
        **sizes, **limits, **special, **scaling, tie_word_embeddings=tied, initializer_range=0.3, **changes
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval(), tokenizer


def saved(folder, kind="Qwen3", tied=False, **changes):
    model, tokenizer = language_model(kind, tied, **changes)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def load(folder, tokens=DIGITS, **options) -> Backbone:
    return Backbone.load(BackboneConfig(name=str(folder), dtype="float32", device="cpu", **options), tokens)


def text_of(encoder: ChatEncoder, ids) -> str:
    return ByteLevel().decode(encoder.tokenizer.convert_ids_to_tokens(list(ids)))


# ── the weights


@pytest.mark.parametrize(("kind", "tied"), KINDS)
def test_a_head_starts_as_the_models_own_answer(tmp_path, kind, tied):
    """Against transformers' full forward pass, to the probabilities of the nine digits and of everything else."""
    model, backbone = saved(tmp_path, kind, tied), load(tmp_path)
    texts = texts_for(backbone, 8)
    features = extract(backbone, texts)
    method = Ordinal(OrdinalConfig(head="tokens"), 32)
    method.input_scale.fill_(7.5)
    method.start_from(backbone.token_rows(method.rating_tokens))
    with torch.inference_mode():
        logits = torch.stack([model(torch.tensor([t.ids])).logits[0, -1] for t in texts])
    digits = backbone.tokenizer.convert_tokens_to_ids(list(DIGITS))
    assert logits[:, digits].std() > 0.01
    torch.testing.assert_close(method(features).reward.probs, logits[:, digits].softmax(1), atol=1e-6, rtol=1e-5)
    outside = 1 - logits.softmax(1)[:, digits].sum(1)
    torch.testing.assert_close(backbone.off_grid_mass(features.response, DIGITS), outside, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_the_language_model_head_costs_no_second_copy_and_changes_no_state(tmp_path, tied):
    saved(tmp_path, tied=tied)
    with_head, without = load(tmp_path), load(tmp_path, (), readout="rating")
    assert with_head.fingerprint() == without.fingerprint()
    texts = texts_for(without, 4)
    assert texts_for(with_head, 4) == texts
    assert torch.equal(extract(with_head, texts).response, extract(without, texts).response)
    embedding = with_head.model.get_input_embeddings().weight
    assert (with_head.token_head.weight.data_ptr() == embedding.data_ptr()) == tied


def test_a_model_in_memory_has_the_head_that_it_shares(tmp_path):
    model, tokenizer = language_model("Cohere", True)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = BackboneConfig(name=IN_MEMORY, readout="rating")
    rows = Backbone(model.model, tokenizer, config).token_rows(DIGITS)
    torch.testing.assert_close(rows, load(tmp_path).token_rows(DIGITS))
    apart, _ = language_model("Cohere", False)
    with pytest.raises(BackboneError, match="has no language-model head; load it from its folder"):
        Backbone(apart.model, tokenizer, config).token_rows(DIGITS)


def test_a_folder_without_the_head_is_refused_not_drawn(tmp_path):
    made = tiny_decoder()
    on_disk(made, tmp_path)
    with pytest.raises(BackboneError, match=r"lacks 1 weights \(first: lm_head"):
        load(tmp_path)
    assert load(tmp_path, ()).config.readout == "auto"


def test_logits_that_are_no_multiple_of_the_weights_are_refused():
    capped, _ = language_model("Gemma2", True)
    biased, _ = language_model("Phi", False)
    TokenHead.of(biased, "phi")
    biased.lm_head.bias.data[3] = 0.5
    for model in (capped, biased):
        with pytest.raises(BackboneError, match="cannot become a linear head, use head: linear"):
            TokenHead.of(model, "it")


def test_mass_outside_over_more_words_than_one_block():
    weight = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(0))
    states = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    expected = 1 - (0.5 * states @ weight.T).softmax(1)[:, [3, 19_999]].sum(1)
    torch.testing.assert_close(TokenHead(weight, 0.5).mass_outside(states, [3, 19_999]), expected)


def test_an_encoder_gives_the_rows_of_its_input_embedding():
    backbone = tiny_encoder()
    ids = backbone.tokenizer.convert_tokens_to_ids(list(DIGITS))
    assert torch.equal(backbone.token_rows(DIGITS), backbone.model.get_input_embeddings().weight[ids])
    with pytest.raises(BackboneError, match="no language-model head"):
        backbone.off_grid_mass(torch.zeros(1, 32), DIGITS)


@pytest.mark.parametrize("make", [tiny_encoder, lambda: tiny_decoder(readout="rating")])
def test_a_word_of_several_tokens_is_refused(make):
    with pytest.raises(
        BackboneError, match="does not read '10' as one token where the rating stands; use head: linear"
    ):
        make().token_rows(("1", "10"))


def test_tokens_need_the_instruction_that_asks_for_them():
    with pytest.raises(BackboneError, match=r"set backbone\.readout=rating"):
        tiny_decoder(readout="response").token_rows(DIGITS)


# ── the text


@pytest.mark.parametrize(
    ("template", "conversational", "expected"),
    [
        (TEMPLATE, True, f"What is 2 + 2?<eos><|assistant|>the fox says 4<eos><|user|>{ASK}<eos><|assistant|>"),
        (None, True, f"User: What is 2 + 2?\n\nAssistant: the fox says 4\n\nUser: {ASK}\n\nAssistant:\n"),
        (None, False, f"What is 2 + 2? the fox says 4\n\nUser: {ASK}\n\nAssistant:\n"),
    ],
)
def test_the_instruction_follows_the_answer_and_nothing_follows_it(template, conversational, expected):
    backbone = tiny_decoder(template, readout="rating", rating_instruction=ASK)
    text = (QUESTION, ANSWER) if conversational else ("What is 2 + 2?", " the fox says 4")
    (encoded,) = backbone.encode([text])
    assert text_of(backbone.encoder, encoded.ids) == ("<|user|>" if template else "") + expected
    asked = tiny_decoder(template).encode([text])[0]
    assert encoded.prompt_length == asked.prompt_length
    assert encoded.ids[: encoded.prompt_length] == asked.ids[: asked.prompt_length]


def test_a_template_that_thinks_first_is_asked_not_to():
    thinking = TEMPLATE + "{% if add_generation_prompt and enable_thinking is not false %}<think>{% endif %}"
    encoder = ChatEncoder(tiny_tokenizer(encoder=False, template=thinking), 256, instruction=ASK)
    assert text_of(encoder, encoder.encode(QUESTION, ANSWER).ids).endswith("<|assistant|>")


def test_a_template_that_refuses_the_further_turn_is_a_problem_of_the_row():
    once = "{% if messages[-1]['content'] == 'how good is it' %}{{ raise_exception('no') }}{% endif %}" + TEMPLATE
    backbone = tiny_decoder(once, readout="rating", rating_instruction=ASK)
    (encoded,) = backbone.encode([(QUESTION, ANSWER)])
    assert "refuses the roles [user, assistant, user]" in encoded.problem
    assert encoded.remedy == MEND_ROLES
    with pytest.raises(BackboneError, match=r"refuses the roles .*; use head: linear"):
        backbone.token_rows(DIGITS)


words = st.lists(st.sampled_from(["fox", "egg", "water", "é", "x" * 9, "\n"]), max_size=30).map(" ".join)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    template=st.sampled_from([TEMPLATE, None]), told=words, asked=words, limit=st.integers(16, 120), turns=st.booleans()
)
def test_truncation_keeps_response_instruction_and_the_place_of_the_answer(template, told, asked, limit, turns):
    tokenizer = tiny_tokenizer(encoder=False, template=template)
    whole, short = (ChatEncoder(tokenizer, n, instruction=ASK) for n in (999, limit))
    prompt = (Message("user", asked), Message("assistant", told), Message("user", asked)) if turns else asked
    response = ANSWER if turns else " the fox says 4"
    full, cut = whole.encode(prompt, response), short.encode(prompt, response)
    if cut.problem:
        assert cut.remedy == SHORTEN
        return
    assert len(cut.ids) <= limit
    assert cut.ids[cut.prompt_length :] == full.ids[full.prompt_length :]
    assert cut.cut == len(full.ids) - len(cut.ids)


def test_what_never_fits_says_so():
    backbone = tiny_decoder(readout="rating", max_length=32)
    (encoded,) = backbone.encode([(QUESTION, ANSWER)])
    assert "response and instruction alone take" in encoded.problem


def test_the_hash_follows_readout_and_instruction():
    tokenizer = tiny_tokenizer(encoder=False, template=TEMPLATE)
    hashes = {ChatEncoder(tokenizer, 64, instruction=text).template_sha256 for text in (None, ASK, ASK + "?")}
    assert len(hashes) == 3


def test_the_instruction_names_the_ratings(tmp_path):
    saved(tmp_path)
    assert "from 1 (worst) to 5 (best)" in load(tmp_path, DIGITS[:5]).encoder.instruction
    assert load(tmp_path, (), readout="rating").encoder.instruction == instruction_for(DIGITS)
    assert load(tmp_path, rating_instruction=ASK).encoder.instruction == ASK
    assert load(tmp_path, ()).encoder.instruction is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"readout": "rating", "pooling": "mean"}, "pooling is 'mean'; readout='rating' reads the last token"),
        ({"readout": "response", "rating_instruction": ASK}, "rating_instruction is given but"),
        ({"readout": "rating", "rating_instruction": " "}, "rating_instruction is given but"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        BackboneConfig(**options)


def test_an_encoder_is_not_asked_for_ratings():
    with pytest.raises(ConfigError, match="readout='rating' needs a decoder"):
        tiny_encoder(readout="rating")


# ── the checkpoint


@pytest.mark.parametrize("make", [tiny_encoder, lambda: tiny_decoder(readout="rating", rating_instruction=ASK)])
def test_a_checkpoint_reads_as_in_training(tmp_path, make):
    backbone = make()
    method = Ordinal(OrdinalConfig(head="tokens", levels=5, quality_levels=2), 32)
    rows = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    method.start_from(rows)
    model = RewardModel(backbone, method)
    model.save(tmp_path / "m", include_backbone=True)
    again = RewardModel.load(tmp_path / "m", device="cpu")
    asked, told = "How do I boil an egg?", ["in water", "tell me a story"]
    assert again.backbone.encoder.instruction == backbone.encoder.instruction
    assert torch.equal(again.predict(asked, told).logits, model.predict(asked, told).logits)
    again.save(tmp_path / "again")
    assert torch.equal(RewardModel.load(tmp_path / "again").predict(asked, told).mean, model.predict(asked, told).mean)


def test_rows_that_do_not_fit_the_head_are_refused():
    with pytest.raises(ConfigError, match=r"are \[5, 32\], the head is \[9, 32\]"):
        Ordinal(OrdinalConfig(head="tokens"), 32).start_from(torch.zeros(5, 32))


def test_the_prompt_state_is_that_of_the_prompt_alone():
    """Also where the conversation goes on: the state of a prompt does not depend on how its answers are read."""
    rated, plain = tiny_decoder(readout="rating"), tiny_decoder()
    states = [extract(b, b.encode([(QUESTION, ANSWER)]), prompt_states=True) for b in (rated, plain)]
    torch.testing.assert_close(states[0].prompt, states[1].prompt, atol=1e-6, rtol=1e-5)
    assert isinstance(replace(states[0]), Features)
    assert not torch.allclose(states[0].response, states[1].response)
