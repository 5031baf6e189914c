"""What is watched of a run: on whom, without a trace in training, once a step, in MLflow and in Prometheus."""

from __future__ import annotations

import math
import re
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import ray
import torch
import torch.distributed as dist
from mlflow import MlflowClient

from emod.catalog import Experiment
from emod.evaluation import make_splits
from emod.evaluation.representation import alignment, emotion_classes, knn_scores, uniformity, va_rank_correlation
from emod.model import Emod
from emod.monitoring import gauge
from emod.objective import va_weights
from emod.shards import ShardStore
from emod.tracking import ensure_run
from emod.training import held_out_subjects, pretrain
from emod.training.pretrainer import Pretrainer, select_windows
from emod.training.watching import Costs, HeldOutProbe, watched_subjects
from tests.ranks import run_ranks
from tests.training.tiny_store import SUBJECTS, PretrainRun

CPU = torch.device("cpu")
FIGURES = ("alignment", "uniformity", "va_rank_correlation", "watch_s")
OF_CORPORA = ("va_rank_correlation", "knn_balanced_accuracy", "knn_chance")
TUNE = {"corpus": "seed_iv", "split": {"validation": 0.34, "test": 0.34}}

MakeExperiment = Callable[..., Experiment]


class Spy(ShardStore):
    """A store that remembers whose windows were read, in order."""

    def __init__(self, url: str) -> None:
        super().__init__(url, ShardStore.open(url).manifest)
        self.read: list[tuple[str, int]] = []

    def windows(self, corpus: str, rows: npt.ArrayLike, **kind: Any) -> npt.NDArray[np.float32]:
        self.read += [(corpus, int(row)) for row in np.asarray(rows)]
        return super().windows(corpus, rows, **kind)


class Few(ShardStore):
    """A store with only the first subjects of each corpus."""

    def __init__(self, url: str, subjects: int) -> None:
        super().__init__(url, ShardStore.open(url).manifest)
        self.subjects = pa.array(SUBJECTS[:subjects])

    def metadata(self, corpus: str) -> pa.Table:
        whole = super().metadata(corpus)
        return whole.filter(pa.compute.is_in(whole["subject"], self.subjects))


def watched_experiment(make_experiment: MakeExperiment, **changes: Any) -> Experiment:
    plain = {"epochs": 1, "steps_per_epoch": 6, "rounds": 1, "learning_rate": 5e-3, "watch_subjects": 0.34}
    return make_experiment("unused", pretrain=plain | changes, finetune=TUNE)


def new_pretrainer(store: ShardStore, experiment: Experiment) -> Pretrainer:
    corpora = select_windows(store, experiment.corpora, held_out_subjects(experiment, store))
    return Pretrainer(store, corpora, experiment.model, experiment.pretrain, seed=0, device=CPU)


def new_probe(store: ShardStore, experiment: Experiment, **others: Any) -> HeldOutProbe:
    return HeldOutProbe(store, experiment, held_out_subjects(experiment, store), device=CPU, **others)


def test_who_is_watched(store: ShardStore, store_url: str, make_experiment: MakeExperiment) -> None:
    experiment = watched_experiment(make_experiment)
    split = make_splits(store.metadata("seed_iv"), experiment.finetune.split)[0]
    roles = {role: {key.partition("/")[2] for key in keys} for role, keys in split.subjects.items()}
    watched, held_out = watched_subjects(experiment, store), held_out_subjects(experiment, store)
    assert watched["seed_iv"] == roles["validation"]
    assert held_out["seed_iv"] == roles["validation"] | roles["test"]
    assert watched["deap"] == held_out["deap"]
    assert len(watched["deap"]) == 2
    # Runs that are compared are watched on the same people.
    for seed in (1, 2):
        assert watched_subjects(experiment.model_copy(update={"seed": seed}), store) == watched
    # By default, and where nobody could be spared, training sees everyone.
    assert watched_subjects(make_experiment("unused"), store) == {}
    for subjects, spared in ((1, 0), (2, 0), (3, 1), (4, 1), (6, 2)):
        found = watched_subjects(make_experiment("unused", pretrain={"watch_subjects": 0.34}), Few(store_url, subjects))
        assert {name: len(people) for name, people in found.items()} == (
            {"deap": spared, "seed_iv": spared} if spared else {}
        )
    most = watched_subjects(make_experiment("unused", pretrain={"watch_subjects": 0.99}), store)
    assert len(most["deap"]) == 4, "two are left to train on and to compare with"


