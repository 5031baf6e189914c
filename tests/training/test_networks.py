"""What fine-tuning can train: rivals on any of our windows, rates by layer, the plane, several montages at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import root_mean_squared_error

from emod.catalog import EmodConfig, Experiment, FinetuneSettings, MethodName, load_corpus
from emod.errors import RequestError
from emod.evaluation import make_splits, make_target
from emod.model import Emod, EmodClassifier
from emod.shards import ShardStore, WindowPool
from emod.signal.montage import canonical_names
from emod.training.finetuner import predict
from emod.training.networks import RIVALS, Rival, parameter_groups
from tests.training.tiny_store import TINY, WORDS
from tests.training.tuned import new_finetuner

CHANNELS = ("Fp1", "F3", "C3", "P3", "O1", "Fp2", "F4", "C4", "P4", "O2", "Fz", "Cz", "Pz", "Oz")


@pytest.fixture
def settings(make_pretrain_experiment: Callable[..., Experiment]) -> FinetuneSettings:
    found = make_pretrain_experiment(Path("unused")).finetune
    assert found is not None
    return found


def change(settings: FinetuneSettings, **fields: Any) -> FinetuneSettings:
    return FinetuneSettings.model_validate_json(json.dumps(settings.model_dump(mode="json") | fields))


def test_every_rival_can_be_asked_for() -> None:
    assert {*RIVALS, "emod", "differential_entropy"} == set(get_args(MethodName))


@pytest.mark.parametrize("method", sorted(RIVALS))
@pytest.mark.parametrize(("seconds", "sfreq_hz"), [(2.0, 128.0)])
def test_a_rival_takes_our_windows_and_learns(method: str, seconds: float, sfreq_hz: float) -> None:
    """A difference in power that any of them can see: the loss of a fixed batch falls."""
    n_samples = round(seconds * sfreq_hz)
    torch.manual_seed(0)
    rival = Rival(method, CHANNELS, sfreq_hz, n_samples, 3)
    eeg = torch.randn(12, len(CHANNELS), n_samples)
    codes = torch.arange(12) % 3
    eeg[codes == 1, :4] *= 4
    eeg[codes == 2, 8:] *= 4
    rival.eval()
    assert rival(eeg, CHANNELS, sfreq_hz).shape == (12, 3)
    rival.train()
    optimiser = torch.optim.Adam(rival.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(rival(eeg, CHANNELS, sfreq_hz), codes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


@pytest.mark.parametrize("corpus", ["deap", "seed", "mahnob_hci", "amigos", "faced"])
def test_labram_knows_the_electrodes_of_our_corpora(corpus: str) -> None:
    channels = canonical_names(load_corpus(corpus).channels)
    rival = Rival("labram", channels, 200.0, 200, 2).eval()
    assert rival(torch.randn(2, len(channels), 200), channels, 200.0).shape == (2, 2)


@pytest.mark.parametrize("method", ["labram", "cbramod"])
def test_patches_are_whole_seconds(method: str) -> None:
    with pytest.raises(RequestError, match=rf"finetune\.method = {method}: .*a window has 1\.5 s; ingest with signal"):
        Rival(method, CHANNELS, 200.0, 300, 2)


def test_a_rival_takes_one_montage(store: ShardStore, tiny: EmodConfig, settings: FinetuneSettings) -> None:
    crossed = change(
        settings,
        method="eegnet",
        targets=("valence",),
        split={"protocol": "cross_corpus", "train_corpora": ("deap",), "validation": 0.4},
    )
    with pytest.raises(RequestError, match=r"finetune\.method = eegnet: it takes one montage, and seed_iv, deap"):
        new_finetuner(Emod(tiny), store, crossed, target="valence")


def test_a_rival_is_fine_tuned_by_the_same_loop(
    store: ShardStore, tiny: EmodConfig, settings: FinetuneSettings
) -> None:
    finetuner, target, split, pool = new_finetuner(Emod(tiny), store, change(settings, method="eegnet", epochs=2))
    reports = list(finetuner.epochs())
    assert len(reports) == 2
    found = predict(finetuner.best_network(), pool, target, split.test, 5)
    assert found.shape == (24, 4)
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-5)


class TestRates:
    def test_each_layer_has_its_share(self, settings: FinetuneSettings) -> None:
        backbone = Emod(EmodConfig(**(TINY | {"layers": 3})))
        network = EmodClassifier(backbone, 4)
        groups = parameter_groups(network, change(settings, backbone_rate=0.5, layer_rate=0.1))
        assert [group["share"] for group in groups] == pytest.approx([1.0, 0.5, 0.05, 0.005, 0.0005])
        members = [{id(parameter) for parameter in group["params"]} for group in groups]
        assert members[0] == {id(parameter) for parameter in network.head.parameters()}
        for place, layer in enumerate(reversed(backbone.transformer), start=1):
            assert {id(parameter) for parameter in layer.parameters()} <= members[place]
        assert members[4] == {id(parameter) for parameter in backbone.encoder.parameters()}
        trained = {id(parameter) for parameter in network.parameters() if parameter.requires_grad}
        assert set().union(*members) == trained
        assert not trained & {id(parameter) for parameter in backbone.projection.parameters()}

    def test_a_linear_probe_reads_one_embedding_of_a_window(
        self, store: ShardStore, tiny: EmodConfig, settings: FinetuneSettings
    ) -> None:
        """No dropout in what is not trained, nor any of its weights moved."""
        frozen = change(settings, backbone_rate=0.0, dropout=0.9, epochs=1)
        finetuner, _, split, pool = new_finetuner(Emod(tiny), store, frozen)
        network = finetuner.network
        assert isinstance(network, EmodClassifier)
        read: list[torch.Tensor] = []
        with torch.no_grad():
            network.eval()
            (group,) = pool.read(np.sort(split.train))
            wanted = network.backbone.embed(torch.from_numpy(group[1]), group[2], group[3])
        network.head.register_forward_pre_hook(lambda module, given: read.append(given[0].detach()))
        finetuner.train_epoch(split.train)
        found = torch.cat(read)
        assert found.shape == wanted.shape
        distances = torch.cdist(found, wanted).min(dim=1).values
        assert distances.max() < 1e-4


class TestStopping:
    def test_a_plateau_is_no_progress(
        self, store: ShardStore, tiny: EmodConfig, settings: FinetuneSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where validation cannot tell epochs apart, the last of them is kept and patience ends all the same."""
        finetuner, _, _, _ = new_finetuner(Emod(tiny), store, change(settings, epochs=8, patience=3))
        monkeypatch.setattr(finetuner, "train_epoch", lambda rows: 1.0)
        scores = finetuner._validate()
        monkeypatch.setattr(finetuner, "_validate", lambda: type(scores)(**(scores.__dict__ | {"kappa": 0.0})))
        assert len(list(finetuner.epochs())) == 4
        assert (finetuner.best_epoch, finetuner.better_epoch) == (4, 1)

    @pytest.mark.parametrize(("patience", "wanted"), [(None, 8), (2, 5)])
    def test_patience_counts_epochs_without_a_better_score(
        self,
        store: ShardStore,
        tiny: EmodConfig,
        settings: FinetuneSettings,
        monkeypatch: pytest.MonkeyPatch,
        patience: int | None,
        wanted: int,
    ) -> None:
        """Kappas 0.1, 0.2, 0.3, then worse: with a patience of 2 the fifth epoch is the last."""
        kappas = iter([0.1, 0.2, 0.3, 0.2, 0.1, 0.0, 0.0, 0.25])
        finetuner, _, _, _ = new_finetuner(Emod(tiny), store, change(settings, epochs=8, patience=patience))
        monkeypatch.setattr(finetuner, "train_epoch", lambda rows: 1.0)
        scores = finetuner._validate()
        monkeypatch.setattr(finetuner, "_validate", lambda: type(scores)(**(scores.__dict__ | {"kappa": next(kappas)})))
        assert len(list(finetuner.epochs())) == wanted
        assert (finetuner.best_epoch, finetuner.best_score, finetuner.finished) == (3, 0.3, True)


