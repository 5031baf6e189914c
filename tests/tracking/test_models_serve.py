"""A registered model over HTTP, and in an environment made of nothing but its own requirements."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from mlflow import MlflowClient

from emod.catalog import ServingSettings, SignalSettings
from emod.model import EmodClassifier, PlaneHead
from emod.tracking import Servable, TrainedOn, ensure_run, load_servable, register_model
from tests.servers import answering
from tests.tracking.models_serve import bare_environment, models_serve, post

CHANNELS = ("Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2")
ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = Path(__file__).with_name("load_elsewhere.py")
Array = npt.NDArray[np.float32]


@pytest.fixture
def registered(
    uri: str, classifier: EmodClassifier, plane: PlaneHead, settings: SignalSettings, trained_on: TrainedOn
) -> Path:
    """The folder of a version that answers electrodes it never saw from their neighbours."""
    version = register_model(
        uri=uri,
        run_id=ensure_run(uri, "emod", "finetune", {}),
        model=classifier,
        plane=plane,
        classes=("sad", "neutral", "happy"),
        settings=settings,
        trained_on=trained_on,
        serving=ServingSettings(untrained_electrodes="nearest"),
    )
    return Path(MlflowClient(tracking_uri=uri).get_model_version("emod", version).source)


@pytest.fixture
def in_process(registered: Path) -> Servable:
    return load_servable(registered / "artifacts" / "emod")


def assert_served_alike(python: Path, uri: str, folder: Path, servable: Servable, eeg_uv: Array) -> None:
    windows = eeg_uv[:3].copy()
    windows[1] = 40.3
    channels = [*CHANNELS[:9], "Oz"]
    frame = servable.predict(windows, channels, sfreq_hz=128.0, cleaned=False)
    assert list(frame["flags"]) == ["nearest_sites=Oz", "nearest_sites=Oz,flat", "nearest_sites=Oz"]
    inputs = {"signal": windows.tolist(), "channels": channels}
    with models_serve(python, uri, "models:/emod@candidate", folder) as address:
        status, rows = post(address, inputs, {"sfreq_hz": 128.0, "cleaned": False})
        assert status == 200
        assert len(rows) == 3
        for row, (_, expected) in zip(rows, frame.iterrows(), strict=True):
            assert list(row) == list(frame.columns)
            assert row.pop("flags") == expected["flags"]
            for name, value in row.items():
                got = [math.nan if number is None else number for number in np.atleast_1d(value).tolist()]
                np.testing.assert_allclose(got, np.atleast_1d(expected[name]), rtol=0, atol=1e-6, err_msg=name)
        volts = {"signal": (1e-6 * eeg_uv[:1]).tolist(), "channels": channels}
        for bad, params, message in (
            (volts, {"sfreq_hz": 128.0}, "give microvolts, or leave that window out"),
            (inputs, {}, "sfreq_hz = 0: give the sampling rate"),
            (inputs | {"channels": [*CHANNELS[:9], "EKG"]}, {"sfreq_hz": 128.0}, "electrode 'EKG' is not a 10-05 name"),
        ):
            status, told = post(address, bad, params)
            assert status == 400
            assert message in told
            assert "Traceback" not in told


def test_http_gives_the_numbers_of_the_process(uri: str, tmp_path: Path, in_process: Servable, eeg_uv: Array) -> None:
    (tmp_path / "serving").mkdir()
    assert_served_alike(Path(sys.executable), uri, tmp_path / "serving", in_process, eeg_uv)


def test_the_job_serves_the_version_that_its_alias_names(
    uri: str, tmp_path: Path, in_process: Servable, eeg_uv: Array
) -> None:
    """Below the same interpreter, and the address it prints is the one that answers."""
    command = [sys.executable, ROOT / "jobs" / "serve.py", "--model", "models:/emod@candidate"]
    with answering(command, bare_environment(uri), tmp_path, ready="ping") as address:
        assert f"emod version 1 at {address}/invocations" in (tmp_path / "server.log").read_text()
        inputs = {"signal": eeg_uv[:2].tolist(), "channels": list(CHANNELS)}
        status, rows = post(address, inputs, {"sfreq_hz": 128.0})
        assert status == 200
        expected = in_process.predict(eeg_uv[:2], CHANNELS, sfreq_hz=128.0, cleaned=False)
        np.testing.assert_allclose([row["valence"] for row in rows], expected["valence"], rtol=0, atol=1e-6)
        taken = ["--port", address.rsplit(":", 1)[1]]
        again = subprocess.run(
            [*command, *taken], env=bare_environment(uri), capture_output=True, text=True, check=False
        )
        assert (again.returncode, again.stdout) == (2, "")
        assert "choose another" in again.stderr
        assert again.stderr.count("\n") == 1


@pytest.fixture
def built(registered: Path, tmp_path: Path) -> Path:
    """The interpreter of an environment with what the version's requirements.txt says and what that needs."""
    venv.create(tmp_path / "built", with_pip=True)
    python = tmp_path / "built" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--requirement", registered / "requirements.txt"]
    done = subprocess.run(install, env=bare_environment("unused"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return python


@pytest.mark.long
def test_its_requirements_are_enough_and_hold_neither_ray_nor_mne(
    built: Path, uri: str, tmp_path: Path, in_process: Servable, eeg_uv: Array
) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    np.savez(folder / "given.npz", signal=eeg_uv, channels=np.array(CHANNELS), sfreq_hz=128.0)
    done = subprocess.run(
        [built, ELSEWHERE, "models:/emod@candidate", folder / "given.npz", folder / "out.json"],
        cwd=folder,
        env=bare_environment(uri),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((folder / "out.json").read_text())
    assert result["not_installed"] == ["mne", "ray"]
    frame = in_process.predict(eeg_uv, CHANNELS, sfreq_hz=128.0, cleaned=False)
    assert result["frame"]["flags"] == frame["flags"].to_list()
    for name in frame.columns.drop("flags"):
        np.testing.assert_allclose(result["frame"][name], np.stack(frame[name].to_list()), rtol=0, atol=1e-5)
    assert_served_alike(built, uri, folder, in_process, eeg_uv)
