"""What a person sees of an ablation: the paper's table and its bars, beside the paper's figures on real recordings."""

from __future__ import annotations

import base64
import io
import math
from datetime import datetime

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from emod import storage
from emod.ablating import Ablated
from emod.catalog import PrintedScores
from emod.evaluation import MethodSummary, TargetSummary, compare_arms, draw_comparison
from emod.page import (
    add_banner,
    add_element,
    add_facts,
    add_figure,
    add_section,
    add_table,
    link,
    new_page,
    number_of,
    render_page,
)
from emod.workflow import uri_of

__all__ = ["draw_ablation", "print_ablation", "render_ablation", "write_ablation"]

_FIGURES = ("balanced_accuracy", "kappa", "weighted_f1")
_HEADINGS = ("BACC", "kappa", "WF1")


def print_ablation(ablated: Ablated, *, report: str, seconds: float) -> None:
    """Prints the table in the paper's form, and where the rest is."""
    console = Console(width=None if Console().is_terminal else 160)
    if ablated.simulated:
        console.print("SIMULATED recordings: these numbers say nothing about people", style="bold")
    for target, summaries in _by_target(ablated).items():
        shown = Table(title=f"{ablated.experiment.name}, {target}: % (mean / standard deviation)", box=box.SIMPLE)
        shown.title_justify = "left"
        shown.add_column("")
        for name in summaries:
            for heading in _HEADINGS:
                shown.add_column(f"{name}\n{heading}", justify="right")
        for number, arm in enumerate(_arms(ablated)):
            methods = [summary.methods[number] for summary in summaries.values()]
            shown.add_row(arm, *(_cell(method, figure) for method in methods for figure in _FIGURES))
            printed = [_printed(ablated, name, summary, arm) for name, summary in summaries.items()]
            if any(printed):
                cells = (_printed_cell(found, figure) for found in printed for figure in _FIGURES)
                shown.add_row("  the paper", *cells, style="dim")
        console.print(shown)
        for name, summary in summaries.items():
            for sentence in summary.verdicts():
                console.print(f"{name}: {sentence}", highlight=False)
    console.print(_seeds(ablated), highlight=False)
    console.print(f"report      {storage.redact(report)}", highlight=False, soft_wrap=True)
    console.print(
        f"MLflow      mlflow ui --backend-store-uri {storage.redact(uri_of(ablated.experiment))}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"took        {seconds / 60:.1f} minutes", highlight=False)


def write_ablation(ablated: Ablated, *, command: str) -> str:
    """Writes the page and its chart into the ablation's folder; returns the page's address."""
    for target in _by_target(ablated):
        storage.write_bytes(storage.join(ablated.folder, f"{target}.png"), _png(ablated, target))
    url = storage.join(ablated.folder, "report.html")
    page = render_ablation(ablated, command=command, when=datetime.now().astimezone())
    storage.write_bytes(url, page.encode())
    return url


def draw_ablation(ablated: Ablated, target: str) -> Figure:
    """The bars of one target, in the form of the paper's Figure 3."""
    summaries = _by_target(ablated)[target]
    printed = {
        name: [None if found is None else found.balanced_accuracy[0] / 100 for found in each]
        for name, summary in summaries.items()
        if any(each := [_printed(ablated, name, summary, arm) for arm in _arms(ablated)])
    }
    return draw_comparison(
        {
            name: compare_arms({method.method: method.values("balanced_accuracy") for method in summary.methods})
            for name, summary in summaries.items()
        },
        simulated=ablated.simulated,
        chance=[summary.chance for summary in summaries.values()],
        title=f"{ablated.experiment.name}: {target}",
        notes=f"Pretrained on {', '.join(ablated.experiment.pretrained_on)}.",
        printed=printed,
    )


def render_ablation(ablated: Ablated, *, command: str, when: datetime | None = None) -> str:
    """The page as one HTML document; it leads to the reports of the benchmarks."""
    experiment = ablated.experiment
    html, header, main = new_page(
        f"{experiment.name}: ablation",
        f"{experiment.name}: {', '.join(_arms(ablated))}",
        experiment.description,
        simulated=ablated.simulated,
    )
    if ablated.simulated:
        add_banner(header, "SIMULATED RECORDINGS", "Nothing on this page says anything about people.")
    for target, summaries in _by_target(ablated).items():
        section = add_section(main, target, target, cls="corpus")
        picture = f"data:image/png;base64,{base64.b64encode(_png(ablated, target)).decode()}"
        add_figure(section, "Balanced accuracy", picture, _seeds(ablated), "")
        for name, summary in summaries.items():
            add_element(section, "h3", name)
            words = add_element(section, "ul")
            for sentence in summary.verdicts():
                add_element(words, "li", sentence)
            first = summary.methods[0].method
            headings = ["arm", *_HEADINGS, f"less {first}, over subjects", "p"]
            rows = []
            for method in summary.methods:
                rows.append((method.method, *(_cell(method, figure) for figure in _FIGURES), *_difference(method)))
                if (printed := _printed(ablated, name, summary, method.method)) is not None:
                    rows.append(("the paper", *(_printed_cell(printed, figure) for figure in _FIGURES), "", ""))
            add_table(add_element(section, "div", cls="wide"), headings, rows, text=1)
            leads = add_element(section, "p", "All of it: ", cls="note")
            leads.append(link(f"../{_folder_of(ablated.reports[name])}/report.html", "the report of this benchmark"))
        add_element(
            section,
            "p",
            "Percent, mean / standard deviation over seeds; differences of balanced accuracy, subject by subject, with "
            "a 95 % bootstrap interval over subjects and Wilcoxon's p, each of one comparison.",
            cls="note",
        )
    section = add_section(main, "How it was made", "provenance")
    add_element(section, "p", "The command, which goes on where it was stopped:")
    add_element(add_element(section, "p"), "code", command)
    add_facts(
        section,
        (
            ("written", f"{when:%Y-%m-%d %H:%M %Z}".strip() if when else None),
            ("pretrained on", ", ".join(experiment.pretrained_on)),
            ("seeds", _seeds(ablated)),
        ),
    )
    return render_page(html)


def _png(ablated: Ablated, target: str) -> bytes:
    content = io.BytesIO()
    draw_ablation(ablated, target).savefig(content, format="png")
    return content.getvalue()


def _by_target(ablated: Ablated) -> dict[str, dict[str, TargetSummary]]:
    """target -> benchmark -> its summary."""
    found: dict[str, dict[str, TargetSummary]] = {}
    for name, evaluated in ablated.benchmarks.items():
        for summary in evaluated.summaries:
            found.setdefault(summary.target.name, {})[name] = summary
    return found


def _arms(ablated: Ablated) -> list[str]:
    assert ablated.experiment.ablation is not None
    return list(ablated.experiment.ablation.arms)


def _printed(ablated: Ablated, benchmark: str, summary: TargetSummary, arm: str) -> PrintedScores | None:
    return ablated.benchmarks[benchmark].printed(summary, arm)


def _cell(method: MethodSummary, figure: str) -> str:
    return _spread(method.mean(figure), method.sd(figure))


def _printed_cell(printed: PrintedScores | None, figure: str) -> str:
    found = None if printed is None else getattr(printed, figure)
    return "" if found is None else _spread(found[0] / 100, math.nan if found[1] is None else found[1] / 100)


def _spread(mean: float, sd: float) -> str:
    return f"{100 * mean:.2f}" if math.isnan(sd) else f"{100 * mean:.2f} / {100 * sd:.2f}"


def _difference(method: MethodSummary) -> tuple[str, str]:
    found = method.versus_first
    if found is None:
        return "", ""
    interval = "" if math.isnan(found.low) else f" [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    return f"{100 * found.mean:+.1f}{interval}", f"{found.p:.3f}"


def _seeds(ablated: Ablated) -> str:
    experiment = ablated.experiment
    assert experiment.ablation is not None
    assert experiment.evaluate is not None
    start = (
        "each from a pretraining of its own"
        if experiment.ablation.pretrain_each_seed
        else "all from one pretraining (fresh weights are drawn for each)"
    )
    return f"{number_of(experiment.evaluate.seeds, 'seed')} of fine-tuning, {start}; the split stays what it is"


def _folder_of(url: str) -> str:
    return url.rstrip("/").split("/")[-2]
