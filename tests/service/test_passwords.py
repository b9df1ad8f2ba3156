"""Hashing passwords, which of them are taken, and how often somebody may guess."""

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Any

import argon2
import bcrypt
import pytest

from service import passwords as module
from service import throttle as throttling
from service.errors import Problem
from service.passwords import LONGEST, Passwords, check, fault
from service.throttle import Throttle, network

CORES = os.cpu_count() or 1
GOOD = "correct horse battery"


def argon(password: str, **changes: Any) -> str:
    """A hash with other parameters than ours."""
    ours: dict[str, Any] = {
        "time_cost": 2,
        "memory_cost": 19 * 1024,
        "parallelism": 1,
        "type": argon2.Type.ID,
    }
    return argon2.PasswordHasher(**(ours | changes)).hash(password)


def bcrypted(password: str) -> str:
    return bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(4)).decode()


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords(queue=64)
    yield made
    made.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """No hash is computed before this is set."""
    event = threading.Event()
    verify = module._verify

    def patient(stored: str, password: str) -> bool:
        assert event.wait(30)
        return verify(stored, password)

    monkeypatch.setattr(module, "_verify", patient)
    yield event
    event.set()


async def test_hashes_are_argon2id_as_owasp_asks(passwords: Passwords) -> None:
    first, second = await passwords.hash(GOOD), await passwords.hash(GOOD)
    for stored in (first, second):
        found = argon2.extract_parameters(stored)
        assert found.type is argon2.Type.ID
        assert (found.time_cost, found.memory_cost, found.parallelism) == (2, 19 * 1024, 1)
        assert (found.salt_len, found.hash_len) == (16, 32)
    assert first != second


@pytest.mark.parametrize(
    "password", [GOOD, "  spaces  ", "пароль-пароль", "🐎🔋🐎🔋🐎🔋🐎🔋", "é" * LONGEST, "\t\n tab\n"]
)
async def test_any_unicode_and_nothing_is_trimmed(passwords: Passwords, password: str) -> None:
    stored = await passwords.hash(password)
    assert await passwords.verify(stored, password)
    for other in (password + " ", password[:-1], password.strip() + "x", password.swapcase() + "1", ""):
        assert not await passwords.verify(stored, other)


async def test_bcrypt_is_verified_to_its_72_bytes(passwords: Passwords) -> None:
    for password in (GOOD, "ü" * 60):
        stored = bcrypted(password)
        assert await passwords.verify(stored, password)
        assert not await passwords.verify(stored, "x" + password[1:])


@pytest.mark.parametrize("stored", ["", "no hash", "$2b$04$short", "$2", "$argon2id$v=19$m=1", "$argon2id$"])
async def test_what_is_no_hash_fits_nothing(passwords: Passwords, stored: str) -> None:
    assert not await passwords.verify(stored, GOOD)


