"""A leak of each kind is planted into a split that has none, and found; the clean twin passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from emod.evaluation import Backbone, Finding, Split, audit_split, leaks
from emod.evaluation.audit import ACCEPTABLE, hash_windows
from tests.evaluation.test_protocols import split_by, table

LABORATORIES = {"seed_iv": "BCMI", "seed_v": "BCMI", "deap": None}


def audit(metadata: pa.Table, split: Split, **wanted: Any) -> list[Finding]:
    return audit_split(metadata, split, window_s={"seed_v": 2.0, "deap": 2.0}, laboratory=LABORATORIES, **wanted)


def codes(findings: Sequence[Finding], severity: str) -> set[str]:
    return {finding.code for finding in findings if finding.severity == severity}


@pytest.fixture
def metadata() -> pa.Table:
    return table({"seed_v": 9})


@pytest.fixture
def clean(metadata: pa.Table) -> Split:
    """Nothing shared but the corpus."""
    (split,) = split_by(metadata, protocol="subjects_and_clips", validation=0.2, test=0.3)
    return split


def content_of(metadata: pa.Table) -> npt.NDArray[np.bytes_]:
    windows = np.random.default_rng(0).normal(size=(len(metadata), 2, 5)).astype(np.float16)
    return np.array(list(hash_windows(windows)))


def move(split: Split, row: int, role: str) -> Split:
    """The row joins a role, whatever role it has."""
    return replace(split, **{role: np.union1d(split.rows(role), [row])})


def test_the_clean_twin_has_nothing_to_say(metadata: pa.Table, clean: Split) -> None:
    findings = audit(
        metadata,
        clean,
        content=content_of(metadata),
        ica=["seed_v"],
        fitted={"threshold": clean.train},
        backbone=Backbone({"deap": ("1", "2", "3")}),
    )
    assert findings == []


def test_a_window_in_two_roles(metadata: pa.Table, clean: Split) -> None:
    findings = audit(metadata, move(clean, clean.test[0], "train"))
    assert codes(findings, "leak") == {"windows", "trials", "sessions", "subjects", "clips"}
    (found,) = [finding for finding in findings if finding.code == "windows"]
    assert (found.between, found.count, found.examples) == (("train", "test"), 1, tuple(clean.ids("test")[:1]))


def test_a_neighbour_of_the_same_trial(metadata: pa.Table, clean: Split) -> None:
    """Two windows of a trial part company: nothing is doubled, and it is a leak all the same."""
    row = int(clean.test[0])
    split = replace(clean, test=clean.test[1:], train=np.union1d(clean.train, [row]))
    assert codes(audit(metadata, split), "leak") == {"trials", "sessions", "subjects", "clips"}


def test_overlapping_windows(metadata: pa.Table, clean: Split) -> None:
    """As a store would hold that was cut with half a window of overlap."""
    row = int(clean.test[0])
    split = replace(clean, test=clean.test[1:], train=np.union1d(clean.train, [row]))
    half = np.array(metadata["start_s"].to_numpy()) / 2
    overlapping = metadata.set_column(metadata.schema.get_field_index("start_s"), "start_s", pa.array(half))
    (found,) = [finding for finding in audit(overlapping, split) if finding.code == "samples"]
    assert (found.severity, found.between, found.count) == ("leak", ("train", "test"), 1)
    assert "samples" not in codes(audit(metadata, split), "leak")


def test_a_session_a_subject_a_clip_alone(metadata: pa.Table) -> None:
    """The same rows, asked about under protocols that promise more than they keep."""
    (by_clips,) = split_by(metadata, protocol="clips", validation=0.2, test=0.3)
    assert leaks(audit(metadata, by_clips)) == []
    assert codes(audit(metadata, by_clips), "limit") == {"subjects", "sessions"}
    promised = replace(by_clips, shares=())
    assert codes(leaks(audit(metadata, promised)), "leak") == {"subjects", "sessions"}

    (by_subjects,) = split_by(metadata, protocol="subjects")
    assert codes(audit(metadata, by_subjects), "limit") == {"clips"}
    assert codes(audit(metadata, replace(by_subjects, shares=())), "leak") == {"clips"}

    sessions = replace(split_by(metadata, protocol="seed_paper")[0], accepted=())
    assert codes(audit(metadata, sessions), "leak") == {"subjects"}


def test_a_copy_under_another_name(metadata: pa.Table, clean: Split) -> None:
    content = content_of(metadata)
    content[clean.test[3]] = content[clean.train[5]]
    (found,) = audit(metadata, clean, content=content)
    assert (found.code, found.severity, found.between, found.count) == ("content", "leak", ("train", "test"), 1)
    assert found.examples == (f"{clean.ids('train')[5]} = {clean.ids('test')[3]}",)


def test_windows_of_equal_samples_have_equal_digests() -> None:
    windows = np.random.default_rng(0).normal(size=(3, 2, 5)).astype(np.float16)
    windows[2] = windows[0]
    first, second, third = hash_windows(windows)
    assert first == third != second


def test_ica_fitted_on_a_session_that_two_roles_share(metadata: pa.Table) -> None:
    (split,) = split_by(metadata, protocol="clips")
    assert codes(audit(metadata, split, ica=["deap"]), "leak") == set()
    found = leaks(audit(metadata, split, ica=["seed_v"]))
    assert [(finding.code, finding.between) for finding in found] == [
        ("ica", ("train", "test")),
        ("ica", ("validation", "test")),
    ]
    assert found[0].count == 27, "nine subjects, three sessions"


def test_a_threshold_that_saw_test_windows(metadata: pa.Table, clean: Split) -> None:
    (found,) = audit(metadata, clean, fitted={"threshold": np.append(clean.train, clean.test[:4])})
    assert (found.code, found.severity, found.count, found.between) == ("fitted", "leak", 4, ("threshold", "test"))


def test_a_backbone_that_learned_from_test_subjects(metadata: pa.Table) -> None:
    (split,) = split_by(metadata, protocol="subjects")
    victim = split.subjects["test"][0].partition("/")[2]
    found = leaks(audit(metadata, split, backbone=Backbone({"seed_v": (victim,)})))
    assert [(finding.code, finding.between, finding.examples) for finding in found] == [
        ("pretraining", ("pretraining", "test"), (f"seed_v/{victim}",))
    ]
    # A subject of the same name elsewhere is somebody else.
    assert leaks(audit(metadata, split, backbone=Backbone({"deap": (victim,)}))) == []


def test_a_backbone_that_knows_the_clips(metadata: pa.Table, clean: Split) -> None:
    """Of training subjects alone: harmless where people are asked about, a leak where clips are."""
    known = Backbone({"seed_v": tuple(name.partition("/")[2] for name in clean.subjects["train"])})
    assert codes(audit(metadata, clean, backbone=known), "leak") == {"pretraining-clips"}
    (split,) = split_by(metadata, protocol="subjects")
    known = Backbone({"seed_v": tuple(name.partition("/")[2] for name in split.subjects["train"])})
    assert codes(audit(metadata, split, backbone=known), "limit") == {"clips", "pretraining-clips"}


def test_a_corpus_of_the_same_laboratory_is_said(metadata: pa.Table, clean: Split) -> None:
    (found,) = audit(metadata, clean, backbone=Backbone({"seed_iv": ("1",), "deap": ("1",)}))
    assert (found.code, found.severity, found.examples) == ("laboratory", "limit", ("seed_iv",))
    assert "not published" in found.message


def test_so_is_one_that_trains() -> None:
    metadata = table({"seed_iv": 4, "seed_v": 4})
    (split,) = split_by(metadata, protocol="cross_corpus", train_corpora=("seed_iv",))
    found = audit_split(metadata, split, window_s={"seed_v": 2.0, "seed_iv": 2.0}, laboratory=LABORATORIES)
    assert [(f.code, f.between) for f in found if f.code == "laboratory"] == [("laboratory", ("train", "test"))]


@pytest.mark.parametrize(
    ("protocol", "accepted"),
    [
        ("faced_paper", {"clips"}),
        ("seed_v_paper", {"subjects", "sessions", "ica"}),
        ("seed_paper", {"subjects", "clips"}),
    ],
)
def test_the_papers_protocols_are_published_with_their_leaks(protocol: str, accepted: set[str]) -> None:
    metadata = table({"seed_v": 9})
    if protocol == "seed_paper":  # SEED shows the same clips in every session
        clips = [f"c{trial}" for trial in metadata["trial"].to_pylist()]
        metadata = metadata.set_column(metadata.schema.get_field_index("stimulus"), "stimulus", pa.array(clips))
    (split,) = split_by(metadata, protocol=protocol)
    findings = audit(metadata, split, ica=["seed_v"])
    assert leaks(findings) == []
    assert codes(findings, "accepted") == accepted
    assert {finding.accepted_by for finding in findings if finding.severity == "accepted"} == {"protocol"}
    # Nobody publishes them with windows in two roles.
    assert "windows" in codes(audit(metadata, move(split, split.test[0], "train")), "leak")


def test_what_a_user_accepts_says_so(metadata: pa.Table) -> None:
    (split,) = split_by(metadata, protocol="clips")
    findings = audit(metadata, split, ica=["seed_v"], accept=["ica"])
    assert leaks(findings) == []
    assert {finding.accepted_by for finding in findings if finding.code == "ica" and "test" in finding.between} == {
        "user"
    }


@pytest.mark.parametrize("code", ["windows", "trials", "samples", "content", "fitted", "typo"])
def test_what_nobody_may_accept(metadata: pa.Table, clean: Split, code: str) -> None:
    assert code not in ACCEPTABLE
    with pytest.raises(ValueError, match=f"'{code}' cannot be accepted; of findings only clips, ica"):
        audit(metadata, clean, accept=[code])


def test_the_worst_comes_first(metadata: pa.Table) -> None:
    (split,) = split_by(metadata, protocol="clips")
    severities = [finding.severity for finding in audit(metadata, split, ica=["seed_v"])]
    assert severities == sorted(severities, key=["leak", "accepted", "limit"].index)
    assert severities[0] == "leak"
