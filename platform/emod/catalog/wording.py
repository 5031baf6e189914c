"""What pydantic found wrong in somebody's YAML, as one line: who wrote it, the field, the value, the cure.

It knows the models only by their annotations, so a new field needs no words here. It reads no file.
"""

from __future__ import annotations

import difflib
import json
import re
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

__all__ = ["Typed", "members", "nearest", "number", "one_line", "wanted"]

Typed = Mapping[tuple[str, ...], str]
"""Place of a value -> the flag that put it there, as the user typed it."""

_BOUNDS = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
}
_SCALARS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_SEVERAL = {bool: "true or false", int: "whole numbers", float: "numbers", str: "names"}


def one_line(error: ValidationError, model: type[BaseModel], *, origin: str, typed: Typed) -> str:
    """The most telling of a model's complaints, with the cure.

    Args:
        error: What validation of ``model`` raised.
        model: The model that was asked for.
        origin: The file, where nothing typed is to blame.
        typed: What came from the command line instead.
    """
    complaints = _one_a_place(error.errors(include_url=False), model)
    # A misspelt key is why its right spelling is missing: it comes first.
    place, annotation, found = min(complaints, key=lambda each: each[2]["type"] != "extra_forbidden")
    more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
    dotted = ".".join(place)
    cure = _cure(place, annotation, found, model)
    shown = ""
    if found["type"] == "missing":
        what = ""
    elif found["type"] == "extra_forbidden" or (found["type"] == "value_error" and isinstance(found["input"], dict)):
        what = dotted
    else:
        shown = json.dumps(found["input"], default=str, ensure_ascii=False)
        # A URL stays whole: of one cut short, nobody can tell where its secret ends.
        shown = shown if len(shown) <= 60 or "://" in shown else shown[:57] + "..."
        what = f"{dotted or '(top level)'} = {shown}"
    if flag := _flag(place, typed):
        wrote = flag
        # A --set names the place and the value itself, but not what YAML made of it: on is true.
        if f" {dotted}=" in flag:
            scalar = shown and not isinstance(found["input"], list | dict)
            what = f"read as {shown}" if scalar and not flag.endswith(f"={shown}") else ""
    else:
        # A complaint about several fields together: those typed that it names.
        beneath = [text for keys, text in typed.items() if keys[: len(place)] == place and _names(cure, keys[-1])]
        wrote = f"{origin} with {' '.join(beneath)}" if beneath else origin
    return ": ".join(part for part in (wrote, what, cure) if part) + more


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean x?``, or nothing where no known word is close."""
    close = difflib.get_close_matches(word.lower(), list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def wanted(annotation: Any) -> str:
    """What a field takes, in plain words."""
    kinds = members(annotation)
    if len(kinds) > 1:
        return ", or ".join(wanted(kind) for kind in kinds)
    (kind,) = kinds
    if get_origin(kind) is Literal:
        *words, last = map(str, get_args(kind))
        return f"{', '.join(words)} or {last}" if words else last
    if get_origin(kind) is tuple:
        first, *others = get_args(kind)
        count = "" if others and others[-1] is ... else f"{1 + len(others)} "
        several = members(first)
        if len(several) > 1 or get_origin(several[0]) is Literal:
            return f"a list of {count}{' or '.join(_SEVERAL.get(kind) or wanted(kind) for kind in several)}"
        (first,) = several
        return f"a list of {count}{_SEVERAL.get(first, 'groups of fields')}"
    if get_origin(kind) is dict:
        return f"keys, each with {wanted(get_args(kind)[1])}"
    return f"fields: {', '.join(kind.model_fields)}" if _is_model(kind) else _SCALARS[kind]


def number(value: float) -> str:
    """A number as people write it: 0, 0.5, 4294967296."""
    return str(int(value)) if float(value).is_integer() else f"{value:g}"


def members(annotation: Any) -> list[Any]:
    """The types an annotation allows besides None, without their constraints."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for part in get_args(annotation) if part is not type(None) for kind in members(part)]
    return [annotation]


Complaint = tuple[tuple[str, ...], Any, Any]


