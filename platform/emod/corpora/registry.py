"""Every corpus that can be read, by the name users type: one module here and one catalog each, found by that name."""

from __future__ import annotations

import difflib
import importlib
import os
from types import MappingProxyType

from emod.catalog import corpus_names
from emod.corpora.contract import Corpus
from emod.errors import RequestError

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


READERS: MappingProxyType[str, type[Corpus]] = MappingProxyType({name: _reader(name) for name in corpus_names()})


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
