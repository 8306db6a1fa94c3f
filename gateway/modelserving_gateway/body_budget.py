"""The bound of all request bodies in memory: read, held and forwarded ones alike.

Pure bookkeeping. A body is kept until its request is answered, since it may have to be sent again;
what has left the queue is still here.
"""

from types import TracebackType

from modelserving_gateway.errors import bodies_full


class BodyBudget:
    """Bytes that bodies may take."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.taken = 0
        """Bytes that bodies take, or have been promised."""

    def share(self, size: int) -> "Share":
        """Promise so many bytes to one body until the block ends. Raises ApiError (429)."""
        if self.taken + size > self._limit:
            raise bodies_full(self._limit)
        self.taken += size
        return Share(self, size)


class Share:
    """What one body takes of the budget, until its block is left."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: BodyBudget, size: int) -> None:
        self._budget = budget
        self.size = size

    def shrink(self, size: int) -> None:
        """Give back what the body turned out not to need."""
        self._budget.taken -= self.size - size
        self.size = size

    def __enter__(self) -> "Share":
        return self

    def __exit__(
        self,
        _: type[BaseException] | None,
        __: BaseException | None,
        ___: TracebackType | None,
    ) -> None:
        self._budget.taken -= self.size
