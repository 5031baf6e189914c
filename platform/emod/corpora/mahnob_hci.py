"""MAHNOB-HCI, emotion elicitation: Sessions/<id>/session.xml and Part_<subject>_<S|N>_Trial<k>_emotion.bdf.

A session of the owner's is one clip; here the 20 emotional ones (S) of a subject, recorded in one sitting, are one
recording of as many pieces. Each holds 30 s of rest, the clip between two pulses of Status, and 30 s of rest.
session.xml says which clip it was and what was felt; its subject and number are compared with the names. The neutral
clips in between (N) were rated by nobody: they are listed, not read, and not simulated. Subjects 12 and 15 are left
out as published; over subject 26 sources disagree, and what is there of it is read. Listing opens no object.
"""

from __future__ import annotations

import io
import math
import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import IO, Any
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt
from defusedxml import ElementTree

from emod import storage
from emod.catalog import SimulateSettings
from emod.corpora.bdf import STATUS, digitise, encode_bdf, read_bdf_channels, read_bdf_header
from emod.corpora.contract import Corpus, CorpusError, Problem, Recording, RecordingHeader, RecordingRef
from emod.corpora.cut_trials import CutTrial, join_trials
from emod.corpora.inventory import find_objects, leaves_copy
from emod.corpora.marker import scaled_seconds
from emod.corpora.planning import draw_rating, generator, rating_at
from emod.errors import RequestError
from emod.simulation import Passage, RecordingPlan

__all__ = ["MahnobHci"]

_FOLDER = "Sessions"
_XML = "session.xml"
_BDF = r"(?P<folder>\d+)/Part_(?P<subject>\d+)_(?P<kind>[SN])_Trial(?P<trial>\d+)_emotion\.bdf"
_EXAMPLE = f"{_FOLDER}/10/Part_1_S_Trial5_emotion.bdf"
_RECRUITED = range(1, 31)  # three of them have no usable session
_DISPUTED = 26  # one of the three by two public readers, complete by a third
_CUTS_PER_SUBJECT = 130
_FELT = {"valence": "feltVlnc", "arousal": "feltArsl"}
_PERIPHERAL = (*(f"EXG{n}" for n in range(1, 9)), "GSR1", "GSR2", "Erg1", "Erg2", "Resp", "Temp")
_REST_S = 30.0  # before the clip and after it
_MOST_BDF_BYTES = 64 * 1024**2  # published about 5 MB
_MOST_XML_BYTES = 1024**2
_CLIP_TOLERANCE_S = 1.0
_PULSE, _PULSE_SAMPLES = 268, 26
_BIOSEMI_BITS = -(2**16)  # above the triggers: in the true files they are not 0 either
_OFFSET_UV = 20_000.0
_RATING_STEP = 1.0

Fault = Callable[[str, str], Problem]  # (code, message) -> a problem of one session


@dataclass(frozen=True, eq=False)
class _Session:
    """One clip: what its session.xml says, and what its BDF promises."""

    url: str
    trial: str
    stimulus: str
    rating: Mapping[str, float]
    clip_s: float | None
    labels: tuple[str, ...]
    seconds: float
    content: bytes
    fault: Fault


