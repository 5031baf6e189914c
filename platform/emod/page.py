"""Pages for people: one HTML document that needs nothing from elsewhere, no script, and prints.

A page is built as a tree, so whatever a name of an object holds is text.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence

__all__ = [
    "add_banner",
    "add_element",
    "add_facts",
    "add_figure",
    "add_section",
    "add_table",
    "link",
    "new_page",
    "number_of",
    "printable",
    "render_page",
]


def number_of(number: int, one: str, many: str | None = None) -> str:
    """A number and what it counts: 1 window, 2 windows."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def add_element(parent: ET.Element, tag: str, text: str = "", *, cls: str = "", **attributes: str) -> ET.Element:
    """A child element. Its text is text: markup in it shows as such, and what cannot be printed is replaced."""
    element = ET.SubElement(parent, tag, {**({"class": cls} if cls else {}), **attributes})
    element.text = text if tag == "style" else printable(text)
    return element


def printable(text: str) -> str:
    """Control characters, half characters and marks that turn the direction of writing become a replacement mark."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def add_section(parent: ET.Element, title: str, anchor: str, *, cls: str = "") -> ET.Element:
    """A part of the page with its heading, to which links can lead."""
    section = add_element(parent, "section", cls=cls, id=anchor)
    add_element(section, "h2", title)
    return section


def link(target: str, text: str) -> ET.Element:
    """Text that leads somewhere."""
    link = ET.Element("a", {"href": target})
    link.text = printable(text)
    return link


def add_table(
    parent: ET.Element,
    headings: Sequence[str],
    rows: Iterable[Sequence[str | ET.Element]],
    *,
    text: int,
    last_text: int = 0,
) -> None:
    """A table whose first ``text`` and last ``last_text`` columns are words; the others are numbers."""
    table = add_element(parent, "table")
    numeric = [text <= column < len(headings) - last_text for column in range(len(headings))]
    head = add_element(add_element(table, "thead"), "tr")
    for heading, number in zip(headings, numeric, strict=True):
        add_element(head, "th", heading, cls="number" if number else "", scope="col")
    body = add_element(table, "tbody")
    for row in rows:
        line = add_element(body, "tr")
        for cell, number in zip(row, numeric, strict=True):
            place = add_element(line, "td", cell if isinstance(cell, str) else "", cls="number" if number else "")
            if not isinstance(cell, str):
                place.append(cell)


def add_figure(parent: ET.Element, title: str, picture: str | None, words: str, otherwise: str) -> None:
    """A picture (a data URL) with its title and caption; without one, what is said instead."""
    figure = add_element(parent, "figure")
    add_element(figure, "h4", title)
    if picture is None:
        add_element(figure, "p", otherwise, cls="nothing")
        return
    add_element(figure, "img", src=picture, alt=f"{title}. {words}")
    add_element(figure, "figcaption", words)


def new_page(title: str, heading: str, lead: str, *, simulated: bool) -> tuple[ET.Element, ET.Element, ET.Element]:
    """(html, header, main) of an empty page.

    Args:
        title: Of the browser's tab.
        heading: Of the page.
        lead: What it tells, in a sentence.
        simulated: Whether anything on it is.
    """
    html = ET.Element("html", {"lang": "en"})
    head = add_element(html, "head")
    add_element(head, "meta", charset="utf-8")
    add_element(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    add_element(head, "title", f"{'SIMULATED: ' if simulated else ''}{title}")
    add_element(head, "style", STYLE)
    body = add_element(html, "body")
    header = add_element(body, "header")
    add_element(header, "p", "EMOD platform", cls="kicker")
    add_element(header, "h1", heading)
    add_element(header, "p", lead, cls="lead")
    return html, header, add_element(body, "main")


def add_banner(header: ET.Element, title: str, words: str) -> None:
    """What nobody may overlook."""
    banner = add_element(header, "div", cls="simulated", role="note")
    add_element(banner, "strong", title)
    add_element(banner, "span", words)


def add_facts(parent: ET.Element, facts: Iterable[tuple[str, str | None]]) -> None:
    """Words and their meanings; those without a meaning are left out."""
    listing = add_element(parent, "dl", cls="facts")
    for word, meaning in facts:
        if meaning:
            add_element(listing, "dt", word)
            add_element(listing, "dd", meaning)


def render_page(html: ET.Element) -> str:
    """The document as text."""
    return "<!DOCTYPE html>\n" + ET.tostring(html, encoding="unicode", method="html") + "\n"


STYLE = """
:root { --ink: #222; --soft: #5f5f5f; --line: #d9d9d9; --accent: #0072b2; --loud: #b34700; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 74rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; color-scheme: light; }
h1 { font-size: 2rem; line-height: 1.15; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.45rem; line-height: 1.2; margin: 0 0 .5rem; }
h3 { font-size: 1.1rem; margin: 1.8rem 0 .5rem; }
h4 { font-size: .95rem; margin: 0 0 .35rem; }
p { margin: 0 0 .7rem; max-width: 46rem; }
a { color: var(--accent); }
code { font: .95em ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
.kicker { margin: 0; font-size: .8rem; letter-spacing: .08em; text-transform: uppercase; color: var(--soft); }
.lead { color: var(--soft); overflow-wrap: anywhere; }
.facts { font-size: .9rem; gap: .1rem 1.2rem; margin: .6rem 0 0; overflow-wrap: anywhere; }
.note, figcaption { font-size: .86rem; color: var(--soft); }
section { margin-top: 2.2rem; }
section.corpus { padding-top: 1.6rem; border-top: 3px solid var(--ink); }
.simulated { margin: 1rem 0; padding: .8rem 1rem; background: var(--loud); color: #fff; border-radius: .3rem; }
.simulated strong { display: block; font-size: 1.25rem; letter-spacing: .05em; }
.tag { margin-left: .6rem; padding: .1rem .5rem; border-radius: .25rem; background: var(--loud); color: #fff;
  font-size: .75rem; letter-spacing: .05em; vertical-align: middle; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .9rem .28rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { font-weight: 600; color: var(--soft); white-space: nowrap; border-bottom: 2px solid var(--line); }
td { overflow-wrap: break-word; max-width: 30rem; }
.number { text-align: right; white-space: nowrap; }
.scroll { max-height: 27rem; overflow: auto; border: 1px solid var(--line); border-radius: .3rem; padding: 0 .7rem;
  margin-bottom: .5rem; }
.scroll table { width: 100%; }
.scroll thead th { position: sticky; top: 0; background: #fff; }
.scroll td { overflow-wrap: anywhere; min-width: 4.2rem; }
.scroll td:last-child { min-width: 13rem; }
.pair { display: grid; gap: 0 2.5rem; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
.pictures { display: grid; gap: 1.5rem 2rem; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); }
figure { margin: 0; break-inside: avoid; }
figure img { width: 100%; max-width: 34rem; height: auto; display: block; }
section > figure img { max-width: 60rem; }
.nothing { color: var(--soft); padding: 1rem; border: 1px dashed var(--line); border-radius: .3rem; }
.plane { margin-bottom: .5rem; }
.plane caption { text-align: left; font-size: .86rem; color: var(--soft); padding-bottom: .3rem; }
.plane th, .plane td { border: 0; padding: .2rem .5rem; }
.plane tr td { width: 5.6rem; height: 3.6rem; text-align: center; vertical-align: middle; border: 1px solid #e6e6e6; }
.plane td.corner { height: auto; border: 0; }
.plane th { color: var(--soft); font-weight: 400; font-size: .86rem; text-align: center; vertical-align: middle; }
.plane th.axis { color: var(--ink); font-weight: 600; }
.plane th[rowspan] { width: 1.6rem; padding: 0; }
.plane th[rowspan] span { writing-mode: vertical-rl; transform: rotate(180deg); }
.plane b { display: block; line-height: 1.2; }
.light { white-space: nowrap; font-weight: 600; padding: .05rem .45rem; border-radius: .25rem; }
.light.good { color: #00583f; background: #dff3ec; }
.light.look { color: #6b4a00; background: #fdeecb; }
.light.unused { color: #fff; background: var(--loud); }
.problem { margin: 0 0 1.2rem; padding-left: .9rem; border-left: 3px solid var(--line); }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .35rem 1.2rem; max-width: 50rem; }
dt { font-weight: 600; }
dd { margin: 0; }
ol, ul { padding-left: 1.2rem; max-width: 50rem; }
@media (max-width: 40rem) {
  body { padding: 1rem .9rem 3rem; }
  h1 { font-size: 1.6rem; }
  dl { display: block; }
  dd { margin-bottom: .5rem; }
  .plane tr td { width: 4.4rem; }
}
@media print {
  @page { margin: 15mm; }
  body { padding: 0; max-width: none; font-size: 10pt; }
  table { font-size: 7.5pt; }
  th, td { padding-right: .4rem; }
  thead th, .number { white-space: normal; }
  .scroll { max-height: none; overflow: visible; border: 0; padding: 0; }
  .scroll table { width: 100%; }
  .scroll thead th { position: static; }
  section.corpus { break-before: page; }
  h2, h3, h4 { break-after: avoid; }
  tr, .problem > p { break-inside: avoid; }
  .simulated, .tag, .light, .plane td { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
