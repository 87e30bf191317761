"""The environment, called as NeMo-RL calls it, with the messages that its data processors leave."""

from __future__ import annotations

import pytest
import torch

from poise.errors import ConfigError, DataError
from poise.model import RewardModel
from poise.policy.adapters import nemo_rl
from poise.policy.scorer import FIGURES
from tests.conftest import TEMPLATE, tiny_tokenizer
from tests.policy.test_adapters import ASKED, gaussian
from tests.policy.test_rendered import CHATML


@pytest.fixture(scope="module")
def model() -> RewardModel:
    return gaussian()


def test_nemo_rl_environment(model, tmp_path):
    model.save(tmp_path / "drpo")
    config = {"model": str(tmp_path / "drpo"), "utility": "win_rate", "empty": 0.0, "enabled": True, "num_workers": 1}
    environment = nemo_rl.RewardEnvironment(config)
    answers = ["4", "5", "It is 4."]
    logs = [[{"role": "user", "content": ASKED}, {"role": "assistant", "content": a}] for a in answers]
    observations, metadata, stops, rewards, ends, said = environment.step(logs, [{}] * 3)
    reward = model.predict(ASKED, answers)
    wins = torch.stack(
        [reward[i : i + 1].prob_greater(reward[[j for j in range(3) if j != i]]).mean() for i in range(3)]
    )
    torch.testing.assert_close(rewards, wins, atol=1e-5, rtol=1e-5)
    assert rewards.dtype == torch.float32
    assert ends.tolist() == [True] * 3
    assert said == answers
    assert metadata == stops == [None] * 3
    assert [one["role"] for one in observations] == ["environment"] * 3
    batch = {"message_log": logs}
    same, metrics = environment.global_post_process_and_metrics(batch)
    assert same is batch
    assert metrics["poise/mean"] == pytest.approx(reward.mean.mean().item(), abs=1e-6)
    assert set(metrics) == {f"poise/{name}" for name in FIGURES}
    assert environment.step([], []).rewards.tolist() == []
    environment.shutdown()
    with pytest.raises(ConfigError, match="too_long is 'none'"):
        nemo_rl.RewardEnvironment(config | {"too_long": "none"})


def rendered(policy, *messages, **options) -> str:
    asked = [{"role": role, "content": content} for role, content in messages]
    return policy.apply_chat_template(asked, tokenize=False, **({"add_generation_prompt": True} | options))


@pytest.mark.parametrize("template", [TEMPLATE, CHATML], ids=["plain", "chatml"])
def test_nemo_rl_reads_back_what_its_processors_rendered(template, model):
    """One message with the whole, a plain system message beside the user's, the whole cut into its messages."""
    policy = tiny_tokenizer(encoder=False, template=template)
    system, user = ("system", "Be short."), ("user", ASKED)
    cut = rendered(policy, system, user)
    at = cut.index("user")
    prompts = [
        [("user", rendered(policy, user))],
        [("user", rendered(policy, system, user))],
        [system, ("user", rendered(policy, user))],
        [("system", cut[:at]), ("user", cut[at:])],
    ]
    logs = [[{"role": r, "content": c} for r, c in [*prompt, ("assistant", "4")]] for prompt in prompts]
    found = nemo_rl.RewardEnvironment({"model": model, "template": policy}).step(logs, [{}] * 4).rewards
    alone, both = ([{"role": r, "content": c} for r, c in asked] for asked in ([user], [system, user]))
    expected = [model.predict(asked, "4").mean.item() for asked in (alone, both, both, both)]
    assert found.tolist() == pytest.approx(expected)


def test_nemo_rl_refuses_what_it_would_render_twice(model):
    policy = tiny_tokenizer(encoder=False, template=CHATML)
    log = [{"role": "user", "content": rendered(policy, ("user", ASKED))}, {"role": "assistant", "content": "4"}]
    with pytest.raises(ConfigError, match=r"rendered with a chat template already.*give the policy's tokenizer"):
        nemo_rl.RewardEnvironment({"model": model}).step([log], [{}])
    environment = nemo_rl.RewardEnvironment({"model": model, "template": policy})
    # the preferred answer within the prompt, as the HelpSteer3 processor leaves it: nothing asks for another
    answered = rendered(policy, ("user", ASKED), ("assistant", "5"), add_generation_prompt=False)
    with pytest.raises(DataError, match="was not rendered by this chat template"):
        environment.step(
            [[{"role": "user", "content": answered}, {"role": "assistant", "content": "5"}, log[-1]]], [{}]
        )
    with pytest.raises(DataError, match="leave template out where prompts are plain"):
        environment.step([[{"role": "user", "content": ASKED}, log[-1]]], [{}])


def test_nemo_rl_keys_of_its_own_pass_and_ours_misspelt_do_not(model):
    own = (
        "num_workers stop_strings verifier_type model_name tokenizer precision batch_size checkpoint_path max_model_len"
    )
    own += " resources reward_model_cfg dtensor_cfg dynamic_batching max_grad_norm generation enabled temperature"
    own += " weights_path chat_template max_tokens env_name default_processor"
    environment = nemo_rl.RewardEnvironment({"model": model, "template": None} | dict.fromkeys(own.split(), 1))
    log = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": "4"}]
    assert environment.step([log], [{}]).rewards.tolist() == pytest.approx(model.predict(ASKED, "4").mean.tolist())
    wrong = {"utilty": "utility", "wieghts": "weights", "weight": "weights", "too-long": "too_long", "emtpy": "empty"}
    for given, meant in (wrong | {"templat": "template", "Utility": "utility"}).items():
        with pytest.raises(ConfigError, match=f"unknown option of the reward '{given}'; did you mean '{meant}'"):
            nemo_rl.RewardEnvironment({"model": model, given: "lcb:1"})
