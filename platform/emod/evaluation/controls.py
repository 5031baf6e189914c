"""Controls that see no EEG: what the labels alone give away under a split.

A method that does not beat them has shown nothing about the brain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.dummy import DummyClassifier
from sklearn.preprocessing import OneHotEncoder

__all__ = ["CONTROLS", "Control", "clips_of", "control_points", "control_probabilities", "shuffle_labels"]

Control = Literal["majority class", "clip's labels", "participant's labels"]
CONTROLS: tuple[Control, ...] = ("majority class", "clip's labels", "participant's labels")

Codes = npt.NDArray[np.int64]
Names = npt.NDArray[np.object_]


def clips_of(metadata: pa.Table) -> Names:
    """(n_windows,) "corpus/clip" of every window of a table."""
    pairs = zip(metadata["corpus"].to_pylist(), metadata["stimulus"].to_pylist(), strict=True)
    return np.array([f"{corpus}/{clip}" for corpus, clip in pairs], dtype=object)


def control_probabilities(
    control: Control,
    train: Sequence[int] | Codes,
    *,
    n_classes: int,
    clips: tuple[Names, Names],
    subjects: tuple[Names, Names],
) -> npt.NDArray[np.float64]:
    """Probabilities of the classes for each test window, from training labels alone.

    The clip's prior is how often training windows of that clip had each class (Laplace: one window shared by the
    overall prior is added, so that a clip never seen gets the overall prior); the participant's likewise.

    Args:
        control: Which one.
        train: (n,) codes of the training windows.
        n_classes: How many classes there are.
        clips: Clip of each training and of each test window.
        subjects: Subject of each, likewise.

    Returns:
        (m, n_classes), rows sum to 1.
    """
    codes = np.asarray(train, dtype=np.int64)
    prior = np.bincount(codes, minlength=n_classes) / len(codes)
    if control == "majority class":
        dummy = DummyClassifier(strategy="most_frequent").fit(np.zeros((len(codes), 1)), codes)
        answer = int(dummy.predict(np.zeros((1, 1)))[0])
        return np.tile(np.eye(n_classes)[answer], (len(clips[1]), 1))
    known, asked = clips if control == "clip's labels" else subjects
    encoder = OneHotEncoder(handle_unknown="ignore").fit(known[:, None])
    counts = np.asarray(encoder.transform(known[:, None]).T @ np.eye(n_classes)[codes])
    of_name = (counts + prior) / (counts.sum(axis=1, keepdims=True) + 1)
    seen = encoder.transform(asked[:, None])
    unknown = 1 - np.asarray(seen.sum(axis=1))
    return np.asarray(seen @ of_name) + unknown.reshape(-1, 1) * prior


def control_points(
    control: Control,
    train: npt.NDArray[np.float64],
    *,
    clips: tuple[Names, Names],
    subjects: tuple[Names, Names],
) -> npt.NDArray[np.float64]:
    """(m, 2) points for the test windows from training points alone: their mean, or that of the clip or participant.

    As for classes, one window at the overall mean is added to each clip and participant. Arguments as
    `control_probabilities`; ``train`` is (n, 2).
    """
    middle = train.mean(axis=0)
    if control == "majority class":
        return np.tile(middle, (len(clips[1]), 1))
    known, asked = clips if control == "clip's labels" else subjects
    encoder = OneHotEncoder(handle_unknown="ignore").fit(known[:, None])
    members = encoder.transform(known[:, None])
    counts = np.asarray(members.sum(axis=0)).reshape(-1, 1)
    of_name = (np.asarray(members.T @ train) + middle) / (counts + 1)
    seen = encoder.transform(asked[:, None])
    unknown = 1 - np.asarray(seen.sum(axis=1)).reshape(-1, 1)
    points: npt.NDArray[np.float64] = np.asarray(seen @ of_name) + unknown * middle
    return points


def shuffle_labels(codes: Codes, trials: Names, rows: npt.ArrayLike, *, seed: int) -> Codes:
    """Labels for the control that trains on nothing: those of the rows given, dealt out anew to whole trials.

    Trials of one subject keep their set of labels, so a participant's prior survives and a clip's does not; where most
    subjects have a single label, labels are dealt out over the whole corpus.

    Args:
        codes: (n,) of the whole table.
        trials: (n,) "corpus/subject/session/trial".
        rows: Training rows.
        seed: Of the deal.
    """
    dealt = np.array(codes)
    wanted = np.asarray(rows, dtype=np.int64)
    names, first, of_row = np.unique(trials[wanted].astype(str), return_index=True, return_inverse=True)
    labels = codes[wanted][first]
    generator = np.random.default_rng([seed, 0x5EED])
    owners = np.array([name.rsplit("/", 2)[0] for name in names])
    alike = [len(set(labels[owners == owner].tolist())) == 1 for owner in np.unique(owners)]
    if np.mean(alike) > 0.5:
        # Dealt out within people who have one label each, it would be the truth again.
        owners = np.array([name.partition("/")[0] for name in names])
    for owner in np.unique(owners):
        own = np.flatnonzero(owners == owner)
        labels[own] = labels[generator.permutation(own)]
    dealt[wanted] = labels[of_row]
    return dealt
