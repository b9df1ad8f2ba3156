"""People and tasks that look as if somebody had written them, for development and for measurements.

Tasks come as the bytes of COPY's binary form: values of Python's, encoded one by one, would cost the client twice as much.

What a user has follows from the seed, their number and the time alone, whoever else is made and in whatever order.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from random import Random
from struct import Struct

Row = tuple[object, ...]

USER_COLUMNS = ("id", "email", "name", "password_hash", "created_at", "updated_at")
TASK_COLUMNS = (
    "user_id",
    "title",
    "description",
    "status",
    "priority",
    "due_date",
    "created_at",
    "updated_at",
    "completed_at",
    "deleted_at",
    "revision",
)

FIRST = (
    "Ada Ben Carla Dan Eva Finn Greta Hugo Ida Jan Kim Lea Max Nina Omar Paula Quinn Rosa Sam Tina".split()
)
LAST = "Adler Brandt Castro Dubois Evans Fischer Garcia Hansen Ito Jones Kowalski Lopez Meyer Novak Silva".split()
VERBS = """
    buy call fix plan write review clean book send read update prepare order check pay return pack print cancel renew
    test find move paint sort wash draft schedule measure sell answer collect
""".split()
KINDS = """
    new old monthly weekly small urgent second final missing broken green blue winter summer shared annual spare simple
    first last quick early quiet heavy open next kitchen office garden school family travel
""".split()
THINGS = """
    report invoice letter budget meeting ticket passport bike car roof door window fridge lamp chair table shoes coat gift
    cake bread milk coffee dinner recipe tree fence letterbox phone laptop backup server contract offer slides agenda notes
    survey chapter essay homework exam course lesson piano guitar concert photos album key lock battery filter tyre
    insurance tax visa hotel flight train route map tent
""".split()
JOINS = "before|after|with|without|because of|as soon as there is|instead of|until|next to|about".split("|")
BEGINNINGS = [f"{verb.capitalize()} {kind}" for verb in VERBS for kind in KINDS]

# Of COPY's binary form: each field is its length and the value. Times are microseconds since 2000.
NULL = b"\xff\xff\xff\xff"
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
SECOND = 1_000_000
HOUR = 3600 * SECOND
_columns = Struct("!h").pack
_length = Struct("!i").pack
_smallint = Struct("!ih").pack
_bigint = Struct("!iq").pack

DAY = 86_400.0  # of seconds, as all below
MONTH = 30 * DAY
SPAN = 730 * DAY  # for how long there have been tasks
TOUCHED = 0.8  # of the tasks, since they were made
# What is likelier stands more than once.
RECENTLY = ("pending", "pending", "pending", "in_progress", "completed")
LONG_AGO = ("completed", "completed", "completed", "completed", "in_progress", "pending")
PRIORITIES = (1, 2, 2, 3, 3, 3, 3, 4, 4, 5)
DUE = ("never", "never", "never", "past", "past", "past", "today", "later", "later", "later")
IN_TRASH = (True, *[False] * 19)


def _sentences(count: int) -> list[str]:
    pick = Random("sentences").choice  # noqa: S311 (samples, no secrets)
    return [
        f"{pick(BEGINNINGS)} {pick(THINGS)} {pick(JOINS)} the {pick(KINDS)} {pick(THINGS)}."
        for _ in range(count)
    ]


@cache
def _descriptions() -> list[bytes]:
    """None for half of the tasks, for the others one to three sentences."""
    sentences = _sentences(3000)
    return [NULL] * 1495 + [_text(" ".join(sentences[n : n + 1 + n // 2 % 3])) for n in range(0, 2990, 2)]


def _text(value: str) -> bytes:
    data = value.encode()
    return _length(len(data)) + data


def user_id(number: int) -> str:
    """The id of a user: a UUID by its form, as wide as the ids of those who sign up."""
    return f"{number:08}-0000-4000-8000-5eed5eed5eed"


def email(number: int) -> str:
    """What a user signs in with."""
    return f"user{number:06}@example.com"


def user(number: int, password_hash: str, now: datetime) -> Row:
    """A row of `users`, in the order of `USER_COLUMNS`."""
    name = f"{FIRST[number % len(FIRST)]} {LAST[number // len(FIRST) % len(LAST)]}"
    since = now - timedelta(seconds=SPAN)
    return user_id(number), email(number), name, password_hash, since, since


def tasks(seed: int, number: int, count: int, now: datetime) -> Iterator[bytes]:
    """A user's rows of `tasks` for `Transaction.copy_encoded`, in the order of `TASK_COLUMNS`, the oldest first.

    Their revisions are 1 to `count`, in the order of their last changes. Drawn by columns, which takes half as long as by
    rows.
    """
    random = Random(f"{seed} {number}")  # noqa: S311 (samples, no secrets)
    draw, choices = random.random, random.choices
    head = _columns(len(TASK_COLUMNS)) + _text(user_id(number))
    statuses = {status: _text(status) for status in {*RECENTLY, *LONG_AGO}}
    priorities = {priority: _smallint(2, priority) for priority in PRIORITIES}
    present = (now - EPOCH) // timedelta(microseconds=1)
    midnight = present - present % (24 * HOUR)
    made = sorted(-SPAN * draw() * draw() for _ in range(count))  # seconds from now
    changed = [at * (1 - draw() ** 4) if draw() < TOUCHED else at for at in made]
    for at, last, revision, beginning, thing, description, recently, long_ago, priority, due, in_trash in zip(
        made,
        changed,
        _ranks(changed),
        choices(BEGINNINGS, k=count),
        choices(THINGS, k=count),
        choices(_descriptions(), k=count),
        choices(RECENTLY, k=count),
        choices(LONG_AGO, k=count),
        choices(PRIORITIES, k=count),
        choices(DUE, k=count),
        choices(IN_TRASH, k=count),
        strict=True,
    ):
        status = recently if at > -MONTH else long_ago
        updated_at = _bigint(8, present + round(last * SECOND))
        yield b"".join(
            (
                head,
                _text(f"{beginning} {thing}"),
                description,
                statuses[status],
                priorities[priority],
                _due(due, at, draw(), present, midnight),
                _bigint(8, present + round(at * SECOND)),
                updated_at,
                updated_at if status == "completed" else NULL,
                updated_at if in_trash else NULL,
                _bigint(8, revision),
            )
        )


def _ranks(values: Sequence[float]) -> list[int]:
    """The place of each value among all of them, from 1."""
    ranks = [0] * len(values)
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__), start=1):
        ranks[index] = rank
    return ranks


def _due(when: str, at: float, x: float, present: int, midnight: int) -> bytes:
    """A due date; `x` from 0 to 1 says which. One in the past is not before the task was made."""
    match when:
        case "never":
            return NULL
        case "past":
            return _bigint(8, present + round(at * x * SECOND))
        case "today":
            return _bigint(8, midnight + int(24 * x) * HOUR)
        case _:
            return _bigint(8, present + round(3 * MONTH * x * SECOND))
