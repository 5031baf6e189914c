"""One ICA a recording, as ingest fits it, against one a trial, as the released EMOD code does; both on one recording.

Both must take out the same eyes: what is left of the planted blinks at the frontal electrodes is compared.
"""

from __future__ import annotations

import itertools

import mne
import numpy as np

from emod.catalog import SignalSettings, SimulateSettings
from emod.corpora import READERS
from emod.signal.clean import clean_recording
from emod.simulation import BrainSimulator
from tests.bench.ratio import Figure, seconds


def measure() -> list[Figure]:
    """Cost of the recording's one fit over the cost of 24 fits, and blinks left by each."""
    corpus = READERS["seed_iv"]("nowhere")
    settings = SimulateSettings(subjects=1, sessions=1)
    (plan,) = corpus.plan_recordings(settings)
    pieces = BrainSimulator(settings.brain).record(plan)
    bounds = np.cumsum([0, *(piece.shape[1] for piece in pieces)])
    spans = list(itertools.pairwise(bounds.tolist()))
    eeg_uv = np.concatenate(pieces, axis=1)
    whole = SignalSettings()
    without = SignalSettings.model_validate(whole.model_dump() | {"ica": whole.ica.model_dump() | {"enabled": False}})
    filtered_s = seconds(lambda: clean_recording(eeg_uv, spans, plan.channels, plan.sfreq_hz, without))
    filtered = clean_recording(eeg_uv, spans, plan.channels, plan.sfreq_hz, without)
    kept = {}

    def fit_once() -> None:
        kept["recording"] = clean_recording(eeg_uv, spans, plan.channels, plan.sfreq_hz, whole)

    once_s = seconds(fit_once) - filtered_s
    apart = []
    each_s = seconds(
        lambda: apart.extend(_fit(filtered.eeg_uv[:, a:b], plan.channels, plan.sfreq_hz) for a, b in spans)
    )
    left = {"recording": kept["recording"].eeg_uv, "trial": np.concatenate(apart, axis=1)}
    frontal = [plan.channels.index(name) for name in ("Fp1", "Fp2")]
    blink_uv = {name: float(np.percentile(np.abs(left[name][frontal]), 99.5)) for name in left}
    before_uv = float(np.percentile(np.abs(filtered.eeg_uv[frontal]), 99.5))
    detail = (
        f"one fit {once_s:.1f} s, {len(spans)} fits {each_s:.1f} s; "
        f"99.5 % of |Fp1|, |Fp2| below {before_uv:.0f} uV before, "
        f"after one fit {blink_uv['recording']:.0f}, after {len(spans)} fits {blink_uv['trial']:.0f}"
    )
    return [
        Figure("ICA: one fit / a fit per trial", once_s / each_s, 0.5, False, detail),
        Figure("blinks left: one fit / a fit per trial", blink_uv["recording"] / blink_uv["trial"], 1.1, False, detail),
    ]


def _fit(eeg_uv: np.ndarray, channels: tuple[str, ...], sfreq_hz: float) -> np.ndarray:
    """One trial: fit at its own rate on a copy above 1 Hz, take out what goes with the frontal electrodes."""
    info = mne.create_info([*channels, "vertical"], sfreq_hz, ["eeg"] * len(channels) + ["eog"])
    eye = (eeg_uv[channels.index("Fp1")] + eeg_uv[channels.index("Fp2")]) / 2
    raw = mne.io.RawArray(np.concatenate([eeg_uv, eye[np.newaxis]]) * 1e-6, info, verbose="error")
    ica = mne.preprocessing.ICA(
        n_components=0.999, method="picard", fit_params={"ortho": False, "extended": True}, max_iter=500,
        random_state=0, verbose="error",
    )  # fmt: skip
    ica.fit(raw.copy().filter(1.0, None, verbose="error"), picks="eeg", verbose="error")
    ica.exclude, _ = ica.find_bads_eog(raw, measure="correlation", threshold=0.8, verbose="error")
    cleaned: np.ndarray = ica.apply(raw, verbose="error").get_data(picks="eeg") * 1e6
    return cleaned
