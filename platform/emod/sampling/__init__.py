"""Which windows make batch k: pure functions of the stored regions, a seed and the step."""

from __future__ import annotations

from emod.sampling.plan import RegionBalancedPlan

__all__ = ["RegionBalancedPlan"]
