"""What a person sees of a sweep: the best trial and its command; a page with curves, score and cost, what matters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from rich.console import Console

from emod import storage
from emod.catalog import Dimension
from emod.evaluation.sweep_pictures import draw_frontier, draw_settings, draw_trial_curves, draw_worth
from emod.page import (
    add_banner,
    add_element,
    add_facts,
    add_figure,
    add_section,
    add_table,
    new_page,
    number_of,
    render_page,
)
from emod.sweeping import Swept
from emod.tuning import SweepTrial
from emod.tuning.table import trial_table
from emod.workflow import uri_of

__all__ = ["print_sweep", "render_sweep", "setting_worth", "write_sweep"]

# Of fewer trials, or of fewer scores that differ, no importance can be told.
_LEAST_TRIALS = 6


def print_sweep(swept: Swept, *, best_command: str, report: str, seconds: float) -> None:
    """Prints the trials, best first, what the best one's command is, and where the rest is."""
    console = Console(width=None if Console().is_terminal else 160)
    if swept.simulated:
        console.print("SIMULATED recordings: these numbers say nothing about people", style="bold")
    table = trial_table(list(swept.settings.space), f"{swept.experiment.name}: validation {_criterion(swept)}")
    for trial in _ordered(swept):
        table.add_row(*_row(swept, trial))
    console.print(table)
    console.print(
        f"cost        {swept.epochs} epochs, {swept.epochs / swept.epochs_in_full:.0%} of "
        f"{len(swept.trials)} trainings to their end; test windows were not read",
        highlight=False,
    )
    for label, text in (
        ("best", f"trial {swept.best.number:03d}, epoch {swept.best.best_epoch}; on its test windows, once:"),
        ("", best_command),
        ("report", storage.redact(report)),
        ("MLflow", f"mlflow ui --backend-store-uri {storage.redact(uri_of(swept.experiment))}"),
    ):
        console.print(f"{label:<12}{text}", highlight=False, soft_wrap=True)
    console.print(f"took        {seconds / 60:.1f} minutes", highlight=False)


def write_sweep(swept: Swept, *, command: str, best_command: str) -> str:
    """Writes the page into the sweep's folder; returns its address."""
    url = storage.join(swept.folder, "report.html")
    page = render_sweep(swept, command=command, best_command=best_command, when=datetime.now().astimezone())
    storage.write_bytes(url, page.encode())
    return url


def render_sweep(swept: Swept, *, command: str, best_command: str, when: datetime | None = None) -> str:
    """The page as one HTML document."""
    settings, best = swept.settings, swept.best
    criterion = _criterion(swept)
    html, header, main = new_page(
        f"{swept.experiment.name}: sweep",
        f"{swept.experiment.name}: {number_of(len(swept.trials), 'trial')}, best {criterion} {best.score:.3f}",
        swept.experiment.description,
        simulated=swept.simulated,
    )
    if swept.simulated:
        add_banner(header, "SIMULATED RECORDINGS", "Nothing on this page says anything about people.")
    known = [trial for trial in _ordered(swept) if trial.score is not None]
    section = add_section(main, "The best trial", "best")
    add_element(
        section,
        "p",
        f"Trial {best.number:03d} reached {criterion} {best.score:.3f} on the validation windows at epoch "
        f"{best.best_epoch}. It was chosen among {len(swept.trials)} by that number, so on new windows expect less. "
        "This trains it again and reads the test windows, once:",
    )
    add_element(add_element(section, "p"), "code", best_command)
    given_up = sum(not trial.failed and not trial.ended.startswith("trained") for trial in swept.trials)
    add_facts(
        section,
        (
            ("cost", f"{number_of(swept.epochs, 'epoch')}, {swept.epochs / swept.epochs_in_full:.0%} of all in full"),
            ("given up early", number_of(given_up, "trial")),
            ("failed", number_of(sum(trial.failed for trial in swept.trials), "trial")),
            ("search", settings.search),
            ("stopping", _stopping(swept)),
        ),
    )
    section = add_section(main, "Pictures", "pictures")
    pictures = add_element(section, "div", cls="pictures")
    add_figure(
        pictures,
        "Learning curves",
        draw_trial_curves({f"{trial.number:03d}": trial.curve for trial in known}, criterion),
        "Best score so far on the validation windows; a cross ends a trial that is not among the best five.",
        "",
    )
    names = [f"{trial.number:03d}" for trial in known]
    scores = [trial.score for trial in known if trial.score is not None]
    add_figure(
        pictures,
        "Score against cost",
        draw_frontier(names, [trial.seconds for trial in known], scores, criterion),
        "Every trial; the line joins those that no cheaper one beats.",
        "",
    )
    worth = setting_worth(swept)
    add_figure(
        pictures,
        "What the settings are worth",
        draw_worth(worth) if worth else None,
        "Share of the scores' variance that each setting explains by itself and with others (fANOVA in Optuna: Hutter, "
        "Hoos and Leyton-Brown 2014). A trial that was given up counts with the score it had.",
        f"With fewer than {_LEAST_TRIALS} trials, or equal scores, nothing can be said of the settings.",
    )
    values = {
        name: [math.nan if _is_off(swept, trial, [name]) else _value(swept, trial, name) for trial in known]
        for name in settings.space
    }
    log = [name for name, dimension in settings.space.items() if dimension.log]
    section = add_section(main, "Score against each setting", "settings")
    add_figure(
        section,
        "Every trial",
        draw_settings(values, scores, log=log, criterion=criterion),
        "The ring is the best trial. A setting that a trial did not vary stands at what the experiment says.",
        "",
    )
    section = add_section(main, "Trials", "trials")
    headings = ["trial", *(name.replace("_", " ") for name in settings.space), "epochs", "best score", "seconds", "end"]
    rows = [_row(swept, trial) for trial in _ordered(swept)]
    add_table(add_element(section, "div", cls="wide"), headings, rows, text=1, last_text=1)
    section = add_section(main, "How it was made", "provenance")
    add_element(section, "p", "The command, which goes on where it was stopped:")
    add_element(add_element(section, "p"), "code", command)
    accepted = sorted({finding.code for finding in swept.findings if finding.accepted_by == "user"})
    windows = swept.split.record()["windows"]
    add_facts(
        section,
        (
            ("written", f"{when:%Y-%m-%d %H:%M %Z}".strip() if when else None),
            ("target", f"{swept.target.name}: {swept.target.rule}"),
            ("split", f"{swept.split.protocol}, hash {swept.split.hash}"),
            ("windows", f"{windows['train']} train, {windows['validation']} choose; {windows['test']} not read"),
            ("leaks accepted", ", ".join(accepted)),
            ("run", swept.run_id),
        ),
    )
    return render_page(html)


