"""Takes a subject who withdrew consent out of a shard store: a new version without them, and what they are still in.

python jobs/remove_subject.py --store s3://lab/shards --corpus deap --subject s07

No later ingest brings them back. It says which MLflow runs were trained on them and which files of the store still hold
them; --purge removes those files, and with them the older versions. It touches neither the recordings nor any model.
An ingest that runs meanwhile may leave files behind: run this again when it has finished.
"""

from __future__ import annotations

import os

from emod.cli import JobParser, run_job


def main() -> None:
    parser = JobParser(__doc__)
    store = os.environ.get("EMOD_STORE")
    parser.add_argument("--store", required=not store, default=store, metavar="URL", help="default: $EMOD_STORE")
    parser.add_argument("--corpus", required=True, metavar="NAME")
    parser.add_argument(
        "--subject", required=True, action="append", metavar="ID", help="the corpus' own id; repeatable"
    )
    parser.add_argument(
        "--runs", default=os.environ.get("EMOD_RUNS"), metavar="URL", help="where runs lie; default: $EMOD_RUNS"
    )
    parser.add_argument("--purge", action="store_true", help="removes what still holds them from the store, for good")
    parser.add_argument("--dry-run", action="store_true", help="says what would be done; changes nothing")
    arguments = parser.parse_args()

    from emod.ingest.descendants import describe_descendants
    from emod.ingest.report import write_report
    from emod.ingest.withdrawal import check_subjects, find_remains, purge, withdraw
    from emod.shards import ShardStore
    from emod.storage import redact

    url, corpus, subjects = arguments.store, arguments.corpus, sorted(set(arguments.subject))
    current, windows = check_subjects(url, corpus, subjects)
    for subject, count in windows.items():
        print(f"{corpus} {subject}: {count} windows in version {current.version} of {redact(url)}")
    if arguments.dry_run:
        print("plan: a new version without them" if any(windows.values()) else "plan: they are out of it already")
        newest = current
    else:
        newest = withdraw(url, corpus, subjects)
        what = "published, without them" if newest.version > current.version else "unchanged: they are out of it"
        print(f"version {newest.version}: {what}")

    remains = find_remains(url, corpus, subjects)
    for line in describe_descendants(arguments.runs, corpus, remains.manifests):
        print(line)
    for path in (*remains.manifests, *remains.files, *remains.copies):
        print(f"{'holds' if arguments.dry_run else 'still holds'} them: {path}")
    if arguments.purge and not arguments.dry_run:
        purge(url, remains)
        print(f"purged: {len(remains.manifests)} versions, {len(remains.files)} files, {len(remains.copies)} copies")
    if not arguments.dry_run:
        print(f"report of version {newest.version}: {redact(write_report(ShardStore(url, newest)))}")
    print(
        "not touched: the recordings themselves, the models named above, shards in caches of other machines "
        "(EMOD_CACHE), backups, and what a bucket with versioning keeps of removed objects"
    )


if __name__ == "__main__":
    run_job(main)
