"""SEED-V: channels by name, clips by the seconds that ship, files cut short, and memory for a true one."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mne
import numpy as np
import openpyxl
import pytest

from emod import storage
from emod.catalog import SimulateSettings, load_corpus
from emod.corpora import CorpusError, Problem, Recording, open_corpus, seed_v, simulate_corpus
from emod.corpora.neuroscan_cnt import write_cnt
from emod.simulation import TagSignal
from tests.golden.seed import write_channel_sheet
from tests.golden.seed_v import SECONDS, SHEET, STORED

CHANNELS = 66
START = 900 + 75 * CHANNELS


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One subject, session 1, three clips of 2, 2 and 5 s after rests of 1, 1 and 2 s, and 1 s of rest at the end."""
    root = tmp_path_factory.mktemp("seed_v") / "copy"
    settings = SimulateSettings(subjects=1, sessions=1, trials=3, time_scale=0.02)
    simulate_corpus("seed_v", str(root), settings, TagSignal())
    return root


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "copy"))


def cnt(root: Path) -> Path:
    (path,) = (root / "EEG_raw").glob("1_1_*.cnt")
    return path


def patch(root: Path, kind: str, at: int, value: float) -> None:
    with cnt(root).open("r+b") as stream:
        stream.seek(at)
        stream.write(struct.pack(kind, value))


def patch_label(root: Path, row: int, label: str) -> None:
    with cnt(root).open("r+b") as stream:
        stream.seek(900 + 75 * row)
        stream.write(label.encode().ljust(10, b"\0"))


def read(root: Path) -> tuple[list[str], list[Problem]]:
    corpus = open_corpus("seed_v", root)
    return [trial.trial for trial in corpus.trials()], corpus.problems


def recording(root: Path) -> Recording:
    (one,) = open_corpus("seed_v", root).recordings()
    return one


def spans(root: Path) -> list[tuple[int, int]]:
    return [(span.start, span.stop) for span in recording(root).spans]


ALL = ["1", "2", "3"]
SPANS = [(1000, 3000), (4000, 6000), (7000, 12000)]


def test_published_seconds_are_transcribed_twice() -> None:
    catalog = load_corpus("seed_v")
    assert catalog.trial_start_s is not None
    total = 0
    for session, text in SECONDS.items():
        numbers = [int(word) for word in text.split()]
        starts, ends = numbers[:15], numbers[15:]
        assert list(catalog.trial_start_s[session]) == starts
        lengths = [end - start for start, end in zip(starts, ends, strict=True)]
        assert [catalog.seconds_of(row, session) for row in range(15)] == lengths
        total += sum(lengths)
        plan = next(
            plan
            for plan in open_corpus("seed_v", "nowhere").plan_recordings(SimulateSettings(subjects=1))
            if plan.session == session
        )
        at = np.cumsum([0.0, *(passage.duration_s for passage in plan.pieces[0])]).tolist()
        assert at[1:-1:2] == starts
        assert at[2:-1:2] == ends
    assert total == 7359
    assert total * catalog.subjects == 117_744  # windows of 1 s in the paper


def test_recording_is_the_whole_file_in_one_piece(root: Path) -> None:
    one = recording(root)
    assert one.problems == ()
    assert one.eeg_uv.shape == (62, 13_000)
    assert one.pieces == ((0, 13_000),)
    assert spans(root) == SPANS
    assert [span.stimulus for span in one.spans] == ["s1c01", "s1c02", "s1c03"]
    assert [span.emotion for span in one.spans] == ["happy", "fear", "neutral"]


def test_samples_are_those_of_mne(root: Path) -> None:
    one = recording(root)
    raw = mne.io.read_raw_cnt(cnt(root), data_format="int32", verbose="error")
    assert raw.ch_names == STORED
    volts = raw.get_data(picks=[name.upper() for name in one.channels])
    np.testing.assert_allclose(one.eeg_uv, volts * 1e6, rtol=2.0**-22, atol=1e-9)


