"""Native labels -> points of the plane: a rating by its scale, an emotion word by the word table.

It reads no file: the table is handed in, so that anybody can bring another one.
"""

from __future__ import annotations

from collections.abc import Mapping

from emod.affect.plane import PLANE_MAX, PLANE_MIN

__all__ = ["Point", "place_emotion", "place_rating"]

Point = tuple[float, float]


def place_rating(rating: float, minimum: float, maximum: float) -> float:
    """Plane coordinate of a rating, linear from [minimum, maximum] to [-4, 4] (EMOD, section on labels).

    A 1..9 scale gives r - 5; a 1..5 scale gives 2 (r - 3).

    Raises:
        ValueError: If the rating is not finite or lies outside its scale.
    """
    if not minimum <= rating <= maximum:
        raise ValueError(f"rating {rating} is outside the scale {minimum:g}..{maximum:g}")
    return PLANE_MIN + (PLANE_MAX - PLANE_MIN) * (float(rating) - minimum) / (maximum - minimum)


def place_emotion(emotion: str, table: Mapping[str, Point]) -> Point:
    """(valence, arousal) of an emotion word.

    Args:
        emotion: The corpus' own word, lower case.
        table: word -> (valence, arousal), each in [-4, 4].

    Raises:
        ValueError: If the word is not in the table; it names the words that are.
    """
    if emotion not in table:
        raise ValueError(f"emotion {emotion!r} has no place on the plane; known: {', '.join(sorted(table))}")
    return table[emotion]
