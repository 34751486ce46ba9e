"""Optional packages: imported when an adapter is made, with one clear sentence if they are missing."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

from marl_bench.naming import nearest


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
        with silent_output():
            return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        problem = "is not installed" if error.name == package else f"cannot be imported ({error})"
        raise MissingExtra(f'{package} {problem}: pip install "marl-bench[{extra}]"', name=package) from error


@contextlib.contextmanager
def silent_output() -> Iterator[None]:
    """Nothing is printed inside, and the standard streams are the same afterwards.

    JaxMARL prints while it is imported, after its MABrax has set the streams to `sys.__stdout__` and `sys.__stderr__`.
    """
    kept = {name: getattr(sys, name) for name in ("stdout", "stderr", "__stdout__")}
    sys.stdout = sys.__stdout__ = io.StringIO()
    try:
        yield
    finally:
        for name, stream in kept.items():
            setattr(sys, name, stream)


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


def check_id(suite: str, id: str, known: Iterable[str]) -> None:
    """Check that a suite has an environment.

    Raises:
      LookupError: with the nearest names, and the command that shows all.
    """
    names = list(known)
    if id not in names:
        hint = nearest(id, names, most=3)
        raise LookupError(f"{suite} has no environment {id!r}{hint} ('marl-bench list {suite}' shows all)")


def accepted_options(env: Any, swallowed: Sequence[str] = ()) -> tuple[str, ...] | None:
    """Arguments that the class of another suite's environment takes by name, sorted.

    Args:
      env: an environment. Where a constructor has `**kwargs`, they are taken to go to the next base, or, if there is an
        `env._env` that it wraps, to the class of that.
      swallowed: names that the last of these bases looks up in its own `**kwargs`.
    Returns:
      The names; None where the last `**kwargs` goes elsewhere, so that they cannot be told.
    """
    names = set(swallowed)
    wrapped = type(getattr(env, "_env", None))
    for base in (*(b for b in type(env).__mro__[:-1] if not issubclass(wrapped, b)), *wrapped.__mro__[:-1]):
        if "__init__" in vars(base):
            parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
            names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                return tuple(sorted(names))
    return tuple(sorted(names)) if swallowed else None


def make_inner(name: str, make: Callable[..., Any], options: dict[str, Any], swallowed: Sequence[str] = ()) -> Any:
    """Make another suite's environment.

    Args:
      name: as in `SUITE:ID`, for messages.
      make: makes it from its options.
      options: keyword arguments of its class.
      swallowed: see `accepted_options`.
    Raises:
      ValueError: for an option that the class does not know (with those that it knows) or a value that it refuses.
    """
    try:
        env = make(**options)
    except Exception as error:
        unknown = _unknown_option(make, options) if isinstance(error, TypeError) else ""
        raise ValueError(f"{name}: cannot be made ({type(error).__name__}: {error}){unknown}") from error
    # Where a class hands its `**kwargs` on, whoever gets them complains (above); only one that swallows them says nothing.
    accepted = accepted_options(env, swallowed) if swallowed else None
    for option in options:
        if accepted is not None and option not in accepted:
            raise ValueError(f"{name}: has no option {option!r}{_choices(option, accepted)}")
    return env


def _unknown_option(make: Callable[..., Any], options: dict[str, Any]) -> str:
    """The options that the class takes, if it does not know one of these; its class is that of a default environment."""
    try:
        accepted = accepted_options(make())
    except Exception:
        return ""  # nothing to add: it needs options, too
    unknown = [option for option in options if accepted is not None and option not in accepted]
    return _choices(unknown[0], accepted or ()) if unknown else ""


def _choices(option: str, accepted: tuple[str, ...]) -> str:
    return f"{nearest(option, accepted)} (options: {', '.join(accepted) or 'none'})"
