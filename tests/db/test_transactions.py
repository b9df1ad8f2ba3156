"""Several statements, all of them or none."""

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import replace
from struct import pack

import asyncpg
import pytest

from db import seed, statements
from db.errors import Denied, Refused, Unavailable, Unstorable
from db.pool import Database

USER = seed.USER
COUNT = statements.Statement(
    "test.count", "select count(*) from users where id = any($1)", "read", (), (), "", ""
)
SLEEP = statements.Statement("test.sleep", "select pg_sleep(30)", "read", (), (), "", "")
END = statements.Statement(
    "test.end", "select pg_terminate_backend(pg_backend_pid())", "read", (), (), "", ""
)


def person() -> tuple[str, str, str, str, bool]:
    name = uuid.uuid4().hex
    return name, f"{name}@example.com", name, "", False


async def there(db: Database, *people: tuple[str, str, str, str, bool]) -> int:
    row = await db.one(COUNT, [id for id, *_ in people])
    assert row is not None
    return int(row[0])


async def test_all_of_it_is_committed_where_the_block_ends(db: Database) -> None:
    a, b = person(), person()
    async with db.transaction() as whole:
        await whole.one(USER, *a)
        await whole.all(USER, *b)
        assert await there(db, a, b) == 0
    assert await there(db, a, b) == 2


async def test_an_exception_undoes_all_of_it(db: Database) -> None:
    a = person()
    with pytest.raises(OSError, match="disk"):
        async with db.transaction() as whole:
            await whole.one(USER, *a)
            raise OSError("the disk is full")
    assert await there(db, a) == 0


async def test_a_savepoint_is_undone_alone(db: Database) -> None:
    a, b, c = person(), person(), person()
    async with db.transaction() as whole:
        await whole.one(USER, *a)
        with pytest.raises(KeyError):
            async with whole.transaction() as part:
                await part.one(USER, *b)
                raise KeyError
        async with whole.transaction() as part:
            await part.one(USER, *c)
    assert [await there(db, who) for who in (a, b, c)] == [1, 0, 1]


async def test_parts_within_parts_are_undone_alone(db: Database) -> None:
    a, b, c, d = (person() for _ in range(4))
    async with db.transaction() as whole, whole.transaction() as part:
        await part.one(USER, *a)
        with pytest.raises(KeyError):
            async with part.transaction() as inner:
                await inner.one(USER, *b)
                async with inner.transaction() as innermost:
                    await innermost.one(USER, *c)
                raise KeyError
        await part.one(USER, *d)
    assert [await there(db, who) for who in (a, b, c, d)] == [1, 0, 0, 1]


async def test_all_of_it_sees_the_database_as_the_first_did(db: Database) -> None:
    a, b = person(), person()
    for isolation, seen in (("repeatable_read", 0), (None, 1)):
        async with db.transaction(isolation) as whole:  # type: ignore[arg-type]
            row = await whole.one(COUNT, [a[0], b[0]])
            assert row is not None
            before = row[0]
            await db.one(USER, *(a if isolation else b))
            row = await whole.one(COUNT, [a[0], b[0]])
            assert row is not None
            assert row[0] - before == seen


async def test_what_the_role_may_not_do_is_denied(db: Database) -> None:
    secret = statements.Statement("test.secret", "select 1 from secret", "read", (), (), "", "")
    with pytest.raises(Denied, match=r"test\.secret: InsufficientPrivilegeError: permission denied"):
        async with db.transaction() as whole:
            await whole.one(replace(secret, sql="create table secret ()"))
            await whole.one(replace(secret, sql="create role nobody_at_all"))
            await whole.one(replace(secret, sql="set local role nobody_at_all"))
            await whole.one(secret)


async def test_a_refusal_names_its_constraint_and_a_savepoint_survives_it(db: Database) -> None:
    a = person()
    async with db.transaction() as whole:
        await whole.one(USER, *a)
        with pytest.raises(Refused, match="tasks_title_length"):
            async with whole.transaction() as part:
                await part.copy("tasks", ["user_id", "title"], [(a[0], "fine"), (a[0], " ")])
        assert await whole.copy("tasks", ["user_id", "title"], [(a[0], "fine"), (a[0], "too")]) == 2
    assert await there(db, a) == 1


