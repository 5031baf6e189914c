"""Electrode names of the 10-10 system: one spelling each, a fixed order, and positions on the unit sphere.

It knows names and places. It does not know which corpus has which electrodes, and it does not guess: a name that is
not in the list is an error. MNE is imported only when positions are asked for.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ALIASES", "ELECTRODES", "canonical_name", "canonical_names", "positions"]

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


def canonical_name(name: str) -> str:
    """The one spelling of an electrode's name: any case, surrounding blanks, and T3 T4 T5 T6 O9 O10 are accepted.

    Ears A1 A2 and mastoids M1 M2 stay distinct.

    Raises:
        ValueError: If the electrode is unknown; the message names it and the nearest known name.
    """
    found = _BY_UPPER_CASE.get(name.strip().upper())
    if found is None:
        near = difflib.get_close_matches(name.strip().upper(), _BY_UPPER_CASE, n=1, cutoff=0.0)
        raise ValueError(
            f"electrode {name!r} is not a 10-10 name (nearest: {_BY_UPPER_CASE[near[0]]}): "
            "correct the channel list, or leave this channel out"
        )
    return found


def canonical_names(names: Iterable[str]) -> tuple[str, ...]:
    """Canonical names in the order given.

    Raises:
        ValueError: If an electrode is unknown, or if two names mean the same site.
    """
    first_spelling: dict[str, str] = {}
    for name in names:
        canonical = canonical_name(name)
        if canonical in first_spelling:
            raise ValueError(
                f"electrode {canonical} is given twice, as {first_spelling[canonical]!r} and {name!r}: keep one of them"
            )
        first_spelling[canonical] = name
    return tuple(first_spelling)


@functools.cache
def _unit_sphere() -> dict[str, npt.NDArray[np.float64]]:
    from mne.channels import make_standard_montage

    template: dict[str, Any] = make_standard_montage("colin27_1005").get_positions()["ch_pos"]
    sites = {name: np.asarray(template[name], dtype=np.float64) for name in ELECTRODES if name in template}
    # The Neuroscan cap puts CB1 and CB2 on the lowest row, lateral to the inion: half way from PO9 to I1 (PO10 to I2).
    sites["CB1"] = (sites["PO9"] + sites["I1"]) / 2
    sites["CB2"] = (sites["PO10"] + sites["I2"]) / 2
    # Least-squares sphere, |p|^2 = 2 p.c + k, through the scalp sites; ears and mastoids lie off it.
    scalp = np.stack([sites[name] for name in ELECTRODES if name not in {"A1", "A2", "M1", "M2"}])
    solution, *_ = np.linalg.lstsq(np.c_[2 * scalp, np.ones(len(scalp))], (scalp**2).sum(axis=1), rcond=None)
    centred = {name: place - solution[:3] for name, place in sites.items()}
    return {name: place / np.linalg.norm(place) for name, place in centred.items()}


def positions(names: Iterable[str]) -> npt.NDArray[np.float64]:
    """Places of electrodes on the unit sphere.

    They are those of MNE's 10-05 template (Colin27 head), seen from the centre of the sphere that fits them best.
    CB1 and CB2, which the template lacks, are put half way between PO9 and I1, PO10 and I2 (project decision).

    Args:
        names: Electrode names, any accepted spelling.

    Returns:
        (C, 3), unit rows; x points to the right ear, y to the nose, z up.

    Raises:
        ValueError: If an electrode is unknown or given twice.
    """
    sphere = _unit_sphere()
    rows = [sphere[name] for name in canonical_names(names)]
    return np.stack(rows) if rows else np.empty((0, 3))
