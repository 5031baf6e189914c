"""Fine-tuning on a real Ray Train cluster: nobody tests who trained, the best epoch is kept, a killed run goes on."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file
from sklearn.linear_model import Ridge
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score

from emod.catalog import EmodConfig, Experiment
from emod.errors import RequestError
from emod.evaluation import make_splits
from emod.model import Emod, EmodClassifier
from emod.shards import ShardStore
from emod.tracking import ensure_run
from emod.training import (
    Finetuned,
    Pretrained,
    answer_test_windows,
    finetune,
    fit_plane_head,
    score_test_windows,
)
from tests.training import disturb
from tests.training.tiny_store import PretrainRun
from tests.training.tuned import new_finetuner

MODULE = importlib.import_module("emod.training.finetune")
EPOCHS = 4
PREFIX = "finetune/emotion"


def ignore(*told: Any) -> None:
    """Nobody watches the progress bar."""


def history(run: tuple[str, str], name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in MlflowClient(run[0]).get_metric_history(run[1], name)]


def predict(finetuned: Finetuned, store: ShardStore, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """One window at a time."""
    with torch.inference_mode():
        logits = [
            finetuned.classifier(
                torch.from_numpy(store.windows("seed_iv", [row])), store.channels("seed_iv"), store.sfreq_hz("seed_iv")
            )
            for row in rows
        ]
    return torch.cat(logits).argmax(dim=1).numpy()


@pytest.fixture(scope="module")
def run(pretrain_run: PretrainRun) -> tuple[str, str]:
    return pretrain_run.uri, ensure_run(pretrain_run.uri, "tests", "tuned-emotion", {})


@pytest.fixture(scope="module")
def finetuned(pretrain_run: PretrainRun, run: tuple[str, str], store_url: str) -> Finetuned:
    store = ShardStore.open(store_url)
    return finetune(pretrain_run.experiment, store, pretrain_run.pretrained, "emotion", tracking=run, advance=ignore)


def test_no_subject_is_in_two_roles(finetuned: Finetuned, pretrain_run: PretrainRun, store: ShardStore) -> None:
    subjects = np.array(store.metadata("seed_iv")["subject"].to_pylist())
    roles = {role: set(subjects[finetuned.split.rows(role)]) for role in ("train", "validation", "test")}
    assert [len(roles[role]) for role in roles] == [2, 2, 2]
    assert not roles["train"] & roles["validation"]
    assert not (roles["train"] | roles["validation"]) & roles["test"]
    assert roles["train"] == set(pretrain_run.pretrained.seen["seed_iv"])
    # Every window of a subject goes with it, so none is lost either.
    assert sum(len(finetuned.split.rows(role)) for role in roles) == len(subjects)


def test_the_best_epoch_by_validation_kappa_is_given(
    finetuned: Finetuned, run: tuple[str, str], store: ShardStore
) -> None:
    kappas = history(run, f"{PREFIX}/validation_kappa")
    assert [step for step, _ in kappas] == [1, 2, 3, 4]
    best = max(value for _, value in kappas)
    assert finetuned.best_epoch == max(step for step, value in kappas if value == best)
    assert finetuned.validation_score == best
    assert not finetuned.classifier.training
    rows = finetuned.split.validation
    codes = finetuned.target.codes[rows]
    assert cohen_kappa_score(codes, predict(finetuned, store, rows)) == pytest.approx(best, abs=1e-12)


def test_test_subjects_are_scored_as_they_are(finetuned: Finetuned, store: ShardStore) -> None:
    evaluation = score_test_windows(finetuned, answer_test_windows(finetuned, batch=5))
    rows = finetuned.split.test
    codes, predicted = finetuned.target.codes[rows], predict(finetuned, store, rows)
    assert evaluation.scores.balanced_accuracy == pytest.approx(balanced_accuracy_score(codes, predicted), abs=1e-12)
    assert (evaluation.scores.n_windows, evaluation.scores.n_subjects) == (24, 2)
    assert evaluation.scores.classes == ("fear", "happy", "neutral", "sad")
    assert np.array(evaluation.scores.confusion).sum() == 24


def test_every_part_was_tuned_but_the_projection(finetuned: Finetuned, pretrain_run: PretrainRun) -> None:
    before = pretrain_run.pretrained.model.state_dict()
    same = {
        name for name, weight in finetuned.classifier.backbone.state_dict().items() if torch.equal(weight, before[name])
    }
    projection = {name for name in before if name.startswith("projection.")}
    assert projection <= same
    moved = {name.partition(".")[0] for name in before.keys() - same}
    assert moved == {"encoder", "transformer", "pool"}


def test_a_killed_run_ends_as_if_undisturbed_and_keeps_its_best_epoch(
    finetuned: Finetuned,
    run: tuple[str, str],
    pretrain_run: PretrainRun,
    store: ShardStore,
    make_pretrain_experiment: Callable[..., Experiment],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The worker dies in epoch 4. Epochs 1 and 2 tie for best, and the later one counts."""
    # Ray may not have taken in the third checkpoint when the worker dies, so the best must lie before it.
    crafted, marker = (0.9, 0.9, 0.1, 0.2), tmp_path / "killed"
    loop = disturb.disturb_finetuning(3, str(marker), crafted, str(tmp_path))
    monkeypatch.setattr(MODULE, "finetune_worker", loop)
    # Another name on the same backbone.
    runs = Path(pretrain_run.experiment.addresses.runs_url())
    experiment = make_pretrain_experiment(runs, finetune={"run_name": "crafted"})
    tracked = pretrain_run.uri, ensure_run(pretrain_run.uri, "tests", "crafted-emotion", {})
    killed = finetune(experiment, store, pretrain_run.pretrained, "emotion", tracking=tracked, advance=ignore)
    assert marker.exists()
    assert history(tracked, f"{PREFIX}/loss") == history(run, f"{PREFIX}/loss")
    assert history(tracked, f"{PREFIX}/validation_kappa") == list(enumerate(crafted, start=1))
    assert (killed.best_epoch, killed.validation_score) == (2, 0.9)
    epochs = [load_file(tmp_path / f"{epoch}.safetensors") for epoch in range(1, EPOCHS + 1)]
    for name, weight in killed.classifier.state_dict().items():
        assert torch.equal(weight, epochs[1][name]), name
    for other in (0, 2, 3):
        assert any(not torch.equal(epochs[1][name], epochs[other][name]) for name in epochs[1])


