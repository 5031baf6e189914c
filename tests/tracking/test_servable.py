"""The served answers against the network and the cleaning chain called by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from emod.catalog import IcaSettings, ServingSettings, SignalSettings
from emod.errors import DataError
from emod.model import EmodClassifier, PlaneHead
from emod.signal.clean import clean_recording
from emod.signal.montage import nearest_sites
from emod.signal.window import normalise
from emod.tracking import Servable, TrainedCorpus, TrainedOn, load_servable, save_servable

CHANNELS = ("Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2")
CLASSES = ("sad", "neutral", "happy")
Array = npt.NDArray[np.floating[Any]]


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    classifier: EmodClassifier,
    plane: PlaneHead,
    settings: SignalSettings,
    trained_on: TrainedOn,
) -> Path:
    directory = tmp_path_factory.mktemp("servable") / "emod"
    save_servable(directory, classifier, plane, classes=CLASSES, settings=settings, trained_on=trained_on)
    return directory


@pytest.fixture(scope="module")
def servable(folder: Path) -> Servable:
    return load_servable(folder)


def answers(
    windows: Array, channels: tuple[str, ...], sfreq_hz: float, classifier: EmodClassifier, plane: PlaneHead
) -> dict[str, Array]:
    """What the network says of normalised windows, without any of the code under test."""
    with torch.no_grad():
        eeg = torch.from_numpy(np.asarray(windows, dtype=np.float32))
        embedding = classifier.backbone.embed(eeg, channels, sfreq_hz)
        point = embedding @ plane.weight.T + plane.bias
        odds = classifier(eeg, channels, sfreq_hz).double().exp()
        share = odds / odds.sum(dim=1, keepdim=True)
    return {
        "valence": point[:, 0].numpy(),
        "arousal": point[:, 1].numpy(),
        "embedding": embedding.numpy(),
        **{f"p_{name}": share[:, k].numpy() for k, name in enumerate(CLASSES)},
    }


def assert_same(frame: Any, expected: dict[str, Array], tolerance: float) -> None:
    assert set(frame.columns) == {*expected, "flags"}
    for name, values in expected.items():
        np.testing.assert_allclose(np.stack(frame[name].to_list()), values, rtol=0, atol=tolerance, err_msg=name)


def test_raw_windows_are_cleaned_as_at_ingest(
    servable: Servable, eeg_uv: Array, settings: SignalSettings, classifier: EmodClassifier, plane: PlaneHead
) -> None:
    """The reference is ingest's own chain, MNE included, each window a recording of its own; ICA off."""
    without_ica = settings.model_copy(update={"ica": IcaSettings(enabled=False)})
    n_samples = eeg_uv.shape[-1]
    cleaned = [clean_recording(x.astype(float), [(0, n_samples)], CHANNELS, 128.0, without_ica).eeg_uv for x in eeg_uv]
    windows, _ = normalise(np.stack(cleaned), settings.clip)
    frame = servable.predict(eeg_uv, CHANNELS, sfreq_hz=128.0, cleaned=False)
    assert len(frame) == 40, "more windows than are computed at once"
    assert_same(frame, answers(windows, CHANNELS, 128.0, classifier, plane), 1e-5)
    assert set(frame["flags"]) == {""}
    assert frame["valence"].std() > 1e-3, "windows differ, so a constant answer would not pass"


def test_cleaned_windows_are_only_normalised(
    servable: Servable, eeg_uv: Array, settings: SignalSettings, classifier: EmodClassifier, plane: PlaneHead
) -> None:
    centred = eeg_uv - eeg_uv.mean(axis=-1, keepdims=True)
    windows, _ = normalise(centred, settings.clip)
    frame = servable.predict(centred, CHANNELS, sfreq_hz=128.0, cleaned=True)
    assert_same(frame, answers(windows, CHANNELS, 128.0, classifier, plane), 1e-5)
    raw = servable.predict(centred, CHANNELS, sfreq_hz=128.0, cleaned=False)
    assert np.abs(raw["valence"] - frame["valence"]).max() > 1e-3


