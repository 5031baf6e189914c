"""What a person sees at the end of the main job: a folder of pictures and a short table.

It reads what the job left (store, MLflow run, outcomes) and computes nothing anew but one recording's cleaning.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from rich import box
from rich.console import Console
from rich.table import Table

from emod.catalog import Experiment, load_corpus
from emod.corpora import open_corpus
from emod.evaluation import (
    Evaluation,
    PlaneEvaluation,
    draw_cleaning,
    draw_confusion,
    draw_loss,
    draw_plane,
    draw_results,
    draw_spectrum,
)
from emod.ingest.report import report_url
from emod.shards import ShardStore
from emod.signal.clean import clean_recording
from emod.storage import redact
from emod.workflow import FinetuneOutcome, summarise, uri_of

__all__ = ["draw_pictures", "print_summary"]

# Enough for a smooth spectrum.
_SPECTRUM_TRIALS = 300


def draw_pictures(
    experiment: Experiment, store: ShardStore, pretrain_run_id: str, outcomes: list[FinetuneOutcome], folder: Path
) -> list[Path]:
    """Draws the main job's pictures into a folder and returns their paths, in the order in which to look at them."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus = outcomes[0].corpus
    simulated = store.is_simulated(experiment.corpora)
    drawn = [folder / "cleaning.png", folder / "alpha.png", folder / "plane.png", folder / "loss.png"]
    _draw_cleaning(experiment, corpus, drawn[0], simulated=store.manifest.corpora[corpus].simulated)
    _draw_alpha(store, corpus, drawn[1])
    draw_plane({name: store.metadata(name) for name in experiment.corpora}, drawn[2], simulated=simulated)
    _draw_loss(experiment, pretrain_run_id, drawn[3], simulated=simulated)
    told = [outcome.evaluation for outcome in outcomes if isinstance(outcome.evaluation, Evaluation)]
    for evaluation in told:
        drawn.append(folder / f"confusion-{evaluation.target}.png")
        draw_confusion(
            evaluation.scores,
            drawn[-1],
            simulated=simulated,
            title=f"{load_corpus(corpus).name}, {evaluation.target}: {_who_tests(outcomes)}",
            interval=evaluation.interval,
        )
    if told:
        drawn.append(folder / "results.png")
        split = outcomes[0].finetuned.split
        draw_results(
            told,
            drawn[-1],
            simulated=simulated,
            title=f"{corpus}: {_who_tests(outcomes)}",
            notes=f"Split: {split.rule}; seed {split.seed}. Backbone pretrained on "
            f"{', '.join(experiment.pretrained_on)}, without the subjects held out here.",
        )
    return drawn


def _who_tests(outcomes: list[FinetuneOutcome]) -> str:
    split = outcomes[0].finetuned.split
    known = "subjects" in (*split.shares, *split.accepted)
    return "test windows of subjects known to training" if known else "subjects never seen in training"


def print_summary(
    experiment: Experiment, store: ShardStore, outcomes: list[FinetuneOutcome], pictures: list[Path], *, seconds: float
) -> None:
    """Prints what was read, what came out, and where to look."""
    console = Console(width=None if Console().is_terminal else 110)
    simulated = store.is_simulated(experiment.corpora)
    origin = "SIMULATED recordings: these numbers say nothing about people" if simulated else "real recordings"
    data = Table(title=f"Data ({origin})", box=box.SIMPLE, title_justify="left")
    for column in ("corpus", "subjects", "recordings", "trials", "windows", "window", "electrodes", "problems"):
        data.add_column(column, justify="left" if column == "corpus" else "right")
    for name in experiment.corpora:
        entry = store.manifest.corpora[name]
        metadata = store.metadata(name)
        keys = (metadata[key].to_pylist() for key in ("subject", "session", "trial"))
        trials = len(set(zip(*keys, strict=True)))
        counts = (entry.n_subjects, entry.n_recordings, trials, entry.n_windows)
        window = f"{entry.window_s:g} s at {entry.sfreq_hz:g} Hz"
        data.add_row(name, *map(str, counts), window, str(len(entry.channels)), str(len(entry.problems)))
    console.print(data)

    who = _who_tests(outcomes)
    results = Table(title=who[0].upper() + who[1:], box=box.SIMPLE, title_justify="left")
    for column in (
        "target",
        "balanced accuracy",
        "95 % over subjects",
        "chance",
        "kappa",
        "weighted F1",
        "majority's F1",
    ):
        results.add_column(column, justify="left" if column == "target" else "right")
    for evaluation in (outcome.evaluation for outcome in outcomes):
        if isinstance(evaluation, PlaneEvaluation):
            continue
        scores, interval = evaluation.scores, evaluation.interval
        results.add_row(
            f"{outcomes[0].corpus} {evaluation.target}",
            f"{scores.balanced_accuracy:.3f}",
            f"{interval.low:.3f} .. {interval.high:.3f}" if interval else "one subject",
            f"{scores.chance:.3f}",
            f"{scores.kappa:.3f}",
            f"{scores.weighted_f1:.3f}",
            f"{evaluation.majority.weighted_f1:.3f}",
        )
    if results.rows:
        console.print(results)
    for line in summarise([each for each in outcomes if isinstance(each.evaluation, PlaneEvaluation)]):
        console.print(line, highlight=False)
    for outcome in outcomes:
        target = outcome.finetuned.target
        priors = ", ".join(f"{name} {share:.1%}" for name, share in target.priors.items())
        console.print(f"{target.rule}; classes {priors}", highlight=False)
    for outcome in outcomes:
        console.print(f"registered  {outcome.registered}", highlight=False)
    console.print(f"recordings  {redact(report_url(store))}", highlight=False, soft_wrap=True)
    console.print(f"pictures    {pictures[0].parent}", highlight=False)
    console.print(
        f"MLflow      mlflow ui --backend-store-uri {redact(uri_of(experiment))}", highlight=False, soft_wrap=True
    )
    console.print("            then open http://127.0.0.1:5000", highlight=False)
    console.print(f"took        {seconds / 60:.1f} minutes", highlight=False)


