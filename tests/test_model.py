"""The model as its users see it: what ``predict`` takes, and that a score depends on its own text alone."""

from __future__ import annotations

import pytest
import torch

from poise.data.chat import Encoded
from poise.data.records import Message
from poise.distributions import RewardDistribution
from poise.errors import ConfigError, DataError
from poise.features import Features
from poise.methods import METHODS, method_class
from poise.model import BLOCK, RewardModel, attribute_weights
from tests.conftest import TEMPLATE, tiny_decoder, tiny_encoder

PROMPT = "How do I boil an egg?"
ANSWERS = ["Put it in boiling water", "no", "Tell me a story about the fox by the sea", "eight minutes"]


def make_model(backbone=None, method: str = "drpo", **options) -> RewardModel:
    backbone = backbone or tiny_decoder()
    kind = method_class(method)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        head = kind(kind.Config(), backbone.hidden_size)
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return RewardModel(backbone, head, **options)


def equal(a: RewardDistribution, b: RewardDistribution) -> bool:
    return all(torch.equal(x, b.parameters()[name]) for name, x in a.parameters().items())


# ── forms of input


def test_every_form_of_the_same_texts_has_the_same_reward():
    model = make_model()
    user = [{"role": "user", "content": PROMPT}]
    expected = model.predict([PROMPT] * 4, ANSWERS)
    assert len(expected) == 4
    forms = [
        (PROMPT, ANSWERS),
        (user, ANSWERS),
        ((Message("user", PROMPT),), tuple(ANSWERS)),
        ([user] * 4, [[{"role": "assistant", "content": a}] for a in ANSWERS]),
        (user[0], [(Message("assistant", a),) for a in ANSWERS]),
        ([PROMPT, user, PROMPT, user], ANSWERS),
    ]
    for prompts, responses in forms:
        assert equal(model.predict(prompts, responses), expected)
    assert equal(model.predict(PROMPT, ANSWERS[1]), expected[1:2])
    assert equal(model.predict(user, [{"role": "assistant", "content": ANSWERS[1]}]), expected[1:2])


def test_a_string_is_a_message_or_bare_text_as_in_training():
    backbone = tiny_decoder()
    talking, plain = make_model(backbone), make_model(backbone, conversational=False)
    assert not equal(talking.predict(PROMPT, "no"), plain.predict(PROMPT, "no"))
    messages = [{"role": "user", "content": PROMPT}], [{"role": "assistant", "content": "no"}]
    assert equal(talking.predict(PROMPT, "no"), plain.predict(*messages))
    bare = backbone.encode([(PROMPT, "no")])
    assert equal(plain.predict(PROMPT, "no"), plain.predict_encoded(bare))


