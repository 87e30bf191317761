"""The page in a real browser on a real server: typed into, scored, its dial turned by the keyboard."""

from __future__ import annotations

import io
import json
import re
import socket
import subprocess
import threading
import time
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
import uvicorn

from poise.calibration import Calibration, PairCalibration
from poise.model import RewardModel
from poise.serving import app as serving
from poise.serving.app import create_app
from poise.serving.hosting import Hosted
from poise.serving.metrics import Metrics
from poise.serving.settings import Settings
from poise.utility import parse_utility
from tests.conftest import tiny_decoder
from tests.serving.browser import CHROMIUM, Browser
from tests.test_model import make_model

PAGE = Path(serving.__file__).parent / "page"
PROMPT = "How do I boil an egg?"
CANDIDATES = [
    "Put it in boiling water for eight minutes.",
    "The fox says hello to everyone by the sea",
    "no",
    "Tell me a story about the quick brown fox and the lazy dog",
    "eight",
    "hello hello hello",
]


def wide_model() -> RewardModel:
    """Its spread differs much from response to response, so that caution changes the order."""
    model = make_model(tiny_decoder())
    with torch.no_grad():
        model.method.score.weight[1] *= 2
    return model


def two_that_swap(model: RewardModel) -> tuple[str, str]:
    """A response with the higher mean, and one with the better worst case."""
    reward = model.predict(PROMPT, CANDIDATES)
    worst = parse_utility("cvar:0.01")(reward)
    found = [
        (a, b)
        for a in range(len(CANDIDATES))
        for b in range(len(CANDIDATES))
        if reward.mean[a] > reward.mean[b] + 0.05 and worst[a] < worst[b] - 0.05
    ]
    return CANDIDATES[found[0][0]], CANDIDATES[found[0][1]]


@pytest.fixture(scope="module")
def models() -> dict[str, RewardModel]:
    calibrated = make_model(method="bt").calibrated(
        Calibration(pairs=PairCalibration(method="temperature", temperature=3.0))
    )
    return {"wide": wide_model(), "plain <b>": calibrated}


