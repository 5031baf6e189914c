"""A store that grows leaves runs alone that do not read what it grew by."""

from __future__ import annotations

from pathlib import Path

import pytest

from emod.catalog import Addresses
from emod.errors import RequestError
from emod.ingest.withdrawal import withdraw
from emod.shards import ShardStore
from emod.training import claim_pretraining
from tests.ingest.copies import make_experiment, run


def test_a_run_is_resumed_over_a_store_that_has_grown(
    serial: None, small_copies: dict[str, Path], tmp_path: Path
) -> None:
    url = str(tmp_path / "store")
    addresses = Addresses(data={"deap": str(small_copies["deap"])}, store=url, runs=str(tmp_path / "runs"))
    experiment = make_experiment(url, {"deap": small_copies["deap"]}, addresses=addresses)
    run(experiment)
    claim_pretraining(experiment, ShardStore.open(url))
    run(make_experiment(url, {"dasps": small_copies["dasps"]}))
    grown = ShardStore.open(url)
    assert grown.corpora == ("dasps", "deap")
    claim_pretraining(experiment, grown)

    withdraw(url, "deap", ["s02"])
    with pytest.raises(RequestError, match="emod-pretrain"):  # what it learned from is not what is there
        claim_pretraining(experiment, ShardStore.open(url))
    both = experiment.model_copy(update={"corpora": ("deap", "seed_iv")})
    with pytest.raises(RequestError, match=r"'seed_iv' is not in the store .* it holds dasps, deap"):
        claim_pretraining(both, grown)
