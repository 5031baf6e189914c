"""What a person sees of an evaluation: a table on the terminal, and one HTML file that says how it came about."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table

import emod
from emod import storage
from emod.catalog import PrintedScores, load_corpus
from emod.evaluating import Evaluated, figures_of
from emod.evaluation import Finding, MethodSummary, TargetSummary
from emod.evaluation import evaluation_pictures as pictures
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
from emod.shards import ShardStore, WindowPool

__all__ = ["print_evaluation", "render_evaluation", "write_evaluation"]

_WORDS = {
    "balanced_accuracy": "balanced accuracy",
    "kappa": "Cohen's kappa",
    "weighted_f1": "weighted F1",
    "auroc": "AUROC",
    "calibration_error": "calibration error",
    "mean_ccc": "CCC, mean",
    "ccc_valence": "CCC valence",
    "pearson_valence": "Pearson valence",
    "rmse_valence": "RMSE valence",
    "ccc_arousal": "CCC arousal",
    "pearson_arousal": "Pearson arousal",
    "rmse_arousal": "RMSE arousal",
}


def print_evaluation(evaluated: Evaluated, *, report: str, seconds: float) -> None:
    """Prints a table of methods and controls for each target, what can be said, and where the rest is."""
    console = Console(width=None if Console().is_terminal else 140)
    if evaluated.simulated:
        console.print("SIMULATED recordings: these numbers say nothing about people", style="bold")
    for code in _accepted(evaluated):
        console.print(f"The leak {code!r} was accepted: these numbers are no ground for a champion", style="bold")
    for summary in evaluated.summaries:
        # Pearson's is on the page: nine columns are wider than a terminal.
        figures = [name for name in figures_of(summary) if "pearson" not in name][: 5 if summary.on_plane else 3]
        title = f"{_corpus_of(evaluated)}, {summary.target.name}: {summary.splits[0].rule}"
        shown = Table(title=title, box=box.SIMPLE, title_justify="left")
        shown.add_column("method", no_wrap=True)
        for name in figures:
            shown.add_column(_WORDS[name], justify="right")
        if not summary.on_plane:
            shown.add_column("95 % over subjects", justify="right", no_wrap=True)
        shown.add_column(f"less {summary.methods[0].method}", justify="right", no_wrap=True)
        for method in (*summary.methods, *summary.controls):
            interval = f"{method.interval.low:.3f} .. {method.interval.high:.3f}" if method.interval else ""
            shown.add_row(
                method.method,
                *(_spread(method, name) for name in figures),
                *(() if summary.on_plane else (interval,)),
                _difference(method),
                style="dim" if method in summary.controls else "",
            )
            if (printed := evaluated.printed(summary, method.method)) is not None:
                shown.add_row("  the paper", *(_printed(printed, name) for name in figures), style="dim")
        console.print(shown)
        for sentence in summary.verdicts():
            console.print(sentence, highlight=False)
    console.print(f"report      {storage.redact(report)}", highlight=False, soft_wrap=True)
    console.print(f"took        {seconds / 60:.1f} minutes", highlight=False)


def write_evaluation(evaluated: Evaluated, store: ShardStore, *, command: str) -> str:
    """Writes the report beside the evaluation's answers, and returns its URL."""
    url = storage.join(evaluated.folder, "report.html")
    page = render_evaluation(evaluated, store, command=command, when=datetime.now().astimezone())
    storage.write_bytes(url, page.encode())
    return url