def test_mastoids_and_eyes_are_left_out_wherever_they_lie(root: Path) -> None:
    """Rows are exchanged in the file, names with them: what is read stays the same, and the workbook differs."""
    before = recording(root).eeg_uv
    content = bytearray(cnt(root).read_bytes())
    order = np.random.default_rng(0).permutation(CHANNELS)
    table = np.frombuffer(content, np.uint8, 75 * CHANNELS, 900).reshape(CHANNELS, 75)[order].copy()
    end = struct.unpack_from("<i", content, 886)[0]
    samples = np.frombuffer(content, "<i4", (end - START) // 4, START).reshape(-1, CHANNELS)[:, order].copy()
    content[900:START], content[START:end] = table.tobytes(), samples.tobytes()
    cnt(root).write_bytes(bytes(content))
    after = recording(root)
    np.testing.assert_array_equal(after.eeg_uv, before)
    (problem,) = after.problems  # once, not for each trial
    assert (problem.source, problem.trial, problem.code) == (str(cnt(root)), None, "layout")
    corpus = open_corpus("seed_v", root)
    assert corpus.peek(corpus.references()[0]).problems == (problem,)
    (root / "Channel Order.xlsx").unlink()
    assert recording(root).problems == ()


class TestChannelOrder:
    """Channel Order.xlsx ships with a copy; what a recording's own header says is used, a difference is said."""

    def write(self, root: Path, names: list[str]) -> list[Problem]:
        write_channel_sheet(root / "Channel Order.xlsx", names)
        before = recording(root).eeg_uv
        trials, problems = read(root)
        assert trials == ALL
        np.testing.assert_array_equal(recording(root).eeg_uv, before)
        return problems

    @pytest.mark.parametrize("names", [SHEET, STORED, ["Channel", *SHEET], [name.title() for name in SHEET]])
    def test_same_order_is_silent(self, root: Path, names: list[str]) -> None:
        assert self.write(root, names) == []

    def test_another_order_is_said_of_each_recording(self, root: Path) -> None:
        (problem,) = self.write(root, [SHEET[1], SHEET[0], *SHEET[2:]])
        assert (problem.source, problem.subject, problem.code) == (str(cnt(root)), "1", "layout")
        assert "2 electrodes are not in the order of Channel Order.xlsx (Fp1 for Fpz)" in problem.message

    @pytest.mark.parametrize("names", [SHEET[1:], [*SHEET, "FP1"], ["x"], []])
    def test_what_lists_no_electrodes_is_said_once(self, root: Path, names: list[str]) -> None:
        (problem,) = self.write(root, names)
        assert (problem.source, problem.code) == (str(root / "Channel Order.xlsx"), "label_table")

    def test_what_is_no_workbook_is_said_once(self, root: Path) -> None:
        (root / "Channel Order.xlsx").write_bytes(b"PK")
        trials, (problem,) = read(root)
        assert (trials, problem.code) == (ALL, "label_table")

    def test_it_is_opened_once(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        opened: list[str] = []
        read_bytes = storage.read_bytes

        def watched(url: str, **options: Any) -> bytes:
            opened.append(url)
            return read_bytes(url, **options)

        monkeypatch.setattr(storage, "read_bytes", watched)
        for n in (2, 3):
            shutil.copy(cnt(root), root / "EEG_raw" / f"{n}_1_20180804.cnt")
        corpus = open_corpus("seed_v", root)
        for ref in corpus.references():
            corpus.peek(ref)
        assert len([url for url in opened if url.endswith("Channel Order.xlsx")]) == 1


@pytest.mark.parametrize(("row", "label"), [(0, "FP9"), (0, "FPZ"), (33, "Q"), (0, "")])
def test_electrode_that_is_missing_or_twice_refuses_the_file(root: Path, row: int, label: str) -> None:
    assert STORED[33] == "TP7"
    patch_label(root, row, label)
    trials, (problem,) = read(root)
    assert trials == []
    assert (problem.trial, problem.code) == (None, "missing")


@pytest.mark.parametrize(("name", "label"), [("VEO", "VEOG"), ("M1", "A1"), ("HEO", "")])
def test_names_of_other_channels_do_not_matter(root: Path, name: str, label: str) -> None:
    patch_label(root, STORED.index(name), label)
    assert read(root) == (ALL, [])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("<H", 376, 500), "shape"),
        (("<H", 376, 0), "unreadable"),
        (("<H", 370, 0), "unreadable"),
        (("<H", 370, 65535), "unreadable"),
        (("<f", 900 + 59, 0.0), "unreadable"),
        (("<f", 900 + 59, -6.1), "unreadable"),
        (("<f", 900 + 59, float("nan")), "unreadable"),
        (("<f", 900 + 71, float("inf")), "unreadable"),
        (("<B", 0, 0), "unreadable"),
    ],
)
def test_file_whose_header_lies_is_refused(root: Path, change: tuple[str, int, float], code: str) -> None:
    patch(root, *change)
    corpus = open_corpus("seed_v", root)
    (ref,) = corpus.references()
    for method in (corpus.read, corpus.peek):
        with pytest.raises(CorpusError) as caught:
            method(ref)
        assert (caught.value.problem.trial, caught.value.problem.code) == (None, code)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [("<f", 900 + 59, 5.0), ("<i", 864, 0), ("<i", 864, 77), ("<i", 886, 0), ("<i", 886, -1)]
)
def test_header_that_contradicts_itself_is_read_and_said(root: Path, change: tuple[str, int, float]) -> None:
    before = recording(root).eeg_uv
    patch(root, *change)
    trials, (problem,) = read(root)
    assert trials == ALL
    assert problem.code == "layout"
    np.testing.assert_array_equal(recording(root).eeg_uv[1:], before[1:])


