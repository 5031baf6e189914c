"""Weights come back bit for bit, and nothing else is accepted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from emod.catalog.model import EmodConfig
from emod.errors import DataError
from emod.model import Emod, EmodClassifier, load_emod, load_weights, read_config, save_weights

SMALL = EmodConfig(width=8, heads=2, groups=2, layers=1, feed_forward=16, projection_hidden=12)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = Emod(SMALL)
    model(torch.randn(4, 2, 64), ("Cz", "Pz"), 64.0)  # moves the running statistics
    save_weights(tmp_path / "model", model, SMALL)
    return tmp_path / "model"


def test_round_trip(tmp_path: Path) -> None:
    model = Emod(SMALL)
    model(torch.randn(4, 2, 64), ("Cz", "Pz"), 64.0)
    save_weights(tmp_path, model, SMALL)
    again = load_emod(tmp_path)
    assert again.config == read_config(tmp_path) == SMALL
    assert not again.training
    eeg = torch.randn(3, 2, 64)
    assert torch.equal(again(eeg, ("Cz", "Pz"), 64.0), model.eval()(eeg, ("Cz", "Pz"), 64.0))
    assert {path.name for path in tmp_path.iterdir()} == {"model.json", "model.safetensors"}


def test_classifier_round_trip(tmp_path: Path) -> None:
    model, other = EmodClassifier(Emod(SMALL), 3).eval(), EmodClassifier(Emod(SMALL), 3).eval()
    save_weights(tmp_path, model, SMALL)
    load_weights(tmp_path, other)
    eeg = torch.randn(3, 2, 64)
    assert torch.equal(model(eeg, ("Cz", "Pz"), 64.0), other(eeg, ("Cz", "Pz"), 64.0))


def edit_description(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        description = json.loads((folder / "model.json").read_text())
        change(description)
        (folder / "model.json").write_text(json.dumps(description))

    return edit


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: (d / "model.json").unlink(), "model.json: no such file"),
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors: no such file"),
        (lambda d: (d / "model.json").write_text("{"), "not a model description"),
        (lambda d: (d / "model.json").write_text("[]"), "not a model description"),
        (lambda d: (d / "model.safetensors").write_bytes(b"\x80\x04"), "damaged"),
        (lambda d: (d / "model.safetensors").write_bytes((d / "model.safetensors").read_bytes()[:-9]), "damaged"),
        (edit_description(lambda j: j["config"].update(depth=3)), "config depth"),
        (edit_description(lambda j: j["config"].update(heads=3)), "heads = 3 does not divide width = 8"),
        (edit_description(lambda j: j["config"].update(layers=2)), "tensor transformer.1.*absent"),
        (edit_description(lambda j: j["config"].update(feed_forward=32)), r"\(16,.*needs \(32,"),
        (edit_description(lambda j: j["electrodes"].reverse()), "electrode rows that are not"),
    ],
)
def test_refuses_with_one_line(saved: Path, damage: Callable[[Path], Any], said: str) -> None:
    damage(saved)
    with pytest.raises(DataError, match=said) as caught:
        load_emod(saved)
    assert "\n" not in str(caught.value)


def test_a_refused_load_changes_nothing(saved: Path) -> None:
    classifier = EmodClassifier(Emod(SMALL), 3)
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    with pytest.raises(DataError, match="EmodClassifier needs"):
        load_weights(saved, classifier)
    # Every tensor fits, and it is another network all the same.
    other = Emod(SMALL.model_copy(update={"groups": 4, "token_rate_hz": 10.0}))
    with pytest.raises(DataError, match="weights of a network with groups = 2, this one has 4; load them into"):
        load_weights(saved, other)
    torch.testing.assert_close(classifier.state_dict(), before, rtol=0, atol=0)
