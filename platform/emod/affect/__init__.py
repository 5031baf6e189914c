"""Labels -> the valence-arousal plane: rating scales, emotion words, levels, regions. numpy only."""

from emod.affect.labels import Point, place_emotion, place_rating
from emod.affect.plane import N_REGIONS, PLANE_MAX, PLANE_MIN, band, level, region_centre, va_region

__all__ = [
    "N_REGIONS",
    "PLANE_MAX",
    "PLANE_MIN",
    "Point",
    "band",
    "level",
    "place_emotion",
    "place_rating",
    "region_centre",
    "va_region",
]
