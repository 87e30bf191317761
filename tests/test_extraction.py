"""Texts → features: cached or not the same, each distinct text once, and nothing lost by an interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from poise.data.records import Message
from poise.extraction import extract
from poise.feature_cache import FeatureCache, content_key
from poise.reading import read
from tests.conftest import tiny_decoder, tiny_encoder

PROMPTS = ["What is 2 + 2?", "How do I boil an egg?", "Tell me a story. " * 4]
ANSWERS = ["four", "in water", "once there was a fox in the village by the sea " * 2]


def all_texts(backbone):
    return backbone.encode(
        [((Message("user", p),), (Message("assistant", a),)) for p in PROMPTS for a in (*ANSWERS, "four")]
    )


class Counted:
    """Counts the rows that are really computed, and can interrupt."""

    def __init__(self, monkeypatch, fail_after: int | None = None):
        self.rows, self.fail_after = [], fail_after
        monkeypatch.setattr("poise.extraction.read", self)

    def __call__(self, backbone, rows):
        for batch, *states in read(backbone, rows):
            if self.fail_after is not None and len(self.rows) + len(batch) > self.fail_after:
                raise KeyboardInterrupt
            self.rows.extend(rows[i] for i in batch)
            yield batch, *states


def same(a, b) -> bool:
    return torch.equal(a.response, b.response) and torch.equal(a.prompt, b.prompt)


@pytest.mark.parametrize("make", [tiny_encoder, tiny_decoder])
def test_features_are_the_same_with_and_without_a_cache(make, tmp_path, monkeypatch):
    backbone = make()
    texts = all_texts(backbone)
    live = extract(backbone, texts, prompt_states=True)
    first = FeatureCache(tmp_path, backbone.fingerprint(), backbone.hidden_size)
    assert same(extract(backbone, texts, first, prompt_states=True), live)
    counted = Counted(monkeypatch)
    again = FeatureCache(tmp_path, backbone.fingerprint(), backbone.hidden_size)
    assert same(extract(backbone, texts, again, prompt_states=True), live)
    assert counted.rows == [], "everything was on disk"


def test_each_distinct_text_is_computed_once(monkeypatch):
    backbone = tiny_decoder()
    counted = Counted(monkeypatch)
    features = extract(backbone, all_texts(backbone) * 2)
    assert len(features) == 24
    assert len(counted.rows) == 9


def test_an_encoder_reads_each_prompt_once_by_itself(monkeypatch):
    backbone = tiny_encoder()
    counted = Counted(monkeypatch)
    features = extract(backbone, all_texts(backbone), prompt_states=True)
    assert len(counted.rows) == 9 + 3
    for i in range(0, 12, 4):
        assert (features.prompt[i : i + 4] == features.prompt[i]).all(), "a prompt's state depends on the response"
    assert not torch.equal(features.prompt[0], features.prompt[4])


def test_a_decoders_prompt_state_does_not_depend_on_the_response():
    backbone = tiny_decoder()
    texts = all_texts(backbone)
    for i in range(4):
        alone = extract(backbone, [texts[i]], prompt_states=True).prompt[0]
        first = extract(backbone, [texts[0]], prompt_states=True).prompt[0]
        assert (alone - first).abs().max() < 1e-5


def test_missing_prompt_states_of_a_decoder_cost_one_row_a_prompt(tmp_path, monkeypatch):
    backbone = tiny_decoder()
    texts, cache = all_texts(backbone), FeatureCache(tmp_path, "x", backbone.hidden_size)
    extract(backbone, texts, cache)
    counted = Counted(monkeypatch)
    assert same(
        extract(backbone, texts, cache, prompt_states=True), extract(backbone, texts, cache, prompt_states=True)
    )
    assert len(counted.rows) == 3


def test_an_interrupt_keeps_what_was_computed(tmp_path, monkeypatch):
    monkeypatch.setattr("poise.reading.CPU_TREE_BYTES", 256)
    backbone = tiny_decoder()
    texts = all_texts(backbone)
    live = extract(backbone, texts, prompt_states=True)
    broken = Counted(monkeypatch, fail_after=5)
    with pytest.raises(KeyboardInterrupt):
        extract(backbone, texts, FeatureCache(tmp_path, "x", backbone.hidden_size), prompt_states=True)
    assert 0 < len(broken.rows) <= 5
    resumed = Counted(monkeypatch)
    cache = FeatureCache(tmp_path, "x", backbone.hidden_size)
    assert same(extract(backbone, texts, cache, prompt_states=True), live)
    assert len(resumed.rows) == 9 - len(broken.rows), "rows were computed twice or not at all"


def test_progress_counts_tokens_up_to_the_total():
    backbone = tiny_decoder()
    texts = all_texts(backbone)
    seen: list[tuple[int, int]] = []
    extract(backbone, texts, progress=lambda done, total: seen.append((done, total)))
    total = sum(len(ids) for ids in {t.ids for t in texts})
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_key_knows_ids_boundary_and_kind():
    keys = {
        content_key((1, 2, 3), 1, "response"),
        content_key((1, 2, 3), 2, "response"),
        content_key((1, 2, 3), 1, "prompt"),
        content_key((1, 2, 4), 1, "response"),
        content_key((1, 2), 1, "response"),
    }
    assert len(keys) == 5
    assert content_key([1, 2, 3], 1, "response") in keys


@pytest.mark.heavy
def test_a_killed_process_leaves_a_cache_that_can_be_read(tmp_path, monkeypatch):
    """Every batch is flushed at once here; the process is killed in the middle of its work."""
    code = """
        import os, signal, sys
        from pathlib import Path
        import poise.reading
        import poise.extraction as extraction
        from poise.feature_cache import FeatureCache
        from tests.conftest import tiny_decoder
        from tests.test_extraction import all_texts
        extraction.FLUSH_SECONDS = -1.0
        poise.reading.CPU_TREE_BYTES = 256
        backbone = tiny_decoder()
        read = extraction.read
        def killed(backbone, rows):
            for number, found in enumerate(read(backbone, rows)):
                if number == 2:
                    (Path(sys.argv[1]) / "features" / "x" / ".half.partial").write_bytes(b"half a shard")
                    os.kill(os.getpid(), signal.SIGKILL)
                yield found
        extraction.read = killed
        extraction.extract(backbone, all_texts(backbone), FeatureCache(Path(sys.argv[1]), "x", 32))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    backbone = tiny_decoder()
    live = extract(backbone, all_texts(backbone))
    cache = FeatureCache(tmp_path, "x", backbone.hidden_size)
    assert 0 < len(cache) < 9
    found = len(cache)
    counted = Counted(monkeypatch)
    assert torch.equal(extract(backbone, all_texts(backbone), cache).response, live.response)
    assert len(counted.rows) == 9 - found
