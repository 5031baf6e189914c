"""What fine-tuning starts from: a pretraining run, a folder with weights, a registered model, or fresh weights."""

from __future__ import annotations

import hashlib

import torch
from safetensors.torch import save

from emod import storage
from emod.catalog import Experiment
from emod.errors import RequestError
from emod.model import Emod
from emod.tracking import fetch_registered, tracking_uri
from emod.training.pretrain import Pretrained, load_folder, load_pretrained

__all__ = ["NEW", "PER_SEED", "digest_of", "load_backbone"]

NEW = "none"
PER_SEED = "{seed}"


def load_backbone(experiment: Experiment) -> Pretrained:
    """What ``finetune.backbone`` names; without it the finished run that ``pretrain.run_name`` names.

    ``{seed}`` in the name is the experiment's seed. Weights are read from safetensors. A folder without provenance, and
    a model registered by an older version, leave open what was seen.

    Raises:
        RequestError: If there is no such thing.
    """
    assert experiment.finetune is not None
    wanted = experiment.finetune.backbone
    if wanted is None:
        return load_pretrained(experiment.addresses.runs_url(), experiment.pretrain.run_name)
    wanted = wanted.replace(PER_SEED, str(experiment.seed))
    if wanted == NEW:
        # Not torch's own generator: its state belongs to whoever draws the head.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(experiment.seed)
            return Pretrained(Emod(experiment.model).eval(), {}, "", simulated=False)
    if wanted.startswith("models:"):
        return _load_registered(experiment, wanted)
    return _load_folder(wanted)


def digest_of(model: Emod) -> str:
    """SHA-256 of a network's weights, hex."""
    return hashlib.sha256(save(model.state_dict())).hexdigest()


def _load_folder(url: str) -> Pretrained:
    if not storage.exists(storage.join(url, "model.json")):
        raise RequestError(
            f"finetune.backbone = {storage.redact(url)}: no model.json there; give a folder with model.json and "
            "model.safetensors, such as a run's model or one of its checkpoints"
        )
    return load_folder(url)


def _load_registered(experiment: Experiment, wanted: str) -> Pretrained:
    uri = tracking_uri(experiment.addresses.runs_url())
    servable = fetch_registered(uri, wanted, field="finetune.backbone").servable
    trained_on = servable.card.trained_on
    seen = {corpus: facts.subjects for corpus, facts in trained_on.corpora.items()}
    return Pretrained(
        servable.backbone,
        seen,
        trained_on.manifest,
        trained_on.simulated,
        dict(trained_on.corpora),
        known=all(seen.values()),
    )
