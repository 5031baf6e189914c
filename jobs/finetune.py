"""A pretrained backbone -> a classifier, scored once on test windows and registered in MLflow.

    python jobs/finetune.py --experiment finetune --set addresses.store=s3://lab/shards --set addresses.runs=s3://lab/runs

The backbone is the finished run that pretrain.run_name names, or what finetune.backbone names: a folder with weights,
models:/NAME@ALIAS, or none.
"""

from __future__ import annotations

from emod.cli import experiment_parser, load_requested, run_job, show_plan


def main() -> None:
    arguments = experiment_parser(__doc__, default="finetune").parse_args()
    experiment = load_requested(arguments)

    from emod.shards import ShardStore

    store = ShardStore.open(experiment.addresses.store_url())
    if arguments.dry_run:
        from emod.workflow import plan_finetune

        show_plan(experiment, plan_finetune(experiment, store))
        return

    from emod.storage import redact
    from emod.training import load_backbone
    from emod.workflow import finetune_and_register, on_ray, summarise, uri_of

    pretrained = load_backbone(experiment)
    with on_ray(quiet=True):
        outcomes = finetune_and_register(experiment, store, pretrained)
    for line in summarise(outcomes):
        print(line)
    print(f"MLflow: {redact(uri_of(experiment))}")


if __name__ == "__main__":
    run_job(main)
