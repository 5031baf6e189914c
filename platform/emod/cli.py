"""What every job shares: its flags, its exit codes, its progress.

It starts nothing and imports nothing heavy, so ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, Protocol

from emod.errors import DataError, RequestError

if TYPE_CHECKING:
    from emod.catalog import Experiment

__all__ = [
    "JobParser",
    "Tick",
    "experiment_parser",
    "load_below",
    "load_requested",
    "progress",
    "run_job",
    "show_plan",
]


# Of a log that a person reads to see whether a job still goes on.
_SILENT_S = 60.0


class Tick(Protocol):
    """Advances a progress bar, with a few words about what was just done."""

    def __call__(self, steps: int = 1, note: str = "") -> None:
        """Advances by so many steps."""


def run_job(main: Callable[[], None]) -> None:
    """Runs a job's main and exits: 0 done, 2 the request is wrong, 3 the data are incomplete or bad, 1 anything else.

    The first two kinds of failure are one line on stderr, with secrets in URLs cut out; any other keeps its traceback.
    """
    try:
        main()
    except (RequestError, DataError) as error:
        from emod.storage import redact

        print(f"{os.path.basename(sys.argv[0])}: {redact(' '.join(str(error).split()))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except Exception:
        from emod.storage import redact

        print(redact(traceback.format_exc()), end="", file=sys.stderr)
        sys.exit(1)


class JobParser(argparse.ArgumentParser):
    """A parser whose complaints are a `RequestError`: one line, as for any other wrong request.

    Args:
        description: The job's docstring; its lines are kept.
    """

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage."""
        raise RequestError(f"{message}; --help lists what this job takes")


def experiment_parser(description: str | None, default: str) -> JobParser:
    """A parser with the flags every job has."""
    parser = JobParser(description)
    parser.add_argument(
        "--experiment",
        default=default,
        metavar="NAME_OR_FILE",
        help=f"a name in catalogs/experiments/ or a file (default: {default})",
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="a.b=c",
        help="changes one field; repeatable, later ones win",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="prints the resolved experiment and the plan; starts nothing"
    )
    return parser


def load_requested(arguments: argparse.Namespace) -> Experiment:
    """The experiment that the flags of `experiment_parser` describe."""
    from emod.catalog import load_experiment

    return load_experiment(arguments.experiment, arguments.overrides)


def load_below(arguments: argparse.Namespace) -> Experiment:
    """As `load_requested`, for a job with --out: all it makes lies below that folder, outputs/NAME where it simulates.

    Of recordings, the simulated copies alone.
    """
    experiment = load_requested(arguments)
    name = os.path.splitext(os.path.basename(arguments.experiment))[0]
    out = arguments.out or (os.path.join("outputs", name) if experiment.simulate else None)
    if out is None:
        return experiment
    places = {"store": "store", "runs": "runs"} | {f"data.{each}": f"recordings/{each}" for each in experiment.simulate}
    below = [f"addresses.{field}={json.dumps(f'{out}/{place}')}" for field, place in places.items()]
    arguments.overrides = [*below, *arguments.overrides]
    return load_requested(arguments)


def show_plan(experiment: Experiment, lines: list[str]) -> None:
    """What --dry-run prints: the resolved experiment, with secrets in URLs cut out, then the plan."""
    from emod.catalog import dump_yaml
    from emod.storage import redact

    print(redact(dump_yaml(experiment)))
    for line in lines:
        print(f"plan: {redact(line)}")


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Tick]:
    """A progress bar on a terminal; elsewhere a plain line at first, at each tenth of the way, and each minute.

    Args:
        label: What is being done.
        total: How many steps; None where nobody knows.
    """
    _tell(label, 0, total)
    try:
        with (_bar if sys.stderr.isatty() else _lines)(label, total) as advance:
            yield advance
    finally:
        if "ray" in sys.modules:
            from emod.monitoring import forget_progress

            forget_progress(label)


@contextmanager
def _bar(label: str, total: int | None) -> Iterator[Tick]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bars:
        task = bars.add_task(label, total=total, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            bars.advance(task, steps)
            if note:
                bars.update(task, note=note)
            _tell(label, int(bars.tasks[task].completed), total)

        yield advance


@contextmanager
def _lines(label: str, total: int | None) -> Iterator[Tick]:
    done, told_at = 0, -math.inf

    def report(steps: int = 1, note: str = "") -> None:
        nonlocal done, told_at
        before, done = done, done + steps
        _tell(label, done, total)
        a_tenth = total is None or before * 10 // total != done * 10 // total
        if a_tenth or time.monotonic() - told_at > _SILENT_S:
            told_at = time.monotonic()
            _say(label, done, total, note)

    yield report


def _say(label: str, done: int, total: int | None, note: str) -> None:
    """A line for people; where Ray writes lines for machines, one of those."""
    if os.environ.get("RAY_LOGGING_CONFIG_ENCODING") and logging.getLogger().handlers:
        logging.getLogger("emod").info(label, extra={"done": done, "total": total, "note": note})
        return
    of = "" if total is None else f"/{total}"
    print(f"{label}: {done}{of} {note}".rstrip(), file=sys.stderr, flush=True)


def _tell(label: str, done: int, total: int | None) -> None:
    """Tells Ray's metrics, where Ray is loaded: a job that has not come so far shall not wait for it."""
    if "ray" in sys.modules:
        from emod.monitoring import tell_progress

        tell_progress(label, done, total)