class TestCutShort:
    """A transfer that stopped is noticed; clips that are whole stay."""

    @pytest.mark.parametrize(
        ("left_s", "whole"), [(12.999, ALL), (12.5, ALL), (11.999, ["1", "2"]), (6.0, ["1", "2"]), (3.0, ["1"])]
    )
    def test_whole_trials_are_kept(self, root: Path, left_s: float, whole: list[str]) -> None:
        before = recording(root).eeg_uv
        with cnt(root).open("r+b") as stream:
            stream.truncate(START + round(left_s * 1000) * CHANNELS * 4 + 11)
        trials, problems = read(root)
        assert trials == whole
        assert [(problem.trial, problem.code) for problem in problems] == [
            (None, "unreadable"),
            *((trial, "shape") for trial in ALL if trial not in whole),
        ]
        assert f"{13 - left_s:.1f} of 13.0 s are missing" in problems[0].message
        np.testing.assert_array_equal(recording(root).eeg_uv, before[:, : round(left_s * 1000)])
        corpus = open_corpus("seed_v", root)
        header = corpus.peek(corpus.references()[0])
        assert list(header.trial_s) == whole
        assert header.problems == tuple(problems)

    @pytest.mark.parametrize("left", [0, 100, 900, START - 1, START, START + 1000])
    def test_without_a_whole_trial_nothing_is_left(self, root: Path, left: int) -> None:
        with cnt(root).open("r+b") as stream:
            stream.truncate(left)
        trials, problems = read(root)
        assert trials == []
        assert problems[0].code == "unreadable"

    def test_event_table_alone_is_no_loss(self, root: Path) -> None:
        with cnt(root).open("r+b") as stream:
            stream.truncate(START + 13_000 * CHANNELS * 4)
        assert read(root) == (ALL, [])


