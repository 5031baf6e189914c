"""A checkpoint gives back the network, the optimiser and the position, to the bit, and holds no pickle.

Checkpoints are written while steps go on, and of those below a folder the newest that is whole is found.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from emod import storage
from emod.catalog import EmodConfig
from emod.errors import DataError
from emod.model import Emod
from emod.training.checkpoint import (
    CheckpointWriter,
    fetch_checkpoint,
    fetch_newest,
    hold_checkpoint,
    load_checkpoint,
    read_position,
)
from tests.training.small_disk import little_space

CHANNELS = ("Fp1", "Cz", "O2")


def new_pair(config: EmodConfig, seed: int) -> tuple[Emod, torch.optim.AdamW]:
    torch.manual_seed(seed)
    model = Emod(config)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)


def train(model: Emod, optimiser: torch.optim.Optimizer, steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    model.train()
    for _ in range(steps):
        loss = model(torch.randn(5, 3, 40), CHANNELS, 20.0)[:, 0].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def test_what_was_saved_is_loaded(tiny: EmodConfig, tmp_path: Path) -> None:
    model, optimiser = new_pair(tiny, 0)
    train(model, optimiser, 3, seed=1)
    position = {"next_step": 3, "best_kappa": 0.1 + 0.2, "note": "ü"}
    hold_checkpoint(model, tiny, optimiser, position)(tmp_path)

    other, its = new_pair(tiny, 5)
    train(other, its, 1, seed=6)  # what it has must not stay
    assert load_checkpoint(tmp_path, other, its) == position == read_position(tmp_path)
    wanted, found = optimiser.state_dict(), its.state_dict()
    assert found["param_groups"] == wanted["param_groups"]
    assert found["state"].keys() == wanted["state"].keys()
    for parameter, state in wanted["state"].items():
        assert found["state"][parameter].keys() == state.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for name, value in state.items():
            assert found["state"][parameter][name].dtype == value.dtype
            assert torch.equal(found["state"][parameter][name], value), (parameter, name)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name

    # And it goes on as if nothing had been.
    train(model, optimiser, 2, seed=8)
    train(other, its, 2, seed=8)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_what_was_held_does_not_follow_the_steps(tiny: EmodConfig, tmp_path: Path) -> None:
    """It is written while the network learns on."""
    model, optimiser = new_pair(tiny, 0)
    train(model, optimiser, 3, seed=1)
    position = {"next_step": 3}
    write = hold_checkpoint(model, tiny, optimiser, position)
    (tmp_path / "now").mkdir()
    hold_checkpoint(model, tiny, optimiser, position)(tmp_path / "now")
    train(model, optimiser, 2, seed=8)
    position["next_step"] = 5
    (tmp_path / "later").mkdir()
    write(tmp_path / "later")
    now, later = ({path.name: path.read_bytes() for path in (tmp_path / when).iterdir()} for when in ("now", "later"))
    assert now == later


def test_parameters_without_a_gradient_have_no_state(tiny: EmodConfig, tmp_path: Path) -> None:
    """The projection of a fine-tuned backbone is never stepped; state of the others must not slip onto it."""
    model, optimiser = new_pair(tiny, 0)
    model.encoder.requires_grad_(False)
    train(model, optimiser, 2, seed=1)
    hold_checkpoint(model, tiny, optimiser, {})(tmp_path)
    other, its = new_pair(tiny, 5)
    load_checkpoint(tmp_path, other, its)
    idle = {id(parameter) for parameter in other.encoder.parameters()}
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        if id(theirs) in idle:
            assert not its.state.get(theirs)
        else:
            assert torch.equal(its.state[theirs]["exp_avg"], optimiser.state[mine]["exp_avg"])


def test_before_the_first_step_there_is_nothing_to_remember(tiny: EmodConfig, tmp_path: Path) -> None:
    model, optimiser = new_pair(tiny, 0)
    hold_checkpoint(model, tiny, optimiser, {"next_step": 0})(tmp_path)
    other, its = new_pair(tiny, 5)
    assert load_checkpoint(tmp_path, other, its) == {"next_step": 0}
    assert its.state_dict()["state"] == {}


def test_nothing_is_pickled(tiny: EmodConfig, tmp_path: Path) -> None:
    """Every file is JSON, or safetensors: a length, a JSON header of that length, and nothing but tensors after it."""
    model, optimiser = new_pair(tiny, 0)
    train(model, optimiser, 1, seed=1)
    hold_checkpoint(model, tiny, optimiser, {"next_step": 1})(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"model.safetensors", "model.json", "optimiser.safetensors", "position.json"}
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        if path.suffix == ".json":
            json.loads(content)
            continue
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        assert max(ends) == len(content) - 8 - length


def test_another_network_is_refused(tiny: EmodConfig, tmp_path: Path) -> None:
    model, optimiser = new_pair(tiny, 0)
    hold_checkpoint(model, tiny, optimiser, {})(tmp_path)
    wider, its = new_pair(tiny.model_copy(update={"feed_forward": 24}), 0)
    with pytest.raises(DataError, match="weights of a network with feed_forward = 16, this one has 24"):
        load_checkpoint(tmp_path, wider, its)


def text(content: str) -> Callable[[Path], None]:
    """Writes a checkpoint of two small files."""

    def write(folder: Path) -> None:
        (folder / "a").write_text(content)
        (folder / "best").mkdir()
        (folder / "best" / "b").write_text(content * 2)

    return write


def newest(url: str, folder: Path) -> str | None:
    """What the newest whole checkpoint holds."""
    folder.mkdir(exist_ok=True)
    if fetch_newest(url, folder) is None:
        return None
    content = (folder / "a").read_text()
    assert {path.name for path in folder.iterdir()} == {"a", "best"}
    assert (folder / "best" / "b").read_text() == content * 2
    return content


def folders(url: str) -> list[Path]:
    return sorted(path for path in Path(url).iterdir() if path.is_dir())


def write_some(url: str, *steps: int) -> list[Path]:
    for step in steps:
        with CheckpointWriter(url, run="tests") as writer:
            writer.save(step, text(f"step {step}"))
    return folders(url)


def test_the_newest_is_found_and_two_are_kept(tmp_path: Path) -> None:
    url = str(tmp_path / "checkpoints")
    assert newest(url, tmp_path / "local") is None
    kept = write_some(url, 90, 100, 1000)
    assert [path.name.partition("-")[0] for path in kept] == ["000000100", "000001000"]
    assert newest(url, tmp_path / "local") == "step 1000"


def test_on_an_object_store(s3_server: Any, tmp_path: Path) -> None:
    url = s3_server.url("runs", "a-run", "checkpoints")
    assert newest(url, tmp_path / "local") is None
    with CheckpointWriter(url, run="tests") as writer:
        writer.save(3, text("three"))
    with CheckpointWriter(url, run="tests") as writer:
        writer.save(6, text("six"))
    assert newest(url, tmp_path / "local") == "six"
    (whole,) = [path for path in storage.list_files(url) if path.startswith("000000006-") and "whole" in path]
    storage.remove_folder(storage.join(url, whole))
    assert newest(url, tmp_path / "local") == "three"


def test_half_a_checkpoint_is_none(tmp_path: Path) -> None:
    """A crash leaves any of the files but the last; the next one that is written clears it away."""
    url = str(tmp_path / "checkpoints")
    _, half = write_some(url, 3, 6)
    (half / "whole.json").unlink()
    assert newest(url, tmp_path / "local") == "step 3"
    write_some(url, 4)
    assert not half.exists()
    assert newest(url, tmp_path / "local") == "step 4"


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "list"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    url = str(tmp_path / "checkpoints")
    older, damaged = write_some(url, 3, 6)
    path = damaged / ("whole.json" if damage == "list" else "best/b")
    if damage == "gone":
        path.unlink()
    elif damage == "flipped":
        path.write_text(path.read_text()[::-1])
    else:
        path.write_bytes(path.read_bytes()[:-1])
    assert newest(url, tmp_path / "local") == "step 3"
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{damaged.name}/{path.relative_to(damaged)}" in line
    with pytest.raises(DataError):
        fetch_checkpoint(url, damaged.name, tmp_path / "local")
    (older / "a").unlink()
    with pytest.raises(DataError, match="every checkpoint is damaged"):
        fetch_newest(url, tmp_path / "local")


def test_steps_go_on_while_one_is_written(tmp_path: Path) -> None:
    """On storage that is slower than the steps: what waits gives way to what is newer, and the last one is awaited."""
    url = str(tmp_path / "checkpoints")
    begun, go_on = threading.Event(), threading.Event()
    written = []

    def slow(step: int) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            begun.set()
            assert go_on.wait(60)
            text(str(step))(folder)
            written.append(step)

        return write

    with CheckpointWriter(url, run="tests") as writer:
        writer.save(1, slow(1))
        assert begun.wait(60)
        for step in (2, 3, 4):
            writer.save(step, slow(step))
        assert written == []
        assert newest(url, tmp_path / "local") is None
        go_on.set()
    assert written == [1, 4]
    assert newest(url, tmp_path / "local") == "4"


def test_what_comes_before_is_done_before_it_is_whole(tmp_path: Path) -> None:
    """Metrics that are not sent are not logged again by whoever resumes from here."""
    url = str(tmp_path / "checkpoints")
    seen: list[int] = []
    with CheckpointWriter(
        url, run="tests", before=lambda: seen.append(len(list(tmp_path.rglob("whole.json"))))
    ) as writer:
        writer.save(3, text("three"))
    assert seen == [0]

    def refuse() -> None:
        raise DataError("step 5: no space for metrics")

    with (
        pytest.raises(DataError, match="no space for metrics"),
        CheckpointWriter(url, run="tests", before=refuse) as writer,
    ):
        writer.save(6, text("six"))
    assert newest(url, tmp_path / "local") == "three"


def test_an_error_of_the_steps_is_told_and_the_last_is_still_written(tmp_path: Path) -> None:
    url = str(tmp_path / "checkpoints")

    def steps() -> None:
        with CheckpointWriter(url, run="tests") as writer:
            writer.save(3, text("three"))
            raise DataError("step 4: the loss is not finite")

    with pytest.raises(DataError, match="not finite"):
        steps()
    assert newest(url, tmp_path / "local") == "three"


def test_storage_that_fails_is_a_failure_that_may_pass(tmp_path: Path) -> None:
    """Neither the data's fault nor the request's: Ray Train starts the workers again."""
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(ConnectionError, match="step 3: its checkpoint cannot be written"):
        write_some(str(tmp_path / "checkpoints"), 3)


@pytest.mark.parametrize("kind", ["disk", "limit"])
def test_a_full_disk_stops_and_leaves_the_last(tmp_path: Path, kind: str) -> None:
    def large(folder: Path) -> None:
        text("large")(folder)
        (folder / "c").write_bytes(bytes(5 * 2**20))

    with little_space(kind, tmp_path / "small", kilobytes=4096) as small:
        url = str(small / "checkpoints")
        write_some(url, 3)
        with pytest.raises(DataError) as caught, CheckpointWriter(url, run="tests") as writer:
            writer.save(6, large)
        assert newest(url, tmp_path / "local") == "step 3"
        assert len(folders(url)) == 1, "what was half written gives its space back"
    message = str(caught.value)
    assert message.startswith("step 6: no space for its checkpoint")
    assert storage.redact(url) in message
    assert message.endswith("it goes on from step 3")
    assert "\n" not in message


def test_a_full_disk_of_tensors_too(tiny: EmodConfig, tmp_path: Path) -> None:
    """safetensors has an error of its own for it."""
    model, optimiser = new_pair(tiny.model_copy(update={"width": 128, "feed_forward": 1024, "layers": 6}), 0)
    train(model, optimiser, 1, seed=1)
    write = hold_checkpoint(model, tiny, optimiser, {})
    stops = pytest.raises(DataError, match="step 6: no space")
    with (
        little_space("limit", tmp_path / "small", kilobytes=4096) as small,
        stops,
        CheckpointWriter(str(small), run="tests") as writer,
    ):
        writer.save(6, write)
