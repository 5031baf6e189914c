"""What every reader must do, whatever its layout. A new corpus passes this suite unchanged."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import itertools
import pickle
import re
import shutil
import uuid
import weakref
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from emod.catalog import SimulateSettings, corpus_names, fingerprint, load_corpus
from emod.corpora import READERS, Corpus, CorpusError, Problem, RecordingRef, Trial, open_corpus, simulate_corpus
from emod.errors import RequestError
from emod.signal import ELECTRODES
from emod.simulation import Passage, RecordingPlan, TagSignal, decode, passage_samples, session_code, subject_code

NAMES = sorted(READERS)


def settings_for(name: str, **changes: Any) -> SimulateSettings:
    """Two subjects, every trial, about three seconds each."""
    return SimulateSettings(**{"subjects": 2, "time_scale": 3 / load_corpus(name).longest_trial_s, **changes})


def golden(name: str) -> Any:
    return importlib.import_module(f"tests.golden.{name}")


@pytest.fixture(scope="module", params=NAMES)
def tagged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A corpus' name and a copy of it whose every sample says where it belongs. Read only."""
    root = tmp_path_factory.mktemp(request.param) / "copy"
    simulate_corpus(request.param, str(root), settings_for(request.param), TagSignal())
    return request.param, root


@pytest.fixture
def writable(tagged: tuple[str, Path], tmp_path: Path) -> tuple[str, Path]:
    """The same, to be damaged."""
    name, root = tagged
    return name, Path(shutil.copytree(root, tmp_path / "copy"))


def planned(name: str) -> dict[tuple[str, str, str], tuple[Passage, ...]]:
    """(subject, session, trial) -> the passages of that trial as they were handed to the simulator."""
    plans = READERS[name]("nowhere").plan_recordings(settings_for(name))
    return {
        (plan.subject, plan.session, str(trial)): tuple(passages)
        for plan in plans
        for trial, passages in itertools.groupby(itertools.chain(*plan.pieces), key=lambda passage: passage.trial)
        if trial is not None
    }


def unexpected(corpus: Corpus) -> list[Problem]:
    """What is wrong with a copy; what its owner published as unusable is not."""
    return [problem for problem in corpus.problems if not problem.known]


def identity(trial: Trial) -> tuple[Any, ...]:
    """Everything but the samples and where they lie, and a checksum of the samples."""
    plain = {f.name: getattr(trial, f.name) for f in dataclasses.fields(trial)}
    arrays = [plain.pop("eeg_uv"), plain.pop("baseline_uv")]
    plain.pop("source")
    digests = [None if a is None else hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest() for a in arrays]
    return (*plain.values(), *digests)


def test_catalogs_readers_and_goldens_are_complete() -> None:
    assert set(NAMES) == {name for name in corpus_names() if load_corpus(name).bids is None}
    for name in NAMES:
        assert READERS[name].name == name
        assert not READERS[name].__abstractmethods__
        for needed in ("build", "inspect", "labels_of"):
            assert callable(getattr(golden(name), needed)), (name, needed)
        assert open_corpus(name, "nowhere").channels == golden(name).CHANNELS
        assert load_corpus(name).sfreq_hz == golden(name).SFREQ_HZ


@pytest.mark.parametrize("name", NAMES)
def test_golden_object_is_read_to_the_last_sample(name: str, tmp_path: Path) -> None:
    expected = golden(name).build(tmp_path)
    corpus = open_corpus(name, tmp_path, strict=True)
    found = []
    for trial in corpus.trials():
        assert trial.channels == golden(name).CHANNELS
        assert trial.sfreq_hz == golden(name).SFREQ_HZ
        rest = trial.baseline_uv
        row = {
            "subject": trial.subject,
            "session": trial.session,
            "trial": trial.trial,
            "stimulus": trial.stimulus,
            "rating": trial.rating,
            "emotion": trial.emotion,
            "valence": trial.valence,
            "arousal": trial.arousal,
            "samples": trial.eeg_uv.shape[1],
            "first": trial.eeg_uv[:, 0].tolist(),
            "last": trial.eeg_uv[:, -1].tolist(),
            "rest_samples": None if rest is None else rest.shape[1],
        }
        if rest is not None:
            row |= {"rest_first": rest[:, 0].tolist(), "rest_last": rest[:, -1].tolist()}
        found.append(row)
    for row in expected:
        row |= {key: np.asarray(row[key], np.float64).tolist() for key in ("first", "last")}
    assert found == expected
    assert unexpected(corpus) == []


