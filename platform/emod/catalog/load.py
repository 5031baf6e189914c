"""YAML in catalogs/ -> frozen models: the one place that reads it.

Precedence: defaults of the models, then the file, then ``a.b=c`` overrides in the order given.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Hashable, Iterable, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from emod.catalog.corpus import CorpusCatalog, EmotionWord
from emod.catalog.experiment import Experiment
from emod.catalog.paper import PaperScores
from emod.catalog.simulation import SimulationSettings
from emod.catalog.wording import Typed, nearest, one_line
from emod.errors import RequestError

__all__ = [
    "catalog_root",
    "corpus_names",
    "dump_yaml",
    "experiment_names",
    "fingerprint",
    "load_corpus",
    "load_emotion_words",
    "load_experiment",
    "load_paper",
    "load_simulation",
    "shipped_corpus_names",
    "validate",
    "with_overrides",
]

M = TypeVar("M", bound=BaseModel)


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word; a configuration must not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float):
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is no word", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} stands twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def catalog_root() -> Path:
    """The catalogs/ folder: inside an installed wheel, else at the top of the repository."""
    packaged = Path(__file__).resolve().parent.parent / "catalogs"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "catalogs"


def corpus_names() -> tuple[str, ...]:
    """Every corpus that has a catalog, sorted: those that ship, and those of the folder at $EMOD_CATALOGS.

    Raises:
        RequestError: If that folder holds no catalogs, or one with the name of a corpus that ships.
    """
    return tuple(sorted(_corpus_files()))


def shipped_corpus_names() -> tuple[str, ...]:
    """Every corpus whose catalog ships, sorted."""
    return tuple(sorted(path.stem for path in (catalog_root() / "corpora").glob("*.yaml")))


def experiment_names() -> tuple[str, ...]:
    """Every experiment that ships, sorted."""
    return tuple(sorted(path.stem for path in (catalog_root() / "experiments").glob("*.yaml")))


def load_corpus(name: str) -> CorpusCatalog:
    """Facts of one corpus by the name users type.

    Raises:
        RequestError: If there is no such corpus, or its file is not valid.
    """
    files = _corpus_files()
    if name not in files:
        raise RequestError(f"corpus {name!r} has no catalog{nearest(name, files)}; known: {', '.join(sorted(files))}")
    return _read_corpus(files[name])


def _corpus_files() -> dict[str, Path]:
    """Corpus -> its catalog."""
    shipped = {name: catalog_root() / "corpora" / f"{name}.yaml" for name in shipped_corpus_names()}
    if not (extra := os.environ.get("EMOD_CATALOGS")):
        return shipped
    folder = Path(extra) / "corpora"
    own = {path.stem: path for path in folder.glob("*.yaml")}
    if not own:
        raise RequestError(f"EMOD_CATALOGS = {extra}: holds no corpora/*.yaml; correct it, or unset it")
    if both := sorted(set(own) & set(shipped)):
        raise RequestError(f"{own[both[0]]}: corpus {both[0]} ships with the platform; give yours another name")
    return shipped | own


@cache
def _read_corpus(path: Path) -> CorpusCatalog:
    catalog = validate(CorpusCatalog, _read_yaml(path), origin=path.name)
    if catalog.name != path.stem:
        raise RequestError(f"{path.name}: name = {catalog.name!r} differs from the file's name; make them equal")
    return catalog


@cache
def load_emotion_words() -> tuple[EmotionWord, ...]:
    """The word table: every corpus' emotion words as points of the plane."""
    path = catalog_root() / "emotion_words.yaml"
    rows = _read_yaml(path)
    if not isinstance(rows, list):
        raise RequestError(f"{path.name}: expected a list of rows with corpus, emotion, valence, arousal, source")
    words = tuple(validate(EmotionWord, row, origin=f"{path.name} row {i + 1}") for i, row in enumerate(rows))
    keys = [(word.corpus, word.emotion) for word in words]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise RequestError(f"{path.name}: {sorted(twice)} stand twice; keep one row each")
    return words


@cache
def load_paper() -> PaperScores:
    """What the paper printed."""
    path = catalog_root() / "paper.yaml"
    return validate(PaperScores, _read_yaml(path), origin=path.name)


@cache
def load_simulation() -> SimulationSettings:
    """The simulator's committed settings."""
    path = catalog_root() / "simulation.yaml"
    return validate(SimulationSettings, _read_yaml(path), origin=path.name)


