"""Reading a YAML file that the user gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from command import UsageError, one_line


def read_yaml(path: Path, what: str, advice: str) -> Any:
    """Its plain value. Raises UsageError: `what` was expected, the cause was found, `advice` is to be followed."""
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: expected {what}, found {error.strerror}; {advice}") from None
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path}: expected {what} in YAML, found {one_line(str(error))}; {advice}") from None