def test_electrodes_may_come_in_any_order_case_and_older_name(servable: Servable, eeg_uv: Array) -> None:
    frame = servable.predict(eeg_uv[:2], CHANNELS, sfreq_hz=128.0, cleaned=False)
    reversed_names = tuple(name.upper() for name in CHANNELS[::-1])
    again = servable.predict(eeg_uv[:2, ::-1], reversed_names, sfreq_hz=128.0, cleaned=False)
    np.testing.assert_allclose(again["valence"], frame["valence"], atol=1e-5)
    assert set(again["flags"]) == {""}


def test_a_bare_backbone_has_no_plane_and_no_classes(
    tmp_path: Path, classifier: EmodClassifier, settings: SignalSettings, trained_on: TrainedOn, eeg_uv: Array
) -> None:
    card = save_servable(
        tmp_path / "x", classifier.backbone, None, classes=None, settings=settings, trained_on=trained_on
    )
    bare = load_servable(tmp_path / "x")
    assert bare.card == card
    frame = bare.predict(eeg_uv[:3], CHANNELS, sfreq_hz=128.0, cleaned=False)
    assert list(frame.columns) == ["valence", "arousal", "embedding", "flags"]
    assert frame["valence"].isna().all()
    assert frame["arousal"].isna().all()
    assert list(frame["flags"]) == ["no_plane_head"] * 3
    assert np.isfinite(np.stack(frame["embedding"].to_list())).all()


@pytest.fixture
def serve(
    tmp_path: Path, classifier: EmodClassifier, plane: PlaneHead, settings: SignalSettings, trained_on: TrainedOn
) -> Callable[..., Servable]:
    """The same model, registered with other serving settings."""

    def with_settings(**choices: Any) -> Servable:
        serving = ServingSettings(**choices)
        save_servable(
            tmp_path, classifier, plane, classes=CLASSES, settings=settings, trained_on=trained_on, serving=serving
        )
        return load_servable(tmp_path)

    return with_settings


def test_flags_are_those_of_their_own_window(serve: Callable[..., Servable], eeg_uv: Array) -> None:
    servable = serve(suspect_units="flag")
    windows = eeg_uv[:6].copy()
    windows[1, 4, 100] += 1e4
    windows[2] *= 1e-6
    windows[3] = 40.3 + windows[3, :1]
    windows[4] *= 1e3
    windows[5] = 40.3
    frame = servable.predict(windows, CHANNELS, sfreq_hz=128.0, cleaned=False)
    assert list(frame["flags"]) == ["", "clipped", "units_suspect", "flat", "units_suspect", "flat"]
    for row in (3, 5):
        flat = frame.iloc[row]
        assert np.isnan([flat["valence"], flat["arousal"], flat["p_sad"], *flat["embedding"]]).all()
    others = frame.drop(index=[3, 5])
    assert others[["valence", "arousal", "p_sad", "p_neutral", "p_happy"]].notna().all().all()


def test_electrodes_and_rates_it_never_saw_are_flagged(servable: Servable, eeg_uv: Array) -> None:
    frame = servable.predict(eeg_uv[:1], (*CHANNELS[:-1], "Oz"), sfreq_hz=200.0, cleaned=False)
    assert frame["flags"][0] == "untrained_electrodes,untrained_rate"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": CHANNELS[:9]}, r"channels holds 9 names, signal 10 electrodes: give one name for each"),
        ({"channels": (*CHANNELS[:9], "Fp1")}, r"electrode Fp1 is given twice"),
        ({"channels": (*CHANNELS[:9], "EKG")}, r"electrode 'EKG' is not a 10-10 name \(nearest: .*\): "),
        ({"sfreq_hz": 0.0}, r"sfreq_hz = 0: give the sampling rate of signal in Hz"),
        ({"sfreq_hz": float("nan")}, r"sfreq_hz = nan: give the sampling rate"),
        ({"sfreq_hz": 0.128, "cleaned": True}, r"give Hz, not kHz$"),  # or for memory without end
        ({"sfreq_hz": 0.128}, r"of a fifth of a second holds no sample; give Hz, not kHz$"),
        ({"signal_uv": np.zeros((0, 10, 256), np.float32)}, r"^signal holds 0 windows: give at least one$"),
        ({"signal_uv": np.zeros((2, 10, 0), np.float32)}, r"of shape \(2, 10, 0\): give numbers of shape"),
        ({"signal_uv": np.ones((1, 10, 127))}, r"127 samples at 128 Hz, 0.992 s: give windows of 1 s or longer$"),
        ({"signal_uv": np.zeros((10, 256), np.float32)}, r"of shape \(10, 256\): give numbers of shape"),
        ({"signal_uv": np.full((1, 10, 256), "a")}, r"signal is <U1 of shape"),
        ({"signal_uv": np.ones((1, 1, 256)), "channels": ("Cz",)}, r"1 electrode, whose average reference is 0"),
    ],
)
def test_bad_input_is_one_line_with_the_cure(
    servable: Servable, eeg_uv: Array, change: dict[str, Any], message: str
) -> None:
    given = {"signal_uv": eeg_uv[:2], "channels": CHANNELS, "sfreq_hz": 128.0, "cleaned": False} | change
    with pytest.raises(ValueError, match=message) as error:
        servable.predict(**given)
    assert "\n" not in str(error.value)


