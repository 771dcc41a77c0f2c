"""job.yaml and spoold.yaml as JSON Schemas, for editors, made of the very forms that the two are read by.

What a schema refuses is refused by the reader too. The reader alone knows what is wrong by its meaning: days and zones
that do not exist, domains, durations over ten years, and whatever concerns several keys or other files. Draft 7 and no
references, for that is what every editor understands.
"""

from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from spoold.cli.init import data
from spoold.cli.setting import ConfigForm
from spoold.core.document.form import Section
from spoold.core.document.pattern import Schema
from spoold.core.manifest import ManifestForm

#: The documents that have a schema.
FORMS: dict[str, type[Section]] = {"job.yaml": ManifestForm, "spoold.yaml": ConfigForm}
_DIALECT = "http://json-schema.org/draft-07/schema#"


class _Generator(GenerateJsonSchema):
    """Pydantic's, but for defaults as they stand in a document, and without titles that only repeat the key."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        default = schema.get("default")
        # An empty text tells nobody anything; other values are no JSON, and their fields say how they are written.
        return {**inner, "default": default} if isinstance(default, str | int) and default != "" else inner

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema(name: str) -> Schema:
    """The schema of the document `name`, one of `FORMS`."""
    generated = FORMS[name].model_json_schema(schema_generator=_Generator)
    definitions = generated.pop("$defs", {})
    plain: Schema = _inlined(generated, definitions)
    return {
        "$schema": _DIALECT,
        "title": name,
        **plain,
        "description": f"{name} of spoold; the manual page is {name}(5).",
    }


def file_name(name: str) -> str:
    """The file that has the schema of the document `name`: `job.schema.json`."""
    return f"{name.removesuffix('.yaml')}.schema.json"


def installed(name: str) -> Path:
    """The published schema of the document `name`, in the installed package or in a checkout."""
    return data("schema", file_name(name))


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        # The key's own words stand before those of what it holds.
        node = {**definitions[node["$ref"].rpartition("/")[2]], **node}
        del node["$ref"]
    # In `properties`, `title` may be a key of the document.
    return {
        name: _inlined(item, definitions) for name, item in node.items() if name != "title" or isinstance(item, dict)
    }
