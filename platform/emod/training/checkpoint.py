"""The state of a training run, written behind the steps' back to folders below its own. Nothing in it is pickled.

model.safetensors, model.json   the network (emod.model)
optimiser.safetensors           moments of every parameter
position.json                   the next step and whatever else the loop must remember
whole.json                      SHA-256 of every other file; written last: a folder without it is half a checkpoint

Ray Train keeps none of it: its report() makes every worker wait, and its list of checkpoints is one file that it writes
over in place, so that a crash or a full disk at that moment would take all of them.
"""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from emod import storage
from emod.catalog import EmodConfig
from emod.errors import DataError, RequestError
from emod.model import load_weights, save_weights
from emod.monitoring import log

__all__ = [
    "CheckpointWriter",
    "fetch_checkpoint",
    "fetch_finished",
    "fetch_newest",
    "hold_checkpoint",
    "load_checkpoint",
    "read_position",
]

_OPTIMISER = "optimiser.safetensors"
_POSITION = "position.json"
_WHOLE = "whole.json"

_WHOLE_BYTES = 2**20
# A disk, a quota or a file as large as it may be.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def hold_checkpoint(
    model: torch.nn.Module, config: EmodConfig, optimiser: torch.optim.Optimizer, position: dict[str, Any]
) -> Callable[[Path], None]:
    """Copies a run's state to host memory, in milliseconds; the function given back writes the copy to a folder.

    Args:
        model: The network, wherever it is.
        config: The backbone's.
        optimiser: Of its parameters.
        position: JSON-able.
    """
    kept = copy.deepcopy(model).to("cpu")
    moments = {
        f"{parameter}.{name}": value.detach().to("cpu", copy=True).contiguous()
        for parameter, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
    }
    text = json.dumps(position)

    def write(folder: Path) -> None:
        save_weights(folder, kept, config)
        save_file(moments, folder / _OPTIMISER)
        (folder / _POSITION).write_text(text, encoding="utf-8")

    return write


