"""`roundtrip purge`: what is past its retention goes for good."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import click

from db import purge as rows
from db.pool import Database
from service import command
from service.ages import Age, older_than
from service.progress import Progress

# The places before the first row of each kind.
PAIR, ID, TRIPLE = '["", 0]', '["00000000-0000-0000-0000-000000000000"]', '["", "", ""]'
PAUSE = 0.05  # seconds until the next try, where another purge has its turn
Batch: TypeAlias = Callable[[str], Awaitable[rows.Batch]]


@click.command()
@older_than("1h", "The retention.", required=True)
@click.option("--dry-run", is_flag=True, help="Count what would go, and change nothing.")
def purge(age: Age, dry_run: bool) -> None:
    """Remove for good what is past its retention.

    Tasks that have been in the trash for longer are erased, and clients that sync are told so. Records of tasks that were
    erased longer ago are dropped: a client that has not synced since then starts again from 0. Sessions that ended or
    expired longer ago are dropped. Idempotency keys are dropped after 24 hours, whatever AGE is.

    It works in small transactions that keep nobody waiting. It may be killed at any point, run again, and run twice at
    once.
    """
    command.run(lambda db, _: run(db, age, dry_run=dry_run))


async def run(db: Database, age: Age, *, dry_run: bool) -> None:
    """Count, remove and tell."""
    due = await rows.count(db, age.seconds)
    if not dry_run:
        await _remove(db, due)
    click.echo(f"""\
{"Would remove" if dry_run else "Removed"} what is older than {age.text}, from before {due.before:%Y-%m-%dT%H:%M:%SZ}:
{due.tasks:>12,}  tasks in the trash
{due.tombstones:>12,}  tombstones of erased tasks
{due.sessions:>12,}  sessions that are over
{due.keys:>12,}  idempotency keys, older than 24h""")


async def _remove(db: Database, due: rows.Due) -> None:
    """Remove what is due, and put what went in the place of what was due."""
    before, keys_before = due.before, due.keys_before

    def tasks(lock: rows.Lock) -> Batch:
        return lambda place: rows.tasks(db, lock, before, place)

    def tombstones(lock: rows.Lock) -> Batch:
        return lambda place: rows.tombstones(db, lock, before, place)

    due.tasks = await _with_users("tasks", due.tasks, tasks)
    due.tombstones = await _with_users("tombstones", due.tombstones, tombstones)
    with Progress("sessions", due.sessions) as progress:
        due.sessions, _ = await _walk(lambda place: rows.sessions(db, before, place), ID, progress)
    with Progress("idempotency keys", due.keys) as progress:
        due.keys, _ = await _walk(lambda place: rows.keys(db, keys_before, place), TRIPLE, progress)


async def _with_users(what: str, total: int, batch: Callable[[rows.Lock], Batch]) -> int:
    """Remove what changes its user's state: first of users whom nobody is writing to, then of those who were passed by."""
    with Progress(what, total) as progress:
        removed, passed_by = await _walk(batch("free"), PAIR, progress)
        if passed_by:
            late, _ = await _walk(batch("busy"), PAIR, progress)
            removed += late
    return removed


async def _walk(batch: Batch, first: str, progress: Progress) -> tuple[int, int]:
    """All batches of a kind; how many rows were removed, and how many passed by."""
    removed = found = 0
    alone = True
    place: str | None = first
    while place is not None:
        done = await batch(place)
        if done.mine:
            removed += done.removed
            found += done.found
            place = done.place
            progress.add(done.removed)
            continue
        if alone:
            click.echo("another purge is at work; they take turns", err=True)
        alone = False
        await asyncio.sleep(PAUSE)
    return removed, found - removed
