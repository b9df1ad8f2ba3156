"""Each function of accounts and of signing in called by itself: its rows and its verdicts."""

import asyncio
import time
import uuid

import asyncpg
import pytest
from msgspec.structs import astuple

from db import auth, tasks, users
from db.caller import Caller
from db.errors import Refused
from db.pool import Database
from db.task import Draft
from tests.db.conftest import signed_in
from tests.db.hands import contents, someone


def opening() -> auth.Opening:
    return auth.Opening(str(uuid.uuid4()), uuid.uuid4().bytes, "pytest", "::1", idle=60, ttl=600)


async def registered(db: Database) -> tuple[Caller, str, auth.Opening]:
    """A user with a hash and a session, their e-mail address, and how the session began."""
    email, first = f"{uuid.uuid4().hex}@Example.com", opening()
    user = await auth.register(db, auth.SignUp(email, "Ada", "hash"), first)
    return Caller(user.id, first.sid), email, first


async def test_register_opens_a_first_session(db: Database) -> None:
    caller, email, _ = await registered(db)
    user = await users.get(db, caller)
    assert user
    assert (user.email, user.name, user.is_active, user.is_admin) == (email, "Ada", True, False)
    assert user.last_login_at is not None
    again = opening()
    with pytest.raises(Refused, match="users_email_key"):
        await auth.register(db, auth.SignUp(email.upper(), None, "other"), again)
    assert await users.get(db, Caller(caller.user_id, again.sid)) is None


async def test_login_wants_the_hash_that_was_verified(db: Database, connection: asyncpg.Connection) -> None:
    caller, email, _ = await registered(db)
    assert await auth.login_read(db, f"x{email}") is None
    known = await auth.login_read(db, email.lower())
    assert known == auth.Known(caller.user_id, "hash", True)
    assert await auth.login(db, caller.user_id, "another", None, opening()) is None
    second = opening()
    user = await auth.login(db, caller.user_id, "hash", "newer hash", second)
    assert user == await users.get(db, Caller(caller.user_id, second.sid))
    assert await users.read_hash(db, caller) == users.Secret(caller.user_id, email, "newer hash")
    await connection.execute("update users set is_active = false where id = $1", caller.user_id)
    assert await auth.login(db, caller.user_id, "newer hash", None, opening()) is None
    known = await auth.login_read(db, email)
    assert known
    assert not known.is_active


async def test_refresh_rotates_once_and_ends_what_is_reused(db: Database) -> None:
    caller, _, first = await registered(db)
    tokens = [first.refresh_hash, *(uuid.uuid4().bytes for _ in range(3))]

    async def refresh(spent: int, next: int, grace: int = 10) -> str:
        found = await auth.refresh(db, auth.Rotation(first.sid, tokens[spent], tokens[next], grace, 60, 600))
        assert found
        return found.verdict

    assert await refresh(0, 1) == "rotate"
    assert await refresh(0, 1) == "again"
    assert await refresh(1, 2) == "rotate"
    assert await refresh(1, 2, grace=0) == "reused"
    assert await refresh(2, 3) == "ended"
    assert await users.get(db, caller) is None
    unknown = auth.Rotation(str(uuid.uuid4()), tokens[0], tokens[1], 10, 60, 600)
    assert await auth.refresh(db, unknown) is None


async def test_sessions_are_listed_and_ended(db: Database, stranger: Caller) -> None:
    caller, _, _ = await registered(db)
    others = [opening() for _ in range(3)]
    for one in others:
        await auth.login(db, caller.user_id, "hash", None, one)
    sids = [one.sid for one in others]
    sessions = await auth.list_sessions(db, caller)
    assert sessions
    assert {str(session.id) for session in sessions} == {caller.sid, *sids}
    assert [str(session.id) for session in sessions if session.current] == [caller.sid]
    assert {(session.ip, session.user_agent) for session in sessions} == {("::1", "pytest")}
    assert await auth.end_session(db, stranger, sids[0]) == "absent"
    assert await auth.end_session(db, caller, sids[0]) == "done"
    assert await auth.end_session(db, caller, sids[0]) == "absent"
    assert await auth.logout(db, Caller(caller.user_id, sids[1])) == "done"
    left = await auth.list_sessions(db, caller)
    assert left
    assert {str(session.id) for session in left} == {caller.sid, sids[2]}
    assert await auth.logout_all(db, caller) == "done"
    assert await auth.list_sessions(db, Caller(caller.user_id, sids[2])) is None
    assert await auth.logout(db, caller) is None


def foreign(user_id: str, issued: int) -> auth.Foreign:
    return auth.Foreign(str(uuid.uuid4()), user_id, "pytest", "::1", issued, issued + 900)


async def test_a_session_is_opened_for_a_token_of_a_provider(
    db: Database, connection: asyncpg.Connection
) -> None:
    now = int(time.time())
    who = await someone(connection)
    token = foreign(who, now)
    caller = Caller(who, token.sid)
    for _ in range(2):  # every instance that sees the token does so
        assert await auth.open_session(db, token) == "done"
    sessions = await auth.list_sessions(db, caller)
    assert sessions
    (session,) = sessions
    assert (str(session.id), session.user_agent, session.ip) == (token.sid, "pytest", "::1")
    assert session.expires_at.timestamp() == now + 900
    assert await auth.refresh(db, auth.Rotation(token.sid, b"", b"next", 10, 60, 600)) is not None
    assert await auth.logout(db, caller) == "done"
    assert await auth.open_session(db, token) == "done"
    assert await users.get(db, caller) is None


