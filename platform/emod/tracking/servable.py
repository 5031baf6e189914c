"""What a registered model is made of: a folder of weights and a card, and the object that predicts from it.

It needs torch, scipy, numpy and pandas, neither MNE nor Ray, and knows nothing of MLflow's calling conventions.
Shapes: B windows, C electrodes, T samples, D width, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

import emod
from emod.catalog.serving import ServingSettings
from emod.catalog.signal import SignalSettings
from emod.catalog.strict import Strict
from emod.errors import DataError, RequestError
from emod.model import Emod, EmodClassifier, PlaneHead, load_weights, read_config, save_weights
from emod.model.electrodes import Electrode
from emod.signal.montage import ELECTRODES, canonical_name, canonical_names, canonical_site, nearest_sites
from emod.signal.serving import clean_windows, normalise_windows
from emod.signal.window import FLAT_SCALE_UV

__all__ = ["ModelCard", "Servable", "TrainedCorpus", "TrainedOn", "load_servable", "save_servable"]

CARD = "card.json"

# Robust scale of cleaned scalp EEG in microvolt. Volts or millivolts taken for microvolts fall below, nanovolts above
# (project decision).
PLAUSIBLE_SCALE_UV = (0.5, 500.0)

# A token is a fifth of a second.
LOWEST_HZ = 5.0

# Bounds memory: attention over 62 electrodes x 50 tokens of so many windows takes some 100 MB a layer.
WINDOWS_AT_ONCE = 32


class TrainedCorpus(Strict):
    """What of one corpus the model has seen."""

    channels: tuple[str, ...]
    sfreq_hz: float
    licence: str
    citation: str = ""  # of versions that an older emod registered
    subjects: tuple[str, ...] = ()  # empty: not known


class TrainedOn(Strict):
    """Where the weights come from: windows of ``manifest``, and of the backbone's where that learned from others."""

    manifest: str
    simulated: bool
    corpora: dict[str, TrainedCorpus] = Field(min_length=1)
    backbone_manifest: str = ""


class ModelCard(Strict):
    """Everything but the weights that a prediction depends on, and where the weights come from."""

    emod_version: str = emod.__version__
    settings: SignalSettings
    serving: ServingSettings = Field(default_factory=ServingSettings)
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
    serving: ServingSettings | None = None,
) -> ModelCard:
    """Write weights (safetensors) and card (JSON) into a folder; nothing is pickled.

    Args:
        directory: Made if need be.
        model: A backbone, or the whole fine-tuned classifier.
        plane: Fitted on the embeddings of this very backbone.
        classes: K names in the order of the classifier's outputs; None or empty for a bare backbone.
        settings: Of the ingest that made the training windows.
        trained_on: Goes onto the card.
        serving: Goes onto the card; None: the defaults.

    Raises:
        ValueError: If the names are not one per output of the classifier.
    """
    names = tuple(classes or ())
    backbone = model.backbone if isinstance(model, EmodClassifier) else model
    n_outputs = _count_classes(model) if isinstance(model, EmodClassifier) else 0
    if len(names) != n_outputs or len(set(names)) != n_outputs:
        raise ValueError(f"classes = {list(names)} for {n_outputs} outputs: give one distinct name per output")
    card = ModelCard(
        settings=settings,
        serving=serving or ServingSettings(),
        classes=names,
        plane=plane is not None,
        trained_on=trained_on,
    )
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


@dataclass(frozen=True)
class _Placed:
    """Which of the electrodes given are answered, and with what.

    Attributes:
        kept: Their numbers among those given, rising.
        names: What they are called, canonical.
        electrodes: What the network gets for them.
        words: Flags that say what was done, the same for every window.
    """

    kept: list[int]
    names: tuple[str, ...]
    electrodes: tuple[Electrode, ...]
    words: tuple[str, ...]


