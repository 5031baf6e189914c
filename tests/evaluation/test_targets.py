"""Targets: which side of the midpoint, what ties become, and which questions a corpus cannot answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from emod.affect import place_rating
from emod.errors import DataError, RequestError
from emod.evaluation import make_target


def rated(valence: list[Any], arousal: list[Any] | None = None, dtype: pa.DataType | None = None) -> pa.Table:
    n = len(valence)
    return pa.table(
        {
            "window_id": [f"w{row}" for row in range(n)],
            "corpus": ["deap"] * n,
            "label_kind": ["rating"] * n,
            "emotion": pa.array([None] * n, pa.string()),
            "valence": pa.array(valence, dtype or pa.float64()),
            "arousal": pa.array(arousal or valence, dtype or pa.float64()),
        }
    )


def worded(words: list[str | None], points: dict[str | None, tuple[float, float]]) -> pa.Table:
    n = len(words)
    return pa.table(
        {
            "window_id": [f"w{row}" for row in range(n)],
            "corpus": ["seed_iv"] * n,
            "label_kind": ["emotion"] * n,
            "emotion": pa.array(words, pa.string()),
            "valence": [points[word][0] for word in words],
            "arousal": [points[word][1] for word in words],
        }
    )


# The words' places on the plane are those of the EMOD paper's released code for SEED-IV.
SEED_IV = {"neutral": (0.0, 0.0), "sad": (-1.0, 1.0), "fear": (-1.0, 2.0), "happy": (3.0, 2.0)}


@pytest.mark.parametrize(("ties", "tied_code"), [("low", 0), ("high", 1), ("drop", -1)])
@pytest.mark.parametrize("dtype", [pa.float32(), pa.float64()])
def test_midpoint_of_the_scale_and_its_ties(ties: Any, tied_code: int, dtype: pa.DataType) -> None:
    ratings = [1.0, 4.9, 5.0, 5.1, 9.0]
    target = make_target(rated([place_rating(r, 1, 9) for r in ratings], dtype=dtype), "valence", ties=ties)
    assert target.classes == ("low", "high")
    assert target.codes.dtype == np.int64
    assert target.codes.tolist() == [0, 0, tied_code, 1, 1]
    assert target.rows.tolist() == [row for row in range(5) if target.codes[row] >= 0]
    assert "rating above the scale's midpoint" in target.rule
    assert {"low": "ties low", "high": "ties high", "drop": "ties dropped"}[ties] in target.rule
    assert "(1 of 5 windows)" in target.rule


def test_a_midpoint_that_floats_cannot_hold_is_still_a_tie() -> None:
    # 0.1..0.7 has its midpoint at 0.4, which lands 1e-16 beside 0 of the plane.
    value = place_rating(0.4, 0.1, 0.7)
    assert value != 0
    assert make_target(rated([value, -1.0, 1.0]), "arousal", ties="drop").codes.tolist() == [-1, 0, 1]


def test_valence_and_arousal_are_not_mixed_up_and_priors_add_up() -> None:
    table = rated([-3.0, -2.0, -1.0, 2.0], [1.0, 2.0, 3.0, -1.0])
    assert make_target(table, "valence").codes.tolist() == [0, 0, 0, 1]
    assert make_target(table, "arousal").codes.tolist() == [1, 1, 1, 0]
    assert make_target(table, "arousal").priors == {"low": 0.25, "high": 0.75}
    dropped = make_target(rated([0.0, 0.0, -1.0, 2.0, 3.0]), "valence", ties="drop")
    assert dropped.priors == {"low": pytest.approx(1 / 3), "high": pytest.approx(2 / 3)}


def test_words_are_classes_in_alphabetical_order() -> None:
    words = ["sad", "happy", "neutral", "fear", "sad", "happy", "sad", "sad"]
    target = make_target(worded(words, SEED_IV), "emotion")
    assert target.classes == ("fear", "happy", "neutral", "sad")
    assert [target.classes[code] for code in target.codes] == words
    assert target.priors == {"fear": 0.125, "happy": 0.25, "neutral": 0.125, "sad": 0.5}
    unlabelled = make_target(worded(["sad", None, "happy"], SEED_IV | {None: (0.0, 0.0)}), "emotion")
    assert unlabelled.codes.tolist() == [1, -1, 0]
    assert unlabelled.priors == {"happy": 0.5, "sad": 0.5}


def test_low_and_high_of_words_say_that_nobody_rated() -> None:
    target = make_target(worded(["sad", "happy", "neutral"], SEED_IV), "valence")
    assert target.codes.tolist() == [0, 1, 0]
    assert "emotion word" in target.rule
    assert "rating" not in target.rule


def test_what_cannot_be_asked() -> None:
    with pytest.raises(RequestError, match=r"target emotion of deap: .*ratings.*set finetune\.targets"):
        make_target(rated([1.0, -1.0]), "emotion")
    with pytest.raises(RequestError, match="all 3 windows are low"):
        make_target(rated([-1.0, -2.0, 0.0]), "valence")
    # Without neutral, every word of SEED-IV lies above 0 arousal.
    with pytest.raises(RequestError, match="all 2 windows are high"):
        make_target(worded(["sad", "fear"], SEED_IV), "arousal")
    with pytest.raises(RequestError, match="without a class"):
        make_target(rated([0.0, 0.0]), "valence", ties="drop")
    with pytest.raises(DataError, match="valence of window w1 is nan"):
        make_target(rated([1.0, None, -1.0], [1.0, 1.0, 1.0]), "valence")
    for arguments in (
        {"target": "dominance"},
        {"target": "valence", "ties": "up"},
        {"target": "valence", "threshold": "median"},
    ):
        with pytest.raises(ValueError, match="not"):
            make_target(rated([1.0, -1.0]), **arguments)  # type: ignore[arg-type]
