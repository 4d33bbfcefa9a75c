"""``KEY=VALUE`` arguments of the command line."""

import json
from collections.abc import Sequence
from typing import Any

from dynaconv.errors import RunError


def parse_options(given: Sequence[str], flag: str = "--option") -> dict[str, Any]:
    """Parse ``key=value`` words into a dictionary. Values are JSON or text; dots in a key lead to nested dictionaries.

    Raises:
        RunError: A word has another form, or its key leads into a value.
    """
    options: dict[str, Any] = {}
    for word in given:
        path, equals, text = word.partition("=")
        *above, key = path.split(".")
        if not equals or not all((*above, key)):
            raise RunError(f"{flag} takes KEY=VALUE, such as num_classes=10; got {word!r}.")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        inner = options
        for name in above:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise RunError(f"{flag} {word} leads into {name!r}, which another {flag} gives a value.")
        inner[key] = value
    return options
