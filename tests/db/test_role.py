"""The documented role of the service: enough for every route, and nothing more."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from db.url import parse
from service.app import create_app
from service.settings import Settings
from tests.conftest import run, sign_up, started
from tests.service.retained import roundtrip

README = Path(__file__).parents[2] / "db" / "README.md"


@asynccontextmanager
async def documented(database: str) -> AsyncIterator[str]:
    """The URL of a database for a role that the README's statements made, and that is gone in the end."""
    sql = re.search(r"```sql\n(create role .*?)```", README.read_text(), re.DOTALL)
    assert sql
    role = database.rsplit("/", 1)[1].split("?", maxsplit=1)[0]
    await run(database, sql[1].replace("roundtrip_service", role))
    owner = parse(database)
    try:
        yield f"postgresql://{role}:choose%20one@{owner.host}:{owner.port}/{owner.database}?sslmode=disable"
    finally:
        await run(database, f"drop owned by {role}; drop role {role}")


async def test_the_documented_role_serves_and_cannot_change_the_schema(migrated_database: str) -> None:
    async with documented(migrated_database) as role_url:
        connection = await asyncpg.connect(**parse(role_url).kwargs())
        for ddl in ("create table t ()", "drop table tasks", "alter table tasks add x int", "create role r"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(ddl)
        assert not await connection.fetchval("select rolsuper from pg_roles where rolname = current_user")
        await connection.close()
        settings = Settings(
            database_url=role_url, secret_key="a secret for tests, 32 bytes or more", rate_limits="off"
        )
        async with started(create_app(settings)) as edge:
            transport = httpx.ASGITransport(edge)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                user = await sign_up(client)
                talk = await client.post("/api/v1/conversations", json={}, headers=user.headers)
                url = talk.headers["location"]
                message = {"role": "user", "content": "x"}
                for key in ({}, {"Idempotency-Key": "k"}):
                    said = await client.post(f"{url}/messages", json=message, headers=user.headers | key)
                    assert said.status_code == 201
                assert (await client.delete(url, headers=user.headers)).status_code == 204
                tasks = "/api/v1/tasks"
                made = await client.post(tasks, json={"title": "x"}, headers=user.headers)
                url = f"{tasks}/{made.json()['id']}"
                for method, path, status in [
                    ("GET", tasks, 200),
                    ("POST", f"{url}/toggle", 200),
                    ("DELETE", url, 204),
                    ("POST", f"{url}/restore", 200),
                    ("DELETE", f"{url}?permanent=true", 204),
                    ("POST", "/api/v1/auth/logout-all", 204),
                    ("GET", "/readyz", 200),
                ]:
                    answer = await client.request(method, path, headers=user.headers)
                    assert answer.status_code == status, path
                login = await client.post(
                    "/api/v1/auth/login", json={"email": user.email, "password": user.password}
                )
                headers = {"Authorization": f"Bearer {login.json()['access_token']}"}
                gone = await client.request(
                    "DELETE", "/api/v1/users/me", json={"password": user.password}, headers=headers
                )
                assert gone.status_code == 204


async def test_the_documented_role_purges_and_archives(migrated_database: str, tmp_path: Path) -> None:
    await run(
        migrated_database,
        "insert into users (id, email) values ('a', 'a@example.com');"
        " insert into sessions (id, user_id, refresh_hash, expires_at)"
        " values (gen_random_uuid(), 'a', '', now() - interval '1 year');"
        " insert into idempotency_keys (user_id, route, key, fingerprint, status, created_at)"
        " values ('a', 'r', 'k', '', 201, now() - interval '1 year');"
        " insert into tombstones (user_id, task_id, revision, deleted_at) values ('a', 99, 0, now() - interval '1 year');"
        " insert into tasks (user_id, title, deleted_at) values ('a', 'trash', now() - interval '1 year');"
        " insert into tasks (user_id, title, status, completed_at)"
        " values ('a', 'done', 'completed', now() - interval '2 years')",
    )
    async with documented(migrated_database) as url:
        purged = await roundtrip(url, "purge", "--older-than", "30d")
        assert [line.split()[0] for line in purged.stdout.splitlines()[1:]] == ["1"] * 4, purged.stderr
        file = str(tmp_path / "file")
        archived = await roundtrip(url, "archive", "--to", file)
        assert "Erased 1 of them" in archived.stdout, archived.stderr
        await run(migrated_database, "alter sequence tasks_id_seq restart")
        back = await roundtrip(url, "unarchive", file)
        assert back.stdout == "Brought back 1 task; 0 were there already\n", back.stderr
