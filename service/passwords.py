"""Passwords: argon2id, off the event loop, as many at once as there are cores, with a bounded queue.

Parameters are those of the OWASP Password Storage Cheat Sheet (t=2, m=19 MiB, p=1): the library's default took five
times as long under load, and a login must not cost the reads of everybody else.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.resources import files
from typing import TypeVar

import argon2
import bcrypt

from service.errors import Fault, Problem

SHORTEST, LONGEST = 8, 128
T = TypeVar("T")

_HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, type=argon2.Type.ID)


class Passwords:
    """Hashes and verifies; raises a 503 `Problem` where `queue` passwords wait already."""

    def __init__(self, queue: int) -> None:
        self.verifications = 0
        cores = os.cpu_count() or 1
        self._room = cores + queue
        self._under_way = 0
        self._threads = ThreadPoolExecutor(cores, thread_name_prefix="password")

    async def hash(self, password: str) -> str:
        """The argon2id hash of a password, in PHC form."""
        return await self._off_loop(lambda: _HASHER.hash(password))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether a password is the one behind a stored hash, argon2id or bcrypt.

        Without a stored hash one verification is done all the same: who has no account takes as long.
        """
        self.verifications += 1
        short = password[:LONGEST]  # none is longer: one that is takes as long and is never right
        right = await self._off_loop(lambda: _verify(stored or _nobody(), short))
        return right and stored is not None and short == password

    @staticmethod
    def outdated(stored: str) -> bool:
        """Whether a hash is weaker than what `hash` makes now."""
        if not stored.startswith("$argon2id$"):
            return True
        theirs, ours = argon2.extract_parameters(stored), argon2.extract_parameters(_nobody())
        return any(
            getattr(theirs, field) < getattr(ours, field)
            for field in ("version", "time_cost", "memory_cost", "salt_len", "hash_len")
        )

    def close(self) -> None:
        """Let those under way finish."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _off_loop(self, work: Callable[[], T]) -> T:
        if self._under_way >= self._room:
            raise Problem(
                503, "Too many people are signing in; try again shortly.", headers={"Retry-After": "2"}
            )
        self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._under_way -= 1


def fault(password: str) -> str | None:
    """Why a new password is refused, or None. Any Unicode is welcome and nothing is trimmed."""
    if not SHORTEST <= len(password) <= LONGEST:
        return f"must have {SHORTEST} to {LONGEST} characters"
    if password.casefold() in _common():
        return "is one of the most common passwords; choose another"
    return None


def check(password: str, pointer: str) -> None:
    """Raise a 422 `Problem` for a new password that is refused."""
    if detail := fault(password):
        raise Problem(422, "The password cannot be taken.", errors=[Fault(detail, pointer=pointer)])


def _verify(stored: str, password: str) -> bool:
    if stored.startswith("$2"):
        try:
            return bcrypt.checkpw(password.encode()[:72], stored.encode())
        except ValueError:
            return False
    try:
        return _HASHER.verify(stored, password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


@cache
def _nobody() -> str:
    return _HASHER.hash("nobody has this password")


@cache
def _common() -> frozenset[str]:
    return frozenset(files("service").joinpath("common_passwords.txt").read_text("utf-8").split("\n"))