async def test_a_copy_of_encoded_rows_is_refused_or_broken_off_as_any_other(db: Database) -> None:
    a = person()
    fine, blank = (
        pack("!hi32si", 2, 32, a[0].encode(), len(title)) + title.encode() for title in ("fine", " ")
    )

    def broken() -> Iterator[bytes]:
        yield from [fine] * 2500
        raise LookupError

    async with db.transaction() as whole:
        await whole.one(USER, *a)
        with pytest.raises(Refused, match="tasks_title_length"):
            async with whole.transaction() as part:
                await part.copy_encoded("tasks", ["user_id", "title"], [fine, blank])
        with pytest.raises(Unstorable):
            async with whole.transaction() as part:
                await part.copy_encoded("tasks", ["user_id", "title"], [fine, fine[:-1]])
        with pytest.raises(LookupError):
            async with whole.transaction() as part:
                await part.copy_encoded("tasks", ["user_id", "title"], broken())
        assert await whole.copy_encoded("tasks", ["user_id", "title"], [fine] * 2500) == 2500
        assert await whole.copy_encoded("tasks", ["user_id", "title"], []) == 0
    assert await there(db, a) == 1


async def test_a_block_that_goes_on_after_a_failure_is_told_that_nothing_was_committed(db: Database) -> None:
    """The server answers such a COMMIT with ROLLBACK, and with no error."""
    a = person()
    with pytest.raises(RuntimeError, match="nothing was committed"):
        async with db.transaction() as whole:
            await whole.one(USER, *a)
            with pytest.raises(Refused):
                await whole.copy("tasks", ["user_id", "title"], [(a[0], " ")])
    assert await there(db, a) == 0


async def test_nothing_is_sent_after_the_end(db: Database) -> None:
    a = person()
    async with db.transaction() as done:
        pass
    with pytest.raises(KeyError):
        async with db.transaction() as undone:
            raise KeyError
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), db.transaction() as given_up:
            await given_up.one(SLEEP)
    for over in (done, undone, given_up):
        with pytest.raises(RuntimeError, match="has ended"):
            await over.one(USER, *a)
        with pytest.raises(RuntimeError, match="has ended"):
            async with over.transaction():
                pytest.fail("a part of nothing")
    assert await there(db, a) == 0


@pytest.mark.parametrize("state", ["40P01", "40001", "53100", "57014"])
async def test_what_the_server_undid_is_unavailable_at_once(db: Database, state: str) -> None:
    fail = f"do $$ begin raise exception 'no' using errcode = '{state}'; end $$"
    undone = statements.Statement("test.undone", fail, "write", (), (), "", "")
    a, b = person(), person()
    async with db.transaction() as whole:
        await whole.one(USER, *a)
        with pytest.raises(Unavailable, match=r"test\.undone"):
            async with whole.transaction() as part:
                await part.one(USER, *b)
                await part.one(undone)
    assert [await there(db, who) for who in (a, b)] == [1, 0]


async def test_cancellation_undoes_all_of_it_and_frees_the_connection(db: Database) -> None:
    a, started = person(), asyncio.Event()

    async def work() -> None:
        async with db.transaction() as whole:
            await whole.one(USER, *a)
            started.set()
            await whole.one(SLEEP)

    task = asyncio.create_task(work())
    await started.wait()
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await there(db, a) == 0
    await asyncio.gather(*(there(db, a) for _ in range(db.options.size)))  # every place is free again


async def test_a_lost_connection_is_unavailable_and_undoes_all_of_it(db: Database) -> None:
    a = person()
    with pytest.raises(Unavailable):
        async with db.transaction() as whole:
            await whole.one(USER, *a)
            await whole.one(END)
    assert await there(db, a) == 0
    async with db.transaction() as whole:
        await whole.one(USER, *a)
    assert await there(db, a) == 1


async def test_pages_hold_no_more_rows_than_asked_for(db: Database) -> None:
    numbers = statements.Statement("test.numbers", "select generate_series(1, 2500)", "read", (), (), "", "")
    async with db.transaction() as whole:
        sizes = [len(rows) async for rows in whole.pages(numbers, size=1000)]
    assert sizes == [1000, 1000, 500]


async def test_a_mistake_of_ours_passes_as_it_is(db: Database) -> None:
    wrong = statements.Statement("test.wrong", "select nowhere", "read", (), (), "", "")
    with pytest.raises(asyncpg.UndefinedColumnError):
        async with db.transaction() as whole:
            await whole.one(wrong)
