"""What a registered model answers to input that it was not made for: refuse the request, or answer and say so.

It is written on the model's card at registration; a request cannot change it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from emod.catalog.strict import Strict

__all__ = ["ServingSettings"]


class ServingSettings(Strict):
    """What a registered model does with a request that is not what it expects; it is written on the model's card.

    To ``refuse`` is one line that names the window or electrode and the cure. To ``flag`` is to answer, and to say so
    in the row's flags. ``suspect_units`` refuses by default: a window is divided by its own scale, so the numbers for
    volts are plausible ones, and whoever does not read flags would never know.
    """

    suspect_units: Literal["refuse", "flag"] = Field(
        default="refuse", description="a window whose scale is not that of EEG in microvolt, such as one in volts"
    )
    not_finite: Literal["refuse", "flag"] = Field(
        default="refuse", description="a window with NaN or infinity; flagged, all its numbers are NaN"
    )
    flat: Literal["refuse", "flag"] = Field(
        default="flag", description="a window of which cleaning leaves nothing; flagged, all its numbers are NaN"
    )
    unknown_electrodes: Literal["refuse", "leave_out"] = Field(
        default="refuse", description="names that are no site it can answer; left out, as if they had not been given"
    )
    untrained_electrodes: Literal["own", "nearest", "leave_out", "refuse"] = Field(
        default="own",
        description="sites that no training corpus had; own: their rows as they were drawn, 10-10 names only; nearest: "
        "a mean of the 3 nearest trained sites, any 10-05 name; leave_out: as if they had not been given",
    )
