"""The fields of an experiment as Markdown tables, taken from the models: what catalogs/README.md shows.

``python -m emod.catalog.fields`` writes them into that file, between its two marks; a test holds them current.
"""

from __future__ import annotations

import inspect
import textwrap
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from emod.catalog.experiment import Experiment
from emod.catalog.load import catalog_root
from emod.catalog.wording import members, number, wanted

__all__ = ["BEGIN", "END", "experiment_tables", "with_tables"]

BEGIN = "<!-- python -m emod.catalog.fields writes what follows -->"
END = "<!-- and this is its end -->"

# What the keys of a group by key are, where they are not corpora.
_KEYS = {"space": "<setting>"}

_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def experiment_tables() -> str:
    """A section for each group of fields: what it takes, its default, its meaning."""
    sections: list[str] = []
    _add_section(Experiment, (), "", sections)
    return "\n".join(sections)


def with_tables(text: str) -> str:
    """The README with the tables of now between its marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{experiment_tables()}\n{END}{rest.split(END)[1]}"


def _add_section(model: type[BaseModel], place: tuple[str, ...], use: str, sections: list[str]) -> None:
    rows, inner = [], []
    for name, field in model.model_fields.items():
        if group := _group(field.annotation):
            by_key = get_origin(members(field.annotation)[0]) is dict
            where = (*place, name, _KEYS.get(name, "<corpus>")) if by_key else (*place, name)
            inner.append((group, where, field.description or ""))
            continue
        meaning = (field.description or "").replace("|", "\\|").replace("<", "&lt;")
        rows.append(f"| `{name}` | {_takes(field)} | {_default(field)} | {meaning} |")
    title = f"### `{'.'.join(place)}`\n\n" if place else ""
    about = " ".join([f"{use[0].upper()}{use[1:]}." if use else "", *(inspect.getdoc(model) or "").split()]).strip()
    about = textwrap.fill(about.replace("``", "`"), 120, break_on_hyphens=False)
    head = "| field | takes | default | meaning |\n| --- | --- | --- | --- |"
    sections.append("\n".join([f"{title}{about}\n\n{head}", *rows]) + "\n")
    for group, where, what in inner:
        _add_section(group, where, what, sections)


def _group(annotation: Any) -> type[BaseModel] | None:
    """The model below a field, or below each key of it."""
    kind = members(annotation)[0]
    kind = get_args(kind)[1] if get_origin(kind) is dict else kind
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _takes(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {number(limit)}"
        for rule in field.metadata
        for bound, sign in _BOUNDS.items()
        if (limit := getattr(rule, bound, None)) is not None
    ]
    null = ", or null" if type(None) in get_args(field.annotation) else ""
    return " ".join([wanted(field.annotation), ", ".join(bounds)]).strip() + null


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return "must be given"
    # As YAML, which reads 1e-07 as text and 1.0e-07 as a number.
    plain = list(default) if isinstance(default, tuple) else default
    return str(yaml.safe_dump(plain, default_flow_style=True)).split("\n")[0]


if __name__ == "__main__":
    readme = catalog_root() / "README.md"
    readme.write_text(with_tables(readme.read_text(encoding="utf-8")), encoding="utf-8")
