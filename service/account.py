"""What an account is made of, as signing up and changing it take it."""

import re
from collections.abc import Iterator
from typing import Annotated, TypeAlias

from msgspec import Meta, UnsetType

from service.errors import Fault
from service.passwords import LONGEST, SHORTEST

MAX_EMAIL, MAX_NAME = 255, 255

Email: TypeAlias = Annotated[
    str,
    Meta(
        description="One @, no spaces, up to 255 characters; compared without case",
        examples=["ada@example.com"],
        extra_json_schema={"pattern": r"^[^@\s]+@[^@\s]+$", "maxLength": MAX_EMAIL},
    ),
]
Name: TypeAlias = Annotated[
    str,
    Meta(
        description="1 to 255 characters after trimming",
        examples=["Ada Lovelace"],
        extra_json_schema={"minLength": 1, "maxLength": MAX_NAME},
    ),
]
NewPassword: TypeAlias = Annotated[
    str,
    Meta(
        description="8 to 128 characters of any kind, not a common password",
        examples=["correct horse battery"],
        extra_json_schema={"format": "password", "minLength": SHORTEST, "maxLength": LONGEST},
    ),
]
Password: TypeAlias = Annotated[
    str, Meta(examples=["correct horse battery"], extra_json_schema={"format": "password"})
]

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


def faults(email: str | UnsetType, name: str | UnsetType | None) -> Iterator[Fault]:
    """What is wrong with an e-mail address and a (trimmed) name, where they are given."""
    if isinstance(email, str) and not (len(email) <= MAX_EMAIL and _EMAIL.fullmatch(email)):
        yield Fault(
            f"must be an e-mail address: one @, no spaces, {MAX_EMAIL} characters at most", pointer="/email"
        )
    if isinstance(name, str) and not 1 <= len(name) <= MAX_NAME:
        yield Fault(f"must have 1 to {MAX_NAME} characters after trimming", pointer="/name")
