"""Databases on their way up and down: migrations run as users and developers run them."""

import asyncio
import os
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from click.testing import CliRunner

from db import catalogue
from service.migrate import migrate
from tests.db.hands import connected

ROOT = Path(__file__).parents[2]
ADVISORY_LOCK = int.from_bytes(b"migrate")
SCRIPTS = list(ScriptDirectory(str(ROOT / "migrations")).walk_revisions())[::-1]
REVISIONS = [script.revision for script in SCRIPTS]
HEAD = REVISIONS[-1]

# A row or more in every table, and every column filled somewhere.
ROWS = """
insert into users (id, email, name, password_hash, is_active, image, last_login_at)
values ('anna', 'Anna@example.com', 'Anna', 'hash', true, 'https://example.com/a.png', now()),
    ('bert', 'bert@example.com', null, null, false, null, null);
insert into sessions (id, user_id, refresh_hash, previous_hash, rotated_at, user_agent, ip, expires_at, revoked_at)
values (gen_random_uuid(), 'anna', 'one', 'two', now(), 'curl', '2001:db8::1', now(), now());
insert into tasks (user_id, title, description, status, completed_at, due_date, deleted_at, import_key)
select case when n % 2 = 0 then 'anna' else 'bert' end, 'task ' || n, 'words',
    case when n % 3 = 0 then 'completed' else 'pending' end, case when n % 3 = 0 then now() end,
    now(), case when n % 5 = 0 then now() end, 'key ' || n
from generate_series(1, 30) n;
delete from tasks where title in ('task 7', 'task 8');
insert into conversations (user_id, title) values ('anna', 'A talk');
insert into messages (conversation_id, user_id, role, content)
select id, user_id, 'user', 'hello' from conversations;
insert into idempotency_keys (user_id, route, key, fingerprint, status, result)
values ('anna', '/tasks', 'key', 'print', 201, '{}');
"""


def environment(url: str) -> dict[str, str]:
    """This process's environment with one database in it."""
    return {k: v for k, v in os.environ.items() if not k.startswith("DATABASE_")} | {"DATABASE_URL": url}


async def roundtrip(url: str, *arguments: str, code: int = 0) -> str:
    """What `roundtrip migrate ARGUMENTS` says; in a thread, because Alembic runs a loop of its own."""
    given = {"DATABASE_URL": url, "DATABASE_URL_UNPOOLED": None, "ENVIRONMENT": None}
    result = await asyncio.to_thread(CliRunner().invoke, migrate, arguments, env=given)
    assert result.exit_code == code, result.output
    return result.output


async def alembic(url: str, verb: str, *arguments: Any, **attributes: Any) -> None:
    """Run one of Alembic's own commands, on the files of the repository or a changed copy of them."""
    folder = attributes.pop("folder", ROOT / "migrations")
    config = Config(attributes={"url": url, **attributes})
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    await asyncio.to_thread(getattr(command, verb), config, *arguments)


async def papers(url: str) -> dict[str, str]:
    """What the papers would say of its schema."""
    return catalogue.render(await catalogue.read(url))


async def rows(url: str) -> dict[str, str]:
    """Every row of every table, as JSON."""
    async with connected(url) as connection:
        return {
            table.name: await connection.fetchval(
                f"select coalesce(jsonb_agg(to_jsonb(t) order by to_jsonb(t)::text), '[]') from {table.name} t"
            )
            for table in await catalogue.tables(connection)
        }
