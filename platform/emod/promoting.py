"""The verb `promote`: gates between a registered version and the alias ``champion``.

Every gate is looked at, also after one has failed, so that one run says all that is missing. The test windows are read
here, by models that are finished: nothing is chosen by what comes out but whether the version is let through.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
from scipy import stats

from emod.catalog import Experiment
from emod.errors import DataError, RequestError
from emod.evaluation import (
    Split,
    Target,
    TargetSummary,
    clips_of,
    divide,
    per_subject,
    summarise_target,
)
from emod.ingest import settings_that_differ
from emod.shards import ShardStore, WindowPool
from emod.tracking import Registered, fetch_registered
from emod.tracking.champion import CHAMPION, champion_of, crown
from emod.workflow import SCORED_ON, check_request, classes_of

__all__ = ["Gate", "Promotion", "promote"]

Floats = npt.NDArray[np.floating]

_CALLS = 60
_WARM_UP = 5
# Fewer people tell nothing: some effect is there by chance.
_LEAST_SUBJECTS = 5
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
    question = _Question(client, store, pool, target, whole, whole.keep(target.rows))
    gates = [
        _evaluated(question, candidate),
        _audited(client, candidate),
        _unseen(question, candidate),
        _made_alike(question, candidate),
    ]
    outputs: dict[str, list[list[Floats]]] = {}
    simulated = store.is_simulated(settings.corpora) or candidate.servable.card.trained_on.simulated
    if before is not None:
        known, obstacle = _champion(uri, question, candidate.name, before)
        if known is not None:
            outputs[f"version {before}"] = [[known]]
        instead = f"not compared: {obstacle}. The controls without EEG are asked instead"
        gates.append(Gate(f"champion, version {before}", True, instead if obstacle else "judged on the same windows"))
    found, obstacle = _answers(question, candidate)
    summary = None
    if found is None:
        gates.append(Gate("better", False, f"version {candidate.version} {obstacle}"))
    else:
        outputs[f"version {candidate.version}"] = [[found]]
        summary = summarise_target([target], [question.split], outputs, clips=clips_of(pool.metadata))
        gates += _better(summary, limits.margin, crowned=len(outputs) > 1)
        gates.append(_calibrated(summary, limits.calibration_error))
    gates += [_fast(candidate, limits.latency_ms), _round_trip(uri, client, candidate)]
    promotion = Promotion(candidate.name, candidate.version, before, tuple(gates), summary, simulated)
    if promotion.passed and move:
        crown(client, candidate.name, candidate.version, [asdict(gate) for gate in gates], instead_of=before)
    return promotion


@dataclass(frozen=True, eq=False)
class _Question:
    """What versions are judged by: the test windows of the declared protocol."""

    client: MlflowClient
    store: ShardStore
    pool: WindowPool
    target: Target
    whole: Split
    split: Split


def _champion(uri: str, question: _Question, name: str, version: str) -> tuple[Floats | None, str]:
    """The champion's answers, or None and why they cannot be compared: nothing of it may bar all others for good."""
    try:
        model = fetch_registered(uri, f"models:/{name}/{version}", field=CHAMPION)
    except DataError as error:  # damaged; a registry that refuses is no reason to pass the champion over
        return None, str(error)
    for gate in (_unseen(question, model), _made_alike(question, model)):
        if not gate.passed:
            return None, gate.said
    return _answers(question, model)


def _evaluated(question: _Question, model: Registered) -> Gate:
    """Its own run must have scored this very split of these very windows."""
    client, split = question.client, question.split
    found = _artifact(client, _run_of(client, model), "split.json")
    if found is None:
        return Gate("evaluation", False, "its run has no evaluation; train and register it with jobs/finetune.py")
    if found.get("hash") not in (question.whole.hash, split.hash):
        return Gate(
            "evaluation",
            False,
            f"its run was evaluated under {found.get('protocol')}, hash {str(found.get('hash'))[:12]}; declared is "
            f"{split.protocol}, hash {split.hash[:12]}",
        )
    scored = client.get_run(_run_of(client, model)).data.tags.get(SCORED_ON, "not known")
    windows = question.store.manifest.hash_of(question.pool.corpora)
    if scored != windows:
        said = f"on windows {scored[:12]}, the store now holds {windows[:12]}; train it again"
        return Gate("evaluation", False, said)
    return Gate("evaluation", True, f"under {split.protocol}, hash {split.hash[:12]}, windows {windows[:12]}")


def _made_alike(question: _Question, model: Registered) -> Gate:
    """It must have learned from windows that were cleaned as these were."""
    asked = model.servable.card.settings.model_dump(mode="json")
    if different := settings_that_differ("signal", question.store.manifest.settings, asked, here="in the model"):
        return Gate("signal", False, "; ".join(different))
    return Gate("signal", True, "its windows were cleaned as those of the store")


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


