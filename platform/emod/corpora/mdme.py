"""MDME (Yang et al. 2024, Scientific Data 11:847): one folder a subject, with datas.mat and a table of ratings.

``eeg_datas`` is a row per electrode and a last row with the clip that each sample belongs to: trials are found by that
row and nothing else. The resting state, clip 40, is left out where it is stored. Its rows are not named in the file,
and two orders are in circulation: the reader assumes the catalog's, looks where the blinks are and says so if they are
where the other order has Fp1 and Fp2. GSR, PPG, features, dominance and the discrete labels are not read.
"""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy.io
from scipy import signal

from emod import storage
from emod.catalog import SimulateSettings
from emod.corpora.contract import Corpus, CorpusError, Problem, Recording, RecordingRef
from emod.corpora.cut_trials import CutTrial, join_trials
from emod.corpora.inventory import find_objects, table_ships
from emod.corpora.marker import scaled_seconds
from emod.corpora.mat5_walk import WalkError, variables
from emod.corpora.planning import draw_rating, generator, rating_at
from emod.signal import canonical_names
from emod.simulation import Passage, RecordingPlan

__all__ = ["Mdme"]

_OBJECT = "datas.mat"
_RATINGS = "Arousal_Valence.csv"
_SIGNALS = "eeg_datas"
_REST = 40  # clip id of the resting state
_REST_S = 60.0
_MAX_OBJECT = 300_000_000  # published objects have some 20 MB
_MAX_VARIABLE = 600_000_000
_MAX_RECORDING_S = 7200.0
_MAX_TABLE_BYTES = 64 * 1024
_RATING_STEP = 1.0
_BLINK_HZ = (1.0, 8.0)
_BLINK_RATIO = 1.5  # how much larger shared slow deflections must be where the other order has Fp1 and Fp2
_BLINK_PEAKS = 3.5  # their 98th percentile over their 80th; below 3 without blinks

Eeg = npt.NDArray[np.float32]
Report = Callable[[int | None, str, str], None]


