"""Recordings in a bucket -> clean windows in a shard store.

    python jobs/ingest.py --experiment pretrain --set addresses.data.deap=s3://lab/DEAP --set addresses.store=s3://lab/shards

Run again after a crash with the same flags, it finishes the rest. --verify reads the store instead, whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emod.cli import experiment_parser, load_requested, run_job, show_plan
from emod.errors import DataError

if TYPE_CHECKING:
    from emod.catalog import Experiment
    from emod.ingest import IngestPlan


def main() -> None:
    parser = experiment_parser(__doc__, default="pretrain")
    parser.add_argument(
        "--verify", action="store_true", help="computes every checksum of the store anew and ingests nothing"
    )
    arguments = parser.parse_args()
    experiment = load_requested(arguments)
    if arguments.verify:
        if arguments.dry_run:
            show_plan(experiment, [f"verify {experiment.addresses.store_url()}"])
        else:
            verify(experiment)
        return

    from emod.ingest import check_cpus, plan_ingest

    # What is wrong with the request is said before a cluster is started.
    plans = plan_ingest(experiment)
    if any(plan.entry is None for plan in plans):
        check_cpus(experiment)
    if arguments.dry_run:
        show_plan(experiment, [f"{plan.corpus}: {len(plan.references)} recordings, {_state(plan)}" for plan in plans])
        return

    from emod.ingest.report import report_url
    from emod.storage import redact
    from emod.workflow import ingest_corpora, on_ray

    with on_ray(quiet=True):
        store = ingest_corpora(experiment, plans)
    for plan in plans:
        entry = store.manifest.corpora[plan.corpus]
        done = "unchanged, nothing computed" if plan.entry else "computed"
        if plan.damaged:
            done = f"computed again: {_damage(plan)}"
        print(
            f"{plan.corpus}: {entry.n_windows} windows of {entry.n_subjects} subjects, {len(entry.problems)} problems; "
            f"{done}"
        )
        for problem in entry.problems:
            print(f"  {problem['source']} {problem['trial'] or ''}: {problem['message']} [{problem['code']}]")
    print(f"report: {redact(report_url(store))}")


def verify(experiment: Experiment) -> None:
    """Says whether the store is what its manifest says.

    Raises:
        DataError: If it is not.
    """
    from emod.shards import ShardStore
    from emod.storage import redact

    store = ShardStore.open(experiment.addresses.store_url())
    found = store.verify()
    for line in found:
        print(redact(line))
    where = f"version {store.manifest.version} of {redact(store.url)}"
    if found:
        raise DataError(
            f"{where}: {len(found)} problems; restore the files named above, or remove them and ingest again"
        )
    print(f"{where}: whole; {', '.join(store.corpora)}")


def _state(plan: IngestPlan) -> str:
    if plan.damaged:
        return f"to do again: {_damage(plan)}"
    return "unchanged" if plan.entry else "to do"


def _damage(plan: IngestPlan) -> str:
    more = f" and {len(plan.damaged) - 1} more" if len(plan.damaged) > 1 else ""
    return f"{plan.damaged[0]}{more} of the store was missing or damaged"


if __name__ == "__main__":
    run_job(main)
