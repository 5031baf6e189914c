"""The report of an ingest: one HTML file for people who know EEG, beside the store it tells about.

It needs nothing from elsewhere, no script, and prints. It shows what the ingest recorded (manifest, metadata,
findings) and what owners publish (catalogs); no recording is opened. The page is built as a tree, so whatever a name of
an object holds is text.
"""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emod import storage
from emod.affect import N_REGIONS
from emod.catalog import CorpusCatalog, SignalSettings, load_corpus
from emod.errors import RequestError
from emod.evaluation import quality_pictures as pictures
from emod.ingest.findings import read_findings
from emod.page import (
    add_banner,
    add_element,
    add_facts,
    add_figure,
    add_section,
    add_table,
    link,
    new_page,
    number_of,
    render_page,
)
from emod.shards import CorpusEntry, Manifest, ShardStore

__all__ = ["MEANING_OF_CODE", "render_report", "report_path", "report_url", "write_report"]

# Code of a problem -> what it means, and what to do about it.
MEANING_OF_CODE: dict[str, tuple[str, str]] = {
    "unreadable": ("The object is damaged or not what its name says; nothing of it was used.", "Copy it again."),
    "missing": ("Something that the owner publishes is not in this copy.", "Copy it, or leave it: the rest is used."),
    "dtype": ("A variable holds something other than numbers; it was not used.", "Copy the owner's object again."),
    "amplitude": (
        "The signal is far too small or too large for EEG in microvolt, as it is in another unit; it was kept.",
        "Find out the unit of this copy; windows rejected below may follow from it.",
    ),
    "shape": (
        "The number of electrodes, samples or trials is not the published one; it was not used, since rows could be "
        "mistaken for each other.",
        "Copy the owner's object again, or check which release it is from.",
    ),
    "label": ("A rating or emotion word is missing or off its scale; the trial was not used.", "Correct the table."),
    "label_disagreement": (
        "Two sources of the same label disagree; the one that ships with the recordings was used.",
        "Find out which of the two is right.",
    ),
    "label_table": (
        "A table of labels is missing, damaged or incomplete; where there is one, the published table was used.",
        "Copy the table again.",
    ),
    "not_finite": ("Samples are missing (NaN or infinite); the trial was not used.", "Copy the owner's object again."),
    "flat": (
        "Electrodes without any signal. Trials in which only some are flat are kept, and the quality settings decide; "
        "a trial or window without any signal is not used.",
        "Look at the electrodes named; nothing needs doing where they were interpolated.",
    ),
    "unexpected_object": ("An object that belongs to no recording; it was passed over.", "Remove it or ignore this."),
    "duplicate": ("Something is there twice; one was used.", "Remove the copy."),
    "length": ("A trial is shorter or longer than published; it was kept.", "Check which release the copy is from."),
    "layout": (
        "The copy follows one of several layouts between which no public source decides; it was read so.",
        "Nothing, unless you know better.",
    ),
    "disputed": ("Used, though other public tools leave it out; nobody says why.", "Look at it, and decide."),
    "left_out": ("Known to its owner as unusable; left out on purpose.", "Nothing."),
    "short": ("A trial is shorter than one window.", "Lower it to use the trial: --set signal.window_s=SECONDS."),
    "bad_electrodes": (
        "More electrodes were flat or noisy at a time than can be interpolated; the windows, or the whole recording, "
        "were rejected.",
        "Look at the cap; raise the share to use them all the same: --set signal.quality.most_interpolated=SHARE.",
    ),
    "saturated": (
        "Samples stand at the recorder's rail: the true voltage is not known there. The windows were rejected.",
        "Record with less gain, or use them as they are: --set signal.quality.saturated=keep.",
    ),
    "gross": (
        "Voltages after cleaning that no brain makes: movement or a loose electrode. The windows were rejected.",
        "Look at the trial; to use it, --set signal.quality.peak_uv=MICROVOLT or --set signal.quality.gross=keep.",
    ),
    "clipped": (
        "Too much of a window lies beyond the range in which windows are stored. The windows were rejected.",
        "Look at the trial, or use them as they are: --set signal.quality.clipped=keep.",
    ),
    "line_noise": (
        "Mains stands out more than allowed; the recording was rejected.",
        "Use it with --set signal.quality.line_noise=keep; a signal.band_hz that ends below mains takes mains out.",
    ),
}
_UNKNOWN_CODE = ("No explanation is known for this code.", "See the message.")