class MahnobHci(Corpus):
    """27 subjects x up to 20 emotional film clips, rated; 32 electrodes at 256 Hz with the amplifier's offsets."""

    name = "mahnob_hci"

    def _inventory(self) -> tuple[list[RecordingRef], list[Problem]]:
        found, problems = find_objects(self, _FOLDER, _BDF, _EXAMPLE)
        top = storage.join(self.root, _FOLDER)
        sizes = {storage.join(top, path): size for path, size in storage.list_files(top).items()}
        disputed, problems = self._disputed(top, sizes, problems)
        found += disputed
        problems = _published_unusable(top, problems, set(self.catalog.subject_numbers))
        clips: dict[int, dict[int, str]] = defaultdict(dict)
        neutral: dict[int, list[str]] = defaultdict(list)
        for match, url, _ in sorted(found, key=lambda one: int(one[0]["folder"])):
            subject, trial = int(match["subject"]), int(match["trial"])
            if match["kind"] == "N":
                neutral[subject].append(url)
            elif (first := clips[subject].setdefault(trial, url)) != url:
                message = f"trial {trial} lies in {first} too, which is used; keep one of them"
                problems.append(Problem(url, str(subject), str(trial), "duplicate", message))
        if urls := list(clips[_DISPUTED].values()) if disputed else []:
            message = (
                f"{len(urls)} emotional sessions of subject {_DISPUTED}, of whom two public readers count none and one "
                "all; read, compare with what the owner says of this subject"
            )
            problems.append(Problem(urls[0], str(_DISPUTED), None, "disputed", message))
        for subject, urls in neutral.items():
            message = f"{len(urls)} neutral sessions (N), which nobody rated"
            problems.append(Problem(urls[0], str(subject), None, "left_out", message))
        refs = []
        for subject, by_trial in sorted(clips.items()):
            bdfs = [by_trial[trial] for trial in sorted(by_trial)]
            urls = [one for url in bdfs for one in (url, _xml_beside(url)) if one == url or self._holds(one, sizes)]
            size = sum(sizes[url] for url in urls)
            refs.append(RecordingRef(self.name, str(subject), "1", bdfs[0], size, tuple(urls)))
        return refs, problems

    def _disputed(
        self, top: str, sizes: Mapping[str, int], problems: list[Problem]
    ) -> tuple[list[tuple[re.Match[str], str, int]], list[Problem]]:
        """Sessions of the subject over whom sources disagree, if some are emotional, and the other problems."""
        found = []
        for problem in problems:
            match = re.fullmatch(_BDF, problem.source.removeprefix(f"{top}/"))
            if match and int(match["subject"]) == _DISPUTED and self._holds(problem.source, sizes):
                found.append((match, problem.source, sizes[problem.source]))
        if not any(match["kind"] == "S" for match, _, _ in found):
            return [], problems
        theirs = {url for _, url, _ in found}
        return found, [problem for problem in problems if problem.source not in theirs]

    def _holds(self, url: str, sizes: Mapping[str, int]) -> bool:
        """Whether an object is listed, lies in this copy and is no folder or pipe."""
        if url not in sizes or leaves_copy(self.root, url):
            return False
        return not storage.is_local(url) or os.path.isfile(url.removeprefix("file://"))

    def read(self, ref: RecordingRef) -> Recording:
        """Decodes the emotional sessions of one subject, in order of trials (contract of `Corpus.read`)."""
        problems: list[Problem] = []
        trials = []
        for session in self._sessions(ref, problems, with_samples=True):
            try:
                trials.append(self._decode(session, problems))
            except CorpusError as error:
                problems += _excused(error.problems)
        return join_trials(self, ref, trials, problems)

    def peek(self, ref: RecordingRef) -> RecordingHeader:
        """From session.xml and the headers; clip lengths as session.xml gives them, which `read` compares."""
        problems: list[Problem] = []
        sessions = list(self._sessions(ref, problems, with_samples=False))
        if not sessions:
            raise CorpusError(*problems)
        trial_s = {s.trial: s.seconds - 2 * _REST_S if s.clip_s is None else s.clip_s for s in sessions}
        return RecordingHeader(len(self.channels), self.catalog.sfreq_hz, trial_s, tuple(problems))

    def _sessions(self, ref: RecordingRef, problems: list[Problem], *, with_samples: bool) -> Iterator[_Session]:
        """The sessions whose session.xml and header are good; what is wrong with the others goes to ``problems``."""
        expected = range(1, self.trials_expected + 1)
        named: dict[str, int] = {}
        attributes: dict[str, Mapping[str, str]] = {}
        for url in (url for url in ref.urls if url.endswith(".bdf")):
            name = re.fullmatch(_BDF, "/".join(url.split("/")[-2:]))
            assert name is not None, url
            named[url] = int(name["trial"])
            try:
                attributes[url] = _read_xml(ref, url, named[url])
            except CorpusError as error:
                problems += _excused(error.problems)
        cuts = {url: _cut_number(attributes[url]) for url in attributes}
        trials = _number_trials(named, cuts, expected)
        astray: list[int] = []
        for url, cut in cuts.items():
            trial = trials[url]
            fault = _fault_of(ref, url, trial)
            if cut != 2 * named[url]:
                text = attributes[url].get("cutNr", "")
                message = f"cutNr is {text!r:.40}, its name says {named[url]}, so {2 * named[url]}"
                problems.append(fault("label_disagreement", f"{message}; taken for trial {trial}, compare"))
            try:
                if trial not in expected:
                    message = f"trial {trial} by its name, and there are {len(expected)}; look at it"
                    raise CorpusError(fault("unexpected_object", message))
                if int(url.split("/")[-2]) != (int(ref.subject) - 1) * _CUTS_PER_SUBJECT + cut:
                    astray.append(trial)
                stimulus, rating = _labels(fault, attributes[url])
                clip_s = _seconds(attributes[url].get("cutLenSec", ""))
                size = storage.size_bytes(url)
                with storage.open_binary(url) as stream:
                    labels, seconds = self._read_header(fault, stream, size, problems)
                    stream.seek(0)
                    content = stream.read(size) if with_samples else b""
                yield _Session(url, str(trial), stimulus, rating, clip_s, labels, seconds, content, fault)
            except CorpusError as error:
                problems += _excused(error.problems)
        if astray:
            rule = f"(subject - 1) * {_CUTS_PER_SUBJECT} + cutNr"
            message = f"folders of trials {astray} are not numbered {rule}; session.xml is used, compare"
            problems.append(ref.problem("label_disagreement", message))
        absent = sorted(set(expected) - set(trials.values()))
        known = sum(gap.count for gap in self.catalog.missing if gap.subject == int(ref.subject))
        if int(ref.subject) == _DISPUTED:
            known = len(expected)
        if absent and len(absent) <= known:
            problems.append(ref.problem("left_out", f"trials {absent} are not there; published without {known}"))
        else:
            message = "no such session; copy the owner's object again"
            problems += [ref.problem("missing", message, str(trial)) for trial in absent]

    def _read_header(
        self, fault: Fault, stream: IO[bytes], size: int, problems: list[Problem]
    ) -> tuple[tuple[str, ...], float]:
        """The labels of the electrodes in a BDF, in the catalog's order, and its seconds."""
        try:
            header = read_bdf_header(stream, size)
        except RequestError:
            raise
        except ValueError as error:
            raise CorpusError(fault("unreadable", f"{error}; copy the owner's object again")) from None
        if size > _MOST_BDF_BYTES:
            raise CorpusError(fault("shape", f"{size} bytes, published about 5 MB; copy the owner's object again"))
        wanted = (*self.channels, STATUS)
        rows = [[n for n, label in enumerate(header.labels) if label.upper() == name.upper()] for name in wanted]
        if wrong := [name for name, found in zip(wanted, rows, strict=True) if len(found) != 1]:
            message = f"{', '.join(wrong)} not there once among {', '.join(header.labels[:60])}; look at it"
            raise CorpusError(fault("missing", message))
        chosen = [row for (row,) in rows]
        if (rates := {header.sfreq_hz[row] for row in chosen}) != {self.catalog.sfreq_hz}:
            found = ", ".join(f"{rate:g}" for rate in sorted(rates))
            raise CorpusError(fault("shape", f"{found} Hz, published {self.catalog.sfreq_hz:g}; look at it"))
        if units := {header.units[row] for row in chosen[:-1]} - {"uV", "\u00b5V"}:
            raise CorpusError(fault("dtype", f"electrodes in {sorted(units)}, published uV; look at it"))
        if sorted(header.labels) != sorted((*wanted, *_PERIPHERAL)):
            message = f"{len(header.labels)} channels, not the 47 published; kept, as names choose, look at it"
            problems.append(fault("layout", message))
        return tuple(header.labels[row] for row in chosen[:-1]), header.seconds

    def _decode(self, session: _Session, problems: list[Problem]) -> CutTrial:
        """Samples of one session, with the clip where Status says."""
        try:
            eeg_uv, pulses = read_bdf_channels(io.BytesIO(session.content), session.labels)
        except Exception as error:  # the bytes are here, so it is never the store's fault
            what = " ".join(str(error).split()) or type(error).__name__
            raise CorpusError(session.fault("unreadable", f"{what}; copy the owner's object again")) from None
        rate = self.catalog.sfreq_hz
        if len(pulses) != 2:
            at = ", ".join(f"{sample / rate:.3f}" for sample, _ in pulses[:5]) or "none"
            message = f"{len(pulses)} pulses of Status ({at} s), published 2: start and end of the clip; look at it"
            raise CorpusError(session.fault("label", message))
        (start, start_code), (stop, stop_code) = pulses
        if {start_code, stop_code} != {_PULSE}:
            message = f"pulses of code {start_code}, {stop_code} where {_PULSE} is published; kept, compare"
            problems.append(session.fault("layout", message))
        if start != round(self.catalog.baseline_s * rate):
            message = f"its clip starts at {start / rate:.3f} s, published {self.catalog.baseline_s:.3f}; kept"
            problems.append(session.fault("length", message))
        if session.clip_s is not None and abs((stop - start) / rate - session.clip_s) > _CLIP_TOLERANCE_S:
            message = f"its clip lasts {(stop - start) / rate:.3f} s by Status, cutLenSec is {session.clip_s:g}; kept"
            problems.append(session.fault("length", message))
        tail = eeg_uv.shape[1] - stop
        return CutTrial(
            session.trial, session.stimulus, eeg_uv, start, session.rating, tail_samples=tail, source=session.url
        )

    def _plan_recording(self, settings: SimulateSettings, subject: int, session: int) -> RecordingPlan:
        scale, name = self.catalog.rating_scale, str(subject)
        assert scale is not None
        absent = sum(gap.count for gap in self.catalog.missing if gap.subject == subject)
        # Which ones are missing is not published: always the same ones, however much is simulated.
        missing = generator(0, self.name, name, "missing").permutation(self.catalog.trials)[:absent]
        pieces = []
        for row in (row for row in range(settings.trials or self.catalog.trials) if row not in missing):
            rating = draw_rating(settings.brain.seed, self.name, name, row, scale, _RATING_STEP)
            seconds = scaled_seconds(self.catalog.seconds_of(row), settings.time_scale)
            clip = Passage(seconds, str(row + 1), f"clip{row + 1:02d}.avi", *self.place_rating(rating))
            pieces.append((Passage(self.catalog.baseline_s, str(row + 1)), clip, Passage(_REST_S)))
        return self._fill_plan(name, str(session), pieces)

    def write_recording(self, plan: RecordingPlan, pieces_uv: list[npt.NDArray[np.float64]]) -> None:
        """Writes the sessions of one subject: BDF and session.xml. What is no electrode is noise of 100 uV."""
        rate, n = round(plan.sfreq_hz), len(plan.channels)
        rng = generator(0, self.name, plan.subject)
        offsets_uv = rng.uniform(-_OFFSET_UV, _OFFSET_UV, (n + len(_PERIPHERAL), 1))
        for rest, clip, _ in plan.pieces:
            piece_uv = pieces_uv.pop(0)
            noise_uv = rng.normal(0, 100, (len(_PERIPHERAL), piece_uv.shape[1]))
            status = np.full((1, piece_uv.shape[1]), _BIOSEMI_BITS, np.int32)
            start = round(rest.duration_s * rate)
            for pulse in (start, start + round(clip.duration_s * rate)):
                status[0, pulse : pulse + _PULSE_SAMPLES] += _PULSE
            digital = np.concatenate([digitise(np.concatenate([piece_uv, noise_uv]) + offsets_uv), status])
            folder = (int(plan.subject) - 1) * _CUTS_PER_SUBJECT + 2 * int(clip.trial or 0)
            url = storage.join(self.root, _FOLDER, str(folder))
            bdf = f"Part_{plan.subject}_S_Trial{clip.trial}_emotion.bdf"
            content = encode_bdf((*plan.channels, *_PERIPHERAL, STATUS), digital, rate)
            storage.write_bytes(storage.join(url, bdf), content)
            storage.write_bytes(storage.join(url, _XML), self._session_xml(plan, clip, folder, bdf).encode())

    def write_tables(self, plans: list[RecordingPlan]) -> None:
        """There are none: labels lie beside each BDF."""

    def _session_xml(self, plan: RecordingPlan, clip: Passage, folder: int, bdf: str) -> str:
        """One session.xml; what no reader uses means nothing."""
        scale = self.catalog.rating_scale
        assert scale is not None
        felt = [
            int(rating_at(place, scale, _RATING_STEP)) for place in (clip.arousal, clip.valence) if place is not None
        ]
        begin_s, end_s = _REST_S, _REST_S + clip.duration_s
        attributes: dict[str, Any] = {
            **{"sessionId": folder, "date": "2009.10.01", "time": "12:00:00", "experimentType": "emotion elicitation"},
            **{"isStim": 1, "feltEmo": 0, "feltArsl": felt[0], "feltVlnc": felt[1], "feltCtrl": 5, "feltPred": 5},
            **{"cutNr": 2 * int(clip.trial or 0), "cutLenSec": clip.duration_s, "vidRate": 60.9708},
            **{"vidBeginSmp": round(begin_s * 60.9708), "vidEndSmp": round(end_s * 60.9708), "audRate": 44100},
            **{"audBeginSmp": round(begin_s * 44100), "audEndSmp": round(end_s * 44100), "mediaFile": clip.stimulus},
        }
        text = " ".join(f"{key}={quoteattr(str(value))}" for key, value in attributes.items())
        return (
            f'<?xml version="1.0" encoding="utf-8"?>\r\n<session {text}>\r\n  <subject id="{plan.subject}" />\r\n'
            f'  <track type="Physiological" filename="{bdf}" />\r\n</session>\r\n'
        )


