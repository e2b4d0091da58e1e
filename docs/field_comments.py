"""A comment beside a class's field is the field's documentation on the API page."""

import re
from typing import Any

import griffe

_COMMENT = re.compile(r"  # (?!type: ignore)(?P<text>.+)$")


class FieldComments(griffe.Extension):
    """Gives every field without a docstring the comment on its line."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Called for every attribute that is read from a source file."""
        is_field = attr.parent is not None and attr.parent.is_class
        found = _COMMENT.search(attr.lines[-1]) if attr.lines else None
        if is_field and found and not attr.docstring:
            attr.docstring = griffe.Docstring(found["text"], parent=attr)