def _one_a_place(found: list[Any], model: type[BaseModel]) -> list[Complaint]:
    """(place, annotation there, error) of each error; of a union that nothing fits, that of the member it fits best."""
    chosen: dict[tuple[str, ...], tuple[tuple[int, bool], Complaint]] = {}
    for each in found:
        if each["type"] == "missing" and isinstance(each["loc"][-1], int):  # a list of fixed length is too short
            each = {**each, "type": "too_short", "loc": each["loc"][:-1]}
        place, annotation, union = _place(model, each["loc"])
        key = place if union is None else place[:union]
        fit = (len(place), each["type"] in (*_BOUNDS, "finite_number"))  # a bound is looked at where the type is right
        if key not in chosen or fit > chosen[key][0]:
            chosen[key] = (fit, (place, annotation, each))
    # A list whose elements are wrong counts as too short as well.
    wrong = [place for _, (place, *_) in chosen.values()]
    return [
        (place, annotation, each)
        for _, (place, annotation, each) in chosen.values()
        if each["type"] != "too_short" or not any(place == other[:-1] for other in wrong)
    ]


def _place(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[tuple[str, ...], Any, int | None]:
    """Keys from the top to an error, the annotation there, and at which depth a union stands, if one does.

    Pydantic puts the name of a union's member between the keys; nobody typed it.
    """
    place: list[str] = []
    here: Any = model
    union: int | None = None
    for depth, part in enumerate(loc):
        kinds = members(here)
        if len(kinds) > 1:
            union = len(place)
            if depth + 1 < len(loc):
                name = str(part).partition("[")[0]
                here = next((k for k in kinds if getattr(get_origin(k) or k, "__name__", "") == name), kinds[0])
            continue
        (kind,) = kinds
        place.append(str(part))
        if _is_model(kind):
            here = kind.model_fields[part].annotation if part in kind.model_fields else None
        elif get_origin(kind) is tuple:
            inner = get_args(kind)
            here = inner[0] if inner[-1] is ... or not isinstance(part, int) else inner[min(part, len(inner) - 1)]
        else:
            here = get_args(kind)[-1] if get_origin(kind) is dict else None
    return tuple(place), here, union


def _cure(place: tuple[str, ...], annotation: Any, found: Any, model: type[BaseModel]) -> str:
    kind, value, context = found["type"], found["input"], found.get("ctx", {})
    if kind == "extra_forbidden":
        parent = members(_place(model, found["loc"][:-1])[1])[0]
        known = sorted(parent.model_fields)
        return f"unknown key{nearest(place[-1], known)}; known here: {', '.join(known)}"
    if kind == "missing":
        return f"{'.'.join(place)} is missing; add it"
    if kind == "value_error":
        return str(found["msg"]).removeprefix("Value error, ")
    if kind in _BOUNDS:
        return f"give {_BOUNDS[kind].format(**{name: number(limit) for name, limit in context.items()})}"
    if kind == "finite_number":
        return "give a finite number"
    if kind == "too_short" and "min_length" in context:
        return f"give at least {context['min_length']}"
    if kind == "string_pattern_mismatch":
        allowed = re.findall(r".-.|.", context["pattern"].removeprefix("^[").removesuffix("]+$"))
        return f"give one character or more of {' '.join(allowed)}, and no other"
    quotes = ", in quotes" if members(annotation) == [str] else ""
    return f"give {wanted(annotation)}{quotes}{_rewritten(value, annotation)}"


def _rewritten(value: Any, annotation: Any) -> str:
    """The value as it should have been written, where that can be told."""
    kinds = members(annotation)
    of_any_length = get_origin(kinds[0]) is tuple and get_args(kinds[0])[-1] is ...
    words = isinstance(value, str) and re.fullmatch(r"[\w.+-]+(\s*,\s*[\w.+-]+)*", value)
    if of_any_length and words and get_args(kinds[0])[0] is not float:
        return f": write [{value}]"
    power_of_ten = re.fullmatch(r"([+-]?\d+)(\.\d*)?e([+-]?)(\d+)", str(value), re.IGNORECASE)
    if float in kinds and isinstance(value, str) and power_of_ten:
        whole, part, sign, power = power_of_ten.groups()
        return f" (YAML reads {value} as text: write {whole}{part or '.0'}e{sign or '+'}{power})"
    return ""


def _flag(place: tuple[str, ...], typed: Typed) -> str | None:
    """The last flag that put a value at this place or around it."""
    return next((text for keys, text in reversed(list(typed.items())) if place[: len(keys)] == keys), None)


def _names(message: str, field: str) -> bool:
    return field in re.findall(r"\w+", message)


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)
