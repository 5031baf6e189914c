"""Takes a subject who withdrew consent out of a shard store: a new version without them, and what they are still in.

python jobs/remove_subject.py --store s3://lab/shards --corpus deap --subject s07

No later ingest brings them back. It says which MLflow runs were trained on them and which files of the store still hold
them; --purge removes those files, and with them the older versions. It touches neither the recordings nor any model.
An ingest that runs meanwhile may leave files behind: run this again when it has finished.
"""

from __future__ import annotations

import os
import sys

from emod.cli import JobParser, run_job
from emod.errors import RequestError


def main() -> None:
    parser = JobParser(__doc__)
    parser.allow_abbrev = False
    parser.add_argument("--store", default=os.environ.get("EMOD_STORE"), metavar="URL", help="default: $EMOD_STORE")
    parser.add_argument("--corpus", required=True, metavar="NAME")
    parser.add_argument(
        "--subject",
        required=True,
        action="append",
        metavar="ID",
        help="the corpus' own id; repeatable. For mped the pseudonym, or the name of the person's folder, from which "
        "the pseudonym is computed here: the name is neither shown nor kept",
    )
    parser.add_argument(
        "--runs", default=os.environ.get("EMOD_RUNS"), metavar="URL", help="where runs lie; default: $EMOD_RUNS"
    )
    parser.add_argument(
        "--purge",
        action="store_true",
        help="removes what still holds them from the store, for good; not while nobody can be asked what was trained "
        "on them",
    )
    parser.add_argument("--purge-unasked", action="store_true", help="--purge, even then")
    parser.add_argument("--dry-run", action="store_true", help="says what would be done; changes nothing")
    arguments, unknown = parser.parse_known_args()
    if unknown:  # never repeated: it may be half of somebody's name
        raise RequestError(
            f"{len(unknown)} words of this command are none that this job takes; quote what holds spaces, see --help"
        )
    if not arguments.store:
        raise RequestError("the store is not given: use --store URL or set EMOD_STORE")

    from emod.ingest.descendants import describe_descendants
    from emod.ingest.report import write_report
    from emod.ingest.withdrawal import check_subjects, find_remains, purge, subject_ids, withdraw
    from emod.shards import ShardStore
    from emod.storage import redact

    url, corpus, dry = arguments.store, arguments.corpus, arguments.dry_run
    subjects = subject_ids(corpus, arguments.subject)
    current, windows = check_subjects(url, corpus, subjects)
    said = [
        f"{corpus} {subject}: {count} windows in version {current.version} of {redact(url)}"
        for subject, count in windows.items()
    ]
    try:
        newest = current if dry else withdraw(url, corpus, subjects)
        if dry:
            held = current.corpora[corpus].subjects if corpus in current.corpora else frozenset()
            known = set(subjects) <= set(current.withdrawn.get(corpus, ())) and held.isdisjoint(subjects)
            said.append("plan: no new version; they are out of it already" if known else "plan: a version without them")
        elif newest.version > current.version:
            said.append(f"version {newest.version}: published, without them")
        else:
            said.append(f"version {newest.version}: unchanged: they are out of it")

        remains = find_remains(url, corpus, subjects)
        paths = (*remains.manifests, *remains.files, *remains.copies)
        counts = f"{len(remains.manifests)} versions, {len(remains.files)} files, {len(remains.copies)} copies"
        descendants = describe_descendants(arguments.runs, corpus, remains.manifests)
        said += descendants.lines
        wanted = arguments.purge or arguments.purge_unasked
        refused = wanted and descendants.unknown is not None and not arguments.purge_unasked
        if wanted and not refused:
            if not dry:
                purge(url, remains)
            said.append(f"plan: removes {counts}" if dry else f"purged: {counts}")
            said += [f"{'would remove' if dry else 'removed'}: {path}" for path in paths]
        else:
            said += [f"{'holds' if dry else 'still holds'} them: {path}" for path in paths]
        if not dry:
            said.append(f"report of version {newest.version}: {redact(write_report(ShardStore(url, newest)))}")
        said.append(
            "not touched: the recordings themselves, the models named above, what jobs/embed.py wrote about them, "
            "shards in caches of other machines (EMOD_CACHE), backups, and what a bucket with versioning keeps of "
            "removed objects"
        )
    finally:
        # Not before: whoever reads only the first lines must not stop a purge half way.
        show(said)
    if refused:
        raise RequestError(
            "nothing is purged: only the versions above can tell which models learned from them, and that is unknown "
            f"yet ({descendants.unknown}). Do that, or ask everybody who trains models which runs and registered "
            f"models have ever read {corpus} from {redact(url)}, keep their answer, and use --purge-unasked"
        )


def show(lines: list[str]) -> None:
    """Prints; a reader who has gone, as ``head``, is no error."""
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends


if __name__ == "__main__":
    run_job(main)