def test_a_conversation_is_one_prompt_and_a_list_of_conversations_is_many():
    model = make_model()
    talk = [
        {"role": "system", "content": "be quick"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": PROMPT},
    ]
    both = model.predict([talk, talk[1:]], ["no", "no"])
    assert equal(both[:1], model.predict(talk, "no"))
    assert not equal(both[:1], both[1:])


@pytest.mark.parametrize(
    ("prompts", "responses", "says"),
    [
        (PROMPT, ["yes", " \n"], "response 1: 'response' is empty"),
        (PROMPT, "", "response 0: 'response' is empty"),
        ([PROMPT, PROMPT], ["yes"], "2 prompts for 1 responses; give one prompt, or one per response"),
        (PROMPT, [], "no response was given"),
        ([], [], "no response was given"),
        ([{"role": "system", "content": "x"}], "yes", "no user message"),
        ([{"role": "user"}], "yes", "is not a message"),
        (PROMPT, [[{"role": "user", "content": "x"}]], "starts with role 'user'"),
        ([PROMPT, None], ["yes", "no"], "response 1: 'prompt' is missing"),
        (PROMPT, [3.5], "response 0: 'response' is float"),
    ],
)
def test_what_cannot_be_scored_is_named(prompts, responses, says):
    with pytest.raises(DataError) as error:
        make_model().predict(prompts, responses)
    assert says in str(error.value)


def test_a_response_that_does_not_fit_is_named_with_the_way_out():
    model = make_model(tiny_decoder(max_length=32))
    with pytest.raises(DataError, match=r"response 1: the response alone takes \d+ tokens.*raise backbone.max_length"):
        model.predict(PROMPT, ["fits", "fox " * 60])
    assert len(model.predict(PROMPT * 20, "fits")) == 1, "a long prompt is cut"


def test_roles_that_the_template_refuses_are_named():
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
    prompt = [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]
    with pytest.raises(DataError, match=r"response 0: the chat template refuses .*no system.*; mend"):
        make_model(tiny_decoder(strict)).predict(prompt, "z")


# ── invariance


@pytest.mark.parametrize("make", [tiny_encoder, tiny_decoder])
@pytest.mark.parametrize("method", [m.name for m in METHODS])
def test_a_score_depends_on_its_own_text_alone(make, method):
    model = make_model(make(), method)
    answers = [f"{a} {'fox ' * (i % 11)}" for i, a in enumerate(ANSWERS * 6)]
    together = model.predict(PROMPT, answers)
    worst = 0.0
    for name, values in together.row_parameters().items():
        alone = torch.cat([model.predict(PROMPT, a).row_parameters()[name] for a in answers])
        backwards = model.predict(PROMPT, answers[::-1]).row_parameters()[name].flip(0)
        worst = max(worst, (values - alone).abs().max().item(), (values - backwards).abs().max().item())
    assert worst < 1e-5, f"{worst:.2e} apart"


@pytest.mark.parametrize("method", [m.name for m in METHODS])
@pytest.mark.parametrize("rows", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7])
def test_the_heads_blocks_do_not_show(method, rows):
    """Bit for bit: the head always sees blocks of one shape."""
    model = make_model(method=method)
    states = torch.randn(rows, model.backbone.hidden_size, generator=torch.Generator().manual_seed(0))
    whole = model.predict_features(Features(states, states))
    assert len(whole) == rows
    for i in {0, rows // 2, rows - 1}:
        one = model.predict_features(Features(states[i : i + 1], states[i : i + 1]))
        assert equal(whole[i : i + 1], one)
    exact = model.method(Features(states, states))
    torch.testing.assert_close(whole.mean, exact.reward.mean, atol=1e-5, rtol=1e-5)


def test_scores_are_float32_whatever_the_backbone_computes_in():
    backbone = tiny_decoder()
    backbone.model.to(torch.bfloat16)
    model = make_model(backbone)
    reward = model.predict(PROMPT, ANSWERS)
    assert reward.mean.dtype == torch.float32


def test_an_outer_autocast_changes_nothing():
    """A bf16 head makes ties, and bf16 states in the cache would be found again as float32 ones."""
    model = make_model()
    expected = model.predict(PROMPT, ANSWERS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert equal(model.predict(PROMPT, ANSWERS), expected)


def test_results_can_be_indexed_and_put_together():
    model = make_model()
    reward = model.predict(PROMPT, ANSWERS)
    parts = RewardDistribution.concatenate([reward[:1], reward[1:3], reward[torch.tensor([3])]])
    assert equal(parts, reward)
    assert reward[torch.tensor([True, False, False, True])].mean.tolist() == reward.mean[[0, 3]].tolist()
    assert not reward.mean.requires_grad


def test_golden_texts_that_do_not_fit_are_left_out():
    model = make_model(tiny_encoder(max_length=48))
    ids = [g.id for g in model.golden_scores()]
    assert "short" in ids
    assert "long" not in ids
    assert all(isinstance(e, Encoded) for e in model.backbone.encode([(PROMPT, "x")]))


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"a": "much"}, "weight of 'a' is 'much'; it must be a finite number"),
        ({"a": -1.0}, r"weight of 'a' is -1\.0"),
        ({"a": float("nan")}, "weight of 'a' is nan"),
        ({"a": 0, "b": 0}, "add up to 0"),
        ({"c": 1}, "'c'"),
    ],
)
def test_weights_that_weigh_nothing_are_refused(weights, says):
    with pytest.raises(ConfigError, match=says):
        attribute_weights(weights, ("a", "b"))
    assert attribute_weights({"a": 1, "b": 3}, ("a", "b")).tolist() == [0.25, 0.75]