def test_a_missing_sample_is_placed(servable: Servable, eeg_uv: Array) -> None:
    broken = eeg_uv[:3].copy()
    broken[1, 4, 7] = np.nan
    with pytest.raises(ValueError, match="not finite in window 1, electrode C3: leave that window out"):
        servable.predict(broken, CHANNELS, sfreq_hz=128.0, cleaned=True)


def test_volts_are_refused_unless_the_config_says_flag(serve: Callable[..., Servable], eeg_uv: Array) -> None:
    volts = eeg_uv[:35] * np.float32(1e-6)
    told = r"^window 0 has a robust scale of .*e-05 microvolt, EEG has 0.5 to 500: give microvolts, or leave that"
    with pytest.raises(ValueError, match=told):
        serve().predict(volts, CHANNELS, sfreq_hz=128.0, cleaned=False)
    windows = eeg_uv[:35].copy()
    windows[33] *= 1e-6
    with pytest.raises(ValueError, match=r"^window 33 has a robust scale"):
        serve().predict(windows, CHANNELS, sfreq_hz=128.0, cleaned=True)
    frame = serve(suspect_units="flag").predict(volts, CHANNELS, sfreq_hz=128.0, cleaned=False)
    assert set(frame["flags"]) == {"units_suspect"}
    # Why refusing is the default: the numbers look like any other's.
    right = serve().predict(eeg_uv[:35], CHANNELS, sfreq_hz=128.0, cleaned=False)
    np.testing.assert_allclose(frame["valence"], right["valence"], atol=1e-5)


def test_a_window_that_is_not_finite_may_be_flagged_instead(serve: Callable[..., Servable], eeg_uv: Array) -> None:
    windows = eeg_uv[:35].copy()
    windows[1, 4, 7], windows[33, 0, 0] = np.nan, np.inf
    before = windows.copy()
    servable = serve(not_finite="flag")
    frame = servable.predict(windows, CHANNELS, sfreq_hz=128.0, cleaned=False)
    np.testing.assert_array_equal(windows, before)
    assert [row for row, flags in enumerate(frame["flags"]) if flags] == [1, 33]
    assert set(frame["flags"]) == {"", "not_finite"}
    for row in (1, 33):
        broken = frame.iloc[row]
        assert np.isnan([broken["valence"], broken["arousal"], broken["p_sad"], *broken["embedding"]]).all()
    whole = serve().predict(np.delete(eeg_uv[:35], [1, 33], axis=0), CHANNELS, sfreq_hz=128.0, cleaned=False)
    np.testing.assert_allclose(frame["valence"].drop(index=[1, 33]), whole["valence"], atol=1e-6)


def test_a_flat_window_may_be_refused_instead(serve: Callable[..., Servable], eeg_uv: Array) -> None:
    windows = eeg_uv[:35].copy()
    windows[34] = 40.3
    servable = serve(flat="refuse")
    with pytest.raises(ValueError, match=r"^window 34 is flat, or the same on all electrodes: leave that window out$"):
        servable.predict(windows, CHANNELS, sfreq_hz=128.0, cleaned=False)
    assert len(servable.predict(windows[:34], CHANNELS, sfreq_hz=128.0, cleaned=False)) == 34


