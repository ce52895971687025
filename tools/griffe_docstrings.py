"""What the site changes in docstrings before it reads them: examples, references in Sphinx's form, settings."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Makes ``Example:`` the section that is set as code, and ``:func:`x``` plain code; adds what settings mean."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the object's docstring."""
        if obj.docstring is None:
            return
        if isinstance(obj, griffe.Class) and any(str(d.value) == "documented" for d in obj.decorators):
            made = getattr(importlib.import_module(obj.module.canonical_path), obj.name)
            obj.docstring.value = inspect.cleandoc(made.__doc__)
        text = re.sub(r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
        obj.docstring.value = re.sub(r":(?:func|meth|class|mod|attr|data):`~?\.?([^`]+)`", r"`\1`", text)
