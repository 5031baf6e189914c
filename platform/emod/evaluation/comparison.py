"""Arms of a study compared over seeds: mean, spread, and the paired difference from the first arm.

Seeds are the unit: each draws other weights and batches and splits the same subjects anew, all arms alike. An interval
says how far seeds go apart; splits of one set of subjects overlap, so it is no interval over people and too narrow for
one (Nadeau and Bengio 2003). It is of one comparison: of many, some come out by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = ["ArmScore", "compare_arms"]


@dataclass(frozen=True)
class ArmScore:
    """One arm under one effect.

    Attributes:
        arm: Its name.
        values: A score for each seed.
        mean: Of the values.
        sd: Of the values, with n - 1; NaN for a single seed.
        difference: Mean of this arm's values less the first arm's, seed by seed; None for the first arm itself.
        low: Lower end of the 95 % t interval of the difference; NaN for a single seed, None for the first arm.
        high: Upper end, likewise.
    """

    arm: str
    values: tuple[float, ...]
    mean: float
    sd: float
    difference: float | None = None
    low: float | None = None
    high: float | None = None


def compare_arms(values: Mapping[str, Sequence[float]]) -> list[ArmScore]:
    """Scores of each arm, in the order given; the first is what the others are held against.

    Args:
        values: arm -> a score for each seed, in the same order of seeds.

    Raises:
        ValueError: If arms have different numbers of seeds, or none.
    """
    if len({len(found) for found in values.values()}) != 1 or not all(values.values()):
        raise ValueError(f"arms have {[len(found) for found in values.values()]} scores: give one for each seed")
    first = next(iter(values))
    rows = []
    for arm, found in values.items():
        several = len(found) > 1
        row = ArmScore(arm, tuple(found), float(np.mean(found)), float(np.std(found, ddof=1)) if several else np.nan)
        if arm != first:
            differences = np.subtract(found, values[first])
            low = high = np.nan
            if several:
                # Equal differences have no spread, which SciPy warns of and answers with NaN.
                error = float(stats.sem(differences))
                half = float(stats.t.ppf(0.975, len(differences) - 1)) * error
                low, high = float(differences.mean()) - half, float(differences.mean()) + half
            row = ArmScore(arm, row.values, row.mean, row.sd, float(differences.mean()), low, high)
        rows.append(row)
    return rows
