"""What a split lets the test windows know of the others: looked for before anything trains.

Every finding has a severity:

leak       the result would not mean what the protocol says: the run stops
accepted   a leak that the protocol is published with (the paper's three), or that the user accepted by name
limit      shared by the very question, such as clips when new people are asked about: said beside the result

Names and times come from the metadata, equal content from the windows' bytes; nothing here looks at a score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from emod.catalog.split import Acceptable
from emod.evaluation.split import ROLES, Split

__all__ = ["ACCEPTABLE", "Backbone", "Finding", "audit_split", "hash_windows", "leaks"]

Severity = Literal["leak", "accepted", "limit"]

ACCEPTABLE: tuple[str, ...] = get_args(Acceptable)

_SHOWN = 3

UNKNOWN = "nobody knows whom the network has learned from before: its weights come without provenance"


@dataclass(frozen=True)
class Finding:
    """One kind of thing that two roles share.

    Attributes:
        code: windows, samples, content, trials, sessions, subjects, clips, ica, fitted, pretraining,
            pretraining-clips, or laboratory.
        severity: leak, accepted or limit.
        between: The two roles, or what was fitted and the role.
        count: How many are shared.
        examples: The first few.
        message: The finding in a plain sentence.
        accepted_by: "protocol" or "user" where the severity is accepted.
    """

    code: str
    severity: Severity
    between: tuple[str, str]
    count: int
    examples: tuple[str, ...]
    message: str
    accepted_by: str | None = None

    @property
    def acceptable(self) -> bool:
        """Whether a user may accept it."""
        return self.code in ACCEPTABLE

    def record(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Backbone:
    """What a pretrained network has seen.

    Attributes:
        subjects: corpus -> subjects it was trained on; None where nobody knows.
    """

    subjects: Mapping[str, Sequence[str]] | None


def audit_split(
    metadata: pa.Table,
    split: Split,
    *,
    window_s: Mapping[str, float],
    ica: Iterable[str] = (),
    content: npt.NDArray[np.bytes_] | None = None,
    fitted: Mapping[str, npt.ArrayLike] | None = None,
    backbone: Backbone | None = None,
    laboratory: Mapping[str, str | None] | None = None,
    accept: Sequence[str] = (),
) -> list[Finding]:
    """All that the roles of a split share, worst first.

    Args:
        metadata: The table that the split was made on.
        split: What to look at.
        window_s: corpus -> seconds of a window.
        ica: Corpora whose recordings lost components that were fitted on a whole session.
        content: (n,) digest of each window's samples, see `hash_windows`; None leaves equal windows under other names
            unnoticed.
        fitted: What was computed from labels or signal before the split (a threshold, a scaler) -> the rows it saw.
        backbone: What the network to be fine-tuned has seen; None for one that starts from nothing.
        laboratory: corpus -> who recorded it, None where not known; of the windows' corpora and the backbone's.
        accept: Codes of leaks that the user accepts, of ACCEPTABLE.

    Raises:
        ValueError: If a code cannot be accepted.
    """
    if refused := [code for code in accept if code not in ACCEPTABLE]:
        raise ValueError(f"{refused[0]!r} cannot be accepted; of findings only {', '.join(ACCEPTABLE)} can")
    columns = {name: _names(metadata, parts) for name, parts in _KEYS.items()}
    found: list[Finding] = []
    for first, second in combinations(ROLES, 2):
        pair = (first, second)
        rows = (split.rows(first), split.rows(second))
        for code, names in columns.items():
            found += _shared(code, pair, names[rows[0]], names[rows[1]])
        found += _overlaps(metadata, columns["trials"], pair, rows, window_s)
        if content is not None:
            found += _equal(columns["windows"], content, pair, rows)
        found += _unmixed(metadata, columns["sessions"], pair, rows, set(ica))
    for what, seen in (fitted or {}).items():
        shared = np.intersect1d(np.asarray(seen, dtype=np.int64), split.test)
        if len(shared):
            found.append(_finding("fitted", (what, "test"), columns["windows"][shared], _FITTED.format(what=what)))
    if backbone is not None:
        found += _pretraining(metadata, split, backbone)
    found += _kin(split, backbone, laboratory or {})
    weighed = [_weigh(finding, split, accept) for finding in found]
    order = {"leak": 0, "accepted": 1, "limit": 2}
    return sorted(weighed, key=lambda finding: order[finding.severity])


def leaks(findings: Iterable[Finding]) -> list[Finding]:
    """Those that stop a run."""
    return [finding for finding in findings if finding.severity == "leak"]


def hash_windows(windows: npt.NDArray[np.floating]) -> Iterator[bytes]:
    """16 bytes for the samples of each window of (n, C, T)."""
    for window in windows:
        yield hashlib.blake2b(np.ascontiguousarray(window).tobytes(), digest_size=16).digest()


_KEYS: dict[str, tuple[str, ...]] = {
    "windows": ("window_id",),
    "trials": ("corpus", "subject", "session", "trial"),
    "sessions": ("corpus", "subject", "session"),
    "subjects": ("corpus", "subject"),
    "clips": ("corpus", "stimulus"),
}

_MESSAGES = {
    "windows": "the same windows are in both roles",
    "trials": "windows of one trial are in both roles: neighbours look alike whatever the emotion",
    "sessions": "one session is in both roles: electrodes, gel and mood of that day are known",
    "subjects": "the same people are in both roles: the result says nothing about new people",
    "clips": "the same clips are in both roles: a model may know the clip rather than the emotion",
    "samples": "windows in both roles overlap in time",
    "content": "windows with the same samples are in both roles under different names",
    "ica": "artefacts were removed by components that were fitted on both roles together",
}
_FITTED = "{what} was computed from test windows"


def _names(metadata: pa.Table, parts: tuple[str, ...]) -> npt.NDArray[np.object_]:
    names = np.empty(len(metadata), dtype=object)
    names[:] = ["/".join(row) for row in zip(*(metadata[part].to_pylist() for part in parts), strict=True)]
    return names


def _finding(code: str, between: tuple[str, str], shared: Iterable[str], message: str | None = None) -> Finding:
    names = sorted(set(shared))
    return Finding(code, "leak", between, len(names), tuple(names[:_SHOWN]), message or _MESSAGES[code])


def _shared(
    code: str, pair: tuple[str, str], first: npt.NDArray[np.object_], second: npt.NDArray[np.object_]
) -> list[Finding]:
    shared = set(first) & set(second)
    return [_finding(code, pair, shared)] if shared else []


def _overlaps(
    metadata: pa.Table,
    trials: npt.NDArray[np.object_],
    pair: tuple[str, str],
    rows: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    window_s: Mapping[str, float],
) -> list[Finding]:
    """Windows of one trial whose times overlap, other than a window with itself."""
    starts = metadata["start_s"].to_numpy()
    corpora = metadata["corpus"].to_pylist()
    ids = metadata["window_id"].to_pylist()
    both = set(trials[rows[0]]) & set(trials[rows[1]])
    of_trial: dict[str, list[int]] = {}
    for row in rows[0]:
        if trials[row] in both:
            of_trial.setdefault(trials[row], []).append(int(row))
    overlapping = []
    for row in rows[1]:
        for other in of_trial.get(trials[row], ()):
            # Half a millisecond: starts are multiples of a sample.
            if ids[row] != ids[other] and abs(starts[row] - starts[other]) < window_s[corpora[row]] - 5e-4:
                overlapping.append(ids[row])
    return [_finding("samples", pair, overlapping)] if overlapping else []


def _equal(
    ids: npt.NDArray[np.object_],
    content: npt.NDArray[np.bytes_],
    pair: tuple[str, str],
    rows: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
) -> list[Finding]:
    known: dict[bytes, str] = {content[row]: ids[row] for row in rows[0]}
    equal = [
        f"{known[content[row]]} = {ids[row]}"
        for row in rows[1]
        if content[row] in known and known[content[row]] != ids[row]
    ]
    return [_finding("content", pair, equal)] if equal else []


def _unmixed(
    metadata: pa.Table,
    sessions: npt.NDArray[np.object_],
    pair: tuple[str, str],
    rows: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    ica: set[str],
) -> list[Finding]:
    shared = set(sessions[rows[0]]) & set(sessions[rows[1]])
    touched = {session for session in shared if session.partition("/")[0] in ica}
    return [_finding("ica", pair, touched)] if touched else []


def _pretraining(metadata: pa.Table, split: Split, backbone: Backbone) -> list[Finding]:
    if backbone.subjects is None:
        message = UNKNOWN
        return [_finding("pretraining", ("pretraining", "test"), split.subjects["test"], message)]
    found = []
    for role in ("validation", "test"):
        seen = {f"{corpus}/{subject}" for corpus, subjects in backbone.subjects.items() for subject in subjects}
        if shared := seen & set(split.subjects[role]):
            message = f"the backbone has learned from {role} subjects, labels and all"
            found.append(_finding("pretraining", ("pretraining", role), shared, message))
    tested = {key.partition("/")[0] for key in split.subjects["test"]}
    for corpus in sorted(tested & set(backbone.subjects)):
        clips = metadata["stimulus"].to_pylist()
        shown = {f"{corpus}/{clips[row]}" for row in split.test}
        message = f"the backbone has learned from other subjects of {corpus}, who saw the same clips, with their labels"
        found.append(_finding("pretraining-clips", ("pretraining", "test"), shown, message))
    return found


def _kin(split: Split, backbone: Backbone | None, laboratory: Mapping[str, str | None]) -> list[Finding]:
    """Corpora learned from that the laboratory of a tested corpus recorded as well."""
    tested = {key.partition("/")[0] for key in split.subjects["test"]}
    learned = {
        "pretraining": set((backbone.subjects or {}) if backbone is not None else {}),
        "train": {key.partition("/")[0] for key in split.subjects["train"]},
    }
    found = []
    for stage, corpora in learned.items():
        for corpus in sorted(tested):
            owner = laboratory.get(corpus)
            kin = [name for name in sorted(corpora - {corpus}) if owner is not None and laboratory.get(name) == owner]
            if kin:
                message = (
                    f"{', '.join(kin)} was recorded by the laboratory that recorded {corpus} ({owner}): whether people "
                    "took part in both is not published"
                )
                found.append(_finding("laboratory", (stage, "test"), kin, message))
    return found


def _weigh(finding: Finding, split: Split, accept: Sequence[str]) -> Finding:
    """A finding is a leak unless the question shares it, the protocol is published with it, or the user accepts it."""
    # Where clips are asked to be new, those of pretraining are no newer.
    code = "clips" if finding.code == "pretraining-clips" else finding.code
    chooses_only = finding.between == ("train", "validation") and code in ACCEPTABLE
    if code == "laboratory" or code in split.shares or chooses_only:
        return replace(finding, severity="limit")
    if code in split.accepted:
        return replace(finding, severity="accepted", accepted_by="protocol")
    if finding.code in accept:
        return replace(finding, severity="accepted", accepted_by="user")
    return finding
