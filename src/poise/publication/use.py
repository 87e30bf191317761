"""The parts of a model card that say how the model is run and read."""

from __future__ import annotations

import json
from collections.abc import Sequence

from poise.model import RewardModel
from poise.publication.forms import PlainForm, ReadOut
from poise.publication.golden import PlainGolden
from poise.report import tables

SHOWN = 4


def what_it_is(model: RewardModel, form: PlainForm | None) -> str:
    """The first paragraph."""
    about = f"A reward model trained with [poise](https://pypi.org/project/poise) (method `{model.method.name}`)."
    if form is None:
        return (
            f"{about} It returns a distribution over the reward of each response; poise loads, serves and checks it.\n"
        )
    kind = "…ForSequenceClassification"
    if form.kind == "params":
        return (
            f"{about} This folder is a plain `{kind}` with {len(form.names)} raw outputs, the parameters of the "
            "distribution over a response's reward.\n"
        )
    logistic = (
        " The logistic of the difference of two rewards is the model's probability that the first response is preferred."
        if form.reads is None and form.logistic
        else " Only differences between responses to the same prompt mean something; the spread of the belief is not in it."
    )
    return f"{about} This folder is a plain `{kind}` with one output, the mean reward.{logistic}\n"


def quick_start(model: RewardModel, form: PlainForm | None, golden: Sequence[PlainGolden]) -> str:
    """Code that prints the first golden score, and the commands of the engines."""
    if form is None:
        return (
            "## Use\n\n```python\nfrom poise import RewardModel\n\n"
            'model = RewardModel.load("FOLDER")\n'
            'reward = model.predict("How do I boil an egg?", ["Eight minutes in boiling water.", "No idea."])\n'
            "reward.mean, reward.std, reward[0].prob_greater(reward[1])\n```\n\n`poise serve FOLDER` answers over HTTP.\n"
        )
    one = golden[0]
    ids = (
        f'inputs = tokenizer({json.dumps(one.text, ensure_ascii=False)}, {json.dumps(one.text_pair, ensure_ascii=False)}, return_tensors="pt")'
        if one.text_pair is not None
        else (
            f"messages = {json.dumps(one.messages, ensure_ascii=False)}\n"
            'inputs = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), return_tensors="pt")'
            if model.conversational
            else f'inputs = tokenizer({json.dumps(one.text, ensure_ascii=False)}, return_tensors="pt")'
        )
    )
    shown = ", ".join(f"{value:.4f}" for value in one.raw[:SHOWN]) + (", …" if len(one.raw) > SHOWN else "")
    code = (
        "import torch\nfrom transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n'
        f'model = AutoModelForSequenceClassification.from_pretrained("FOLDER", dtype=torch.{one.dtype}).eval()\n'
        f"{ids}\nwith torch.inference_mode():\n    print(model(**inputs).logits)  # [[{shown}]]\n"
    )
    return f"## Use\n\n```python\n{code}```\n\n{_engines(model)}"


def _engines(model: RewardModel) -> str:
    if not model.backbone.causal:
        return '```sh\ntext-embeddings-router --model-id FOLDER   # POST /predict with "raw_scores": true\n```\n'
    return (
        '```sh\nvllm serve FOLDER --runner pooling --convert classify   # POST /classify with "use_activation": false\n'
        "python -m sglang.launch_server --model-path FOLDER --is-embedding   # POST /classify\n```\n\n"
        "After a start, let `poise verify http://HOST:PORT --golden FOLDER` compare its answers with the golden scores.\n"
    )


def how_to_read(form: PlainForm | None) -> str:
    """What the outputs mean, as formulas."""
    if form is None:
        return ""
    lines = []
    if form.reads is not None:
        names = ", ".join(f"`{name}`" for name in form.names)
        lines = [f"Outputs in order: {names}. Never apply a softmax or a sigmoid to them.", "", *_formulas(form.reads)]
        if "reward_last" in form.names:
            lines += [
                "",
                "`reward` and `reward_last` are the mean reward, for readers of the first or the last output.",
            ]
    if form.offset:
        lines += [f"The reward is the output plus {form.offset:.6g}; orders and differences do not need it."]
    if form.temperature != 1:
        lines += [f"A calibrated temperature of {form.temperature:.6g} is divided out of `reward` already."]
    return "## Reading the outputs\n\n" + "\n".join(lines) + "\n" if lines else ""


def _formulas(reads: ReadOut) -> list[str]:
    spread = {
        "exp": "exp(min(max(x, ln 0.001), ln 100))",
        "softplus": "0.001 + softplus(x + ln(e^0.999 − 1))",
        "none": "0",
    }[reads.std]
    if reads.std_factor != 1:
        spread = f"{reads.std_factor:.6g} · {spread}"
    if reads.family == "gaussian":
        return [f"The reward is Gaussian with mean `mean` and standard deviation {spread} with x = `raw_std`."]
    if reads.family == "categorical":
        return [
            "The reward is one of K levels with probabilities softmax(`logit_i` + constant_i):",
            "",
            "```json",
            json.dumps({"levels": list(reads.support), "constants": [round(x, 7) for x in reads.log_masses]}),
            "```",
        ]
    if reads.family == "mixture":
        what = "a point" if reads.std == "none" else f"a Gaussian of standard deviation {spread} with x = `raw_std_i`"
        return [f"An ensemble: member i says `mean_i`, {what}; all members count the same."]
    return ["The reward is `reward` itself."]


def expected(form: PlainForm | None, golden: Sequence[PlainGolden]) -> str:
    """The golden scores, as every engine must print them."""
    if form is None or not golden:
        return ""
    rows = [
        [
            one.id,
            str(one.num_tokens),
            ", ".join(f"{value:.4f}" for value in one.raw[:SHOWN]) + (" …" if len(one.raw) > SHOWN else ""),
        ]
        for one in golden
    ]
    return (
        "## Expected scores\n\nFor the texts in `golden.jsonl` (`poise verify FOLDER` checks all digits):\n\n"
        + tables.markdown_table(["text", "tokens", "outputs"], rows, numeric=(1, 2))
    )


def text_rules(model: RewardModel, form: PlainForm | None) -> str:
    """How text must be given, and where readings differ."""
    encoder = model.backbone.encoder
    rules = [
        f"At most {model.backbone.max_length:,} tokens; what is longer should lose the prompt's far end, never the response."
    ]
    if form is not None and model.backbone.causal and model.conversational:
        rules.append(
            "Render conversations with the chat template, without a generation prompt; the tokenizer adds no special tokens of its own, so nothing is doubled."
        )
    if form is not None and not model.backbone.causal and encoder.template is None:
        rules.append("Prompt and response are a pair: `User: …` paragraphs for the prompt, the bare response.")
    if form is not None:
        rules.append(
            "A special token that is spelt out inside a message counts as that token in plain transformers; poise reads it as text."
        )
    return "## Text\n\n" + "\n".join(f"- {rule}" for rule in rules) + "\n"
