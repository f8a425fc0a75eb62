#!/usr/bin/env python3
"""Holds messages against docs/asyncapi.yaml, for tests/it/asyncapi.rs.

Reads a JSON array of {"message": name, "payload": …, "headers": {…}} from stdin and complains of what does not
fit the message of that name; so it does of the document's own examples and of references to nothing. Prints
the document as JSON. Needs Debian's python3-yaml and python3-jsonschema.
"""

import json
import pathlib
import sys
import warnings

import yaml

warnings.simplefilter("ignore", DeprecationWarning)
from jsonschema import Draft202012Validator, FormatChecker, RefResolver  # noqa: E402


def references(node):
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def main():
    path = pathlib.Path(sys.argv[1]).resolve()
    document = yaml.safe_load(path.read_text())
    resolver = RefResolver(path.as_uri(), document)
    complaints = []

    def fits(name, value, schema, what):
        validator = Draft202012Validator(schema, resolver=resolver, format_checker=FormatChecker())
        for error in validator.iter_errors(value):
            at = "/".join(str(part) for part in error.absolute_path)
            complaints.append(f"{name}: {what} {at}: {error.message}")

    for reference in references(document):
        try:
            resolver.resolve(reference)
        except Exception as error:  # Whatever it is, the reference is wrong.
            complaints.append(f"{reference}: {error}")
    messages = document["components"]["messages"]
    given = json.load(sys.stdin)
    for name, message in messages.items():
        given += [{"message": name, **example} for example in message.get("examples", [])]
    for each in given:
        message = messages[each["message"]]
        fits(each["message"], each["payload"], message["payload"], "payload")
        if "headers" in each:
            fits(each["message"], each["headers"], message["headers"], "headers")
    if complaints:
        raise SystemExit("\n".join(complaints))
    json.dump(document, sys.stdout)


if __name__ == "__main__":
    main()