_KNOWN = "left_out"
_MOST_ITEMS = 200
_MOST_REASONS = 4
# After cleaning mains is one line of the spectrum, which in a short recording is off by some 5 dB by chance.
_STANDS_OUT_DB = 6.0
_STAGES = {
    "band_pass": "band-pass filter",
    "high_pass": "high-pass filter",
    "resample": "resampling",
    "interpolate": "interpolation of bad electrodes",
    "average_reference": "average reference",
    "ica": "independent component analysis",
}
_LIGHTS: dict[str, tuple[str, str]] = {
    "good": ("✔ good", "nothing to report"),
    "look": ("◐ look", "used, with something to look at"),
    "unused": ("✖ not used", "no window of it is in the store"),
}

Light = Literal["good", "look", "unused"]


@dataclass(frozen=True)
class _Corpus:
    """All that is told of one corpus."""

    name: str
    entry: CorpusEntry
    catalog: CorpusCatalog | None
    metadata: pa.Table
    findings: dict[str, dict[str, Any]]
    settings: SignalSettings

    @property
    def mains_hz(self) -> float:
        """Of the place of recording; 50 Hz where no catalog says."""
        return 50.0 if self.catalog is None else float(self.catalog.mains_hz)

    @cached_property
    def kept_beyond(self) -> dict[tuple[str, str], Counter[str]]:
        """(subject, session) -> code -> windows in the store beyond a limit: those under ``reject`` are not there."""
        quality = self.settings.quality
        limits = {
            "clipped": ("clipped_share", quality.clipped_share),
            "saturated": ("saturated_share", quality.saturated_share),
            "gross": ("peak_uv", quality.peak_uv),
        }
        keys = _keys(self.metadata)
        found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for code, (column, limit) in limits.items():
            for at in np.flatnonzero(self.metadata[column].to_numpy() > limit).tolist():
                found[keys[at][:2]][code] += 1
        return found

    def light(self, finding: Mapping[str, Any]) -> tuple[Light, list[str]]:
        """One recording's traffic light, and what stands behind it."""
        reasons = []
        electrodes = finding.get("electrodes") or {}
        if named := electrodes.get("interpolated"):
            reasons.append("interpolated: " + _shares(named))
        left = {
            name: share
            for what in ("flat", "noisy")
            for name, share in (electrodes.get(what) or {}).items()
            if name not in (electrodes.get("interpolated") or {})
        }
        if left:
            reasons.append("flat or noisy, not repaired: " + _shares(left))
        windows = finding.get("windows") or {}
        for code, count in (windows.get("rejected") or {}).items():
            reasons.append(f"{count:,} windows rejected ({code})")
        for code, count in self.kept_beyond.get((finding["subject"], finding["session"]), {}).items():
            reasons.append(f"{number_of(count, 'window')} beyond the limit kept ({code})")
        line = finding.get("line_noise_db")
        if line and line["before"] > self.settings.quality.line_noise_db:
            reasons.append(f"mains {line['before']:+.0f} dB before cleaning")
        if line and line["after"] is not None and line["after"] > _STANDS_OUT_DB:
            reasons.append(f"mains {line['after']:+.0f} dB after cleaning")
        problems = _join_labels(finding.get("problems", []))
        told = Counter(problem["code"] for problem in problems if problem["code"] != _KNOWN)
        for code, count in told.items():
            if code not in (windows.get("rejected") or {}):
                reasons.append(f"{count} × {code}")
        if not finding["n_windows"]:
            return "unused", reasons
        return ("look" if reasons else "good"), reasons


def report_path(manifest: Manifest) -> str:
    """Where the report of a version lies in its store: one name for each content of a manifest."""
    mark = manifest.file_name().rpartition("-")[2].partition(".")[0][:8]
    return f"reports/ingest-{manifest.version:06d}-{mark}.html"


def report_url(store: ShardStore) -> str:
    """Address of the report of this version."""
    return storage.join(store.url, report_path(store.manifest))


