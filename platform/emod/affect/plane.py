"""The valence-arousal plane: coordinates in [-4, 4], nine levels an axis, nine macro regions.

numpy only; it knows no corpus.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["N_REGIONS", "PLANE_MAX", "PLANE_MIN", "band", "level", "region_centre", "va_region"]

PLANE_MIN = -4.0
PLANE_MAX = 4.0
N_REGIONS = 9

Ints = npt.NDArray[np.int64]


def level(coordinate: npt.ArrayLike) -> Ints:
    """Integer level of a coordinate, -4..4: floor(x + 0.5), clipped (half levels go up).

    Args:
        coordinate: (...,) valence or arousal in plane units.

    Returns:
        (...,) int64 in -4..4.

    Raises:
        ValueError: If a coordinate is not finite.
    """
    values = np.asarray(coordinate, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("plane coordinates must be finite")
    clipped: Ints = np.clip(np.floor(values + 0.5), PLANE_MIN, PLANE_MAX).astype(np.int64)
    return clipped


def band(levels: npt.ArrayLike) -> Ints:
    """Third of an axis that a level lies in: 0 for -4..-2, 1 for -1..1, 2 for 2..4."""
    bands: Ints = (np.asarray(levels, dtype=np.int64) + 4) // 3
    return bands


def va_region(valence: npt.ArrayLike, arousal: npt.ArrayLike) -> Ints:
    """Macro region 0..8 on the 3 x 3 grid: band(valence) + 3 band(arousal) (EMOD, section on sampling).

    Args:
        valence: (...,) in plane units.
        arousal: (...,) in plane units.

    Returns:
        (...,) int64; 0 is low valence and low arousal, 2 high valence and low arousal, 8 both high.
    """
    regions: Ints = band(level(valence)) + 3 * band(level(arousal))
    return regions


def region_centre(region: npt.ArrayLike) -> npt.NDArray[Any]:
    """Centre of a macro region, (..., 2) as (valence, arousal) in plane units: each is -3, 0 or 3."""
    ids = np.asarray(region, dtype=np.int64)
    return np.stack([3.0 * (ids % 3 - 1), 3.0 * (ids // 3 - 1)], axis=-1)