def render_evaluation(evaluated: Evaluated, store: ShardStore, *, command: str, when: datetime | None = None) -> str:
    """The report as one HTML document."""
    experiment = evaluated.experiment
    assert experiment.finetune is not None
    assert experiment.evaluate is not None
    split = evaluated.summaries[0].splits[0]
    html, header, main = new_page(
        f"{experiment.name}: evaluation",
        f"Evaluation on {_corpus_of(evaluated)}",
        f"{', '.join(experiment.evaluate.methods)}: {number_of(experiment.evaluate.seeds, 'seed')}, "
        f"{number_of(len(evaluated.summaries[0].splits), 'fold')}. Protocol: {split.rule}.",
        simulated=evaluated.simulated,
    )
    if evaluated.simulated:
        add_banner(header, "SIMULATED RECORDINGS", "Nothing on this page says anything about people.")
    for code in _accepted(evaluated):
        message = next(f.message for s in evaluated.summaries for f in s.findings if f.code == code)
        add_banner(header, f"LEAK ACCEPTED: {code}", f"By the user, not by the protocol: {message}.")
    for summary in evaluated.summaries:
        _add_target(main, evaluated, summary, store)
    _add_audit(main, evaluated)
    _add_provenance(main, evaluated, store, command, when)
    return render_page(html)


def _add_target(parent: ET.Element, evaluated: Evaluated, summary: TargetSummary, store: ShardStore) -> None:
    section = add_section(parent, summary.target.name, summary.target.name, cls="corpus")
    verdicts = add_element(section, "ul")
    for sentence in summary.verdicts():
        add_element(verdicts, "li", sentence)
    target = summary.target
    priors = (
        f" Priors: {', '.join(f'{name} {share:.1%}' for name, share in target.priors.items())}."
        if target.priors
        else ""
    )
    n_windows, n_subjects = len(summary.true), len(set(summary.subjects))
    add_element(
        section,
        "p",
        f"{target.rule}.{priors} {number_of(n_windows, 'test window')} of {number_of(n_subjects, 'subject')}.",
        cls="lead",
    )
    figures = figures_of(summary)
    rows = []
    for method in (*summary.methods, *summary.controls):
        interval = f"{method.interval.low:.3f} to {method.interval.high:.3f}" if method.interval else "–"
        sees = "EEG" if method.sees_eeg else "labels"
        rows.append((method.method, sees, *(_spread(method, name) for name in figures), interval))
        if (printed := evaluated.printed(summary, method.method)) is not None:
            rows.append(("the paper", "", *(_printed(printed, name) for name in figures), "–"))
    headings = ["method", "sees", *(_WORDS[name] for name in figures), "95 % over subjects"]
    add_table(add_element(section, "div", cls="wide"), headings, rows, text=2)
    add_element(
        section,
        "p",
        "Mean ± standard deviation over seeds; all folds of a seed are scored together, which pulls AUROC, CCC and "
        "Pearson below chance where people differ in their labels: a fold's training prior leans away from who tests. "
        "The interval is a bootstrap over subjects, seeds pooled.",
        cls="note",
    )
    if any(evaluated.printed(summary, method.method) for method in summary.methods):
        add_element(
            section,
            "p",
            "The paper took some of its rivals' rows from the CBraMod paper, where BIOT, LaBraM and CBraMod start from "
            "pretrained weights; here a rival does where finetune.rival_weights says so.",
            cls="note",
        )
    _add_costs(section, summary)
    grid = add_element(section, "div", cls="pictures")
    add_figure(
        grid,
        "Methods and controls",
        pictures.draw_methods(summary),
        "Dots: mean over seeds; ticks: each seed; bars: 95 % interval over subjects. Blue: methods; orange: controls.",
        "",
    )
    curves = {
        method: [
            a.validation for a in evaluated.answers if (a.training.target, a.training.method) == (target.name, method)
        ]
        for method in (m.method for m in summary.methods)
    }
    add_figure(
        grid,
        "Learning curves",
        pictures.draw_curves(curves, "concordance" if summary.on_plane else "kappa"),
        "Validation score of each epoch, mean over folds and seeds, with the middle 80 %.",
        "No method here learns in epochs.",
    )
    if not summary.on_plane:
        for method in summary.methods:
            add_figure(
                grid,
                f"Confusion: {method.method}",
                pictures.draw_confusion_of(method, target.classes),
                "Shares of each true class, all seeds.",
                "",
            )
        add_figure(
            grid,
            "Calibration",
            pictures.draw_calibration(summary.methods, summary.true),
            "Answers in eight groups of equal size by their probability, first seed.",
            "",
        )
        _add_recall(section, summary)
    _add_network_pictures(section, evaluated, summary, store)


