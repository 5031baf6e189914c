"""Which windows train, which choose, which test.

One rule so far: whole subjects. A split is drawn from names alone; it reads no signal and no label, so it cannot be
tuned to a result.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emod.catalog import SplitSettings
from emod.errors import DataError

__all__ = ["ROLES", "Split", "split_subjects"]

ROLES = ("train", "validation", "test")

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Three disjoint sets of windows, the rule that made them, and a hash by which two results are comparable.

    Attributes:
        rule: The rule in words.
        seed: Seed of the draw.
        subjects: role -> its subjects as "corpus/subject", sorted.
        train: Row numbers of the metadata table, ascending; likewise validation and test.
        validation: See train.
        test: See train.
        hash: 16 hexadecimal digits over the rule, the seed and the window ids of each role; row order does not enter.
    """

    rule: str
    seed: int
    subjects: dict[str, tuple[str, ...]]
    train: Rows
    validation: Rows
    test: Rows
    hash: str

    def rows(self, role: str) -> Rows:
        """Row numbers of a role, one of ROLES."""
        if role not in ROLES:
            raise ValueError(f"role {role!r} is not one of {', '.join(ROLES)}")
        rows: Rows = getattr(self, role)
        return rows

    def record(self) -> dict[str, Any]:
        """What a report states about the split, ready for JSON."""
        return {
            "rule": self.rule,
            "seed": self.seed,
            "hash": self.hash,
            "subjects": {role: list(self.subjects[role]) for role in ROLES},
            "windows": {role: len(self.rows(role)) for role in ROLES},
        }


def split_subjects(metadata: pa.Table, settings: SplitSettings, *, rows: npt.ArrayLike | None = None) -> Split:
    """Whole subjects per role, so that no subject is in two roles.

    Each corpus is split by itself: its subjects, sorted by name, are shuffled by a generator seeded with the seed and
    the corpus' name; the first go to test, the next to validation, the rest to train. So the role of a subject depends
    on neither the order of the rows nor the other corpora in the table. Shares are rounded to whole subjects, at least
    one a role.

    Clips stay shared: in most corpora every subject saw the same ones.

    Args:
        metadata: One row per window, with window_id, corpus and subject.
        settings: Shares of subjects, and the seed.
        rows: Row numbers to keep (for example those a target did not drop); None keeps all. They do not change the role
            of any subject, so every target of a corpus is tested on the same people.

    Raises:
        DataError: If a corpus has fewer than three subjects, or ``rows`` leaves a role without windows.
    """
    corpora = metadata["corpus"].to_pylist()
    keys = [f"{corpus}/{subject}" for corpus, subject in zip(corpora, metadata["subject"].to_pylist(), strict=True)]
    members: dict[str, set[str]] = {}
    for corpus, key in zip(corpora, keys, strict=True):
        members.setdefault(corpus, set()).add(key)
    if not members:
        raise DataError("split: the metadata table is empty: ingest a corpus first")

    role_of: dict[str, str] = {}
    for corpus, subjects in members.items():
        if len(subjects) < len(ROLES):
            raise DataError(
                f"split of {corpus}: {len(subjects)} subject(s), at least {len(ROLES)} are needed "
                "(one each to train, validate and test): ingest more subjects"
            )
        n_test, n_validation = _whole_subjects(len(subjects), settings)
        generator = np.random.default_rng([settings.seed, zlib.crc32(corpus.encode())])
        for place, index in enumerate(generator.permutation(len(subjects))):
            role = "test" if place < n_test else "validation" if place < n_test + n_validation else "train"
            role_of[sorted(subjects)[index]] = role

    kept = np.arange(len(keys)) if rows is None else np.unique(np.asarray(rows, dtype=np.int64))
    if len(kept) and not 0 <= kept[0] <= kept[-1] < len(keys):
        raise ValueError(f"rows {kept[0]}..{kept[-1]} are outside the table's {len(keys)} rows")
    roles = np.array([role_of[keys[row]] for row in kept], dtype=object)
    parts = {role: kept[roles == role] for role in ROLES}
    names = {role: tuple(sorted(key for key, its_role in role_of.items() if its_role == role)) for role in ROLES}
    for role, part in parts.items():
        if not len(part):
            raise DataError(
                f"split: no window of the {role} subjects {', '.join(names[role])} is left: "
                "keep ties (finetune.ties=low), ingest more subjects, or change the split's seed"
            )

    shares = f"validation {settings.validation:g}, test {settings.test:g} of each corpus' subjects"
    rule = f"whole subjects: {shares}; clips shared"
    ids = metadata["window_id"].to_pylist()
    signature = {role: sorted(str(ids[row]) for row in part) for role, part in parts.items()}
    digest = hashlib.sha256(json.dumps([rule, settings.seed, signature], sort_keys=True).encode()).hexdigest()
    return Split(rule, settings.seed, names, parts["train"], parts["validation"], parts["test"], digest[:16])


def _whole_subjects(n: int, settings: SplitSettings) -> tuple[int, int]:
    """(test, validation) subjects out of n >= 3: nearest whole numbers, at least one each, one left to train on."""
    counts = [max(1, round(settings.test * n)), max(1, round(settings.validation * n))]
    while sum(counts) >= n:
        counts[counts.index(max(counts))] -= 1
    return counts[0], counts[1]