def write_report(store: ShardStore, experiment: str | None = None) -> str:
    """Writes the report of this version, unless it is there, and returns its URL.

    Args:
        store: The store, opened at this version.
        experiment: Name of the experiment that brought the version, if one did.
    """
    url = report_url(store)
    if not storage.exists(url):
        now = datetime.now().astimezone()
        storage.write_bytes(url, render_report(store, experiment=experiment, when=now).encode())
    return url


def render_report(store: ShardStore, *, experiment: str | None = None, when: datetime | None = None) -> str:
    """The report as one HTML document. Equal stores and arguments give equal documents.

    Args:
        store: The store, opened at the version to tell of.
        experiment: Name of the experiment that brought this version, for the head of the page.
        when: When it did, for the head of the page.
    """
    manifest = store.manifest
    settings = SignalSettings.model_validate(manifest.settings)
    corpora = []
    for name in store.corpora:
        entry = manifest.corpora[name]
        try:
            catalog = load_corpus(name)
        except RequestError:
            catalog = None  # a laboratory's own, whose catalog is not on this machine
        findings = {} if entry.quality is None else read_findings(store.url, entry.quality)
        corpora.append(_Corpus(name, entry, catalog, store.metadata(name), findings, settings))
    simulated = [corpus.name for corpus in corpora if corpus.entry.simulated]

    html, header, main = new_page(
        f"Ingest report, version {manifest.version}",
        "Ingest report",
        f"{number_of(sum(corpus.entry.n_windows for corpus in corpora), 'window')} from "
        f"{number_of(len(corpora), 'corpus', 'corpora')}.",
        simulated=bool(simulated),
    )
    add_facts(
        header,
        (
            ("written", f"{when:%Y-%m-%d %H:%M %Z}".strip() if when else None),
            ("experiment", experiment),
            ("store", f"{storage.redact(store.url)}, version {manifest.version}"),
            ("emod", manifest.emod_version),
            *((f"data of {corpus.name}", _folder(corpus.metadata)) for corpus in corpora),
        ),
    )
    if simulated:
        which = "All corpora here are" if len(simulated) == len(corpora) else f"{', '.join(simulated)}:"
        add_banner(
            header,
            "SIMULATED RECORDINGS",
            f"{which} simulated. Nothing on this page about them says anything about people.",
        )
    _add_overview(main, corpora)
    _add_settings(main, settings)
    for corpus in corpora:
        _add_corpus(main, corpus)
    _add_glossary(main, settings)
    return render_page(html)


def _add_overview(parent: ET.Element, corpora: Sequence[_Corpus]) -> None:
    section = add_section(parent, "Overview", "overview")
    rows = []
    for corpus in corpora:
        lights = Counter(corpus.light(finding)[0] for finding in corpus.findings.values())
        keys = _keys(corpus.metadata)
        rows.append(
            (
                link(f"#{corpus.name}", corpus.name),
                "SIMULATED" if corpus.entry.simulated else "real",
                f"{corpus.entry.n_subjects:,}",
                f"{len({key[:2] for key in keys}):,}",
                f"{len(set(keys)):,}",
                f"{corpus.entry.n_windows:,}",
                _duration(corpus.entry.n_windows * corpus.entry.window_s),
                f"{lights['good']:,}",
                f"{lights['look']:,}",
                f"{lights['unused']:,}",
                f"{sum(problem['code'] != _KNOWN for problem in _join_labels(corpus.entry.problems)):,}",
            )
        )
    names = "corpus,origin,subjects,sessions,trials,windows,duration,✔ good,◐ look,✖ not used,problems"
    add_table(add_element(section, "div", cls="wide"), names.split(","), rows, text=2)
    add_element(section, "p", "✔ ◐ ✖ count recordings: one session of one subject each.", cls="note")


