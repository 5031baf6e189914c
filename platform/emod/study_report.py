"""What a person sees at the end of a study: a table in the paper's form, a chart, and every value as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
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
    simulated = any(result.simulated for result in results)
    table = {
        f"effect {world}" if study.effects else world: compare_arms(
            {arm: [r.balanced_accuracy for r in results if (r.effect, r.arm) == (world, arm)] for arm in study.arms}
        )
        for world in study.worlds
    }
    console = Console(width=None if Console().is_terminal else 140)
    origin = "SIMULATED recordings: these numbers say nothing about people" if simulated else "real recordings"
    shown = Table(title=f"Balanced accuracy on {finetune.corpus}, % ({origin})", box=box.SIMPLE, title_justify="left")
    shown.add_column("arm")
    for world in table:
        shown.add_column(world, justify="right")
    first = next(iter(study.arms))
    for number, arm in enumerate(study.arms):
        scores = [table[world][number] for world in table]
        shown.add_row(arm, *(f"{100 * score.mean:.1f} / {_percent(score.sd)}" for score in scores))
        if arm != first:
            shown.add_row(
                f"  less {first}",
                *(f"{_percent(s.difference, '+')} [{_percent(s.low, '+')}, {_percent(s.high, '+')}]" for s in scores),
                style="dim",
            )
    console.print(shown)
    chance = float(np.mean([result.chance for result in results]))
    others = ", ".join(corpus for corpus in experiment.corpora if corpus != finetune.corpus)
    notes = (
        f"Pretrained on {others}; fine-tuned on {_windows(results, 'train')} windows of {finetune.corpus}, tested on "
        f"{_windows(results, 'test')} of other subjects."
    )
    console.print(
        f"mean / standard deviation over {study.seeds} seeds; differences with a 95 % t interval over seeds (which "
        "split the same subjects anew, so it is none over people; each is of one comparison); "
        f"chance {100 * chance:.1f}. {notes}",
        highlight=False,
    )
    folder.mkdir(parents=True, exist_ok=True)
    draw_comparison(
        table,
        folder / "study.png",
        simulated=simulated,
        chance=chance,
        title=f"{experiment.name}: fine-tuned on {finetune.corpus}",
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


def _percent(share: float | None, sign: str = "") -> str:
    """A dash for what a single seed does not say."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:{sign}.1f}"


def _windows(results: list[CellResult], role: str) -> str:
    counts = [result.windows[role] for result in results]
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
