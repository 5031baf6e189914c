"""The paper's printed figures: which of them stand beside what."""

from __future__ import annotations

import pytest

from emod.catalog import Experiment, load_experiment, load_paper
from emod.training.networks import RIVALS

# Of each column of the paper's Tables 2 and 3, added up from the print: balanced accuracy, its spread, kappa, ...
COLUMNS = {
    "faced": [688.43, 15.84, 599.15, 22.87, 680.7, 17.17],
    "seed_v": [518.97, 14.77, 294.88, 20.8, 517.74, 16.08],
    "seed": [721.05, 14.32, 434.66, 20.06, 724.78, 16.45],
}


@pytest.mark.parametrize("corpus", COLUMNS)
def test_the_columns_of_the_papers_tables_add_up(corpus: str) -> None:
    rows = [found[corpus] for found in load_paper().results.values() if corpus in found]
    cells = [(*row.balanced_accuracy, *(row.kappa or ()), *(row.weighted_f1 or ())) for row in rows]
    assert [round(sum(column), 2) for column in zip(*cells, strict=True)] == COLUMNS[corpus]


def test_the_papers_losses_add_up() -> None:
    losses = load_paper().losses.values()
    assert [round(sum(loss[corpus] for loss in losses), 2) for corpus in ("faced", "seed_v", "seed")] == [
        16.84,
        5.85,
        7.9,
    ]


def test_only_the_papers_own_question_has_figures_beside_it() -> None:
    paper = load_paper()
    assert paper.of("EMOD", corpus="faced", protocol="subject_folds", window_s=10.0) is None
    assert paper.of("EMOD", corpus="faced", protocol="faced_paper", window_s=5.0) is None
    assert paper.of("EMOD", corpus="seed", protocol="faced_paper", window_s=10.0) is None
    assert paper.of("EMOD linear probe", corpus="faced", protocol="faced_paper", window_s=10.0) is None
    whole = paper.of("EMOD", corpus="faced", protocol="faced_paper", window_s=10.0)
    assert whole is not None
    assert whole.balanced_accuracy == (62.87, 0.76)
    found = paper.of("without spatial attention", corpus="faced", protocol="faced_paper", window_s=10.0)
    assert found is not None
    assert found.balanced_accuracy == (59.88, None)
    assert found.kappa is None


@pytest.mark.parametrize("name", ["faced", "seed_v", "seed", "table3", "figure3", "table3-simulated"])
def test_shipped_methods_bear_the_papers_names(name: str) -> None:
    """A rival or an arm that the paper has must be found there, or its figure is silently missing."""
    experiment = load_experiment(name)
    known = {**load_paper().results, **load_paper().losses}
    assert set(_named(experiment)) - set(known) <= {"differential entropy"}
    if experiment.ablation is None:
        assert len(_named(experiment)) == len(RIVALS) + 3


def _named(experiment: Experiment) -> list[str]:
    if experiment.ablation is not None:
        return list(experiment.ablation.arms)
    assert experiment.evaluate is not None
    return list(experiment.evaluate.methods)