def _xml_beside(url: str) -> str:
    return storage.join(posixpath.dirname(url), _XML)


def _fault_of(ref: RecordingRef, url: str, trial: int) -> Fault:
    return lambda code, message: Problem(url, ref.subject, str(trial), code, message)


def _published_unusable(top: str, problems: list[Problem], usable: Container[int]) -> list[Problem]:
    """The same, with one entry for each recruited subject of whom no session is usable."""
    kept: list[Problem] = []
    first: dict[int, str] = {}
    for problem in problems:
        match = re.fullmatch(_BDF, problem.source.removeprefix(f"{top}/"))
        subject = int(match["subject"]) if match else 0
        if subject not in _RECRUITED or subject in usable:
            kept.append(problem)
        else:
            first.setdefault(subject, problem.source)
    for subject, url in first.items():
        message = f"subject {subject} has no usable session, as published; none is read"
        kept.append(Problem(url, str(subject), None, "left_out", message))
    return kept


def _excused(problems: Iterable[Problem]) -> list[Problem]:
    """Why sessions cannot be used; of the disputed subject that is no fault of the copy: two sources say the same."""
    return [
        replace(one, code="left_out", message=f"{one.message.partition('; ')[0]}, as published: none is usable")
        if one.subject == str(_DISPUTED)
        else one
        for one in problems
    ]


