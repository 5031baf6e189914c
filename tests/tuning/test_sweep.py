"""Sweeps on a real Ray: a trial is jobs/finetune.py's training, a bad one ends nothing, the best command holds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from emod.catalog import Experiment, with_overrides
from emod.errors import RequestError
from emod.evaluation import divide
from emod.shards import ShardStore, WindowPool
from emod.sweep_report import render_sweep, setting_worth
from emod.sweeping import Swept, plan_sweep, sweep
from emod.training import finetune, load_backbone
from emod.training.finetuner import Finetuner, TrainingRows
from emod.training.networks import new_classifier
from emod.tuning import SweepTrial, trial_experiment, trial_overrides
from emod.tuning.trial import TrialPath
from emod.workflow import on_ray
from tests.servers import mlflow_server

EPOCHS = 4
NOT_TRAINABLE = 1e30


def new_sweep(make_experiment: Callable[..., Experiment], runs: Path | str, **changes: Any) -> Experiment:
    tune = {
        "corpus": "seed_iv",
        "split": {"validation": 0.3, "test": 0.2},
        "backbone": "none",
        "epochs": EPOCHS,
        "batch": 12,
        "max_failures": 1,
    }
    settings = {
        "run_name": "swept",
        "space": {
            "learning_rate": {"choices": [NOT_TRAINABLE, 0.003, 0.03]},
            "dropout": {"low": 0.0, "high": 0.3},
        },
        "search": "random",
        "trials": 5,
        "grace_epochs": 2,
        "reduction": 2,
    }
    return make_experiment(runs, corpora=["seed_iv"], finetune=tune, sweep=settings | changes)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with on_ray(num_cpus=2, quiet=True):
        yield


@pytest.fixture(scope="module")
def swept(
    cluster: None, make_experiment: Callable[..., Experiment], new_runs: Callable[[], tuple[Path, str]], store_url: str
) -> Swept:
    runs, _ = new_runs()
    experiment = new_sweep(make_experiment, runs)
    return sweep(experiment, ShardStore.open(store_url), load_backbone(experiment))


def curve_alone(experiment: Experiment, store: ShardStore) -> list[float]:
    """A training in this process, which is handed training and validation windows and nothing else."""
    settings = experiment.finetune
    assert settings is not None
    pool = WindowPool(store, settings.corpora)
    target, whole = divide(pool.metadata, settings, "emotion")
    backbone = load_backbone(experiment).model
    torch.manual_seed(experiment.seed)
    network = new_classifier(backbone, target, settings)
    rows = TrainingRows.of(whole.keep(target.rows))
    finetuner = Finetuner(network, pool, settings, target, rows, seed=experiment.seed, device=torch.device("cpu"))
    return [report.criterion for report in finetuner.epochs()]


def test_every_trial_is_the_training_of_its_settings_on_two_roles_alone(swept: Swept, store: ShardStore) -> None:
    trained = [trial for trial in swept.trials if trial.curve]
    assert len(trained) >= 3
    for trial in trained:
        alone = curve_alone(trial_experiment(swept.experiment, trial.path), store)
        assert list(trial.curve) == alone[: len(trial.curve)]
        assert trial.score == max(trial.curve)


def test_a_trial_that_cannot_be_trained_ends_nothing(swept: Swept) -> None:
    """Whatever diverges is told apart, with its reason, and the rest goes on."""
    assert [trial.number for trial in swept.trials] == [1, 2, 3, 4, 5]
    bad = [trial for trial in swept.trials if trial.path.values["learning_rate"] == NOT_TRAINABLE]
    assert bad
    for trial in swept.trials:
        assert trial.failed == (trial in bad)
    for trial in bad:
        assert trial.score is None
        assert "the gradient is not finite" in trial.ended


def test_some_are_given_up_and_it_costs_less(swept: Swept) -> None:
    trained = [trial for trial in swept.trials if trial.curve]
    lengths = {len(trial.curve) for trial in trained}
    assert EPOCHS in lengths
    assert lengths <= {2, EPOCHS}  # rungs, and the end
    for trial in swept.trials:
        if 0 < len(trial.curve) < EPOCHS:
            assert trial.ended == f"given up after epoch {len(trial.curve)}"
    # Whoever is best at the rung goes on.
    at_rung = {trial.number: max(trial.curve[:2]) for trial in trained}
    assert max(at_rung[trial.number] for trial in trained if len(trial.curve) == EPOCHS) == max(at_rung.values())
    assert swept.epochs == sum(len(trial.curve) for trial in swept.trials) < swept.epochs_in_full


@pytest.mark.long
def test_the_best_ones_command_ends_with_the_same_result(
    swept: Swept, store: ShardStore, new_runs: Callable[[], tuple[Path, str]]
) -> None:
    """Through Ray Train's workers, as jobs/finetune.py does it."""
    runs, uri = new_runs()
    best = with_overrides(swept.experiment, [*trial_overrides(swept.best.path), f"addresses.runs={runs}"])
    run_id = MlflowClient(uri).create_run("0").info.run_id
    tuned = finetune(
        best, store, load_backbone(best), "emotion", tracking=(uri, run_id), advance=lambda steps=1, note="": None
    )
    assert (tuned.validation_score, tuned.best_epoch) == (swept.best.score, swept.best.best_epoch)


