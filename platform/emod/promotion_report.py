"""What a person sees of the gate before ``champion``, and of a model's card."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.table import Table

from emod.errors import DataError
from emod.promoting import Promotion
from emod.tracking import find_version

__all__ = ["print_card", "print_promotion"]


def print_promotion(promotion: Promotion, *, moved: bool) -> None:
    """Prints every gate, and what came of it.

    Raises:
        DataError: If one did not let the version through.
    """
    console = Console(width=None if Console().is_terminal else 160)
    if promotion.simulated:
        console.print("SIMULATED recordings: these numbers say nothing about people", style="bold")
    now = "no champion yet" if promotion.before is None else f"champion is version {promotion.before}"
    table = Table(title=f"{promotion.name} version {promotion.version}; {now}", box=box.SIMPLE, title_justify="left")
    table.add_column("gate")
    table.add_column("")
    table.add_column("found")
    for gate in promotion.gates:
        table.add_row(gate.name, "[green]passed" if gate.passed else "[bold red]FAILED", gate.said)
    console.print(table)
    if promotion.summary is not None:
        for sentence in promotion.summary.verdicts():
            console.print(sentence, highlight=False)
    if not promotion.passed:
        failed = [gate.name for gate in promotion.gates if not gate.passed]
        sys.stdout.flush()
        raise DataError(
            f"{promotion.name} version {promotion.version} does not become champion: {', '.join(failed)} failed; "
            "train or calibrate another, or change the limits of promote"
        )
    if moved:
        console.print(f"champion of {promotion.name} is version {promotion.version} now; back: --rollback")
    else:
        console.print("every gate lets it through; nothing was moved")


def print_card(uri: str, wanted: str) -> None:
    """Prints the card of a version, as the registry shows it.

    Raises:
        RequestError: If there is no such version.
    """
    print(find_version(uri, wanted, field="--version").description)