class Servable:
    """Windows in, one row of answers per window out. Made by ``load_servable``."""

    def __init__(self, model: Emod | EmodClassifier, plane: PlaneHead | None, card: ModelCard) -> None:
        self.card = card
        self.backbone = model.backbone if isinstance(model, EmodClassifier) else model
        self._head = model.head if isinstance(model, EmodClassifier) else None
        self._plane = plane
        trained = {name for corpus in card.trained_on.corpora.values() for name in canonical_names(corpus.channels)}
        self._trained_electrodes = tuple(name for name in ELECTRODES if name in trained)
        self._trained_hz = {corpus.sfreq_hz for corpus in card.trained_on.corpora.values()}

    def to(self, device: torch.device) -> Servable:
        """Itself, for `answer` on that device; `predict` takes the CPU."""
        for part in (self.backbone, self._head, self._plane):
            if part is not None:
                part.to(device)
        return self

    def predict(
        self, signal_uv: npt.NDArray[np.floating[Any]], channels: Sequence[str], *, sfreq_hz: float, cleaned: bool
    ) -> pd.DataFrame:
        """Answer for each window.

        Args:
            signal_uv: (B, C, T), microvolt, a second or more.
            channels: C electrode names in any order and case, old names included.
            sfreq_hz: Sampling rate of ``signal_uv``.
            cleaned: False: it is band-passed and re-referenced as at ingest (ICA left out), then normalised. True: it
                is only normalised.

        Returns:
            B rows: ``valence`` and ``arousal`` in plane units (NaN without a plane head), ``p_<class>`` for each class,
            ``embedding`` (list of D floats), ``flags`` (words joined by commas, "" if there is none):
            no_plane_head; untrained_electrodes, untrained_rate: not in any corpus it was trained on;
            nearest_sites=AF7+Fpz: these were answered with the rows of the trained sites nearest to them; left_out=EKG:
            answered as if it had not been given (names as in a URL, joined by plus signs); clipped: a sample beyond
            the clip; units_suspect: the scale is not that of EEG in microvolt; flat_electrodes=F4+O1: these move by
            less than ingest's ``quality.flat_uv`` and were answered as if they were EEG; flat: cleaning leaves nothing
            of it (constant, or the same on all electrodes), not_finite: it holds NaN or infinity: every number of
            either is NaN. Which of these are refused instead, the card's ``serving`` says.

        Raises:
            ValueError: One line with the value and the cure, if the input cannot be used.
        """
        signal_uv = np.asarray(signal_uv)
        placed = self._checked(signal_uv, channels, sfreq_hz, cleaned)
        parts = [
            self._predict_part(signal_uv, start, placed, sfreq_hz, cleaned)
            for start in range(0, len(signal_uv), WINDOWS_AT_ONCE)
        ]
        return parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)

    @torch.inference_mode()
    def _predict_part(
        self, signal_uv: npt.NDArray[Any], start: int, placed: _Placed, sfreq_hz: float, cleaned: bool
    ) -> pd.DataFrame:
        """Answers of the windows from number ``start`` on."""
        settings, serving = self.card.settings, self.card.serving
        part_uv = signal_uv[start : start + WINDOWS_AT_ONCE]
        # A copy either way: whose array it is must not change under the caller, nor be a view that torch cannot take.
        wide = np.float64 if part_uv.dtype.itemsize > 4 else np.float32
        part_uv = np.array(part_uv if len(placed.kept) == part_uv.shape[1] else part_uv[:, placed.kept], dtype=wide)
        broken = ~np.isfinite(part_uv).all(axis=(1, 2))
        if broken.any():
            if serving.not_finite == "refuse":
                window, electrode, _ = np.argwhere(~np.isfinite(part_uv))[0]
                raise ValueError(
                    f"signal holds a value that is not finite in window {start + window}, electrode "
                    f"{placed.names[electrode]}: leave that window out"
                )
            part_uv[broken] = 0
        still = np.ptp(part_uv, axis=2) < settings.quality.flat_uv
        windows_uv = torch.from_numpy(part_uv)
        cleaned_uv = windows_uv if cleaned else clean_windows(windows_uv, sfreq_hz, settings)
        windows, scale_uv = normalise_windows(cleaned_uv, settings.clip)
        not_finite = torch.from_numpy(broken)
        flat = ~not_finite & (scale_uv < FLAT_SCALE_UV)
        if serving.flat == "refuse" and flat.any():
            raise ValueError(
                f"window {start + _first(flat)} is flat, or the same on all electrodes: leave that window out"
            )
        suspect = ~not_finite & _units_suspect(scale_uv)
        if serving.suspect_units == "refuse" and suspect.any():
            low, high = PLAUSIBLE_SCALE_UV
            window = _first(suspect)
            raise ValueError(
                f"window {start + window} has a robust scale of {scale_uv[window]:.3g} microvolt, EEG has {low:g} to "
                f"{high:g}: give microvolts, or leave that window out"
            )
        dead = [
            f"flat_electrodes={_listed(np.array(placed.names)[row].tolist())}" if row.any() and not row.all() else ""
            for row in still
        ]
        return self._answer(windows, scale_uv, placed, sfreq_hz, not_finite, dead)

    @torch.inference_mode()
    def answer(self, windows: Tensor, scale_uv: Tensor, channels: Sequence[str], sfreq_hz: float) -> pd.DataFrame:
        """As `predict`, for windows that are normalised already, such as those of a store.

        Of the card's ``serving`` it heeds what is about electrodes. The windows themselves are those that somebody let
        pass, so they are flagged and none is refused.

        Args:
            windows: (B, C, T) float32 within the clip, on the device of the weights.
            scale_uv: (B,) what they were divided by, microvolt, on the CPU.
            channels: C canonical names.
            sfreq_hz: Their sampling rate.

        Raises:
            RequestError: If an electrode is refused.
        """
        placed = self._place(channels)
        windows = windows if len(placed.kept) == windows.shape[1] else windows[:, placed.kept]
        none = torch.zeros_like(scale_uv, dtype=torch.bool)
        return self._answer(windows, scale_uv, placed, sfreq_hz, none, [""] * len(windows))

    def _answer(
        self,
        windows: Tensor,
        scale_uv: Tensor,
        placed: _Placed,
        sfreq_hz: float,
        not_finite: Tensor,
        dead: Sequence[str],
    ) -> pd.DataFrame:
        flat = scale_uv < FLAT_SCALE_UV
        embedding = self.backbone.embed(windows, placed.electrodes, sfreq_hz)
        columns: dict[str, Tensor] = {}
        plane = self._plane(embedding) if self._plane is not None else embedding.new_full((len(windows), 2), math.nan)
        columns["valence"], columns["arousal"] = plane.unbind(dim=1)
        if self._head is not None:
            probabilities = self._head(embedding).softmax(dim=1).unbind(dim=1)
            columns |= {f"p_{name}": column for name, column in zip(self.card.classes, probabilities, strict=True)}
        frame = pd.DataFrame(
            {name: column.cpu().masked_fill(flat, math.nan).double().numpy() for name, column in columns.items()}
        )
        frame["embedding"] = embedding.cpu().masked_fill(flat[:, None], math.nan).double().tolist()

        of_all = [
            *(["no_plane_head"] if self._plane is None else []),
            *placed.words,
            *(["untrained_rate"] if sfreq_hz not in self._trained_hz else []),
        ]
        marks = {
            "clipped": (windows.abs().amax(dim=(1, 2)) >= self.card.settings.clip).tolist(),
            "units_suspect": (~not_finite & _units_suspect(scale_uv)).tolist(),
            "flat": (flat & ~not_finite).tolist(),
            "not_finite": not_finite.tolist(),
        }
        frame["flags"] = [
            ",".join(filter(None, [*of_all, dead[row], *(word for word, marked in marks.items() if marked[row])]))
            for row in range(len(windows))
        ]
        return frame

    def _place(self, channels: Sequence[str]) -> _Placed:
        """Names as people write them -> what the network gets for them, as the card's ``serving`` says.

        Raises:
            RequestError: If an electrode is refused, one is given twice, or none is left.
        """
        serving = self.card.serving
        # A site without a row can only be answered from others.
        spelled = canonical_name if serving.untrained_electrodes == "own" else canonical_site
        kept: dict[str, int] = {}
        electrodes: list[Electrode] = []
        left_out, own, nearest = [], [], []
        for number, given in enumerate(channels):
            try:
                name = spelled(given)
            except ValueError as error:
                if serving.unknown_electrodes == "refuse":
                    raise RequestError(str(error)) from None
                left_out.append(given)
                continue
            if name in kept:
                raise RequestError(
                    f"electrode {name} is given twice, as {channels[kept[name]]!r} and {given!r}: keep one of them"
                )
            electrode: Electrode = name
            if name not in self._trained_electrodes:
                if serving.untrained_electrodes == "refuse":
                    raise RequestError(
                        f"electrode {given!r} is in no corpus that the model was trained on: leave this channel out"
                    )
                if serving.untrained_electrodes == "leave_out":
                    left_out.append(given)
                    continue
                if serving.untrained_electrodes == "nearest":
                    electrode = nearest_sites(name, self._trained_electrodes)
                    nearest.append(name)
                else:
                    own.append(name)
            kept[name] = number
            electrodes.append(electrode)
        if not kept:
            raise RequestError(
                f"channels {list(channels)}: the model answers none of these electrodes; it was trained on "
                f"{', '.join(self._trained_electrodes)}"
            )
        words = [
            *(["untrained_electrodes"] if own else []),
            *([f"nearest_sites={_listed(nearest)}"] if nearest else []),
            *([f"left_out={_listed(left_out)}"] if left_out else []),
        ]
        return _Placed(list(kept.values()), tuple(kept), tuple(electrodes), tuple(words))

    def _checked(
        self, signal_uv: npt.NDArray[np.floating[Any]], channels: Sequence[str], sfreq_hz: float, cleaned: bool
    ) -> _Placed:
        if signal_uv.ndim == 3 and len(signal_uv) == 0:
            raise ValueError("signal holds 0 windows: give at least one")
        if signal_uv.ndim != 3 or signal_uv.size == 0 or signal_uv.dtype.kind not in "fiu":
            raise ValueError(
                f"signal is {signal_uv.dtype} of shape {signal_uv.shape}: give numbers of shape "
                "(windows, electrodes, samples), none of them 0"
            )
        if len(channels) != signal_uv.shape[1]:
            raise ValueError(
                f"channels holds {len(channels)} names, signal {signal_uv.shape[1]} electrodes: give one name for each"
            )
        if not (math.isfinite(sfreq_hz) and sfreq_hz > 0):
            raise ValueError(f"sfreq_hz = {sfreq_hz:g}: give the sampling rate of signal in Hz as a parameter")
        if sfreq_hz < LOWEST_HZ:
            raise ValueError(
                f"sfreq_hz = {sfreq_hz:g}: the model's step of a fifth of a second holds no sample; give Hz, not kHz"
            )
        # To the nearest sample: a second at 99.7 Hz may have 99 or 100 of them.
        if signal_uv.shape[2] <= sfreq_hz - 1:
            raise ValueError(
                f"signal has {signal_uv.shape[2]} samples at {sfreq_hz:g} Hz, {signal_uv.shape[2] / sfreq_hz:.3g} s: "
                "give windows of 1 s or longer"
            )
        placed = self._place([str(name) for name in channels])
        if not cleaned and self.card.settings.reference == "average" and len(placed.kept) == 1:
            raise ValueError("signal has 1 electrode, whose average reference is 0: give more, or pass cleaned = true")
        return placed


def _units_suspect(scale_uv: Tensor) -> Tensor:
    """(B,) whether a window that is not flat has a scale that EEG in microvolt does not have."""
    low, high = PLAUSIBLE_SCALE_UV
    return (scale_uv >= FLAT_SCALE_UV) & ((scale_uv < low) | (scale_uv > high))


def _first(marked: Tensor) -> int:
    return int(marked.nonzero()[0])


def _listed(names: Sequence[str]) -> str:
    """Names in one word of the flags, whatever characters they hold."""
    return "+".join(quote(name, safe=" ") for name in names)


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
