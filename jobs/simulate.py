"""Writes a simulated corpus in its owner's published layout: no downloads, no licence, nobody's recordings.

python jobs/simulate.py --corpus deap --out data/deap --subjects 4 --time-scale 0.2
"""

from __future__ import annotations

from emod.cli import JobParser, progress, run_job
from emod.errors import RequestError


def main() -> None:
    parser = JobParser(__doc__)
    parser.add_argument("--corpus", required=True, metavar="NAME", help="a corpus in catalogs/corpora/")
    parser.add_argument("--out", required=True, metavar="URL", help="an empty folder; any URL that fsspec writes")
    parser.add_argument("--subjects", required=True, type=int, metavar="N")
    parser.add_argument("--trials", type=int, metavar="N", help="the first N of each session (default: as published)")
    parser.add_argument("--time-scale", type=float, default=1.0, metavar="F", help="trial length over published length")
    parser.add_argument("--effect", choices=("none", "weak", "medium", "strong"), help="how strongly emotion shows")
    parser.add_argument("--seed", type=int, metavar="N")
    parser.add_argument("--signal", choices=("brain", "tags"), default="brain", help="tags: samples say their origin")
    parser.add_argument("--dry-run", action="store_true", help="prints settings and plan; writes nothing")
    arguments = parser.parse_args()

    from emod.catalog import SimulateSettings, dump_yaml, load_simulation
    from emod.catalog.load import validate
    from emod.corpora import open_corpus, simulate_corpus
    from emod.simulation import BrainSimulator, TagSignal
    from emod.storage import redact

    given = {"effect": arguments.effect, "seed": arguments.seed}
    brain = load_simulation().model_dump() | {key: value for key, value in given.items() if value is not None}
    asked = {"subjects": arguments.subjects, "trials": arguments.trials, "time_scale": arguments.time_scale}
    typed = {(key,): f"--{key.replace('_', '-')} {value}" for key, value in asked.items()}
    typed |= {("brain", key): f"--{key} {value}" for key, value in given.items()}
    settings = validate(SimulateSettings, {**asked, "brain": brain}, origin="command line", typed=typed)
    corpus = open_corpus(arguments.corpus, arguments.out)
    try:
        plans = corpus.plan_recordings(settings)
    except RequestError as error:  # knows the field of SimulateSettings, not the flag
        flags = [flag for place, flag in typed.items() if str(error).startswith(f"simulate.{place[-1]} = ")]
        raise RequestError(": ".join([*flags, str(error)])) from None
    seconds = sum(passage.duration_s for plan in plans for piece in plan.pieces for passage in piece)
    print(f"{arguments.corpus}: {len(plans)} recordings, {seconds / 60:.1f} minutes of EEG -> {redact(arguments.out)}")
    if arguments.dry_run:
        print(dump_yaml(settings), end="")
        return
    source = TagSignal() if arguments.signal == "tags" else BrainSimulator(settings.brain)
    with progress("simulate", len(plans)) as tick:
        simulate_corpus(
            arguments.corpus,
            arguments.out,
            settings,
            source,
            on_recording=lambda plan: tick(note=f"subject {plan.subject} session {plan.session}"),
        )


if __name__ == "__main__":
    run_job(main)
