"""Every corpus that has a reader, from s3:// through two Ray workers into one store: counts are the owners'.

Minutes each: ``make test-long``.
"""

from __future__ import annotations

import re
import uuid
from collections import Counter

import pyarrow as pa
import pytest

from emod.catalog import Addresses, Experiment, SimulateSettings, load_corpus
from emod.catalog.experiment import IngestSettings
from emod.catalog.signal import SignalSettings
from emod.corpora import READERS, open_corpus, simulate_corpus
from emod.ingest import ingest, plan_ingest
from emod.shards import CorpusEntry, ShardStore
from emod.simulation import BrainSimulator
from tests.conftest import S3Server

NAMES = sorted(READERS)
LONGEST_S = 8.0

pytestmark = [pytest.mark.long, pytest.mark.timeout(5400)]


def trial_keys(table: pa.Table) -> list[tuple[str, str, str]]:
    """(subject, session, trial) of each window."""
    columns = (table[name].to_pylist() for name in ("subject", "session", "trial"))
    return list(zip(*columns, strict=True))


def published(name: str, subjects: int) -> int:
    """Trials that the first subjects of a corpus have, after its owner's own gaps."""
    catalog = load_corpus(name)
    first = set(catalog.subject_numbers[:subjects])
    gaps = sum(gap.count for gap in catalog.missing if gap.subject in first)
    return subjects * catalog.sessions * catalog.trials - gaps


def ingested(url: str, settings: dict[str, SimulateSettings], signal: SignalSettings) -> ShardStore:
    """Simulates the corpora below a URL and ingests them from there."""
    roots = {name: f"{url}/{name}" for name in settings}
    for name, root in roots.items():
        simulate_corpus(name, root, settings[name], BrainSimulator(settings[name].brain))
    experiment = Experiment(
        name="every",
        description="every corpus",
        corpora=tuple(settings),
        addresses=Addresses(data=roots, store=f"{url}/store"),
        signal=signal,
        ingest=IngestSettings(shard_mb=64),
    )
    ingest(experiment, plan_ingest(experiment))
    return ShardStore.open(f"{url}/store")


def unexpected(entry: CorpusEntry) -> list[dict[str, str | None]]:
    return [problem for problem in entry.problems if problem["code"] != "left_out"]


def test_two_subjects_of_every_corpus(ray_cluster: None, s3_server: S3Server) -> None:
    settings = {
        name: SimulateSettings(subjects=2, time_scale=min(1.0, LONGEST_S / load_corpus(name).longest_trial_s))
        for name in NAMES
    }
    store = ingested(s3_server.url(f"every-{uuid.uuid4().hex}"), settings, SignalSettings(window_s=2.0))
    assert store.verify() == []
    assert store.corpora == tuple(NAMES)
    for name in NAMES:
        entry, table = store.manifest.corpora[name], store.metadata(name)
        keys = trial_keys(table)
        assert unexpected(entry) == [], name
        assert entry.n_subjects == len({subject for subject, _, _ in keys}) == 2, name
        assert len(set(keys)) == published(name, 2), name
        assert len(set(table["window_id"].to_pylist())) == entry.n_windows == len(table), name
        # Every window of every trial: as many as its clip, shortened, holds.
        corpus = open_corpus(name, f"{store.url.removesuffix('/store')}/{name}")
        expected = {
            (trial.subject, trial.session, trial.trial): int(trial.eeg_uv.shape[1] / trial.sfreq_hz // 2.0)
            for trial in corpus.trials()
        }
        assert Counter(keys) == expected, name
        labels = {key: row for key, row in zip(keys, table.to_pylist(), strict=True)}
        for trial in corpus.trials():
            row = labels[trial.subject, trial.session, trial.trial]
            assert (row["valence"], row["arousal"], row["emotion"]) == (trial.valence, trial.arousal, trial.emotion)
            assert row["stimulus"] == trial.stimulus


@pytest.mark.parametrize("name", NAMES)
def test_one_subject_at_true_length(name: str, ray_cluster: None, s3_server: S3Server) -> None:
    catalog = load_corpus(name)
    url = s3_server.url(f"true-{name}-{uuid.uuid4().hex}")
    store = ingested(url, {name: SimulateSettings(subjects=1)}, SignalSettings())
    assert store.verify() == []
    entry = store.manifest.corpora[name]
    assert unexpected(entry) == []
    found = Counter(trial_keys(store.metadata(name)))
    assert len(found) == published(name, 1)
    sessions: dict[str, list[int]] = {}
    for (_, session, _trial), count in sorted(found.items(), key=lambda item: int(re.sub(r"\D", "", item[0][2]))):
        sessions.setdefault(session, []).append(count)
    for session, counts in sessions.items():
        if catalog.trial_s_exact and len(counts) == catalog.trials:
            assert counts == [int(catalog.seconds_of(index, session) // 10) for index in range(catalog.trials)]
    assert entry.sfreq_hz == catalog.ingest_hz
    assert "ica" in entry.cleaning["stages"] or {"ocular", "muscle"} <= set(catalog.stages_done)
