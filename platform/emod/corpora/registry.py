"""Every corpus that can be read, by the name users type.

A corpus has a catalog and either a module here that bears its name, or a ``bids`` section in its catalog, which one
reader serves for all.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
from types import MappingProxyType

from emod.catalog import corpus_names, load_corpus
from emod.catalog.load import shipped_corpus_names
from emod.corpora.contract import Corpus
from emod.errors import RequestError
from emod.signal import canonical_names

__all__ = ["READERS", "open_corpus"]


def _reader(name: str) -> type[Corpus]:
    """The reader in the module that bears the corpus' name."""
    module = importlib.import_module(f"{__package__}.{name}")
    (reader,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Corpus) and value.name == name
    )
    return reader


READERS: MappingProxyType[str, type[Corpus]] = MappingProxyType(
    {name: _reader(name) for name in shipped_corpus_names() if importlib.util.find_spec(f"{__package__}.{name}")}
)
"""Corpora with a module of their own."""


def open_corpus(name: str, root: str | os.PathLike[str], strict: bool = False) -> Corpus:
    """A copy of a corpus; nothing is looked up before it is listed or read.

    Args:
        name: Lower-case name of the corpus.
        root: The corpus' top folder: a path, or any URL that fsspec reads.
        strict: Raise `CorpusError` at the first problem instead of listing it in ``problems``.

    Raises:
        RequestError: If no reader has this name, and the message names the nearest; or if its catalog is wrong.
    """
    if name in corpus_names():
        _check_electrodes(name)
    if name in READERS:
        return READERS[name](os.fspath(root), strict=strict)
    if name not in corpus_names():
        near = difflib.get_close_matches(name.lower(), corpus_names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise RequestError(f"corpus {name!r} has no reader{hint}; known: {', '.join(corpus_names())}")
    if load_corpus(name).bids is None:
        raise RequestError(f"corpus {name!r} has no reader: add a bids section to {name}.yaml, or a module {name}.py")
    from emod.corpora.bids import BidsCorpus  # loads MNE, which no other reader's users need

    return BidsCorpus(name, os.fspath(root), strict=strict)


def _check_electrodes(name: str) -> None:
    """Refuses a catalog whose electrodes are unknown or doubled; it is done here because catalogs know no names."""
    try:
        canonical_names(load_corpus(name).channels)
    except RequestError:
        raise
    except ValueError as error:
        raise RequestError(f"{name}.yaml: channels: {error}") from None
