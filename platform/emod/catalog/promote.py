"""What a model must be to become the one that people use."""

from __future__ import annotations

from pydantic import Field

from emod.catalog.strict import Strict

__all__ = ["PromoteSettings"]


class PromoteSettings(Strict):
    """Limits of the gate before the alias champion, on the test windows of finetune's protocol and first target.

    A first champion must be above each control that sees no EEG, any other above the champion: the lower end of the
    95 % interval of the difference, subject by subject, above ``margin``.
    """

    name: str = Field(default="emod", description="of the registered model")
    margin: float = Field(default=0.0, ge=0, lt=1, description="of balanced accuracy, or of distance on the plane")
    calibration_error: float = Field(
        default=0.25, gt=0, le=1, description="expected calibration error at most; the plane has none"
    )
    latency_ms: float = Field(
        default=1000.0, gt=0, description="99th percentile of one window of the first corpus it learned from, at most"
    )