def _unseen(question: _Question, model: Registered) -> Gate:
    """Nobody who is tested may be in what it learned from, unless the protocol says so and it kept to it."""
    client = question.client
    if (found := _artifact(client, _run_of(client, model), "split.json")) and found.get("hash") in (
        question.whole.hash,
        question.split.hash,
    ):
        return Gate("unseen", True, "trained under this very split")
    corpora = model.servable.card.trained_on.corpora
    tested = set(question.split.subjects["test"])
    known = {f"{corpus}/{subject}" for corpus, facts in corpora.items() for subject in facts.subjects}
    if both := sorted(tested & known):
        said = f"it has learned from {len(both)} of {len(tested)} test subjects, such as {both[0]}"
        return Gate("unseen", False, said)
    if not all(facts.subjects for facts in corpora.values()):
        return Gate("unseen", False, "whom it has learned from is not known; register it again")
    return Gate("unseen", True, f"none of {len(tested)} test subjects was learned from")


def _answers(question: _Question, model: Registered) -> tuple[Floats | None, str]:
    """(n, K) probabilities or (n, 2) points of the test windows; None, and why, where there are none to score."""
    servable, rows = model.servable, question.split.test
    if question.target.points is not None:
        columns = ["valence", "arousal"] if servable.card.plane else []
        asked: tuple[str, ...] = ("points",)
    else:
        asked = tuple(classes_of(question.target))
        columns = [f"p_{name}" for name in asked] if asked == servable.card.classes else []
    if not columns:
        return None, f"does not answer {', '.join(asked)}"
    found = np.full((len(rows), len(columns)), np.nan)
    for first in range(0, len(rows), _AT_ONCE):
        for places, windows, channels, sfreq_hz in question.pool.read(rows[first : first + _AT_ONCE]):
            # Scale 1: what a store holds was let pass by ingest.
            answered = servable.answer(torch.from_numpy(windows), torch.ones(len(windows)), channels, sfreq_hz)
            found[first + places] = answered[columns].to_numpy()
    if silent := int((~np.isfinite(found)).any(axis=1).sum()):
        return None, f"gives no number for {silent} of {len(rows)} test windows"
    return found, ""


def _better(summary: TargetSummary, margin: float, *, crowned: bool) -> list[Gate]:
    """The last method against the first, or against every control that sees no EEG."""
    own = summary.methods[-1]
    others = [summary.methods[0]] if crowned else [control for control in summary.controls if not control.sees_eeg]
    mine = per_subject(summary.target, summary.true, [own.outputs], summary.subjects)
    gates = []
    for other in others:
        theirs = per_subject(summary.target, summary.true, [other.outputs], summary.subjects)
        differences = np.array([mine[subject] - theirs[subject] for subject in sorted(mine)])
        name, n_subjects = f"better than {other.method}", len(differences)
        if n_subjects < _LEAST_SUBJECTS:
            said = f"{differences.mean():+.3f} over {n_subjects} subjects; at least {_LEAST_SUBJECTS} must be tested"
            gates.append(Gate(name, False, said))
            continue
        # Student's: a bootstrap over a handful of people promises too much.
        half = float(stats.t.ppf(0.975, n_subjects - 1) * stats.sem(differences))
        low, high = differences.mean() - half, differences.mean() + half
        passed = bool(low > margin)
        said = f"{differences.mean():+.3f} [{low:+.3f}, {high:+.3f}] over {n_subjects} subjects"
        if not passed:
            said += f"; the lower end must be above {margin:g}, {margin - low:.3f} short"
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
            # A process of its own, where the version's code is found before this one's.
            command = [sys.executable, "-m", "mlflow", "models", "predict", "-m", folder, "--env-manager", "local"]
            command += ["--content-type", "json", "-i", str(told), "-o", str(answer)]
            outside = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
            # Of this interpreter, on a folder that was just fetched.
            done = subprocess.run(  # noqa: S603
                command, cwd=scratch, env=outside, capture_output=True, text=True, check=False
            )
            if done.returncode:
                last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
                return Gate(name, False, f"MLflow cannot serve its own example: {last[:200]}")
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
    apart = max(_apart(answered[column], own[column]) for column in own.columns if column != "flags")
    said = f"its example through MLflow in another process: largest difference {apart:.1e}"
    return Gate(name, apart <= _TOLERANCE, said)


def _apart(one: pd.Series[Any], other: pd.Series[Any]) -> float:
    """Largest difference of two columns of numbers, or of lists of them; where one alone has none, infinite."""
    first, second = (np.array(column.tolist(), dtype=np.float64) for column in (one, other))
    if not np.array_equal(np.isnan(first), np.isnan(second)):
        return float("inf")
    return float(np.nan_to_num(np.abs(first - second)).max())


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
