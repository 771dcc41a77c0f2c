"""A document against its form: the keys, types and limits that a pydantic model asks for.

Owns the words in which its faults are told, and their places. Reports all of them at once. Knows no single
key; `spoold.core.document.field` has the notations, the models belong to whoever owns the document.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, Tag, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, PydanticUndefined, core_schema

from spoold.core.document.composer import MAX_PROBLEMS, Position
from spoold.core.document.reader import Document, DocumentError, locate
from spoold.core.problem import Problem, printable, shown

M = TypeVar("M", bound=BaseModel)


class Section(BaseModel):
    """The base of every model of a mapping: unknown keys are errors, nothing is coerced, nothing changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


@dataclass(frozen=True, slots=True)
class Read:
    """Annotation: the document holds a `form` (a section, a list …), the model what `convert` makes of it.

    A ValueError of `convert` is reported at the place of the whole.
    """

    form: Any
    convert: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.convert, handler.generate_schema(self.form))


def key(description: str, default: Any = PydanticUndefined, *, written: Any = None, **rules: Any) -> Any:
    """A field of a section, with the text that the manual and the JSON Schema have for it.

    `written` is the default as a document would say it, where the value itself is not what stands there; `rules` are
    pydantic's. A field without a default is required.
    """
    extra = None if written is None else {"default": written}
    return Field(default, description=description, json_schema_extra=extra, **rules)


def validate(document: Document, model: type[M]) -> M:
    """Read the document as `model`. Raises DocumentError with every problem, in the order of the lines.

    The texts are ours; a ValueError raised by a validator is taken as its text.
    """
    try:
        return model.model_validate(document.value)
    except ValidationError as error:
        found = [_finding(document, model, details) for details in error.errors(include_url=False)]
    problems = [Problem(locate(document.name, position), text) for position, text in sorted(found)]
    raise DocumentError(tuple(problems[:MAX_PROBLEMS]))


def _finding(document: Document, model: type[BaseModel], details: ErrorDetails) -> tuple[Position, str]:
    loc, value, context = details["loc"], details["input"], details.get("ctx", {})
    match details["type"]:
        case "extra_forbidden":
            known = _keys(model, loc[:-1])
            return document.key_position(loc), _unknown(str(loc[-1]), known)
        case "missing":
            return document.position(loc[:-1]), f"the required key '{loc[-1]}' is missing"
        case "value_error":
            text = str(context["error"])
            return (document.key_position(loc[:-1]) if loc[-1:] == ("[key]",) else document.position(loc)), text
        case kind:
            text = f"expected {_expectation(kind, context)}; got {shown(value)}"
            if kind == "string_type" and isinstance(value, bool | int | float):
                text += f': put it in quotes, "{shown(value)}"'
            return document.position(loc), text


def _expectation(kind: str, context: Mapping[str, Any]) -> str:
    if kind == "literal_error":
        return str(context["expected"]).replace("'", "")
    if kind in _LIMITS:
        return _LIMITS[kind].format_map(context)
    return _TYPES.get(kind, "something else")


_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list, [one, two]",
    "tuple_type": "a list, [one, two]",
    "dict_type": "a mapping, {key: value}",
    "model_type": "a mapping, {key: value}",
    "none_required": "nothing",
}
_LIMITS = {
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "string_too_short": "text, {min_length} or more characters",
    "string_too_long": "text, {max_length} characters at most",
    "too_short": "a list, {min_length} or more entries",
    "too_long": "a list, {max_length} entries at most",
}


def _unknown(key: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(key[:80].lower(), known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
    return f"unknown key '{printable(key, 80)}'; {hint}"


def _keys(model: type[BaseModel], loc: tuple[str | int, ...]) -> tuple[str, ...]:
    """The keys that the section at `loc` knows; empty if it cannot be told."""
    form: Any = model
    for part in loc:
        form = _descend(form, part)
    form = _bare(form)
    if not _is_model(form):
        return ()
    return tuple(field.alias or name for name, field in form.model_fields.items())


def _descend(form: Any, part: str | int) -> Any:
    """The form one step further in: of a key, an item, or the option of a union that carries that tag."""
    form = _bare(form)
    if _is_model(form):
        for name, field in form.model_fields.items():
            if part == (field.alias or name):
                return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        return None
    if get_origin(form) in (Union, UnionType):
        return next((option for option in get_args(form) if Tag(str(part)) in get_args(option)), None)
    return get_args(form)[-1] if get_origin(form) in (dict, list) else None


def _bare(form: Any) -> Any:
    """What a form is beneath its annotations and its `| None`."""
    while True:
        options = [option for option in get_args(form) if option is not NoneType]
        if get_origin(form) is Annotated:
            inner, *metadata = get_args(form)
            form = next((item.form for item in metadata if isinstance(item, Read)), inner)
        elif get_origin(form) in (Union, UnionType) and len(options) == 1:
            form = options[0]
        else:
            return form


def _is_model(form: Any) -> bool:
    return isinstance(form, type) and issubclass(form, BaseModel)
