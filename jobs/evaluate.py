"""Methods on one question, over every fold of a protocol and several seeds, beside controls that see no EEG.

    python jobs/evaluate.py --experiment evaluate --set addresses.store=s3://lab/shards --set addresses.runs=s3://lab/runs
    python jobs/evaluate.py --experiment faced-simulated                 all it needs below outputs/faced-simulated

What the experiment simulates is simulated, ingested and pretrained on first. The same command goes on where it was
stopped. The audit runs before anything trains; --dry-run counts folds and windows and trains nothing.
"""

from __future__ import annotations

import shlex
import sys
import time

from emod.cli import experiment_parser, load_below, run_job, show_plan


def main() -> None:
    parser = experiment_parser(__doc__, default="evaluate")
    parser.add_argument(
        "--out", metavar="URL", help="where all it makes goes (default where it simulates: outputs/NAME)"
    )
    arguments = parser.parse_args()
    experiment = load_below(arguments)

    from emod.evaluating import evaluate_methods, plan_evaluation, plan_without_store, starts_from_run
    from emod.shards import ShardStore

    if arguments.dry_run:
        if experiment.simulate or experiment.addresses.store is None:
            show_plan(experiment, plan_without_store(experiment))
        else:
            show_plan(experiment, plan_evaluation(experiment, ShardStore.open(experiment.addresses.store_url())))
        return

    from emod import workflow
    from emod.evaluation_report import print_evaluation, write_evaluation
    from emod.storage import redact

    started = time.monotonic()
    with workflow.on_ray(quiet=True):
        if experiment.simulate:
            workflow.simulate_corpora(experiment)
            store = workflow.ingest_corpora(experiment)
            if starts_from_run(experiment):
                workflow.pretrain_backbone(experiment, store)
        else:
            store = ShardStore.open(experiment.addresses.store_url())
        evaluated = evaluate_methods(experiment, store)
    command = redact(shlex.join(["python", "jobs/evaluate.py", *sys.argv[1:]]))
    report = write_evaluation(evaluated, store, command=command)
    print_evaluation(evaluated, report=report, seconds=time.monotonic() - started)


if __name__ == "__main__":
    run_job(main)
