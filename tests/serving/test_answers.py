"""What an object says of itself, and objects that hold nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emod.serving.answers import IDENTITY, encode_answers, identity_of, read_summary


def row(number: int) -> dict[str, object]:
    names = {name: name for name in ("corpus", "subject", "session", "trial", "stimulus")}
    return {"window_id": str(number), "start_s": 2.0 * number, "scale_uv": 1.0, **names}


def test_a_recording_without_a_window_is_an_object_without_rows(tmp_path: Path) -> None:
    """It is not read again, and does not disturb whoever reads the folder."""
    summary = {"n_windows": 0, "flags": {}, "problems": [{"code": "short"}]}
    about = {"summary": json.dumps(summary)}
    (tmp_path / "a.parquet").write_bytes(encode_answers(identity_of([]), [], classes=("x",), width=4, about=about))
    frame = pd.DataFrame(
        {"valence": [1.0], "arousal": [2.0], "p_x": [0.5], "embedding": [[1.0, 2.0, 3.0, 4.0]], "flags": ["clipped"]}
    )
    full = encode_answers(identity_of([row(0)]), [frame], classes=("x",), width=4, about={"summary": "{}"})
    (tmp_path / "b.parquet").write_bytes(full)
    assert read_summary(str(tmp_path / "a.parquet")) == summary
    whole = pd.read_parquet(tmp_path)
    assert len(whole) == 1
    assert whole["embedding"][0].tolist() == [1.0, 2.0, 3.0, 4.0]
    first, second = (pq.read_schema(tmp_path / name) for name in ("a.parquet", "b.parquet"))
    assert first.remove_metadata().equals(second.remove_metadata())
    assert first.field("embedding").type == pa.list_(pa.float32(), 4)
    assert tuple(first.names[: len(IDENTITY)]) == IDENTITY


def test_half_an_object_is_none(tmp_path: Path) -> None:
    whole = encode_answers(identity_of([]), [], classes=(), width=4, about={"summary": "{}"})
    for name, data in {"cut": whole[: len(whole) // 2], "empty": b"", "other": b"PAR1" + bytes(50)}.items():
        (tmp_path / name).write_bytes(data)
        assert read_summary(str(tmp_path / name)) is None