@pytest.mark.parametrize("role", ["validation", "test"])
def test_a_backbone_that_saw_a_later_subject_is_refused(
    role: str,
    store: ShardStore,
    tiny: EmodConfig,
    make_pretrain_experiment: Callable[..., Experiment],
    tmp_path: Path,
) -> None:
    """Before anything is started or written."""
    experiment = make_pretrain_experiment(tmp_path / "runs")
    held_out = make_splits(store.metadata("seed_iv"), experiment.finetune.split)[0].subjects[role]
    victim = held_out[0].partition("/")[2]
    leaky = Pretrained(Emod(tiny), {"deap": ("s1",), "seed_iv": (victim,)}, store.manifest.hash, True)
    told = rf"fold all leaks: the backbone has learned from {role} subjects.* such as seed_iv/{victim}\)\. Choose"
    with pytest.raises(RequestError, match=told):
        finetune(experiment, store, leaky, "emotion", tracking=("unused", "unused"), advance=ignore)
    assert not (tmp_path / "runs").exists()


def test_subjects_of_another_corpus_may_share_a_name(store: ShardStore) -> None:
    settings = MODULE.FinetuneSettings(corpus="seed_iv")
    elsewhere = Pretrained(Emod(EmodConfig()), {"deap": ("s1", "s2", "s3", "s4", "s5", "s6")}, "0", True)
    target, split, pool = MODULE._divide(settings, store, "emotion")
    MODULE._refuse_leak(pool, target, split, elsewhere, settings)


def test_a_name_is_refused_to_another_backbone(
    finetuned: Finetuned, run: tuple[str, str], pretrain_run: PretrainRun, store: ShardStore, tiny: EmodConfig
) -> None:
    """Or it would go on from checkpoints of the first."""
    torch.manual_seed(5)
    other = Pretrained(Emod(tiny), pretrain_run.pretrained.seen, store.manifest.hash, True)
    with pytest.raises(RequestError, match=r"'tuned-emotion'.* backbone = .+, not .+.*finetune\.run_name"):
        finetune(pretrain_run.experiment, store, other, "emotion", tracking=run, advance=ignore)


def test_other_settings_need_another_name(
    finetuned: Finetuned,
    run: tuple[str, str],
    pretrain_run: PretrainRun,
    store: ShardStore,
    make_pretrain_experiment: Callable[..., Experiment],
) -> None:
    runs = Path(pretrain_run.experiment.addresses.runs_url())
    experiment = make_pretrain_experiment(runs, finetune={"epochs": 5})
    with pytest.raises(RequestError, match=r"'tuned-emotion'.* made with finetune\.epochs = 4, not 5; set it back"):
        finetune(experiment, store, pretrain_run.pretrained, "emotion", tracking=run, advance=ignore)