def _add_settings(parent: ET.Element, settings: SignalSettings) -> None:
    section = add_section(parent, "What was done", "settings")
    quality, ica = settings.quality, settings.ica
    low, high = settings.band_hz
    kinds = " and ".join(kind for kind, sought in (("eye", ica.ocular), ("muscle", ica.muscle)) if sought)
    bad = {
        "interpolate": f"interpolated from the others (spherical splines), if at most {quality.most_interpolated:.0%} "
        "of the electrodes are bad at a time; else the windows are rejected",
        "reject": "costs the windows it is bad in",
        "keep": "is kept as it is",
    }
    lines = [
        f"Band-pass {low:g}-{high:g} Hz, zero phase, as far as a corpus' sampling rate allows; each corpus below says "
        "which band it got, and whether mains lies in it."
        if settings.band_pass
        else "No filter.",
        f"A flat electrode (moves by less than {quality.flat_uv:g} µV within a second): {bad[quality.flat]}.",
        f"A noisy electrode (louder than the others by {quality.noisy_z:g} robust standard deviations, and unlike its "
        f"neighbours: correlation below {quality.noisy_correlation:g}; or {quality.noisy_gain:g} times as loud as the "
        f"median electrode and as its neighbours): {bad[quality.noisy]}.",
        "Average reference over all electrodes." if settings.reference == "average" else "The recorder's reference.",
        f"Independent components of {kinds} artefacts removed, unless the corpus' owner had removed them."
        if ica.enabled
        else "No independent component analysis.",
        f"Windows of {settings.window_s:g} s without overlap, each divided by its own robust scale.",
        f"Windows are rejected if {_rejections(settings)}.",
        f"A recording whose mains stands {quality.line_noise_db:g} dB above its neighbourhood is "
        + ("rejected." if quality.line_noise == "reject" else "marked for a look."),
    ]
    listing = add_element(section, "ol")
    for line in lines:
        add_element(listing, "li", line)
    note = add_element(section, "p", "Each is a setting of the experiment, changed for one run by ", cls="note")
    code = add_element(note, "code", "python jobs/ingest.py --experiment NAME --set signal.quality.saturated=keep")
    code.tail = " and the like; --dry-run prints them all. What they change is computed again."


def _rejections(settings: SignalSettings) -> str:
    quality = settings.quality
    reasons = (
        (f"they exceed {quality.peak_uv:g} µV after cleaning", quality.gross),
        (f"more than {quality.saturated_share:.1%} of their samples lie at the recorder's rail", quality.saturated),
        (f"more than {quality.clipped_share:.1%} of their values exceed {settings.clip:g} scales", quality.clipped),
    )
    return ", or if ".join(words for words, action in reasons if action == "reject") or "nothing is left of them"


def _add_corpus(parent: ET.Element, corpus: _Corpus) -> None:
    entry, catalog = corpus.entry, corpus.catalog
    section = add_section(parent, corpus.name, corpus.name, cls="corpus")
    heading = section.find("h2")
    assert heading is not None
    if entry.simulated:
        add_element(heading, "span", "SIMULATED", cls="tag")
    facts = f"{number_of(len(entry.channels), 'electrode')}, {entry.sfreq_hz:g} Hz, windows of {entry.window_s:g} s."
    if catalog is not None:
        owner = ", ".join(
            {"ocular": "eye artefacts", "muscle": "muscle artefacts"}.get(s, s) for s in catalog.stages_done
        )
        facts = f"{catalog.title}. {facts} " + (
            f"Its owner had applied: {owner.replace('_', ' ')}." if owner else "Published as recorded."
        )
    add_element(section, "p", facts, cls="lead")
    if words := _passed(corpus):
        add_element(section, "p", words)
    grid = add_element(section, "div", cls="pair")
    _add_counts(grid, corpus)
    _add_coverage(grid, corpus)
    if corpus.findings:
        _add_pictures(section, corpus)
        _add_recordings(section, corpus)
    else:
        add_element(section, "p", "No measurements of single recordings were stored with this version.", cls="note")
    _add_problems(section, entry.problems)


def _passed(corpus: _Corpus) -> str:
    """Which band the recordings of a corpus got, and what that means for mains."""
    entry, settings = corpus.entry, corpus.settings
    stages = entry.cleaning["stages"]
    low, high = settings.band_hz
    nyquist_hz, mains_hz = entry.sfreq_hz / 2, corpus.mains_hz
    applied = {
        f"band-pass {low:g}-{high:g} Hz": stages.get("band_pass", 0),
        f"high-pass at {low:g} Hz only, as the band's end, {high:g} Hz, is too high for their rate": stages.get(
            "high_pass", 0
        ),
    }
    open_above = not stages.get("band_pass") or bool(stages.get("high_pass"))
    got = {words: count for words, count in applied.items() if count}
    if len(got) > 1:
        words = "Filter: " + "; ".join(f"{words} ({number_of(count, 'recording')})" for words, count in got.items())
    else:
        words = f"Filter: {next(iter(got), 'none')}"
    ends = f" What is stored ends at {nyquist_hz:g} Hz." if open_above or nyquist_hz < high else ""
    if mains_hz >= nyquist_hz:
        mains = f"lies beyond what is stored at {entry.sfreq_hz:g} Hz"
    elif open_above or mains_hz <= high:
        mains = "lies in the pass band: the filter leaves it as it is"
    elif mains_hz >= high + settings.top_transition_hz:
        mains = "lies in the stop band: it is removed"
    else:
        mains = "lies on the filter's slope: it is weakened only"
    return f"{words}.{ends} Mains, {mains_hz:g} Hz, {mains}."