def load_experiment(name_or_file: str, overrides: Sequence[str] = ()) -> Experiment:
    """An experiment by the name it ships under, or from a YAML file, with ``a.b=c`` overrides and addresses resolved.

    Raises:
        RequestError: One line that names the file, the field, its value and the cure.
    """
    shipped = catalog_root() / "experiments" / f"{name_or_file}.yaml"
    path = shipped if shipped.is_file() else Path(name_or_file)
    if not path.is_file():
        raise RequestError(
            f"--experiment {name_or_file!r} is neither a file nor a shipped experiment"
            f"{nearest(name_or_file, experiment_names())}; shipped: {', '.join(experiment_names())}"
        )
    raw = _read_yaml(path)
    if not isinstance(raw, dict):
        raise RequestError(f"{path.name}: expected a mapping of experiment fields at the top level")
    typed = _apply_overrides(raw, overrides)
    experiment = validate(Experiment, raw, origin=path.name, typed=typed)
    for corpus in experiment.corpora:
        load_corpus(corpus)
    # Any known corpus, not only those of this run: a file may hold the addresses of a whole laboratory.
    for section, named in (("addresses.data", experiment.addresses.data), ("simulate", experiment.simulate)):
        if strange := [name for name in named if name not in corpus_names()]:
            place = f"{section}.{strange[0]}"
            wrote = next((flag for flag in typed.values() if f" {place}" in flag), f"{path.name}: {place}")
            raise RequestError(
                f"{wrote}: no corpus is called {strange[0]}{nearest(strange[0], corpus_names())}; "
                f"known: {', '.join(corpus_names())}"
            )
    return experiment.resolve()


def with_overrides(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """The same experiment with ``a.b=c`` overrides on top, checked as if they had been typed.

    Raises:
        RequestError: As `load_experiment`.
    """
    raw = experiment.model_dump(mode="json")
    typed = _apply_overrides(raw, overrides)
    return validate(Experiment, raw, origin=experiment.name, typed=typed).resolve_paths()


def validate(model: type[M], raw: Any, *, origin: str, typed: Typed = MappingProxyType({})) -> M:
    """Builds a model from plain YAML values; what is wrong with them becomes one line with the cure.

    Args:
        model: The model to build.
        raw: Plain values.
        origin: What they were read from.
        typed: Those that came from the command line instead, and the flag each was typed with.
    """
    try:
        text = json.dumps(raw, default=str)
    except (ValueError, RecursionError):
        raise RequestError(f"{origin}: an alias (*name) stands inside what it names; write the value out") from None
    try:
        # JSON mode: strict about types, yet a YAML list may become a tuple, which Python mode refuses.
        return model.model_validate_json(text)
    except ValidationError as error:
        raise RequestError(one_line(error, model, origin=origin, typed=typed)) from None


def fingerprint(model: BaseModel, *, exclude: Iterable[str] = ()) -> str:
    """SHA-256 of a model's canonical JSON, hex: equal for equal settings, on any machine."""
    plain = model.model_dump(mode="json", exclude=set(exclude))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def dump_yaml(model: BaseModel) -> str:
    """The resolved settings as YAML, in the order of their definition."""
    return yaml.safe_dump(model.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise RequestError(f"{path.name}: line {line}: {error.problem}; mend the YAML there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read ({error}); check the path and its permissions") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # control characters, a number of 5000 digits
        raise RequestError(f"{path.name}: not YAML ({' '.join(str(error).split())}); mend the file") from None


def _apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> dict[tuple[str, ...], str]:
    """Puts each value where its override says; place -> the flag that put it there."""
    typed: dict[tuple[str, ...], str] = {}
    for override in overrides:
        keys = _apply_override(raw, override)
        typed.pop(keys, None)  # the last one counts, in the order too
        typed[keys] = f"--set {override}"
    return typed


def _apply_override(raw: dict[str, Any], override: str) -> tuple[str, ...]:
    """Puts the value where the override says, and returns that place."""
    dotted, equals, text = override.partition("=")
    keys = dotted.split(".")
    if not equals or not all(keys):
        raise RequestError(f"--set {override!r} is not of the form a.b=c")
    try:
        value = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError):
        raise RequestError(f"--set {override!r}: the value is not YAML; quote it") from None
    node = raw
    for depth, key in enumerate(keys[:-1]):
        child = node.setdefault(key, {})
        if child is None:
            child = node[key] = {}
        if not isinstance(child, dict):
            raise RequestError(f"--set {override!r}: {'.'.join(keys[: depth + 1])} is a value, not a group of fields")
        node = child
    node[keys[-1]] = value
    return tuple(keys)
