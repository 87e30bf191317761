"""The model card of an exported folder: what it predicts, how to run it, what it must print, how good it is.

Every number in it comes from the model, its golden scores or the run's own ``result.json``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

import poise.report
from poise.data.sources import SUFFIXES
from poise.errors import ConfigError
from poise.evaluation.result import EvaluationResult
from poise.model import RewardModel
from poise.model_folder import run_of
from poise.output import replacing
from poise.publication import use
from poise.publication.forms import PlainForm
from poise.publication.golden import PlainGolden
from poise.report import tables
from poise.report.extras import missing_packages
from poise.report.figures import reliability_panel
from poise.run_folder import RECIPE, RESULT
from poise.version import __version__

README, RELIABILITY = "README.md", Path("figures") / "reliability.svg"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
LICENSES = re.compile(r"[a-z0-9][a-z0-9.+-]*")
PLACES = re.compile(r"(?<![\w/.])/(?:[^\s,/]+/)+")
REPORTED = ("accuracy", "nll", "brier", "ece")


@dataclass(frozen=True)
class About:
    """What the card says beyond the model: held-out ``result``, training ``data``, ``license`` (as the hub names it)."""

    name: str = "reward-model"
    result: EvaluationResult | None = None
    recipe: str = ""
    base_model: str | None = None
    data: tuple[str, ...] = ()
    license: str | None = None

    def __post_init__(self) -> None:
        if self.license is not None and not LICENSES.fullmatch(self.license):
            raise ConfigError(f"license {self.license!r} is no identifier of the hub; give one like apache-2.0 or mit")

    @classmethod
    def of_run(cls, folder: Path, license: str | None = None) -> About:
        """What a run folder knows; a checkpoint without its run leaves all but the licence open."""
        run = run_of(folder)
        result = EvaluationResult.load(run / RESULT) if (run / RESULT).exists() else None
        if result is not None:
            data = result.data.model_copy(update={"source": _without_places(result.data.source)})
            result = result.model_copy(update={"data": data})
        if not (run / RECIPE).exists():
            return cls(run.name, result, license=license)
        recipe = _without_places(yaml.safe_load((run / RECIPE).read_text(encoding="utf8")))
        text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
        base, train = recipe.get("backbone", {}).get("name"), recipe.get("data", {}).get("train") or []
        return cls(
            recipe.get("name") or run.name,
            result,
            text,
            base if _is_hub_id(str(base)) else None,
            tuple(str(source) for source in train),
            license,
        )


def _without_places(value: Any) -> Any:
    """The same with absolute paths cut down to their last part: a card says nothing about the machine it was made on."""
    if isinstance(value, dict):
        return {key: _without_places(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_places(each) for each in value]
    return PLACES.sub("", value) if isinstance(value, str) else value


def _is_hub_id(name: str) -> bool:
    return HUB_ID.fullmatch(name) is not None and not name.endswith(SUFFIXES) and not Path(name).exists()


def write_card(
    folder: Path, model: RewardModel, form: PlainForm | None, about: About, golden: Sequence[PlainGolden] = ()
) -> None:
    """Write README.md and its figures; ``form`` None is a folder that poise itself loads."""
    drawn = about.result is not None and bool(about.result.reliability) and missing_packages() is None
    if drawn and about.result is not None:
        (folder / RELIABILITY).parent.mkdir(exist_ok=True)
        (folder / RELIABILITY).write_text(_standalone(about.result), encoding="utf8")
    parts = [
        f"---\n{_front_matter(model, form, about)}\n---\n",
        f"# {about.name}\n",
        use.what_it_is(model, form),
        use.quick_start(model, form, golden),
        use.how_to_read(form),
        use.expected(form, golden),
        use.text_rules(model, form),
        _evaluation(about.result, drawn),
        _training(model, about),
    ]
    with replacing(folder / README) as temporary:
        temporary.write_text("\n".join(part for part in parts if part), encoding="utf8")


def _front_matter(model: RewardModel, form: PlainForm | None, about: About) -> str:
    data = ModelCardData(
        library_name="poise" if form is None else "transformers",
        pipeline_tag="text-classification",
        base_model=about.base_model,
        datasets=[source for source in about.data if _is_hub_id(source)] or None,
        license=about.license,
        tags=["reward-model", "poise", model.method.name] + (["distributional"] if form is None or form.reads else []),
        model_name=about.name if about.result else None,
        eval_results=_results(about.result) or None,
    )
    return str(data.to_yaml()).strip()


def _results(result: EvaluationResult | None) -> list[EvalResult]:
    if result is None:
        return []
    return [
        EvalResult(
            task_type="text-classification",
            task_name="Reward modeling",
            dataset_name=result.data.source,
            dataset_type=re.sub(r"[^\w./-]+", "-", result.data.source),
            metric_type=name,
            metric_value=round(result.metrics[name].value, 6),
            metric_name=tables.MEASURES[name].label,
        )
        for name in REPORTED
        if name in result.metrics
    ]


def _evaluation(result: EvaluationResult | None, drawn: bool) -> str:
    if result is None:
        return "## Evaluation\n\nThe run this was exported from has no held-out evaluation.\n"
    header = ["", "", "value", "95 % interval", "read against", ""]
    rows = [
        [row.label, row.better, row.value, row.interval, row.baseline_label, row.baseline]
        for row in tables.metric_rows(result)
    ]
    about = f"{result.data.rows:,} held-out pairs over {result.data.prompts:,} prompts of {result.data.source}."
    figure = f"\n![Reliability diagram: stated confidence against the share that came true]({RELIABILITY.as_posix()})\n"
    table = tables.markdown_table(header, rows, numeric=(2, 3, 5))
    return f"## Evaluation\n\n{about}\n\n{table}{figure if drawn else ''}"


def _training(model: RewardModel, about: About) -> str:
    facts = model.facts()
    pairs = model.calibration.pairs if model.calibration else None
    rows = [
        ["method", f"{model.method.name}: {model.method.reference}"],
        ["backbone", f"{_without_places(facts['backbone'])} ({facts['dtype']}, {facts['pooling']} state)"],
        ["data", ", ".join(about.data) or "not recorded"],
        ["calibration", "none" if pairs is None else f"{pairs.method}, on held-out pairs"],
        ["chat template and encoding", f"sha256 {facts['template_sha256']}"],
        ["written by", f"poise {__version__}"],
    ]
    recipe = f"\n<details><summary>Recipe</summary>\n\n```yaml\n{about.recipe.strip()}\n```\n\n</details>\n"
    table = tables.markdown_table(["", ""], rows)
    return f"## Training\n\n{table}{recipe if about.recipe else ''}"


def _standalone(result: EvaluationResult) -> str:
    """The report's diagram as a file of its own: always on white, since a card does not know its page's colours."""
    svg = reliability_panel("reliability", result).svg
    style = (Path(poise.report.__file__).parent / "style.css").read_text(encoding="utf8")
    colours = re.sub(r"color-scheme:[^;]*;", "", style[: style.index("}") + 1])
    opening, rest = svg.split(">", 1)
    return (
        f'{opening.replace("<svg", "<svg xmlns=" + chr(34) + "http://www.w3.org/2000/svg" + chr(34), 1)} width="560">'
        f'<style>{colours}</style><rect width="100%" height="100%" fill="#ffffff"/>{rest}\n'
    )