class Mdme(Corpus):
    """73 subjects x 32 clips of positive, negative and mixed emotions, at 300 Hz."""

    name = "mdme"

    def _inventory(self) -> tuple[list[RecordingRef], list[Problem]]:
        found, problems = find_objects(self, "", rf"(?P<subject>\d{{1,3}})/{_OBJECT}", f"1/{_OBJECT}")
        refs: dict[int, RecordingRef] = {}
        for match, url, size in found:
            number = int(match["subject"])
            if first := refs.get(number):
                message = f"it lies in {first.source} too, which is used; keep one of them"
                problems.append(Problem(url, str(number), None, "duplicate", message))
                continue
            refs[number] = RecordingRef(self.name, str(number), "1", url, size)
        return [refs[number] for number in sorted(refs)], problems

    def read(self, ref: RecordingRef) -> Recording:
        """Decodes one datas.mat and its table of ratings (contract of `Corpus.read`)."""
        problems: list[Problem] = []

        def report(clip: int | None, code: str, message: str) -> None:
            problems.append(ref.problem(code, message, None if clip is None else str(clip)))

        ratings = self._ratings(ref, problems)
        stored = self._load(ref)
        spans = self._find_clips(stored[-1], report)
        eeg_uv = stored[:-1]
        self._watch_order(eeg_uv, report)
        trials = []
        for clip, (start, stop) in sorted(spans.items()):
            try:
                (rating,) = ratings.get(clip, [])
            except ValueError:
                message = f"{_RATINGS} has {ratings.get(clip) or 'no row'} for it; give it one row"
                report(clip, "label", message)
                continue
            if (stop - start) % round(self.catalog.sfreq_hz):
                report(clip, "length", f"{stop - start} samples, published whole seconds; kept, compare it")
            trials.append(CutTrial(str(clip), f"clip{clip}", eeg_uv[:, start:stop], rating=rating))
        return join_trials(self, ref, trials, problems)

    def _load(self, ref: RecordingRef) -> Eeg:
        """(rows, T) of ``eeg_datas``, checked for type and shape before it is decoded.

        Raises:
            CorpusError: If the object holds anything else.
        """

        def refusal(code: str, what: str) -> CorpusError:
            return CorpusError(ref.problem(code, f"{what}; copy the owner's object again"))

        if ref.size_bytes > _MAX_OBJECT:
            raise refusal("shape", f"{ref.size_bytes} bytes, published about 20 MB")
        rows, second = len(self.channels) + 1, round(self.catalog.sfreq_hz)
        longest = round(_MAX_RECORDING_S) * second
        names: list[str] = []
        stored: Eeg | None = None
        try:
            with storage.open_binary(ref.source) as stream:
                for walker in variables(stream):
                    matrix = walker.enter(at_most=_MAX_VARIABLE)
                    names.append(matrix.name)
                    if matrix.name != _SIGNALS:
                        continue
                    if not matrix.numeric or matrix.kind not in ("single", "double"):
                        kind = matrix.kind if matrix.real else f"complex {matrix.kind}"
                        raise refusal("dtype", f"{_SIGNALS} is {kind}, published single")
                    if len(matrix.shape) != 2 or matrix.shape[0] != rows or not second <= matrix.shape[1] <= longest:
                        expected = f"{rows} rows of 1 to {_MAX_RECORDING_S:g} s"
                        raise refusal("shape", f"{_SIGNALS} is {matrix.shape}, expected {expected}")
                    stored = walker.load(matrix, at_most=matrix.count).astype(np.float32, copy=False)
                    walker.finish()
        except WalkError as error:
            raise refusal("unreadable", f"not a whole MATLAB 5 file ({error})") from None
        if stored is None:
            raise refusal("missing", f"no variable {_SIGNALS} among {names[:8]}")
        return stored

    def _find_clips(self, ids: Eeg, report: Report) -> dict[int, tuple[int, int]]:
        """Clip -> its samples, of those that lie in one stretch; says what the other samples are."""
        bounds = np.concatenate([[0], np.flatnonzero(ids[1:] != ids[:-1]) + 1, [len(ids)]])
        values = ids[bounds[:-1]]
        clips = range(self.trials_expected)
        strange = ~np.isin(values, [*clips, _REST])
        if strange.any():
            first, count = bounds[:-1][strange][0], np.diff(bounds)[strange].sum()
            what = f"{count} samples carry no clip of 0..{clips[-1]} or {_REST}, the first {ids[first]:g} at {first}"
            report(None, "label", f"{what}; they are left out, copy the owner's object again")
        if _REST in values:
            report(_REST, "left_out", "the resting state is no trial")
        spans = {}
        for clip in clips:
            runs = [(int(bounds[run]), int(bounds[run + 1])) for run in np.flatnonzero(values == clip)]
            if not runs:
                report(clip, "missing", "no sample carries it; copy the owner's object again")
            elif len(runs) > 1:
                report(clip, "label", f"it lies in {len(runs)} stretches; copy the owner's object again")
            elif (length := runs[0][1] - runs[0][0]) < self.catalog.sfreq_hz:
                report(clip, "shape", f"{length} samples are less than a second; copy the owner's object again")
            else:
                spans[clip] = runs[0]
        return spans

    def _watch_order(self, eeg_uv: Eeg, report: Report) -> None:
        """Says so if blinks are where the other order of rows has Fp1 and Fp2."""
        assert self.catalog.channels_otherwise is not None
        other = canonical_names(self.catalog.channels_otherwise)
        assumed, otherwise = ([names.index(name) for name in ("Fp1", "Fp2")] for names in (self.channels, other))
        slow = signal.butter(2, _BLINK_HZ, "bandpass", fs=self.catalog.sfreq_hz, output="sos")
        sizes = []
        for rows in (assumed, otherwise):
            pair = np.nan_to_num(eeg_uv[rows].astype(np.float64), posinf=0.0, neginf=0.0)
            left, right = signal.sosfiltfilt(slow, pair)
            shared = np.where(left * right > 0, np.minimum(np.abs(left), np.abs(right)), 0.0)
            sizes.append(np.percentile(shared, (98, 80)))
        (here, _), (there, usual) = sizes
        if there > _BLINK_RATIO * here and there > _BLINK_PEAKS * usual:
            message = (
                f"shared slow deflections of {there:.3g} uV in rows {otherwise}, {here:.3g} in rows {assumed}: blinks"
            )
            message += f" are where the order {', '.join(other[:3])} ... has Fp1 and Fp2"
            report(
                None, "layout", f"{message}; kept as {', '.join(self.channels[:3])} ..., compare the recorder's papers"
            )

    def _ratings(self, ref: RecordingRef, problems: list[Problem]) -> dict[int, list[dict[str, float]]]:
        """Clip -> its ratings as written; any number but one is as bad as none.

        Raises:
            CorpusError: If the table is missing or is no table of numbers.
        """
        folder = posixpath.dirname(ref.source)
        url = storage.join(folder, posixpath.basename(folder), _RATINGS)

        def problem(code: str, what: str) -> Problem:
            return Problem(url, ref.subject, None, code, f"{what}; copy the owner's table again")

        if not table_ships(self.root, url):
            raise CorpusError(problem("missing", "no such table, or one that is no plain file of this copy"))
        if (size := storage.size_bytes(url)) > _MAX_TABLE_BYTES:
            raise CorpusError(problem("label_table", f"{size} bytes for a table of {self.catalog.trials} rows"))
        try:
            text = storage.read_bytes(url, at_most=_MAX_TABLE_BYTES).decode("utf-8-sig")
            lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
        except (UnicodeDecodeError, csv.Error) as error:
            raise CorpusError(problem("label_table", f"not a CSV table ({error})")) from None
        ratings: dict[int, list[dict[str, float]]] = {}
        unread = []
        for number, line in enumerate(lines, start=1):
            try:
                clip, arousal, valence, _ = map(float, line)
                if not clip.is_integer():
                    raise ValueError(clip)
            except ValueError:
                unread.append(number)
                continue
            ratings.setdefault(int(clip), []).append({"valence": valence, "arousal": arousal})
        if 1 in unread:  # a heading, which the published table has not: its columns may mean anything
            what = f"its first line is {','.join(lines[0])[:80]!r}, published clip, arousal, valence, dominance"
            raise CorpusError(problem("label_table", what))
        if unread:
            problems.append(problem("label_table", f"lines {unread[:8]} are not four numbers and are left out"))
        return ratings

    def _plan_recording(self, settings: SimulateSettings, subject: int, session: int) -> RecordingPlan:
        scale = self.catalog.rating_scale
        assert scale is not None
        pieces: list[tuple[Passage, ...]] = []
        for clip in range(settings.trials or self.catalog.trials):
            rating = draw_rating(settings.brain.seed, self.name, str(subject), clip, scale, _RATING_STEP)
            seconds = scaled_seconds(self.catalog.seconds_of(clip), settings.time_scale)
            pieces.append((Passage(seconds, str(clip), f"clip{clip}", *self.place_rating(rating)),))
        pieces[0] = (Passage(scaled_seconds(_REST_S, settings.time_scale)), *pieces[0])
        return self._fill_plan(str(subject), str(session), pieces)

    def write_recording(self, plan: RecordingPlan, pieces_uv: list[npt.NDArray[np.float64]]) -> None:
        """Writes one subject's folder, the resting state first; GSR and PPG are noise, features and words are zero."""
        rest = round(plan.pieces[0][0].duration_s * plan.sfreq_hz)
        ids = [np.full(rest, _REST)]
        ids += [
            np.full(piece_uv.shape[1] - (0 if row else rest), int(piece[-1].trial or 0))
            for row, (piece, piece_uv) in enumerate(zip(plan.pieces, pieces_uv, strict=True))
        ]
        clip_of = np.concatenate(ids)
        content: dict[str, npt.NDArray[np.generic]] = {
            _SIGNALS: np.concatenate([*[np.concatenate(pieces_uv, axis=1)], clip_of[None]]).astype(np.float32)
        }
        pieces_uv.clear()
        rng = generator(0, plan.subject, "others")
        for name, rate_hz in (("gsr_datas", 4), ("gsr_fea_datas", 51), ("ppg_datas", 100), ("ppg_fea_datas", 45)):
            count = round(len(clip_of) * rate_hz / plan.sfreq_hz)
            nearest = clip_of[np.minimum(np.arange(count) * plan.sfreq_hz // rate_hz, len(clip_of) - 1).astype(int)]
            content[name] = np.stack([rng.normal(0, 1, count).round(3), nearest])
        content["dis_label"] = np.zeros((self.catalog.trials, 10))
        buffer = io.BytesIO()
        scipy.io.savemat(buffer, content, do_compression=True)
        storage.write_bytes(storage.join(self.root, plan.subject, _OBJECT), buffer.getvalue())
        url = storage.join(self.root, plan.subject, plan.subject, _RATINGS)
        storage.write_bytes(url, self._table(plan).encode())

    def _table(self, plan: RecordingPlan) -> str:
        """Clip, arousal, valence, dominance of each clip, in order of presentation."""
        scale = self.catalog.rating_scale
        assert scale is not None
        rng = generator(0, plan.subject, "presentation")
        text = io.StringIO(newline="")
        out = csv.writer(text)
        for row in rng.permutation(len(plan.pieces)):
            shown = plan.pieces[row][-1]
            assert shown.arousal is not None
            assert shown.valence is not None
            places = (shown.arousal, shown.valence)
            answers = [int(rating_at(place, scale, _RATING_STEP)) for place in places]
            out.writerow([shown.trial, *answers, int(rng.integers(1, 10))])
        return text.getvalue()

    def write_tables(self, plans: list[RecordingPlan]) -> None:
        """Nothing: each subject has a table of its own."""
