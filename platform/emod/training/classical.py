"""The classical line: differential entropy of five bands at each electrode, and a linear model on it.

Differential entropy of a band-limited signal taken as Gaussian is half the logarithm of 2 pi e times its variance
(Duan, Zhu and Lu 2013), here of the band's power in a Welch spectrum. Shapes: n windows, C electrodes.
"""

from __future__ import annotations

import mne
import numpy as np
import numpy.typing as npt
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from emod.catalog import FinetuneSettings
from emod.errors import RequestError
from emod.evaluation import Target, score, score_plane
from emod.shards import WindowPool
from emod.training.finetuner import TrainingRows

__all__ = ["BANDS_HZ", "ClassicalModel", "differential_entropy", "fit_classical"]

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BANDS_HZ = {"delta": (1.0, 4.0), "theta": (4.0, 8.0), "alpha": (8.0, 14.0), "beta": (14.0, 31.0), "gamma": (31.0, 49.0)}
# Inverse strength of regularisation; the validation windows choose.
_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_AT_ONCE = 256


def differential_entropy(windows: npt.NDArray[np.floating], sfreq_hz: float) -> Floats:
    """Of each band at each electrode, in nats.

    Args:
        windows: (n, C, T), at least a second long.
        sfreq_hz: Their rate.

    Returns:
        (n, C * bands that end below half the rate), electrodes outermost.
    """
    n_fft = min(windows.shape[-1], round(2 * sfreq_hz))
    bands = [band for band in BANDS_HZ.values() if band[1] <= sfreq_hz / 2]
    with mne.utils.use_log_level("error"):
        power, frequencies = mne.time_frequency.psd_array_welch(
            np.asarray(windows, dtype=np.float64), sfreq_hz, fmin=1.0, fmax=bands[-1][1], n_fft=n_fft
        )
    step = frequencies[1] - frequencies[0]
    variance = [power[..., (frequencies >= low) & (frequencies < high)].sum(axis=-1) * step for low, high in bands]
    # A dead electrode has no variance, and no logarithm.
    entropy = 0.5 * np.log(2 * np.pi * np.e * np.maximum(np.stack(variance, axis=-1), 1e-12))
    features: Floats = entropy.reshape(len(windows), -1)
    return features


class ClassicalModel:
    """A fitted linear model.

    Attributes:
        validation_score: Kappa or mean concordance of the strength chosen.
    """

    def __init__(self, model: Pipeline, target: Target, validation_score: float) -> None:
        self._model, self._target = model, target
        self.validation_score = validation_score

    def predict(self, pool: WindowPool, rows: Rows) -> npt.NDArray[np.float32]:
        """Probabilities (n, K) of the classes, or points (n, 2), of the windows given, in their order."""
        return _predict(self._model, self._target, features_of(pool, rows))


def fit_classical(pool: WindowPool, settings: FinetuneSettings, target: Target, rows: TrainingRows) -> ClassicalModel:
    """Fits the training windows at each strength; keeps what scores best on the validation windows.

    Raises:
        RequestError: If the windows are of several montages, whose features are not the same.
    """
    if len(pool.corpora) > 1:
        raise RequestError(
            f"finetune.method = {settings.method}: it takes one montage, and {', '.join(pool.corpora)} are to be read; "
            "take method emod, or a protocol within one corpus"
        )
    known, chosen_by = features_of(pool, rows.train), features_of(pool, rows.validation)
    best: ClassicalModel | None = None
    weights = None if settings.class_weights == "none" else "balanced"
    for strength in _STRENGTHS:
        if target.points is not None:
            model = make_pipeline(StandardScaler(), Ridge(alpha=1 / strength)).fit(known, target.points[rows.train])
            found = score_plane(target.points[rows.validation], model.predict(chosen_by)).mean_ccc
        else:
            alone = len(np.unique(target.codes[rows.train])) == 1
            linear = (
                DummyClassifier(strategy="most_frequent")
                if alone
                else LogisticRegression(C=strength, class_weight=weights, max_iter=2000)
            )
            model = make_pipeline(StandardScaler(), linear).fit(known, target.codes[rows.train])
            codes = target.codes[rows.validation]
            found = score(codes, model.predict(chosen_by), target.classes).kappa
        if best is None or found > best.validation_score:
            best = ClassicalModel(model, target, found)
    assert best is not None
    return best


def features_of(pool: WindowPool, rows: Rows) -> Floats:
    """(n, features) of the rows given, in their order."""
    parts = []
    for first in range(0, len(rows), _AT_ONCE):
        for _, windows, _, sfreq_hz in pool.read(rows[first : first + _AT_ONCE]):
            parts.append(differential_entropy(windows, sfreq_hz))
    return np.concatenate(parts)


def _predict(model: Pipeline, target: Target, features: Floats) -> npt.NDArray[np.float32]:
    if target.points is not None:
        return np.asarray(model.predict(features), dtype=np.float32)
    # A class without a training window is never predicted.
    found = np.zeros((len(features), len(target.classes)), dtype=np.float32)
    found[:, model.classes_] = model.predict_proba(features)
    return found
