"""What is there of a corpus against what its owner publishes, and what to do about the rest.

    python jobs/doctor.py --corpus deap --root s3://lab/corpora/deap

It reads headers; --full decodes every sample. Exit code 0: complete; 3: not; 2: the request is wrong.
"""

from __future__ import annotations

import io
import sys
from contextlib import ExitStack
from itertools import groupby
from typing import TYPE_CHECKING

from emod.cli import JobParser, progress, run_job

if TYPE_CHECKING:
    from rich.console import Console

    from emod.corpora.doctor import Diagnosis, Finding

_MARKS = {"good": "[green]ok[/]", "fault": "[bold red]FAULT[/]", "notice": "[yellow]look[/]", "unknown": "[dim]-[/]"}
_HEADINGS = {
    "fault": ("To mend", "red"),
    "notice": ("To look at", "yellow"),
    "known": ("Known: its owner publishes it so", "cyan"),
}
_SHOWN_OF_A_KIND = 3
_UNWRAPPED = 100_000  # columns of what is no terminal: paths stay whole for grep


def main() -> None:
    parser = JobParser(__doc__)
    parser.add_argument("--corpus", required=True, metavar="NAME", help="a corpus in catalogs/corpora/")
    parser.add_argument("--root", required=True, metavar="URL", help="the top folder of your copy")
    parser.add_argument("--json", metavar="FILE", help="writes all of it as JSON too; - prints only that")
    parser.add_argument("--full", action="store_true", help="decodes every sample: finds gaps and flat channels too")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="recordings at a time (default: cores); each is in memory with --full"
    )
    parser.add_argument("--dry-run", action="store_true", help="lists the recordings; opens none")
    arguments = parser.parse_args()
    if arguments.jobs is not None and arguments.jobs < 1:
        parser.error(f"--jobs {arguments.jobs}: give at least 1")

    from emod.corpora import open_corpus
    from emod.corpora.doctor import examine
    from emod.storage import redact

    corpus = open_corpus(arguments.corpus, arguments.root)
    if arguments.dry_run:
        for ref in corpus.references():
            print(f"plan: subject {ref.subject} session {ref.session} {redact(ref.source)}")
        return
    with ExitStack() as stack:
        bar = []
        diagnosis = examine(
            corpus,
            full=arguments.full,
            jobs=arguments.jobs,
            on_listed=lambda total: bar.append(stack.enter_context(progress("doctor", total))),
            on_recording=lambda look: bar[0](note=f"subject {look.ref.subject} session {look.ref.session}"),
        )
    if arguments.json is not None:
        text = diagnosis.model_dump_json(indent=2) + "\n"
        if arguments.json == "-":
            sys.stdout.write(text)
        else:
            from emod import storage

            storage.write_bytes(arguments.json, text.encode())
    if arguments.json != "-":
        from rich.console import Console

        console = Console()
        if console.is_terminal:
            show(diagnosis, console)
        else:
            page = io.StringIO()
            show(diagnosis, Console(file=page, width=_UNWRAPPED))
            print("\n".join(line.rstrip() for line in page.getvalue().rstrip("\n").split("\n")))
    sys.exit(0 if diagnosis.complete else 3)


def show(diagnosis: Diagnosis, console: Console) -> None:
    """Prints the page: the table, what to do, what is known, what no source settles, and the verdict."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console.print(Text(diagnosis.title, style="bold"))
    console.print(Text(diagnosis.root))
    read = "every sample decoded" if diagnosis.examined == "samples" else "headers read"
    console.print(Text(f"{diagnosis.origin}; {read}", style="dim"))
    console.print()
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("", "simulated" if diagnosis.simulated else "published", "this copy", ""):
        table.add_column(heading, header_style="bold")
    for check in diagnosis.checks:
        table.add_row(check.topic, Text(check.published), Text(check.found), _MARKS[check.state])
    console.print(table)

    def line(text: str, indent: int = 1, style: str = "") -> None:
        if not console.is_terminal:
            console.print(Text(" " * indent + text, style=style), soft_wrap=True)
        else:
            console.print(Padding.indent(Text(text, style=style), indent))

    for level, (heading, colour) in _HEADINGS.items():
        findings = [finding for finding in diagnosis.findings if finding.level == level]
        if findings:
            console.print()
            line(heading, 0, "bold")
        for _, of_kind in groupby(findings, key=lambda finding: (finding.topic, finding.code)):
            alike: dict[tuple[str, str], list[Finding]] = {}
            for finding in of_kind:
                alike.setdefault((finding.what, finding.cure), []).append(finding)
            shown, rest = list(alike.items())[:_SHOWN_OF_A_KIND], list(alike.values())[_SHOWN_OF_A_KIND:]
            for (what, cure), group in shown:
                line(_where(group, diagnosis.root), 1, colour)
                line(what, 3)
                if cure:
                    line(f"-> {cure}", 3, "bold")
            if rest:
                more = [finding for group in rest for finding in group]
                line(f"and {len(more)} more: {_where(more, diagnosis.root)}; --json lists all", 1, colour)
    if diagnosis.uncertain:
        console.print()
        line("Settled by no public source: compare with your copy", 0, "bold")
        for fact in diagnosis.uncertain:
            line(f"- {fact}")
    console.print()
    verdict = Text(diagnosis.verdict, style="bold green" if diagnosis.complete else "bold red")
    console.print(verdict, soft_wrap=True)  # one line, for whoever looks at the last


def _where(group: list[Finding], root: str) -> str:
    """Whom and what findings of the same words concern; objects below the root by their path there."""
    from emod.corpora.doctor import numbers

    sources = sorted({finding.source for finding in group if finding.source})
    parts = []
    for name in ("subject", "session", "trial"):
        if ids := sorted({value for finding in group if (value := getattr(finding, name))}):
            parts.append(f"{name}{'s' if len(ids) > 1 else ''} {numbers(ids)}")
    if len(sources) == 1:
        parts.append(sources[0].removeprefix(f"{root.rstrip('/')}/"))
    return f"{', '.join(parts) or 'the copy'} [{group[0].code}]"


if __name__ == "__main__":
    run_job(main)
