"""What the pipeline reads from."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

Example = dict[str, Any]


@runtime_checkable
class Source(Protocol):
    """What the pipeline reads from."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Example: ...

    def get(self, indices: Sequence[int]) -> list[Example]: ...

    def describe(self, i: int) -> str: ...