class TestTimes:
    """trial_start_end_timestamp.txt ships with a copy and wins."""

    def write(self, root: Path, text: str) -> tuple[list[tuple[int, int]], list[Problem]]:
        (root / "trial_start_end_timestamp.txt").write_text(text)
        corpus = open_corpus("seed_v", root)
        corpus.references()
        return spans(root), corpus.problems

    def test_its_seconds_are_used(self, root: Path) -> None:
        text = "session 1 :\r\n start_second : [0, 4.25,9]\r\n\r\nend_second:[1,  6 , 12.125]"
        assert self.write(root, text) == ([(0, 1000), (4250, 6000), (9000, 12125)], [])

    @pytest.mark.parametrize(
        ("starts", "ends"),
        [
            ("1, 4", "3, 6"),
            ("1, 4, 7, 9", "3, 6, 8, 10"),
            ("1, 4, 7", "3, 6"),
            ("4, 1, 7", "6, 3, 12"),
            ("1, 2, 7", "3, 6, 12"),
            ("1, 4, 7", "1, 6, 12"),
            ("1, 4, seven", "3, 6, 12"),
            ("1, 4, -7", "3, 6, 12"),
            ("1, 4, 1e9", "3, 6, 12"),
            ("1, 4, nan", "3, 6, 12"),
            ("1, 4, 7 + 0", "3, 6, 12"),
            ("1, 4, __import__('os').abort()", "3, 6, 12"),
            ("1, 4, 9999999", "3, 6, 12"),
            ("", ""),
        ],
    )
    def test_what_is_no_rising_list_of_numbers_is_not_used(self, root: Path, starts: str, ends: str) -> None:
        found, (problem,) = self.write(root, f"Session 1:\nstart_second: [{starts}]\nend_second: [{ends}]\n")
        assert found == SPANS
        assert (problem.code, Path(problem.source).name) == ("label_table", "trial_start_end_timestamp.txt")

    def test_other_text_is_not_used(self, root: Path) -> None:
        for text in ("", "Session 2:\nstart_second: [1, 4, 7]\nend_second: [3, 6, 12]", "[" * 10_000):
            found, (problem,) = self.write(root, text)
            assert found == SPANS
            assert problem.code == "label_table"

    def test_absence_is_fine(self, root: Path) -> None:
        (root / "trial_start_end_timestamp.txt").unlink()
        assert spans(root) == SPANS
        assert read(root) == (ALL, [])

    def test_link_out_of_the_copy_is_not_followed(self, root: Path, tmp_path: Path) -> None:
        path = root / "trial_start_end_timestamp.txt"
        (tmp_path / "other.txt").write_text("Session 1:\nstart_second: [0, 4, 7]\nend_second: [1, 6, 12]")
        path.unlink()
        path.symlink_to(tmp_path / "other.txt")
        assert spans(root) == SPANS
        assert {problem.code for problem in read(root)[1]} >= {"label_table"}

    def test_clip_beyond_the_end_is_left_out(self, root: Path) -> None:
        found, _ = self.write(root, "Session 1:\nstart_second: [1, 4, 7]\nend_second: [3, 6, 99]")
        assert found == SPANS[:2]
        assert [(problem.trial, problem.code) for problem in read(root)[1]] == [("3", "shape")]

    def test_real_copy_is_compared_with_the_published_seconds(self, root: Path) -> None:
        """A copy that nobody simulated: its own table wins, and says where it differs."""
        (root / "SIMULATED.json").unlink()
        lines = []
        for session, text in SECONDS.items():
            numbers = text.split()
            starts, ends = ", ".join(numbers[:15]), ", ".join(numbers[15:])
            lines += [f"Session {session}:", f"start_second: [{starts}]", f"end_second: [{ends}]"]
        path = root / "trial_start_end_timestamp.txt"
        path.write_text("\n".join(lines))
        corpus = open_corpus("seed_v", root)
        corpus.references()
        assert corpus.problems == []
        path.write_text("\n".join(lines).replace("[30, 132, 287", "[1, 132, 288").replace("[102, 228", "[3, 228"))
        corpus = open_corpus("seed_v", root)
        (ref,) = corpus.references()
        (problem,) = corpus.problems
        assert problem.code == "label_disagreement"
        assert "session 1" in problem.message
        assert "trials [1, 3]" in problem.message
        assert corpus.peek(ref).trial_s == {"1": 2.0}


class TestLabels:
    """emotion_label_and_stimuli_order.xlsx ships with a copy and wins."""

    def write(self, root: Path, rows: list[list[Any]]) -> tuple[list[str | None], list[Problem]]:
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        book.save(root / "emotion_label_and_stimuli_order.xlsx")
        corpus = open_corpus("seed_v", root)
        return [trial.emotion for trial in corpus.trials()], corpus.problems

    def rows(self) -> list[list[Any]]:
        emotions = load_corpus("seed_v").trial_emotions
        assert emotions is not None
        return [[None, *(word.title() for word in words)] for words in emotions.values()]

    def test_disagreement_is_listed_and_the_workbook_wins(self, root: Path) -> None:
        rows = self.rows()
        rows[0][2] = "Disgust"
        found, (problem,) = self.write(root, [["Session 1", *range(1, 16)], *rows])
        assert found == ["happy", "disgust", "neutral"]
        assert problem.code == "label_disagreement"
        assert "trials [2]" in problem.message

    def test_codes_are_read_where_there_are_no_words(self, root: Path) -> None:
        codes = ["disgust", "fear", "sad", "neutral", "happy"]
        rows = [["label", *(codes.index(word.lower()) for word in row[1:])] for row in self.rows()]
        assert self.write(root, rows) == (["happy", "fear", "neutral"], [])
        rows[0][1:4] = [0.0, 2, 4]
        found, (problem,) = self.write(root, rows)
        assert found == ["disgust", "sad", "happy"]
        assert problem.code == "label_disagreement"

    @pytest.mark.parametrize("rows", [[], [["Happy"] * 15], [["Happy"] * 15] * 4, [["Joy"] * 15] * 3, [["x"]]])
    def test_other_tables_are_not_used(self, root: Path, rows: list[list[Any]]) -> None:
        found, (problem,) = self.write(root, rows)
        assert found == ["happy", "fear", "neutral"]
        assert problem.code == "label_table"

    def test_what_is_no_workbook_is_not_used(self, root: Path) -> None:
        path = root / "emotion_label_and_stimuli_order.xlsx"
        path.write_bytes(b"PK")
        assert [problem.code for problem in read(root)[1]] == ["label_table"]
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
            bomb.writestr("xl/workbook.xml", bytes(2**26))
        assert [problem.code for problem in read(root)[1]] == ["label_table"]
        path.unlink()
        assert read(root) == (ALL, [])