@pytest.mark.parametrize(
    ("choices", "extra", "word"),
    [
        ({"unknown_electrodes": "leave_out"}, "EKG,1", "left_out=EKG%2C1"),
        ({"unknown_electrodes": "leave_out"}, "FCC3h", "left_out=FCC3h"),  # a site, but one without a row
        ({"untrained_electrodes": "leave_out"}, "Oz", "left_out=Oz"),
    ],
)
def test_an_electrode_left_out_changes_nothing(
    serve: Callable[..., Servable], eeg_uv: Array, choices: dict[str, Any], extra: str, word: str
) -> None:
    servable = serve(**choices)
    channels = (*CHANNELS[:3], extra, *CHANNELS[3:])
    given = np.insert(eeg_uv[:3], 3, 1e5 + eeg_uv[:3, 0], axis=1)
    given[1, 3] = np.nan
    frame = servable.predict(given, channels, sfreq_hz=128.0, cleaned=False)
    assert set(frame["flags"]) == {word}
    without = servable.predict(eeg_uv[:3], CHANNELS, sfreq_hz=128.0, cleaned=False)
    assert frame.drop(columns="flags").equals(without.drop(columns="flags"))
    with pytest.raises(ValueError, match=r"the model answers none of these electrodes; it was trained on Fp1, Fp2, F3"):
        servable.predict(given[:, 3:4], [extra], sfreq_hz=128.0, cleaned=False)


def test_electrodes_it_never_saw_are_answered_from_the_nearest_sites(
    serve: Callable[..., Servable], eeg_uv: Array, settings: SignalSettings, classifier: EmodClassifier
) -> None:
    channels = ("Fp1", "Oz", "F3", "fcc3h", "C3", "C4", "P3", "P4", "O1", "O2")
    servable = serve(untrained_electrodes="nearest")
    frame = servable.predict(eeg_uv[:2], channels, sfreq_hz=128.0, cleaned=True)
    assert list(frame["flags"]) == ["nearest_sites=Oz+FCC3h"] * 2
    table = classifier.backbone.encoder.electrodes
    assert table is not None
    near_oz = nearest_sites("Oz", CHANNELS)
    assert {"O1", "O2"} < set(near_oz) <= {"O1", "O2", "P3", "P4"}
    expected_row = sum(weight * table([name])[0] for name, weight in near_oz.items())
    sites: list[Any] = list(channels)
    sites[1], sites[3] = near_oz, nearest_sites("FCC3h", CHANNELS)
    torch.testing.assert_close(table(sites)[1], expected_row)
    windows, _ = normalise(eeg_uv[:2], settings.clip)
    with torch.no_grad():
        expected = classifier.backbone.embed(torch.from_numpy(windows), sites, 128.0)
    np.testing.assert_allclose(np.stack(frame["embedding"].to_list()), expected.numpy(), atol=1e-6)
    again = servable.answer(torch.from_numpy(windows), torch.full((2,), 10.0), channels, 128.0)
    assert list(again["flags"]) == list(frame["flags"])
    np.testing.assert_allclose(again["valence"], frame["valence"], atol=1e-6)
    own = serve().predict(eeg_uv[:2], (*channels[:3], "F1", *channels[4:]), sfreq_hz=128.0, cleaned=True)
    assert list(own["flags"]) == ["untrained_electrodes"] * 2
    assert np.abs(np.stack(own["embedding"].to_list()) - expected.numpy()).max() > 1e-4


def test_electrodes_it_never_saw_may_be_refused(serve: Callable[..., Servable], eeg_uv: Array) -> None:
    servable = serve(untrained_electrodes="refuse", unknown_electrodes="leave_out")
    with pytest.raises(ValueError, match=r"electrode 'oz' is in no corpus that the model was trained on: leave"):
        servable.predict(eeg_uv[:1], (*CHANNELS[:9], "oz"), sfreq_hz=128.0, cleaned=False)


@pytest.mark.parametrize(("n_samples", "sfreq_hz"), [(128, 128.0), (99, 99.7), (500, 500.0), (4000, 200.0)])
def test_any_length_from_a_second_and_other_rates(
    servable: Servable, eeg_uv: Array, n_samples: int, sfreq_hz: float
) -> None:
    noise_uv = np.random.default_rng(0).normal(0, 10, (2, 3, n_samples))
    frame = servable.predict(noise_uv, ("C3", "Fp2", "O1"), sfreq_hz=sfreq_hz, cleaned=False)
    assert set(frame["flags"]) == {"" if sfreq_hz == 128 else "untrained_rate"}
    assert np.isfinite(np.stack(frame["embedding"].to_list())).all()
    swapped = servable.predict(noise_uv[:, ::-1], ("O1", "Fp2", "C3"), sfreq_hz=sfreq_hz, cleaned=False)
    np.testing.assert_allclose(swapped["valence"], frame["valence"], atol=1e-5)


