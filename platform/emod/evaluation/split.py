"""A split as an object and as a file: window ids per role, the rule that made them, its seed, its hash.

The file is JSON, so that it can be read, compared and published with a paper. It holds ids, never row numbers: rows
move when a store grows, ids do not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, ValidationError

from emod import storage
from emod.catalog.strict import Strict
from emod.errors import DataError, RequestError

__all__ = ["ROLES", "Role", "Split", "read_split", "write_split"]

Role = Literal["train", "validation", "test"]
ROLES: tuple[Role, ...] = ("train", "validation", "test")

Rows = npt.NDArray[np.int64]

# A million windows.
_FILE_BYTES = 2**27


@dataclass(frozen=True, eq=False)
class Split:
    """Three sets of windows and the rule that made them; of the folds of a protocol, one.

    Attributes:
        protocol: Name of the rule, a key of `PROTOCOLS`, or "file".
        rule: The rule in words.
        shares: What roles share by the very question the protocol asks: of subjects, sessions, clips. The rest is new.
        accepted: Leaks that the protocol is published with, by codes of the audit.
        seed: Seed of the draw.
        fold: Its name.
        window_ids: Of the whole table.
        owners: (n,) "corpus/subject" of each window of the table.
        train: Row numbers of the table, ascending; likewise validation and test.
        validation: See train.
        test: See train.
    """

    protocol: str
    rule: str
    shares: tuple[str, ...]
    accepted: tuple[str, ...]
    seed: int
    fold: str
    window_ids: pa.ChunkedArray
    owners: npt.NDArray[np.object_]
    train: Rows
    validation: Rows
    test: Rows

    def rows(self, role: str) -> Rows:
        """Row numbers of a role, one of ROLES."""
        if role not in ROLES:
            raise ValueError(f"role {role!r} is not one of {', '.join(ROLES)}")
        rows: Rows = getattr(self, role)
        return rows

    def ids(self, role: str) -> list[str]:
        """Window ids of a role, in the order of its rows."""
        ids: list[str] = self.window_ids.take(pa.array(self.rows(role))).to_pylist()
        return ids

    @cached_property
    def subjects(self) -> dict[str, tuple[str, ...]]:
        """role -> its subjects as "corpus/subject", sorted."""
        return {role: tuple(sorted(set(self.owners[self.rows(role)]))) for role in ROLES}

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits over the rule, the seed, the fold and each role's ids; row order does not enter."""
        content = [self.protocol, self.rule, self.seed, self.fold, {role: sorted(self.ids(role)) for role in ROLES}]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def keep(self, rows: npt.ArrayLike) -> Split:
        """The same split on some rows of the table only, such as those that have a class.

        Raises:
            DataError: If a role is left without windows.
        """
        kept = np.unique(np.asarray(rows, dtype=np.int64))
        if len(kept) and not 0 <= kept[0] <= kept[-1] < len(self.owners):
            raise ValueError(f"rows {kept[0]}..{kept[-1]} are outside the table's {len(self.owners)} rows")
        parts = {role: np.intersect1d(self.rows(role), kept) for role in ROLES}
        for role, part in parts.items():
            if not len(part):
                raise DataError(
                    f"split {self.protocol}, fold {self.fold}: no window of the {role} subjects "
                    f"{', '.join(self.subjects[role])} has a class; keep ties (finetune.ties=low), ingest more, or "
                    "change the split's seed"
                )
        return dataclasses.replace(self, train=parts["train"], validation=parts["validation"], test=parts["test"])

    def record(self) -> dict[str, Any]:
        """What a report states about the split, ready for JSON."""
        return {
            "protocol": self.protocol,
            "rule": self.rule,
            "seed": self.seed,
            "fold": self.fold,
            "hash": self.hash,
            "subjects": {role: list(self.subjects[role]) for role in ROLES},
            "windows": {role: len(self.rows(role)) for role in ROLES},
        }


class _Roles(Strict):
    train: tuple[str, ...] = Field(min_length=1)
    validation: tuple[str, ...] = Field(min_length=1)
    test: tuple[str, ...] = Field(min_length=1)


class _SplitFile(Strict):
    format: Literal[1] = 1
    protocol: str
    rule: str
    shares: tuple[Literal["subjects", "sessions", "clips"], ...]
    seed: int
    fold: str
    hash: str | None = None
    window_ids: _Roles


def write_split(split: Split, url: str) -> None:
    """Writes a split as a file, any URL fsspec writes."""
    content = _SplitFile(
        protocol=split.protocol,
        rule=split.rule,
        shares=split.shares,  # type: ignore[arg-type]
        seed=split.seed,
        fold=split.fold,
        hash=split.hash,
        window_ids=_Roles(**{role: tuple(split.ids(role)) for role in ROLES}),
    )
    storage.write_bytes(url, content.model_dump_json(indent=1).encode())


def read_split(url: str, metadata: pa.Table) -> Split:
    """A split from its file, on the windows of a store.

    What its roles may share is not read: a file cannot excuse itself.

    Raises:
        RequestError: If the file is no split, or its hash does not fit its content.
        DataError: If the store lacks one of its windows.
    """
    shown = storage.redact(url)
    try:
        content = _SplitFile.model_validate_json(storage.read_bytes(url, at_most=_FILE_BYTES))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "it"
        raise RequestError(f"{shown} is no split: {field}: {first['msg']}; write one with jobs/evaluate.py") from None
    place = {name: row for row, name in enumerate(metadata["window_id"].to_pylist())}
    parts: dict[str, Rows] = {}
    for role in ROLES:
        ids = getattr(content.window_ids, role)
        if absent := [name for name in ids if name not in place]:
            raise DataError(
                f"{shown}: {len(absent)} of the {len(ids)} windows of role {role} are not in the store, the first "
                f"{absent[0]}; take the store it was made on, or make the split again"
            )
        parts[role] = np.sort(np.array([place[name] for name in ids], dtype=np.int64))
    owners = np.empty(len(metadata), dtype=object)
    owners[:] = [
        f"{corpus}/{subject}"
        for corpus, subject in zip(metadata["corpus"].to_pylist(), metadata["subject"].to_pylist(), strict=True)
    ]
    split = Split(
        protocol=content.protocol,
        rule=content.rule,
        shares=(),
        accepted=(),
        seed=content.seed,
        fold=content.fold,
        window_ids=metadata["window_id"],
        owners=owners,
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
    )
    if content.hash is not None and split.hash != content.hash:
        raise RequestError(
            f"{shown}: its hash {content.hash} is not that of its content, {split.hash}; make it again, or leave the "
            "hash out if it was changed on purpose"
        )
    return split
