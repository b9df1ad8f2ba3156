"""The account of the caller. What matters is done only with the password, which takes two statements."""

from collections.abc import Iterator

import msgspec
from litestar import Response
from litestar.params import JSONBody
from msgspec import UNSET, UnsetType

from db import users
from db.account import User
from service import account, passwords
from service.calls import Call, answer, empty, signed_in
from service.errors import Fault, Problem, invalid
from service.settings import Settings


class UserPatch(msgspec.Struct, forbid_unknown_fields=True):
    """A merge patch: what is absent stays, null clears `name`. A new `email` needs the `password`."""

    name: account.Name | UnsetType | None = UNSET
    email: account.Email | UnsetType = UNSET
    password: account.Password | UnsetType = UNSET

    def __post_init__(self) -> None:
        if isinstance(self.name, str):
            self.name = self.name.strip()

    def faults(self, settings: Settings) -> Iterator[Fault]:  # noqa: ARG002
        return account.faults(self.email, self.name)


class PasswordChange(msgspec.Struct, forbid_unknown_fields=True):
    """The password as it is, and as it shall be."""

    current_password: account.Password
    new_password: account.NewPassword

    def faults(self, settings: Settings) -> Iterator[Fault]:  # noqa: ARG002
        if detail := passwords.fault(self.new_password):
            yield Fault(detail, pointer="/new_password")


class UserDelete(msgspec.Struct, forbid_unknown_fields=True):
    """The password, to make sure."""

    password: account.Password


async def get_user(request: Call) -> Response[User]:
    """Read the account."""
    return answer(signed_in(await users.get(request.db, request.caller)))


async def update_user(request: Call, data: JSONBody[UserPatch]) -> Response[User]:
    """Change the account."""
    given = data.password
    known = None if given is UNSET else await _verified(request, given, "/password")
    changes = users.Changes(data.name, data.email)
    outcome = signed_in(await users.update(request.db, request.caller, changes, known))
    if outcome.verdict == "moved":
        raise (
            invalid(Fault("is required for a new e-mail address", pointer="/password"))
            if known is None
            else _wrong("/password")
        )
    return answer(outcome.user)


async def change_password(request: Call, data: JSONBody[PasswordChange]) -> Response[None]:
    """Change the password; other sessions end."""
    known = await _verified(request, data.current_password, "/current_password")
    new = await request.passwords.hash(data.new_password)
    if signed_in(await users.change_password(request.db, request.caller, known, new)) == "moved":
        raise _wrong("/current_password")
    return empty()


async def delete_user(request: Call, data: JSONBody[UserDelete]) -> Response[None]:
    """Delete the account and everything in it."""
    known = await _verified(request, data.password, "/password")
    if signed_in(await users.delete(request.db, request.caller, known)) == "moved":
        raise _wrong("/password")
    return empty()


async def _verified(request: Call, password: str, pointer: str) -> str:
    """The stored hash that a password fits; raises a 422 `Problem` where it does not."""
    who = request.caller.user_id
    request.throttle.guess(who, request.address)
    stored = signed_in(await users.read_hash(request.db, request.caller)).password_hash
    if not await request.passwords.verify(stored, password) or stored is None:
        raise _wrong(pointer)
    request.throttle.succeeded(who, request.address)
    return stored


def _wrong(pointer: str) -> Problem:
    return invalid(Fault("is not the password of this account", pointer=pointer))
