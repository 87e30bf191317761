"""TRL reads an exported folder by its name: the rewards of a GRPO step are those of the model."""

from __future__ import annotations

import pytest
from datasets import Dataset
from transformers import Qwen3ForCausalLM

from poise.publication import export
from tests.conftest import TEMPLATE, tiny_decoder, tiny_tokenizer
from tests.test_model import make_model


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")  # TRL's and torch's own
def test_a_grpo_step_is_rewarded_as_the_model_would(tmp_path):
    trl = pytest.importorskip("trl")
    model = make_model(tiny_decoder(pad_is_eos=True), method="bt")
    export(model, tmp_path / "rm")
    Qwen3ForCausalLM(model.backbone.model.config).save_pretrained(tmp_path / "policy")
    tiny_tokenizer(encoder=False, template=TEMPLATE).save_pretrained(tmp_path / "policy")

    def ours(prompts, completions, **_):
        return model.predict(prompts, completions).mean.tolist()

    questions = [[{"role": "user", "content": f"How do I boil {i} eggs?"}] for i in range(4)]
    settings = trl.GRPOConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=8,
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = trl.GRPOTrainer(
        str(tmp_path / "policy"),
        reward_funcs=[str(tmp_path / "rm"), ours],
        args=settings,
        train_dataset=Dataset.from_list([{"prompt": question} for question in questions]),
    )
    trainer.train()
    said = trainer.state.log_history[0]
    for figure in ("mean", "std"):
        plain, own = (said[f"rewards/{name}/{figure}"] for name in ("rm", "ours"))
        assert plain == pytest.approx(own, abs=1e-5)
    assert said["rewards/ours/std"] > 1e-3
