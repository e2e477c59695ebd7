"""JSON schemas (https://json-schema.org/draft/2020-12) as real clients write them, in the keywords that the grammar
library knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from kameleon.errors import SettingError

Schema = dict[str, Any]

_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
_PARTS = frozenset({"items", "additionalItems", "additionalProperties", "propertyNames", "not", "if", "then", "else"})
_ANNOTATIONS = frozenset({"title", "description", "default", "examples", "deprecated", "$comment"})
# Those that the library holds answers to. By the standard, others say nothing about what is valid.
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
_BEYOND = frozenset({"additionalProperties", "patternProperties", "unevaluatedProperties"})
_DAYS, _SECONDS = r"\d+Y(\d+M)?(\d+D)?|\d+M(\d+D)?|\d+D", r"(\d+([.,]\d+)?S)"
# Patterns with look-ahead, which no grammar has, and the same without it.
_SAME_PATTERN = {
    # zod's e-mail address
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$": (
        r"^([A-Za-z0-9_'+\-]+\.)*[A-Za-z0-9_'+\-]*[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
    ),
    # zod's duration
    (
        r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$"
    ): rf"^P(\d+W|{_DAYS}|({_DAYS})?T(\d+H(\d+M)?{_SECONDS}?|\d+M{_SECONDS}?|{_SECONDS}))$",
    # pydantic's decimal number
    r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$": r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)$",
}


def computable(schema: Schema) -> Schema:
    """The same schema without annotations that the library would refuse, and with what OpenAPI and pydantic write
    (`nullable`, `propertyNames`) in other words. Raises SettingError for names that cannot be put in other words."""

    def change(node: Schema, new: Schema) -> Schema:
        new.pop("$schema", None)
        if new.get("format") not in _FORMATS:
            new.pop("format", None)
        if new.get("uniqueItems") is False:
            del new["uniqueItems"]
        if new.get("pattern") in _SAME_PATTERN:
            new["pattern"] = _SAME_PATTERN[new["pattern"]]
        if "propertyNames" in new:
            names = new.pop("propertyNames")
            named = names.keys() == {"$ref"} if isinstance(names, dict) else False
            new = _with_names(new, _referred(names["$ref"], schema) if named else names)
        return _or_null(new) if new.pop("nullable", False) is True else new

    return _rebuilt(schema, change)


def closed(schema: Schema) -> Schema:
    """The schema with no other properties in any object than those that it names.

    An object that names none stays a map of anything, and one that says what else it may hold stays as it is. So do
    objects that several parts of a schema describe together, because none of them knows the others' properties.
    """
    together = {id(part) for node in _nodes(schema) for part in _together(node, schema)}

    def close(node: Schema, new: Schema) -> Schema:
        is_open = "properties" in node and not node.keys() & _BEYOND and id(node) not in together
        return {**new, "additionalProperties": False} if is_open else new

    return _rebuilt(schema, close)


def moved(schema: Schema, place: str) -> Schema:
    """The schema as it must read at `place` (`#/$defs/a`) of a larger one: its references begin at the larger root."""

    def change(node: Schema, new: Schema) -> Schema:
        new.pop("$id", None)
        reference = new.get("$ref")
        if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
            new["$ref"] = place + reference[1:]
        return new

    return _rebuilt(schema, change)


def _rebuilt(schema: Any, change: Callable[[Schema, Schema], Schema]) -> Any:
    """The schema with `change(node, new)` in place of each object `node` that is a schema; its parts come first."""
    try:
        return _replaced(schema, change)
    except RecursionError:
        raise SettingError("json_schema cannot be followed: it is nested too deep") from None


def _replaced(schema: Any, change: Callable[[Schema, Schema], Schema]) -> Any:
    if not isinstance(schema, dict):
        return schema
    new: Schema = {}
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, dict):
            value = {name: _replaced(part, change) for name, part in value.items()}
        elif key in _LISTS and isinstance(value, list):
            value = [_replaced(part, change) for part in value]
        elif key in _PARTS:
            value = _replaced(value, change)
        new[key] = value
    return change(schema, new)


def _nodes(schema: Schema) -> Iterator[Schema]:
    found: list[Schema] = []
    _rebuilt(schema, lambda node, new: found.append(node) or new)
    return iter(found)


def _referred(reference: Any, root: Schema) -> Any:
    """The schema that a reference within `root` means; None for any other."""
    place: Any = root if isinstance(reference, str) and reference.startswith("#") else None
    for word in str(reference).split("/")[1:]:
        key = unquote(word).replace("~1", "/").replace("~0", "~")
        place = place.get(key) if isinstance(place, dict) else None
    return place


def _together(node: Schema, root: Schema) -> list[Schema]:
    """The schemas that describe an object together with `node`, and `node`; none if it stands alone."""
    sides = [[branch] for branch in _listed(node, "allOf")] + [_listed(node, "anyOf"), _listed(node, "oneOf")]
    sides += [[{"$ref": node["$ref"]}]] if "$ref" in node else []
    parts = [[part for branch in side for part in _reached(branch, root)] for side in sides]
    naming = sum(any("properties" in part for part in side) for side in parts)
    return [node, *(part for side in parts for part in side)] if naming + ("properties" in node) > 1 else []


def _reached(schema: Any, root: Schema) -> list[Schema]:
    """The schema and all that describe the same value with it."""
    found, left = dict[int, Schema](), [schema]
    while left:
        part = left.pop()
        if isinstance(part, dict) and id(part) not in found:
            found[id(part)] = part
            left += [*_listed(part, "allOf"), *_listed(part, "anyOf"), *_listed(part, "oneOf")]
            left.append(_referred(part.get("$ref"), root))
    return list(found.values())


def _listed(node: Schema, key: str) -> list[Any]:
    value = node.get(key)
    return value if isinstance(value, list) else []


def _or_null(node: Schema) -> Schema:
    """OpenAPI 3.0's `nullable`."""
    if isinstance(node.get("type"), str):
        return {**node, "type": [node["type"], "null"]}
    kept = {key: node.pop(key) for key in ("$defs", "definitions") if key in node}
    return {**kept, "anyOf": [node, {"type": "null"}]}


def _with_names(node: Schema, names: Any) -> Schema:
    """An object schema whose names must follow the schema `names`."""
    says = {key: value for key, value in names.items() if key not in _ANNOTATIONS} if isinstance(names, dict) else names
    if says is True or says == {} or says == {"type": "string"}:
        return node
    value = node.get("additionalProperties", True)
    if isinstance(says, dict) and not node.keys() & {"properties", "patternProperties"}:
        says.pop("type", None)
        listed = says.get("enum", [says.get("const")])
        if says.keys() <= {"enum", "const"} and all(isinstance(name, str) for name in listed):
            return {**node, "properties": dict.fromkeys(listed, value), "additionalProperties": False}
        if says.keys() == {"pattern"}:
            return {**node, "patternProperties": {says["pattern"]: value}, "additionalProperties": False}
    raise SettingError("json_schema cannot be followed: propertyNames other than an enum or a pattern alone")