async def test_no_session_is_opened_for_others(db: Database, connection: asyncpg.Connection) -> None:
    now = int(time.time())
    local, _, _ = await registered(db)
    inactive = await someone(connection, is_active=False)
    refused = await someone(connection)
    await connection.execute(
        "update user_state set tokens_valid_from = to_timestamp($2::float8) where user_id = $1",
        refused,
        now + 0.5,
    )
    for who in (local.user_id, inactive, refused, uuid.uuid4().hex):
        token = foreign(who, now)
        assert await auth.open_session(db, token) is None
        assert await users.get(db, Caller(who, token.sid)) is None
    assert await auth.open_session(db, foreign(refused, now + 1)) == "done"


async def test_a_session_opened_amid_a_logout_of_all_ends_too(
    db: Database, connection: asyncpg.Connection
) -> None:
    """Even one that commits while the logout waits for its lock, which its statement cannot see."""
    now = int(time.time())
    who = await someone(connection)
    first, meanwhile = foreign(who, now), foreign(who, now - 1)
    assert await auth.open_session(db, first) == "done"
    transaction = connection.transaction()
    await transaction.start()
    opened = astuple(meanwhile)
    assert await connection.fetchval(auth.OPEN_SESSION.sql, *opened) == "done"
    leaving = asyncio.create_task(auth.logout_all(db, Caller(who, first.sid)))
    await waited_for(connection)
    await transaction.commit()
    assert await leaving == "done"
    live = "select count(*) from sessions where user_id = $1 and revoked_at is null"
    assert await connection.fetchval(live, who) == 0


async def test_a_token_first_seen_amid_a_logout_of_all_is_refused(
    db: Database, connection: asyncpg.Connection
) -> None:
    now = int(time.time())
    who = await someone(connection)
    first = foreign(who, now)
    assert await auth.open_session(db, first) == "done"
    transaction = connection.transaction()
    await transaction.start()
    assert await connection.fetchval(auth.LOGOUT_ALL.sql, who, first.sid) == "done"
    opening = asyncio.create_task(auth.open_session(db, foreign(who, now - 1)))
    await waited_for(connection)
    await transaction.commit()
    assert await opening is None


async def waited_for(connection: asyncpg.Connection) -> None:
    """Wait until a statement waits for this connection's transaction."""
    sql = "select exists (select from pg_locks where not granted and pg_backend_pid() = any(pg_blocking_pids(pid)))"
    async with asyncio.timeout(30):
        while not await connection.fetchval(sql):
            await asyncio.sleep(0.01)


async def test_an_account_is_changed_where_the_hash_still_holds(db: Database) -> None:
    caller, email, _ = await registered(db)
    _, taken, _ = await registered(db)
    before = await users.get(db, caller)
    assert before
    for same in (users.Changes(), users.Changes(name="Ada"), users.Changes(email=email)):
        assert await users.update(db, caller, same, None) == users.Outcome("same", before)
    new = f"new{email}"
    moved = await users.update(db, caller, users.Changes(email=new), "another")
    assert moved == users.Outcome("moved", before)
    with pytest.raises(Refused, match="users_email_key"):
        await users.update(db, caller, users.Changes(email=taken.upper()), "hash")
    done = await users.update(db, caller, users.Changes(name=None, email=new), "hash")
    assert done
    assert (done.verdict, done.user.name, done.user.email) == ("done", None, new)
    assert done.user.updated_at > before.updated_at
    assert await users.get(db, caller) == done.user


async def test_a_new_password_ends_the_other_sessions(db: Database) -> None:
    caller, _, _ = await registered(db)
    other = opening()
    await auth.login(db, caller.user_id, "hash", None, other)
    assert await users.change_password(db, caller, "another", "new") == "moved"
    assert await users.get(db, Caller(caller.user_id, other.sid)) is not None
    assert await users.change_password(db, caller, "hash", "new") == "done"
    assert await users.get(db, Caller(caller.user_id, other.sid)) is None
    secret = await users.read_hash(db, caller)
    assert secret
    assert secret.password_hash == "new"


async def test_a_user_is_deleted_where_the_hash_still_holds(
    db: Database, connection: asyncpg.Connection
) -> None:
    caller, email, _ = await registered(db)
    await tasks.create(db, caller, Draft("t", None, "pending", 3, None))
    assert await users.delete(db, caller, "another") == "moved"
    assert await users.get(db, caller) is not None
    assert await users.delete(db, caller, "hash") == "done"
    assert not any((await contents(connection, caller.user_id)).values())
    assert await auth.login_read(db, email) is None
    assert await users.delete(db, caller, "hash") is None


async def test_a_user_of_an_identity_provider_has_no_password(
    db: Database, connection: asyncpg.Connection
) -> None:
    caller = await signed_in(connection, await someone(connection))
    secret = await users.read_hash(db, caller)
    assert secret
    assert secret.password_hash is None
    assert await auth.login(db, caller.user_id, "", None, opening()) is None
    assert await users.change_password(db, caller, "", "new") == "moved"
    assert await users.delete(db, caller, "") == "moved"
