"""Values of the environment that must not be recorded: keys, tokens, passwords."""

from __future__ import annotations

import os
import re

_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSW|PWD$|CREDENTIAL|AUTH|COOKIE", re.IGNORECASE)
_SHORTEST = 6  # a shorter value is no secret, and stands in every other text
_PATHS = {"PWD", "OLDPWD"}


def without_secrets(text: str) -> str:
    """Replace the values of environment variables whose names suggest secrets.

    Example:
        >>> os.environ["EXAMPLE_API_KEY"] = "abc-123-def"
        >>> without_secrets("error: abc-123-def was refused")
        'error: <EXAMPLE_API_KEY> was refused'
        >>> del os.environ["EXAMPLE_API_KEY"]
    """
    found = [(value, name) for name, value in os.environ.items() if _NAMES.search(name) and name not in _PATHS]
    for value, name in sorted(found, key=lambda each: -len(each[0])):
        if len(value) >= _SHORTEST:
            text = text.replace(value, f"<{name}>")
    return text
