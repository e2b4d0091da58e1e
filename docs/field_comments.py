"""The comments beside a class's fields become the table of its attributes on the API page."""

import re
from typing import Any

import griffe

_COMMENT = re.compile(r"  # (?!type: ignore)(.+)$")


class FieldComments(griffe.Extension):
    """Adds the section of attributes to a class that has fields and no such section."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Called for every class that is read from a source file."""
        public = [one for one in cls.attributes.values() if one.is_public]
        fields = [one for one in public if "property" not in one.labels]
        described = any(field.docstring for field in fields)
        if not fields or described or not cls.docstring or "Attributes:" in cls.docstring.value:
            return
        lines = [f"    {field.name}: {_comment(field)}" for field in fields]
        cls.docstring.value = "\n".join([cls.docstring.value, "", "Attributes:", *lines])


def _comment(field: griffe.Attribute) -> str:
    found = _COMMENT.search(field.lines[-1])
    return found[1] if found else "–"
