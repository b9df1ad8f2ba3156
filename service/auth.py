"""Signing in: register, log in, refresh, log out; and the sessions that come of it."""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import msgspec
from litestar import Response
from litestar.params import FromPath, JSONBody
from msgspec import Meta

from db import auth
from db.account import User
from db.auth import Session
from service import account, passwords
from service.calls import Call, answer, empty, signed_in, whence
from service.errors import Fault, Problem
from service.settings import Settings
from service.tokens import InvalidToken, Refresh

ACCOUNT = "/api/v1/users/me"

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


class Registration(msgspec.Struct, forbid_unknown_fields=True):
    """A new account."""

    email: account.Email
    password: account.NewPassword
    name: account.Name | None = None

    def __post_init__(self) -> None:
        if self.name is not None:
            self.name = self.name.strip()

    def faults(self, settings: Settings) -> Iterator[Fault]:  # noqa: ARG002
        yield from account.faults(self.email, self.name)
        if detail := passwords.fault(self.password):
            yield Fault(detail, pointer="/password")


class Login(msgspec.Struct, forbid_unknown_fields=True):
    """Who somebody says they are; what is no e-mail address or no password is merely wrong."""

    email: Annotated[str, Meta(examples=["ada@example.com"])]
    password: account.Password


class RefreshToken(msgspec.Struct, forbid_unknown_fields=True):
    """A refresh token, to be spent."""

    refresh_token: str


class SignedIn(msgspec.Struct, kw_only=True):
    """A pair of tokens and whose they are; `expires_in` is in seconds, of the access token."""

    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 (a scheme)
    expires_in: int
    refresh_token: str
    user: User


class SessionList(msgspec.Struct):
    """Where an account is signed in."""

    items: Sequence[Session]


async def register(request: Call, data: JSONBody[Registration]) -> Response[SignedIn]:
    """Create an account and sign in."""
    request.throttle.sign_up(request.address)
    first = request.tokens.first_refresh()
    hashed = await request.passwords.hash(data.password)
    user = await auth.register(
        request.db, auth.SignUp(data.email, data.name, hashed), _opening(request, first)
    )
    return answer(_signed_in(request, user, first), 201, headers={"Location": ACCOUNT})


async def login(request: Call, data: JSONBody[Login]) -> Response[SignedIn]:
    """Sign in."""
    request.throttle.guess(data.email, request.address)
    known = await auth.login_read(request.db, data.email)
    stored = known.password_hash if known else None
    right = await request.passwords.verify(stored, data.password)
    if not right or known is None or stored is None or not known.is_active:
        raise _wrong()
    fresh = await request.passwords.hash(data.password) if request.passwords.outdated(stored) else None
    first = request.tokens.first_refresh()
    user = await auth.login(request.db, known.id, stored, fresh, _opening(request, first))
    if user is None:
        raise _wrong()
    request.throttle.succeeded(data.email, request.address)
    return answer(_signed_in(request, user, first))


async def refresh(request: Call, data: JSONBody[RefreshToken]) -> Response[SignedIn]:
    """Spend a refresh token for a new pair."""
    try:
        spent = request.tokens.read_refresh(data.refresh_token)
    except InvalidToken:
        raise _spent() from None
    settings = request.settings
    rotation = auth.Rotation(
        spent.sid,
        spent.hash,
        spent.successor_hash,
        settings.refresh_token_grace,
        settings.refresh_token_idle,
        settings.refresh_token_ttl,
    )
    found = await auth.refresh(request.db, rotation)
    if found is None or found.verdict not in ("rotate", "again"):
        raise _spent()
    return answer(_signed_in(request, found.user, spent))


async def logout(request: Call) -> Response[None]:
    """Sign out: this session ends."""
    signed_in(await auth.logout(request.db, request.caller))
    return empty()


async def logout_all(request: Call) -> Response[None]:
    """Sign out everywhere."""
    signed_in(await auth.logout_all(request.db, request.caller))
    return empty()


async def list_sessions(request: Call) -> Response[SessionList]:
    """List where the account is signed in, latest use first."""
    return answer(SessionList(signed_in(await auth.list_sessions(request.db, request.caller))))


async def end_session(request: Call, id: FromPath[str]) -> Response[None]:
    """Sign out one session."""
    if not _UUID.fullmatch(id):
        raise Problem(404)
    if signed_in(await auth.end_session(request.db, request.caller, id)) == "absent":
        raise Problem(404)
    return empty()


def _signed_in(request: Call, user: User, refresh: Refresh) -> SignedIn:
    return SignedIn(
        access_token=request.tokens.access(user.id, refresh.sid),
        expires_in=request.tokens.ttl,
        refresh_token=refresh.successor,
        user=user,
    )


def _opening(request: Call, first: Refresh) -> auth.Opening:
    settings = request.settings
    return auth.Opening(
        first.sid,
        first.successor_hash,
        *whence(request.headers, request.address),
        settings.refresh_token_idle,
        settings.refresh_token_ttl,
    )


def _wrong() -> Problem:
    """One answer to every login that fails, whatever was wrong."""
    return Problem(401, "The e-mail address or the password is wrong.")


def _spent() -> Problem:
    return Problem(
        401, "The refresh token is not ours, was spent before, or its session has ended; sign in again."
    )
