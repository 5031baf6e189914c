"""MAHNOB-HCI: one sitting from many objects, clips by Status, labels by session.xml, damage by name."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import edfio
import fsspec
import mne
import numpy as np
import pytest

from emod import storage
from emod.catalog import SimulateSettings, load_corpus
from emod.corpora import CorpusError, Problem, Recording, mahnob_hci, open_corpus, simulate_corpus
from emod.corpora.doctor import Diagnosis, examine
from emod.simulation import TagSignal

SETTINGS = SimulateSettings(subjects=1, trials=3, time_scale=0.03)
STATUS_ROW = 46


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One subject, three sessions; clips of two or three seconds."""
    root = tmp_path_factory.mktemp("mahnob") / "copy"
    simulate_corpus("mahnob_hci", str(root), SETTINGS, TagSignal())
    return root


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "copy"))


def bdf(root: Path, trial: int = 2) -> Path:
    return root / "Sessions" / str(2 * trial) / f"Part_1_S_Trial{trial}_emotion.bdf"


def edit_xml(root: Path, old: str, new: str, trial: int = 2) -> None:
    path = bdf(root, trial).with_name("session.xml")
    text = path.read_bytes().decode()
    changed = re.sub(old, new.replace("\\", r"\\"), text, count=1)
    assert changed != text
    path.write_bytes(changed.encode())


def edit_bdf(root: Path, at: int, text: str) -> None:
    content = bytearray(bdf(root).read_bytes())
    content[at : at + len(text)] = text.encode("latin-1")
    bdf(root).write_bytes(bytes(content))


def edit_status(root: Path, pulses: list[tuple[int, int]], code_of: Sequence[int] = ()) -> None:
    """Status with a code of 268, or those given, in the spans given and none elsewhere."""
    content = bytearray(bdf(root).read_bytes())
    seconds = int(content[236:244])
    codes = np.zeros(256 * seconds, int)
    for (start, stop), code in zip(pulses, code_of or [268] * len(pulses), strict=True):
        codes[start:stop] = code
    body = np.frombuffer(content, np.uint8, offset=256 * 48).reshape(seconds, 47, 256, 3).copy()
    body[:, STATUS_ROW, :, 0] = (codes % 256).reshape(seconds, 256)
    body[:, STATUS_ROW, :, 1] = (codes // 256).reshape(seconds, 256)
    bdf(root).write_bytes(bytes(content[: 256 * 48]) + body.tobytes())


def read(root: Path) -> tuple[list[str], list[Problem]]:
    corpus = open_corpus("mahnob_hci", root)
    return [trial.trial for trial in corpus.trials()], corpus.problems


def recording(root: Path) -> Recording:
    (one,) = open_corpus("mahnob_hci", root).recordings()
    return one


def test_catalog_counts_are_the_published_ones() -> None:
    catalog = load_corpus("mahnob_hci")
    assert catalog.subjects * catalog.trials - sum(gap.count for gap in catalog.missing) == 527
    assert set(range(1, 31)) - set(catalog.subject_numbers) == {12, 15, 26}
    assert all(34 <= seconds <= 117 for seconds in catalog.trial_s)
    assert {gap.subject: gap.count for gap in catalog.missing} == {3: 3, 9: 6, 16: 4}


def test_sitting_is_one_recording_of_whole_files(root: Path) -> None:
    one = recording(root)
    assert one.problems == ()
    assert [span.trial for span in one.spans] == ["1", "2", "3"]
    for span, piece in zip(one.spans, one.pieces, strict=True):
        assert span.baseline == (piece[0], piece[0] + 30 * 256)
        assert span.start == piece[0] + 30 * 256
        assert piece[1] - span.stop == 30 * 256
        assert span.source == str(bdf(root, int(span.trial)))
    assert one.source == str(bdf(root, 1))


def test_samples_are_those_of_independent_readers(root: Path) -> None:
    one = recording(root)
    for span, piece in zip(one.spans, one.pieces, strict=True):
        theirs = edfio.read_bdf(span.source)
        raw = mne.io.read_raw_bdf(span.source, verbose="error")
        assert [name for name in raw.ch_names[:32]] == list(one.channels)
        volts = raw.get_data(picks=list(one.channels))
        for row, name in enumerate(one.channels):
            ours = one.eeg_uv[row, slice(*piece)]
            np.testing.assert_allclose(ours, theirs.get_signal(name).data, rtol=2.0**-23)
            np.testing.assert_allclose(ours, volts[row] * 1e6, rtol=2.0**-23)


def test_offsets_are_those_of_unreferenced_electrodes(root: Path) -> None:
    offsets_uv = recording(root).eeg_uv.mean(axis=1)
    assert np.abs(offsets_uv).max() > 10_000
    assert np.ptp(offsets_uv) > 10_000


def test_listing_opens_no_object(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "open_binary", lambda url: pytest.fail(f"opened {url}"))
    (ref,) = open_corpus("mahnob_hci", root, strict=True).references()
    assert len(ref.urls) == 6
    assert [Path(url).name for url in ref.urls[:2]] == ["Part_1_S_Trial1_emotion.bdf", "session.xml"]


def test_peek_decodes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mahnob_hci, "read_bdf_channels", lambda *_: pytest.fail("decoded"))
    corpus = open_corpus("mahnob_hci", root)
    edit_xml(root, ' cutLenSec="[0-9.]+"', "", trial=3)  # then the file's own length tells
    header = corpus.peek(corpus.references()[0])
    assert header.trial_s == {"1": 2.0, "2": 2.0, "3": 3.0}


