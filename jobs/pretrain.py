"""A shard store -> a pretrained backbone, on any number of workers.

    python jobs/pretrain.py --experiment pretrain --set addresses.store=s3://lab/shards --set addresses.runs=s3://lab/runs

The same pretrain.run_name resumes the same run. Subjects that the experiment's finetune section holds out are not seen.
"""

from __future__ import annotations

import sys

from emod.cli import experiment_parser, load_requested, run_job, show_plan


def main() -> None:
    arguments = experiment_parser(__doc__, default="pretrain").parse_args()
    experiment = load_requested(arguments)

    from emod.shards import ShardStore
    from emod.training import plan_pretraining

    store = ShardStore.open(experiment.addresses.store_url())
    if arguments.dry_run:
        show_plan(experiment, plan_pretraining(experiment, store))
        return

    from emod.storage import redact
    from emod.workflow import on_ray, pretrain_backbone, uri_of

    # Missing or not is known before a cluster is started.
    runs_url = experiment.addresses.runs_url()
    print("\n".join(plan_pretraining(experiment, store)), file=sys.stderr)
    with on_ray(quiet=True):
        _, run_id = pretrain_backbone(experiment, store)
    print(f"backbone: {redact(runs_url)}/{experiment.pretrain.run_name}/model")
    print(f"MLflow run {run_id} in {redact(uri_of(experiment))}")


if __name__ == "__main__":
    run_job(main)