def _add_counts(parent: ET.Element, corpus: _Corpus) -> None:
    block = add_element(parent, "div")
    add_element(block, "h3", "Counts")
    entry, keys = corpus.entry, _keys(corpus.metadata)
    found = {
        "subjects": entry.n_subjects,
        "sessions": len({key[:2] for key in keys}),
        "trials": len(set(keys)),
        "windows": entry.n_windows,
        "seconds": entry.n_windows * entry.window_s,
    }
    owner = {} if corpus.catalog is None else _owners_counts(corpus.catalog, entry.window_s)
    rows = [
        (
            what,
            f"{number:,.0f}",
            f"{owner[what]:,.0f}" if what in owner else "not known",
            f"{number / owner[what]:.1%}" if owner.get(what) else "",
        )
        for what, number in found.items()
    ]
    add_table(add_element(block, "div", cls="wide"), ["", "in the store", "published", "share"], rows, text=1)
    exact = corpus.catalog is None or corpus.catalog.trial_s_exact
    notes = [
        "Published: the owner's numbers, less what the owner says is missing. What is left of a trial after its last "
        "whole window is not stored."
    ]
    if not exact:
        notes.append("Lengths of trials differ from copy to copy: windows and seconds are about right.")
    if entry.simulated:
        notes.append("A simulated copy holds as much as was asked for, often a part, with shortened trials.")
    if empty := sum(not finding["n_windows"] for finding in corpus.findings.values()):
        notes.append(f"{number_of(empty, 'recording')} of this copy gave no window.")
    add_element(block, "p", " ".join(notes), cls="note")


