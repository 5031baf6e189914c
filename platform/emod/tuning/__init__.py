"""Ray Tune: sweeps over the settings of fine-tuning. Importing it loads torch, ray.tune and optuna."""

from emod.tuning.sweep import (
    SweepTrial,
    audit_sweep,
    claim_sweep,
    run_sweep,
    sweep_settings,
    trial_experiment,
    trial_overrides,
)

__all__ = [
    "SweepTrial",
    "audit_sweep",
    "claim_sweep",
    "run_sweep",
    "sweep_settings",
    "trial_experiment",
    "trial_overrides",
]
