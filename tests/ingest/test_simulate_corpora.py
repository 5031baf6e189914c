"""Simulated copies are kept, never replaced: nothing is removed, whoever wrote it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from emod.catalog import Addresses, Experiment, SimulateSettings
from emod.corpora import open_corpus, simulate_corpus
from emod.errors import DataError, RequestError
from emod.simulation import TagSignal
from emod.workflow import simulate_corpora

SETTINGS = SimulateSettings(subjects=2, trials=2, time_scale=0.05)


def make_experiment(root: Path | str, settings: SimulateSettings = SETTINGS) -> Experiment:
    return Experiment(
        name="test",
        description="one corpus",
        corpora=("dasps",),
        simulate={"dasps": settings},
        addresses=Addresses(data={"dasps": str(root)}),
    )


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated copy with its marker; tests take copies of it."""
    root = tmp_path_factory.mktemp("simulated") / "DASPS"
    simulate_corpora(make_experiment(root))
    return root


def test_first_call_simulates_and_the_second_keeps(copy: Path) -> None:
    before = contents(copy)
    assert len(list(open_corpus("dasps", copy, strict=True).trials())) == 4
    simulate_corpora(make_experiment(copy))
    assert contents(copy) == before


def test_other_settings_remove_nothing(copy: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(copy, tmp_path / "DASPS"))
    (root / "notes.txt").write_text("somebody put this here")
    before = contents(root)
    with pytest.raises(RequestError, match="made with other settings"):
        simulate_corpora(make_experiment(root, SETTINGS.model_copy(update={"subjects": 1})))
    assert contents(root) == before


@pytest.mark.parametrize("marker", ["none", "damaged"])
def test_somebodys_recordings_stay(copy: Path, tmp_path: Path, marker: str) -> None:
    """Real recordings have no marker; a broken one is no licence to delete either."""
    root = Path(shutil.copytree(copy, tmp_path / "DASPS"))
    path = root / "SIMULATED.json"
    if marker == "none":
        path.unlink()
    else:
        path.write_text("{")
    before = contents(root)
    for settings in (SETTINGS, SETTINGS.model_copy(update={"subjects": 1})):
        with pytest.raises((RequestError, DataError)) as caught:
            simulate_corpora(make_experiment(root, settings))
        assert str(root) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert contents(root) == before


def test_a_file_of_somebody_in_an_unmarked_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(RequestError, match="not empty"):
        simulate_corpora(make_experiment(tmp_path))
    assert contents(tmp_path).keys() == {"thesis.docx"}


def test_interrupted_simulation_is_not_taken_for_whole(tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    def stop(plan: object) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        simulate_corpus("dasps", str(tmp_path), SETTINGS, TagSignal(), stop)
    assert not (tmp_path / "SIMULATED.json").exists()
    with pytest.raises(RequestError, match="not empty"):
        simulate_corpora(make_experiment(tmp_path))


def test_unreachable_address_is_no_empty_folder() -> None:
    with pytest.raises(RequestError, match=r"addresses\.data\.dasps is not given"):
        simulate_corpora(make_experiment(""))
