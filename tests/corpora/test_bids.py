"""BIDS: a laboratory's own recordings are read by one YAML, in four formats, from a disk and from a bucket."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import pickle
import re
import shutil
import struct
import threading
import uuid
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import mne
import mne_bids
import numpy as np
import numpy.typing as npt
import pytest
import scipy.io
import yaml

from emod.catalog import Addresses, Experiment, SimulateSettings, corpus_names, load_corpus
from emod.catalog.experiment import IngestSettings
from emod.catalog.signal import IcaSettings, SignalSettings
from emod.corpora import READERS, Corpus, CorpusError, Problem, Trial, open_corpus, simulate_corpus
from emod.corpora.doctor import examine
from emod.errors import RequestError
from emod.ingest import ingest, make_windows, plan_ingest
from emod.shards import ShardStore
from emod.simulation import Passage, RecordingPlan, TagSignal, decode
from tests.conftest import S3Server

CHANNELS = ("Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2")
SFREQ_HZ = 250.0
SUFFIXES = {"EDF": "edf", "BDF": "bdf", "BrainVision": "vhdr", "EEGLAB": "set"}
FILMS = ("films/a.mp4", "films/b.mp4", "films/c.mp4")
WORDS = {"happy": (3, 2), "sad": (-1, 1), "neutral": (0, 0)}
TRIAL_S, REST_S = 12, 2
SECONDS = 3 * (REST_S + TRIAL_S)


def readme_example() -> str:
    """The catalog that catalogs/README.md shows."""
    text = (Path(__file__).parents[2] / "catalogs" / "README.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    return str(example)


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes mylab.yaml, the README's example with changes, into a folder of its own that EMOD_CATALOGS names."""

    def write(**changes: Any) -> None:
        folder = tmp_path / uuid.uuid4().hex
        (folder / "corpora").mkdir(parents=True)
        content = yaml.safe_load(readme_example())
        content["bids"] |= changes.pop("bids", {})
        content = {key: value for key, value in (content | changes).items() if value is not None}
        content["bids"] = {key: value for key, value in content["bids"].items() if value is not None}
        (folder / "corpora" / "mylab.yaml").write_text(yaml.safe_dump(content))
        monkeypatch.setenv("EMOD_CATALOGS", str(folder))

    write()
    return write


RATED = {
    "label_kind": "rating",
    "words": None,
    "rating_scale": {"minimum": 1, "maximum": 9},
    "bids": {"emotion": None, "valence": "pleasure", "arousal": "calm"},
}


def plan_of(subject: str, session: str) -> RecordingPlan:
    """Rest and clip, three times; the last rest comes first."""
    passages = []
    for number, film in enumerate(FILMS, start=1):
        passages.append(Passage(REST_S))
        passages.append(Passage(TRIAL_S, str(number), film, 0.0, 0.0))
    return RecordingPlan("mylab", subject, session, CHANNELS, SFREQ_HZ, 50, (tuple(passages),))


@functools.cache
def signal_of(subject: str, session: str) -> npt.NDArray[np.float64]:
    (eeg_uv,) = TagSignal().record(plan_of(subject, session))
    return eeg_uv


def table(rows: list[dict[str, Any]]) -> str:
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    return "".join("\t".join(str(cell) for cell in line) + "\n" for line in lines)


def event_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, (film, word) in enumerate(zip(FILMS, WORDS, strict=True)):
        onset = number * (REST_S + TRIAL_S)
        none = {"stim_file": "n/a", "emotion": "n/a", "pleasure": "n/a", "calm": "n/a"}
        rows.append({"onset": onset, "duration": REST_S, "trial_type": "fixation", **none})
        shown = {"stim_file": film, "emotion": word.title(), "pleasure": 9 - number, "calm": 2 + number}
        rows.append({"onset": onset + REST_S, "duration": TRIAL_S, "trial_type": "film", **shown})
    return rows