def _read_xml(ref: RecordingRef, url: str, trial: int) -> dict[str, str]:
    """Attributes of a session that is this subject's."""
    xml = _xml_beside(url)
    fault = _fault_of(ref, xml, trial)
    if xml not in ref.urls:
        raise CorpusError(fault("missing", "no session.xml, so no labels; copy the owner's object again"))
    try:
        root = ElementTree.fromstring(storage.read_bytes(xml, at_most=_MOST_XML_BYTES), forbid_dtd=True)
    except (RequestError, OSError):  # the store's: ConnectionError and TimeoutError are OSError too
        raise
    except Exception as error:  # defusedxml and expat word hostile and broken documents in many classes
        what = " ".join(str(error).split()) or type(error).__name__
        raise CorpusError(fault("unreadable", f"no XML to be trusted ({what}); copy the owner's again")) from None
    who = root.find("subject")
    if root.tag != "session" or who is None:
        message = f"{root.tag!r:.80} where session with its subject is expected; copy it again"
        raise CorpusError(fault("unreadable", message))
    if not re.fullmatch(r"[0-9]{1,4}", subject := who.get("id", "").strip()) or int(subject) != int(ref.subject):
        message = (
            f"it says subject {subject!r:.40}, the name beside it {ref.subject}: whose it is is not known, compare"
        )
        raise CorpusError(fault("label", message))
    return dict(root.attrib)


