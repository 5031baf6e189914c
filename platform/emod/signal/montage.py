"""Electrode names of the 10-10 system: one spelling each, a fixed order, and positions on the unit sphere.

It knows names and places, those of the finer 10-05 system too. It does not know which corpus has which electrodes, and
it does not guess: a name that is not in the list is an error.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from emod.signal.template import TEMPLATE_MM

__all__ = [
    "ALIASES",
    "ELECTRODES",
    "canonical_name",
    "canonical_names",
    "canonical_site",
    "canonical_sites",
    "nearest_sites",
    "positions",
]

# Row numbers of the learned electrode embedding are indices into this tuple: append, never insert or reorder.
# First the 86 sites of the 10 % rows of the 10-05 system (Oostenveld and Praamstra 2001; all of 10-10 is among them),
# front to back and left to right; then the cerebellar pair of the 62-channel Neuroscan cap; then ears and mastoids.
_ROWS = """
Fp1 Fpz Fp2
AF9 AF7 AF5 AF3 AF1 AFz AF2 AF4 AF6 AF8 AF10
F9 F7 F5 F3 F1 Fz F2 F4 F6 F8 F10
FT9 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 FT10
T9 T7 C5 C3 C1 Cz C2 C4 C6 T8 T10
TP9 TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 TP10
P9 P7 P5 P3 P1 Pz P2 P4 P6 P8 P10
PO9 PO7 PO5 PO3 PO1 POz PO2 PO4 PO6 PO8 PO10
O1 Oz O2
I1 Iz I2
CB1 CB2
A1 A2 M1 M2
"""
ELECTRODES: tuple[str, ...] = tuple(_ROWS.split())

# Older names of the same sites: the 10-20 temporal names, and the inferior occipital pair of some caps.
ALIASES: MappingProxyType[str, str] = MappingProxyType(
    {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8", "O9": "I1", "O10": "I2"}
)

_BY_UPPER_CASE: dict[str, str] = {name.upper(): name for name in ELECTRODES} | {
    old.upper(): new for old, new in ALIASES.items()
}
_SITES_BY_UPPER_CASE: dict[str, str] = {name.upper(): name for name in TEMPLATE_MM} | _BY_UPPER_CASE

# Nearer than this, in radians, two sites count as so far apart: one at the very place would weigh infinitely much.
_SAME_PLACE = 1e-6


def canonical_name(name: str) -> str:
    """The one spelling of an electrode's name: any case, surrounding blanks, and T3 T4 T5 T6 O9 O10 are accepted.

    Ears A1 A2 and mastoids M1 M2 stay distinct.

    Raises:
        ValueError: If the electrode is unknown; the message names it and the nearest known name.
    """
    return _spelled(name, _BY_UPPER_CASE, "10-10")


def canonical_site(name: str) -> str:
    """As `canonical_name`, of any site that has a place: those of the 10-05 system too, such as FCC3h.

    Raises:
        ValueError: If there is no such site; the message names it and the nearest known name.
    """
    return _spelled(name, _SITES_BY_UPPER_CASE, "10-05")


def _spelled(name: str, by_upper_case: Mapping[str, str], system: str) -> str:
    found = by_upper_case.get(name.strip().upper())
    if found is None:
        near = difflib.get_close_matches(name.strip().upper(), by_upper_case, n=1, cutoff=0.0)
        raise ValueError(
            f"electrode {name!r} is not a {system} name (nearest: {by_upper_case[near[0]]}): "
            "correct the channel list, or leave this channel out"
        )
    return found


def canonical_names(names: Iterable[str]) -> tuple[str, ...]:
    """Canonical names in the order given.

    Raises:
        ValueError: If an electrode is unknown, or if two names mean the same site.
    """
    return _distinct(names, _BY_UPPER_CASE, "10-10")


def canonical_sites(names: Iterable[str]) -> tuple[str, ...]:
    """As `canonical_names`, of any sites that have a place."""
    return _distinct(names, _SITES_BY_UPPER_CASE, "10-05")


def _distinct(names: Iterable[str], by_upper_case: Mapping[str, str], system: str) -> tuple[str, ...]:
    first_spelling: dict[str, str] = {}
    for name in names:
        canonical = _spelled(name, by_upper_case, system)
        if canonical in first_spelling:
            raise ValueError(
                f"electrode {canonical} is given twice, as {first_spelling[canonical]!r} and {name!r}: keep one of them"
            )
        first_spelling[canonical] = name
    return tuple(first_spelling)


@functools.cache
def _unit_sphere() -> dict[str, npt.NDArray[np.float64]]:
    sites = {name: np.array(place) / 1000 for name, place in TEMPLATE_MM.items()}
    # The Neuroscan cap puts CB1 and CB2 on the lowest row, lateral to the inion: half way from PO9 to I1 (PO10 to I2).
    sites["CB1"] = (sites["PO9"] + sites["I1"]) / 2
    sites["CB2"] = (sites["PO10"] + sites["I2"]) / 2
    # Least-squares sphere, |p|^2 = 2 p.c + k, through the scalp sites; ears and mastoids lie off it.
    scalp = np.stack([sites[name] for name in ELECTRODES if name not in {"A1", "A2", "M1", "M2"}])
    solution, *_ = np.linalg.lstsq(np.c_[2 * scalp, np.ones(len(scalp))], (scalp**2).sum(axis=1), rcond=None)
    centred = {name: place - solution[:3] for name, place in sites.items()}
    return {name: place / np.linalg.norm(place) for name, place in centred.items()}


def positions(names: Iterable[str]) -> npt.NDArray[np.float64]:
    """Places of sites on the unit sphere.

    They are those of MNE's 10-05 template (Colin27 head), seen from the centre of the sphere that fits them best.
    CB1 and CB2, which the template lacks, are put half way between PO9 and I1, PO10 and I2 (project decision).

    Args:
        names: Electrodes, or other sites of the 10-05 system; any accepted spelling.

    Returns:
        (C, 3), unit rows; x points to the right ear, y to the nose, z up.

    Raises:
        ValueError: If a site is unknown or given twice.
    """
    sphere = _unit_sphere()
    rows = [sphere[name] for name in canonical_sites(names)]
    return np.stack(rows) if rows else np.empty((0, 3))


def nearest_sites(name: str, among: Sequence[str], n_sites: int = 3) -> dict[str, float]:
    """The sites nearest to one on the sphere, and how much each counts: by the inverse of the angle to it.

    Args:
        name: Of the site in question.
        among: Sites to choose from, any accepted spelling; of equally near ones the first counts as nearer.
        n_sites: How many, or all of ``among`` if there are fewer.

    Returns:
        Canonical name -> weight, nearest first, in sum 1.

    Raises:
        ValueError: If a site is unknown, one is given twice, or there is none to choose from.
    """
    sites = canonical_sites(among)
    if not sites:
        raise ValueError(f"electrode {name}: there are no sites to be near to")
    cosines = positions(sites) @ positions([name])[0]
    angles = np.maximum(np.arccos(np.clip(cosines, -1, 1)), _SAME_PLACE)
    order = np.argsort(angles, kind="stable")[:n_sites]
    shares = (1 / angles[order]) / (1 / angles[order]).sum()
    return {sites[site]: float(share) for site, share in zip(order, shares, strict=True)}
