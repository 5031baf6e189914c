"""What a backbone is: every size of the network, with the paper's values as defaults.

Holds numbers only. It builds nothing and imports no torch, so a catalog can be checked in a fraction of a second.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from emod.catalog.strict import Strict

__all__ = ["EmodConfig", "Part"]

Part = Literal[
    "spectral_tokens",
    "temporal_tokens",
    "spatial_attention",
    "temporal_attention",
    "electrode_embedding",
    "relative_encoding",
]
"""What the paper's Figure 3 takes out, one at a time."""


class EmodConfig(Strict):
    """Sizes of the EMOD network; the defaults are the paper's (arXiv 2511.05863) and its released code's."""

    width: int = Field(default=128, ge=1, description="d, features per token")
    layers: int = Field(default=3, ge=1, description="of the transformer")
    heads: int = Field(default=16, ge=1, description="of attention; a divisor of the width")
    feed_forward: int = Field(default=512, ge=1, description="hidden width of each layer's feed-forward part")
    kernel: int = Field(default=25, ge=1, description="taps of both tokenizer convolutions")
    groups: int = Field(default=4, ge=1, description="GroupNorm groups of the tokenizer; a divisor of the width")
    token_rate_hz: float = Field(default=5.0, gt=0, description="tokens per second and electrode")
    max_offset: int = Field(default=49, ge=0, description="token distance at which the relative time bias saturates")
    dropout: float = Field(default=0.1, ge=0, le=0.99, description="in the transformer's residual branches")
    pool_dropout: float = Field(default=0.25, ge=0, le=0.99, description="on the weights of attention pooling")
    projection_width: int = Field(default=128, ge=1, description="of what the contrastive loss compares")
    projection_hidden: int = Field(default=512, ge=1, description="hidden width of the projection head")
    projection_statistics: Literal["corpus", "batch"] = Field(
        default="corpus", description="rows that share batch statistics in the projection head"
    )
    without: Part | None = Field(default=None, description="a part left out, as in the paper's Figure 3")

    @model_validator(mode="after")
    def _width_divides(self) -> Self:
        for field in ("heads", "groups"):
            parts: int = getattr(self, field)
            if self.width % parts:
                raise ValueError(
                    f"{field} = {parts} does not divide width = {self.width}: choose a divisor of the width"
                )
        return self
