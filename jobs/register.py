"""The gate before the alias champion: a candidate passes or is told which condition fails, and by how much.

    python jobs/register.py --experiment finetune                    models:/emod@candidate -> @champion, if it may
    python jobs/register.py --experiment finetune --version 7        another version
    python jobs/register.py --experiment finetune --rollback         the champion before
    python jobs/register.py --experiment finetune --card             the model card of the candidate

finetune's protocol and first target are what it is judged by; limits are in the experiment's promote section. --dry-run
looks and moves nothing.
"""

from __future__ import annotations

from emod.cli import experiment_parser, load_requested, run_job


def main() -> None:
    parser = experiment_parser(__doc__, default="finetune")
    parser.add_argument(
        "--version", metavar="N_OR_ALIAS", default="candidate", help="which version (default: candidate)"
    )
    parser.add_argument("--rollback", action="store_true", help="moves champion to the version that was it before")
    parser.add_argument("--card", action="store_true", help="prints the version's model card and ends")
    arguments = parser.parse_args()
    experiment = load_requested(arguments)
    name, version = experiment.promote.name, arguments.version
    wanted = f"models:/{name}/{version}" if version.isdigit() else f"models:/{name}@{version}"

    from mlflow import MlflowClient

    from emod.promotion_report import print_card, print_promotion
    from emod.tracking import registry_uri
    from emod.tracking.champion import roll_back

    uri = registry_uri(experiment)
    if arguments.card:
        print_card(uri, wanted)
        return
    if arguments.rollback:
        left, now = roll_back(MlflowClient(uri), name, move=not arguments.dry_run)
        would = "would be " if arguments.dry_run else ""
        print(f"champion of {name}: {would}version {now}, no longer {left}")
        return

    from emod.promoting import promote
    from emod.shards import ShardStore

    store = ShardStore.open(experiment.addresses.store_url())
    promotion = promote(experiment, store, wanted, move=not arguments.dry_run)
    print_promotion(promotion, moved=not arguments.dry_run)


if __name__ == "__main__":
    run_job(main)
