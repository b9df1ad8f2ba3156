"""`roundtrip seed`: the requirement documents' demo users and tasks, and users by the thousand; for development only."""

import sys
from time import perf_counter

import click

from db import samples
from db import seed as rows
from db.pool import Database
from service import command
from service.settings import Settings

DEMO = "test-user-123"
# Test123! and Admin123! as service.passwords hashes them: no secrets, and no half second at every start.
TEST = "$argon2id$v=19$m=19456,t=2,p=1$t7g31Vqy2NGE0+u7YPuU0Q$BwDlAEbIIxYVbEDq2AD/zxXR60phjMGaTrq5IAp1lfg"
ADMIN = "$argon2id$v=19$m=19456,t=2,p=1$Ca1KfgTayv9R2cxIrJWopQ$+Qy5iY0pDScOIgUMVhPHGHQRRrZ4iASP648SozznAPE"
USERS = (
    ("test-user", "test@example.com", "Test User", TEST, False),
    ("admin-user", "admin@example.com", "Admin", ADMIN, True),
    (DEMO, "demo@example.com", "Demo User", TEST, False),
)
TASKS = (
    ("Buy groceries", "Milk, bread, eggs", False, 3, 1),
    ("Finish project", "Complete Phase II", False, 5, 7),
    ("Call dentist", "Schedule appointment", True, 3, None),
    ("Read book", "Atomic Habits", False, 2, None),
    ("Exercise", "30 min cardio", True, 4, None),
)
PASSWORDS = {TEST: "Test123!", ADMIN: "Admin123!"}
ENOUGH = 10_000  # rows that the planner should hear of at once


@click.command(name="seed")
@click.option(
    "--users", type=click.IntRange(1), metavar="N", help="Make N more users: user000001@example.com and on."
)
@click.option(
    "--tasks-per-user", type=click.IntRange(0), metavar="M", help="Tasks of each of them.  [default 100]"
)
@click.option(
    "--seed",
    "generator",
    type=int,
    help="Of the random generator: the same gives the same tasks.  [default 1]",
)
def seed(users: int | None, tasks_per_user: int | None, generator: int | None) -> None:
    """Make demo users and tasks, in development only.

    On its own those that `roundtrip serve` makes too, as far as they are missing: test@example.com, admin@example.com,
    and demo@example.com with five tasks. With --users as many others, by COPY; another run goes on with the next number.
    """
    if users is None:
        if tasks_per_user is not None or generator is not None:
            raise click.UsageError("--tasks-per-user and --seed belong to --users")
        command.run(_demo)
    else:
        each = 100 if tasks_per_user is None else tasks_per_user
        number = 1 if generator is None else generator
        command.run(lambda db, settings: _bulk(db, settings, users, each, number))


async def demo(db: Database) -> dict[str, bool]:
    """Make the demo users that are missing, and the five tasks of the one who has them; which of them were made."""
    made = {}
    async with db.transaction() as whole:
        for id, email, name, password_hash, is_admin in USERS:
            made[email] = await rows.user(whole, id, email, name, password_hash, is_admin)
            if made[email] and id == DEMO:
                for title, description, completed, priority, due_in_days in TASKS:
                    await rows.task(whole, id, title, description, completed, priority, due_in_days)
    return made


async def _demo(db: Database, settings: Settings) -> None:
    command.development_only(settings, "roundtrip seed")
    made = await demo(db)
    for id, email, _, password_hash, is_admin in USERS:
        more = ", an administrator" if is_admin else f", {len(TASKS)} tasks" if id == DEMO else ""
        click.echo(
            f"{'made ' if made[email] else 'there'}  {email}, password {PASSWORDS[password_hash]}{more}"
        )


async def _bulk(db: Database, settings: Settings, users: int, each: int, generator: int) -> None:
    command.development_only(settings, "roundtrip seed")
    start = await rows.start(db)
    loads = ((start.last + n, each) for n in range(1, users + 1))
    total = users * (1 + each)
    began = perf_counter()
    with click.progressbar(length=total, label=f"Making {total:,} rows", file=sys.stderr) as bar:
        async for made in rows.bulk(db, loads, TEST, start.now, seed=generator):
            bar.update(made)
    took = perf_counter() - began
    if total >= ENOUGH:
        await rows.analyze(db)
    click.echo(
        f"{total:,} rows ({users:,} users, {users * each:,} tasks) in {took:.1f} s: {total / took:,.0f} rows/s; "
        f"log in as {samples.email(start.last + 1)} with {PASSWORDS[TEST]}"
    )