@pytest.mark.parametrize("name", NAMES)
def test_simulated_copy_is_built_like_the_golden_one(name: str, tmp_path: Path) -> None:
    golden(name).build(tmp_path / "golden")
    # Published length where the catalog knows it; the shape must then be the published one.
    time_scale = 1.0 if load_corpus(name).trial_s_exact else 0.02
    settings = SimulateSettings(subjects=1, time_scale=time_scale)
    simulate_corpus(name, str(tmp_path / "simulated"), settings, TagSignal())
    theirs = golden(name).inspect(tmp_path / "golden")
    ours = golden(name).inspect(tmp_path / "simulated")
    for table in (key for key in ours if key.endswith(".csv")):
        theirs[table]["rows"] = [row for row in theirs[table].get("rows", []) if row[0] == "S01"]
        ours[table].setdefault("rows", [])
    assert ours == {key: theirs[key] for key in ours}
    labels = golden(name).labels_of(tmp_path / "simulated")
    for trial in open_corpus(name, tmp_path / "simulated", strict=True).trials():
        own = trial.rating or {"valence": trial.valence, "arousal": trial.arousal}
        key = (trial.subject, trial.session, trial.trial)
        assert (own["valence"], own["arousal"]) == labels.pop(key), key
    assert labels == {}


def test_every_sample_is_where_it_belongs(tagged: tuple[str, Path]) -> None:
    name, root = tagged
    corpus = open_corpus(name, root, strict=True)
    expected = planned(name)
    decoded: set[tuple[str, str, str]] = set()
    for index, trial in enumerate(corpus.trials()):
        passages = expected.pop((trial.subject, trial.session, trial.trial))
        for passage, signal in zip(
            passages, [trial.eeg_uv] if trial.baseline_uv is None else [trial.baseline_uv, trial.eeg_uv], strict=True
        ):
            assert signal.shape == (len(trial.channels), passage_samples(passage, trial.sfreq_hz))
            for row in range(index % 12, len(trial.channels), 12):
                tag = decode(signal[row], trial.sfreq_hz)
                assert tag.subject == subject_code(trial.subject)
                assert tag.session == session_code(trial.session)
                assert tag.trial == int(trial.trial)
                assert tag.channel == trial.channels[row]
                assert (tag.rest, tag.start) == (passage.rest, 0)
                decoded.add((trial.subject, trial.session, trial.channels[row]))
        assert (trial.valence, trial.arousal) == pytest.approx((passages[-1].valence, passages[-1].arousal))
        assert trial.stimulus == passages[-1].stimulus
    assert expected == {}
    assert len(decoded) == len(corpus.references()) * len(corpus.channels)  # each electrode of each recording, once


def test_trials_keep_the_contract(tagged: tuple[str, Path]) -> None:
    name, root = tagged
    corpus = open_corpus(name, root)
    clips: dict[str, list[str]] = {}
    for trial in corpus.trials():
        assert trial.corpus == name
        assert all(isinstance(value, str) for value in (trial.subject, trial.session, trial.trial, trial.stimulus))
        assert trial.eeg_uv.dtype.kind == "f"
        assert np.isfinite(trial.eeg_uv).all()
        assert set(trial.channels) <= set(ELECTRODES)
        assert trial.sfreq_hz == load_corpus(name).sfreq_hz
        assert -4 <= trial.valence <= 4
        assert -4 <= trial.arousal <= 4
        assert (trial.rating is None) != (trial.emotion is None)
        assert trial.emotion is None or trial.emotion == trial.emotion.lower()
        assert Path(trial.source).is_relative_to(root)
        clips.setdefault(trial.subject, []).append(trial.stimulus)
    assert len(clips) == 2
    first, second = clips.values()
    assert first == second
    assert unexpected(corpus) == []


def test_recordings_are_covered_by_their_pieces_and_trials(tagged: tuple[str, Path]) -> None:
    corpus = open_corpus(*tagged)
    for recording in corpus.recordings():
        assert recording.pieces[0][0] == 0
        assert recording.pieces[-1][1] == recording.eeg_uv.shape[1]
        assert all(before[1] == after[0] for before, after in itertools.pairwise(recording.pieces))
        for span in recording.spans:
            around = [piece for piece in recording.pieces if piece[0] <= span.start < span.stop <= piece[1]]
            assert len(around) == 1
            if span.baseline:
                assert span.baseline[0] >= around[0][0]
                assert span.baseline[1] <= span.start


def test_headers_say_what_reading_finds(tagged: tuple[str, Path]) -> None:
    corpus = open_corpus(*tagged)
    for ref in corpus.references():
        header, recording = corpus.peek(ref), corpus.read(ref)
        assert (header.channels, header.sfreq_hz) == (len(recording.channels), recording.sfreq_hz)
        assert header.trial_s == pytest.approx(
            {span.trial: (span.stop - span.start) / recording.sfreq_hz for span in recording.spans}
        )
        assert header.problems == recording.problems