def _draw_loss(experiment: Experiment, run_id: str, path: Path, *, simulated: bool) -> None:
    client = MlflowClient(uri_of(experiment))
    loss = client.get_metric_history(run_id, "loss")
    rate = client.get_metric_history(run_id, "learning_rate")
    draw_loss(
        [point.step for point in loss],
        [point.value for point in loss],
        [point.value for point in rate],
        path,
        simulated=simulated,
        batch=9 * experiment.pretrain.rounds * len(experiment.pretrained_on),
    )


def _draw_cleaning(experiment: Experiment, name: str, path: Path, *, simulated: bool) -> None:
    """The stretch of the first recording in which cleaning changed most."""
    corpus = open_corpus(name, experiment.addresses.root_of(name))
    recording = next(corpus.recordings())
    catalog = corpus.catalog
    cleaned = clean_recording(
        recording.eeg_uv,
        recording.pieces,
        recording.channels,
        recording.sfreq_hz,
        experiment.signal,
        stages_done=catalog.stages_done,
    )
    changes = [
        float(np.std(recording.eeg_uv[:, slice(*piece)] - cleaned.eeg_uv[:, slice(*piece)]))
        for piece in recording.pieces
    ]
    piece = slice(*recording.pieces[int(np.argmax(changes))])
    removed = ", ".join(f"{part.kind} component (score {part.score:.2f})" for part in cleaned.report.removed)
    notes = f"Stages: {', '.join(cleaned.report.stages)}. Removed: {removed or 'no component'}."
    draw_cleaning(
        recording.eeg_uv[:, piece],
        cleaned.eeg_uv[:, piece],
        recording.channels,
        recording.sfreq_hz,
        path,
        simulated=simulated,
        title=f"{name}, subject {recording.subject}: before and after cleaning",
        notes=" ".join((notes, *cleaned.report.notes)),
        stages_done=catalog.stages_done,
        mains_hz=catalog.mains_hz,
    )


def _draw_alpha(store: ShardStore, name: str, path: Path) -> None:
    """Spectra of trials spread evenly over the corpus, each put together from its windows."""
    metadata = store.metadata(name)
    rows_of: dict[tuple[str, ...], list[int]] = {}
    for row, key in enumerate(zip(*(metadata[k].to_pylist() for k in ("subject", "session", "trial")), strict=True)):
        rows_of.setdefault(key, []).append(row)
    trials = list(rows_of.values())
    chosen = np.unique(np.linspace(0, len(trials) - 1, min(len(trials), _SPECTRUM_TRIALS)).astype(np.int64))
    pieces = [np.concatenate(list(store.windows(name, trials[index], unit="uv")), axis=1) for index in chosen]
    n_subjects = len({key[0] for key in rows_of})
    draw_spectrum(
        pieces,
        store.channels(name),
        store.sfreq_hz(name),
        path,
        simulated=store.manifest.corpora[name].simulated,
        title=f"{name}: alpha rhythm",
        notes=f"{len(pieces)} cleaned trials of {n_subjects} subjects, average reference.",
    )
