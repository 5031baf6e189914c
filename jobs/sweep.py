"""Trials of fine-tuning with settings of their own, judged by validation windows alone; the best one's command.

    python jobs/sweep.py --experiment sweep --set addresses.store=s3://lab/shards --set addresses.runs=s3://lab/runs
    python jobs/sweep.py --experiment sweep-simulated                all it needs below outputs/sweep-simulated

What the experiment simulates is simulated, ingested and pretrained on first. The same command goes on where it was
stopped. Test windows are not read: the command that is printed reads them, once.
"""

from __future__ import annotations

import shlex
import sys
import time

from emod.cli import experiment_parser, load_below, run_job, show_plan


def main() -> None:
    parser = experiment_parser(__doc__, default="sweep")
    parser.add_argument(
        "--out", metavar="URL", help="where all it makes goes (default where it simulates: outputs/NAME)"
    )
    arguments = parser.parse_args()
    experiment = load_below(arguments)

    from emod.shards import ShardStore
    from emod.sweeping import plan_sweep, plan_without_store, sweep

    if arguments.dry_run:
        if experiment.simulate:
            show_plan(experiment, plan_without_store(experiment))
        else:
            show_plan(experiment, plan_sweep(experiment, ShardStore.open(experiment.addresses.store_url())))
        return

    from emod import workflow
    from emod.storage import redact
    from emod.sweep_report import print_sweep, write_sweep
    from emod.training import load_backbone
    from emod.tuning import sweep_settings, trial_overrides

    started = time.monotonic()
    _, finetune, _ = sweep_settings(experiment)
    store = None if experiment.simulate else ShardStore.open(experiment.addresses.store_url())
    workflow.uri_of(experiment)  # what is not given is asked for before Ray starts
    with workflow.on_ray(quiet=True, dashboard=True):
        if store is None:
            workflow.simulate_corpora(experiment)
            store = workflow.ingest_corpora(experiment)
            if finetune.backbone is None:
                workflow.pretrain_backbone(experiment, store)
        swept = sweep(experiment, store, load_backbone(experiment))
    chosen = ["sweep=", *trial_overrides(swept.best.path), f"finetune.run_name={swept.settings.run_name}-best"]
    flags = [flag for override in (*arguments.overrides, *chosen) for flag in ("--set", override)]
    best = redact(shlex.join(["python", "jobs/finetune.py", "--experiment", arguments.experiment, *flags]))
    command = redact(shlex.join(["python", "jobs/sweep.py", *sys.argv[1:]]))
    report = write_sweep(swept, command=command, best_command=best)
    print_sweep(swept, best_command=best, report=report, seconds=time.monotonic() - started)


if __name__ == "__main__":
    run_job(main)
