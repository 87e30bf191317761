"""The pages in a real browser: nothing fails to load, nothing complains, and every figure is drawn."""

from __future__ import annotations

import re
import shutil
import subprocess

import matplotlib.image
import numpy as np
import pytest

from poise.evaluation.benchmark import Item
from poise.evaluation.compare import compare
from poise.evaluation.harness import score_sets
from poise.evaluation.predictions import SetFacts
from poise.evaluation.sets import EvaluationSet, load_set
from poise.evaluation.suite import measure
from poise.report.suite import comparison_rows, examples_of, suite_markdown, suite_page
from tests.evaluation.test_harness import Drawn, pairs_set, ratings_set

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two scorers on a benchmark, pairs and ratings, compared."""
    folder = tmp_path_factory.mktemp("page")
    rows = "".join(
        f'{{"id": {i}, "prompt": "q {i}", "chosen": "yes {i}", "rejected": "no", "subset": "{subset}"}}\n'
        for i, subset in enumerate(["hep-cpp", "llmbar-natural", "math-prm"] * 8)
    )
    (folder / "rows.jsonl").write_text(rows)
    one = load_set(f"reward_bench={folder / 'rows.jsonl'}")
    sets = [EvaluationSet(SetFacts("reward_bench", 0, one.facts.notes), one.items), pairs_set(), ratings_set()]
    predictions = [score_sets(Drawn(name=name), sets, folder / name) for name in ("first", "second <b>")]
    found = compare(predictions, resamples=50)
    path = folder / "page.html"
    results = [measure(p, resamples=50) for p in predictions]
    made = results, comparison_rows(found), found.verdict, examples_of(predictions[0])
    path.write_text(suite_page(*made))
    path.with_suffix(".md").write_text(suite_markdown(*made))
    return path


def browser(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    common = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        *(() if any(one.startswith("--window-size") for one in arguments) else ("--window-size=1100,2600",)),
    )
    return subprocess.run([CHROMIUM, *common, *arguments], capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.heavy
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine to open the page in")
def test_a_browser_draws_the_page_without_complaint(page, tmp_path):
    done = browser(f"--screenshot={tmp_path / 'page.png'}", page.as_uri())
    assert not re.findall(r"CONSOLE|Uncaught|ERR_|Failed to load", done.stderr)
    picture = matplotlib.image.imread(tmp_path / "page.png")[..., :3]
    assert picture.shape[:2] == (2600, 1100)
    assert len(np.unique((picture * 255).astype(np.uint8).reshape(-1, 3), axis=0)) > 50, "the page is blank"
    dom = browser("--dump-dom", page.as_uri()).stdout
    figures = re.findall(r"<svg[^>]*role=\"img\"[^>]*>(.*?)</svg>", dom, flags=re.DOTALL)
    drawn = {
        "Official figures": 1,
        "Reliability": 2,
        "Accuracy against abstention": 2,
        "Quantile coverage": 1,
        "PIT": 1,
    }
    titles = re.findall(r"<svg[^>]*role=\"img\" aria-label=\"([^\"]*)\"", dom)
    assert {title: sum(one.startswith(f"{title} of") for one in titles) for title in drawn} == drawn
    assert sum(one.startswith("Reward distributions") for one in titles) == 12, (
        "three of two kinds for each set of pairs"
    )
    assert all("<path" in figure and "<text" in figure for figure in figures)
    assert "second &lt;b&gt;" in dom
    assert "not significant" in dom


@pytest.mark.heavy
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine to open the page in")
def test_it_is_dark_in_the_dark_narrow_on_a_phone_and_whole_on_paper(page, tmp_path):
    browser("--force-dark-mode", "--window-size=390,900", f"--screenshot={tmp_path / 'phone.png'}", page.as_uri())
    dark = matplotlib.image.imread(tmp_path / "phone.png")[..., :3]
    assert np.median(dark) < 0.2
    browser(f"--print-to-pdf={tmp_path / 'page.pdf'}", page.as_uri())
    paper = (tmp_path / "page.pdf").read_bytes()
    assert len(re.findall(rb"/Type\s*/Page\b", paper)) >= 3
    # the page is no wider than a phone: what is wider scrolls in a box of its own
    probe = tmp_path / "probe.html"
    script = "<script>document.title = 'width ' + document.documentElement.scrollWidth</script></body>"
    probe.write_text(page.read_text().replace("</body>", script))
    dom = browser("--window-size=500,900", "--dump-dom", probe.as_uri()).stdout
    assert re.search(r"<title>width 500</title>", dom)


def test_texts_are_escaped_folded_and_cut_in_both_forms(tmp_path):
    hostile = "<script>alert('x')</script> | `````` & " + "long " * 2000
    items = tuple(Item(f"{i}", f"{hostile} {i}", (hostile, f"</details> {i}"), ((0, 1),), {}) for i in range(12))
    given = EvaluationSet(SetFacts("pairs:x <b>", 2, ("a <note>",)), items)
    predictions = score_sets(Drawn(name="<i>"), [given], tmp_path)
    made = [measure(predictions, resamples=20)], (), "", examples_of(predictions)
    html, text = suite_page(*made), suite_markdown(*made)
    assert "<script" not in html
    assert "<note>" not in html
    assert "more characters]" in html
    assert "more characters]" in text
    assert len(html) < 400_000
    assert len(text) < 40_000
    outside = re.sub(r"(`{3,})text\n.*?\n\1\n", "", text, flags=re.DOTALL)
    assert "<script" not in outside, "texts stand in fences that they cannot close"
    assert "</details> 1" not in outside


def test_markdown_has_the_numbers_of_every_figure(page):
    text = page.with_suffix(".md").read_text()
    for part in (
        "Quantile coverage: ",
        "PIT: ",
        "Reliability: ",
        "Accuracy against abstention: ",
        "## Paired differences",
        "McNemar",
    ):
        assert part in text


def test_the_page_asks_for_nothing_from_outside(page):
    text = page.read_text()
    assert "<script" not in text
    assert not re.findall(r"(?:src|href)=\"(?!#)[^\"]", text)
    assert not re.findall(r"url\((?!#)", text)
