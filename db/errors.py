"""What a statement can come back with instead of rows."""


class Unavailable(Exception):
    """The database cannot answer now; nothing is known to have happened, or a read was lost twice.

    `retry_after` is in seconds. The message is for the log.
    """

    def __init__(self, reason: str, *, retry_after: int = 1) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Refused(Exception):
    """A named constraint of the schema refused the statement."""

    def __init__(self, constraint: str) -> None:
        super().__init__(constraint)
        self.constraint = constraint


class Unstorable(Exception):
    """A value that PostgreSQL cannot hold slipped through the checks before it."""


class Denied(Exception):
    """The role may not do it. The message names the statement and what the server says."""
