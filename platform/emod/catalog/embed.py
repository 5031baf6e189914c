"""What a batch embedding IS, beside its model and its windows: who works on it, and how much lies in one object."""

from __future__ import annotations

from pydantic import Field

from emod.catalog.strict import Strict

__all__ = ["EmbedSettings"]


class EmbedSettings(Strict):
    """A registered model over the windows of a store or of recordings (jobs/embed.py); the model says how they are
    cleaned."""

    workers: int = Field(default=1, ge=1, description="processes that hold the model")
    cpus_per_worker: float = Field(default=1.0, gt=0, description="CPUs, and threads, of each")
    gpu: bool | None = Field(
        default=None, description="true: each worker needs a GPU; null: if the cluster has one when the job starts"
    )
    batch: int = Field(default=64, ge=1, description="windows that go through the model together")
    windows_per_object: int = Field(
        default=1024, ge=1, description="of a store: what a crash can cost each worker; a recording is one object"
    )