def test_peek_reads_the_header_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed_v, "read_cnt_samples", lambda *_: pytest.fail("decoded"))
    corpus = open_corpus("seed_v", root)
    header = corpus.peek(corpus.references()[0])
    assert (header.channels, header.sfreq_hz, header.problems) == (62, 1000.0, ())
    assert header.trial_s == {"1": 2.0, "2": 2.0, "3": 5.0}


def test_session_number_is_not_the_order_of_dates(root: Path, tmp_path: Path) -> None:
    simulate_corpus(
        "seed_v", str(tmp_path / "all"), SimulateSettings(subjects=1, trials=1, time_scale=0.01), TagSignal()
    )
    refs = open_corpus("seed_v", tmp_path / "all").references()
    dates = [Path(ref.source).stem.split("_")[2] for ref in refs]
    assert [ref.session for ref in refs] == ["1", "2", "3"]
    assert dates != sorted(dates)


def test_session_twice_is_listed(root: Path) -> None:
    second = cnt(root).with_name("1_1_20301231.cnt")
    shutil.copy(cnt(root), second)
    trials, (problem,) = read(root)
    assert trials == ALL
    assert (problem.source, problem.code) == (str(second), "duplicate")


def test_faults_of_the_store_are_not_faults_of_the_object(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unplugged(*_: Any, **__: Any) -> Any:
        raise OSError(5, "Input/output error")

    corpus = open_corpus("seed_v", root)
    monkeypatch.setattr(storage, "open_binary", unplugged)
    with pytest.raises(OSError, match="Input/output error"):
        list(corpus.trials())


CHILD = """
import json, re, sys
from emod.catalog import SignalSettings, load_corpus
from emod.corpora import open_corpus
from emod.ingest import make_windows

def peak_mb():
    # Not ru_maxrss, which begins at the peak of whoever started this process.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024

corpus = open_corpus("seed_v", sys.argv[1], strict=True)
(ref,) = corpus.references()
found = {"start_mb": peak_mb()}
recording = corpus.read(ref)
found |= {"read_mb": peak_mb(), "samples": recording.eeg_uv.size, "trials": len(recording.spans)}
found["step"] = float(abs(recording.eeg_uv[5, 1234567] - recording.eeg_uv[5, 1234566]))
made = make_windows(recording, load_corpus("seed_v"), SignalSettings())
found |= {"windows_mb": peak_mb(), "windows": len(made.rows), "stages": made.cleaning["stages"]}
print(json.dumps(found))
"""


@pytest.mark.long
def test_true_file_is_read_and_cleaned_in_bounded_memory(tmp_path: Path) -> None:
    """66 channels at 1000 Hz for 3369 s, 0.9 GB: peak memory is at most 3 x the decoded float64 size + 600 MB."""
    (tmp_path / "EEG_raw").mkdir()
    path = tmp_path / "EEG_raw" / "1_1_20180804.cnt"
    rng = np.random.default_rng(0)
    mixing = rng.normal(0, 10, (CHANNELS, 12))

    def blocks() -> Iterator[np.ndarray]:
        for _ in range(3369):
            sources = np.cumsum(rng.normal(0, 1, (12, 1000)), axis=1) / 6
            eeg_uv = mixing @ (sources - sources.mean(axis=1, keepdims=True)) + rng.normal(0, 5, (CHANNELS, 1000))
            eeg_uv[:5, 300:500] += 150 * np.hanning(200)  # a blink a second, at the front
            yield np.rint(eeg_uv / 0.0298).astype(np.int32)

    with path.open("w+b") as stream:
        write_cnt(stream, STORED, 1000, 3125 / 512, blocks())
    assert path.stat().st_size > 0.88e9
    environment = os.environ | {"PYTHONPATH": str(Path(seed_v.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    path.unlink()
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    decoded_mb = 62 * 3369 * 1000 * 8 / 2**20
    print(json.dumps(found | {"decoded_mb": decoded_mb, "bound_mb": 3 * decoded_mb + 600}))
    assert (found["samples"], found["trials"]) == (62 * 3_369_000, 15)
    assert "ica" in found["stages"]
    assert found["windows"] > 200
    assert found["read_mb"] <= found["windows_mb"] <= 3 * decoded_mb + 600
