"""The verb `ablate`: every arm pretrained, all evaluated on each benchmark. The paper's Table 3 and Figure 3.

Pretrainings run one after the other, each on as many workers as it asks for; of an evaluation all trainings run side by
side. Each part has a run name of its own, so what was interrupted goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlflow import MlflowClient

from emod import storage, workflow
from emod.catalog import (
    AblationSettings,
    EvaluateSettings,
    Experiment,
    FinetuneSettings,
    SplitSettings,
    with_overrides,
)
from emod.errors import RequestError
from emod.evaluating import Evaluated, evaluate_methods, figures_of
from emod.lease import one_driver
from emod.shards import ShardStore, newest_manifest
from emod.tracking import check_reachable, ensure_run, log_experiment
from emod.training.backbone import PER_SEED
from emod.training.evaluating import check_training_room, evaluation_settings
from emod.training.launch import claim_run

# What the ablation decides, and what would make it another question from arm to arm.
_SET_HERE = ("pretrain.run_name", "pretrain.corpora", "finetune.backbone", "finetune.run_name")

__all__ = ["Ablated", "ablate", "ablation_settings", "benchmark_experiment", "list_pretrainings", "plan_ablation"]


@dataclass(frozen=True, eq=False)
class Ablated:
    """What an ablation left.

    Attributes:
        experiment: As it was run.
        benchmarks: Name -> its evaluation, whose methods are the arms.
        reports: Name -> the evaluation's own report.
        folder: Below the runs.
    """

    experiment: Experiment
    benchmarks: dict[str, Evaluated]
    reports: dict[str, str]
    folder: str

    @property
    def simulated(self) -> bool:
        """Whether anything that was learned from or tested on was simulated."""
        return any(evaluated.simulated for evaluated in self.benchmarks.values())


def ablation_settings(experiment: Experiment) -> tuple[AblationSettings, EvaluateSettings, FinetuneSettings]:
    """The ablation, how it is evaluated, and what its benchmarks share.

    Raises:
        RequestError: If the experiment has no ablation, or one that compares what cannot be compared.
    """
    ablation, evaluate, finetune = experiment.ablation, experiment.evaluate, experiment.finetune
    if ablation is None or evaluate is None or finetune is None:
        missing = "ablation" if ablation is None else "evaluate" if evaluate is None else "finetune"
        raise RequestError(f"experiment {experiment.name} has no {missing} section; use --experiment table3")
    if "plane" in finetune.targets:
        raise RequestError("finetune.targets names plane: an ablation compares balanced accuracies; leave it out")
    _refuse_overridden(evaluate, finetune)
    _refuse_alike(ablation)
    allowed = (
        ("arms", ablation.arms, ("model", "pretrain", "finetune")),
        ("benchmarks", ablation.benchmarks, ("signal", "finetune")),
    )
    for field, named, sections in allowed:
        for name, changes in named.items():
            for change in changes:
                key = change.partition("=")[0].strip()
                if key.partition(".")[0] not in sections or key in _SET_HERE:
                    raise RequestError(
                        f"ablation.{field}.{name}: {change} is not of {' or '.join(sections)}, or is set by the "
                        f"ablation itself; {field} share the rest"
                    )
    for arm, changes in ablation.arms.items():
        if (method := _finetune_of(experiment, changes).method) != "emod":
            raise RequestError(f"ablation.arms.{arm}: finetune.method = {method}: arms are of method emod")
    for name in ablation.benchmarks:
        if known := sorted(set(_asked(experiment, name).corpora) & set(experiment.pretrained_on)):
            raise RequestError(
                f"ablation.benchmarks.{name} asks about {known[0]}, which every arm is pretrained on; set "
                "pretrain.corpora to others"
            )
        # Every arm under every benchmark, before any of them trains for days.
        evaluation_settings(benchmark_experiment(experiment, name))
    return ablation, evaluate, finetune


def _refuse_overridden(evaluate: EvaluateSettings, finetune: FinetuneSettings) -> None:
    """What arms and benchmarks decide is not to be asked for beside them: it would be overridden in silence."""
    asked = {
        "evaluate.methods": evaluate.methods != EvaluateSettings().methods,
        "finetune.backbone": finetune.backbone is not None,
        "finetune.split.protocol": finetune.split.protocol != SplitSettings().protocol,
    }
    for field, differs in asked.items():
        if differs:
            raise RequestError(f"{field}: in an ablation arms and benchmarks decide it; change those, or leave it out")


def _refuse_alike(ablation: AblationSettings) -> None:
    """Names that would share a folder."""
    for field, named in (("arms", ablation.arms), ("benchmarks", ablation.benchmarks)):
        slugs = [_slug(name) for name in named]
        if twice := next((slug for slug in slugs if slugs.count(slug) > 1), None):
            raise RequestError(f"ablation.{field}: two names are {twice} in a path; call one otherwise")


def list_pretrainings(experiment: Experiment) -> list[tuple[str, int]]:
    """Every (arm, seed) that starts something of its own; seeds outermost."""
    _, evaluate, _ = ablation_settings(experiment)
    seeds = range(experiment.seed, experiment.seed + evaluate.seeds)
    return [
        (arm, seed)
        for seed in seeds
        for arm in _settings(experiment).arms
        if seed == experiment.seed or _starts_each_seed(experiment, arm)
    ]


def pretraining_experiment(experiment: Experiment, arm: str, seed: int) -> Experiment:
    """The experiment of one pretraining, alone."""
    corpora = json.dumps(list(experiment.pretrained_on))
    store = storage.join(experiment.addresses.store_url(), "pretrain")
    return with_overrides(
        experiment,
        [
            *_settings(experiment).arms[arm],
            *(f"{section}=null" for section in ("ablation", "evaluate", "finetune", "pretrain.corpora")),
            f"corpora={corpora}",
            f"addresses.store={json.dumps(store)}",
            f"pretrain.run_name={json.dumps(_run_name(experiment, arm, seed))}",
            f"seed={seed}",
        ],
    )


def benchmark_experiment(experiment: Experiment, name: str) -> Experiment:
    """The evaluation of all arms on one benchmark, alone."""
    ablation = _settings(experiment)
    methods = {arm: _method(experiment, arm) for arm in ablation.arms}
    store = storage.join(experiment.addresses.store_url(), f"benchmark-{_slug(name)}")
    return with_overrides(
        experiment,
        [
            *ablation.benchmarks[name],
            *(f"{section}=null" for section in ("ablation", "pretrain.corpora")),
            f"corpora={json.dumps(list(_asked(experiment, name).corpora))}",
            f"addresses.store={json.dumps(store)}",
            f"evaluate.run_name={json.dumps(f'{ablation.run_name}-evaluate-{_slug(name)}')}",
            f"evaluate.methods={json.dumps(methods)}",
        ],
    )


def plan_ablation(experiment: Experiment) -> list[str]:
    """What an ablation would do, in plain lines."""
    ablation, evaluate, finetune = ablation_settings(experiment)
    others = ", ".join(experiment.pretrained_on)
    asked = [
        f"{name} ({_asked(experiment, name).corpus}, {_asked(experiment, name).split.protocol})"
        for name in ablation.benchmarks
    ]
    pretrained = [arm for arm, _ in list_pretrainings(experiment) if not _is_scratch(experiment, arm)]
    trainings = (len(ablation.arms) + 1) * evaluate.seeds * len(ablation.benchmarks) * len(finetune.targets)
    return [
        f"{len(pretrained)} pretrainings on {others}",
        f"{trainings} fine-tunings a fold: {', '.join(ablation.arms)}, and the first on shuffled labels; "
        f"{evaluate.seeds} seeds; {', '.join(asked)}",
    ]


@one_driver(lambda experiment: ablation_settings(experiment)[0].run_name)
def ablate(experiment: Experiment, report: Callable[[Evaluated, ShardStore], str]) -> Ablated:
    """Simulates what is to be simulated, ingests, pretrains every arm and evaluates all. Ray must be running.

    Args:
        experiment: With an ablation.
        report: Writes an evaluation's report and returns its address.

    Raises:
        RequestError: If the name belongs to another ablation, or as any of the parts.
    """
    ablation, evaluate, _ = ablation_settings(experiment)
    pretrainings = [pretraining_experiment(experiment, arm, seed) for arm, seed in list_pretrainings(experiment)]
    asked = {name: benchmark_experiment(experiment, name) for name in ablation.benchmarks}
    check_reachable(workflow.uri_of(experiment))
    check_training_room(evaluate)
    # What decides a number is claimed by each part; this one holds together which parts they are.
    claim = claim_run(
        experiment.addresses.runs_url(),
        ablation.run_name,
        {"seed": experiment.seed, **ablation.model_dump(mode="json", exclude={"run_name"})},
        room="ablation",
    )
    workflow.simulate_corpora(experiment)
    # All that can be wrong with recordings shows before the first arm trains.
    store = _ingest(experiment, pretrainings[0])
    stores = {name: _ingest(experiment, varied) for name, varied in asked.items()}
    for varied in pretrainings:
        workflow.pretrain_backbone(varied, store)
    benchmarks, reports = {}, {}
    for name, varied in asked.items():
        benchmarks[name] = evaluate_methods(varied, stores[name])
        reports[name] = report(benchmarks[name], stores[name])
    ablated = Ablated(experiment, benchmarks, reports, storage.join(experiment.addresses.runs_url(), ablation.run_name))
    _log(ablated, claim)
    return ablated


def _ingest(experiment: Experiment, varied: Experiment) -> ShardStore:
    """The store of a part. Who has withdrawn from the store given is not in it, or nothing goes on."""
    store = workflow.ingest_corpora(varied)
    given = newest_manifest(experiment.addresses.store_url())
    for corpus in varied.corpora:
        withdrawn = set(given.withdrawn.get(corpus, ())) if given else set()
        if held := sorted(withdrawn & set(store.metadata(corpus)["subject"].to_pylist())):
            named = " ".join(f"--subject {subject}" for subject in held)
            raise RequestError(
                f"{storage.redact(store.url)} still holds {', '.join(held)} of {corpus}, withdrawn from "
                f"{storage.redact(experiment.addresses.store_url())}; first run jobs/remove_subject.py --store "
                f"{storage.redact(store.url)} --corpus {corpus} {named}"
            )
    return store


def _log(ablated: Ablated, claim: str) -> None:
    experiment = ablated.experiment
    uri = workflow.uri_of(experiment)
    client = MlflowClient(uri)
    run_id = ensure_run(uri, experiment.name, _settings(experiment).run_name, {"emod.stage": "ablation"}, claim=claim)
    with workflow.running(client, run_id):
        log_experiment(client, run_id, experiment, world_size=1, exclude=("simulate",))
        client.set_tag(run_id, "emod.simulated", str(ablated.simulated).lower())
        for name, evaluated in ablated.benchmarks.items():
            for summary in evaluated.summaries:
                for method in summary.methods:
                    for figure in figures_of(summary)[:3]:
                        key = f"test/{_slug(name)}/{summary.target.name}/{_slug(method.method)}/{figure}"
                        client.log_metric(run_id, key, method.mean(figure), step=0)


def _settings(experiment: Experiment) -> AblationSettings:
    assert experiment.ablation is not None
    return experiment.ablation


def _is_scratch(experiment: Experiment, arm: str) -> bool:
    return with_overrides(experiment, _settings(experiment).arms[arm]).pretrain.objective == "scratch"


def _starts_each_seed(experiment: Experiment, arm: str) -> bool:
    """Whether each seed of an arm has its own start; fresh weights, which cost nothing, always."""
    return _settings(experiment).pretrain_each_seed or _is_scratch(experiment, arm)


def _method(experiment: Experiment, arm: str) -> list[str]:
    """An arm as a method of an evaluation: where it starts, and what it changes of fine-tuning."""
    seed = PER_SEED if _starts_each_seed(experiment, arm) else str(experiment.seed)
    url = storage.join(experiment.addresses.runs_url(), _run_name(experiment, arm, seed), "model")
    own = [change for change in _settings(experiment).arms[arm] if change.startswith("finetune.")]
    return [*own, f"finetune.backbone={json.dumps(url)}"]


def _run_name(experiment: Experiment, arm: str, seed: int | str) -> str:
    return f"{_settings(experiment).run_name}-pretrain-{_slug(arm)}-{seed}"


def _asked(experiment: Experiment, benchmark: str) -> FinetuneSettings:
    return _finetune_of(experiment, _settings(experiment).benchmarks[benchmark])


def _finetune_of(experiment: Experiment, changes: Sequence[str]) -> FinetuneSettings:
    varied = with_overrides(experiment, changes).finetune
    assert varied is not None
    return varied


def _slug(name: str) -> str:
    return name.lower().replace(" ", "-")