def test_the_probe_reads_whom_it_may(store_url: str, make_experiment: MakeExperiment) -> None:
    """Queries are all windows of watched subjects; references, no more of them, are of those trained on."""
    spy, experiment = Spy(store_url), watched_experiment(make_experiment)
    probe = new_probe(spy, experiment)
    assert spy.read == []
    probe.measure(Emod(experiment.model))
    watched, held_out = watched_subjects(experiment, spy), held_out_subjects(experiment, spy)
    assert held_out["seed_iv"] - watched["seed_iv"], "some are for testing"
    for name in experiment.corpora:
        owner = spy.metadata(name)["subject"].to_pylist()
        read = [owner[row] for corpus, row in spy.read if corpus == name]
        assert len(read) == len({row for corpus, row in spy.read if corpus == name}), "each once"
        assert {subject for subject in read if subject in held_out[name]} == watched[name]
        assert sum(subject in watched[name] for subject in read) == owner.count("s1") * len(watched[name])
        assert {subject for subject in read if subject not in held_out[name]} == set(SUBJECTS) - held_out[name]


def test_figures_are_those_of_the_windows_read(store_url: str, make_experiment: MakeExperiment) -> None:
    """Each window embedded alone, in its own words; only the plane's pairs of people are formed in one call."""
    spy, experiment = Spy(store_url), watched_experiment(make_experiment)
    probe = new_probe(spy, experiment)
    torch.manual_seed(5)
    model = Emod(experiment.model)
    found = probe.measure(model)
    rows, model = list(spy.read), model.eval()
    watched = watched_subjects(experiment, spy)

    embedding, z, va, people, classes, asked = [], [], [], [], [], []
    for name, row in rows:
        table = spy.metadata(name)
        window = torch.from_numpy(spy.windows(name, [row]))
        with torch.no_grad():
            e = model.embed(window, spy.channels(name), spy.sfreq_hz(name))
            z.append(model.project(e)[0].double().numpy())
        embedding.append(torch.nn.functional.normalize(e[0].double(), dim=0).numpy())
        va.append([table[axis][row].as_py() for axis in ("valence", "arousal")])
        people.append(f"{name}/{table['subject'][row].as_py()}")
        classes.append(emotion_classes(table)[row])
        asked.append(table["subject"][row].as_py() in watched[name])
    held, corpus = np.array(asked), np.array([name for name, _ in rows])
    embedding, z, va, people, classes = map(np.array, (embedding, z, va, people, classes))

    wanted = {
        "alignment": alignment(z[held], va_weights(torch.from_numpy(va[held]), d_max=5.0).numpy()),
        "uniformity": uniformity(z[held]),
        "va_rank_correlation": va_rank_correlation(embedding[held], va[held], people[held]),
    }
    for name in experiment.corpora:
        own = held & (corpus == name)
        known = ~held & (corpus == name)
        scores = knn_scores(embedding[known], classes[known], embedding[own], classes[own])
        wanted[f"va_rank_correlation/{name}"] = va_rank_correlation(embedding[own], va[own], people[own])
        wanted[f"knn_balanced_accuracy/{name}"] = scores.balanced_accuracy
        wanted[f"knn_chance/{name}"] = scores.chance
    assert found.pop("watch_s") > 0
    assert found == pytest.approx(wanted, abs=1e-4)
    assert set(classes[corpus == "seed_iv"]) == {"happy", "sad", "fear", "neutral"}
    assert all(" valence, " in name for name in classes[corpus == "deap"])


def test_one_person_gives_no_correlation(store: ShardStore, make_experiment: MakeExperiment) -> None:
    """It is left out; the others stay."""
    experiment = make_experiment("unused", pretrain={"watch_subjects": 0.1}, corpora=["deap"])
    found = new_probe(store, experiment).measure(Emod(experiment.model))
    assert set(found) == {"alignment", "uniformity", "knn_balanced_accuracy/deap", "knn_chance/deap", "watch_s"}


