"""Arms of pretraining or of the network, pretrained and judged alike: the paper's Table 3 and Figure 3.

    python jobs/ablate.py --experiment table3 --set addresses.store=s3://lab/shards --set addresses.runs=s3://lab/runs
    python jobs/ablate.py --experiment figure3-simulated             all it needs below outputs/figure3-simulated

What the experiment simulates is simulated first. Every benchmark, and pretraining, has a store of its own below the one
given. The same command goes on where it was stopped.
"""

from __future__ import annotations

import shlex
import sys
import time

from emod.cli import experiment_parser, load_below, run_job, show_plan


def main() -> None:
    parser = experiment_parser(__doc__, default="table3")
    parser.add_argument(
        "--out", metavar="URL", help="where all it makes goes (default where it simulates: outputs/NAME)"
    )
    arguments = parser.parse_args()
    experiment = load_below(arguments)

    from emod.ablating import ablate, plan_ablation

    if arguments.dry_run:
        show_plan(experiment, plan_ablation(experiment))
        return

    from emod import workflow
    from emod.ablation_report import print_ablation, write_ablation
    from emod.evaluation_report import write_evaluation
    from emod.storage import redact

    command = redact(shlex.join(["python", "jobs/ablate.py", *sys.argv[1:]]))
    started = time.monotonic()
    with workflow.on_ray(quiet=True):
        ablated = ablate(experiment, lambda evaluated, store: write_evaluation(evaluated, store, command=command))
    report = write_ablation(ablated, command=command)
    print_ablation(ablated, report=report, seconds=time.monotonic() - started)


if __name__ == "__main__":
    run_job(main)
