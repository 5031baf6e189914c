"""A model's answers as Parquet: one object for each piece, for readers that know nothing of this project.

Plain Arrow types only. What made the object stands in its own header, and so does what there is to say about the piece.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emod import storage
from emod.errors import RequestError
from emod.shards import METADATA

__all__ = ["IDENTITY", "encode_answers", "identity_of", "read_summary"]

# What people join with, as a store calls it.
IDENTITY = ("window_id", "corpus", "subject", "session", "trial", "stimulus", "start_s")

_SUMMARY = b"emod.summary"


def encode_answers(
    identity: pa.Table, frames: Sequence[pd.DataFrame], *, classes: Sequence[str], width: int, about: Mapping[str, str]
) -> bytes:
    """The bytes of one object.

    Args:
        identity: n rows, columns of ``IDENTITY``.
        frames: From ``Servable.answer``, n rows together; none where n is 0.
        classes: K names, in the order of their columns.
        width: D numbers of an embedding.
        about: What made it; each pair becomes one of the file's own metadata.

    Returns:
        Parquet: ``IDENTITY``; ``valence``, ``arousal`` and ``p_<class>`` float32; ``embedding``, fixed_size_list of D
        float32; ``flags``. NaN where the model has no answer.
    """
    numbers = ("valence", "arousal", *(f"p_{name}" for name in classes))
    whole = {
        name: np.concatenate([frame[name].to_numpy(np.float32) for frame in frames] or [np.empty(0, np.float32)])
        for name in numbers
    }
    rows = [row for frame in frames for row in frame["embedding"]]
    values = pa.array(np.asarray(rows, dtype=np.float32).reshape(-1))
    columns: dict[str, Any] = {name: identity[name] for name in IDENTITY}
    columns |= {name: pa.array(column) for name, column in whole.items()}
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(values, width)
    columns["flags"] = pa.array([flags for frame in frames for flags in frame["flags"]], pa.string())
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({f"emod.{name}": value for name, value in about.items()}), sink)
    return bytes(sink.getvalue().to_pybytes())


def identity_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """``IDENTITY`` of metadata rows."""
    schema = pa.schema([METADATA.field(name) for name in IDENTITY])
    return pa.Table.from_pylist([{name: row[name] for name in IDENTITY} for row in rows], schema=schema)


def read_summary(url: str) -> dict[str, Any] | None:
    """What an object says about its piece; None where a crash of the machine has left half of it."""
    try:
        with storage.open_binary(url) as stream:
            found: dict[str, Any] = json.loads(pq.read_schema(stream).metadata[_SUMMARY])
            return found
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, RequestError):
            raise
        return None
