"""What a registered model is made of: a folder of weights and a card, and the object that predicts from it.

It needs torch, scipy, numpy and pandas, neither MNE nor Ray, and knows nothing of MLflow's calling conventions.
Shapes: B windows, C electrodes, T samples, D width, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

import emod
from emod.catalog.signal import SignalSettings
from emod.catalog.strict import Strict
from emod.errors import DataError
from emod.model import Emod, EmodClassifier, PlaneHead, load_weights, read_config, save_weights
from emod.signal.montage import canonical_names
from emod.signal.serving import clean_windows, normalise_windows
from emod.signal.window import FLAT_SCALE_UV

__all__ = ["ModelCard", "Servable", "TrainedCorpus", "TrainedOn", "load_servable", "save_servable"]

CARD = "card.json"

# Robust scale of cleaned scalp EEG in microvolt. Volts or millivolts taken for microvolts fall below, nanovolts above
# (project decision).
PLAUSIBLE_SCALE_UV = (0.5, 500.0)

# Bounds memory: attention over 62 electrodes x 50 tokens of so many windows takes some 100 MB a layer.
WINDOWS_AT_ONCE = 32


class TrainedCorpus(Strict):
    """What of one corpus the model has seen."""

    channels: tuple[str, ...]
    sfreq_hz: float
    licence: str
    subjects: tuple[str, ...] = ()  # empty: not known


class TrainedOn(Strict):
    """Where the weights come from."""

    manifest: str
    simulated: bool
    corpora: dict[str, TrainedCorpus] = Field(min_length=1)


class ModelCard(Strict):
    """Everything but the weights that a prediction depends on, and where the weights come from."""

    emod_version: str = emod.__version__
    settings: SignalSettings
    classes: tuple[str, ...] = ()
    plane: bool
    trained_on: TrainedOn


def save_servable(
    directory: Path,
    model: Emod | EmodClassifier,
    plane: PlaneHead | None,
    *,
    classes: Sequence[str] | None,
    settings: SignalSettings,
    trained_on: TrainedOn,
) -> ModelCard:
    """Write weights (safetensors) and card (JSON) into a folder; nothing is pickled.

    Args:
        directory: Made if need be.
        model: A backbone, or the whole fine-tuned classifier.
        plane: Fitted on the embeddings of this very backbone.
        classes: K names in the order of the classifier's outputs; None or empty for a bare backbone.
        settings: Of the ingest that made the training windows.
        trained_on: Goes onto the card.

    Raises:
        ValueError: If the names are not one per output of the classifier.
    """
    names = tuple(classes or ())
    backbone = model.backbone if isinstance(model, EmodClassifier) else model
    n_outputs = _count_classes(model) if isinstance(model, EmodClassifier) else 0
    if len(names) != n_outputs or len(set(names)) != n_outputs:
        raise ValueError(f"classes = {list(names)} for {n_outputs} outputs: give one distinct name per output")
    card = ModelCard(settings=settings, classes=names, plane=plane is not None, trained_on=trained_on)
    save_weights(directory, _bundle(model, plane), backbone.config)
    (directory / CARD).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return card


def load_servable(directory: Path) -> Servable:
    """Rebuild what ``save_servable`` wrote, on the CPU.

    Raises:
        DataError: If a file is missing, damaged, or does not fit the others.
    """
    path = directory / CARD
    try:
        card = ModelCard.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; name a folder written by save_servable") from None
    except (ValidationError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a model card ({_first_problem(error)}); register the model again") from None
    backbone = Emod(read_config(directory))
    model = EmodClassifier(backbone, len(card.classes)) if card.classes else backbone
    plane = PlaneHead(backbone.config.width) if card.plane else None
    bundle = _bundle(model, plane)
    load_weights(directory, bundle)
    bundle.eval()
    return Servable(model, plane, card)


class Servable:
    """Windows in, one row of answers per window out. Made by ``load_servable``."""

    def __init__(self, model: Emod | EmodClassifier, plane: PlaneHead | None, card: ModelCard) -> None:
        self.card = card
        self.backbone = model.backbone if isinstance(model, EmodClassifier) else model
        self._head = model.head if isinstance(model, EmodClassifier) else None
        self._plane = plane
        self._trained_electrodes = {
            name for corpus in card.trained_on.corpora.values() for name in canonical_names(corpus.channels)
        }
        self._trained_hz = {corpus.sfreq_hz for corpus in card.trained_on.corpora.values()}

    def predict(
        self, signal_uv: npt.NDArray[np.floating[Any]], channels: Sequence[str], *, sfreq_hz: float, cleaned: bool
    ) -> pd.DataFrame:
        """Answer for each window.

        Args:
            signal_uv: (B, C, T), microvolt.
            channels: C electrode names, any case, old names included.
            sfreq_hz: Sampling rate of ``signal_uv``.
            cleaned: False: it is band-passed and re-referenced as at ingest (ICA left out), then normalised. True: it
                is only normalised.

        Returns:
            B rows: ``valence`` and ``arousal`` in plane units (NaN without a plane head), ``p_<class>`` for each class,
            ``embedding`` (list of D floats), ``flags`` (words joined by commas, "" if there is none):
            no_plane_head; untrained_electrodes, untrained_rate: not in any corpus it was trained on; clipped: a sample
            beyond the clip; units_suspect: the scale is not that of EEG in microvolt; flat: cleaning leaves nothing of
            it (constant, or the same on all electrodes), so every number of this row is NaN.

        Raises:
            ValueError: One line with the value and the cure, if the input cannot be used.
        """
        signal_uv = np.asarray(signal_uv)
        names = self._checked(signal_uv, channels, sfreq_hz, cleaned)
        parts = [
            self._predict_part(
                torch.from_numpy(np.array(signal_uv[start : start + WINDOWS_AT_ONCE])), names, sfreq_hz, cleaned
            )
            for start in range(0, len(signal_uv), WINDOWS_AT_ONCE)
        ]
        return pd.concat(parts, ignore_index=True)

    @torch.inference_mode()
    def _predict_part(
        self, signal_uv: Tensor, channels: tuple[str, ...], sfreq_hz: float, cleaned: bool
    ) -> pd.DataFrame:
        settings = self.card.settings
        cleaned_uv = signal_uv if cleaned else clean_windows(signal_uv, sfreq_hz, settings)
        windows, scale_uv = normalise_windows(cleaned_uv, settings.clip)
        flat = scale_uv < FLAT_SCALE_UV
        embedding = self.backbone.embed(windows, channels, sfreq_hz)
        columns: dict[str, Tensor] = {}
        plane = self._plane(embedding) if self._plane is not None else embedding.new_full((len(windows), 2), math.nan)
        columns["valence"], columns["arousal"] = plane.unbind(dim=1)
        if self._head is not None:
            probabilities = self._head(embedding).softmax(dim=1).unbind(dim=1)
            columns |= {f"p_{name}": column for name, column in zip(self.card.classes, probabilities, strict=True)}
        frame = pd.DataFrame(
            {name: column.masked_fill(flat, math.nan).double().numpy() for name, column in columns.items()}
        )
        frame["embedding"] = embedding.masked_fill(flat[:, None], math.nan).double().tolist()

        low, high = PLAUSIBLE_SCALE_UV
        everywhere = torch.ones_like(flat)
        marks = {
            "no_plane_head": everywhere & (self._plane is None),
            "untrained_electrodes": everywhere & (not self._trained_electrodes.issuperset(channels)),
            "untrained_rate": everywhere & (sfreq_hz not in self._trained_hz),
            "clipped": (windows.abs() >= settings.clip).flatten(start_dim=1).any(dim=1),
            "units_suspect": ~flat & ((scale_uv < low) | (scale_uv > high)),
            "flat": flat,
        }
        frame["flags"] = [
            ",".join(word for word, marked in marks.items() if marked[row]) for row in range(len(windows))
        ]
        return frame

    def _checked(
        self, signal_uv: npt.NDArray[np.floating[Any]], channels: Sequence[str], sfreq_hz: float, cleaned: bool
    ) -> tuple[str, ...]:
        if signal_uv.ndim != 3 or signal_uv.size == 0 or signal_uv.dtype.kind not in "fiu":
            raise ValueError(
                f"signal is {signal_uv.dtype} of shape {signal_uv.shape}: give numbers of shape "
                "(windows, electrodes, samples), none of them 0"
            )
        if len(channels) != signal_uv.shape[1]:
            raise ValueError(
                f"channels holds {len(channels)} names, signal {signal_uv.shape[1]} electrodes: give one name for each"
            )
        names = canonical_names([str(name) for name in channels])
        if not (math.isfinite(sfreq_hz) and sfreq_hz > 0):
            raise ValueError(f"sfreq_hz = {sfreq_hz:g}: give the sampling rate of signal in Hz as a parameter")
        if not np.isfinite(signal_uv).all():
            window, electrode, _ = np.argwhere(~np.isfinite(signal_uv))[0]
            raise ValueError(
                f"signal holds a value that is not finite in window {window}, electrode {names[electrode]}: "
                "leave that window out"
            )
        if not cleaned and self.card.settings.reference == "average" and len(names) == 1:
            raise ValueError("signal has 1 electrode, whose average reference is 0: give more, or pass cleaned = true")
        return names


def _bundle(model: Emod | EmodClassifier, plane: PlaneHead | None) -> nn.ModuleDict:
    """The modules under the names their tensors have on disk."""
    return nn.ModuleDict({"model": model} | ({} if plane is None else {"plane": plane}))


def _count_classes(model: EmodClassifier) -> int:
    linear = model.head[-1]
    assert isinstance(linear, nn.Linear)
    return linear.out_features


def _first_problem(error: ValidationError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not text"
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'JSON'}: {first['msg']}"
