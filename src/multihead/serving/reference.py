"""The page /docs, written from the OpenAPI description. It needs no script, so that it works offline."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Multihead: HTTP API</title>
</head>
<body>
<main>
<h1>Multihead: HTTP API</h1>
<p><a href="openapi.json">openapi.json</a> is the same for programs (OpenAPI 3.1).
The page is <a href="./">here</a>.</p>
"""


def reference(openapi: Mapping[str, Any]) -> str:
    """A page with every route, what it takes and what it answers.

    Args:
        openapi: The OpenAPI description of the application.
    """
    parts = [HEAD]
    schemas = openapi["components"]["schemas"]
    for path, methods in openapi["paths"].items():
        for method, said in methods.items():
            parts.append(f"<section><h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            parts.append(f"<p>{html.escape(said.get('summary', ''))}.</p>")
            if body := said.get("requestBody"):
                name = _named(body["content"]["application/json"]["schema"])
                parts.append(_table("Takes", schemas[name]))
            answer = said["responses"]["200"].get("content", {}).get("application/json", {}).get("schema", {})
            if name := _named(answer):
                parts.append(f"<p>Answers <a href='#{name}'>{name}</a>.</p>")
            parts.append("</section>")
    parts.append("<h2>Answers</h2>")
    requests = {"Translate", "Generate", "Classify", "Texts", "Score", "Attention"}
    for name, schema in schemas.items():
        if name not in requests and "properties" in schema:
            parts.append(
                f"<section id='{html.escape(name)}'><h3>{html.escape(name)}</h3>{_table('Has', schema)}</section>"
            )
    return "\n".join([*parts, "</main></body></html>"])


def _named(schema: Mapping[str, Any]) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _table(title: str, schema: Mapping[str, Any]) -> str:
    """The properties of an object as a table."""
    required = schema.get("required", [])
    rows = [f"<p>{html.escape(schema.get('description', ''))}</p>"]
    rows.append(f"<table><caption>{title}</caption><tr><th>key<th>type<th>meaning</tr>")
    for name, field in schema.get("properties", {}).items():
        must = " (required)" if name in required else ""
        default = f" Default: {json.dumps(field['default'])}." if field.get("default") is not None else ""
        meaning = html.escape(field.get("description", "") + default)
        rows.append(f"<tr><td><code>{html.escape(name)}</code>{must}<td>{html.escape(_type(field))}<td>{meaning}</tr>")
    return "\n".join([*rows, "</table>"])


def _type(schema: Mapping[str, Any]) -> str:
    """The type of a value in one line, with its limits."""
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "$ref" in schema:
        return _named(schema)
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    limits = {"minimum": "at least", "maximum": "at most", "exclusiveMinimum": "above"}
    said = [f"{words} {schema[key]:g}" for key, words in limits.items() if key in schema]
    return ", ".join([str(schema.get("type", "any")), *said])