def test_mlflow_has_a_run_for_each_trial_below_the_sweeps(swept: Swept) -> None:
    client = MlflowClient(f"sqlite:///{swept.experiment.addresses.runs_url()}/mlflow.db")
    parent = client.get_run(swept.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best/score"] == swept.best.score
    assert parent.data.metrics["cost/epochs"] == swept.epochs
    assert " ".join(trial_overrides(swept.best.path)) == parent.data.tags["emod.best_settings"]
    children = client.search_runs(
        [parent.info.experiment_id], filter_string=f"tags.`mlflow.parentRunId` = '{swept.run_id}'"
    )
    by_name = {run.info.run_name: run for run in children}
    assert sorted(by_name) == [f"swept/{trial.number:03d}" for trial in swept.trials]
    for trial in swept.trials:
        run = by_name[f"swept/{trial.number:03d}"]
        assert run.data.tags["emod.ended"] == trial.ended
        assert run.info.status == ("FAILED" if trial.failed else "FINISHED")
        assert run.data.params == {name: str(value) for name, value in trial.path.values.items()}
        if trial.curve:
            history = client.get_metric_history(run.info.run_id, "validation")
            assert [(point.step, point.value) for point in history] == list(enumerate(trial.curve, start=1))
            assert run.data.metrics["cost/epochs"] == len(trial.curve)
            assert run.data.metrics["score"] == trial.score


@pytest.mark.browser
def test_mlflows_own_pages_draw_the_trials(swept: Swept, tmp_path: Path) -> None:
    """In the list of runs; side by side, with every setting an axis of the parallel coordinates; as contours."""
    from playwright.sync_api import sync_playwright

    database = Path(swept.experiment.addresses.runs_url()) / "mlflow.db"
    client = MlflowClient(f"sqlite:///{database}")
    number = client.get_run(swept.run_id).info.experiment_id
    below = client.search_runs([number], filter_string=f"tags.`mlflow.parentRunId` = '{swept.run_id}'")
    runs = quote(json.dumps([run.info.run_id for run in below]))
    with mlflow_server(database, tmp_path) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["EMOD_BROWSER"], args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 1300})
        page.goto(f"{address}/#/experiments/{number}/runs")
        page.get_by_role("link", name="swept", exact=True).wait_for()
        assert page.get_by_text(f"{len(below) + 1} matching runs").is_visible()
        page.goto(f"{address}/#/compare-runs?runs={runs}&experiments={quote(json.dumps([number]))}")
        page.get_by_text(f"Comparing {len(below)} Runs").wait_for()
        page.locator(".parcoords").first.wait_for()
        axes = page.locator(".parcoords .axis-title").all_text_contents()
        assert set(swept.settings.space) <= set(axes)
        page.get_by_role("tab", name="Contour Plot").click()
        # Its y-axis; of the learning rates of these trials there are too few.
        page.get_by_text("learning_rate", exact=True).first.click()
        page.get_by_role("option", name="score", exact=True).click()
        page.locator(".js-plotly-plot .ytitle").get_by_text("score").wait_for()
        assert page.locator(".js-plotly-plot .contour").count() > 0
        browser.close()