def test_without_a_finetune_section_there_is_nothing_to_do(
    store: ShardStore, tiny: EmodConfig, make_experiment: Callable[..., Experiment]
) -> None:
    backbone = Pretrained(Emod(tiny), {}, store.manifest.hash, True)
    with pytest.raises(RequestError, match="no finetune section"):
        finetune(make_experiment("unused"), store, backbone, "emotion", tracking=("", ""), advance=ignore)


def test_the_plane_head_is_ridge_on_the_embedding(store: ShardStore, tiny: EmodConfig) -> None:
    """Of the subjects given and no other, over corpora of different electrodes and rates."""
    torch.manual_seed(0)
    model = Emod(tiny).eval()
    seen = {"deap": ("s2", "s4"), "seed_iv": ("s1",)}
    embeddings, points = [], []
    for corpus, subjects in seen.items():
        for row, record in enumerate(store.metadata(corpus).to_pylist()):
            if record["subject"] in subjects:
                window = torch.from_numpy(store.windows(corpus, [row]))
                with torch.inference_mode():
                    embedding = model.embed(window, store.channels(corpus), store.sfreq_hz(corpus))[0]
                embeddings.append(embedding.double().numpy())
                points.append([record["valence"], record["arousal"]])
    assert len(points) == 36
    wanted = Ridge(alpha=1.0).fit(embeddings, points).predict(embeddings)
    rows_of = {
        corpus: np.flatnonzero([name in subjects for name in store.metadata(corpus)["subject"].to_pylist()])
        for corpus, subjects in seen.items()
    }
    head = fit_plane_head(model, store, rows_of, batch=7)
    with torch.inference_mode():
        found = head(torch.from_numpy(np.array(embeddings, dtype=np.float32))).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    assert wanted.std(axis=0).min() > 0.05, "it predicts something"
    assert not head.training


@pytest.mark.parametrize(("rate", "moves"), [(0.0, False), (0.5, True)])
def test_the_backbone_has_its_share_of_the_rate(
    store: ShardStore, tiny: EmodConfig, make_pretrain_experiment: Callable[..., Experiment], rate: float, moves: bool
) -> None:
    """0 freezes it. The schedule ends at the last rate, each part at its share."""
    experiment = make_pretrain_experiment(Path("unused"), finetune={"backbone_rate": rate, "epochs": 1})
    settings = experiment.finetune
    torch.manual_seed(0)
    backbone = Emod(tiny)
    finetuner, _, _, _ = new_finetuner(backbone, store, settings)
    classifier = finetuner.network
    assert isinstance(classifier, EmodClassifier)
    assert classifier.backbone.config.dropout == settings.dropout
    loss = finetuner.train_epoch(np.arange(24))
    assert 0.5 < loss < 5
    changed = any(
        not torch.equal(weight, backbone.state_dict()[name]) for name, weight in classifier.backbone.named_parameters()
    )
    assert changed == moves
    # A frozen backbone's gradients would still take their share of the clipped norm.
    assert any(weight.grad is not None for weight in classifier.backbone.parameters()) == moves
    # Three batches: the last one's rate is two thirds down the cosine.
    last = settings.final_learning_rate
    wanted = last + (settings.learning_rate - last) * (1 + np.cos(np.pi * 2 / 3)) / 2
    assert [group["lr"] for group in finetuner.optimiser.param_groups] == pytest.approx(
        [wanted, wanted * rate, wanted * rate]
    )


def test_an_epoch_sees_each_training_window_once_in_its_own_order(
    store_url: str, tiny: EmodConfig, make_pretrain_experiment: Callable[..., Experiment]
) -> None:
    order: list[int] = []

    class Spy(ShardStore):
        def windows(self, corpus: str, rows: Any, **kind: Any) -> Any:
            order.extend(np.asarray(rows).tolist())
            return super().windows(corpus, rows, **kind)

    store = Spy(store_url, ShardStore.open(store_url).manifest)
    settings = make_pretrain_experiment(Path("unused")).finetune
    rows = np.arange(10, 47)
    passes = []
    for number, epoch in enumerate((0, 1, 0)):
        torch.manual_seed(0)
        finetuner, _, _, _ = new_finetuner(Emod(tiny), store, settings)
        finetuner.next_epoch = epoch
        order.clear()
        torch.manual_seed(number + 50)  # whatever was drawn before
        loss = finetuner.train_epoch(rows)
        passes.append(([*order], loss))
    assert all(sorted(rows_read) == rows.tolist() for rows_read, _ in passes)
    assert passes[0] == passes[2]
    assert passes[0][0] != passes[1][0]
