"""One recording in, clean windows out: electrode names, quality, filter, ICA, reference, windows.

Importing this room loads neither MNE nor torch: ``emod.signal.clean``, ``emod.signal.quality`` and
``emod.signal.serving`` are imported by name.
"""

from __future__ import annotations

from emod.signal.montage import (
    ALIASES,
    ELECTRODES,
    canonical_name,
    canonical_names,
    canonical_site,
    canonical_sites,
    nearest_sites,
    positions,
)
from emod.signal.window import FLAT_SCALE_UV, MAD_TO_SD, normalise, robust_scale_uv, window_length, window_starts

__all__ = [
    "ALIASES",
    "ELECTRODES",
    "FLAT_SCALE_UV",
    "MAD_TO_SD",
    "canonical_name",
    "canonical_names",
    "canonical_site",
    "canonical_sites",
    "nearest_sites",
    "normalise",
    "positions",
    "robust_scale_uv",
    "window_length",
    "window_starts",
]
