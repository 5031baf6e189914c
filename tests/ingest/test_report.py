"""The report of an ingest: it tells what is in the store, needs nothing from elsewhere, and runs nothing."""

from __future__ import annotations

import ast
import base64
import itertools
import re
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from emod import storage
from emod.affect import region_centre
from emod.catalog import load_corpus
from emod.catalog.signal import IcaSettings, QualitySettings, SignalSettings
from emod.corpora import Problem, Recording, TrialSpan
from emod.ingest import make_windows
from emod.ingest import report as report_module
from emod.ingest.findings import sum_cleaning, write_findings
from emod.ingest.report import MEANING_OF_CODE, render_report, report_url, write_report
from emod.shards import CorpusEntry, Manifest, ShardStore, pack_shard, publish, write_part

DASPS = load_corpus("dasps")
SETTINGS = SignalSettings(window_s=5.0, ica=IcaSettings(enabled=False))
HOSTILE = "</td><script>alert(1)</script><img src=x onerror=alert(2)>"
SECONDS = 20


class Page(HTMLParser):
    """The page as a browser reads it: elements with their attributes and text, tables as rows of cells."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.classes: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
            self.classes.append(dict(attrs).get("class") or "")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text.append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data

    def table(self, *headings: str) -> list[list[str]]:
        """Rows of the only table with these headings."""
        (found,) = [table for table in self.tables if table and table[0][: len(headings)] == list(headings)]
        return found[1:]

    @property
    def words(self) -> str:
        return " ".join(self.text)


def make_recording(subject: str, region: int, fault: str = "") -> Recording:
    rng = np.random.default_rng(len(subject) + region)
    n = SECONDS * 128
    eeg_uv = 12 * rng.standard_normal((14, 2 * n))
    if fault == "flat":
        eeg_uv[3] = 0
    elif fault == "gross":
        eeg_uv[:7, 700] += 5000
        eeg_uv[7:, 700] -= 5000
    elif fault == "hopeless":
        eeg_uv[:5] = 0
    elif fault == "mains":
        # Unlike in each electrode, or the average reference would take it out.
        eeg_uv += np.outer(np.linspace(50, 200, 14), np.sin(2 * np.pi * 50 * np.arange(2 * n) / 128))
    elif fault == "clipped":
        eeg_uv[5, 200 : 200 + 2 * 640] *= 9  # two windows of eight
    valence, arousal = (float(x) for x in region_centre(region))
    spans = tuple(
        TrialSpan(
            str(at + 1), "clip", at * n, (at + 1) * n, None, {"valence": 5.0, "arousal": 5.0}, None, valence, arousal
        )
        for at in range(2)
    )
    problems: tuple[Problem, ...] = ()
    if fault == "twice":
        problems = (
            Problem(f"{subject}.mat", subject, "9", "label", "valence 12 is off 1..9"),
            Problem(f"{subject}.mat", subject, "9", "label_disagreement", "the table says 5"),
            Problem(f"{subject}.mat", subject, "8", "label_disagreement", "the table says 6"),
        )
    if fault == "label":
        source = f"s3://key:secret@bucket/{HOSTILE}\u202e\x07.mat"
        problems = (Problem(source, subject, "9", "label", f"no rating: {HOSTILE}"),)
    return Recording(
        "dasps", subject, "1", f"{subject}.mat", eeg_uv, DASPS.channels, 128.0, ((0, n), (n, 2 * n)), spans, problems
    )


RECORDINGS = [
    ("S01", 2, ""),
    ("S02", 2, "flat"),
    ("S03", 6, "gross"),
    ("S04", 4, "hopeless"),
    (HOSTILE, 4, "label"),
]


def write_store(
    url: str,
    *,
    simulated: bool = False,
    findings: bool = True,
    settings: SignalSettings = SETTINGS,
    recordings: list[tuple[str, int, str]] = RECORDINGS,
) -> ShardStore:
    parts, told, problems, cleaning = [], {}, [], []
    for number, (subject, region, fault) in enumerate(recordings):
        made = make_windows(make_recording(subject, region, fault), DASPS, settings)
        problems += [asdict(problem) for problem in made.problems]
        cleaning.append(made.cleaning)
        told[f"key-{number}"] = {
            "subject": subject,
            "session": "1",
            "n_windows": len(made.rows),
            "problems": [asdict(problem) for problem in made.problems],
            "cleaning": made.cleaning,
            **made.quality,
        }
        if made.rows:
            parts.append(storage.join(url, "staging", f"{number}.arrow"))
            write_part(parts[-1], made.windows, made.rows, {})
    told["key-gone"] = {"subject": "S99", "session": "1", "n_windows": 0, "problems": [], "cleaning": None}
    shard = pack_shard(url, "shards/dasps", 0, parts)
    entry = CorpusEntry(
        fingerprint="f" * 64,
        simulated=simulated,
        channels=DASPS.channels,
        sfreq_hz=128.0,
        window_s=5.0,
        n_windows=shard.rows,
        n_recordings=len(parts),
        n_subjects=len(parts),
        shards=(shard,),
        problems=tuple(problems),
        cleaning=sum_cleaning(cleaning),
        quality=write_findings(url, "dasps", told) if findings else None,
    )
    manifest = Manifest(
        version=1, emod_version="0", settings=settings.model_dump(mode="json"), corpora={"dasps": entry}
    )
    publish(url, manifest)
    return ShardStore.open(url)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    return write_store(str(tmp_path_factory.mktemp("report") / "store"))


@pytest.fixture(scope="module")
def text(store: ShardStore) -> str:
    return render_report(store)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(text: str, page: Page) -> None:
    assert text.startswith("<!DOCTYPE html>\n<html lang=")
    assert page.open == []
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "svg"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        if "src" in attributes:
            assert (tag, (attributes["src"] or "")[:26]) == ("img", "data:image/svg+xml;base64,")
            assert attributes["alt"]
        if "href" in attributes:
            assert (attributes["href"] or "").startswith("#")
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    assert len(text) < 1_000_000


def test_hostile_names_are_text(text: str, page: Page) -> None:
    assert "<script" not in text
    assert "onerror=alert(2)&gt;" in text
    assert "<img src=x" not in text
    (row,) = [row for row in page.table("", "subject", "session") if row[1] == HOSTILE]
    assert row[0] == "◐ look"
    (problem,) = [row for row in itertools.chain(*page.tables) if f"no rating: {HOSTILE}" in row]
    assert problem[3] == f"s3://***@bucket/{HOSTILE}\ufffd\ufffd.mat"
    assert "secret" not in text


def test_pictures_are_drawings_without_scripts(page: Page) -> None:
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    titles = [(attributes["alt"] or "").partition(".")[0] for attributes in pictures]
    assert titles == [
        "Spectra before and after cleaning",
        "Flat and noisy electrodes",
        "Amplitude of the windows",
        "Line noise",
    ]
    for attributes in pictures:
        svg = base64.b64decode((attributes["src"] or "").partition(",")[2])
        tree = ET.fromstring(svg)
        tags = Counter(element.tag.rpartition("}")[2] for element in tree.iter())
        assert tags["path"] > 5
        assert not tags.keys() & {"script", "foreignObject"}
        links = [value for element in tree.iter() for name, value in element.attrib.items() if name.endswith("href")]
        assert {link.partition(",")[0] for link in links if link[0] != "#"} <= {"data:image/png;base64"}


def test_counts_are_those_of_the_store_beside_the_owners(store: ShardStore, page: Page) -> None:
    rows = {row[0]: row[1:] for row in page.table("", "in the store", "published")}
    assert len(store.metadata("dasps")) == 31
    # 23 subjects x 12 segments of 15 s; windows of 5 s.
    assert rows == {
        "subjects": ["4", "23", "17.4%"],
        "sessions": ["4", "23", "17.4%"],
        "trials": ["8", "276", "2.9%"],
        "windows": ["31", "828", "3.7%"],
        "seconds": ["155", "4,140", "3.7%"],
    }
    (overview,) = page.table("corpus", "origin")
    assert overview == ["dasps", "real", "4", "4", "8", "31", "3 min", "1", "3", "2", "3"]


def test_published_numbers_leave_out_what_the_owner_says_is_missing() -> None:
    catalog = load_corpus("deap")
    gap = {"subject": 3, "trials": (2, 5), "count": 2, "why": "lost"}
    vague = {"subject": 4, "count": 3, "why": "lost"}
    changed = catalog.model_validate({**catalog.model_dump(), "missing": (gap, vague)})
    whole = report_module._owners_counts(catalog, 10.0)
    assert whole == {"subjects": 32, "sessions": 32, "trials": 1280, "windows": 7680, "seconds": 76_800}
    assert report_module._owners_counts(changed, 10.0) == {
        "subjects": 32,
        "sessions": 32,
        "trials": 1275,
        "windows": 7650,
        "seconds": 76_500,
    }


def test_coverage_stands_where_it_belongs_on_the_plane(page: Page) -> None:
    (plane,) = [table for table in page.tables if table[0][0] == "Arousal →"]
    cells = [[cell for cell in row if "%" in cell] for row in plane]
    # Region 2 (low arousal, high valence) has 16 windows, 6 (high arousal, low valence) 7, 4 in the middle 8.
    assert cells == [["723%", "00%", "00%"], ["00%", "826%", "00%"], ["00%", "00%", "1652%"], [], []]
    assert [row[-4] if row[0].startswith("Arousal") else row[0] for row in plane[:3]] == ["high", "middle", "low"]
    assert plane[3][1:] == ["low", "middle", "high"]
    assert plane[4][-1] == "Valence →"
    assert "6 regions without a window" in page.words


def test_each_recording_has_a_light_in_words_and_its_reasons(page: Page) -> None:
    rows = page.table("", "subject", "session", "windows", "rejected")
    told = {row[1]: (row[0], row[3], row[4], row[-1]) for row in rows}
    assert told["S01"] == ("✔ good", "8", "0", "")
    assert told["S02"] == ("◐ look", "8", "0", "interpolated: FC5 100%")
    assert told["S03"] == ("◐ look", "7", "1", "1 windows rejected (gross)")
    assert told["S99"] == ("✖ not used", "0", "0", "")
    light, kept, rejected, why = told["S04"]
    assert (light, kept, rejected) == ("✖ not used", "0", "8")
    assert "flat or noisy, not repaired: AF3 100%, F7 100%" in why
    assert "8 windows rejected (bad_electrodes)" in why
    # What needs a look stands first.
    assert [row[0][0] for row in rows] == ["✖", "✖", "◐", "◐", "◐", "✔"]
    assert "Most often: FC5" in page.words


def test_problems_are_grouped_and_explained(page: Page) -> None:
    assert page.classes.count("problem") == 3
    for code in ("gross", "label", "bad_electrodes"):
        meaning, cure = MEANING_OF_CODE[code]
        assert meaning in page.words
        assert f"What to do: {cure}" in page.words


def test_every_code_is_explained() -> None:
    package = Path(report_module.__file__).parents[1]
    assert Problem.__doc__ is not None
    codes = set(re.findall(r"``([a-z_]+)``", Problem.__doc__)) - {"strict"}
    for path in [
        *(package / "corpora").glob("*.py"),
        package / "ingest" / "recording.py",
        package / "signal" / "quality.py",
    ]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                place = {"problem": 0, "Problem": 3}.get(name)
                if place is not None and len(node.args) > place and isinstance(node.args[place], ast.Constant):
                    codes.add(node.args[place].value)  # type: ignore[attr-defined]
    assert {"flat", "unreadable", "left_out", "short"} <= codes
    assert codes <= MEANING_OF_CODE.keys()
    for code in ("flat", "bad_electrodes", "saturated", "gross", "clipped", "line_noise"):
        assert code in MEANING_OF_CODE


def test_simulated_data_cannot_be_overlooked(store: ShardStore, page: Page, tmp_path: Path) -> None:
    assert "SIMULATED" not in page.words
    simulated = Page(render_report(write_store(str(tmp_path / "store"), simulated=True)))
    assert {"simulated", "tag"} <= set(simulated.classes)
    assert "All corpora here are simulated." in simulated.words
    assert "SIMULATED: Ingest report, version 1" in simulated.words
    assert simulated.table("corpus", "origin")[0][1] == "SIMULATED"


def test_settings_are_told_in_words(tmp_path: Path, page: Page) -> None:
    assert "Windows are rejected if they exceed 1000 µV after cleaning, or if more than 1.0% of their" in page.words
    assert "No independent component analysis." in page.words
    quality = QualitySettings(flat="reject", noisy="keep", gross="keep", saturated="keep", line_noise_db=12.0)
    changed = SETTINGS.model_copy(update={"quality": quality, "band_hz": (1.0, 40.0)})
    words = Page(render_report(write_store(str(tmp_path / "store"), settings=changed))).words
    assert "Band-pass 1-40 Hz" in words
    assert "within a second): costs the windows it is bad in." in words
    assert "10 times as loud as the median electrode and as its neighbours): is kept as it is." in words
    assert "Windows are rejected if nothing is left of them." in words
    assert "12 dB above its neighbourhood is marked for a look" in words


@pytest.mark.parametrize(
    ("band_hz", "transition_hz", "still_there", "words"),
    [
        ((1.0, 40.0), 1, False, "Filter: band-pass 1-40 Hz. Mains, 50 Hz, lies in the stop band: it is removed."),
        ((1.0, 49.0), 1, False, "Filter: band-pass 1-49 Hz. Mains, 50 Hz, lies in the stop band: it is removed."),
        (
            (1.0, 49.5),
            1,
            True,
            "Filter: band-pass 1-49.5 Hz. Mains, 50 Hz, lies on the filter's slope: it is weakened only.",
        ),
        (
            (1.0, 60.0),
            1,
            True,
            "Filter: band-pass 1-60 Hz. Mains, 50 Hz, lies in the pass band: the filter leaves it as it is.",
        ),
        (
            (1.0, 49.0),
            20,
            True,
            "Filter: high-pass at 1 Hz only, as the band's end, 49 Hz, is too high for their rate. What is stored "
            "ends at 64 Hz. Mains, 50 Hz, lies in the pass band",
        ),
        (
            (0.3, 400.0),
            1,
            True,
            "Filter: high-pass at 0.3 Hz only, as the band's end, 400 Hz, is too high for their rate. What is stored "
            "ends at 64 Hz. Mains, 50 Hz, lies in the pass band",
        ),
    ],
)
def test_the_band_that_a_corpus_got_and_what_it_did_to_mains(
    tmp_path: Path, band_hz: tuple[float, float], transition_hz: float, still_there: bool, words: str
) -> None:
    settings = SETTINGS.model_copy(update={"band_hz": band_hz, "top_transition_hz": transition_hz})
    page = Page(render_report(write_store(str(tmp_path), settings=settings, recordings=[("S01", 2, "mains")])))
    assert words in page.words
    assert page.words.count("is removed") == ("is removed" in words)
    (row,) = [row for row in page.table("", "subject", "session") if row[1] == "S01"]
    assert ("dB after cleaning" in row[-1]) == still_there


def test_without_a_filter_no_band_is_claimed(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"band_pass": False})
    words = Page(render_report(write_store(str(tmp_path), settings=settings, recordings=[("S01", 2, "")]))).words
    assert "Filter: none. What is stored ends at 64 Hz. Mains, 50 Hz, lies in the pass band" in words


def test_windows_kept_beyond_a_limit_are_named(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"clip": 7.0, "quality": QualitySettings(noisy="keep", gross="keep")})
    recordings = [("S01", 2, ""), ("S02", 2, "clipped"), ("S03", 6, "gross")]
    rows = Page(render_report(write_store(str(tmp_path), settings=settings, recordings=recordings))).table(
        "", "subject"
    )
    told = {row[1]: (row[0], row[-1]) for row in rows}
    assert told["S01"] == ("✔ good", "")
    assert told["S02"][0] == "◐ look"
    assert re.search(r"[1-3] windows beyond the limit kept \(clipped\)", told["S02"][1])
    assert "1 window beyond the limit kept (gross)" in told["S03"][1]


def test_a_trial_whose_label_was_refused_is_told_of_once(tmp_path: Path) -> None:
    page = Page(render_report(write_store(str(tmp_path), recordings=[("S01", 2, "twice")])))
    rows = [row[1:3] for table in page.tables if table[0][:2] == ["subject", "trial"] for row in table[1:]]
    assert rows == [["9", "valence 12 is off 1..9; also: the table says 5"], ["8", "the table says 6"]]
    (row,) = [row for row in page.table("", "subject", "session") if row[1] == "S01"]
    assert row[-1] == "1 × label; 1 × label_disagreement"


def test_ica_that_was_not_fitted_is_not_ica_that_found_nothing(page: Page) -> None:
    assert {row[7] for row in page.table("", "subject", "session")} == {"not fitted"}
    assert report_module._components({"fitted": 12, "removed": []}) == "none"
    assert report_module._components({"fitted": 12, "removed": [{"kind": "ocular"}] * 2}) == "2 ocular"


def test_the_head_says_when_what_and_from_where(store: ShardStore, page: Page, tmp_path: Path) -> None:
    assert f"{store.url}, version 1" in page.words
    assert not {"written", "experiment"} & set(page.words.split()[:40])
    when = datetime(2026, 11, 21, 9, 5, tzinfo=UTC)
    head = Page(render_report(store, experiment=HOSTILE, when=when)).words.partition("Overview")[0]
    assert "2026-11-21 09:05 UTC" in head
    assert HOSTILE in head
    metadata = store.metadata("dasps")
    for sources, folder in (
        (["s3://k:secret@lab/dasps/a/S01.mat", "s3://k:secret@lab/dasps/b/S01.mat"], "s3://***@lab/dasps"),
        (["/data/dasps/S01.mat"], "/data/dasps"),
        (["/data/one/S01.mat", "/else/S01.mat"], ""),
    ):
        column = pa.array([sources[at % len(sources)] for at in range(len(metadata))])
        at = metadata.schema.get_field_index("source")
        assert report_module._folder(metadata.set_column(at, "source", column)) == folder


def test_a_store_without_findings_or_catalog_has_a_report_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> Any:
        raise report_module.RequestError(f"corpus {name} has no catalog")

    monkeypatch.setattr(report_module, "load_corpus", unknown)
    page = Page(render_report(write_store(str(tmp_path / "store"), findings=False)))
    assert "No measurements of single recordings were stored" in page.words
    assert [row[2] for row in page.table("", "in the store", "published")] == ["not known"] * 5


def test_it_is_written_once_beside_its_version(store: ShardStore, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = write_report(store)
    assert url == report_url(store)
    assert re.fullmatch(r".*/store/reports/ingest-000001-[0-9a-f]{8}\.html", url)
    written = storage.read_bytes(url, at_most=10**7).decode()
    day = re.compile(r"<dt>written</dt><dd>\d{4}-\d\d-\d\d \d\d:\d\d [^<]*</dd>")
    assert len(day.findall(written)) == 1
    assert day.sub("", written) == text  # but for the moment, equal stores give equal pages
    monkeypatch.setattr(report_module, "render_report", lambda *_, **__: pytest.fail("it was there"))
    assert write_report(store) == url
    other = store.manifest.model_copy(update={"emod_version": "1"})
    assert report_url(ShardStore(store.url, other)) != url
    assert ShardStore.open(store.url).verify() == []
