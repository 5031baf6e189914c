"""A registered model at work: over all windows of a store or of recordings, on Ray Data."""

from emod.serving.embed import Embedded, claim_embedding, embed, find_model, list_windows
from emod.serving.pieces import Windows

__all__ = ["Embedded", "Windows", "claim_embedding", "embed", "find_model", "list_windows"]
