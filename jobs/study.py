"""Pretraining compared between arms by what fine-tuning makes of it: the paper's Table 3 on simulated corpora.

    python jobs/study.py --experiment objectives                     everything below outputs/objectives
    python jobs/study.py --experiment objectives --out s3://lab/objectives

Each arm is pretrained on all corpora but finetune.corpus and fine-tuned on that one, once a seed and size of
the simulated effect. The same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from emod.cli import experiment_parser, load_requested, run_job, show_plan

if TYPE_CHECKING:
    from emod.catalog import Experiment


def main() -> None:
    parser = experiment_parser(__doc__, default="objectives")
    parser.add_argument("--out", metavar="URL", help="where all it makes goes (default: outputs/NAME)")
    parser.add_argument("--pictures", metavar="DIR", help="where the table and the chart go (default: outputs/NAME)")
    arguments = parser.parse_args()
    name = Path(arguments.experiment).stem
    out = arguments.out or os.path.join("outputs", name)
    experiment = load_requested(arguments)
    arguments.overrides = [*addresses(experiment, out, everything=bool(arguments.out)), *arguments.overrides]
    experiment = load_requested(arguments)

    from emod.training.study import list_cells, settings_of

    study, finetune = settings_of(experiment)
    if arguments.dry_run:
        cells = list_cells(study, experiment.seed)
        others = ", ".join(corpus for corpus in experiment.corpora if corpus != finetune.corpus)
        show_plan(experiment, [f"{len(cells)} trainings: pretrain on {others}, fine-tune on {finetune.corpus}; {out}"])
        return

    from emod import workflow
    from emod.study_report import show_study

    started = time.monotonic()
    with workflow.on_ray(quiet=True):
        results = workflow.run_study(experiment)
    pictures = Path(arguments.pictures or os.path.join("outputs", name))
    show_study(experiment, results, pictures, seconds=time.monotonic() - started)


def addresses(experiment: Experiment, out: str, *, everything: bool) -> list[str]:
    """Overrides that put what the job makes below one folder; of recordings, the simulated copies alone.

    A study of simulated effects keeps out of a laboratory's store and runs. Any other takes what the experiment or the
    environment gives, unless ``everything`` is to be there.
    """
    places = {"store": "store", "runs": "runs"}
    if not everything and not (experiment.study and experiment.study.effects):
        places = {field: place for field, place in places.items() if getattr(experiment.addresses, field) is None}
    places |= {f"data.{name}": f"recordings/{name}" for name in experiment.simulate}
    return [f"addresses.{field}={json.dumps(f'{out}/{place}')}" for field, place in places.items()]


if __name__ == "__main__":
    run_job(main)
