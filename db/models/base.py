"""What the tables share: how constraints are named, whom a row belongs to, and times."""

from sqlalchemy import BigInteger, Column, DateTime, ForeignKey, Identity, Text, text
from sqlmodel import SQLModel

# A CHECK carries its full name, and one without a name is an error: clients' problems are told by these names.
SQLModel.metadata.naming_convention = {
    "pk": "%(table_name)s_pkey",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "ck": "%(constraint_name)s",
}

# What counts as white space in a CHECK, inside the brackets of a regular expression: exactly what Python's
# `str.strip` removes, in every locale. (`\s` alone means something else under another collation.)
SPACE = r"\s\u001c-\u001f\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

FIRST_MOMENT = "'0001-01-01 00:00:00+00'::timestamptz"
PAST_LAST_MOMENT = "'10000-01-01 00:00:00+00'::timestamptz"


def identity() -> "Column[int]":
    """A number from the table's own sequence; a batch may draw its ids first."""
    return Column(BigInteger, Identity(always=False), primary_key=True)


def owner(*, primary_key: bool = False) -> "Column[str]":
    """The user a row belongs to: it goes with its user, and follows when the user's id changes."""
    return Column(
        Text(collation="C"),
        ForeignKey("users.id", ondelete="CASCADE", onupdate="CASCADE"),
        primary_key=primary_key,
        nullable=False,
    )


def moment(
    comment: str | None = None, *, null: bool = False, default: str | None = "now()"
) -> "Column[object]":
    """A point in time, by the database's clock; one that may be null has no default."""
    return Column(
        DateTime(timezone=True),
        nullable=null,
        server_default=None if null or default is None else text(default),
        comment=comment,
    )
