"""YAML as configs and studies are written in it; without torch."""

from __future__ import annotations

import re
from typing import Any

import yaml


class Loader(yaml.SafeLoader):
    """YAML that means what it says: no key is given twice, and no number reads as another, 1:30 as 90 or 010 as 8."""

    def get_single_node(self) -> yaml.Node | None:
        """Return what a text says, once it is known to end, and to be no larger than anybody writes."""
        try:
            node = super().get_single_node()
            if node:
                _size(node, {})
        except RecursionError as error:
            raise yaml.constructor.ConstructorError(None, None, "it is nested too deeply", None) from error
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping whose keys are all different."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a list or mapping is no name", key.start_mark)
            if key.value in lines and not key.tag.endswith(":merge"):
                first = f"{key.value!r} is given twice, first in line {lines[key.value]}; leave one of them"
                raise yaml.constructor.ConstructorError(None, None, first, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def number(self, node: yaml.ScalarNode) -> int | float:
        """Return a number, unless it counts to another base than ten in disguise."""
        if ":" in node.value or re.match(r"[-+]?0[0-7_]", node.value):
            wrong = f"{node.value} reads as {self.construct_yaml_int(node)} in YAML; write that, or quote a text"
            raise yaml.constructor.ConstructorError(None, None, wrong, node.start_mark)
        return self.construct_yaml_int(node)


MOST = 100_000  # values of a config, where each alias counts as what it stands for


def _size(node: yaml.Node, sizes: dict[yaml.Node, int]) -> int:
    """Return how many values a node has with its aliases written out."""
    if node not in sizes:
        sizes[node] = 0  # of what contains itself, until it is done
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        inner = sum(_size(part, sizes) for part in parts) if isinstance(node, yaml.CollectionNode) else 0
        sizes[node] = 1 + inner
    size = sizes[node]
    if not 0 < size <= MOST:
        wrong = f"its aliases make more than {MOST:,} values" if size else "an alias stands within what it stands for"
        raise yaml.constructor.ConstructorError(None, None, f"{wrong}; write them out", node.start_mark)
    return size


Loader.add_constructor("tag:yaml.org,2002:int", Loader.number)
