"""Splits: disjoint, complete, the same for the same seed whatever the order of the rows and the other corpora."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emod.catalog import SplitSettings
from emod.errors import DataError
from emod.evaluation import Split, split_subjects

ROLES = ("train", "validation", "test")


def table(subjects: dict[str, int], *, windows: int = 3) -> pa.Table:
    """corpus -> number of subjects; subject names are shared between corpora, as they are in practice."""
    rows = [
        {"window_id": f"{corpus}-{subject}-{window}", "corpus": corpus, "subject": f"{subject + 1}"}
        for corpus, n in subjects.items()
        for subject in range(n)
        for window in range(windows)
    ]
    return pa.Table.from_pylist(rows)


def ids_by_role(metadata: pa.Table, split: Split) -> dict[str, set[str]]:
    return {role: set(metadata["window_id"].take(split.rows(role)).to_pylist()) for role in ROLES}


@given(
    n=st.integers(3, 60),
    validation=st.floats(0.01, 0.6),
    test=st.floats(0.01, 0.39),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_every_window_has_one_role_and_every_subject_too(n: int, validation: float, test: float, seed: int) -> None:
    metadata = table({"deap": n})
    split = split_subjects(metadata, SplitSettings(validation=validation, test=test, seed=seed))
    rows = np.concatenate([split.rows(role) for role in ROLES])
    assert sorted(rows.tolist()) == list(range(len(metadata)))
    subjects = metadata["subject"].to_pylist()
    seen = [{subjects[row] for row in split.rows(role)} for role in ROLES]
    assert all(seen)
    assert sum(map(len, seen)) == n
    assert {role: {name.split("/")[1] for name in split.subjects[role]} for role in ROLES} == dict(
        zip(ROLES, seen, strict=True)
    )
    # Nearest whole number of subjects, unless a role would be left empty.
    if round(test * n) >= 1 and round(validation * n) >= 1 and round(test * n) + round(validation * n) < n:
        assert (len(seen[1]), len(seen[2])) == (round(validation * n), round(test * n))


def test_row_order_and_other_corpora_do_not_move_a_subject() -> None:
    wanted = SplitSettings(seed=7)
    alone = table({"deap": 12})
    split = split_subjects(alone, wanted)

    shuffled = alone.take(np.random.default_rng(1).permutation(len(alone)))
    again = split_subjects(shuffled, wanted)
    assert again.hash == split.hash
    assert again.subjects == split.subjects
    assert ids_by_role(shuffled, again) == ids_by_role(alone, split)

    both = table({"amigos": 9, "deap": 12})
    joint = split_subjects(both, wanted)
    for role in ROLES:
        assert {window for window in ids_by_role(both, joint)[role] if window.startswith("deap")} == ids_by_role(
            alone, split
        )[role]
        assert any(window.startswith("amigos") for window in ids_by_role(both, joint)[role])


def test_seed_moves_subjects_and_the_hash_tells_splits_apart() -> None:
    metadata = table({"deap": 32})
    splits = [split_subjects(metadata, SplitSettings(seed=seed)) for seed in range(8)]
    assert len({split.subjects["test"] for split in splits}) > 1
    assert len({split.hash for split in splits}) == 8
    assert split_subjects(metadata, SplitSettings(seed=3)).hash == splits[3].hash
    # Every subject is tested by some seed: no subject is stuck in a role.
    assert (
        len(
            {name for seed in range(40) for name in split_subjects(metadata, SplitSettings(seed=seed)).subjects["test"]}
        )
        == 32
    )


def test_corpora_of_one_size_are_not_split_alike() -> None:
    split = split_subjects(table({"amigos": 30, "deap": 30}), SplitSettings(seed=0))
    tested = {
        corpus: {name.split("/")[1] for name in split.subjects["test"] if name.startswith(corpus)}
        for corpus in ("amigos", "deap")
    }
    assert tested["amigos"] != tested["deap"]


def test_kept_rows_thin_the_roles_but_move_nobody() -> None:
    metadata = table({"deap": 10}, windows=4)
    whole = split_subjects(metadata, SplitSettings())
    kept = np.arange(0, len(metadata), 4)  # one window a subject
    thin = split_subjects(metadata, SplitSettings(), rows=kept[::-1])
    assert thin.subjects == whole.subjects
    for role in ROLES:
        assert thin.rows(role).tolist() == [row for row in whole.rows(role) if row in kept]
    assert thin.hash != whole.hash


def test_record_states_rule_and_counts() -> None:
    split = split_subjects(table({"deap": 8}), SplitSettings(validation=0.125, test=0.25, seed=5))
    record = split.record()
    assert record["windows"] == {"train": 15, "validation": 3, "test": 6}
    assert record["seed"] == 5
    assert "whole subjects" in record["rule"]
    assert "clips shared" in record["rule"]


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_subjects_is_one_line_with_the_number_needed(n: int) -> None:
    with pytest.raises(DataError, match=rf"split of deap: {n} subject\(s\), at least 3 are needed") as caught:
        split_subjects(table({"amigos": 5, "deap": n}), SplitSettings())
    assert "\n" not in str(caught.value)


def test_empty_roles_and_rows_outside_the_table_are_refused() -> None:
    metadata = table({"deap": 5})
    split = split_subjects(metadata, SplitSettings())
    with pytest.raises(DataError, match=f"no window of the test subjects {split.subjects['test'][0]}"):
        split_subjects(metadata, SplitSettings(), rows=np.concatenate([split.train, split.validation]))
    with pytest.raises(DataError, match="no window"):
        split_subjects(metadata, SplitSettings(), rows=[])
    with pytest.raises(DataError, match="empty"):
        split_subjects(metadata.slice(0, 0), SplitSettings())
    with pytest.raises(ValueError, match="outside"):
        split_subjects(metadata, SplitSettings(), rows=[0, len(metadata)])
    with pytest.raises(ValueError, match="role"):
        split.rows("dev")