def load_checkpoint(folder: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Restores what `hold_checkpoint` held, in place, and returns the position."""
    load_weights(folder, model)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in load_file(folder / _OPTIMISER).items():
        parameter, _, name = key.partition(".")
        state.setdefault(int(parameter), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return read_position(folder)


def read_position(folder: Path) -> dict[str, Any]:
    """The position alone."""
    position: dict[str, Any] = json.loads((folder / _POSITION).read_text(encoding="utf-8"))
    return position


class CheckpointWriter:
    """Writes a run's checkpoints in a thread of its own while steps go on; a context, which waits for the last one.

    One is written and one may wait. One that still waits when the next comes is dropped: storage that is slower than
    the steps neither stops them nor fills the memory. The newest two that are whole are kept.

    Args:
        url: Folder of the run's checkpoints, any URL fsspec writes.
        run: Its name, for log lines.
        before: Called ahead of each, for what a run resumed from it will not do again.

    Attributes:
        newest_at: When the newest became whole, or this was made, on the clock of ``time.monotonic``.
    """

    KEPT = 2

    def __init__(self, url: str, *, run: str, before: Callable[[], None] = lambda: None) -> None:
        self._url = url
        self._run = run
        self._before = before
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._tasks: list[Future[None]] = []
        self.newest_at = time.monotonic()

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Has a checkpoint written, soon.

        Args:
            step: Steps taken.
            write: Puts the files into an empty folder; called in the other thread.

        Raises:
            DataError: If there was no space for an earlier one.
            RequestError: If the store refused an earlier one.
            ConnectionError: If an earlier one could not be written for another reason, which may pass.
        """
        self._raise_failure()
        if self._tasks:
            self._tasks[-1].cancel()  # which one that is being written does not heed
        self._tasks.append(self._thread.submit(self._write, step, write))

    def __enter__(self) -> CheckpointWriter:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Waits for what is being written; raises as `save`, unless something else went wrong already."""
        self._thread.shutdown(wait=True)
        if kind is None:
            self._raise_failure()

    def _raise_failure(self) -> None:
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()
        self._tasks = [task for task in self._tasks if not task.done()]

    def _write(self, step: int, write: Callable[[Path], None]) -> None:
        # A name of its own for each attempt: of two that reach this step neither writes into the other's.
        name = f"{step:09d}-{uuid.uuid4().hex[:8]}"
        url = storage.join(self._url, name)
        try:
            self._before()
            with tempfile.TemporaryDirectory(prefix="emod-checkpoint-") as scratch:
                write(Path(scratch))
                digests = {}
                for path in sorted(Path(scratch).rglob("*")):
                    if path.is_file():
                        relative = path.relative_to(scratch).as_posix()
                        digests[relative] = _sha256(path)
                        storage.upload(str(path), storage.join(url, relative))
                storage.write_bytes(storage.join(url, _WHOLE), json.dumps(digests).encode())
        except (OSError, SafetensorError, RequestError) as error:
            with suppress(RequestError):
                storage.remove_folder(url)
            worded = self._worded(step, error)
            log("checkpoint failed", run=self._run, step=step, reason=str(worded))
            raise worded from None
        self.newest_at = time.monotonic()
        log("checkpoint written", run=self._run, step=step)
        with suppress(RequestError):  # what is in the way is tried again after the next one
            self._clear(name)

    def _clear(self, written: str) -> None:
        whole, half = _list_checkpoints(self._url)
        for name in (*whole[: -self.KEPT], *half):
            if name != written:
                storage.remove_folder(storage.join(self._url, name))

    def _worded(self, step: int, error: Exception) -> Exception:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        url = storage.redact(self._url)
        cause = error.__context__ if isinstance(error, RequestError) else error
        # safetensors tells the system's number in its text alone.
        if getattr(cause, "errno", None) in _FULL or any(f"(os error {number})" in reason for number in _FULL):
            whole: list[str] = []
            with suppress(RequestError):
                whole, _ = _list_checkpoints(self._url)
            last = f"it goes on from step {int(whole[-1][:9])}" if whole else "it starts anew"
            return DataError(
                f"step {step}: no space for its checkpoint in {url} or in {tempfile.gettempdir()} ({reason}); "
                f"free some and give the same command again: {last}"
            )
        if isinstance(cause, PermissionError):
            return RequestError(f"step {step}: its checkpoint cannot be written: {reason}")
        return ConnectionError(f"step {step}: its checkpoint cannot be written: {reason}")


def fetch_newest(url: str, folder: Path) -> str | None:
    """Copies the newest whole checkpoint to an empty local folder; returns its name, or None if there is none.

    One whose files are not what its list says is passed over, with a line on stderr.

    Args:
        url: Folder of the run's checkpoints.
        folder: Where to.

    Raises:
        DataError: If there are some and all of them are damaged.
    """
    whole, _ = _list_checkpoints(url)
    for name in reversed(whole):
        try:
            fetch_checkpoint(url, name, folder)
        except DataError as error:
            print(f"{error}; trying the one before", file=sys.stderr, flush=True)
            continue
        return name
    if whole:
        raise DataError(f"{storage.redact(url)}: every checkpoint is damaged; remove this folder to start anew")
    return None


def fetch_finished(url: str, folder: Path, position: dict[str, int]) -> None:
    """As `fetch_newest` after a run's last step: what it finds must be at that position.

    Raises:
        DataError: If the last checkpoint is not there any more, or damaged.
    """
    name = fetch_newest(url, folder)
    found = read_position(folder) if name is not None else {}
    if any(found.get(key) != value for key, value in position.items()):
        raise DataError(
            f"{storage.redact(url)}: the run's last checkpoint is missing or damaged; give the same command again"
        )


def fetch_checkpoint(url: str, name: str, folder: Path) -> None:
    """Copies one checkpoint to a local folder, which is emptied first, and compares every checksum.

    Raises:
        DataError: If a file is missing or damaged.
    """
    shutil.rmtree(folder)
    folder.mkdir()
    source = storage.join(url, name)
    try:
        digests = json.loads(storage.read_bytes(storage.join(source, _WHOLE), at_most=_WHOLE_BYTES))
        for relative, digest in digests.items():
            path = folder / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            storage.download(storage.join(source, relative), str(path))
            if (found := _sha256(path)) != digest:
                raise DataError(f"{storage.redact(source)}/{relative}: checksum {found[:16]}, not {digest[:16]}")
    except storage.NoSuchObjectError as error:
        raise DataError(str(error)) from None
    except ValueError as error:
        if isinstance(error, RequestError):
            raise
        raise DataError(f"{storage.redact(source)}/{_WHOLE}: not readable ({error})") from None


def _list_checkpoints(url: str) -> tuple[list[str], list[str]]:
    """Names of whole checkpoints, oldest first, and of those that were never finished."""
    try:
        paths = storage.list_files(url)
    except storage.NoSuchObjectError:
        return [], []
    names = sorted({path.partition("/")[0] for path in paths})
    return [n for n in names if f"{n}/{_WHOLE}" in paths], [n for n in names if f"{n}/{_WHOLE}" not in paths]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
