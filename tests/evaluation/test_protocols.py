"""Protocols: what they keep apart, that nothing but the named columns moves a window, and the published counts."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emod.catalog import SplitSettings, load_corpus
from emod.catalog.split import ProtocolName
from emod.errors import DataError, RequestError
from emod.evaluation import PROTOCOLS, ROLES, Split, make_splits, read_split, write_split
from emod.evaluation.published import published_windows

WORDS = ("fear", "happy", "neutral", "sad")


def table(subjects: dict[str, int], *, sessions: int = 3, trials: int = 15, windows: int = 3) -> pa.Table:
    """corpus -> number of subjects; all see the same clips, other ones in each session.

    Subjects' names are shared between corpora, as they are in practice.
    """
    rows = [
        {
            "window_id": f"{corpus}/{subject}/{session}/{trial}/{window}",
            "corpus": corpus,
            "subject": str(subject),
            "session": str(session),
            "trial": str(trial),
            "stimulus": f"s{session}c{trial}",
            "emotion": WORDS[trial % len(WORDS)],
            "start_s": 2.0 * window,
        }
        for corpus, n in subjects.items()
        for subject in range(1, n + 1)
        for session in range(1, sessions + 1)
        for trial in range(1, trials + 1)
        for window in range(windows)
    ]
    return pa.Table.from_pylist(rows)


def codes_of(metadata: pa.Table) -> list[int]:
    return [WORDS.index(word) for word in metadata["emotion"].to_pylist()]


def split_by(metadata: pa.Table, **wanted: Any) -> list[Split]:
    return make_splits(metadata, SplitSettings(**wanted), codes=codes_of(metadata))


def whole_subjects(metadata: pa.Table, **wanted: Any) -> Split:
    (split,) = split_by(metadata, **wanted)
    return split


def names(metadata: pa.Table, split: Split, *columns: str) -> dict[str, set[tuple[str, ...]]]:
    """role -> what of these columns is in it."""
    found = list(zip(*(metadata[column].to_pylist() for column in columns), strict=True))
    return {role: {found[row] for row in split.rows(role)} for role in ROLES}


def ids_by_role(split: Split) -> dict[str, set[str]]:
    return {role: set(split.ids(role)) for role in ROLES}


def settings_of(protocol: str) -> dict[str, Any]:
    """A protocol with what it asks for, on the table of `every_protocol`."""
    extra: dict[str, dict[str, Any]] = {
        "subject_folds": {"folds": 4},
        "few_shot": {"shots": 5},
        "cross_corpus": {"train_corpora": ("deap", "seed_iv")},
    }
    return {"protocol": protocol, "validation": 0.2, "test": 0.3, **extra.get(protocol, {})}


APART: dict[str, tuple[tuple[str, ...], ...]] = {
    "subjects": (("corpus", "subject"),),
    "leave_one_subject_out": (("corpus", "subject"),),
    "subject_folds": (("corpus", "subject"),),
    "clips": (("corpus", "stimulus"),),
    "subjects_and_clips": (("corpus", "subject"), ("corpus", "stimulus")),
    "within_subject": (("corpus", "stimulus"),),
    "few_shot": (("corpus", "subject", "session", "trial"),),
    "cross_corpus": (("corpus", "subject"),),
    "faced_paper": (("corpus", "subject"),),
    "seed_v_paper": (("corpus", "subject", "session", "trial"), ("corpus", "stimulus")),
    "seed_paper": (("corpus", "subject", "session"),),
}


def test_every_protocol_can_be_asked_for_and_is_tested() -> None:
    assert set(PROTOCOLS) == set(get_args(ProtocolName)) - {"file"} == set(APART)


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_what_a_protocol_keeps_apart(protocol: str) -> None:
    corpora = {"amigos": 7, "deap": 7, "seed_iv": 7} if protocol == "cross_corpus" else {"seed_v": 7}
    metadata = table(corpora)
    folds = split_by(metadata, **settings_of(protocol))
    assert len({split.fold for split in folds}) == len({split.hash for split in folds}) == len(folds)
    for split in folds:
        assert all(len(split.rows(role)) for role in ROLES)
        assert all(np.all(np.diff(split.rows(role)) > 0) for role in ROLES)
        for columns in (("window_id",), *APART[protocol]):
            found = names(metadata, split, *columns)
            for first, second in combinations(ROLES, 2):
                assert not found[first] & found[second], (split.fold, columns)
        # Every word is learned, chosen by and asked for.
        assert all(len(words) == len(WORDS) for words in names(metadata, split, "emotion").values()) or (
            protocol == "seed_v_paper"
        )


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_row_order_moves_nobody(protocol: str) -> None:
    metadata = table({"amigos": 6, "deap": 6, "seed_iv": 6} if protocol == "cross_corpus" else {"seed_v": 6})
    shuffled = metadata.take(np.random.default_rng(1).permutation(len(metadata)))
    first, second = split_by(metadata, **settings_of(protocol)), split_by(shuffled, **settings_of(protocol))
    assert [ids_by_role(split) for split in first] == [ids_by_role(split) for split in second]
    assert [split.hash for split in first] == [split.hash for split in second]


@pytest.mark.parametrize("protocol", ["subjects", "clips", "subjects_and_clips"])
def test_other_corpora_in_the_table_move_nobody(protocol: str) -> None:
    alone, both = table({"deap": 12}), table({"amigos": 9, "deap": 12})
    (split,), (joint,) = split_by(alone, **settings_of(protocol)), split_by(both, **settings_of(protocol))
    for role in ROLES:
        assert {name for name in joint.ids(role) if name.startswith("deap")} == set(split.ids(role))


class TestWholeSubjects:
    @given(
        n=st.integers(3, 60),
        validation=st.floats(0.01, 0.6),
        test=st.floats(0.01, 0.39),
        seed=st.integers(0, 10**6),
    )
    @settings(max_examples=40, deadline=None)
    def test_every_window_has_one_role_and_every_subject_too(
        self, n: int, validation: float, test: float, seed: int
    ) -> None:
        metadata = table({"deap": n}, sessions=1, trials=1)
        split = whole_subjects(metadata, validation=validation, test=test, seed=seed)
        rows = np.concatenate([split.rows(role) for role in ROLES])
        assert sorted(rows.tolist()) == list(range(len(metadata)))
        seen = [len(split.subjects[role]) for role in ROLES]
        assert sum(seen) == n
        # Nearest whole number of subjects, unless a role would be left empty.
        if round(test * n) >= 1 and round(validation * n) >= 1 and round(test * n) + round(validation * n) < n:
            assert seen[1:] == [round(validation * n), round(test * n)]

    def test_seed_moves_subjects_and_the_hash_tells_splits_apart(self) -> None:
        metadata = table({"deap": 32}, sessions=1, trials=1)
        splits = [whole_subjects(metadata, seed=seed) for seed in range(8)]
        assert len({split.subjects["test"] for split in splits}) > 1
        assert len({split.hash for split in splits}) == 8
        # Every subject is tested by some seed: no subject is stuck in a role.
        assert len({name for seed in range(40) for name in whole_subjects(metadata, seed=seed).subjects["test"]}) == 32

    def test_corpora_of_one_size_are_not_split_alike(self) -> None:
        split = whole_subjects(table({"amigos": 30, "deap": 30}, sessions=1, trials=1))
        tested = {
            corpus: {name.split("/")[1] for name in split.subjects["test"] if name.startswith(corpus)}
            for corpus in ("amigos", "deap")
        }
        assert tested["amigos"] != tested["deap"]

    @pytest.mark.parametrize("n", [1, 2])
    def test_too_few_subjects_is_one_line_with_the_number_needed(self, n: int) -> None:
        with pytest.raises(DataError, match=rf"{n} subjects of deap, at least 3 are needed") as caught:
            whole_subjects(table({"amigos": 5, "deap": n}, sessions=1, trials=1))
        assert "\n" not in str(caught.value)


class TestFolds:
    def test_each_subject_tests_once(self) -> None:
        metadata = table({"deap": 11}, sessions=1)
        for wanted in ({"protocol": "leave_one_subject_out"}, {"protocol": "subject_folds", "folds": 4}):
            tested = [name for split in split_by(metadata, **wanted) for name in split.subjects["test"]]
            assert sorted(tested) == sorted({f"deap/{n}" for n in range(1, 12)})
        assert [split.fold for split in split_by(metadata, protocol="leave_one_subject_out")][:3] == ["1", "2", "3"]

    def test_folds_use_every_window(self) -> None:
        metadata = table({"deap": 6}, sessions=1)
        for split in split_by(metadata, protocol="leave_one_subject_out"):
            assert sum(len(split.rows(role)) for role in ROLES) == len(metadata)

    def test_a_subject_within_is_alone_and_clips_have_one_role_for_all(self) -> None:
        metadata = table({"deap": 4})
        folds = split_by(metadata, protocol="within_subject")
        assert [split.fold for split in folds] == ["1", "2", "3", "4"]
        clips = {tuple(sorted(names(metadata, split, "stimulus")["test"])) for split in folds}
        assert len(clips) == 1
        for split in folds:
            assert {name for role in ROLES for name in split.subjects[role]} == {f"deap/{split.fold}"}

    def test_few_shots_are_counted_per_class_and_the_rest_of_their_trials_goes_unused(self) -> None:
        metadata = table({"deap": 8}, windows=3)
        for split in split_by(metadata, protocol="few_shot", shots=5, test=0.3):
            own = f"deap/{split.fold}"
            assert split.subjects["test"] == (own,)
            shown = [row for row in split.train if split.owners[row] == own]
            counts = np.bincount([codes_of(metadata)[row] for row in shown])
            assert counts.tolist() == [5, 5, 5, 5]
            # Other people's clips stay: 8 subjects, 2 of whom test.
            assert len(split.subjects["train"]) == 8 - 2 - 1 + 1
        with pytest.raises(DataError, match="not enough for 34 shots"):
            split_by(metadata, protocol="few_shot", shots=34)

    def test_subjects_and_clips_leave_out_what_is_half_known(self) -> None:
        metadata = table({"deap": 10})
        (split,) = split_by(metadata, protocol="subjects_and_clips", validation=0.2, test=0.3)
        used = sum(len(split.rows(role)) for role in ROLES)
        expected = sum(
            len(names(metadata, split, "subject")[role]) * len(names(metadata, split, "stimulus")[role]) * 3
            for role in ROLES
        )
        assert used == expected < len(metadata)


class TestPublished:
    """Of whole copies, counted without them (emod.md, section 7)."""

    @pytest.mark.parametrize(
        ("corpus", "window_s", "total", "subjects"),
        [
            ("faced", 10.0, 10_332, (80, 20, 23)),
            ("seed_v", 1.0, 117_744, (16, 16, 16)),
            ("seed", 5.0, 30_375, (15, 15, 15)),
        ],
    )
    def test_the_papers_counts(self, corpus: str, window_s: float, total: int, subjects: tuple[int, ...]) -> None:
        metadata = published_windows(load_corpus(corpus), window_s=window_s)
        assert len(metadata) == total
        (split,) = make_splits(metadata, SplitSettings(protocol=f"{corpus}_paper"))
        assert sum(len(split.rows(role)) for role in ROLES) == total
        assert tuple(len(split.subjects[role]) for role in ROLES) == subjects

    def test_faced_is_cut_in_file_order(self) -> None:
        metadata = published_windows(load_corpus("faced"), window_s=10.0)
        (split,) = make_splits(metadata, SplitSettings(protocol="faced_paper"))
        assert {int(name.split("/")[1]) for name in split.subjects["train"]} == set(range(80))
        assert {int(name.split("/")[1]) for name in split.subjects["test"]} == set(range(100, 123))

    def test_seed_v_is_cut_by_trials_and_seed_by_sessions(self) -> None:
        metadata = published_windows(load_corpus("seed_v"), window_s=1.0)
        (split,) = make_splits(metadata, SplitSettings(protocol="seed_v_paper"))
        found = names(metadata, split, "trial")
        assert {int(trial) for (trial,) in found["validation"]} == {6, 7, 8, 9, 10}
        metadata = published_windows(load_corpus("seed"), window_s=5.0)
        (split,) = make_splits(metadata, SplitSettings(protocol="seed_paper"))
        assert names(metadata, split, "session") == {"train": {("1",)}, "validation": {("2",)}, "test": {("3",)}}

    def test_another_corpus_is_refused(self) -> None:
        with pytest.raises(DataError, match=r"trial '16' is none of 1 to 15; this protocol belongs to another"):
            split_by(table({"deap": 3}, trials=16), protocol="seed_v_paper")


class TestFile:
    def test_it_comes_back_whatever_the_order_of_the_store(self, tmp_path: Path) -> None:
        metadata = table({"deap": 6})
        (split,) = split_by(metadata, protocol="subjects_and_clips")
        write_split(split, f"{tmp_path}/split.json")
        shuffled = metadata.take(np.random.default_rng(1).permutation(len(metadata)))
        again = read_split(f"{tmp_path}/split.json", shuffled)
        assert ids_by_role(again) == ids_by_role(split)
        assert (again.hash, again.rule, again.seed) == (split.hash, split.rule, split.seed)

    def test_a_file_cannot_excuse_itself(self, tmp_path: Path) -> None:
        """What roles may share is the protocol's word, whatever the file says."""
        metadata = table({"deap": 6})
        path = tmp_path / "split.json"
        wanted = SplitSettings(protocol="file", file=str(path))
        for protocol, shares in (("subjects", ("clips",)), ("my own", ())):
            write_split(whole_subjects(metadata), str(path))
            content = json.loads(path.read_text())
            content |= {"shares": ["subjects", "sessions", "clips"], "protocol": protocol, "hash": None}
            path.write_text(json.dumps(content))
            assert make_splits(metadata, wanted)[0].shares == shares

    def test_a_changed_file_is_told_by_its_hash(self, tmp_path: Path) -> None:
        path = tmp_path / "split.json"
        metadata = table({"deap": 6})
        write_split(whole_subjects(metadata), str(path))
        content = json.loads(path.read_text())
        content["window_ids"]["train"].append(content["window_ids"]["test"].pop())
        path.write_text(json.dumps(content))
        with pytest.raises(RequestError, match=r"its hash .* is not that of its content"):
            read_split(str(path), metadata)
        del content["hash"]
        path.write_text(json.dumps(content))
        assert len(read_split(str(path), metadata).train) == len(content["window_ids"]["train"])

    @pytest.mark.parametrize(
        ("text", "told"),
        [("{}", "protocol: Field required"), ("not JSON", "Invalid JSON"), ('{"format": 2}', "format")],
    )
    def test_what_is_no_split_is_one_line(self, tmp_path: Path, text: str, told: str) -> None:
        (tmp_path / "split.json").write_text(text)
        with pytest.raises(RequestError, match=rf"split\.json is no split.*{told}") as caught:
            read_split(f"{tmp_path}/split.json", table({"deap": 3}))
        assert "\n" not in str(caught.value)

    def test_windows_that_the_store_lacks_are_counted(self, tmp_path: Path) -> None:
        metadata = table({"deap": 6})
        split = whole_subjects(metadata)
        write_split(split, f"{tmp_path}/split.json")
        less = metadata.take(np.setdiff1d(np.arange(len(metadata)), split.train[:2]))
        with pytest.raises(DataError, match=rf"2 of the {len(split.train)} windows of role train are not in the store"):
            read_split(f"{tmp_path}/split.json", less)


