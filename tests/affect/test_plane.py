"""The plane against its definition, point by point, and against the table of the paper's released code."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emod.affect import band, level, place_emotion, place_rating, region_centre, va_region
from emod.catalog import load_emotion_words

coordinates = st.floats(-4, 4)

# The released code's table, on its own 0..8 scale: corpus -> word -> (valence, arousal).
RELEASED = {
    "seed_iv": {"neutral": (4, 4), "sad": (3, 5), "fear": (3, 6), "happy": (7, 6)},
    "seed_vii": {
        "happy": (7, 6), "neutral": (4, 4), "disgust": (2, 5), "sad": (3, 5),
        "anger": (3, 6), "fear": (3, 6), "surprise": (4, 6),
    },
    "mped": {
        "neutral": (4, 4), "joy": (7, 6), "funny": (6, 5), "angry": (3, 6),
        "fear": (3, 6), "disgust": (2, 5), "sadness": (3, 5),
    },
}  # fmt: skip


@given(coordinates)
def test_level_is_the_nearest_integer_with_halves_up(x: float) -> None:
    found = int(level(x))
    assert found == max(-4, min(4, math.floor(x + 0.5)))
    assert abs(found - x) <= 0.5


def test_levels_at_the_halves() -> None:
    assert level([-4, -3.5, -0.5, 0.49, 0.5, 3.5, 4]).tolist() == [-4, -3, 0, 0, 1, 4, 4]


def test_bands_hold_three_levels_each() -> None:
    assert band(np.arange(-4, 5)).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_regions_by_hand() -> None:
    # (valence, arousal) -> band(valence) + 3 band(arousal)
    table = {(-4, -4): 0, (0, -4): 1, (4, -4): 2, (-2, 0): 3, (0, 0): 4, (2, 0): 5, (-4, 4): 6, (1, 2): 7, (3, 2): 8}
    for (valence, arousal), region in table.items():
        assert int(va_region(valence, arousal)) == region


@given(coordinates, coordinates)
def test_a_region_holds_its_points(valence: float, arousal: float) -> None:
    centre = region_centre(va_region(valence, arousal))
    assert np.abs(centre - [valence, arousal]).max() <= 1.5


@given(st.floats(1, 9))
def test_nine_point_ratings(rating: float) -> None:
    assert place_rating(rating, 1, 9) == pytest.approx(rating - 5)


@pytest.mark.parametrize("rating", [1, 2, 3, 4, 5])
def test_five_point_ratings(rating: int) -> None:
    assert place_rating(rating, 1, 5) == (rating - 3) * 2


def test_unsigned_ratings_do_not_wrap() -> None:
    assert place_rating(np.uint8(1), 1, 5) == -4


@pytest.mark.parametrize("rating", [0.99, 9.01, math.nan, math.inf])
def test_a_rating_off_its_scale_is_refused(rating: float) -> None:
    with pytest.raises(ValueError, match=r"outside the scale 1\.\.9"):
        place_rating(rating, 1, 9)


def test_an_unknown_word_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'anger'.*known: fear, sad"):
        place_emotion("anger", {"sad": (-1.0, 1.0), "fear": (-1.0, 2.0)})


def test_the_word_table_is_the_released_one_shifted_by_four() -> None:
    table: dict[str, dict[str, tuple[float, float]]] = {}
    for word in load_emotion_words():
        assert word.source == "EMOD released table" or word.source.startswith("project decision:")
        if word.source != "EMOD released table":
            assert word.corpus not in RELEASED
            continue
        table.setdefault(word.corpus, {})[word.emotion] = (word.valence + 4, word.arousal + 4)
    assert table == RELEASED


def test_not_a_number_has_no_level() -> None:
    with pytest.raises(ValueError, match="finite"):
        level([0.0, math.nan])
