"""What a person sees at the end of a study: a table in the paper's form, a chart, and every value as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from emod.catalog import Experiment
from emod.evaluation import compare_arms, draw_comparison
from emod.storage import redact
from emod.training.study import CellResult, settings_of
from emod.workflow import uri_of

__all__ = ["show_study"]


def show_study(experiment: Experiment, results: list[CellResult], folder: Path, *, seconds: float) -> None:
    """Prints a study's table, in the paper's form, and writes it with every value (study.json) and as a chart."""
    study, finetune = settings_of(experiment)
    simulated = bool(study.effects)
    table = {
        effect: compare_arms(
            {arm: [r.balanced_accuracy for r in results if (r.effect, r.arm) == (effect, arm)] for arm in study.arms}
        )
        for effect in dict.fromkeys(result.effect for result in results)
    }
    console = Console(width=None if Console().is_terminal else 140)
    origin = "SIMULATED recordings: these numbers say nothing about people" if simulated else "real recordings"
    shown = Table(title=f"Balanced accuracy on {finetune.corpus}, % ({origin})", box=box.SIMPLE, title_justify="left")
    shown.add_column("arm")
    for effect in table:
        shown.add_column(f"effect {effect}" if simulated else effect, justify="right")
    first = next(iter(study.arms))
    for number, arm in enumerate(study.arms):
        scores = [table[effect][number] for effect in table]
        shown.add_row(arm, *(f"{100 * score.mean:.1f} / {100 * score.sd:.1f}" for score in scores))
        if arm != first:
            shown.add_row(
                f"  less {first}",
                *(f"{100 * s.difference:+.1f} [{100 * s.low:+.1f}, {100 * s.high:+.1f}]" for s in scores),  # type: ignore[operator]
                style="dim",
            )
    console.print(shown)
    windows = results[0].windows
    others = ", ".join(corpus for corpus in experiment.corpora if corpus != finetune.corpus)
    notes = (
        f"Pretrained on {others}; fine-tuned on {windows['train']} windows of {finetune.corpus}, tested on "
        f"{windows['test']} of other subjects."
    )
    console.print(
        f"mean / standard deviation over {study.seeds} seeds; differences with a 95 % t interval over seeds; "
        f"chance {100 * results[0].chance:.1f}. {notes}",
        highlight=False,
    )
    folder.mkdir(parents=True, exist_ok=True)
    draw_comparison(
        table,
        folder / "study.png",
        simulated=simulated,
        chance=results[0].chance,
        title=f"{experiment.name}: {' '.join(study.arms)}",
        notes=notes,
    )
    rows = [asdict(result) for result in results]
    (folder / "study.json").write_text(json.dumps({"simulated": simulated, "cells": rows}, indent=1), encoding="utf-8")
    console.print(f"written     {folder / 'study.png'}, {folder / 'study.json'}", highlight=False)
    console.print(
        f"MLflow      mlflow ui --backend-store-uri {redact(uri_of(experiment))}", highlight=False, soft_wrap=True
    )
    computed = sum(result.seconds for result in results) / 3600
    console.print(f"took        {seconds / 60:.1f} minutes; {computed:.1f} hours of one CPU in all", highlight=False)