async def test_who_has_no_hash_is_verified_all_the_same(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def agreeable(stored: str, _: str) -> bool:
        seen.append(stored)
        return True

    monkeypatch.setattr(module, "_verify", agreeable)
    assert not await passwords.verify(None, GOOD)
    found = argon2.extract_parameters(seen[0])
    assert (found.time_cost, found.memory_cost) == (2, 19 * 1024)
    assert passwords.verifications == 1


@pytest.mark.parametrize("make", [argon, bcrypted])
async def test_an_over_long_password_is_cut_before_hashing_and_never_right(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    longest = "a" * LONGEST
    stored = make(longest)
    seen: list[int] = []
    verify = module._verify

    def watched(stored: str, password: str) -> bool:
        seen.append(len(password))
        return verify(stored, password)

    monkeypatch.setattr(module, "_verify", watched)
    assert await passwords.verify(stored, longest)
    assert not await passwords.verify(stored, longest + "a")
    assert not await passwords.verify(stored, longest + "a" * 1_000_000)
    assert seen == [LONGEST] * 3


def test_weaker_hashes_are_outdated_and_stronger_ones_are_not() -> None:
    weaker = {
        "bcrypt": bcrypted(GOOD),
        "passes": argon(GOOD, time_cost=1),
        "memory": argon(GOOD, memory_cost=8 * 1024),
        "salt": argon(GOOD, salt_len=8),
        "length": argon(GOOD, hash_len=16),
        "argon2i": argon(GOOD, type=argon2.Type.I),
        "argon2d": argon(GOOD, type=argon2.Type.D),
    }
    assert [name for name, stored in weaker.items() if not Passwords.outdated(stored)] == []
    for stored in (argon(GOOD), argon(GOOD, time_cost=3), argon(GOOD, memory_cost=64 * 1024, parallelism=4)):
        assert not Passwords.outdated(stored)


async def test_the_queue_is_bounded_and_the_loop_goes_on(gate: threading.Event) -> None:
    passwords = Passwords(queue=3)
    tries = [asyncio.create_task(passwords.verify(None, GOOD)) for _ in range(CORES + 3 + 20)]
    async with asyncio.timeout(10):
        while sum(task.done() for task in tries) < 20:
            await asyncio.sleep(0)
    gate.set()
    answers = await asyncio.gather(*tries, return_exceptions=True)
    refused = [answer for answer in answers if answer is not False]
    assert len(refused) == 20
    for problem in refused:
        assert isinstance(problem, Problem)
        assert (problem.status, problem.headers["Retry-After"]) == (503, "2")
    assert await passwords.verify(await passwords.hash(GOOD), GOOD)  # the places are free again
    passwords.close()


async def test_as_many_at_once_as_cores_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords(queue=2 * CORES)
    hold = threading.Event()
    begun: list[str] = []

    def verify(*_: str) -> bool:
        begun.append(threading.current_thread().name)
        return hold.wait(30)

    monkeypatch.setattr(module, "_verify", verify)
    tries = [asyncio.create_task(passwords.verify("stored", GOOD)) for _ in range(3 * CORES)]
    async with asyncio.timeout(10):
        while len(begun) < CORES:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)  # one too many would have begun by now
    assert len(begun) == CORES
    hold.set()
    assert all(await asyncio.gather(*tries))
    assert all(name.startswith("password") for name in begun)
    passwords.close()


@pytest.mark.parametrize("password", ["12345678", "password", "PassWord1", "qwertyuiop", "iloveyou1"])
def test_common_passwords_are_refused(password: str) -> None:
    assert fault(password) == "is one of the most common passwords; choose another"


@pytest.mark.parametrize("password", ["", "1234567", "ééééééé", "x" * 129, "x" * 60_000])
def test_length_is_counted_in_characters(password: str) -> None:
    assert fault(password) == "must have 8 to 128 characters"
    with pytest.raises(Problem) as caught:
        check(password, "/here")
    assert caught.value.status == 422
    assert [error.pointer for error in caught.value.errors] == ["/here"]


@pytest.mark.parametrize(
    "password", [GOOD, "ééééééé8", "x7" * 64, "🐎" * 128, "        x", "Test123!", "Admin123!"]
)
def test_others_are_taken(password: str) -> None:
    assert fault(password) is None
    check(password, "/password")


class Clock:
    """A clock that goes when it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> Throttle:
    return Throttle(on=True, clock=clock)


def wait(throttle: Throttle, account: str = "ada", address: str = "10.0.0.1") -> int:
    """The seconds to wait before a guess, 0 where it is counted."""
    try:
        throttle.guess(account, address)
    except Problem as problem:
        return int(problem.headers["Retry-After"])
    return 0


def guesses(throttle: Throttle, **who: str) -> int:
    """How many more are allowed now."""
    return next(n for n in range(10_000) if wait(throttle, **who))


def test_guesses_are_counted_by_account_and_address(throttle: Throttle) -> None:
    assert guesses(throttle) == 20
    assert wait(throttle, address="10.0.0.2") == 0  # the owner, elsewhere
    assert wait(throttle, account="eve") == 0


def test_an_address_has_a_limit_over_all_accounts(throttle: Throttle) -> None:
    assert next(n for n in range(300) if wait(throttle, f"user{n}")) == 200
    with pytest.raises(Problem) as caught:
        throttle.guess("ada", "10.0.0.1")
    assert caught.value.status == 429
    assert wait(throttle, address="10.0.0.2") == 0


def test_whoever_knew_the_password_is_not_counted(throttle: Throttle) -> None:
    for _ in range(19):
        throttle.guess("ada", "10.0.0.1")
    throttle.succeeded("ADA", "10.0.0.1")
    assert guesses(throttle) == 20
    for n in range(500):  # a whole office behind one address
        throttle.guess(f"user{n}", "10.0.0.2")
        throttle.succeeded(f"user{n}", "10.0.0.2")


def test_after_the_wait_it_told_a_guess_is_counted_again(throttle: Throttle, clock: Clock) -> None:
    for _ in range(20):
        clock.now += 20
        assert wait(throttle) == 0
    for _ in range(30):
        seconds = wait(throttle)
        assert 0 < seconds <= 2 * 15 * 60
        clock.now += seconds - 2
        assert wait(throttle) > 0
        clock.now += 2
        assert wait(throttle) == 0


def test_the_rate_holds_over_any_time(throttle: Throttle, clock: Clock) -> None:
    taken = []
    for _ in range(4 * 900):
        clock.now += 1
        if wait(throttle) == 0:
            taken.append(clock.now)
    assert len(taken) <= 5 * 20
    assert all(later - earlier > 400 for earlier, later in zip(taken, taken[21:], strict=False))


def test_all_is_forgotten_after_a_long_pause(throttle: Throttle, clock: Clock) -> None:
    assert guesses(throttle) == 20
    clock.now += 2 * 15 * 60
    assert guesses(throttle) == 20


@pytest.mark.parametrize("spelling", ["ADA@x", "aDa@X", "ADA@X", "Ada@x"])
def test_spellings_of_an_account_are_one(throttle: Throttle, spelling: str) -> None:
    assert guesses(throttle, account="ada@x") == 20
    assert wait(throttle, spelling) > 0


def test_letters_are_compared_as_the_database_does(throttle: Throttle) -> None:
    assert guesses(throttle, account="kim@x") == 20
    assert wait(throttle, "KİM@x") > 0  # the Turkish capital; PostgreSQL's lower() makes it a plain i
    assert wait(throttle, "\u212aim@x") > 0  # the Kelvin sign


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_an_ipv6_address_stands_for_its_64(address: str, counted: str) -> None:
    assert network(address) == counted


def test_sign_ups_are_counted_by_address(throttle: Throttle, clock: Clock) -> None:
    for _ in range(100):
        throttle.sign_up("2001:db8::1")
    with pytest.raises(Problem) as caught:
        throttle.sign_up("2001:db8::2")
    assert caught.value.status == 429
    throttle.sign_up("2001:db8:1::1")
    clock.now += int(caught.value.headers["Retry-After"])
    throttle.sign_up("2001:db8::2")


def test_memory_is_bounded(throttle: Throttle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttling, "MAX_KEYS", 50)
    for n in range(1000):
        throttle.guess("x" * 60_000, f"10.0.{n // 250}.{n % 250}")
    for window in (throttle._guesses, throttle._guesses_of_address):
        assert len(window._now) + len(window._before) <= 100
        assert max(map(len, window._now)) < 300
    assert guesses(throttle, account="x" * 60_000, address="10.0.3.249") == 19


def test_it_can_be_turned_off(clock: Clock) -> None:
    off = Throttle(on=False, clock=clock)
    for _ in range(1000):
        off.guess("ada", "10.0.0.1")
        off.sign_up("10.0.0.1")
    off.succeeded("ada", "10.0.0.1")