class TestPlane:
    def test_it_is_fine_tuned_on_points(self, store: ShardStore, tiny: EmodConfig, settings: FinetuneSettings) -> None:
        """Loss is the squared error of (valence, arousal); the best epoch is that of the best concordance."""
        tuned = change(settings, epochs=3, learning_rate=1e-2)
        finetuner, target, split, pool = new_finetuner(Emod(tiny), store, tuned, target="plane")
        assert target.points is not None
        places = {tuple(point) for point in target.points}
        assert places == set(WORDS.values())
        reports = list(finetuner.epochs())
        assert reports[-1].loss < reports[0].loss
        assert finetuner.best_score == max(report.criterion for report in reports)
        found = predict(finetuner.best_network(), pool, target, split.validation, 7)
        best = reports[finetuner.best_epoch - 1].validation
        for axis, name in enumerate(("valence", "arousal")):
            wanted = root_mean_squared_error(target.points[split.validation, axis], found[:, axis])
            assert getattr(best, name).rmse == pytest.approx(wanted, rel=1e-5)

    def test_its_head_is_one_linear_layer_when_served(
        self, store: ShardStore, tiny: EmodConfig, settings: FinetuneSettings
    ) -> None:
        finetuner, target, split, pool = new_finetuner(Emod(tiny), store, change(settings, epochs=1), target="plane")
        list(finetuner.epochs())
        network = finetuner.best_network()
        assert isinstance(network, EmodClassifier)
        (group,) = pool.read(split.test)
        with torch.inference_mode():
            embedding = network.backbone.embed(torch.from_numpy(group[1]), group[2], group[3])
            folded = network.plane_head()(embedding).numpy()
        np.testing.assert_allclose(folded, predict(network, pool, target, split.test, 64), atol=1e-5)


