"""The bound of all request bodies in memory: read, held and forwarded ones alike.

Pure bookkeeping. A body is kept until its request is answered, since it may have to be sent again;
what has left the queue is still here.
"""

from types import TracebackType

from modelserving_gateway.api.errors import bodies_full


class BodyBudget:
    """Bytes that bodies may take."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.taken = 0
        """Bytes that bodies take."""

    def share(self) -> "Share":
        """Return what one body takes, nothing yet, until its block ends."""
        return Share(self)

    def _take(self, more: int) -> None:
        if more > 0 and self.taken + more > self._limit:
            raise bodies_full(self._limit)
        self.taken += more


class Share:
    """What one body takes of the budget, until its block is left."""

    __slots__ = ("_budget", "_size")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._size = 0

    def resize(self, size: int) -> None:
        """Take what has arrived, and no more: a promise would let a few who send nothing have all.

        Raises ApiError (429); then it takes what it took before.
        """
        self._budget._take(size - self._size)
        self._size = size

    def __enter__(self) -> "Share":
        return self

    def __exit__(
        self,
        _: type[BaseException] | None,
        __: BaseException | None,
        ___: TracebackType | None,
    ) -> None:
        self._budget.taken -= self._size
