"""What fine-tuning trains: this project's network on a backbone, or a rival of the field from braindecode.

Rivals learn from the same windows, from nothing or from weights that the user has, and are built for one montage and
one length.
Shapes: B windows, C electrodes, T samples, K outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import mne
import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from emod import storage
from emod.catalog import FinetuneSettings
from emod.errors import RequestError
from emod.evaluation import Target
from emod.model import Emod, EmodClassifier
from emod.shards import WindowPool

__all__ = [
    "RIVALS",
    "Rival",
    "count_outputs",
    "new_classifier",
    "new_network",
    "outputs_of",
    "parameter_groups",
    "read_weights",
]

# method -> its class in braindecode.models.
RIVALS = {
    "eegnet": "EEGNet",
    "eegconformer": "EEGConformer",
    "contrawr": "ContraWR",
    "tsception": "TSception",
    "biot": "BIOT",
    "labram": "Labram",
    "cbramod": "CBraMod",
}
# Their patches are seconds at 200 Hz; BIOT's spectrogram was made for that rate too.
_AT_200_HZ = frozenset({"biot", "labram", "cbramod"})
_PATCH = 200
_WEIGHTS_BYTES = 2**32


class Rival(nn.Module):
    """A network of braindecode behind the same call as `EmodClassifier`.

    Args:
        method: A key of RIVALS.
        channels: Canonical electrode names.
        sfreq_hz: Of the windows.
        n_samples: T of the windows.
        n_outputs: K.
        weights: Where it starts, as ``finetune.rival_weights``; None for fresh weights.

    Raises:
        RequestError: If braindecode is not installed, the network cannot take such windows, or the weights are those
            of another.
    """

    def __init__(
        self,
        method: str,
        channels: Sequence[str],
        sfreq_hz: float,
        n_samples: int,
        n_outputs: int,
        *,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self._montage = (tuple(channels), sfreq_hz)
        self._rates = (round(sfreq_hz), 200) if method in _AT_200_HZ else None
        rate_hz = 200.0 if self._rates else sfreq_hz
        n_times = round(n_samples * rate_hz / sfreq_hz)
        if method in {"labram", "cbramod"} and n_times % _PATCH:
            raise RequestError(
                f"finetune.method = {method}: its patches are whole seconds and a window has {n_samples / sfreq_hz:g} "
                "s; ingest with signal.window_s in whole seconds, or take another method"
            )
        self._names = list(channels) if method == "labram" else None
        self.network = _build(method, channels, rate_hz, n_times, n_outputs)
        if weights is not None:
            _start_from(self.network, weights, method)

    def forward(self, eeg: Tensor, channels: Sequence[str], sfreq_hz: float) -> Tensor:
        """(B, C, T) windows of the one montage it was built for -> (B, K)."""
        assert (tuple(channels), sfreq_hz) == self._montage
        if self._rates is not None and self._rates[0] != self._rates[1]:
            from torchaudio.functional import resample

            eeg = resample(eeg, *self._rates)
        outputs: Tensor = self.network(eeg) if self._names is None else self.network(eeg, ch_names=self._names)
        return outputs


def _build(method: str, channels: Sequence[str], sfreq_hz: float, n_times: int, n_outputs: int) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of montages renamed, windows other than pretraining's, STFT without a window
        try:
            from braindecode import models
        except ImportError as error:
            raise RequestError(
                f"finetune.method = {method}: {error}; install the rivals with pip install 'emod-eeg[rivals]'"
            ) from None
        info = mne.create_info(list(channels), sfreq_hz, "eeg")
        built: nn.Module = getattr(models, RIVALS[method])(
            n_chans=len(channels), n_outputs=n_outputs, n_times=n_times, sfreq=sfreq_hz, chs_info=info["chs"]
        )
        return built


def read_weights(url: str) -> bytes:
    """A rival's weights, whole.

    Raises:
        RequestError: If there is no such file.
    """
    if not storage.exists(url):
        raise RequestError(f"finetune.rival_weights = {storage.redact(url)}: no such file; correct it")
    return storage.read_bytes(url, at_most=_WEIGHTS_BYTES)


def _start_from(network: nn.Module, url: str, method: str) -> None:
    """Takes every tensor of equal name and shape but the head's, whose classes were others."""
    named = f"finetune.rival_weights = {storage.redact(url)}"
    try:
        given = load(read_weights(url))
    except SafetensorError as error:
        raise RequestError(f"{named}: no safetensors file ({error}); convert it, pickles are not read") from None
    own = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("final_layer.")}
    fitting = {name: given[name] for name, tensor in own.items() if name in given and given[name].shape == tensor.shape}
    size = sum(tensor.numel() for tensor in own.values())
    if 2 * sum(tensor.numel() for tensor in fitting.values()) < size:
        missing = next(name for name in own if name not in fitting)
        raise RequestError(
            f"{named}: {len(fitting)} of the {len(own)} tensors of {method} are there, {missing} for one is not or has "
            f"another shape; give weights under the names of braindecode.models.{RIVALS[method]}"
        )
    network.load_state_dict(fitting, strict=False)


