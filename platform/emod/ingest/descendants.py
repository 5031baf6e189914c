"""What was trained on versions of a store: MLflow's runs and registered models whose lineage names them.

It asks the tracking server and changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from emod.errors import RequestError
from emod.shards import Manifest
from emod.storage import is_local, redact
from emod.tracking import check_reachable
from emod.tracking.runs import LINEAGE_TAGS

__all__ = ["Descendants", "describe_descendants", "find_descendants"]


@dataclass(frozen=True)
class Descendants:
    """What was trained on versions of a store.

    Attributes:
        lines: The answer; where nobody could be asked, how to look.
        unknown: Why nobody could be asked, if so.
    """

    lines: tuple[str, ...]
    unknown: str | None = None


def describe_descendants(runs_url: str | None, corpus: str, versions: Mapping[str, Manifest]) -> Descendants:
    """What was trained on these versions, a line each.

    Args:
        runs_url: Where runs lie: a local folder may hold MLflow's database. $MLFLOW_TRACKING_URI comes first.
        corpus: As in `find_descendants`.
        versions: Name -> manifest.
    """
    if not versions:
        what = "no version holds them, so nothing can be traced; what was removed with older versions was told then"
        return Descendants((f"trained on them: {what}",))
    database = Path((runs_url or "").removeprefix("file://"), "mlflow.db")
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri and runs_url and is_local(runs_url) and database.is_file():
        uri = f"sqlite:///{database.resolve()}"
    try:
        if not uri:
            raise RequestError(
                "no tracking server is named; set MLFLOW_TRACKING_URI, or --runs to a folder that has one"
            )
        check_reachable(uri)
        found = find_descendants(MlflowClient(uri), corpus, versions.values())
    except (RequestError, MlflowException) as error:
        reason = redact((str(error).splitlines() or [type(error).__name__])[0])
        tags = " or ".join(f"{manifest_tag} (for {corpora_tag})" for manifest_tag, corpora_tag in LINEAGE_TAGS)
        look = (
            f"look for runs with {corpus} among their corpora whose tag {tags} is Manifest.hash_of these corpora in "
            f"one of {', '.join(versions)}; for {corpus} alone: {', '.join(sorted(_hashes(corpus, versions)))}"
        )
        return Descendants((f"trained on them: unknown: {reason}", look), unknown=reason)
    return Descendants(tuple(f"trained on them: {line}" for line in found or [f"nothing that {redact(uri)} knows of"]))


def _hashes(corpus: str, versions: Mapping[str, Manifest]) -> set[str]:
    return {version.hash_of([corpus]) for version in versions.values()}


def find_descendants(client: MlflowClient, corpus: str, versions: Iterable[Manifest]) -> list[str]:
    """One line for each run that read the corpus from one of these versions, itself or through its backbone.

    Args:
        client: Of the tracking server.
        corpus: The corpus; runs that read others only are none of this.
        versions: Manifests that held what must not be learned from.
    """
    held = list(versions)
    lines = []
    for experiment in client.search_experiments(view_type=ViewType.ALL):
        for run in _runs(client, str(experiment.experiment_id)):
            if _descends(run.data.tags, corpus, held):
                models = client.search_model_versions(f"run_id = '{run.info.run_id}'")
                registered = ", ".join(f"{model.name} version {model.version}" for model in models)
                line = f"run {run.info.run_name} ({run.info.run_id}) of experiment {experiment.name}"
                lines.append(f"{line}: registered as {registered}" if registered else line)
    return lines


def _runs(client: MlflowClient, experiment_id: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs([experiment_id], run_view_type=ViewType.ALL, page_token=token)
        yield from page
        if not (token := page.token):
            return


def _descends(tags: Mapping[str, str], corpus: str, versions: Iterable[Manifest]) -> bool:
    for manifest_tag, corpora_tag in LINEAGE_TAGS:
        corpora = [name for name in tags.get(corpora_tag, "").split(",") if name]
        if corpus not in corpora:
            continue
        for version in versions:
            if version.corpora.keys() >= set(corpora) and version.hash_of(corpora) == tags.get(manifest_tag):
                return True
    return False
