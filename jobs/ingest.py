"""Recordings in a bucket -> clean windows in a shard store.

    python jobs/ingest.py --experiment pretrain --set addresses.data.deap=s3://lab/DEAP --set addresses.store=s3://lab/shards

Run again after a crash with the same flags, it finishes the rest.
"""

from __future__ import annotations

from emod.cli import experiment_parser, load_requested, run_job, show_plan


def main() -> None:
    arguments = experiment_parser(__doc__, default="pretrain").parse_args()
    experiment = load_requested(arguments)
    if arguments.dry_run:
        from emod.ingest import plan_ingest

        plans = plan_ingest(experiment)
        lines = [f"{p.corpus}: {len(p.references)} recordings, {'unchanged' if p.entry else 'to do'}" for p in plans]
        show_plan(experiment, lines)
        return

    from emod.ingest.report import report_url
    from emod.storage import redact
    from emod.workflow import ingest_corpora, on_ray

    # What is missing is said before a cluster is started.
    experiment.addresses.store_url()
    for name in experiment.corpora:
        experiment.addresses.root_of(name)
    with on_ray(quiet=True):
        store = ingest_corpora(experiment)
    for name in experiment.corpora:
        entry = store.manifest.corpora[name]
        print(f"{name}: {entry.n_windows} windows of {entry.n_subjects} subjects, {len(entry.problems)} problems")
        for problem in entry.problems:
            print(f"  {problem['source']} {problem['trial'] or ''}: {problem['message']} [{problem['code']}]")
    print(f"report: {redact(report_url(store))}")


if __name__ == "__main__":
    run_job(main)
