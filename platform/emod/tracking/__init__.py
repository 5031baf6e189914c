"""MLflow: runs that resume, the registry, and the model that is served.

``emod.tracking.served`` is not imported here: it is the file MLflow runs to build the served model.
"""

from __future__ import annotations

from emod.tracking.registered import Registered, fetch_registered, find_version, registry_uri
from emod.tracking.registry import register_model
from emod.tracking.runs import MetricLog, check_reachable, ensure_run, finish, log_experiment, log_lineage, tracking_uri
from emod.tracking.servable import ModelCard, Servable, TrainedCorpus, TrainedOn, load_servable, save_servable

__all__ = [
    "MetricLog",
    "ModelCard",
    "Registered",
    "Servable",
    "TrainedCorpus",
    "TrainedOn",
    "check_reachable",
    "ensure_run",
    "fetch_registered",
    "find_version",
    "finish",
    "load_servable",
    "log_experiment",
    "log_lineage",
    "register_model",
    "registry_uri",
    "save_servable",
    "tracking_uri",
]