def test_watching_leaves_no_trace(store: ShardStore, make_experiment: MakeExperiment) -> None:
    """Losses, weights, running statistics and random numbers of a watched run are those of another, to the bit."""
    experiment = watched_experiment(make_experiment)
    assert min(experiment.model.dropout, experiment.model.pool_dropout) > 0
    runs = {}
    for watch in (False, True):
        np.random.seed(0)
        torch.manual_seed(0)
        pretrainer, probe = new_pretrainer(store, experiment), new_probe(store, experiment)
        losses = []
        for report in pretrainer.steps():
            losses.append(report.loss)
            if watch:
                probe.measure(pretrainer.model)
                assert pretrainer.model.training
        runs[watch] = losses, pretrainer.model.state_dict(), torch.rand(1).item(), np.random.random()
    assert runs[True][0] == runs[False][0]
    assert runs[True][2:] == runs[False][2:]
    assert any("running_var" in name for name in runs[True][1])
    for name, weight in runs[False][1].items():
        assert torch.equal(runs[True][1][name], weight), name
    before = torch.get_rng_state()
    model = Emod(experiment.model).eval()
    torch.set_rng_state(before)
    new_probe(store, experiment).measure(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training


def test_figures_rise_where_there_is_structure(store: ShardStore, make_experiment: MakeExperiment) -> None:
    """The tiny store's electrodes swing with valence and arousal: training must show on people it has not seen."""
    experiment = watched_experiment(make_experiment, steps_per_epoch=60, rounds=2, learning_rate=1e-2)
    pretrainer, probe = new_pretrainer(store, experiment), new_probe(store, experiment)
    before = probe.measure(pretrainer.model)
    for _ in pretrainer.steps():
        pass
    after = probe.measure(pretrainer.model)
    assert after["va_rank_correlation"] > max(0.5, before["va_rank_correlation"] + 0.1)
    for name in experiment.corpora:
        assert after[f"knn_balanced_accuracy/{name}"] > after[f"knn_chance/{name}"] + 0.3
    assert after["alignment"] < -after["uniformity"]


def measure_rank(rank: int, world_size: int, folder: str, store_url: str, experiment_json: str) -> None:
    store, experiment = Spy(store_url), Experiment.model_validate_json(experiment_json)
    probe = new_probe(store, experiment, group=dist.group.WORLD)
    torch.manual_seed(5)
    found = probe.measure(Emod(experiment.model))
    torch.save({"found": found, "read": store.read}, f"{folder}/{rank}.pt")


def test_ranks_share_the_work(store: ShardStore, make_experiment: MakeExperiment, tmp_path: Path) -> None:
    experiment = watched_experiment(make_experiment)
    torch.manual_seed(5)
    alone = new_probe(store, experiment).measure(Emod(experiment.model))
    run_ranks(measure_rank, 3, str(tmp_path), store.url, experiment.model_dump_json())
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(3)]
    assert [bool(rank["found"]) for rank in ranks] == [True, False, False]
    assert {k: v for k, v in ranks[0]["found"].items() if k != "watch_s"} == pytest.approx(
        {k: v for k, v in alone.items() if k != "watch_s"}, abs=1e-4
    )
    sizes = [len(rank["read"]) for rank in ranks]
    assert max(sizes) - min(sizes) <= len(experiment.corpora)
    assert len({row for rank in ranks for row in rank["read"]}) == sum(sizes), "no window twice"


def test_watches_are_at_both_ends_and_in_between(store: ShardStore, make_experiment: MakeExperiment) -> None:
    def due(**changes: Any) -> list[int]:
        probe = new_probe(store, watched_experiment(make_experiment, **changes))
        return [step for step in range(13) if probe.due(step, 12)]

    assert due(watch_every_steps=5) == [0, 5, 10, 12]
    assert due(watch_every_steps=1) == list(range(13))
    unwatched = make_experiment("unused")
    assert not any(new_probe(store, unwatched).due(step, 12) for step in range(13))
    # A forward pass is a third of a step: at most a hundredth of the windows that steps compute, three times over.
    probe, spy = new_probe(store, watched_experiment(make_experiment)), Spy(store.url)
    new_probe(spy, watched_experiment(make_experiment)).measure(Emod(unwatched.model))
    windows = 9 * 2
    assert len(spy.read) <= 0.01 * 3 * windows * probe.every_steps < len(spy.read) + 0.01 * 3 * windows


def test_hours_add_up_over_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("emod.training.watching.time.monotonic", lambda: now[0])
    costs = Costs(3, CPU, {"worker_hours": 2.0, "gpu_hours": 50.0})
    assert costs.read() == {"worker_hours": 2.0}
    now[0] += 1800
    assert costs.read() == pytest.approx({"worker_hours": 3.5})
    assert Costs(3, CPU, None).read() == {}, "the first worker counts for all"