def _owners_counts(catalog: CorpusCatalog, window_s: float) -> dict[str, float]:
    """What the owner publishes, in the words of `_add_counts`."""
    trials = windows = seconds = 0.0
    for session in range(1, catalog.sessions + 1):
        lengths = [catalog.seconds_of(index, str(session)) for index in range(catalog.trials)]
        trials += catalog.subjects * len(lengths)
        seconds += catalog.subjects * sum(lengths)
        windows += catalog.subjects * sum(length // window_s for length in lengths)
    for gap in catalog.missing:
        lengths = [
            catalog.seconds_of(number - 1, gap.session) for number in gap.trials if 1 <= number <= catalog.trials
        ]
        # Where the owner does not say which trials, they are taken for typical ones.
        typical = [seconds / trials] * (gap.count - len(lengths))
        for length in (*lengths, *typical):
            seconds -= length
            windows -= length // window_s
        trials -= gap.count
    return {
        "subjects": catalog.subjects,
        "sessions": catalog.subjects * catalog.sessions,
        "trials": trials,
        "windows": windows,
        "seconds": seconds,
    }


def _add_coverage(parent: ET.Element, corpus: _Corpus) -> None:
    block = add_element(parent, "div")
    add_element(block, "h3", "Coverage of the valence-arousal plane")
    regions = np.bincount(np.asarray(corpus.metadata["va_region"].to_pylist(), dtype=np.int64), minlength=N_REGIONS)
    total = max(int(regions.sum()), 1)
    plane = add_element(block, "table", cls="plane")
    add_element(plane, "caption", "Windows in each of the 9 regions")
    names = ("low", "middle", "high")
    rows = add_element(plane, "tbody")
    for arousal in (2, 1, 0):
        row = add_element(rows, "tr")
        if arousal == 2:
            add_element(add_element(row, "th", rowspan="3", scope="rowgroup", cls="axis"), "span", "Arousal →")
        add_element(row, "th", names[arousal], scope="row")
        for valence in range(3):
            count = int(regions[valence + 3 * arousal])
            share = count / total
            # Mixed from white and the figures' blue; white text only on dark cells.
            mix = min(1.0, share * 9 / 3)
            red, green, blue = (round(255 + (channel - 255) * mix) for channel in (0, 114, 178))
            ink = "#fff" if mix > 0.6 else "#222"
            cell = add_element(row, "td", style=f"background:rgb({red},{green},{blue});color:{ink}")
            add_element(cell, "b", f"{count:,}")
            add_element(cell, "small", f"{share:.0%}")
    foot = add_element(rows, "tr")
    add_element(foot, "td", colspan="2", cls="corner")
    for name in names:
        add_element(foot, "th", name, scope="col")
    foot = add_element(rows, "tr")
    add_element(foot, "td", colspan="2", cls="corner")
    add_element(foot, "th", "Valence →", colspan="3", cls="axis")
    empty = int((regions == 0).sum())
    kinds = Counter(corpus.metadata["label_kind"].to_pylist())
    source = " and ".join({"rating": "ratings", "emotion": "emotion words"}.get(kind, kind) for kind in sorted(kinds))
    words = f"From {source}. " if source else ""
    words += (
        f"{number_of(empty, 'region')} without a window: none can be drawn from them."
        if empty
        else "Every region has windows."
    )
    add_element(block, "p", words, cls="note")


def _add_pictures(parent: ET.Element, corpus: _Corpus) -> None:
    entry, settings = corpus.entry, corpus.settings
    findings = list(corpus.findings.values())
    measured = [finding for finding in findings if finding.get("electrodes") is not None]
    mains_hz = corpus.mains_hz
    shares: dict[str, float] = defaultdict(float)
    for finding in measured:
        for what in ("flat", "noisy"):
            for name, share in finding["electrodes"][what].items():
                shares[name] += share / len(measured)
    lines = [line for finding in measured if (line := finding["line_noise_db"])]
    fitted = [finding for finding in measured if finding["components"]["fitted"] is not None]
    removed = [Counter(one["kind"] for one in finding["components"]["removed"]) for finding in fitted]
    columns = [np.asarray(corpus.metadata[name].to_pylist(), dtype=np.float64) for name in ("scale_uv", "peak_uv")]

    add_element(parent, "h3", "Signal")
    grid = add_element(parent, "div", cls="pictures")
    add_figure(
        grid,
        "Spectra before and after cleaning",
        pictures.draw_spectra(measured, mains_hz, settings.band_hz if settings.band_pass else None),
        "The median electrode of the median recording; the band holds 80% of the recordings. " + _range_words(measured),
        "No piece is two seconds long: no spectrum.",
    )
    add_figure(
        grid,
        "Flat and noisy electrodes",
        pictures.draw_electrodes(shares, entry.channels),
        _worst(shares),
        "No electrode was flat or noisy in any recording.",
    )
    add_figure(
        grid,
        "Amplitude of the windows",
        pictures.draw_amplitudes(columns[0], columns[1], settings.quality.peak_uv),
        f"Median window: {np.median(columns[0]):.1f} µV typical, {np.median(columns[1]):.0f} µV at its largest. "
        f"{np.mean([finding['clipped_share'] for finding in measured]):.3%} of the values are clipped when stored."
        if len(columns[0])
        else "",
        "No window.",
    )
    add_figure(
        grid,
        "Line noise",
        pictures.draw_line_noise(
            [line["before"] for line in lines],
            [line["after"] for line in lines],
            settings.quality.line_noise_db,
        ),
        f"Power at {mains_hz:g} Hz over that 2 to 5 Hz away (after cleaning: over 40-45 Hz); the median electrode.",
        f"The sampling rate does not reach {mains_hz:g} Hz.",
    )
    add_figure(
        grid,
        "Independent components removed",
        pictures.draw_components(removed),
        f"Fitted in {number_of(len(fitted), 'recording')}.",
        f"Fitted in {number_of(len(fitted), 'recording')}; nothing followed the eyes or looked like muscle."
        if fitted
        else "Not fitted in any recording.",
    )
    stages = "; ".join(f"{_STAGES.get(name, name)} {count:,}" for name, count in entry.cleaning["stages"].items())
    notes = "; ".join(f"{note} ({count:,})" for note, count in entry.cleaning["notes"].items())
    words = f"Recordings that went through each stage: {stages or 'none'}."
    add_element(parent, "p", f"{words} Notes: {notes}." if notes else words, cls="note")


def _add_recordings(parent: ET.Element, corpus: _Corpus) -> None:
    order: list[Light] = ["unused", "look", "good"]
    told = [(*corpus.light(finding), finding) for finding in corpus.findings.values()]
    told.sort(key=lambda item: (order.index(item[0]), item[2]["subject"], item[2]["session"]))
    add_element(parent, "h3", "Recordings")
    counts = Counter(light for light, _, _ in told)
    words = ", ".join(f"{_LIGHTS[light][0]}: {counts[light]:,} ({_LIGHTS[light][1]})" for light in reversed(order))
    add_element(parent, "p", f"{words}. What needs a look stands first.", cls="note")
    rows = []
    for light, reasons, finding in told:
        windows = finding.get("windows") or {"kept": finding["n_windows"], "rejected": {}}
        line = finding.get("line_noise_db")
        ranges = finding.get("range_uv") or {}
        more = f"; and {len(reasons) - _MOST_REASONS} more" if len(reasons) > _MOST_REASONS else ""
        rows.append(
            (
                _light(light),
                finding["subject"],
                finding["session"],
                f"{windows['kept']:,}",
                f"{sum(windows['rejected'].values()):,}",
                _arrow(*(ranges.get(when) and f"{ranges[when][2]:.0f}" for when in ("before", "after"))),
                _arrow(*(f"{line[w]:+.0f}" if line and line[w] is not None else None for w in ("before", "after"))),
                _components(finding.get("components")),
                "; ".join(reasons[:_MOST_REASONS]) + more,
            )
        )
    headings = ["", "subject", "session", "windows", "rejected", "range µV", "mains dB", "components", "why a look"]
    add_table(add_element(parent, "div", cls="scroll"), headings, rows, text=3, last_text=2)
    add_element(
        parent,
        "p",
        "Range: an electrode's median peak-to-peak range within two seconds, before → after cleaning. Mains: over the "
        "EEG beside it, before → after. Windows beyond a limit are left out by --set signal.quality.clipped=reject; "
        "gross and saturated likewise.",
        cls="note",
    )


def _add_problems(parent: ET.Element, problems: Sequence[Mapping[str, str | None]]) -> None:
    add_element(parent, "h3", "Problems")
    if not problems:
        add_element(parent, "p", "None.")
        return
    groups: dict[str, list[Mapping[str, str | None]]] = defaultdict(list)
    for problem in _join_labels(problems):
        groups[problem.get("code") or ""].append(problem)
    for code, found in sorted(groups.items(), key=lambda item: (item[0] == _KNOWN, -len(item[1]), item[0])):
        meaning, cure = MEANING_OF_CODE.get(code, _UNKNOWN_CODE)
        block = add_element(parent, "div", cls="problem")
        heading = add_element(block, "h4", f"{len(found):,} × ")
        add_element(heading, "code", code)
        line = add_element(block, "p", f"{meaning} ")
        add_element(line, "b", f"What to do: {cure}")
        rows = [
            (
                problem.get("subject") or "",
                problem.get("trial") or "",
                problem.get("message") or "",
                storage.redact(problem.get("source") or ""),
            )
            for problem in found[:_MOST_ITEMS]
        ]
        add_table(add_element(block, "div", cls="scroll"), ["subject", "trial", "what", "object"], rows, text=4)
        if len(found) > _MOST_ITEMS:
            add_element(block, "p", f"And {len(found) - _MOST_ITEMS:,} more, in the store's manifest.", cls="note")


def _add_glossary(parent: ET.Element, settings: SignalSettings) -> None:
    section = add_section(parent, "How to read this", "words")
    listing = add_element(section, "dl")
    for word, meaning in (
        (
            "recording",
            "One session of one subject as stored. It is cleaned as a whole, then cut into trials and windows.",
        ),
        ("window", f"{settings.window_s:g} s of one trial: what a model sees at a time."),
        ("flat", f"An electrode that moves by less than {settings.quality.flat_uv:g} µV within a second."),
        (
            "noisy",
            "An electrode louder than the others and unlike what its neighbours predict, or far louder than both, for "
            "about half a minute. Blinks and muscles do not make an electrode noisy.",
        ),
        ("interpolated", "Replaced by what the other electrodes predict for its place, for as long as it is bad."),
        ("rail", "The largest or smallest value a recorder can store. An electrode that stays there is saturated."),
        ("range", "Peak to peak. Clean EEG on the scalp moves by some 10 to 100 µV within two seconds."),
        (
            "mains, dB",
            "Power at the mains frequency over the EEG beside it: 0 dB means that it does not stand out, "
            "20 dB that it is 10 times larger in amplitude. After cleaning it should lie below 0.",
        ),
        (
            "component",
            "A part of the signal that independent component analysis separates from the rest, taken out where "
            "it follows the eyes or looks like muscle.",
        ),
        ("clipped", f"A value more than {settings.clip:g} times the window's robust scale; stored as that."),
        ("V-A region", "A third of the valence axis by a third of the arousal axis, of the plane from -4 to 4."),
    ):
        add_element(listing, "dt", word)
        add_element(listing, "dd", meaning)


def _keys(metadata: pa.Table) -> list[tuple[str, str, str]]:
    return list(zip(*(metadata[name].to_pylist() for name in ("subject", "session", "trial")), strict=True))


def _folder(metadata: pa.Table) -> str:
    """The innermost folder that holds all the objects windows came from, without secrets; empty if there is none."""
    folders = {source.rpartition("/")[0] for source in pc.unique(metadata["source"]).to_pylist()}
    parts = [folder.split("/") for folder in folders]
    same = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    return storage.redact("/".join(level[0] for level in same))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:,.1f} h"


