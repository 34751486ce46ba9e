"""Optional packages: imported when an adapter is made, with one clear sentence if they are missing."""

from __future__ import annotations

import contextlib
import importlib
import io
from types import ModuleType
from typing import Any


class MissingExtra(ImportError, LookupError):
    """An optional package is not installed; the message holds the command that installs it."""


def import_extra(module: str, extra: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
      module: full name, e.g. "jaxmarl" or "gymnasium.spaces".
      extra: the extra of marl-bench that installs it.
    Raises:
      MissingExtra: if it is not installed, or cannot be imported.
    """
    try:
        # JaxMARL prints while it is imported.
        with contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        problem = "is not installed" if error.name == package else f"cannot be imported ({error})"
        raise MissingExtra(f'{package} {problem}: pip install "marl-bench[{extra}]"', name=package) from error


def freeze_options(owner: Any, name: str = "options") -> None:
    """Turn field `name` of a frozen dataclass, a dict or pairs, into sorted pairs, so that it can be a static field.

    Raises:
      TypeError: for anything else, a name that is not text, or a value that cannot be hashed.
    """
    value = getattr(owner, name)
    try:
        pairs = tuple(sorted(dict(value).items()))
        hash(pairs)
        if not all(isinstance(key, str) for key, _ in pairs):
            raise TypeError("names must be text")
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name}={value!r}: must map names to values that can be hashed, e.g. {{'num_agents': 3}} ({error}) "
            f"(field of {type(owner).__name__})"
        ) from error
    object.__setattr__(owner, name, pairs)