@pytest.mark.gpu
def test_a_gpu_says_how_it_is() -> None:
    device = torch.device("cuda")
    torch.zeros(2**20, device=device)
    found = Costs(2, device, {}).read()
    assert set(found) >= {"gpu_hours", "gpu_memory_mb"}
    assert found["gpu_memory_mb"] >= 4
    assert 0 <= found.get("gpu_utilisation", 0) <= 1


def points(run: PretrainRun, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in MlflowClient(run.uri).get_metric_history(run.run_id, name)]


def test_every_watch_is_in_mlflow_once(pretrain_run: PretrainRun) -> None:
    steps = [0, 5, 10, 12]
    for name in (*FIGURES, *(f"{name}/seed_iv" for name in OF_CORPORA)):
        assert [step for step, _ in points(pretrain_run, name)] == steps, name
    assert points(pretrain_run, "knn_balanced_accuracy/deap") == [], "nobody of it is held out"
    hours = [value for _, value in points(pretrain_run, "worker_hours")]
    assert len(hours) == 12
    assert hours == sorted(hours)
    assert 0 < hours[0] < hours[-1] < 1


SAMPLE = re.compile(r"^ray_emod_(\w+)\{(.*)\} (\S+)$")


def scrape(url: str) -> dict[tuple[str, str, str, str], float]:
    """(name, run, rank, corpus) -> value of every sample of ours."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    found = {}
    for line in text.splitlines():
        if (match := SAMPLE.match(line)) is not None:
            tags = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
            found[match[1], tags.get("run", ""), tags.get("rank", ""), tags.get("corpus", "")] = float(match[3])
    return found


@pytest.mark.long
def test_prometheus_finds_them_at_rays_own_port(
    ray_cluster: None, store: ShardStore, make_experiment: MakeExperiment, new_runs: Callable[[], tuple[Path, str]]
) -> None:
    """While a real run goes on; they last a few seconds longer than its worker."""
    runs, uri = new_runs()
    settings = {"run_name": "scraped", "epochs": 1, "steps_per_epoch": 4, "rounds": 1, "watch_subjects": 0.34}
    experiment = make_experiment(runs, pretrain=settings)
    run_id = ensure_run(uri, "tests", "scraped", {})
    (node,) = ray.nodes()
    seen: dict[tuple[str, str, str, str], float] = {}
    wanted = {
        *((name, "all") for name in FIGURES),
        *((name, corpus) for name in OF_CORPORA for corpus in experiment.corpora),
        *((name, "all") for name in ("loss", "gradient_norm", "learning_rate", "windows_per_s", "data_wait_share")),
        *((name, "all") for name in ("worker_hours", "memory_mb", "epoch", "checkpoint_age_s")),
        *((name, "all") for name in ("step", "total_steps", "attempts", "fetched_mb")),
    }
    done = threading.Event()

    def poll() -> None:
        for _ in range(600):
            seen.update(scrape(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"))
            if done.wait(0.2) and wanted <= {(name, corpus) for name, run, _, corpus in seen if run == "scraped"}:
                return

    poller = threading.Thread(target=poll)
    poller.start()
    try:
        pretrain(experiment, store, tracking=(uri, run_id), advance=lambda *told: None)
    finally:
        done.set()
        poller.join()
    ours = {
        (name, corpus): value for (name, run, rank, corpus), value in seen.items() if (run, rank) == ("scraped", "0")
    }
    assert wanted <= set(ours)
    assert all(math.isfinite(value) for value in ours.values())
    client = MlflowClient(uri)
    for name in ("loss", "uniformity", "knn_balanced_accuracy/deap"):
        last = client.get_metric_history(run_id, name)[-1].value
        base, _, corpus = name.partition("/")
        assert ours[base, corpus or "all"] == pytest.approx(last), name


@pytest.mark.long
def test_a_gauge_that_stands_still_stays(ray_cluster: None) -> None:
    """An alert looks for those; Ray by itself forgets what is not set anew."""
    (node,) = ray.nodes()
    gauge("stands_still", 3.0, run="hung")
    time.sleep(60.0)
    assert scrape(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics")["stands_still", "hung", "", ""] == 3.0
