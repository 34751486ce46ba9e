"""Experiment files: flat YAML mappings, read without ever running or expanding anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from marl_bench.errors import UsageError

_MAX_YAML_BYTES = 1_000_000


class _PlainLoader(yaml.SafeLoader):
    """The safe loader without aliases (they can expand without bound) and without repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse `*alias`; everything else as in the safe loader."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        return super().compose_node(parent, index)  # pyright: ignore[reportArgumentType]

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuse a key given twice; everything else as in the safe loader."""
        keys = [key.value for key, _ in node.value]
        repeated = [key for index, key in enumerate(keys) if key in keys[:index]]
        if repeated:
            raise yaml.YAMLError(f"key {repeated[0]!r} is given twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a flat mapping from a YAML file with the safe loader, without aliases, up to 1 MB.

    Raises:
      UsageError: naming the file and what is wrong with it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_YAML_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > _MAX_YAML_BYTES:
        raise UsageError(f"{path}: larger than {_MAX_YAML_BYTES} bytes; an experiment file is a short list of settings")
    try:
        mapping = yaml.load(data.decode("utf-8"), Loader=_PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{path}: not a valid experiment file ({reason[:200]})") from error
    if not isinstance(mapping, dict) or not all(isinstance(key, str) for key in mapping):
        raise UsageError(f"{path}: expected lines such as 'env: network_dilemma' and 'learner.FIELD: [1, 2]'")
    return mapping
