"""The model card that people read: a version's description in the registry, in Markdown.

What it is for, what it learned from and under which licences, what came out under its protocol beside controls that see
no EEG, and where it ends (Mitchell et al. 2019, Model Cards for Model Reporting).
"""

from __future__ import annotations

from collections.abc import Sequence

from emod.tracking.servable import ModelCard

__all__ = ["describe_model"]

_USE = (
    "Research on emotional EEG: an embedding of windows, and estimates of what a group of people felt while they were "
    "shown material meant to move them."
)
_NOT_FOR = (
    "Not for judging a single person, for diagnosis, hiring, policing, or any setting in which somebody did not agree "
    "to it. Labels are what people said they felt, or what a film was chosen for; neither is what they felt."
)


def describe_model(card: ModelCard, *, width: int, results: Sequence[str] = ()) -> str:
    """The card as Markdown.

    Args:
        card: Of the version.
        width: Of its embedding.
        results: What came out on the test windows, a sentence or a table row each; () if nothing was scored.
    """
    lines = []
    if card.trained_on.simulated:
        lines += ["**Trained on simulated recordings: its answers say nothing about people.**", ""]
    answers = [f"an embedding of width {width}"]
    answers += ["valence and arousal"] if card.plane else []
    answers += [f"probabilities of {', '.join(card.classes)}"] if card.classes else []
    lines += [f"Gives {', '.join(answers)} for windows of EEG.", ""]
    lines += ["## Intended use", "", _USE, "", _NOT_FOR, ""]
    lines += ["## What it learned from", ""]
    for name, corpus in sorted(card.trained_on.corpora.items()):
        people = f"{len(corpus.subjects)} subjects" if corpus.subjects else "subjects not known"
        lines += [
            f"- **{name}**: {people}, {len(corpus.channels)} electrodes, {corpus.sfreq_hz:g} Hz. "
            f"Licence: {corpus.licence} {corpus.citation}".rstrip()
        ]
    lines += ["", f"Windows: manifest `{card.trained_on.manifest or 'not known'}`."]
    if (before := card.trained_on.backbone_manifest) and before != card.trained_on.manifest:
        lines += [f"The backbone's own: manifest `{before}`."]
    lines += [""]
    lines += ["## Results under its protocol", ""]
    lines += list(results) or ["It has not been scored."]
    electrodes = sorted({channel for corpus in card.trained_on.corpora.values() for channel in corpus.channels})
    rates = sorted({corpus.sfreq_hz for corpus in card.trained_on.corpora.values()})
    settings = card.settings
    lines += [
        "",
        "## Limits",
        "",
        f"- Electrodes it knows from training: {', '.join(electrodes)}. What it answers with others: "
        f"`serving.untrained_electrodes = {card.serving.untrained_electrodes}`.",
        f"- Rates: {', '.join(f'{rate:g}' for rate in rates)} Hz; others are flagged. Trained on windows of "
        f"{settings.window_s:g} s.",
        "- Raw windows are cleaned without ICA, and each by itself: eye blinks that ingest took out stay in.",
        "- Scores are of the people and the material of these corpora: mostly students before films, in a laboratory.",
        "",
        f"Made with emod {card.emod_version}.",
    ]
    return "\n".join(lines)