def test_the_same_command_again_trains_nothing(swept: Swept, store: ShardStore) -> None:
    again = sweep(swept.experiment, store, load_backbone(swept.experiment))
    assert again.trials == swept.trials
    assert again.run_id == swept.run_id


@pytest.mark.usefixtures("cluster")
def test_the_name_belongs_to_one_sweep(swept: Swept, store: ShardStore) -> None:
    other = with_overrides(swept.experiment, ["sweep.trials=7"])
    with pytest.raises(RequestError, match=r"made with sweep\.trials = 5, not 7"):
        sweep(other, store, load_backbone(other))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("finetune.targets=[emotion, valence]", "a sweep tunes one target"),
        ("finetune.method=eegnet", "a sweep tunes emod"),
        ("finetune.from_epoch={2: {learning_rate: 0.1}}", "it is what a sweep finds"),
        ("sweep=null", "has no sweep section"),
    ],
)
def test_what_is_no_sweep_is_refused(swept: Swept, store: ShardStore, override: str, words: str) -> None:
    other = with_overrides(swept.experiment, [override])
    with pytest.raises(RequestError, match=words):
        plan_sweep(other, store)


def test_the_page_says_what_a_person_asks(swept: Swept) -> None:
    page = render_sweep(swept, command="python jobs/sweep.py", best_command="python jobs/finetune.py --set a=<b>")
    assert page.startswith("<!DOCTYPE html>")
    for words in ("SIMULATED RECORDINGS", "python jobs/finetune.py --set a=&lt;b&gt;", "given up", "not read"):
        assert words in page
    assert page.count("data:image/svg+xml;base64,") >= 3
    assert "http://" not in page
    assert "https://" not in page


def test_a_setting_that_is_off_in_some_trials_is_no_obstacle(swept: Swept) -> None:
    """Patience varies where classes are balanced; elsewhere it is null, which no axis has a place for."""
    space = (
        "{class_weights: {choices: [balanced, none]}, patience: {low: 2, high: 9, when: {class_weights: [balanced]}}}"
    )
    experiment = with_overrides(swept.experiment, [f"sweep.space={space}"])
    trials = []
    for number in range(1, 17):
        values = {"class_weights": "balanced", "patience": 2 + number % 8} if number % 2 else {"class_weights": "none"}
        trials.append(SweepTrial(number, TrialPath(values), number / 20, 1, (number / 20,), 1.0, "trained to its end"))
    changed = replace(swept, experiment=experiment, trials=tuple(trials))
    assert setting_worth(changed).keys() <= {"class_weights", "patience"}
    assert "Score against each setting" in render_sweep(changed, command="a", best_command="b")


def worth(swept: Swept, score: Callable[[int, float], float]) -> dict[str, float]:
    """Of trials whose scores follow a rule."""
    trials = []
    for number in range(1, 31):
        dropout = (number * 7 % 30) / 100
        rate = (0.003, 0.03)[number % 2]
        path = TrialPath({"learning_rate": rate, "dropout": dropout})
        trials.append(SweepTrial(number, path, score(number, dropout), 1, (score(number, dropout),), 1.0, "trained"))
    return setting_worth(replace(swept, trials=tuple(trials)))


def test_worth_goes_to_the_setting_that_scores_follow(swept: Swept) -> None:
    of_dropout = worth(swept, lambda number, dropout: dropout)
    of_rate = worth(swept, lambda number, dropout: float(number % 2) + number / 1e4)
    assert of_dropout["dropout"] > 0.9
    assert of_rate["learning_rate"] > 0.9
    assert worth(swept, lambda number, dropout: 0.5) == {}