class TestStatus:
    """Two pulses say where the clip lies."""

    def test_clip_lies_between_the_rising_edges(self, root: Path) -> None:
        edit_status(root, [(7680, 7999), (8100, 8101)])
        span = recording(root).spans[1]
        assert span.stop - span.start == 8100 - 7680

    @pytest.mark.parametrize("pulses", [[], [(7680, 7700)], [(100, 110), (7680, 7700), (8192, 8200)]])
    def test_other_than_two_pulses_are_no_clip(self, root: Path, pulses: list[tuple[int, int]]) -> None:
        edit_status(root, pulses)
        trials, (problem,) = read(root)
        assert trials == ["1", "3"]
        assert (problem.source, problem.trial, problem.code) == (str(bdf(root)), "2", "label")
        assert f"{len(pulses)} pulses" in problem.message

    @pytest.mark.parametrize("codes", [(5, 7), (268, 7), (5, 268), (1, 1)])
    def test_pulses_of_other_codes_are_kept_and_said(self, root: Path, codes: tuple[int, int]) -> None:
        edit_status(root, [(7680, 7700), (8192, 8212)], codes)
        trials, (problem,) = read(root)
        assert trials == ["1", "2", "3"]
        assert (problem.trial, problem.code) == ("2", "layout")
        assert f"code {codes[0]}, {codes[1]} where 268 is published" in problem.message

    @pytest.mark.parametrize("start", [7679, 7681, 5120])
    def test_start_elsewhere_is_kept_and_said(self, root: Path, start: int) -> None:
        edit_status(root, [(start, start + 20), (start + 512, start + 530)])
        trials, (problem,) = read(root)
        assert trials == ["1", "2", "3"]
        assert (problem.trial, problem.code) == ("2", "length")
        assert f"{start / 256:.3f} s" in problem.message
        one = recording(root)
        assert one.spans[1].start - one.pieces[1][0] == start
        assert one.spans[1].baseline == (one.pieces[1][0], one.spans[1].start)

    def test_clip_of_another_length_than_session_xml_says_is_kept_and_said(self, root: Path) -> None:
        edit_status(root, [(7680, 7700), (7680 + 256 * 4, 7680 + 256 * 4 + 20)])
        trials, (problem,) = read(root)
        assert trials == ["1", "2", "3"]
        assert (problem.trial, problem.code) == ("2", "length")
        assert "4.000 s by Status, cutLenSec is 2" in problem.message