def _add_costs(parent: ET.Element, summary: TargetSummary) -> None:
    """What each method costs, and how it compares with the first, person by person."""
    first = summary.methods[0].method
    rows = [
        (
            method.method,
            f"{method.parameters:,}" if method.parameters else "–",
            f"{method.seconds:,.0f} s",
            _difference(method) or "–",
            f"{method.versus_first.p:.3f}" if method.versus_first else "–",
        )
        for method in summary.methods
    ]
    headings = ["method", "parameters trained", "time, all trainings", f"less {first}", "p"]
    add_table(add_element(parent, "div", cls="wide"), headings, rows, text=1)
    what = "minus the distance on the plane" if summary.on_plane else "balanced accuracy"
    add_element(
        parent,
        "p",
        f"Differences of {what}, paired over subjects, with a 95 % bootstrap interval; p by Wilcoxon's signed-rank "
        "test, each of one comparison.",
        cls="note",
    )


def _add_recall(parent: ET.Element, summary: TargetSummary) -> None:
    add_element(parent, "h3", "Recall of each class")
    rows = []
    for method in (*summary.methods, *summary.controls):
        table = np.array([[np.nan if r is None else r for r in seed.recall] for seed in method.per_seed])  # type: ignore[union-attr]
        rows.append((method.method, *("–" if math.isnan(r) else f"{r:.3f}" for r in table.mean(axis=0))))
    add_table(add_element(parent, "div", cls="wide"), ["method", *summary.target.classes], rows, text=1)


def _add_network_pictures(parent: ET.Element, evaluated: Evaluated, summary: TargetSummary, store: ShardStore) -> None:
    experiment = evaluated.experiment
    assert experiment.finetune is not None
    first = summary.methods[0].method
    found = next(
        (
            a
            for a in evaluated.answers
            if (a.training.target, a.training.method, a.embedding is not None) == (summary.target.name, first, True)
        ),
        None,
    )
    if found is None or found.embedding is None:
        return
    pool = WindowPool(store, experiment.finetune.corpora)
    row_of = {window_id: row for row, window_id in enumerate(pool.metadata["window_id"].to_pylist())}
    metadata = pool.metadata.take(pa.array([row_of[window_id] for window_id in found.embedded_ids]))
    names = np.array(metadata["subject"].to_pylist(), dtype=object)
    corpora = np.array(metadata["corpus"].to_pylist(), dtype=object)
    others = len(found.embedded_ids) > len(found.window_ids)
    colours = {
        "valence": metadata["valence"].to_numpy().astype(np.float64),
        "arousal": metadata["arousal"].to_numpy().astype(np.float64),
        **({"corpus": corpora} if len(set(corpora)) > 1 else {}),
        "subject": names,
    }
    add_element(parent, "h3", f"What {first} makes of windows")
    add_element(
        parent,
        "p",
        f"t-SNE of the fine-tuned embedding of test windows{', beside some that trained' if others else ''}; fold "
        f"{summary.splits[found.training.fold].fold}, first seed. Distances between far groups mean little in it.",
        cls="note",
    )
    grid = add_element(parent, "div", cls="pictures")
    for what, picture in pictures.draw_embedding(found.embedding, colours).items():
        words = "Numbers stand at the middle of each level of the plane." if what in ("valence", "arousal") else ""
        add_figure(grid, f"Embedding by {what}", picture, words, "")
    if found.importance is not None:
        add_figure(
            grid,
            "Electrodes",
            pictures.draw_importance(found.importance, store.channels(pool.corpora[0])),
            (
                "How much the squared distance on the plane grows"
                if summary.on_plane
                else "How much the probability of the true class falls"
            )
            + " where an electrode is flat; five of the largest are named. What others make up for looks unimportant.",
            "",
        )


