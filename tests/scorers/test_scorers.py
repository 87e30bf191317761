"""Everything that scores, against the model asked directly."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from poise.backbone import BackboneConfig
from poise.data.records import Message
from poise.errors import BackboneError, ConfigError, DataError
from poise.evaluation.belief_table import REWARD
from poise.methods import method_class
from poise.model import RewardModel
from poise.readout import DIGITS
from poise.scorers import Classifier, Endpoint, Function, Own, open_scorer
from tests.conftest import TEMPLATE, tiny_decoder, tiny_encoder, tiny_tokenizer
from tests.test_readout import saved

TEXTS = [
    ((Message("user", f"How do I boil {i} eggs?"),), (Message("assistant", answer),))
    for i in range(5)
    for answer in ("In water.", "No idea, sorry, I have never boiled any egg in all my life.")
]


def classifier(folder, *, encoder: bool, labels: int = 1, pad: bool = True):
    tokenizer = tiny_tokenizer(encoder=encoder, template=None if encoder else TEMPLATE)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    shape |= {"vocab_size": len(tokenizer), "num_labels": labels, "max_position_embeddings": 128}
    torch.manual_seed(0)
    if encoder:
        model = BertForSequenceClassification(BertConfig(**shape))
    else:
        settings = Qwen3Config(**shape, num_key_value_heads=2, head_dim=8, pad_token_id=tokenizer.pad_token_id)
        model = Qwen3ForSequenceClassification(settings)
    torch.nn.init.normal_(
        next(p for name, p in model.named_parameters() if name in ("score.weight", "classifier.weight"))
    )
    if not pad:
        model.config.pad_token_id = None
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("encoder", [True, False])
def test_a_classifier_scores_as_the_model_does_alone(tmp_path, encoder):
    model = classifier(tmp_path, encoder=encoder)
    scorer = open_scorer(str(tmp_path))
    assert isinstance(scorer, Classifier)
    scorer = Classifier(model, scorer.encoder, BackboneConfig(name=str(tmp_path)))  # in float32
    found = scorer.score(TEXTS)
    for number, text in enumerate(scorer.encoder.encode_many(TEXTS)):
        inputs = {"input_ids": torch.tensor([text.ids])}
        if encoder:
            inputs["token_type_ids"] = (torch.arange(len(text.ids)) >= text.prompt_length).long()[None]
        with torch.inference_mode():
            alone = model(**inputs).logits[0, 0].item()
        assert found.beliefs[REWARD].mean[number].item() == pytest.approx(alone, abs=1e-5)
        assert found.tokens[number] == len(text.ids)
    assert found.beliefs[REWARD].link.kind == "logistic"


@pytest.mark.parametrize("encoder", [True, False])
def test_the_head_of_a_classifier_in_bfloat16_is_exact(tmp_path, encoder):
    model = classifier(tmp_path, encoder=encoder).bfloat16()
    states = {}
    head = model.classifier if encoder else model.score
    head.register_forward_hook(lambda module, given, out: states.update(given=given[0], out=out))
    found = Classifier(model, Classifier.load(str(tmp_path)).encoder, BackboneConfig(name="x")).score(TEXTS[:1])
    rows = torch.nn.functional.linear(
        states["given"].double(), head.weight.double(), head.bias if head.bias is None else head.bias.double()
    )
    torch.testing.assert_close(states["out"].double(), rows, rtol=1e-5, atol=1e-5)
    assert found.beliefs[REWARD].mean[0].item() in states["out"].flatten().tolist()
    assert model.dtype == torch.bfloat16, "the backbone stays as it was"


def test_a_classifier_without_a_pad_token_reads_row_by_row(tmp_path):
    classifier(tmp_path / "a", encoder=False)
    scorer = Classifier.load(str(tmp_path / "a"))
    expected = scorer.score(TEXTS).beliefs[REWARD].mean
    scorer.pad = scorer.model.config.pad_token_id = None
    torch.testing.assert_close(scorer.score(TEXTS).beliefs[REWARD].mean, expected, atol=0.05, rtol=0.05)


def test_a_classifier_must_be_a_reward_model(tmp_path):
    classifier(tmp_path / "three", encoder=True, labels=3)
    with pytest.raises(BackboneError, match="3 outputs; a reward is one"):
        open_scorer(str(tmp_path / "three"))
    classifier(tmp_path / "headless", encoder=True).bert.save_pretrained(tmp_path / "headless")
    with pytest.raises(BackboneError, match=r"would be random; give a reward model"):
        Classifier.load(str(tmp_path / "headless"))


def test_what_does_not_fit_loses_its_end_and_is_counted(tmp_path):
    classifier(tmp_path, encoder=True)
    scorer = Classifier.load(str(tmp_path))
    long = (Message("assistant", "and so on " * 300),)
    found = scorer.score([(TEXTS[0][0], long), TEXTS[0]])
    assert found.cut_response[0] > 0
    assert found.cut_response[1] == found.cut[1] == 0
    assert found.tokens[0] <= scorer.encoder.max_length
    beginning = scorer.encoder.encode_beginning(TEXTS[0][0], long)
    whole = scorer.encoder._tokens([(TEXTS[0][0], long)])[0]
    assert beginning.ids[beginning.prompt_length :][:20] == tuple(whole.ids[whole.shared :][:20])
    assert beginning.cut == 0, "the prompt is short and stays"


def test_half_of_the_room_stays_for_a_long_prompt():
    encoder = tiny_decoder().encoder
    prompt, response = (Message("user", "why " * 300),), (Message("assistant", "because " * 300),)
    found = encoder.encode_beginning(prompt, response)
    assert found.problem is None
    assert found.cut > 0
    assert found.cut_response > 0
    assert len(found.ids) <= encoder.max_length
    own = len(found.ids) - found.prompt_length
    assert encoder.max_length // 2 - 8 <= own <= encoder.max_length // 2


def own_model() -> RewardModel:
    backbone = tiny_decoder()
    method = method_class("drpo")(method_class("drpo").Config(), backbone.hidden_size)
    torch.nn.init.normal_(next(method.parameters()))
    return RewardModel(backbone, method)


@pytest.mark.parametrize("make", [tiny_encoder, tiny_decoder])
def test_a_blank_response_is_scored_like_any_other(make):
    backbone = make()
    model = RewardModel(backbone, method_class("bt")(method_class("bt").Config(), backbone.hidden_size))
    for prompt in ("q", (Message("user", "q"),)):
        found = Own(model, "x").score([(prompt, ""), (prompt, "a"), (prompt, (Message("assistant", " "),))])
        assert found.beliefs[REWARD].mean.isfinite().all()


def test_our_own_models_give_whole_distributions(tmp_path):
    model = own_model()
    model.save(tmp_path / "model", include_backbone=True)
    scorer = open_scorer(str(tmp_path / "model"))
    assert isinstance(scorer, Own)
    expected = model.predict([p for p, _ in TEXTS], [r for _, r in TEXTS])
    belief = scorer.score(TEXTS).beliefs[REWARD]
    torch.testing.assert_close(belief.mean, expected.mean)
    torch.testing.assert_close(belief.std, expected.std)
    assert scorer.facts["template_sha256"] == model.backbone.encoder.template_sha256


@pytest.mark.parametrize("place", [".", "checkpoint", "../run/checkpoint"])
def test_our_own_models_are_called_as_their_run_is(place, tmp_path, monkeypatch):
    own_model().save(tmp_path / "run" / "checkpoint", include_backbone=True)
    monkeypatch.chdir(tmp_path / "run")
    assert open_scorer(place).facts["name"] == "run"


def test_a_judge_is_the_models_own_belief_over_the_ratings(tmp_path):
    saved(tmp_path)
    scorer = open_scorer(f"judge:{tmp_path}")
    belief = scorer.score(TEXTS).beliefs[REWARD]
    language_model = AutoModelForCausalLM.from_pretrained(tmp_path).float()
    tokenizer = scorer.model.backbone.tokenizer
    for number, text in enumerate(scorer.model.backbone.encode(TEXTS)):
        with torch.inference_mode():
            logits = language_model(torch.tensor([text.ids])).logits[
                0, -1, tokenizer.convert_tokens_to_ids(list(DIGITS))
            ]
        mean = (logits.softmax(-1) * torch.arange(1.0, 10)).sum().item()
        assert belief.mean[number].item() == pytest.approx(mean, abs=0.05)
    assert scorer.facts["name"] == f"judge:{tmp_path}"


def test_a_function_gets_texts_and_gives_numbers_or_a_distribution(tmp_path):
    (tmp_path / "f.py").write_text(
        "from poise.distributions import Gaussian\nimport torch\n"
        "def length(prompts, responses):\n    return [len(r[-1]['content']) for r in responses]\n"
        "def belief(prompts, responses):\n    n = len(responses)\n    return Gaussian(torch.zeros(n), torch.ones(n))\n"
        "def short(prompts, responses):\n    return [1.0]\n"
    )
    found = open_scorer(f"{tmp_path / 'f.py'}:length").score(TEXTS).beliefs[REWARD]
    assert found.mean.tolist() == [len(r[0].content) for _, r in TEXTS]
    assert open_scorer(f"{tmp_path / 'f.py'}:belief").score(TEXTS).beliefs[REWARD].std.tolist() == [1.0] * len(TEXTS)
    with pytest.raises(DataError, match="1 scores for 10 responses"):
        open_scorer(f"{tmp_path / 'f.py'}:short").score(TEXTS)
    with pytest.raises(ConfigError, match="cannot be imported"):
        Function.load(str(tmp_path / "gone.py"), "f")


def test_a_function_that_was_mended_is_another_scorer(tmp_path):
    found = []
    for number in "11", "2":
        (tmp_path / "f.py").write_text(f"def score(prompts, responses):\n    return [{number}.0] * len(responses)\n")
        found.append(open_scorer(f"{tmp_path / 'f.py'}:score").facts)
    assert found[0]["name"] == found[1]["name"]
    assert found[0] != found[1], "what an interrupted evaluation has kept of the first is scored again"


class Answers(BaseHTTPRequestHandler):
    """Length of the response as its score; the first request meets a full queue."""

    seen: list[dict] = []  # noqa: RUF012

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(body)
        if self.path == "/odd":
            return self._send(200, {"data": [{"score": 1.0}]})
        if len(self.seen) == 1:
            return self._send(503, {})
        data = [
            {"score": len(r[-1]["content"]), "num_tokens": 7} for group in body["inputs"] for r in group["responses"]
        ]
        return self._send(200, {"data": data})

    def _send(self, code, body):
        self.send_response(code)
        if code == 503:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_):
        pass


def test_a_server_is_asked_by_prompt_and_again_when_it_is_full():
    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        found = open_scorer(f"{url}/v1/rewards").score(TEXTS)
        assert found.beliefs[REWARD].mean.tolist() == [len(r[0].content) for _, r in TEXTS]
        assert found.tokens == [7] * len(TEXTS)
        assert len(Answers.seen) == 2
        assert [len(group["responses"]) for group in Answers.seen[1]["inputs"]] == [2] * 5
        assert "raw" not in Answers.seen[1], "another server may not know the word"
        assert open_scorer(f"{url}/v1/rewards", raw=True).score(TEXTS).tokens == found.tokens
        assert Answers.seen[2]["raw"] is True
        with pytest.raises(DataError, match="with 10 entries"):
            Endpoint(f"{url}/odd").score(TEXTS)
    finally:
        server.shutdown()
        server.server_close()
