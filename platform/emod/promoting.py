"""The verb `promote`: gates between a registered version and the alias ``champion``.

Every gate is looked at, also after one has failed, so that one run says all that is missing. The test windows are read
here, by models that are finished: nothing is chosen by what comes out but whether the version is let through.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlflow.models
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from emod.catalog import Experiment
from emod.errors import DataError, RequestError
from emod.evaluation import (
    Split,
    Target,
    TargetSummary,
    clips_of,
    compare_subjects,
    divide,
    per_subject,
    summarise_target,
)
from emod.shards import ShardStore, WindowPool
from emod.tracking import Registered, fetch_registered
from emod.tracking.champion import CHAMPION, champion_of, crown
from emod.workflow import check_request, classes_of

__all__ = ["Gate", "Promotion", "promote"]

Floats = npt.NDArray[np.floating]

_CALLS = 60
_WARM_UP = 5
# Rounding of two processes with other numbers of threads.
_TOLERANCE = 1e-4
_AT_ONCE = 32


@dataclass(frozen=True)
class Gate:
    """One condition: whether it holds, and by how much."""

    name: str
    passed: bool
    said: str


@dataclass(frozen=True, eq=False)
class Promotion:
    """What came of asking.

    Attributes:
        name: Of the registered model.
        version: That was to become champion.
        before: Champion when it was asked; None if there was none.
        gates: In order.
        summary: Of the version, and of the champion before, on the test windows; None where nothing could be scored.
        simulated: Whether anything that was learned from or tested on was simulated.
    """

    name: str
    version: str
    before: str | None
    gates: tuple[Gate, ...]
    summary: TargetSummary | None
    simulated: bool

    @property
    def passed(self) -> bool:
        """Whether every gate let it through."""
        return all(gate.passed for gate in self.gates)


def promote(experiment: Experiment, store: ShardStore, wanted: str, *, move: bool = True) -> Promotion:
    """Looks at every gate; where all let it through, the alias ``champion`` moves to the version.

    Args:
        experiment: Its finetune section declares the protocol and the target; its promote section the limits.
        store: Whose test windows are read.
        wanted: models:/NAME@ALIAS or models:/NAME/VERSION.
        move: False: only look.

    Raises:
        RequestError: If there is no such version, or the store is not the experiment's.
    """
    if experiment.finetune is None:
        raise RequestError(f"experiment {experiment.name} has no finetune section; it declares the protocol")
    settings, limits = experiment.finetune, experiment.promote
    uri = check_request(experiment, store)
    client = MlflowClient(uri)
    candidate = fetch_registered(uri, wanted, field="--version")
    before = champion_of(client, candidate.name)
    if before == candidate.version:
        raise RequestError(f"{candidate.name} version {before} is the champion already")
    pool = WindowPool(store, settings.corpora)
    target, whole = divide(pool.metadata, settings, settings.targets[0])
    split = whole.keep(target.rows)
    rivals = [candidate]
    if before is not None:
        rivals.insert(0, fetch_registered(uri, f"models:/{candidate.name}/{before}", field=CHAMPION))
    gates = [_evaluated(client, candidate, whole, split), _audited(client, candidate)]
    gates += [_unseen(client, rival, whole, split) for rival in rivals]
    answers = [_answers(rival, pool, split, target) for rival in rivals]
    summary = None
    if all(found is not None for found in answers):
        outputs = {_named(rival): [[found]] for rival, found in zip(rivals, answers, strict=True) if found is not None}
        summary = summarise_target([target], [split], outputs, clips=clips_of(pool.metadata))
        gates += _better(summary, limits.margin, crowned=before is not None)
        gates.append(_calibrated(summary, limits.calibration_error))
    else:
        silent = [_named(rival) for rival, found in zip(rivals, answers, strict=True) if found is None]
        gates.append(
            Gate("better", False, f"{' and '.join(silent)} does not answer {', '.join(classes_of(target)) or 'points'}")
        )
    gates += [_fast(candidate, limits.latency_ms), _round_trip(uri, client, candidate)]
    simulated = store.is_simulated(settings.corpora) or any(r.servable.card.trained_on.simulated for r in rivals)
    promotion = Promotion(candidate.name, candidate.version, before, tuple(gates), summary, simulated)
    if promotion.passed and move:
        crown(client, candidate.name, candidate.version, [asdict(gate) for gate in gates])
    return promotion


def _named(model: Registered) -> str:
    return f"version {model.version}"


def _evaluated(client: MlflowClient, model: Registered, whole: Split, split: Split) -> Gate:
    """Its own run must have scored this very split."""
    found = _artifact(client, _run_of(client, model), "split.json")
    if found is None:
        return Gate("evaluation", False, "its run has no evaluation; train and register it with jobs/finetune.py")
    if found.get("hash") not in (whole.hash, split.hash):
        return Gate(
            "evaluation",
            False,
            f"its run was evaluated under {found.get('protocol')}, hash {str(found.get('hash'))[:12]}; declared is "
            f"{split.protocol}, hash {split.hash[:12]}",
        )
    return Gate("evaluation", True, f"under {split.protocol}, hash {split.hash[:12]}")


def _audited(client: MlflowClient, model: Registered) -> Gate:
    found = _artifact(client, _run_of(client, model), "audit.json")
    if found is None:
        return Gate("audit", False, "its run has no audit")
    findings = found["audit"]
    if accepted := sorted({finding["code"] for finding in findings if finding.get("accepted_by") == "user"}):
        return Gate("audit", False, f"{len(accepted)} leak accepted by hand: {', '.join(accepted)}; none may be")
    if leaking := sorted({finding["code"] for finding in findings if finding.get("severity") == "leak"}):
        return Gate("audit", False, f"leaks: {', '.join(leaking)}")
    return Gate("audit", True, "no leak, none accepted by hand")


def _unseen(client: MlflowClient, model: Registered, whole: Split, split: Split) -> Gate:
    """Nobody who is tested may be in what it learned from, unless the protocol says so and it kept to it."""
    name = f"unseen, {_named(model)}"
    if (found := _artifact(client, _run_of(client, model), "split.json")) and found.get("hash") in (
        whole.hash,
        split.hash,
    ):
        return Gate(name, True, "trained under this very split")
    corpora = model.servable.card.trained_on.corpora
    tested = set(whole.subjects["test"])
    known = {f"{corpus}/{subject}" for corpus, facts in corpora.items() for subject in facts.subjects}
    if both := sorted(tested & known):
        return Gate(name, False, f"it has learned from {len(both)} of {len(tested)} test subjects, such as {both[0]}")
    if not all(facts.subjects for facts in corpora.values()):
        return Gate(name, False, "whom it has learned from is not known; register it again")
    return Gate(name, True, f"none of {len(tested)} test subjects was learned from")


def _answers(model: Registered, pool: WindowPool, split: Split, target: Target) -> Floats | None:
    """(n, K) probabilities or (n, 2) points of the test windows; None where the model does not answer the question."""
    servable = model.servable
    if target.points is not None:
        columns = ["valence", "arousal"] if servable.card.plane else []
    else:
        asked = classes_of(target)
        columns = [f"p_{name}" for name in asked] if tuple(asked) == servable.card.classes else []
    if not columns:
        return None
    found = np.full((len(split.test), len(columns)), np.nan)
    for first in range(0, len(split.test), _AT_ONCE):
        for places, windows, channels, sfreq_hz in pool.read(split.test[first : first + _AT_ONCE]):
            # Scale 1: what a store holds was let pass by ingest.
            answered = servable.answer(torch.from_numpy(windows), torch.ones(len(windows)), channels, sfreq_hz)
            found[first + places] = answered[columns].to_numpy()
    return found


def _better(summary: TargetSummary, margin: float, *, crowned: bool) -> list[Gate]:
    """The last method against the first, or against every control that sees no EEG."""
    own = summary.methods[-1]
    others = [summary.methods[0]] if crowned else [control for control in summary.controls if not control.sees_eeg]
    mine = per_subject(summary.target, summary.true, [own.outputs], summary.subjects)
    gates = []
    for other in others:
        found = compare_subjects(mine, per_subject(summary.target, summary.true, [other.outputs], summary.subjects))
        name = f"better than {other.method}"
        if np.isnan(found.low):
            gates.append(Gate(name, False, f"{found.mean:+.3f} on 1 subject: no interval; declare more test subjects"))
            continue
        passed = bool(found.low > margin)
        said = f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}] over {found.n_subjects} subjects"
        if not passed:
            said += f"; the lower end must be above {margin:g}, {margin - found.low:.3f} short"
            if other.method == "clip's labels" and "clips" in summary.splits[0].shares:
                said += ". Clips are shared: declare a protocol that keeps them apart, such as subjects_and_clips"
        gates.append(Gate(name, passed, said))
    return gates


def _calibrated(summary: TargetSummary, limit: float) -> Gate:
    if summary.on_plane:
        return Gate("calibration", True, "the plane has no probabilities")
    error = summary.methods[-1].mean("calibration_error")
    said = f"expected calibration error {error:.3f}, at most {limit:g}"
    return Gate("calibration", bool(error <= limit), said if error <= limit else f"{said}: {error - limit:.3f} above")


def _fast(model: Registered, limit_ms: float) -> Gate:
    card = model.servable.card
    corpus = card.trained_on.corpora[min(card.trained_on.corpora)]
    n_samples = round(card.settings.window_s * corpus.sfreq_hz)
    signal_uv = np.random.default_rng(0).normal(0, 10, (1, len(corpus.channels), n_samples)).astype(np.float32)
    took_ms = []
    for _ in range(_WARM_UP + _CALLS):
        began = time.perf_counter()
        model.servable.predict(signal_uv, corpus.channels, sfreq_hz=corpus.sfreq_hz, cleaned=False)
        took_ms.append(1000 * (time.perf_counter() - began))
    middle, slow = np.percentile(took_ms[_WARM_UP:], [50, 99])
    said = (
        f"p99 {slow:.0f} ms, p50 {middle:.0f} ms, one window of {len(corpus.channels)} electrodes x "
        f"{card.settings.window_s:g} s, {torch.get_num_threads()} threads; at most {limit_ms:g} ms"
    )
    return Gate(
        "latency", bool(slow <= limit_ms), said if slow <= limit_ms else f"{said}: {slow - limit_ms:.0f} ms above"
    )


def _round_trip(uri: str, client: MlflowClient, model: Registered) -> Gate:
    """MLflow must load it in a process of its own and answer its own example as this process does."""
    name = "round trip"
    version = client.get_model_version(model.name, model.version)
    try:
        with tempfile.TemporaryDirectory(prefix="emod-model-") as scratch:
            folder = mlflow.artifacts.download_artifacts(
                artifact_uri=version.source, dst_path=scratch, tracking_uri=uri
            )
            known = mlflow.models.Model.load(folder)
            example = json.loads(Path(folder, "serving_input_example.json").read_text(encoding="utf-8"))
            if known.signature is None or known.signature.params is None:
                return Gate(name, False, "it has no signature")
            told, answer = Path(scratch, "input.json"), Path(scratch, "answer.json")
            told.write_text(json.dumps(example), encoding="utf-8")
            mlflow.models.predict(
                folder, input_path=str(told), content_type="json", output_path=str(answer), env_manager="local"
            )
            answered = pd.DataFrame(json.loads(answer.read_text(encoding="utf-8"))["predictions"])
    except (MlflowException, OSError, ValueError, KeyError) as error:
        return Gate(name, False, f"MLflow cannot serve its own example: {' '.join(str(error).split())[:200]}")
    inputs, params = example["inputs"], example["params"]
    own = model.servable.predict(
        np.asarray(inputs["signal"], dtype=np.float32),
        list(inputs["channels"]),
        sfreq_hz=params["sfreq_hz"],
        cleaned=params["cleaned"],
    )
    if list(answered.columns) != list(own.columns):
        return Gate(name, False, f"it answers {list(answered.columns)}, its weights {list(own.columns)}")
    apart = max(
        float(np.abs(np.stack(answered[column].tolist()) - np.stack(own[column].tolist())).max())
        for column in own.columns
        if column != "flags" and own[column].notna().all()
    )
    said = f"its example through MLflow in another process: largest difference {apart:.1e}"
    return Gate(name, apart <= _TOLERANCE, said)


def _run_of(client: MlflowClient, model: Registered) -> str:
    return str(client.get_model_version(model.name, model.version).run_id)


def _artifact(client: MlflowClient, run_id: str, path: str) -> dict[str, Any] | None:
    """A JSON object of a run; None where it has none."""
    try:
        with tempfile.TemporaryDirectory(prefix="emod-run-") as scratch:
            found: dict[str, Any] = json.loads(
                Path(client.download_artifacts(run_id, path, scratch)).read_text(encoding="utf-8")
            )
            return found
    except (MlflowException, OSError):
        return None
    except ValueError as error:
        raise DataError(f"run {run_id}: {path} is no JSON ({error}); register the model again") from None