DRIVER = """
import os, sys
sys.path.insert(0, {root!r})
from emod.catalog import Experiment
from emod.shards import ShardStore
from emod.sweeping import sweep, record_of
from emod.training import load_backbone
from emod.tuning.trial import TrialPath
from emod.workflow import on_ray
import json
experiment = Experiment.model_validate_json(open({experiment!r}).read())
with on_ray(num_cpus=2, quiet=True):
    swept = sweep(experiment, ShardStore.open(experiment.addresses.store_url()), load_backbone(experiment))
open({answer!r}, "w").write(json.dumps([record_of(trial) for trial in swept.trials]))
"""


def drive(experiment: Experiment, folder: Path, kill_when: Callable[[], bool] | None = None) -> list[dict[str, Any]]:
    """A sweep in a process of its own, killed with all that it started once that is so."""
    folder.mkdir(exist_ok=True)
    (folder / "experiment.json").write_text(experiment.model_dump_json())
    answer = folder / "answer.json"
    script = DRIVER.format(
        root=str(Path(__file__).parents[2] / "platform"),
        experiment=str(folder / "experiment.json"),
        answer=str(answer),
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, start_new_session=True)
    if kill_when is None:
        assert process.wait(timeout=900) == 0
        return json.loads(answer.read_text())
    while not kill_when():
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not answer.exists()
    return []


def runs_of(client: MlflowClient) -> list[Run]:
    """Trials in MLflow."""
    found = client.get_experiment_by_name("tests")
    if found is None:
        return []
    return list(client.search_runs([found.experiment_id], filter_string="tags.`emod.stage` = 'trial'"))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_sweep_that_is_killed_goes_on(
    make_experiment: Callable[..., Experiment],
    new_runs: Callable[[], tuple[Path, str]],
    tmp_path: Path,
    store: ShardStore,
) -> None:
    """Trials that had ended are kept as they were; the others are what an undisturbed training gives."""
    runs, uri = new_runs()
    experiment = new_sweep(make_experiment, runs, trials=6, stopping="none")
    client = MlflowClient(uri)

    def ended() -> list[str]:
        return [run.info.run_id for run in runs_of(client) if run.info.status in ("FINISHED", "FAILED")]

    drive(experiment, tmp_path / "first", kill_when=lambda: len(ended()) >= 3)
    before = set(ended())
    trials = drive(experiment, tmp_path / "second")
    assert [trial["number"] for trial in trials] == [1, 2, 3, 4, 5, 6]
    assert before <= set(ended())
    assert len(ended()) == 6  # one run a trial: none was started again under another name
    for trial in trials:
        if not trial["failed"]:
            path = ["sweep=", *(f"finetune.{name}={value}" for name, value in trial["path"]["values"].items())]
            (run,) = [each for each in runs_of(client) if each.info.run_name.endswith(f"{trial['number']:03d}")]
            history = client.get_metric_history(run.info.run_id, "validation")
            assert [(point.step, point.value) for point in history] == list(enumerate(trial["curve"], start=1))
            assert trial["ended"] == f"trained to its end, epoch {EPOCHS}"
            assert trial["curve"] == curve_alone(with_overrides(experiment, path), store)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("cluster")
def test_a_populations_best_trial_is_replayed_to_the_same_weights(
    make_experiment: Callable[..., Experiment], new_runs: Callable[[], tuple[Path, str]], store: ShardStore
) -> None:
    """It took over weights and changed settings on the way; its command alone gives the same curve."""
    runs, _ = new_runs()
    space = {
        "learning_rate": {"low": 1e-4, "high": 0.05, "log": True},
        "weight_decay": {"low": 1e-5, "high": 0.1, "log": True},
    }
    experiment = new_sweep(make_experiment, runs, search="population", space=space, trials=4, interval_epochs=2)
    swept = sweep(experiment, store, load_backbone(experiment))
    assert len(swept.trials) == 4
    changed = [trial for trial in swept.trials if trial.path.from_epoch]
    assert changed, "nobody took over"
    for trial in swept.trials:
        assert len(trial.curve) == EPOCHS
        replayed = curve_alone(trial_experiment(experiment, trial.path), store)
        assert list(trial.curve) == replayed
        for changes in trial.path.from_epoch.values():
            for name, value in changes.items():
                assert space[name]["low"] <= value <= space[name]["high"]  # type: ignore[index]
