"""Every bench, one table: python -m tests.bench [NAME ...]. Exit code 1 if a bound is not kept.

Ratios of timings taken side by side in one run, because machines are noisy; run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from rich.console import Console
from rich.table import Table

from tests.bench import (
    embed_speed,
    ica_cost,
    ingest_speed,
    latency,
    loader_speed,
    model_speed,
    ray_ingest,
    ray_step,
    store_speed,
)
from tests.bench.ratio import Figure

BENCHES: dict[str, Callable[[Path], list[Figure]]] = {
    "store": store_speed.measure,
    "ica": lambda folder: ica_cost.measure(),
    "ingest": ingest_speed.measure,
    "loader": loader_speed.measure,
    "model": lambda folder: model_speed.measure(),
    "ray": ray_step.measure,
    "ray-ingest": ray_ingest.measure,
    "embed": embed_speed.measure,
    "latency": latency.measure,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}; default: all")
    names = parser.parse_args().names or list(BENCHES)
    if unknown := set(names) - set(BENCHES):
        parser.error(f"no bench {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    table = Table(title=f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    for heading in ("bench", "figure", "bound", "", "from"):
        table.add_column(heading, overflow="fold")
    kept, told = True, ""
    for name in names:
        with tempfile.TemporaryDirectory(prefix=f"emod-bench-{name}-") as folder:
            for figure in BENCHES[name](Path(folder)):
                kept &= figure.kept
                print(f"{figure.name}: {figure.value:,.2f}; {figure.detail}", flush=True)
                sign = ">=" if figure.at_least else "<="
                verdict = "[green]kept[/]" if figure.kept else "[red]not kept[/]"
                detail = "" if figure.detail == told else figure.detail
                told = figure.detail
                table.add_row(figure.name, f"{figure.value:,.2f}", f"{sign} {figure.bound:,g}", verdict, detail)
    Console(width=None).print(table)
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