def _cut_number(attributes: Mapping[str, str]) -> int:
    """cutNr by session.xml; 0 where it is no number."""
    text = attributes.get("cutNr", "")
    return int(text) if re.fullmatch(r"[0-9]{1,4}", text) else 0


def _number_trials(named: Mapping[str, int], cuts: Mapping[str, int], expected: Container[int]) -> dict[str, int]:
    """The trial of each session: half of its cutNr; by its name where that is no trial, or another's too.

    That cutNr is twice the trial is an inference, and nothing else depends on the number: no session is lost for it.

    Args:
        named: URL -> trial by its name, no two alike.
        cuts: URL -> cutNr, of those with a session.xml; the others go by their names.
        expected: Trials that a subject may have.

    Returns:
        URL -> trial, no two alike; one that is not expected where the name says so.
    """
    by_cut = {url: cut // 2 for url, cut in cuts.items() if cut % 2 == 0 and cut // 2 in expected}
    trials = {**named, **by_cut}
    # Whoever gives way may need the number of another: each round at least one more goes by its name, for good.
    while clashing := {trial for trial, count in Counter(trials.values()).items() if count > 1}:
        trials |= {url: named[url] for url, trial in trials.items() if trial in clashing}
    return trials


def _labels(fault: Fault, attributes: Mapping[str, str]) -> tuple[str, dict[str, float]]:
    """(clip, rating) of a session."""
    if attributes.get("isStim") != "1":
        message = f"isStim is {attributes.get('isStim')!r:.40} where its name says S (emotional); compare the two"
        raise CorpusError(fault("label", message))
    felt = {axis: attributes.get(field, "") for axis, field in _FELT.items()}
    if wrong := [axis for axis, text in felt.items() if not re.fullmatch(r"[0-9]{1,3}", text)]:
        found = ", ".join(f"{_FELT[axis]} {felt[axis]!r:.40}" for axis in wrong)
        raise CorpusError(fault("label", f"{found} where a number from 1 to 9 is expected; copy session.xml again"))
    media = attributes.get("mediaFile", "")
    stimulus = media.replace("\\", "/").rpartition("/")[2].strip()
    if not 0 < len(stimulus) <= 100 or not stimulus.isprintable():
        raise CorpusError(fault("label", f"mediaFile {media!r:.120} names no clip; copy session.xml again"))
    return stimulus, {axis: float(text) for axis, text in felt.items()}


def _seconds(text: str) -> float | None:
    """A positive number of seconds, or None where there is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