def new_network(settings: FinetuneSettings, backbone: Emod, target: Target, pool: WindowPool) -> nn.Module:
    """The network that ``settings.method`` names, with an output for each class, or two for the plane.

    Its weights are drawn from torch's generator.

    Raises:
        RequestError: If a rival is asked to learn from several montages.
    """
    if settings.method == "emod":
        return new_classifier(backbone, target, settings)
    if len(pool.corpora) > 1:
        raise RequestError(
            f"finetune.method = {settings.method}: it takes one montage, and {', '.join(pool.corpora)} are to be read; "
            "take method emod, or a protocol within one corpus"
        )
    name = pool.corpora[0]
    channels, sfreq_hz = pool.store.channels(name), pool.store.sfreq_hz(name)
    n_samples = round(pool.store.window_s(name) * sfreq_hz)
    return Rival(settings.method, channels, sfreq_hz, n_samples, count_outputs(target), weights=settings.rival_weights)


def count_outputs(target: Target) -> int:
    """Outputs that a target asks for."""
    return 2 if target.points is not None else len(target.classes)


def new_classifier(backbone: Emod, target: Target, settings: FinetuneSettings) -> EmodClassifier:
    """A classifier, or regressor, on a copy of the backbone, with fine-tuning's own dropout."""
    config = backbone.config.model_copy(update={"dropout": settings.dropout})
    fresh = Emod(config)
    fresh.load_state_dict(backbone.state_dict())
    return EmodClassifier(fresh, count_outputs(target))


def parameter_groups(network: nn.Module, settings: FinetuneSettings) -> list[dict[str, Any]]:
    """Parameters with the share of the learning rate that they get: of the head all of it, of a backbone less.

    Below the head come the pooling and the last layer at ``backbone_rate``, each layer further down at ``layer_rate``
    of the one above it, and the encoder last. Parameters that get no rate are frozen; the projection takes no part.
    """
    if not isinstance(network, EmodClassifier):
        return [{"params": list(network.parameters()), "share": 1.0}]
    backbone = network.backbone
    stages: list[list[nn.Module]] = [[backbone.pool, backbone.transformer[-1]]]
    stages += [[layer] for layer in reversed(backbone.transformer[:-1])]
    stages.append([backbone.encoder])
    for parameter in backbone.parameters():
        parameter.requires_grad_(False)
    groups = [{"params": list(network.head.parameters()), "share": 1.0}]
    for depth, modules in enumerate(stages):
        parameters = [parameter for module in modules for parameter in module.parameters()]
        for parameter in parameters:
            parameter.requires_grad_(settings.backbone_rate > 0)
        groups.append({"params": parameters, "share": settings.backbone_rate * settings.layer_rate**depth})
    return groups


def outputs_of(network: nn.Module, pool: WindowPool, rows: npt.NDArray[np.int64], device: torch.device) -> Tensor:
    """(n, K) raw outputs for the windows of these rows, in their order, whatever corpora they come from."""
    groups = list(pool.read(rows))
    if len(groups) == 1:
        _, windows, channels, sfreq_hz = groups[0]
        outputs: Tensor = network(torch.from_numpy(windows).to(device), channels, sfreq_hz)
        return outputs
    # The head's batch statistics are those of the whole batch.
    assert isinstance(network, EmodClassifier)
    embedded = [
        network.backbone.embed(torch.from_numpy(windows).to(device), channels, sfreq_hz)
        for _, windows, channels, sfreq_hz in groups
    ]
    order = torch.from_numpy(np.argsort(np.concatenate([group[0] for group in groups]))).to(device)
    mixed: Tensor = network.head(torch.cat(embedded)[order])
    return mixed