def _components(told: Mapping[str, Any] | None) -> str:
    """What ICA took out of a recording: none of them, or it was not fitted."""
    if told is None or told["fitted"] is None:
        return "not fitted"
    removed = Counter(one["kind"] for one in told["removed"])
    return ", ".join(f"{count} {kind}" for kind, count in removed.items()) or "none"


def _join_labels(problems: Iterable[Mapping[str, str | None]]) -> list[Mapping[str, str | None]]:
    """The problems, where a label that could not be used also says what contradicts it: a trial is told of once."""
    told = list(problems)
    refused: dict[Any, list[str]] = {_place(one): [] for one in told if one["code"] == "label" and one["trial"]}
    kept = []
    for problem in told:
        if problem["code"] == "label_disagreement" and (also := refused.get(_place(problem))) is not None:
            also.append(problem["message"] or "")
        else:
            kept.append(problem)
    return [
        {**problem, "message": "; also: ".join([problem["message"] or "", *refused[_place(problem)]])}
        if problem["code"] == "label" and problem["trial"]
        else problem
        for problem in kept
    ]


def _place(problem: Mapping[str, str | None]) -> tuple[str | None, ...]:
    return problem["source"], problem["subject"], problem["trial"]


def _range_words(measured: Sequence[Mapping[str, Any]]) -> str:
    found = {
        when: [finding["range_uv"][when] for finding in measured if finding["range_uv"][when]]
        for when in ("before", "after")
    }
    words = []
    for when, values in found.items():
        if values:
            low, _, middle, _, high = np.median(values, axis=0)
            words.append(f"{when}: {middle:.0f} µV (5-95%: {low:.0f}-{high:.0f})")
    return f"Peak-to-peak range within two seconds, {'; '.join(words)}." if words else ""


def _worst(shares: Mapping[str, float]) -> str:
    worst = sorted(shares.items(), key=lambda item: -item[1])[:5]
    return "Most often: " + ", ".join(f"{name} {share:.1%}" for name, share in worst) + " of the time."


def _shares(named: Mapping[str, float]) -> str:
    ordered = sorted(named.items(), key=lambda item: -item[1])
    words = ", ".join(f"{name} {share:.0%}" if share >= 0.01 else f"{name} <1%" for name, share in ordered[:6])
    return words + (f" and {len(ordered) - 6} more" if len(ordered) > 6 else "")


def _arrow(before: str | None, after: str | None) -> str:
    return f"{before} → {after or '–'}" if before else "–"


def _light(light: Light) -> ET.Element:
    mark = ET.Element("span", {"class": f"light {light}"})
    mark.text = _LIGHTS[light][0]
    return mark