def write_recording(
    root: Path, file_format: str, subject: str, session: str | None = None, run: int | None = None
) -> Path:
    """One recording as MNE-BIDS writes it, its rows in an order of their own among others; returns its main file."""
    path = mne_bids.BIDSPath(subject=subject, session=session, run=run, task="films", root=root, datatype="eeg")
    reader_session = "_".join(filter(None, (session or "1", run and f"run-{run}")))
    eeg_uv = signal_of(f"sub-{subject}", reader_session)
    names = ["HEOG", *(name.upper() if name == "Fp1" else name for name in reversed(CHANNELS)), "Trigger"]
    others = np.random.default_rng(0).normal(0, 50, (2, eeg_uv.shape[1]))
    info = mne.create_info(names, SFREQ_HZ, ["eog", *["eeg"] * len(CHANNELS), "misc"])
    raw = mne.io.RawArray(np.vstack([others[:1], eeg_uv[::-1], others[1:]]) * 1e-6, info, verbose="error")
    raw.info["line_freq"] = 50
    mne_bids.write_raw_bids(raw, path, format=file_format, allow_preload=True, overwrite=True, verbose="error")
    main = Path(path.copy().update(suffix="eeg", extension=f".{SUFFIXES[file_format]}").fpath)
    main.with_name(main.name.rpartition("eeg.")[0] + "events.tsv").write_text(table(event_rows()))
    return main


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Format -> a data set of two subjects. Read only."""
    roots = {name: tmp_path_factory.mktemp("bids") / name for name in SUFFIXES}
    for file_format, root in roots.items():
        for subject in ("01", "A7"):
            write_recording(root, file_format, subject)
        rows = [
            {"participant_id": "sub-A7", "group": "sad", "pleasure": 2, "calm": 8, "film": "films/b.mp4"},
            {"participant_id": "sub-01", "group": "Happy", "pleasure": 7.5, "calm": 1, "film": "films/a.mp4"},
        ]
        (root / "participants.tsv").write_text(table(rows))
        (root / "derivatives" / "clean" / "sub-01" / "eeg").mkdir(parents=True)
        (root / "derivatives" / "clean" / "sub-01" / "eeg" / "sub-01_task-films_eeg.edf").write_bytes(b"")
    return roots


@pytest.fixture(params=SUFFIXES)
def root(request: pytest.FixtureRequest, written: dict[str, Path]) -> Path:
    return written[request.param]


@pytest.fixture
def edf(written: dict[str, Path], tmp_path: Path, catalog: Callable[..., None]) -> Path:
    """One that may be damaged."""
    return Path(shutil.copytree(written["EDF"], tmp_path / "EDF"))


def main_of(root: Path, subject: str = "01") -> Path:
    (path,) = (p for p in root.glob(f"sub-{subject}/**/eeg/*_eeg.*") if p.suffix in (".edf", ".bdf", ".vhdr", ".set"))
    return path


def beside(root: Path, name: str, subject: str = "01") -> Path:
    main = main_of(root, subject)
    return main.with_name(main.name.rpartition("eeg.")[0] + name)


def read(root: Path | str) -> tuple[list[str], list[Problem]]:
    corpus = open_corpus("mylab", root)
    return [f"{trial.subject}/{trial.trial}" for trial in corpus.trials()], corpus.problems


ALL = [f"sub-{subject}/{trial}" for subject in ("01", "A7") for trial in (1, 2, 3)]


def assert_tagged(trial: Trial, number: int, seconds: float = TRIAL_S) -> None:
    """Every sample of every electrode is the one that was written: subject, clip, electrode, unit, first sample."""
    assert trial.channels == CHANNELS
    assert trial.eeg_uv.shape == (len(CHANNELS), seconds * SFREQ_HZ)
    written = signal_of(trial.subject, trial.session)
    first = round((number * (REST_S + TRIAL_S) - TRIAL_S) * SFREQ_HZ)
    np.testing.assert_allclose(trial.eeg_uv, written[:, first : first + trial.eeg_uv.shape[1]], atol=0.01)
    for row in range(number, len(CHANNELS), 4):
        tag = decode(trial.eeg_uv[row], SFREQ_HZ)
        assert (tag.trial, tag.channel, tag.rest, tag.start) == (number, CHANNELS[row], False, 0)


def assert_words(corpus: Corpus) -> None:
    trials = list(corpus.trials())
    assert [f"{trial.subject}/{trial.trial}" for trial in trials] == ALL
    for trial, (film, (word, place)) in zip(trials, 2 * list(zip(FILMS, WORDS.items(), strict=True)), strict=True):
        assert (trial.corpus, trial.session, trial.rating) == ("mylab", "1", None)
        assert (trial.stimulus, trial.emotion, trial.valence, trial.arousal) == (film, word, *place)
        assert trial.source.endswith(f"{trial.subject}_task-films_eeg.{trial.source.rpartition('.')[2]}")
        assert_tagged(trial, int(trial.trial))
    assert corpus.problems == []


def test_words_of_events_are_labels(root: Path, catalog: Callable[..., None]) -> None:
    assert_words(open_corpus("mylab", root, strict=True))


def test_ratings_of_events_are_labels(root: Path, catalog: Callable[..., None]) -> None:
    catalog(**RATED)
    corpus = open_corpus("mylab", root, strict=True)
    found = [(trial.rating, trial.emotion, trial.valence, trial.arousal) for trial in corpus.trials()]
    ratings = [({"valence": 9 - n, "arousal": 2 + n}, None, 4 - n, n - 3) for n in range(3)]
    assert found == 2 * ratings


def test_a_whole_recording_has_the_label_of_its_participant(root: Path, catalog: Callable[..., None]) -> None:
    whole = {"trials": 1, "bids": {"labels": "participants", "rows": None, "stimulus": "film", "emotion": "group"}}
    catalog(**whole)
    first, second = open_corpus("mylab", root, strict=True).trials()
    assert (first.subject, first.trial, first.emotion, first.valence) == ("sub-01", "1", "happy", 3)
    assert (second.subject, second.trial, second.emotion, second.arousal) == ("sub-A7", "1", "sad", 1)
    assert (first.stimulus, second.stimulus) == ("films/a.mp4", "films/b.mp4")
    np.testing.assert_allclose(second.eeg_uv, signal_of("sub-A7", "1"), atol=0.01)
    columns = {"labels": "participants", "rows": None, "stimulus": None, "emotion": None, **RATED["bids"]}  # type: ignore[dict-item]
    catalog(**(RATED | {"trials": 1, "bids": columns}))
    first, second = open_corpus("mylab", root, strict=True).trials()
    assert (first.rating, first.stimulus) == ({"valence": 7.5, "arousal": 1}, "films")
    assert (second.valence, second.arousal) == (-3, 3)


@pytest.mark.parametrize("file_format", SUFFIXES)
def test_a_bucket_reads_like_a_folder(
    written: dict[str, Path], s3_server: S3Server, catalog: Callable[..., None], file_format: str, tmp_path: Path
) -> None:
    url = s3_server.url("bids", uuid.uuid4().hex)
    fsspec.filesystem("s3").put(f"{written[file_format]}/", f"{url}/", recursive=True)
    corpus = open_corpus("mylab", url, strict=True)
    assert_words(corpus)
    local = open_corpus("mylab", written[file_format])
    for ref, there in zip(corpus.references(), local.references(), strict=True):
        assert corpus.peek(ref) == local.peek(there)
        assert ref.source.startswith(url)


def test_headers_say_what_reading_finds(root: Path, catalog: Callable[..., None]) -> None:
    corpus = open_corpus("mylab", root)
    for ref in corpus.references():
        header, recording = corpus.peek(ref), corpus.read(ref)
        assert (header.channels, header.sfreq_hz, header.problems) == (10, 250.0, recording.problems)
        assert header.trial_s == dict.fromkeys("123", float(TRIAL_S))
        assert recording.pieces == ((0, SECONDS * 250),)


def test_headers_need_no_samples_from_a_bucket(
    written: dict[str, Path], s3_server: S3Server, catalog: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from emod import storage

    url = s3_server.url("bids", uuid.uuid4().hex)
    fsspec.filesystem("s3").put(f"{written['BrainVision']}/", f"{url}/", recursive=True)
    corpus = open_corpus("mylab", url)
    monkeypatch.setattr("emod.corpora.bids_recording._HEAD_BYTES", 1000)
    monkeypatch.setattr(storage, "download", None)
    (ref, _) = corpus.references()
    assert corpus.peek(ref).trial_s == dict.fromkeys("123", float(TRIAL_S))


def test_sessions_and_runs_are_recordings_of_their_own(tmp_path: Path, catalog: Callable[..., None]) -> None:
    for session, run in (("b", None), ("a", 10), ("a", 2), ("a", 1)):
        write_recording(tmp_path / "ds", "BDF", "2", session, run)
    write_recording(tmp_path / "ds", "BDF", "10", "a")
    corpus = open_corpus("mylab", tmp_path / "ds", strict=True)
    keys = [(ref.subject, ref.session) for ref in corpus.references()]
    assert keys == [("sub-2", s) for s in ("a_run-1", "a_run-2", "a_run-10", "b")] + [("sub-10", "a")]
    for trial in corpus.trials():
        assert_tagged(trial, int(trial.trial))
    for ref in corpus.references():
        assert ref.size_bytes == sum(Path(url).stat().st_size for url in ref.urls)


def test_windows_are_made_of_it(root: Path, catalog: Callable[..., None]) -> None:
    corpus = open_corpus("mylab", root)
    settings = SignalSettings(ica=IcaSettings(enabled=False))
    for recording in corpus.recordings():
        made = make_windows(recording, corpus.catalog, settings)
        assert made.windows.shape == (3, 10, 2500)
        assert made.problems == ()
        assert [row["emotion"] for row in made.rows] == list(WORDS)


@pytest.mark.long
def test_it_goes_through_ray_into_shards(
    ray_cluster: None, written: dict[str, Path], s3_server: S3Server, catalog: Callable[..., None], tmp_path: Path
) -> None:
    """Workers were started before EMOD_CATALOGS was set: the catalog travels with the reader."""
    url = s3_server.url("bids", uuid.uuid4().hex)
    fsspec.filesystem("s3").put(f"{written['BrainVision']}/", f"{url}/", recursive=True)
    experiment = Experiment(
        name="lab",
        description="own recordings",
        corpora=("mylab",),
        addresses=Addresses(data={"mylab": url}, store=str(tmp_path / "store")),
        signal=SignalSettings(ica=IcaSettings(enabled=False)),
        ingest=IngestSettings(shard_mb=1, strict=True),
    )
    ingest(experiment, plan_ingest(experiment))
    store = ShardStore.open(str(tmp_path / "store"))
    assert store.verify() == []
    assert store.channels("mylab") == CHANNELS
    rows = store.metadata("mylab").to_pylist()
    assert sorted((row["subject"], row["trial"], row["emotion"], row["stimulus"]) for row in rows) == sorted(
        (subject, str(n + 1), word, FILMS[n]) for subject in ("sub-01", "sub-A7") for n, word in enumerate(WORDS)
    )
    assert {(row["label_kind"], row["valence"]) for row in rows} == {("emotion", 3), ("emotion", -1), ("emotion", 0)}
    (plan,) = plan_ingest(experiment)
    assert plan.entry is not None  # nothing changed


def test_reader_travels_and_leaves_the_copy_as_it_was(
    root: Path, catalog: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in sorted(root.rglob("*"))}

    before = snapshot()
    corpus = open_corpus("mylab", root)
    travelled: Corpus = pickle.loads(pickle.dumps(corpus))
    monkeypatch.delenv("EMOD_CATALOGS")
    (ref, _) = travelled.references()
    np.testing.assert_array_equal(travelled.read(ref).eeg_uv, corpus.read(ref).eeg_uv)
    assert snapshot() == before


class TestFaults:
    """What cannot be used is listed, and what lies beside it is kept."""

    def one(self, root: Path, code: str, said: str, kept: list[str] | None = None, trial: str | None = None) -> Problem:
        trials, problems = read(root)
        assert [(problem.code, problem.trial) for problem in problems] == [(code, trial)]
        assert said in problems[0].message, problems[0].message
        assert "\n" not in str(problems[0])
        assert trials == (ALL[3:] if kept is None else kept)
        return problems[0]

    def edit(self, path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def test_electrode_that_is_missing_is_named(self, edf: Path, catalog: Callable[..., None]) -> None:
        catalog(channels=[*CHANNELS, "Cz"])
        trials, problems = read(edf)
        assert trials == []
        assert [problem.code for problem in problems] == ["shape", "shape"]
        assert "no channel Cz among HEOG, O2" in problems[0].message
        corpus = open_corpus("mylab", edf)
        with pytest.raises(CorpusError, match="no channel Cz"):
            corpus.peek(corpus.references()[0])

    def test_yaml_decides_which_electrodes_and_their_order(self, edf: Path, catalog: Callable[..., None]) -> None:
        catalog(channels=["O2", "fp1", "C3"])
        trial = next(iter(open_corpus("mylab", edf, strict=True).trials()))
        assert trial.channels == ("O2", "Fp1", "C3")
        assert [decode(row, SFREQ_HZ).channel for row in trial.eeg_uv] == ["O2", "Fp1", "C3"]

    def test_old_names_of_a_site_are_one_electrode(self, tmp_path: Path, catalog: Callable[..., None]) -> None:
        catalog(channels=["T7", "Fp1"])
        for names, codes in ((["T3", "Fp1"], []), (["T3", "T7", "Fp1"], ["shape"])):
            raw = mne.io.RawArray(
                np.random.default_rng(0).normal(0, 2e-5, (len(names), 42 * 250)),
                mne.create_info(names, 250.0, "eeg"),
                verbose="error",
            )
            path = mne_bids.BIDSPath(subject="01", task="films", root=tmp_path / "ds", datatype="eeg")
            mne_bids.write_raw_bids(raw, path, format="EDF", allow_preload=True, overwrite=True, verbose="error")
            beside(tmp_path / "ds", "events.tsv").write_text(table(event_rows()))
            assert [problem.code for problem in read(tmp_path / "ds")[1]] == codes

    def test_other_rate_is_refused(self, edf: Path, catalog: Callable[..., None]) -> None:
        catalog(sfreq_hz=256, ingest_hz=256)
        trials, problems = read(edf)
        assert trials == []
        assert {problem.code for problem in problems} == {"shape"}
        assert "250 Hz, the catalog says 256" in problems[0].message

    def test_channels_in_another_order_than_the_table_are_found_by_name(self, edf: Path) -> None:
        path = beside(edf, "channels.tsv")
        heading, *lines = path.read_text().splitlines()
        path.write_text("\n".join([heading, *reversed(lines)]) + "\n")
        trial = next(iter(open_corpus("mylab", edf, strict=True).trials()))
        assert_tagged(trial, 1)

    def test_bad_channel_is_said_and_kept(self, edf: Path) -> None:
        path = beside(edf, "channels.tsv")
        lines = [
            line.replace("good", "bad") if line.startswith("C3") else line for line in path.read_text().splitlines()
        ]
        path.write_text("\n".join(lines) + "\n")
        self.one(edf, "layout", "calls C3 bad", ALL)

    def test_without_channels_table_names_of_the_file_count(self, edf: Path) -> None:
        beside(edf, "channels.tsv").unlink()
        assert read(edf) == (ALL, [])

    @pytest.mark.parametrize("unit", ["", "mV", "uv", "UV"])
    def test_wrong_unit_is_noticed(self, edf: Path, unit: str) -> None:
        """MNE takes a unit it does not know for volt, a thousand or a million times too much."""
        content = bytearray(main_of(edf).read_bytes())
        n = int(content[252:256])
        for row in range(n):
            if b"Ann" not in content[256 + 16 * row : 272 + 16 * row]:
                content[256 + 96 * n + 8 * row : 264 + 96 * n + 8 * row] = unit.encode().ljust(8)
        main_of(edf).write_bytes(bytes(content))
        self.one(edf, "dtype", "correct the unit")

    def test_volts_in_eeglab_are_noticed(
        self, written: dict[str, Path], tmp_path: Path, catalog: Callable[..., None]
    ) -> None:
        root = Path(shutil.copytree(written["EEGLAB"], tmp_path / "SET"))
        content = scipy.io.loadmat(main_of(root))
        content["data"] = content["data"] * 1e-6
        scipy.io.savemat(
            main_of(root), {name: value for name, value in content.items() if name[0] != "_"}, appendmat=False
        )
        self.one(root, "dtype", "correct the unit")

    @pytest.mark.parametrize("file_format", SUFFIXES)
    def test_cut_anywhere_it_is_listed(
        self, written: dict[str, Path], tmp_path: Path, catalog: Callable[..., None], file_format: str
    ) -> None:
        root = Path(shutil.copytree(written[file_format], tmp_path / "copy"))
        path = main_of(root).with_suffix(".eeg" if file_format == "BrainVision" else f".{SUFFIXES[file_format]}")
        content = path.read_bytes()
        for length in (0, 100, 300, 3000, len(content) // 2, len(content) - 30_000):
            path.write_bytes(content[:length])
            trials, problems = read(root)
            assert trials[-3:] == ALL[3:]
            assert problems
            if file_format == "BrainVision":  # its header does not say how long it is; eeg.json does
                assert {problem.code for problem in problems} <= {"unreadable", "length", "shape"}
            else:
                assert [(problem.code, problem.trial) for problem in problems] == [("unreadable", None)]
                assert trials == ALL[3:]
            assert all("\n" not in str(problem) for problem in problems)

    def test_recording_with_gaps_is_refused(self, edf: Path) -> None:
        with main_of(edf).open("r+b") as stream:
            stream.seek(192)
            stream.write(b"EDF+D")
        self.one(edf, "shape", "EDF+D")

    def test_trial_across_an_interruption_is_left_out(
        self, written: dict[str, Path], tmp_path: Path, catalog: Callable[..., None]
    ) -> None:
        root = Path(shutil.copytree(written["BrainVision"], tmp_path / "VHDR"))
        with main_of(root).with_suffix(".vmrk").open("a") as stream:
            for number, sample in ((90, 1), (91, 20 * 250 + 1)):  # the first says when the recording began
                stream.write(f"\nMk{number}=New Segment,,{sample},1,0,20200101000000000000\n")
        self.one(root, "shape", "interrupted 4.0 s after", ["sub-01/1", "sub-01/3", *ALL[3:]], "2")
        corpus = open_corpus("mylab", root)
        first = corpus.references()[0]
        recording = corpus.read(first)
        assert recording.pieces == ((0, 5000), (5000, SECONDS * 250))
        assert corpus.peek(first).problems == recording.problems
        made = make_windows(recording, corpus.catalog, SignalSettings(ica=IcaSettings(enabled=False)))
        assert [row["trial"] for row in made.rows] == ["1", "3"]
        catalog(trials=1, bids={"labels": "participants", "rows": None, "stimulus": None, "emotion": "group"})
        spans = [(span.trial, span.start, span.stop) for span in open_corpus("mylab", root).read(first).spans]
        assert spans == [("1", 0, 5000), ("2", 5000, SECONDS * 250)]

    def test_boundary_of_eeglab_is_an_interruption(
        self, written: dict[str, Path], tmp_path: Path, catalog: Callable[..., None]
    ) -> None:
        root = Path(shutil.copytree(written["EEGLAB"], tmp_path / "SET"))
        raw = mne.io.read_raw_eeglab(main_of(root), preload=True, verbose="error")
        raw.set_annotations(mne.Annotations([20.0], [0], ["boundary"]))
        mne.export.export_raw(main_of(root), raw, overwrite=True, verbose="error")
        self.one(root, "shape", "interrupted", ["sub-01/1", "sub-01/3", *ALL[3:]], "2")

    @pytest.mark.parametrize("name", ["other.eeg", "../../../secret.eeg", "/etc/hostname"])
    def test_header_that_points_elsewhere_is_refused(
        self, written: dict[str, Path], tmp_path: Path, catalog: Callable[..., None], name: str
    ) -> None:
        root = Path(shutil.copytree(written["BrainVision"], tmp_path / "VHDR"))
        (tmp_path / "VHDR" / "secret.eeg").write_bytes(bytes(100_000))
        header = main_of(root)
        for what, suffix in (("DataFile", "eeg"), ("MarkerFile", "vmrk")):
            text = header.read_text()
            self.edit(header, f"{what}={header.stem}.{suffix}", f"{what}={name}")
            self.one(root, "missing", "which is not beside it")
            header.write_text(text)

    def test_file_that_belongs_to_it_and_is_not_there(
        self, written: dict[str, Path], tmp_path: Path, catalog: Callable[..., None]
    ) -> None:
        root = Path(shutil.copytree(written["BrainVision"], tmp_path / "VHDR"))
        main_of(root).with_suffix(".eeg").unlink()
        self.one(root, "missing", "DataFile")

    def test_samples_of_eeglab_in_another_folder_are_not_read(
        self, written: dict[str, Path], tmp_path: Path, catalog: Callable[..., None]
    ) -> None:
        root = Path(shutil.copytree(written["EEGLAB"], tmp_path / "SET"))
        content = {name: value for name, value in scipy.io.loadmat(main_of(root)).items() if name[0] != "_"}
        samples = np.asarray(content["data"], "<f4")
        fdt = main_of(root).with_suffix(".fdt")
        fdt.write_bytes(samples.tobytes("F"))
        scipy.io.savemat(main_of(root), content | {"data": fdt.name}, appendmat=False)
        assert read(root) == (ALL, [])  # the samples are beside it, as EEGLAB does
        fdt.rename(tmp_path / "secret.fdt")
        self.one(root, "missing", "fdt")
        scipy.io.savemat(main_of(root), content | {"data": str(tmp_path / "secret.fdt")}, appendmat=False)
        self.one(root, "unreadable", "another file")
        os.mkfifo(tmp_path / "pipe.fdt")
        scipy.io.savemat(main_of(root), content | {"data": str(tmp_path / "pipe.fdt")}, appendmat=False)
        self.one(root, "unreadable", "another file")

    @pytest.mark.parametrize("compress", [False, True])
    def test_nesting_that_would_crash_scipy_is_refused(
        self, written: dict[str, Path], tmp_path: Path, catalog: Callable[..., None], compress: bool
    ) -> None:
        root = Path(shutil.copytree(written["EEGLAB"], tmp_path / "SET"))
        usual = {name: value for name, value in scipy.io.loadmat(main_of(root)).items() if name[0] != "_"}
        scipy.io.savemat(main_of(root), usual | {"etc": {"a": {"b": [1.0]}}}, appendmat=False, do_compression=compress)
        assert read(root) == (ALL, [])
        head = struct.pack("<IIIIIIiiII", 6, 8, 1, 0, 5, 8, 1, 1, 1, 0)  # a cell of one element, without a name
        heads = [struct.pack("<II", 14, len(head) + n * (8 + len(head))) + head for n in range(50_000)]
        element = b"".join(reversed(heads))
        if compress:
            element = zlib.compress(element)
            element = struct.pack("<II", 15, len(element)) + element
        main_of(root).write_bytes(main_of(root).read_bytes() + element)
        self.one(root, "unreadable", "nested")

    def test_link_that_leaves_the_copy_and_link_to_nothing(self, edf: Path, tmp_path: Path) -> None:
        path = main_of(edf)
        path.rename(tmp_path / "elsewhere.edf")
        path.symlink_to(tmp_path / "elsewhere.edf")
        self.one(edf, "unexpected_object", "leaves the copy")
        path.unlink()
        inside = edf / ".git" / "annex" / "x.edf"
        inside.parent.mkdir(parents=True)
        path.symlink_to(inside)
        self.one(edf, "unreadable", "git annex get")
        (tmp_path / "elsewhere.edf").rename(inside)
        assert read(edf) == (ALL, [])

    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            ("2\t12\tfilm", "n/a\t12\tfilm", "onset is 'n/a'"),
            ("2\t12\tfilm", "nan\t12\tfilm", "not finite"),
            ("2\t12\tfilm", "1e300\t12\tfilm", ""),
            ("2\t12\tfilm", "-2\t12\tfilm", ""),
            ("2\t12\tfilm", "40\t12\tfilm", ""),
            ("2\t12\tfilm", "2\t-3\tfilm", ""),
            ("2\t12\tfilm", "2\tlong\tfilm", "duration is 'long'"),
            ("films/a.mp4", "n/a", "stim_file is 'n/a'"),
            ("Happy", "Joyous", "emotion 'joyous' has no place"),
            ("Happy", "n/a", "emotion 'n/a' has no place"),
        ],
    )
    def test_row_that_cannot_be_used_costs_its_trial(self, edf: Path, old: str, new: str, said: str) -> None:
        self.edit(beside(edf, "events.tsv"), old, new)
        trials, (problem,) = read(edf)
        assert trials == ALL[1:]
        assert (problem.trial, problem.subject) == ("1", "sub-01")
        assert problem.code in ("label", "shape")
        assert said in problem.message

    @pytest.mark.parametrize(
        ("old", "new", "left_out"),
        [
            ("16\t12\tfilm", "7\t12\tfilm", {"1": "shares 7 s with trial 2", "2": "shares 7 s with trial 1"}),
            ("30\t12\tfilm", "16\t12\tfilm", {"2": "shares 12 s with trial 3", "3": "shares 12 s with trial 2"}),
            ("2\t12\tfilm", "2\t15\tfilm", {"1": "shares 1 s with trial 2", "2": "shares 1 s with trial 1"}),
            ("2\t12\tfilm", "2\t40\tfilm", {"1": "with trial 2", "2": "with trial 1", "3": "with trial 1"}),
            ("30\t12\tfilm", "27.95\t0.02\tfilm", {}),  # its last moment; the trial before it gives way
        ],
    )
    def test_samples_have_one_label(
        self, edf: Path, catalog: Callable[..., None], old: str, new: str, left_out: dict[str, str]
    ) -> None:
        self.edit(beside(edf, "events.tsv"), old, new)
        trials, problems = read(edf)
        assert trials == [name for name in ALL if name not in {f"sub-01/{trial}" for trial in left_out}]
        assert [(problem.code, problem.trial) for problem in problems] == [("label", trial) for trial in left_out]
        for problem, said in zip(problems, left_out.values(), strict=True):
            assert said in problem.message
        corpus = open_corpus("mylab", edf)
        for ref in corpus.references():
            with contextlib.suppress(CorpusError):
                taken = np.zeros(SECONDS * 250, int)
                recording = corpus.read(ref)
                for span in recording.spans:
                    taken[span.start : span.stop] += 1
                assert taken.max() == 1
                assert corpus.peek(ref).problems == recording.problems

    @pytest.mark.parametrize(("duration", "stop_s"), [("14.1", 16.0), ("14.0", 16.0), ("13.996", 15.996)])
    def test_clocks_that_differ_by_a_moment_cost_no_trial(self, edf: Path, duration: str, stop_s: float) -> None:
        self.edit(beside(edf, "events.tsv"), "2\t12\tfilm", f"2\t{duration}\tfilm")
        first, second, *_ = open_corpus("mylab", edf, strict=True).trials()
        assert first.eeg_uv.shape[1] == round((stop_s - 2) * 250)
        assert_tagged(second, 2)

    @pytest.mark.parametrize("rating", ["n/a", "", "0", "10", "nan", "high"])
    def test_rating_that_cannot_be_used_costs_its_trial(
        self, edf: Path, catalog: Callable[..., None], rating: str
    ) -> None:
        catalog(**RATED)
        self.edit(beside(edf, "events.tsv"), "\t9\t2\n", f"\t{rating}\t2\n")
        self.one(edf, "label", "", ALL[1:], "1")

    @pytest.mark.parametrize("duration", ["n/a", "0", ""])
    def test_event_without_duration_lasts_as_long_as_the_catalog_says(
        self, edf: Path, catalog: Callable[..., None], duration: str
    ) -> None:
        catalog(trial_s=[5])
        self.edit(beside(edf, "events.tsv"), "2\t12\tfilm", f"2\t{duration}\tfilm")
        first, second, *_ = open_corpus("mylab", edf, strict=True).trials()
        assert (first.eeg_uv.shape[1], second.eeg_uv.shape[1]) == (5 * 250, 12 * 250)

    def test_rest_before_an_event_is_its_baseline(self, edf: Path, catalog: Callable[..., None]) -> None:
        catalog(baseline_s=2)
        for trial in open_corpus("mylab", edf, strict=True).trials():
            assert trial.baseline_uv is not None
            tag = decode(trial.baseline_uv[3], SFREQ_HZ)
            assert (tag.rest, tag.start, trial.baseline_uv.shape[1]) == (True, 0, 500)
            assert_tagged(trial, int(trial.trial))

    def test_rows_are_chosen_by_pattern_in_every_column(self, edf: Path, catalog: Callable[..., None]) -> None:
        catalog(bids={"rows": {"trial_type": ["f?lm", "other"], "stim_file": ["films/[ab].mp4"]}})
        assert read(edf)[0] == ["sub-01/1", "sub-01/2", "sub-A7/1", "sub-A7/2"]
        catalog(bids={"rows": {"trial_type": ["movie"]}})
        trials, problems = read(edf)
        assert trials == []
        assert {problem.code for problem in problems} == {"missing"}
        assert "'film'" in problems[0].message
        catalog(bids={"rows": None, "emotion": "trial_type"}, words={"film": {"valence": 0, "arousal": 0}})
        trials, problems = read(edf)  # every row is a trial; a fixation has no place on the plane
        assert trials == [f"sub-{subject}/{n}" for subject in ("01", "A7") for n in (2, 4, 6)]
        assert {problem.code for problem in problems} == {"label"}

    @pytest.mark.parametrize("column", ["onset", "trial_type", "emotion", "stim_file"])
    def test_column_that_is_not_there_costs_the_recording(self, edf: Path, column: str) -> None:
        self.edit(beside(edf, "events.tsv"), column, "renamed")
        self.one(edf, "label_table", f"no column {column}")

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"\x00"])
    def test_table_that_cannot_be_read_costs_the_recording(self, edf: Path, content: bytes) -> None:
        beside(edf, "events.tsv").write_bytes(content)
        self.one(edf, "label_table", "")

    def test_events_may_be_shared_by_all(self, edf: Path) -> None:
        beside(edf, "events.tsv").rename(edf / "task-films_events.tsv")
        assert read(edf) == (ALL, [])
        (edf / "task-films_events.tsv").unlink()
        self.one(edf, "missing", "no such table")

    @pytest.mark.parametrize(
        ("old", "new", "kept"),
        [("sub-01", "sub-09", ["sub-A7/1"]), ("sub-A7", "sub-01", []), ("Happy", "n/a", ["sub-A7/1"])],
    )
    def test_participant_without_one_label_is_listed(
        self, edf: Path, catalog: Callable[..., None], old: str, new: str, kept: list[str]
    ) -> None:
        catalog(trials=1, bids={"labels": "participants", "rows": None, "stimulus": None, "emotion": "group"})
        self.edit(edf / "participants.tsv", old, new)
        trials, problems = read(edf)
        assert trials == kept
        assert [problem.code for problem in problems] == ["label"] * (2 - len(kept))

    def test_participants_table_that_is_missing_stops(self, edf: Path, catalog: Callable[..., None]) -> None:
        catalog(trials=1, bids={"labels": "participants", "rows": None, "stimulus": None, "emotion": "group"})
        (edf / "participants.tsv").unlink()
        with pytest.raises(CorpusError, match=r"participants\.tsv.*no such table"):
            open_corpus("mylab", edf).references()

    def test_length_that_differs_from_the_sidecar_is_said(self, edf: Path) -> None:
        path = beside(edf, "eeg.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"RecordingDuration": 60}))
        self.one(edf, "length", "42.0 s are stored, its eeg.json says 60.0", ALL)
        for said in ({"RecordingDuration": "n/a"}, {}):
            path.write_text(json.dumps(said))
            assert read(edf) == (ALL, [])

    @pytest.mark.parametrize(
        ("says", "said"),
        [
            ("eeg.json", "sub-01_task-films_eeg.eeg holds 20.0 s, its eeg.json says 42.0"),
            ("header", "sub-01_task-films_eeg.eeg holds 20.0 s, its header says 42.0"),
            ("half a sample", "sub-01_task-films_eeg.eeg has 240006 bytes, which is no whole number of samples"),
        ],
    )
    def test_file_that_is_cut_short_is_named_and_no_row_blamed(
        self, written: dict[str, Path], tmp_path: Path, catalog: Callable[..., None], says: str, said: str
    ) -> None:
        root = Path(shutil.copytree(written["BrainVision"], tmp_path / "copy"))
        if says != "eeg.json":
            beside(root, "eeg.json").unlink()
        if says == "header":
            self.edit(main_of(root), "[Binary Infos]", f"DataPoints={SECONDS * 250}\n\n[Binary Infos]")
        stored = 20 * 250 * 12 * 4 + 6 * (says == "half a sample")
        os.truncate(beside(root, "eeg.eeg"), stored)
        trials, problems = read(root)
        assert trials == ["sub-01/1", *ALL[3:]]
        assert [(problem.code, problem.trial) for problem in problems] == [
            ("length", None),
            ("shape", "2"),
            ("shape", "3"),
        ]
        for problem in problems:
            assert problem.message.endswith(f"{said}; copy that file again")
        os.truncate(beside(root, "eeg.eeg"), stored // 12)  # not one trial is left
        assert all(problem.message.endswith("copy that file again") for problem in read(root)[1])

    def test_row_is_blamed_where_the_file_is_whole(
        self, written: dict[str, Path], tmp_path: Path, catalog: Callable[..., None]
    ) -> None:
        root = Path(shutil.copytree(written["BrainVision"], tmp_path / "copy"))
        self.edit(beside(root, "events.tsv"), "30\t12\tfilm", "40\t12\tfilm")
        problem = self.one(
            root, "shape", "samples 10000..13000 of 10500 stored; correct its row", ALL[:2] + ALL[3:], "3"
        )
        assert "copy" not in problem.message
        beside(root, "eeg.json").unlink()  # nothing says how long it was
        self.one(root, "shape", "the 42.0 s of sub-01_task-films_eeg.eeg; compare that file", ALL[:2] + ALL[3:], "3")

    @pytest.mark.parametrize("says", ["eeg.json", "header"])
    def test_electrodes_one_after_the_other_need_the_whole_file(
        self, written: dict[str, Path], tmp_path: Path, catalog: Callable[..., None], says: str
    ) -> None:
        root = Path(shutil.copytree(written["BrainVision"], tmp_path / "copy"))
        samples = np.fromfile(beside(root, "eeg.eeg"), "<f4").reshape(-1, 12)
        samples.T.tofile(beside(root, "eeg.eeg"))
        self.edit(main_of(root), "DataOrientation=MULTIPLEXED", "DataOrientation=VECTORIZED")
        if says == "header":
            self.edit(main_of(root), "[Binary Infos]", f"DataPoints={SECONDS * 250}\n\n[Binary Infos]")
            beside(root, "eeg.json").unlink()
        assert read(root) == (ALL, [])
        os.truncate(beside(root, "eeg.eeg"), 40 * 250 * 12 * 4)
        self.one(root, "unreadable", "sub-01_task-films_eeg.eeg ")
        corpus = open_corpus("mylab", root)
        with pytest.raises(CorpusError, match=r"_eeg\.eeg .*copy that file again"):
            corpus.peek(corpus.references()[0])

    def test_samples_of_eeglab_that_are_cut_short_are_seen_in_headers(
        self, written: dict[str, Path], tmp_path: Path, catalog: Callable[..., None]
    ) -> None:
        root = Path(shutil.copytree(written["EEGLAB"], tmp_path / "SET"))
        content = {name: value for name, value in scipy.io.loadmat(main_of(root)).items() if name[0] != "_"}
        samples = np.asarray(content["data"], "<f4")
        fdt = main_of(root).with_suffix(".fdt")
        fdt.write_bytes(samples.tobytes("F"))
        scipy.io.savemat(main_of(root), content | {"data": fdt.name}, appendmat=False)
        assert read(root) == (ALL, [])
        os.truncate(fdt, fdt.stat().st_size - 4)
        self.one(root, "unreadable", "_eeg.fdt has 503996 bytes, its header declares 504000; copy that file again")
        corpus = open_corpus("mylab", root)
        with pytest.raises(CorpusError, match=r"_eeg\.fdt has"):
            corpus.peek(corpus.references()[0])

    def test_strays_are_listed_and_others_passed_over(self, edf: Path) -> None:
        path = main_of(edf)
        shutil.copy(path, path.with_name("copy of sub-01_task-films_eeg.edf"))
        shutil.copy(path, path.with_name("sub-02_task-films_eeg.edf"))  # in the folder of another subject
        shutil.copy(path, path.with_name("sub-01_task-rest_eeg.edf"))
        path.with_name("notes.txt").write_text("mine")
        shutil.copy(path, edf / "old.edf")
        trials, problems = read(edf)
        assert trials == ALL
        assert [problem.code for problem in problems] == ["unexpected_object", "unexpected_object"]

    @pytest.mark.parametrize("file_format", SUFFIXES)
    def test_doctor_sees_a_subject_under_two_names(
        self, written: dict[str, Path], tmp_path: Path, catalog: Callable[..., None], file_format: str
    ) -> None:
        """Whatever was renamed with it: the header's pointers, the tables, the comment in a header."""
        catalog(subjects=3)
        root = Path(shutil.copytree(written[file_format], tmp_path / "copy"))
        assert "duplicate" not in {finding.code for finding in examine(open_corpus("mylab", root)).findings}
        if file_format == "EEGLAB":
            content = {name: value for name, value in scipy.io.loadmat(main_of(root)).items() if name[0] != "_"}
            main_of(root).with_suffix(".fdt").write_bytes(np.asarray(content["data"], "<f4").tobytes("F"))
            names = {"data": main_of(root).with_suffix(".fdt").name, "setname": "sub-01"}
            scipy.io.savemat(main_of(root), content | names, appendmat=False)
        for path in main_of(root).parent.iterdir():
            other = Path(str(path).replace("sub-01", "sub-03"))
            other.parent.mkdir(parents=True, exist_ok=True)
            content_of = path.read_bytes()
            if path.suffix not in (".edf", ".bdf", ".eeg", ".fdt"):
                content_of = content_of.replace(b"sub-01", b"sub-03")
            other.write_bytes(content_of)
        self.edit(beside(root, "events.tsv", "03"), "Happy", "Sad")
        (fault,) = [f for f in examine(open_corpus("mylab", root)).findings if f.level == "fault"]
        assert (fault.topic, fault.code, fault.subject) == ("objects", "duplicate", "sub-03")
        assert "subject sub-01" in fault.what

    def test_what_macos_leaves_beside_a_copied_file_is_passed_over(self, edf: Path) -> None:
        for path in list(main_of(edf).parent.iterdir()):
            path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
        assert read(edf) == (ALL, [])

    def test_doctor_lets_no_warning_of_mne_through(self, edf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its threads share MNE's log level: here the first leaves while the second is on its way."""
        turns = itertools.count()
        first_is_in, second_is_in, first_is_out, second_is_out = (threading.Event() for _ in range(4))
        original = mne_bids.read_raw_bids

        def slowly(*arguments: Any, **options: Any) -> Any:
            if next(turns) == 0:
                with mne.utils.use_log_level("error"):
                    first_is_in.set()
                    second_is_in.wait(1)
                first_is_out.set()
                second_is_out.wait(1)
            else:
                first_is_in.wait(1)
                with mne.utils.use_log_level("error"):
                    second_is_in.set()
                    first_is_out.wait(1)
                    try:
                        mne.utils.warn("participants.tsv file not found")
                    finally:
                        second_is_out.set()
            return original(*arguments, **options)

        monkeypatch.setattr(mne_bids, "read_raw_bids", slowly)
        with warnings.catch_warnings(), mne.utils.use_log_level("warning"):
            warnings.simplefilter("error")
            assert examine(open_corpus("mylab", edf), jobs=2).complete

    def test_recording_in_two_formats_is_read_once(self, edf: Path, written: dict[str, Path]) -> None:
        shutil.copy(main_of(written["BDF"]), main_of(edf).with_suffix(".bdf"))
        trials, (problem,) = read(edf)
        assert trials == ALL
        assert problem.code == "duplicate"

    def test_wrong_folder_and_wrong_task_name_the_cure(self, edf: Path, catalog: Callable[..., None]) -> None:
        for folder in (edf / "nowhere", edf / "sub-01"):
            with pytest.raises(RequestError, match="top folder"):
                open_corpus("mylab", folder).references()
        catalog(bids={"task": "music"})
        with pytest.raises(RequestError, match=r"no recording of task 'music' \(tasks there: films\)"):
            open_corpus("mylab", edf).references()

    def test_values_that_are_not_finite_cost_their_trial(
        self, written: dict[str, Path], tmp_path: Path, catalog: Callable[..., None]
    ) -> None:
        root = Path(shutil.copytree(written["BrainVision"], tmp_path / "VHDR"))
        path = main_of(root).with_suffix(".eeg")
        samples = np.fromfile(path, "<f4").reshape(-1, 12)
        samples[3 * 250, 4] = np.nan
        samples.tofile(path)
        self.one(root, "not_finite", "1 samples", ALL[1:], "1")

    def test_nothing_is_simulated(self, catalog: Callable[..., None], tmp_path: Path) -> None:
        with pytest.raises(RequestError, match="cannot be simulated"):
            simulate_corpus("mylab", str(tmp_path / "copy"), SimulateSettings(subjects=1), TagSignal())


class TestCatalog:
    """The YAML is checked as strictly as any other, wherever it lies."""

    def test_folder_of_ones_own_is_searched_too(
        self, catalog: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "mylab" in corpus_names()
        assert "mylab" not in READERS
        assert load_corpus("mylab").words is not None
        monkeypatch.delenv("EMOD_CATALOGS")
        assert "mylab" not in corpus_names()
        with pytest.raises(RequestError, match="'mylab' has no reader"):
            open_corpus("mylab", "nowhere")

    def test_name_that_ships_is_taken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "corpora").mkdir()
        (tmp_path / "corpora" / "deap.yaml").write_text(readme_example())
        monkeypatch.setenv("EMOD_CATALOGS", str(tmp_path))
        with pytest.raises(RequestError, match=r"deap\.yaml: corpus deap ships with the platform"):
            load_corpus("deap")

    def test_folder_without_catalogs_is_a_mistake(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for folder in (tmp_path, tmp_path / "nowhere"):
            monkeypatch.setenv("EMOD_CATALOGS", str(folder))
            with pytest.raises(RequestError, match=r"EMOD_CATALOGS = .*holds no corpora/\*\.yaml"):
                corpus_names()

    def test_without_bids_section_there_is_no_reader(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "corpora").mkdir()
        text = (Path(__file__).parents[2] / "catalogs" / "corpora" / "dasps.yaml").read_text()
        (tmp_path / "corpora" / "mylab.yaml").write_text(text.replace("name: dasps", "name: mylab"))
        monkeypatch.setenv("EMOD_CATALOGS", str(tmp_path))
        with pytest.raises(RequestError, match=r"add a bids section to mylab\.yaml"):
            open_corpus("mylab", "nowhere")

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"bids": {"tasks": "x"}}, "bids.tasks: unknown key; did you mean task?"),
            ({"bids": {"task": "my task"}}, "bids.task"),
            ({"bids": {"labels": "sessions"}}, "bids.labels"),
            ({"bids": {"stimulus": None}}, "name the column of events.tsv that says which clip"),
            ({"bids": {"emotion": None}}, "name the columns valence and arousal, or the column emotion"),
            ({"bids": {"valence": "v"}}, "valence and arousal belong together"),
            ({"bids": {"valence": "v", "arousal": "a"}}, "and not both"),
            ({"bids": {"labels": "participants"}}, "rows chooses rows of events.tsv"),
            ({"bids": {"labels": "participants", "rows": None}}, "set trials to 1"),
            ({"words": None}, "words must be given exactly when label_kind is emotion"),
            ({"words": {"Happy": {"valence": 1, "arousal": 1}}}, "words has 'Happy'; write it in lower case"),
            ({"words": {"happy": {"valence": 5, "arousal": 1}}}, "words.happy.valence = 5"),
            ({"words": {"happy": [3, 2]}}, "words.happy"),
            (
                {"label_kind": "rating", "rating_scale": {"minimum": 1, "maximum": 9}},
                "name bids.valence and bids.arousal",
            ),
            ({"subject_ids": [1, 2]}, "subject_ids means nothing for a corpus in BIDS"),
            ({"trial_emotions": {"1": ["happy"] * 3}}, "trial_emotions means nothing"),
            ({"trial_s": [1, 2, 3]}, "trial_s has several lengths"),
        ],
    )
    def test_mistake_is_one_line_with_the_cure(self, catalog: Callable[..., None], changes: Any, said: str) -> None:
        catalog(**changes)
        with pytest.raises(RequestError) as caught:
            open_corpus("mylab", "nowhere")
        assert said in str(caught.value)
        assert "mylab.yaml" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_words_belong_to_bids(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "corpora").mkdir()
        text = (Path(__file__).parents[2] / "catalogs" / "corpora" / "dasps.yaml").read_text()
        words = "\nwords: {calm: {valence: 1, arousal: -1}}\n"
        (tmp_path / "corpora" / "mylab.yaml").write_text(text.replace("name: dasps", "name: mylab") + words)
        monkeypatch.setenv("EMOD_CATALOGS", str(tmp_path))
        with pytest.raises(RequestError, match="words goes with bids only"):
            load_corpus("mylab")
