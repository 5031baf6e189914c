"""A registered model over all windows of a store, or straight over recordings: answers as Parquet.

    python jobs/embed.py --model models:/emod@candidate --set addresses.store=s3://lab/shards --out s3://lab/embedding
    python jobs/embed.py --model models:/emod/3 --recordings --corpora deap --set addresses.data.deap=s3://lab/DEAP \\
        --out s3://lab/embedding

Each window: its ids, valence and arousal, class probabilities, embedding, flags. Read it with
pandas.read_parquet("OUT/windows"). The same command goes on where it was stopped; OUT/embedding.json says it is whole.
Recordings are cleaned as those were that the model learned from, and whoever has withdrawn from the store, where
addresses.store names it, is left out.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from emod.cli import experiment_parser, load_requested, progress, run_job, show_plan
from emod.errors import RequestError

if TYPE_CHECKING:
    from emod.serving import Embedded


def main() -> None:
    parser = experiment_parser(__doc__, default="pretrain")
    parser.add_argument("--model", required=True, metavar="MODEL", help="models:/NAME@ALIAS or models:/NAME/VERSION")
    parser.add_argument("--out", required=True, metavar="URL", help="a folder of its own for this embedding")
    parser.add_argument(
        "--corpora",
        metavar="a,b",
        help="which (default: all of the store; with --recordings those of the experiment)",
    )
    parser.add_argument(
        "--recordings", action="store_true", help="from the recordings at addresses.data instead of addresses.store"
    )
    arguments = parser.parse_args()
    for override in arguments.overrides:
        if override.startswith("signal"):
            raise RequestError(f"--set {override}: the model says how windows are made; leave it out")
    experiment = load_requested(arguments)
    corpora = [name for name in arguments.corpora.split(",") if name] if arguments.corpora else None

    from emod.serving import embed, find_model, list_windows

    # Workers stand in folders of their own.
    out = arguments.out if "://" in arguments.out else os.path.abspath(arguments.out)
    model = find_model(experiment, arguments.model)
    experiment, windows = list_windows(experiment, model, corpora, recordings=arguments.recordings)
    total = sum(piece.steps for piece in windows.pieces)
    if arguments.dry_run:
        unit = "windows" if windows.source == "store" else "recordings"
        line = f"embed {total} {unit} of {', '.join(windows.corpora)} as {len(windows.pieces)} objects into {out}"
        show_plan(experiment, [f"{line}, by {model.name} version {model.version}"])
        return

    from emod.workflow import on_ray

    with on_ray(quiet=True), progress("embed", total) as advance:
        embedded = embed(experiment, model, windows, out, advance)
    show(embedded)


def show(embedded: Embedded) -> None:
    """The result in a few plain lines."""
    from emod.storage import join, redact

    summary, out = embedded.summary, redact(embedded.out)
    if summary["simulated"]:
        print("SIMULATED recordings: these answers say nothing about people")
    for name, entry in summary["corpora"].items():
        flags = ", ".join(f"{word} {count}" for word, count in sorted(entry["flags"].items())) or "none"
        print(f"{name}: {entry['windows']} windows in {entry['objects']} objects; flags: {flags}")
    for problem in summary["problems"]:
        print(f"  {problem['source']} {problem['trial'] or ''}: {problem['message']} [{problem['code']}]")
    done = f"{embedded.computed} objects computed" if embedded.computed else "unchanged, nothing computed"
    removed = f", {embedded.removed} removed whose recordings changed or are gone" if embedded.removed else ""
    print(f"{out}: by {summary['model']['name']} version {summary['model']['version']}; {done}{removed}")
    print(f'read it: pandas.read_parquet("{join(out, "windows")}")')


if __name__ == "__main__":
    run_job(main)
