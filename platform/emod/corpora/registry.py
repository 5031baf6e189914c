"""Every corpus that can be read, by the name users type. A new corpus is one module, one catalog and one row here."""

from __future__ import annotations

import difflib
import os
from types import MappingProxyType

from emod.corpora.contract import Corpus
from emod.corpora.dasps import Dasps
from emod.corpora.deap import Deap
from emod.corpora.seed_iv import SeedIv
from emod.errors import RequestError

__all__ = ["READERS", "open_corpus"]

READERS: MappingProxyType[str, type[Corpus]] = MappingProxyType({r.name: r for r in (Dasps, Deap, SeedIv)})


def open_corpus(name: str, root: str | os.PathLike[str], strict: bool = False) -> Corpus:
    """A copy of a corpus; nothing is looked up before it is listed or read.

    Args:
        name: Lower-case name of the corpus.
        root: The corpus' top folder: a path, or any URL that fsspec reads.
        strict: Raise `CorpusError` at the first problem instead of listing it in ``problems``.

    Raises:
        RequestError: If no reader has this name; the message names the nearest.
    """
    if name not in READERS:
        near = difflib.get_close_matches(name.lower(), READERS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise RequestError(f"corpus {name!r} has no reader{hint}; known: {', '.join(READERS)}")
    return READERS[name](os.fspath(root), strict=strict)