def setting_worth(swept: Swept) -> dict[str, float]:
    """Setting -> share of the scores' variance that it explains; empty where that cannot be told."""
    space = swept.settings.space
    known = [trial for trial in swept.trials if trial.score is not None and not _is_off(swept, trial, space)]
    if len(known) < _LEAST_TRIALS or len({trial.score for trial in known}) < 3:
        return {}
    study = optuna.create_study(direction="maximize")
    for trial in known:
        values = {name: _value(swept, trial, name) for name in space}
        study.add_trial(
            optuna.trial.create_trial(
                params=values,
                distributions={
                    name: _distribution(dimension, [_value(swept, other, name) for other in known])
                    for name, dimension in space.items()
                },
                value=trial.score,
            )
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _distribution(dimension: Dimension, values: Sequence[Any]) -> BaseDistribution:
    """Wide enough for what trials were trained with where they did not vary it."""
    if dimension.choices is not None:
        return CategoricalDistribution(list(dict.fromkeys([*dimension.choices, *values])))
    assert dimension.low is not None
    assert dimension.high is not None
    low, high = min(dimension.low, *values), max(dimension.high, *values)
    return FloatDistribution(float(low), float(high), log=dimension.log and low > 0)


def _value(swept: Swept, trial: SweepTrial, name: str) -> Any:
    """What a trial began with."""
    return trial.path.values.get(name, getattr(swept.experiment.finetune, name))


def _is_off(swept: Swept, trial: SweepTrial, names: Iterable[str]) -> bool:
    """Whether one of them, such as patience, has no value that could be compared."""
    return any(_value(swept, trial, name) is None for name in names)


def _row(swept: Swept, trial: SweepTrial) -> list[str]:
    values = [str(trial.path.values.get(name, "")) for name in swept.settings.space]
    score = "" if trial.score is None else f"{trial.score:.3f}"
    return [f"{trial.number:03d}", *values, str(len(trial.curve)), score, f"{trial.seconds:.0f}", trial.ended]


def _ordered(swept: Swept) -> list[SweepTrial]:
    """Best first; what failed last."""
    return sorted(swept.trials, key=lambda trial: (trial.score is None, -(trial.score or 0), len(trial.curve)))


def _criterion(swept: Swept) -> str:
    return "kappa" if swept.target.points is None else "concordance"


def _stopping(swept: Swept) -> str:
    settings = swept.settings
    if settings.search == "population":
        return f"none; the worst take over from the best each {settings.interval_epochs} epochs"
    return f"ASHA from epoch {settings.grace_epochs}, one in {settings.reduction} goes on" if settings.stops else "none"