def _add_audit(parent: ET.Element, evaluated: Evaluated) -> None:
    section = add_section(parent, "What roles share", "audit")
    found: dict[str, Finding] = {}
    for summary in evaluated.summaries:
        for finding in summary.findings:
            found.setdefault(f"{finding.code} {finding.between}", finding)
    if not found:
        add_element(section, "p", "The audit found nothing that two roles share.")
        return
    meaning = {"limit": "by the question asked", "accepted": "accepted"}
    rows = [
        (
            finding.code,
            meaning[finding.severity] + (f" by the {finding.accepted_by}" if finding.accepted_by else ""),
            " and ".join(finding.between),
            f"{finding.count:,}",
            finding.message,
        )
        for finding in found.values()
    ]
    add_table(
        add_element(section, "div", cls="wide"),
        ["what", "why it may be", "between", "how many", "what it means"],
        rows,
        text=3,
        last_text=1,
    )
    add_element(
        section,
        "p",
        "Windows, trials, samples and equal content are never shared: the run would have stopped.",
        cls="note",
    )


def _add_provenance(
    parent: ET.Element, evaluated: Evaluated, store: ShardStore, command: str, when: datetime | None
) -> None:
    experiment = evaluated.experiment
    assert experiment.finetune is not None
    section = add_section(parent, "How it was made", "provenance")
    add_element(section, "p", "The command, which gives the same numbers on the same windows:")
    add_element(add_element(section, "p"), "code", command)
    # Seeds that start from pretrainings alike are one line.
    started: dict[str, list[str]] = {}
    for method, backbone in evaluated.backbones.items():
        words = (
            f"a network pretrained on {', '.join(sorted(backbone.seen)) or 'nothing that is known'}"
            + (" (simulated)" if backbone.simulated else "")
            + f"; windows {backbone.manifest_hash[:16]}"
        )
        started.setdefault(words, []).append(method.partition(" of seed ")[0])
    hashes = [split.hash for summary in evaluated.summaries for split in summary.splits]
    corpora = experiment.finetune.corpora
    add_facts(
        section,
        (
            ("written", f"{when:%Y-%m-%d %H:%M %Z}".strip() if when else None),
            ("emod", emod.__version__),
            ("store", f"{storage.redact(store.url)}, version {store.manifest.version}"),
            ("windows", store.manifest.hash_of(corpora)[:16]),
            (
                "splits",
                ", ".join(dict.fromkeys(hashes)) if len(hashes) <= 8 else f"{hashes[0]} and {len(hashes) - 1} more",
            ),
            *((f"{', '.join(dict.fromkeys(methods))} started from", words) for words, methods in started.items()),
            *((f"licence of {name}", load_corpus(name).licence) for name in corpora),
            *((f"cite {name}", load_corpus(name).citation) for name in corpora),
        ),
    )


def _spread(method: MethodSummary, figure: str) -> str:
    mean, sd = method.mean(figure), method.sd(figure)
    if math.isnan(mean):
        return "–"
    return f"{mean:.3f}" if math.isnan(sd) else f"{mean:.3f} ± {sd:.3f}"


def _printed(printed: PrintedScores, figure: str) -> str:
    """A figure of the paper, where it gives one; it prints percent."""
    found = getattr(printed, figure, None)
    if found is None:
        return ""
    mean, sd = found
    return f"{mean / 100:.3f}" if sd is None else f"{mean / 100:.3f} ± {sd / 100:.3f}"


def _difference(method: MethodSummary) -> str:
    found = method.versus_first
    if found is None:
        return ""
    interval = "" if math.isnan(found.low) else f" [{found.low:+.3f}, {found.high:+.3f}]"
    return f"{found.mean:+.3f}{interval}"


def _accepted(evaluated: Evaluated) -> Sequence[str]:
    return sorted({f.code for summary in evaluated.summaries for f in summary.findings if f.accepted_by == "user"})


def _corpus_of(evaluated: Evaluated) -> str:
    assert evaluated.experiment.finetune is not None
    return evaluated.experiment.finetune.corpus