class TestKept:
    def test_kept_rows_thin_the_roles(self) -> None:
        metadata = table({"deap": 10}, sessions=1, trials=1, windows=4)
        whole = whole_subjects(metadata)
        kept = np.arange(0, len(metadata), 4)  # one window a subject
        thin = whole.keep(kept[::-1])
        for role in ROLES:
            assert thin.rows(role).tolist() == [row for row in whole.rows(role) if row in kept]
        assert thin.hash != whole.hash

    def test_record_states_rule_and_counts(self) -> None:
        metadata = table({"deap": 8}, sessions=1, trials=1)
        record = whole_subjects(metadata, validation=0.125, test=0.25, seed=5).record()
        assert record["windows"] == {"train": 15, "validation": 3, "test": 6}
        assert record["seed"] == 5
        assert "whole subjects" in record["rule"]
        assert "clips shared" in record["rule"]

    def test_empty_roles_and_rows_outside_the_table_are_refused(self) -> None:
        metadata = table({"deap": 5}, sessions=1, trials=1)
        split = whole_subjects(metadata)
        with pytest.raises(DataError, match=f"no window of the test subjects {split.subjects['test'][0]}"):
            split.keep(np.concatenate([split.train, split.validation]))
        with pytest.raises(DataError, match="no window"):
            split.keep([])
        with pytest.raises(DataError, match="empty"):
            split_by(metadata.slice(0, 0))
        with pytest.raises(ValueError, match="outside"):
            split.keep([0, len(metadata)])
        with pytest.raises(ValueError, match="role"):
            split.rows("dev")
