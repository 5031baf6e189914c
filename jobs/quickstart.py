"""The whole main job on this machine: recordings -> plane -> shards -> pretraining -> classes -> a registered model.

    python jobs/quickstart.py                                            simulated corpora, a few minutes
    python jobs/quickstart.py --data ~/data/dasps --corpus dasps         your own copy of a corpus, real recordings

Everything lands in one folder: recordings (if simulated), shards, runs, MLflow's database, pictures.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from emod.cli import experiment_parser, load_requested, run_job, show_plan
from emod.errors import RequestError


def main() -> None:
    parser = experiment_parser(__doc__, default="quickstart")
    parser.add_argument("--data", metavar="URL", help="top folder of a corpus; without it, corpora are simulated")
    parser.add_argument("--corpus", metavar="NAME", help="which corpus --data is")
    parser.add_argument("--out", metavar="DIR", help="where everything goes (default: outputs/quickstart[-NAME])")
    arguments = parser.parse_args()
    if (arguments.data is None) != (arguments.corpus is None):
        raise RequestError("--data and --corpus belong together: give both, or neither for simulated corpora")
    out = arguments.out or (
        "outputs/quickstart" if arguments.corpus is None else f"outputs/quickstart-{arguments.corpus}"
    )
    arguments.overrides = [*addresses(out), *real_data(arguments.data, arguments.corpus), *arguments.overrides]
    experiment = load_requested(arguments)
    if arguments.dry_run:
        show_plan(experiment, [f"simulate, ingest, pretrain, fine-tune, register; everything goes to {out}"])
        return

    started = time.monotonic()
    from emod import report, workflow
    from emod.tracking import check_reachable

    check_reachable(workflow.uri_of(experiment))
    workflow.simulate_corpora(experiment)
    with workflow.on_ray(num_cpus=2, quiet=True):
        store = workflow.ingest_corpora(experiment)
        pretrained, run_id = workflow.pretrain_backbone(experiment, store)
        outcomes = workflow.finetune_and_register(experiment, store, pretrained)
    pictures = report.draw_pictures(experiment, store, run_id, outcomes, Path(out, "pictures"))
    report.print_summary(experiment, store, outcomes, pictures, seconds=time.monotonic() - started)


def addresses(out: str) -> list[str]:
    """Overrides that put everything the job makes below one folder."""
    places = {"store": "store", "runs": "runs", "data.deap": "recordings/deap", "data.seed_iv": "recordings/seed_iv"}
    # As JSON text: an override is YAML, where a bare path may hold a comment or a number.
    return [f"addresses.{field}={json.dumps(f'{out}/{place}')}" for field, place in places.items()]


def real_data(data: str | None, corpus: str | None) -> list[str]:
    """Overrides that turn the simulated quickstart into one on a copy of a corpus."""
    if data is None or corpus is None:
        return []
    from emod.catalog import load_corpus

    targets = "[emotion]" if load_corpus(corpus).label_kind == "emotion" else "[valence, arousal]"
    return [
        f"corpora=[{corpus}]",
        "simulate={}",
        f"addresses.data.{corpus}={json.dumps(data)}",
        f"finetune.corpus={corpus}",
        f"finetune.targets={targets}",
    ]


if __name__ == "__main__":
    run_job(main)