def test_references_are_ordered_and_unique(tagged: tuple[str, Path]) -> None:
    name, root = tagged
    refs = open_corpus(name, root).references()
    assert len({ref.key for ref in refs}) == len(refs) == 2 * load_corpus(name).sessions
    order = [(int(re.sub(r"\D", "", ref.subject)), int(ref.session)) for ref in refs]
    assert order == sorted(order)
    assert all(ref.size_bytes == sum(Path(url).stat().st_size for url in ref.urls) for ref in refs)


def test_one_recording_is_in_memory_at_a_time(tagged: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = open_corpus(*tagged)
    read, alive, seen = corpus.read, [], []

    def watched(ref: Any) -> Any:
        seen.append(sum(array() is not None for array in alive))
        recording = read(ref)
        alive.append(weakref.ref(recording.eeg_uv))
        return recording

    monkeypatch.setattr(corpus, "read", watched)
    trials = corpus.trials()
    next(trials)
    assert seen == [0]  # nothing is decoded ahead
    for _ in map(lambda trial: None, trials):  # holds no trial while the next is made
        pass
    assert seen == [0] * len(corpus.references())


def first_object(corpus: Corpus) -> tuple[Path, list[RecordingRef], list[RecordingRef]]:
    """The first object of a copy, the recordings it has a part in, and all the others."""
    refs = corpus.references()
    path = refs[0].urls[0]
    return Path(path), [ref for ref in refs if path in ref.urls], [ref for ref in refs if path not in ref.urls]


def test_damaged_object_is_listed_and_strict_stops(writable: tuple[str, Path]) -> None:
    name, root = writable
    path, hit, others = first_object(open_corpus(name, root))
    trials_of = {
        recording.subject + recording.session: len(recording.spans)
        for recording in open_corpus(name, root).recordings()
    }
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    corpus = open_corpus(name, root)
    left = {recording.subject + recording.session: len(recording.spans) for recording in corpus.recordings()}
    assert all(left[ref.subject + ref.session] == trials_of[ref.subject + ref.session] for ref in others)
    assert sum(left.values()) < sum(trials_of.values())
    problems = unexpected(corpus)
    assert problems[0].code == "unreadable"
    for problem in problems:
        assert problem.subject in {ref.subject for ref in hit}
        assert problem.source in {str(path), *(ref.source for ref in hit)}
        assert "\n" not in str(problem)
        assert problem.source in str(problem)
    # Every trial that is gone is named, or its whole recording is.
    named = {(problem.subject, problem.trial) for problem in problems}
    for ref in hit:
        lost = trials_of[ref.subject + ref.session] - left.get(ref.subject + ref.session, 0)
        assert (ref.subject, None) in named or len([one for one in named if one[0] == ref.subject]) >= lost
    list(corpus.recordings())
    assert unexpected(corpus) == problems  # anew with each iteration

    with pytest.raises(CorpusError) as caught:
        list(open_corpus(name, root, strict=True).trials())
    assert caught.value.problem.code == "unreadable"
    assert caught.value.exit_code == 3


def test_empty_object_is_listed(writable: tuple[str, Path]) -> None:
    name, root = writable
    path, hit, _ = first_object(open_corpus(name, root))
    path.write_bytes(b"")
    corpus = open_corpus(name, root)
    list(corpus.recordings())
    problems = unexpected(corpus)
    assert {problem.code for problem in problems} == {"unreadable"}
    assert len(problems) in (1, len(hit))  # once where it shows on listing, else once a recording


def test_stray_data_objects_are_listed_and_others_ignored(writable: tuple[str, Path]) -> None:
    name, root = writable
    first, (ref, *_), _ = first_object(open_corpus(name, root))
    stray = first.with_name(f"copy of {first.name}")
    shutil.copy(first, stray)
    (first.parent / "notes.txt").write_text("mine")
    corpus = open_corpus(name, root)
    assert len(corpus.references()) == 2 * load_corpus(name).sessions
    (problem,) = corpus.problems
    assert problem.code == "unexpected_object"
    hidden = ref.source not in ref.urls and Path(ref.source).name != first.name
    assert (problem.source == str(stray)) != hidden  # a name that must stay hidden is not in the stray's either


def test_reading_leaves_the_copy_as_it_was(tagged: tuple[str, Path]) -> None:
    name, root = tagged

    def snapshot() -> dict[Path, tuple[int, str]]:
        files = [path for path in sorted(root.rglob("*")) if path.is_file()]
        return {p: (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest()) for p in files}

    before = snapshot()
    list(open_corpus(name, root).trials())
    assert snapshot() == before


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_any_fsspec_url_reads_and_writes_alike(tagged: tuple[str, Path], scheme: str, tmp_path: Path) -> None:
    name, _ = tagged
    url = f"memory://{uuid.uuid4().hex}/copy" if scheme == "memory" else f"file://{tmp_path}/url"
    settings = settings_for(name, subjects=1, sessions=1, trials=3)
    simulate_corpus(name, url, settings, TagSignal())
    simulate_corpus(name, str(tmp_path / "path"), settings, TagSignal())
    through_url = list(open_corpus(name, url, strict=True).trials())
    through_path = list(open_corpus(name, tmp_path / "path", strict=True).trials())
    assert len(through_url) == 3
    assert [identity(trial) for trial in through_url] == [identity(trial) for trial in through_path]
    assert all(trial.source.startswith(url) for trial in through_url)
    if scheme == "memory":
        fsspec.filesystem("memory").rm(url, recursive=True)


def test_readers_and_their_errors_travel_to_workers(tagged: tuple[str, Path]) -> None:
    corpus = open_corpus(*tagged)
    ref = corpus.references()[-1]
    travelled: Corpus = pickle.loads(pickle.dumps(corpus))
    np.testing.assert_array_equal(travelled.read(ref).eeg_uv, corpus.read(ref).eeg_uv)
    error = CorpusError(ref.problem("shape", "wrong"), ref.problem("label", "worse", "3"))
    assert pickle.loads(pickle.dumps(error)).problems == error.problems


def test_simulated_copy_says_so(tagged: tuple[str, Path]) -> None:
    name, root = tagged
    marker = open_corpus(name, root).simulated
    assert marker is not None
    assert (marker.corpus, marker.subjects, marker.trials) == (name, 2, load_corpus(name).trials)
    assert marker.settings == fingerprint(settings_for(name))
    other = next(n for n in NAMES if n != name)
    with pytest.raises(RequestError, match=f"simulated copy of {name}, not {other}"):
        _ = open_corpus(other, root).simulated


def test_copy_without_marker_must_have_published_counts(writable: tuple[str, Path]) -> None:
    """Shortened trials are accepted only because the marker says that they are simulated."""
    name, root = writable
    (root / "SIMULATED.json").unlink()
    corpus = open_corpus(name, root)
    assert corpus.simulated is None
    trials = list(corpus.trials())
    codes = {problem.code for problem in unexpected(corpus)}
    if load_corpus(name).trial_s_exact:
        assert trials == []
        assert codes == {"shape"}
    else:
        assert trials
        assert codes <= {"length", "label_disagreement"}


@pytest.mark.parametrize("name", NAMES)
def test_wrong_folders_are_requests_to_correct(name: str, tmp_path: Path) -> None:
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(RequestError, match="top folder") as caught:
            open_corpus(name, root).references()
        assert str(root) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(RequestError, match="did you mean seed_iv"):
        open_corpus("SEED-IV", "nowhere")


@pytest.mark.parametrize("name", NAMES)
def test_plans_do_not_depend_on_how_much_is_simulated(name: str) -> None:
    reader = READERS[name]("nowhere")
    more = {(p.subject, p.session): p for p in reader.plan_recordings(settings_for(name, subjects=3))}
    fewer = reader.plan_recordings(settings_for(name, subjects=2, sessions=1, trials=2))

    def shown(plan: RecordingPlan) -> list[Passage]:
        return [passage for piece in plan.pieces for passage in piece if passage.trial is not None]

    for plan in fewer:
        first_two = {passage.trial: None for passage in shown(plan)}
        assert len(first_two) == 2
        assert shown(plan) == [p for p in shown(more[plan.subject, plan.session]) if p.trial in first_two]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("field", ["subjects", "sessions", "trials"])
def test_no_more_can_be_simulated_than_was_published(name: str, field: str) -> None:
    published = getattr(load_corpus(name), field)
    with pytest.raises(RequestError, match=f"simulate.{field} = {published + 1}"):
        READERS[name]("nowhere").plan_recordings(settings_for(name, **{field: published + 1}))


def test_simulation_never_overwrites(tagged: tuple[str, Path]) -> None:
    name, root = tagged
    with pytest.raises(RequestError, match="not empty"):
        simulate_corpus(name, str(root), settings_for(name), TagSignal())


@pytest.mark.parametrize("name", NAMES)
def test_interrupted_simulation_leaves_no_marker(name: str, tmp_path: Path) -> None:
    def stop(plan: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_corpus(name, str(tmp_path / "copy"), settings_for(name, trials=1), TagSignal(), on_recording=stop)
    assert any((tmp_path / "copy").rglob("*.*"))
    assert not (tmp_path / "copy" / "SIMULATED.json").exists()
