"""Labels of simulated recordings whose participants rate: clips that mean something, people who differ.

It makes no signal.
"""

from __future__ import annotations

import zlib

import numpy as np

from emod.catalog import RatingScale

__all__ = ["draw_rating", "generator", "rating_at"]

_CLIP_RANGE = 3.5
_CLIP_STRIDE = np.array([0.7548776662466927, 0.5698402909980532])  # R2 sequence (Roberts 2018)
_SUBJECT_SD = 0.5
_ANSWER_SD = 1.0


def draw_rating(seed: int, corpus: str, subject: str, clip: int, scale: RatingScale, step: float) -> dict[str, float]:
    """What one subject answers to one clip, a pure function of the arguments.

    The clip's own point lies within +-3.5 on the plane and is the same for all subjects; clips 0, 1, 2, ... spread
    evenly, however many there are. A subject adds a leaning of its own (sd 0.5) and a whim for that clip (sd 1), and
    the answer is clipped to the scale and rounded to its step.

    Returns:
        {"valence": x, "arousal": y} on the scale.
    """
    place = (generator(seed, corpus, "clips").random(2) + clip * _CLIP_STRIDE) % 1.0
    leaning = generator(seed, corpus, subject).normal(0, _SUBJECT_SD, 2)
    whim = generator(seed, corpus, subject, str(clip)).normal(0, _ANSWER_SD, 2)
    valence, arousal = ((2 * place - 1) * _CLIP_RANGE + leaning + whim).clip(-4, 4).tolist()
    return {"valence": rating_at(valence, scale, step), "arousal": rating_at(arousal, scale, step)}


def rating_at(coordinate: float, scale: RatingScale, step: float) -> float:
    """The rating that lies at a plane coordinate: the inverse of `emod.affect.place_rating`, rounded to ``step``."""
    rating = scale.minimum + (coordinate + 4) / 8 * (scale.maximum - scale.minimum)
    return round(round(rating / step) * step, 6)


def generator(seed: int, *names: str) -> np.random.Generator:
    """Random numbers that belong to a name, whatever else was drawn before."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])