class TestSessionXml:
    """session.xml is the authority, and hostile until parsed."""

    def test_rating_and_clip_come_from_it(self, root: Path) -> None:
        edit_xml(root, 'feltVlnc="[0-9]+"', 'feltVlnc="9"')
        edit_xml(root, 'feltArsl="[0-9]+"', 'feltArsl="2"')
        edit_xml(root, 'mediaFile="[^"]+"', 'mediaFile="C:\\clips\\53.avi"')
        trial = list(open_corpus("mahnob_hci", root, strict=True).trials())[1]
        assert trial.rating == {"valence": 9, "arousal": 2}
        assert (trial.valence, trial.arousal, trial.stimulus) == (4, -3, "53.avi")

    @pytest.mark.parametrize(
        ("old", "new", "code"),
        [
            (' feltVlnc="[0-9]+"', "", "label"),
            (' feltArsl="[0-9]+"', ' feltArsl=""', "label"),
            ('feltVlnc="[0-9]+"', 'feltVlnc="0"', "label"),
            ('feltVlnc="[0-9]+"', 'feltVlnc="10"', "label"),
            ('feltVlnc="[0-9]+"', 'feltVlnc="nan"', "label"),
            ('feltVlnc="[0-9]+"', 'feltVlnc="-3"', "label"),
            ('mediaFile="[^"]+"', 'mediaFile=""', "label"),
            ('mediaFile="[^"]+"', f'mediaFile="{"x" * 200}"', "label"),
            ('isStim="1"', 'isStim="0"', "label"),
            (' isStim="1"', "", "label"),
            ('<subject id="1"', '<subject id="7"', "label"),
            ('<subject id="1"', '<subject id="one"', "label"),
            ('<subject id="1" />', "", "unreadable"),
            ("<session ", "<folder ", "unreadable"),
            ("</session>", "", "unreadable"),
            ('encoding="utf-8"', 'encoding="nonsense"', "unreadable"),
        ],
    )
    def test_session_that_cannot_be_labelled_is_left_out(self, root: Path, old: str, new: str, code: str) -> None:
        edit_xml(root, old, new)
        trials, problems = read(root)
        assert trials == ["1", "3"]
        assert [(problem.subject, problem.trial, problem.code) for problem in problems] == [("1", "2", code)]

    def test_cut_number_wins_over_the_name(self, root: Path) -> None:
        for trial in (2, 3):
            edit_xml(root, 'cutNr="[0-9]+"', f'cutNr="{2 * (5 - trial)}"', trial)
        corpus = open_corpus("mahnob_hci", root)
        (one,) = corpus.recordings()
        assert {span.source: span.trial for span in one.spans}[str(bdf(root, 2))] == "3"
        assert {problem.code for problem in one.problems} == {"label_disagreement"}
        messages = [problem.message for problem in one.problems]
        assert sum("taken for trial" in message for message in messages) == 2
        assert any("folders of trials [3, 2]" in message for message in messages)

    @pytest.mark.parametrize("text", ["", "7", "x", "0", "90", "8"])
    def test_name_serves_where_the_cut_number_does_not(self, root: Path, text: str) -> None:
        edit_xml(root, 'cutNr="[0-9]+"', f'cutNr="{text}"')
        trials, problems = read(root)
        assert trials == ["1", "2", "3"]
        assert {problem.code for problem in problems} == {"label_disagreement"}

    @pytest.mark.parametrize("cuts", [(2, 90, 2), (2, 2, 6), (4, 4, 6), (4, 6, 6), (6, 6, 4), (2, 2, 2), (4, 2, 2)])
    def test_number_that_another_session_has_costs_no_session(self, root: Path, cuts: tuple[int, ...]) -> None:
        """Whichever comes first: each gets the number of its name, which no two share."""
        for trial, cut in enumerate(cuts, start=1):
            if cut != 2 * trial:
                edit_xml(root, 'cutNr="[0-9]+"', f'cutNr="{cut}"', trial)
        one = recording(root)
        assert {span.source: span.trial for span in one.spans} == {str(bdf(root, n)): str(n) for n in (1, 2, 3)}
        assert {problem.code for problem in one.problems} == {"label_disagreement"}
        taken = {problem.trial for problem in one.problems if "taken for trial" in problem.message}
        assert taken == {str(trial) for trial, cut in enumerate(cuts, start=1) if cut != 2 * trial}

    def test_number_of_a_session_without_labels_stays_its_own(self, root: Path) -> None:
        bdf(root).with_name("session.xml").unlink()
        edit_xml(root, 'cutNr="[0-9]+"', 'cutNr="4"', trial=3)
        trials, problems = read(root)
        assert trials == ["1", "3"]
        assert [(p.trial, p.code) for p in problems if "folders" not in p.message] == [
            ("2", "missing"),
            ("3", "label_disagreement"),
        ]

    def test_session_that_is_no_trial_by_either_number_is_left_out(self, root: Path) -> None:
        bdf(root).rename(bdf(root).with_name("Part_1_S_Trial7_emotion.bdf"))
        edit_xml(root, 'cutNr="4"', 'cutNr="90"')
        trials, problems = read(root)
        assert trials == ["1", "3"]
        assert {(p.trial, p.code) for p in problems} == {
            ("7", "label_disagreement"),
            ("7", "unexpected_object"),
            ("2", "missing"),
        }

    def test_folder_that_was_renamed_is_said(self, root: Path) -> None:
        bdf(root).parent.rename(root / "Sessions" / "3700")
        trials, (problem,) = read(root)
        assert trials == ["1", "2", "3"]
        assert problem.code == "label_disagreement"
        assert "trials [2]" in problem.message

    def test_absence_leaves_the_session_out(self, root: Path) -> None:
        bdf(root).with_name("session.xml").unlink()
        trials, (problem,) = read(root)
        assert trials == ["1", "3"]
        assert (problem.trial, problem.code) == ("2", "missing")

    def test_entity_bomb_is_refused_and_costs_nothing(self, root: Path) -> None:
        entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
        bomb = f'<!DOCTYPE session [<!ENTITY e0 "lol">{entities}]><session><subject id="1"/>&e11;</session>'
        bdf(root).with_name("session.xml").write_text(bomb)
        trials, (problem,) = read(root)
        assert trials == ["1", "3"]
        assert (problem.trial, problem.code) == ("2", "unreadable")

    @pytest.mark.parametrize(
        "doctype", ['[<!ENTITY x "2">]', 'SYSTEM "session.dtd"', '[<!ATTLIST session feltVlnc CDATA "9">]']
    )
    def test_no_document_type_is_believed(self, root: Path, doctype: str) -> None:
        """Not even a small one: expat alone would take labels from it."""
        text = (
            bdf(root)
            .with_name("session.xml")
            .read_text()
            .replace("<session", f"<!DOCTYPE session {doctype}><session", 1)
        )
        text = re.sub('feltVlnc="[0-9]+"', 'feltVlnc="&x;"' if "ENTITY" in doctype else "", text)
        bdf(root).with_name("session.xml").write_text(text)
        trials, (problem,) = read(root)
        assert trials == ["1", "3"]
        assert (problem.trial, problem.code) == ("2", "unreadable")

    def test_external_entity_is_not_fetched(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("secret")
        text = bdf(root).with_name("session.xml").read_text()
        doctype = f'<!DOCTYPE session [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]>'
        hostile = text.replace("<session", doctype + "<session").replace('mediaFile="clip02.avi"', 'mediaFile="a&x;b"')
        bdf(root).with_name("session.xml").write_text(hostile)
        trials, (problem,) = read(root)
        assert trials == ["1", "3"]
        assert problem.code == "unreadable"
        assert "secret" not in problem.message.replace(f"{tmp_path}/secret", "")

    def test_empty_object_and_folder_of_its_name_leave_the_session_out(self, root: Path) -> None:
        bdf(root).with_name("session.xml").write_bytes(b"")
        bdf(root, 3).with_name("session.xml").unlink()
        bdf(root, 3).with_name("session.xml").symlink_to("..")
        trials, problems = read(root)
        assert trials == ["1"]
        assert {(problem.trial, problem.code) for problem in problems} >= {("2", "unreadable"), ("3", "missing")}

    def test_size_is_bounded(self, root: Path) -> None:
        with bdf(root).with_name("session.xml").open("ab") as stream:
            stream.truncate(2**30)
        trials, (problem,) = read(root)
        assert trials == ["1", "3"]
        assert problem.code == "unreadable"

    def test_link_out_of_the_copy_and_pipe_are_not_opened(self, root: Path, tmp_path: Path) -> None:
        path = bdf(root).with_name("session.xml")
        shutil.move(path, tmp_path / "elsewhere.xml")
        path.symlink_to(tmp_path / "elsewhere.xml")
        bdf(root, 3).with_name("session.xml").unlink()
        os.mkfifo(bdf(root, 3).with_name("session.xml"))
        trials, problems = read(root)
        assert trials == ["1"]
        assert {(problem.trial, problem.code) for problem in problems} >= {("2", "missing"), ("3", "missing")}


class TestHeader:
    """What MNE would believe is checked first."""

    def test_object_cut_short_is_noticed(self, root: Path) -> None:
        content = bdf(root).read_bytes()
        bdf(root).write_bytes(content[: -47 * 256 * 3 * 10])
        trials, (problem,) = read(root)
        assert trials == ["1", "3"]
        assert (problem.source, problem.trial, problem.code) == (str(bdf(root)), "2", "unreadable")
        assert "10.0 of 62 s are missing" in problem.message

    @pytest.mark.parametrize(
        ("at", "text", "code"),
        [
            (236, "-1      ", "unreadable"),
            (236, "0       ", "unreadable"),
            (236, "99999999", "unreadable"),
            (252, "9999", "unreadable"),
            (252, "46  ", "unreadable"),
            (244, "0.5     ", "shape"),  # 512 Hz
            (256, "Fp9             ", "missing"),
            (256, "AF3             ", "missing"),
            (256 + 16 * 46, "Trigger         ", "missing"),
            (256 + 96 * 47, "mV      ", "dtype"),
            (256 + 96 * 47, "        ", "dtype"),
        ],
    )
    def test_session_whose_header_lies_is_left_out(self, root: Path, at: int, text: str, code: str) -> None:
        edit_bdf(root, at, text)
        trials, (problem,) = read(root)
        assert trials == ["1", "3"]
        assert (problem.trial, problem.code) == ("2", code)

    def test_other_channels_are_kept_and_said(self, root: Path) -> None:
        edit_bdf(root, 256 + 16 * 33, "Extra           ")
        trials, (problem,) = read(root)
        assert trials == ["1", "2", "3"]
        assert (problem.trial, problem.code) == ("2", "layout")

    def test_object_far_too_large_is_not_read(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mahnob_hci, "_MOST_BDF_BYTES", bdf(root).stat().st_size - 1)
        problems = read(root)[1]
        assert {problem.code for problem in problems} == {"shape"}

    def test_fault_of_mne_is_a_problem(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> Any:
            raise AssertionError

        monkeypatch.setattr(mne.io, "read_raw_bdf", fail)
        assert {problem.code for problem in read(root)[1]} == {"unreadable"}


def test_session_with_a_dead_electrode_is_kept_and_said(root: Path) -> None:
    content = bytearray(bdf(root).read_bytes())
    body = np.frombuffer(content, np.uint8, offset=256 * 48).reshape(-1, 47, 256, 3).copy()
    body[:, 7] = 0
    bdf(root).write_bytes(bytes(content[: 256 * 48]) + body.tobytes())
    trials, (problem,) = read(root)
    assert trials == ["1", "2", "3"]
    assert (problem.trial, problem.code) == ("2", "flat")
    assert "T7" in problem.message


def test_neutral_sessions_and_unusable_subjects_are_published_so(root: Path) -> None:
    for folder, name in (
        (3, "Part_1_N_Trial2"),
        (1, "Part_1_N_Trial1"),
        (1440, "Part_12_S_Trial5"),
        (3300, "Part_26_N_Trial1"),
    ):
        (root / "Sessions" / str(folder)).mkdir()
        shutil.copy(bdf(root), root / "Sessions" / str(folder) / f"{name}_emotion.bdf")
    corpus = open_corpus("mahnob_hci", root, strict=True)
    assert len(list(corpus.trials())) == 3
    assert {(problem.subject, problem.code) for problem in corpus.problems} == {
        (n, "left_out") for n in ("1", "12", "26")
    }
    assert any("2 neutral sessions" in problem.message for problem in corpus.problems)


class TestDisputedSubject:
    """Of subject 26 two sources count nothing and one all: what is there is read, and never silently."""

    @staticmethod
    def add(root: Path, subject: int = 26) -> list[Path]:
        """The three sessions as this subject's, too."""
        added = []
        for trial in (1, 2, 3):
            folder = root / "Sessions" / str(130 * (subject - 1) + 2 * trial)
            folder.mkdir()
            text = bdf(root, trial).with_name("session.xml").read_text()
            (folder / "session.xml").write_text(text.replace('<subject id="1"', f'<subject id="{subject}"'))
            added.append(folder / f"Part_{subject}_S_Trial{trial}_emotion.bdf")
            content = bdf(root, trial).read_bytes()
            added[-1].write_bytes(content[:2000] + bytes([subject]) + content[2001:])  # else doctor calls it a double
        return added

    @staticmethod
    def diagnose(root: Path) -> Diagnosis:
        return examine(open_corpus("mahnob_hci", root), full=True, jobs=1)

    def test_sessions_are_read_and_said(self, root: Path) -> None:
        first = self.add(root)[0]
        corpus = open_corpus("mahnob_hci", root)
        assert [(t.subject, t.trial) for t in corpus.trials()] == [(s, t) for s in ("1", "26") for t in "123"]
        (problem,) = corpus.problems
        assert (problem.source, problem.subject, problem.code) == (str(first), "26", "disputed")
        assert problem.message.startswith("3 emotional sessions of subject 26")
        diagnosis = self.diagnose(root)
        assert diagnosis.complete
        assert {(f.level, f.topic, f.subject) for f in diagnosis.findings} == {
            ("notice", "layout", "26"),
            ("notice", "objects", "26"),
        }

    def test_absent_sessions_are_no_fault(self, root: Path) -> None:
        shutil.rmtree(self.add(root)[1].parent)
        corpus = open_corpus("mahnob_hci", root)
        assert [t.trial for t in corpus.trials() if t.subject == "26"] == ["1", "3"]
        assert {problem.code for problem in corpus.problems} == {"disputed", "left_out"}
        assert self.diagnose(root).complete

    @pytest.mark.parametrize("broken", [1, 3])
    def test_unusable_sessions_are_as_published(self, root: Path, broken: int) -> None:
        for path in self.add(root)[:broken]:
            path.write_bytes(b"")
        corpus = open_corpus("mahnob_hci", root)
        assert [t.trial for t in corpus.trials() if t.subject == "26"] == ["1", "2", "3"][broken:]
        assert [(p.trial, p.code) for p in corpus.problems] == [
            (None, "disputed"),
            *((str(n), "left_out") for n in range(1, broken + 1)),
        ]
        assert "no BDF" in corpus.problems[1].message
        diagnosis = self.diagnose(root)
        assert diagnosis.complete
        assert "fault" not in {check.state for check in diagnosis.checks}
        bdf(root).write_bytes(b"")
        assert not self.diagnose(root).complete

    def test_links_out_of_the_copy_are_not_read(self, root: Path, tmp_path: Path) -> None:
        for path in self.add(root):
            shutil.move(path, tmp_path / path.name)
            path.symlink_to(tmp_path / path.name)
        corpus = open_corpus("mahnob_hci", root)
        assert {trial.subject for trial in corpus.trials()} == {"1"}

    @pytest.mark.parametrize("subject", [12, 15])
    def test_subjects_that_nobody_lists_are_left_out(self, root: Path, subject: int) -> None:
        self.add(root, subject)
        corpus = open_corpus("mahnob_hci", root)
        assert {trial.subject for trial in corpus.trials()} == {"1"}
        assert [(p.subject, p.code) for p in corpus.problems] == [(str(subject), "left_out")]


def test_fault_of_a_usable_subjects_object_is_not_called_published(root: Path) -> None:
    bdf(root).unlink()
    bdf(root).symlink_to("nowhere")
    trials, problems = read(root)
    assert trials == ["1", "3"]
    assert {(p.source, p.code) for p in problems} == {(str(bdf(root)), "unreadable"), (str(bdf(root, 1)), "missing")}


def test_session_twice_is_listed(root: Path) -> None:
    shutil.copytree(bdf(root).parent, root / "Sessions" / "999")
    trials, (problem,) = read(root)
    assert trials == ["1", "2", "3"]
    assert (problem.source, problem.trial, problem.code) == (
        str(root / "Sessions" / "999" / bdf(root).name),
        "2",
        "duplicate",
    )


def test_session_that_is_not_there_is_missing(root: Path) -> None:
    shutil.rmtree(bdf(root).parent)
    trials, (problem,) = read(root)
    assert trials == ["1", "3"]
    assert (problem.trial, problem.code) == ("2", "missing")


def test_trials_that_were_never_published_are_no_fault(tmp_path: Path) -> None:
    """Subject 3 lacks three trials: a copy without them is complete, one that lacks a fourth is not."""
    reader = open_corpus("mahnob_hci", tmp_path)
    settings = SimulateSettings(subjects=3, time_scale=0.01)
    plan = reader.plan_recordings(settings)[2]
    assert len(plan.pieces) == 17
    assert len({passage.trial for piece in plan.pieces for passage in piece if passage.trial}) == 17
    few = reader.plan_recordings(SimulateSettings(subjects=3, trials=9, time_scale=0.01))[2]
    assert list(few.pieces) == [piece for piece in plan.pieces if int(piece[0].trial or 0) <= 9]

    ref_of = {ref.subject: ref for ref in _simulated_third(tmp_path, plan)}
    corpus = open_corpus("mahnob_hci", tmp_path)
    problems = corpus.peek(ref_of["3"]).problems
    assert [problem.code for problem in problems] == ["left_out"]
    victim = Path(ref_of["3"].urls[4])
    shutil.rmtree(victim.parent)
    problems = corpus.peek(corpus.references()[0]).problems
    assert [problem.code for problem in problems] == ["missing"] * 4


def _simulated_third(root: Path, plan: Any) -> list[Any]:
    corpus = open_corpus("mahnob_hci", root)
    corpus.write_recording(plan, [np.zeros((32, 256 * 62)) for _ in plan.pieces])
    return corpus.references()


def test_reading_from_an_object_store_finds_the_same(root: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}/copy"
    simulate_corpus("mahnob_hci", url, SETTINGS, TagSignal())
    (there,), here = open_corpus("mahnob_hci", url, strict=True).recordings(), recording(root)
    np.testing.assert_array_equal(there.eeg_uv, here.eeg_uv)
    assert [span.rating for span in there.spans] == [span.rating for span in here.spans]
    fsspec.filesystem("memory").rm(url, recursive=True)


def test_faults_of_the_store_are_not_faults_of_the_object(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unplugged(*_: Any, **__: Any) -> Any:
        raise OSError(5, "Input/output error")

    corpus = open_corpus("mahnob_hci", root)
    corpus.references()
    monkeypatch.setattr(storage, "read_bytes", unplugged)
    with pytest.raises(OSError, match="Input/output error"):
        list(corpus.recordings())


def test_nothing_usable_is_an_error_with_every_reason(root: Path) -> None:
    for trial in (1, 2, 3):
        bdf(root, trial).write_bytes(b"")
    corpus = open_corpus("mahnob_hci", root)
    (ref,) = corpus.references()
    for method in (corpus.read, corpus.peek):
        with pytest.raises(CorpusError) as caught:
            method(ref)
        assert [(problem.trial, problem.code) for problem in caught.value.problems] == [
            (trial, "unreadable") for trial in "123"
        ]
