"""The loop a laboratory would write around MNE for SEED-IV's files, with the stages that ingest runs, and nothing else.

It imports nothing of the platform. Run as a script it cleans the files it is given and writes their windows.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mne
import numpy as np
import numpy.typing as npt
import scipy.io

NAMES = """
Fp1 Fpz Fp2 AF3 AF4 F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 T7 C5 C3 C1 Cz C2 C4 C6 T8
TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO5 PO3 POz PO4 PO6 PO8 CB1 O1 Oz O2 CB2
"""
CHANNELS = NAMES.split()
SFREQ_HZ = 200.0
FIT_STEP = 2
FIT_SAMPLES = 10 * 60 * 100
WINDOW = 2000


def clean(path: Path) -> npt.NDArray[np.float16]:
    """(windows, electrodes, samples) of one file: band-pass, average reference, ICA, windows, robust scale."""
    stored = scipy.io.loadmat(path)
    names = sorted((name for name in stored if "_eeg" in name), key=lambda name: int(name.partition("_eeg")[2]))
    trials = []
    for name in names:
        eeg_uv = stored.pop(name).astype(np.float64)
        eeg_uv -= eeg_uv.mean(axis=1, keepdims=True)
        trials.append(mne.filter.filter_data(eeg_uv, SFREQ_HZ, 0.3, 49.0, h_trans_bandwidth=1.0, verbose="error"))
    for trial in trials:
        trial -= trial.mean(axis=0)

    info = mne.create_info([*CHANNELS, "vertical", "horizontal"], SFREQ_HZ / FIT_STEP, ["eeg"] * 62 + ["eog"] * 2)
    top = {"h_freq": 45.0, "h_trans_bandwidth": 5.0}
    parts = [mne.filter.filter_data(trial, SFREQ_HZ, 1.0, verbose="error", **top)[:, ::FIT_STEP] for trial in trials]
    low_rate = np.concatenate(parts, axis=1) * 1e-6
    row = CHANNELS.index
    eyes = [low_rate[row("Fp1")] + low_rate[row("Fp2")], low_rate[row("F7")] - low_rate[row("F8")]]
    raw = mne.io.RawArray(np.concatenate([low_rate, np.array(eyes) / 2]), info, verbose="error")
    template = mne.channels.make_standard_montage("standard_1005", head_size=0.095).get_positions()["ch_pos"]
    sites = {name: template[name] for name in CHANNELS if not name.startswith("CB")}
    sites |= {"CB1": (template["PO9"] + template["I1"]) / 2, "CB2": (template["PO10"] + template["I2"]) / 2}
    raw.set_montage(mne.channels.make_dig_montage(sites, coord_frame="head"), verbose="error")
    ica = mne.preprocessing.ICA(
        n_components=0.999,
        method="picard",
        fit_params={"ortho": False, "extended": True},
        max_iter=500,
        random_state=0,
        verbose="error",
    )
    ica.fit(raw, picks="eeg", decim=max(1, -(-raw.n_times // FIT_SAMPLES)), verbose="error")
    ocular, _ = ica.find_bads_eog(raw, measure="correlation", threshold=0.8, verbose="error")
    muscle, _ = ica.find_bads_muscle(raw, threshold=0.5, h_freq=45.0, sphere=0.095, verbose="error")
    ica.exclude = sorted({*ocular, *muscle})

    windows = []
    for trial in trials:
        whole = mne.io.RawArray(trial * 1e-6, mne.create_info(CHANNELS, SFREQ_HZ, "eeg"), verbose="error")
        cleaned_uv = ica.apply(whole, verbose="error").get_data() * 1e6
        for start in range(0, cleaned_uv.shape[1] - WINDOW + 1, WINDOW):
            window = cleaned_uv[:, start : start + WINDOW]
            scale = 1.4826 * np.median(np.abs(window - np.median(window)))
            windows.append((window / scale).clip(-20, 20).astype(np.float16))
    return np.stack(windows)


if __name__ == "__main__":
    folder, *files = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        np.save(folder / f"{file.parent.name}-{file.stem}.npy", clean(file))
