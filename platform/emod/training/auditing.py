"""The leakage audit of a fold with everything that a store and a backbone can tell of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from emod.catalog import load_corpus
from emod.errors import RequestError
from emod.evaluation import Backbone, Finding, Split, Target, audit_split, leaks
from emod.evaluation.audit import UNKNOWN, hash_windows
from emod.shards import ShardStore, WindowPool

__all__ = ["audit_fold", "read_content", "refuse_leaks"]

_AT_ONCE = 1024


def read_content(pool: WindowPool) -> npt.NDArray[np.bytes_]:
    """(n,) digest of every window of a pool. It reads them all."""
    parts = []
    for name in pool.corpora:
        for first in range(0, len(pool.store.metadata(name)), _AT_ONCE):
            rows = np.arange(first, min(first + _AT_ONCE, len(pool.store.metadata(name))))
            parts += list(hash_windows(pool.store.windows(name, rows)))
    return np.array(parts)


def audit_fold(
    pool: WindowPool,
    target: Target,
    split: Split,
    backbone: Backbone | None,
    *,
    content: npt.NDArray[np.bytes_],
    accept: Sequence[str],
) -> list[Finding]:
    """All that the roles of a fold share, worst first.

    Args:
        pool: The windows.
        target: Whose thresholds may have been computed from some of them.
        split: The fold, before windows without a class are left out.
        backbone: What the network has learned from before; None for one that starts from nothing.
        content: `read_content` of the pool.
        accept: Codes that the user accepts.
    """
    involved = {*pool.corpora, *((backbone.subjects or {}) if backbone is not None else {})}
    return audit_split(
        pool.metadata,
        split,
        window_s={name: pool.store.window_s(name) for name in pool.corpora},
        ica=[name for name in pool.corpora if _unmixed(pool.store, name)],
        content=content,
        fitted={} if not target.fitted.size else {"threshold": target.fitted},
        backbone=backbone,
        laboratory={name: load_corpus(name).laboratory for name in involved},
        accept=accept,
    )


def refuse_leaks(findings: Sequence[Finding], *, where: str) -> None:
    """Stops at a leak that nobody accepted; what was accepted is said on standard error.

    Raises:
        RequestError: If there is a leak.
    """
    if found := leaks(findings):
        first = found[0]
        more = f"; and {len(found) - 1} more" if len(found) > 1 else ""
        raise RequestError(
            f"{where} leaks: {first.message} ({' and '.join(first.between)}: {first.count}, such as "
            f"{', '.join(first.examples)}){more}. Choose another finetune.split.protocol{_cure(first)}"
        )
    for code in dict.fromkeys(finding.code for finding in findings if finding.accepted_by == "user"):
        print(f"{where}: the leak {code!r} is accepted by finetune.split.accept", file=sys.stderr)


def _cure(finding: Finding) -> str:
    if finding.code == "ica":
        return ", or ingest with signal.ica.enabled=false, or accept it: finetune.split.accept=[ica]"
    if finding.code == "pretraining" and finding.message == UNKNOWN:
        return ", or give weights with provenance, or accept it: finetune.split.accept=[pretraining]"
    if finding.code == "pretraining":
        return (
            ", or pretrain on other corpora (pretrain.corpora); with this experiment's finetune section pretraining "
            "leaves out who is held out in the fold finetune.split.fold, and no other"
        )
    return f", or accept it: finetune.split.accept=[{finding.code}]" if finding.acceptable else ", or mend the store"


def _unmixed(store: ShardStore, name: str) -> bool:
    """Whether ICA took components out of any recording of a corpus."""
    removed = store.manifest.corpora[name].cleaning.get("removed", {})
    return any(removed.values())
