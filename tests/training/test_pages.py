"""The pages people open, in a real browser: on a desk, on a phone, in print."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emod.ablating import Ablated
from emod.ablation_report import write_ablation
from emod.catalog import with_overrides
from emod.evaluating import Evaluated
from emod.evaluation_report import write_evaluation
from emod.shards import ShardStore
from emod.sweep_report import write_sweep
from emod.sweeping import Swept
from emod.tuning import SweepTrial
from emod.tuning.trial import TrialPath
from tests.training.tiny_store import METHODS

pytestmark = pytest.mark.browser

SCREENS = {"desk": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def pages(evaluated: Evaluated, evaluation_store: ShardStore) -> dict[str, Path]:
    """The report of an evaluation, and of an ablation on it, where they are written."""
    report = write_evaluation(evaluated, evaluation_store, command="python jobs/evaluate.py --experiment tests")
    arms = "{" + ", ".join(f"{method}: []" for method in METHODS) + "}"
    experiment = with_overrides(
        evaluated.experiment, [f"ablation={{arms: {arms}, benchmarks: {{SEED-IV: []}}}}", "finetune.targets=[emotion]"]
    )
    classes = replace(evaluated, summaries=evaluated.summaries[:1])
    folder = str(Path(evaluated.folder).with_name("ablation"))
    ablated = Ablated(experiment, {"SEED-IV": classes}, {"SEED-IV": report}, folder)
    return {
        "evaluation": Path(report),
        "ablation": Path(write_ablation(ablated, command="python jobs/ablate.py")),
        "sweep": Path(
            write_sweep(new_swept(evaluated), command="python jobs/sweep.py", best_command="python jobs/finetune.py")
        ),
    }


def new_swept(evaluated: Evaluated) -> Swept:
    """Sixteen trials on the evaluation's first fold."""
    space = "{learning_rate: {low: 1.0e-4, high: 0.1, log: true}, dropout: {low: 0, high: 0.5}}"
    experiment = with_overrides(
        evaluated.experiment, [f"sweep={{space: {space}}}", "evaluate=", "finetune.targets=[emotion]"]
    )
    trials = []
    for number in range(1, 17):
        curve = tuple(min(0.9, 0.04 * epoch * (1 + number % 5)) for epoch in range(1, 3 + number % 4))
        path = TrialPath({"learning_rate": 10 ** (-1 - number % 3), "dropout": number / 32})
        ended = f"given up after epoch {len(curve)}"
        trials.append(SweepTrial(number, path, max(curve), len(curve), curve, 2.5 * len(curve), ended))
    trials.append(SweepTrial(17, TrialPath({}), None, 0, ended="failed: the gradient is not finite", failed=True))
    fold = evaluated.folds["emotion"][0]
    folder = str(Path(evaluated.folder).with_name("sweep"))
    return Swept(experiment, fold.target, fold.split, tuple(trials), fold.findings, True, "0" * 32, folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=os.environ["EMOD_BROWSER"], args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(params=SCREENS)
def screen(request: pytest.FixtureRequest, browser: Any) -> Iterator[Any]:
    width, height = SCREENS[request.param]
    context = browser.new_context(viewport={"width": width, "height": height}, is_mobile=request.param == "phone")
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("name", ["evaluation", "ablation", "sweep"])
def test_a_page_fits_its_screen_and_asks_nobody_for_anything(screen: Any, pages: dict[str, Path], name: str) -> None:
    asked, wrong = [], []
    screen.on("request", lambda request: asked.append(request.url))
    screen.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    screen.on("pageerror", lambda error: wrong.append(str(error)))
    address = pages[name].as_uri()
    screen.goto(address)
    assert wrong == []
    assert [url for url in asked if url != address and not url.startswith("data:")] == []
    # Wide tables scroll in a box of their own; the page does not.
    assert screen.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    pictures = screen.evaluate(
        "[...document.images].map(i => [i.alt, i.naturalWidth, i.getBoundingClientRect().width])"
    )
    assert pictures
    for alt, own_width, width in pictures:
        assert alt
        assert own_width > 0, alt
        assert 0 < width <= screen.viewport_size["width"], alt
    sizes = screen.eval_on_selector_all(
        "p, li, td, figcaption", "found => found.map(each => parseFloat(getComputedStyle(each).fontSize))"
    )
    assert min(sizes) >= 12
    assert screen.locator("h1").count() == 1
    assert screen.get_by_text("SIMULATED RECORDINGS").is_visible()


@pytest.mark.parametrize("name", ["evaluation", "ablation", "sweep"])
def test_every_link_leads_somewhere(screen: Any, pages: dict[str, Path], name: str) -> None:
    screen.goto(pages[name].as_uri())
    for place in screen.eval_on_selector_all("a", "links => links.map(link => link.getAttribute('href'))"):
        if place.startswith("#"):
            assert screen.locator(place).count() == 1
        else:
            assert (pages[name].parent / place).is_file(), place


@pytest.mark.parametrize("name", ["evaluation", "ablation", "sweep"])
def test_on_paper_nothing_is_cut_off(browser: Any, pages: dict[str, Path], name: str) -> None:
    """Tables that scroll on a screen are whole in print, and not wider than a sheet."""
    context = browser.new_context(viewport={"width": 680, "height": 960})
    page = context.new_page()
    page.goto(pages[name].as_uri())
    page.emulate_media(media="print")
    tables = page.evaluate("[...document.querySelectorAll('.wide')].map(e => [e.scrollWidth, e.clientWidth])")
    assert tables
    assert [pair for pair in tables if pair[0] > pair[1] + 1] == [], tables
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF")
    context.close()