class TestPool:
    def test_rows_of_several_corpora_come_back_in_their_order(
        self, store: ShardStore, tiny: EmodConfig, settings: FinetuneSettings
    ) -> None:
        """Each window gets alone what it gets in a mixed batch."""
        crossed = change(
            settings,
            targets=("valence",),
            epochs=1,
            split={"protocol": "cross_corpus", "train_corpora": ("deap", "dasps"), "validation": 0.4},
        )
        finetuner, target, split, pool = new_finetuner(Emod(tiny), store, crossed, target="valence")
        assert {key.partition("/")[0] for key in split.subjects["train"]} == {"deap", "dasps"}
        assert {key.partition("/")[0] for key in split.subjects["test"]} == {"seed_iv"}
        (report,) = finetuner.epochs()
        assert np.isfinite(report.loss)
        rows = np.random.default_rng(0).permutation(np.concatenate([split.train, split.test]))[:20]
        together = predict(finetuner.network, pool, target, rows, 20)
        alone = np.concatenate([predict(finetuner.network, pool, target, rows[[n]], 1) for n in range(20)])
        np.testing.assert_allclose(together, alone, atol=1e-5)
        assert np.ptp(alone[:, 0]) > 1e-4

    def test_its_table_is_one_corpus_after_another(self, store: ShardStore) -> None:
        pool = WindowPool(store, ["seed_iv", "deap"])
        ids = store.metadata("seed_iv")["window_id"].to_pylist() + store.metadata("deap")["window_id"].to_pylist()
        assert pool.metadata["window_id"].to_pylist() == ids
        rows = np.array([100, 3, 71, 72])
        found = {corpus_rate: (positions, windows) for positions, windows, _, corpus_rate in pool.read(rows)}
        assert found[25.0][0].tolist() == [1, 2]
        assert found[20.0][0].tolist() == [0, 3]
        np.testing.assert_array_equal(found[25.0][1], store.windows("seed_iv", [3, 71]))
        np.testing.assert_array_equal(found[20.0][1], store.windows("deap", [28, 0]))


def test_class_weights_make_classes_equal(store: ShardStore, tiny: EmodConfig, settings: FinetuneSettings) -> None:
    """The loss of a constant answer is then the same mean over classes, whatever their shares."""
    balanced = change(settings, class_weights="balanced", label_smoothing=0.0, ties="low", targets=("valence",))
    finetuner, target, split, _ = new_finetuner(Emod(tiny), store, balanced, target="valence")
    codes = target.codes[split.train]
    assert np.bincount(codes).tolist() == [18, 6], "happy alone is above 0"
    logits = torch.tensor([[2.0, 0.0]]).repeat(len(codes), 1)
    answer = -torch.log_softmax(logits[0], dim=0)
    assert finetuner._loss(logits, split.train, label_smoothing=0.0).item() == pytest.approx(
        float(answer.mean()), rel=1e-5
    )


def test_the_median_is_that_of_the_training_windows(store: ShardStore, settings: FinetuneSettings) -> None:
    metadata = store.metadata("deap")
    (split,) = make_splits(metadata, settings.split)
    target = make_target(metadata, "valence", threshold="median", train=split.train)
    values = metadata["valence"].to_numpy()
    middle = np.median(values[split.train])
    assert target.thresholds == {"valence": pytest.approx(middle)}
    assert target.codes.tolist() == (values > middle).astype(int).tolist()
    assert np.median(values) != middle
    assert f"above the median of the training windows ({middle:.3g} for valence)" in target.rule


def test_a_rival_starts_from_weights_of_its_own(tmp_path: Path) -> None:
    """Everything but the head is taken, also where another number of classes was learned."""
    torch.manual_seed(0)
    given = Rival("eegnet", CHANNELS, 128.0, 256, 5)
    save_file(given.network.state_dict(), tmp_path / "eegnet.safetensors")
    torch.manual_seed(1)
    rival = Rival("eegnet", CHANNELS, 128.0, 256, 3, weights=str(tmp_path / "eegnet.safetensors"))
    taken = given.network.state_dict()
    heads = 0
    for name, tensor in rival.network.state_dict().items():
        if name.startswith("final_layer."):
            heads += 1
            assert tensor.shape != taken[name].shape or not torch.equal(tensor, taken[name])
        else:
            assert torch.equal(tensor, taken[name]), name
    assert heads


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "other.safetensors")
    torch.save({"a": torch.zeros(3)}, tmp_path / "pickled.pt")
    for name, told in (
        ("other.safetensors", "0 of the .* tensors of eegnet are there, .*braindecode.models.EEGNet"),
        ("pickled.pt", "no safetensors file .*convert it"),
        ("absent.safetensors", "no such file"),
    ):
        with pytest.raises(RequestError, match=rf"finetune\.rival_weights = .*{name}: {told}"):
            Rival("eegnet", CHANNELS, 128.0, 256, 3, weights=str(tmp_path / name))


def test_only_a_rival_takes_a_rivals_weights(settings: FinetuneSettings) -> None:
    with pytest.raises(ValueError, match="rival_weights are for rivals; method is emod"):
        change(settings, rival_weights="somewhere")
    assert change(settings, method="labram", rival_weights="somewhere").rival_weights == "somewhere"
