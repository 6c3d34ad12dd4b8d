"""Who sees what: one partition of the index per scope, and the partitions that an asker may read.

This is the only place that decides visibility; tenants never share a partition with anybody.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations

from agentkd.schema import Scope, content_id

__all__ = ["partition_of", "sees", "visible_partitions"]


@lru_cache(maxsize=4096)
def partition_of(scope: Scope) -> str:
    """Return the partition of a memory's scope: a hash, so that no name can reach into another."""
    return content_id("scp", *(getattr(scope, name) for name in Scope.model_fields))


@lru_cache(maxsize=4096)
def visible_partitions(asker: Scope) -> tuple[str, ...]:
    """Return the partitions that an asker sees: every scope made of some of the asker's set fields."""
    fields = {name: value for name, value in asker.model_dump().items() if value}
    subsets = (names for n in range(len(fields) + 1) for names in combinations(fields, n))
    return tuple(partition_of(Scope(**{name: fields[name] for name in names})) for names in subsets)


def sees(asker: Scope, scope: Scope) -> bool:
    """Whether every field that a memory's scope sets is equal in the asker's."""
    own = vars(asker)
    return all(value in ("", own[name]) for name, value in vars(scope).items())
