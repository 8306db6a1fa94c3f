"""What the harness says when it cannot go on. One exception: a sentence for a person.

No module of the harness lets a subprocess or socket error through as it came.
"""


class HarnessError(Exception):
    """Something the harness needs is missing or failed; the message says what to do next."""