def test_electrodes_that_do_not_move_are_told(servable: Servable, eeg_uv: Array) -> None:
    """Ingest would have mended them; here they are part of the average reference."""
    windows = eeg_uv[:3].copy()
    windows[1, 2], windows[1, 8], windows[2] = 12.0, 0.0, 3.0
    frame = servable.predict(windows, CHANNELS, sfreq_hz=128.0, cleaned=False)
    assert list(frame["flags"]) == ["", "flat_electrodes=F3+O1", "flat"]


def test_numbers_of_any_kind_are_the_same_numbers(servable: Servable, eeg_uv: Array) -> None:
    whole = np.round(eeg_uv[:2])
    wanted = servable.predict(whole, CHANNELS, sfreq_hz=128.0, cleaned=False)["valence"]
    for kind in (">f4", ">f8", "i2", "i8", "f2", "g"):
        found = servable.predict(whole.astype(kind), CHANNELS, sfreq_hz=128.0, cleaned=False)["valence"]
        np.testing.assert_allclose(found, wanted, atol=1e-5, err_msg=kind)


def test_a_card_from_before_serving_settings_still_loads(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "old")
    card = json.loads((tmp_path / "old" / "card.json").read_text())
    del card["serving"]
    (tmp_path / "old" / "card.json").write_text(json.dumps(card))
    assert load_servable(tmp_path / "old").card.serving == ServingSettings()


def test_the_folder_holds_no_pickle(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "model.json", "card.json"}


@pytest.mark.parametrize("names", [None, (), ("sad", "happy"), ("sad", "sad", "happy")])
def test_classes_must_be_those_of_the_classifier(
    tmp_path: Path, classifier: EmodClassifier, settings: SignalSettings, trained_on: TrainedOn, names: Any
) -> None:
    with pytest.raises(ValueError, match="for 3 outputs: give one distinct name per output"):
        save_servable(tmp_path, classifier, None, classes=names, settings=settings, trained_on=trained_on)
    with pytest.raises(ValueError, match="for 0 outputs"):
        save_servable(tmp_path, classifier.backbone, None, classes=("a",), settings=settings, trained_on=trained_on)


def test_saving_leaves_the_model_in_training(
    tmp_path: Path, settings: SignalSettings, trained_on: TrainedOn, classifier: EmodClassifier
) -> None:
    classifier.train()
    try:
        save_servable(tmp_path, classifier, None, classes=CLASSES, settings=settings, trained_on=trained_on)
        assert classifier.training
        assert classifier.backbone.pool.training
    finally:
        classifier.eval()


def test_a_damaged_folder_says_which_file(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    card = tmp_path / "copy" / "card.json"
    card.write_text(card.read_text().replace('"sad"', '"sad", "extra"'))
    with pytest.raises(DataError, match=r"tensor model.head.2.bias is \(3,\), ModuleDict needs \(4,\)"):
        load_servable(tmp_path / "copy")
    card.write_text(card.read_text().replace('"plane": true', '"plane": 1'))
    with pytest.raises(DataError, match=r"card.json: not a model card \(plane: .*register the model again"):
        load_servable(tmp_path / "copy")
    card.unlink()
    with pytest.raises(DataError, match=r"card.json: no such file"):
        load_servable(tmp_path / "copy")


def test_channels_of_the_card_may_be_in_the_owners_spelling(
    tmp_path: Path, classifier: EmodClassifier, settings: SignalSettings, eeg_uv: Array
) -> None:
    owner = tuple(name.upper() for name in CHANNELS)
    seen = TrainedOn(
        manifest="0", simulated=False, corpora={"deap": TrainedCorpus(channels=owner, sfreq_hz=128, licence="x")}
    )
    save_servable(tmp_path, classifier, None, classes=CLASSES, settings=settings, trained_on=seen)
    frame = load_servable(tmp_path).predict(eeg_uv[:1], CHANNELS, sfreq_hz=128.0, cleaned=False)
    assert frame["flags"][0] == "no_plane_head"
