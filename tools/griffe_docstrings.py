"""What the site changes in docstrings before it reads them: sections of examples, references in Sphinx's form."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Makes ``Example:`` the section that is set as code, and ``:func:`x``` plain code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the object's docstring."""
        if obj.docstring is not None:
            text = re.sub(r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r":(?:func|meth|class|mod|attr|data):`~?\.?([^`]+)`", r"`\1`", text)