@pytest.fixture(scope="module")
def address(models):
    settings, metrics = Settings(), Metrics()
    hosted = [Hosted(name, name, model, settings, metrics) for name, model in models.items()]
    with socket.create_server(("127.0.0.1", 0)) as place:
        config = uvicorn.Config(create_app(hosted, settings, metrics), log_level="error", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
        thread.start()
        until = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < until
            time.sleep(0.02)
        yield f"http://127.0.0.1:{place.getsockname()[1]}/"
        server.should_exit = True
        thread.join(5)


@pytest.fixture
def browser(tmp_path):
    with Browser(tmp_path) as made:
        yield made


def ranking(browser: Browser, panel: int = 0) -> list[str]:
    return browser.ask(
        f"[...document.querySelectorAll('.panel')[{panel}].querySelectorAll('.ranking li')].map(e => e.dataset.response)"
    )


def picture(png: bytes) -> np.ndarray:
    return (matplotlib.image.imread(io.BytesIO(png))[..., :3] * 255).astype(np.uint8)


def colours(image: np.ndarray) -> int:
    return len(np.unique(image.astype(np.int32) @ [1 << 16, 1 << 8, 1]))


@pytest.mark.heavy
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine to open the page in")
def test_type_score_and_turn_the_dial(browser, address, models):
    risky, safe = two_that_swap(models["wide"])
    browser.open(address)
    browser.wait("document.querySelectorAll('#model option').length === 3")
    browser.ask("document.querySelector('#prompt').focus()")
    browser.type(PROMPT)
    for number, text in enumerate([risky, safe, "no idea"]):
        browser.ask(f"document.querySelector('#response-{number}').focus()")
        browser.type(text)
    browser.press("Enter", control=True)
    browser.wait("document.querySelectorAll('.ranking li').length === 3")

    reward = models["wide"].predict(PROMPT, [risky, safe, "no idea"])
    by_mean = ["ABC"[i] for i in reward.mean.argsort(descending=True)]
    assert ranking(browser) == by_mean
    assert by_mean.index("A") < by_mean.index("B")
    percents = browser.ask("[...document.querySelectorAll('tbody tr')].map(r => r.children[2].textContent)")
    assert percents[0] == f"{100 * reward[0].prob_greater(reward[1]).item():.0f} %"

    browser.ask("document.querySelector('#dial').focus()")
    browser.press("End")
    worst = parse_utility("cvar:0.01")(reward)
    assert ranking(browser) == ["ABC"[i] for i in worst.argsort(descending=True)]
    assert ranking(browser) != by_mean
    shown = browser.ask("[...document.querySelectorAll('.ranking .value')].map(e => e.textContent)")
    for text, value in zip(shown, worst.sort(descending=True).values.tolist(), strict=True):
        assert float(text.replace("−", "-")) == pytest.approx(value, rel=0.006)
    assert "worst 1.0 %" in browser.ask("document.querySelector('#dial').getAttribute('aria-valuetext')")
    browser.press("Home")
    assert ranking(browser) == by_mean
    assert browser.complaints == []


@pytest.mark.heavy
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine to open the page in")
def test_two_models_side_by_side_in_light_and_dark_and_on_a_phone(browser, address):
    browser.open(address)
    browser.wait("document.querySelectorAll('#second option').length === 4")
    names = browser.ask("[...document.querySelectorAll('#model option')].map(e => e.textContent)")
    assert names == ["wide", "plain <b>", "plain <b>, uncalibrated"], "names are text, not markup"
    browser.ask("document.querySelector('#second').value = '1'")
    browser.ask("document.querySelector('#score').focus()")
    browser.press("Enter")
    browser.wait("document.querySelectorAll('.panel').length === 2")
    assert browser.ask("document.querySelectorAll('.panel svg[role=img][aria-label]').length") == 6
    assert "changes nothing there" in browser.ask("document.querySelector('#blind').textContent")

    light, dark = (picture(browser.look(1100, 1500, scheme)) for scheme in ("light", "dark"))
    assert light.shape == dark.shape == (1500, 1100, 3)
    assert light.mean() > 200 > 80 > dark.mean()
    assert min(colours(light), colours(dark)) > 50, "the page is blank"
    columns = "new Set([...document.querySelectorAll('.panel')].map(e => e.getBoundingClientRect().left)).size"
    assert browser.ask(columns) == 2
    assert colours(picture(browser.look(390, 844))) > 50
    assert browser.ask(columns) == 1
    assert browser.ask("document.documentElement.scrollWidth") == 390, "nothing is wider than a phone"
    assert browser.complaints == []


@pytest.mark.heavy
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine to open the page in")
def test_what_is_missing_is_said_where_it_is_missing(browser, address):
    browser.open(address)
    browser.wait("document.querySelectorAll('#model option').length === 3")
    controls = "[...document.querySelectorAll('input, select, textarea')]"
    unnamed = browser.ask(f"{controls}.filter(e => !e.labels.length).map(e => e.id)")
    assert unnamed == [], "every control has a label"
    browser.ask("document.querySelector('#response-1').focus()")
    browser.type(" ")
    browser.press("Enter", control=True)
    assert browser.ask("document.querySelector('#problem').textContent").startswith("Response B is empty")
    assert browser.ask("document.activeElement.id") == "response-1"
    browser.ask("[...document.querySelectorAll('#responses button')][1].click()")
    assert browser.ask("document.activeElement.tagName") == "TEXTAREA", "the focus is not lost"
    browser.type("long " * 4000)
    browser.press("Enter", control=True)
    browser.wait("document.querySelector('#problem').textContent.includes('max_length')")
    # a refused request is the one thing that the browser itself notes
    assert all("400" in each for each in browser.complaints)


def test_the_page_asks_for_nothing_from_outside():
    for path in PAGE.rglob("*.*"):
        text = path.read_text("utf8").replace('"http://www.w3.org/2000/svg"', "")
        assert not re.findall(r"https?:|//\w+\.\w|innerHTML|eval\(", text), path
    html = (PAGE / "index.html").read_text("utf8")
    for place in re.findall(r'(?:src|href)="(page/[^"]*)"', html):
        assert (PAGE.parent / place).is_file()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_browser_driver_closes_what_it_started(tmp_path):
    with Browser(tmp_path) as made:
        number = made._process.pid
        assert json.loads(made.ask("JSON.stringify([1])")) == [1]
    assert subprocess.run(["kill", "-0", str(number)], capture_output=True).returncode != 0
