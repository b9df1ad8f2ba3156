"""Bodies that are refused: why, and within bounds whatever they hold."""

import json
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import UNSET, Meta, UnsetType

from service import validation
from service.errors import Problem
from service.settings import Settings


class Item(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(max_length=3)]
    size: int = 0


class Box(msgspec.Struct, forbid_unknown_fields=True):
    label: str
    items: Annotated[list[Item], Meta(min_length=1, max_length=5)] | UnsetType = UNSET


def refused(raw: bytes, settings: Settings) -> Problem:
    with pytest.raises(Problem) as it:
        validation.decode(raw, Box, settings)
    return it.value


def pointers(body: Any, settings: Settings) -> list[str | None]:
    problem = refused(json.dumps(body).encode(), settings)
    assert problem.status == 422
    return [fault.pointer for fault in problem.errors]


@pytest.mark.parametrize(
    ("body", "blamed"),
    [
        ([], [""]),
        ({"items": []}, ["/label", "/items"]),
        ({"label": "x", "items": {}}, ["/items"]),
        ({"label": "x", "items": None}, ["/items"]),
        ({"label": "x", "items": [{"name": "a"}] * 6}, ["/items"]),
        ({"label": 1, "items": [{"name": "a"}, {}, 7]}, ["/label", "/items/1/name", "/items/2"]),
        (
            {"items": [{"name": "long", "size": "x", "no/such": 1}, {"name": "a"}], "a~": 1},
            ["/a~0", "/label", "/items/0/no~1such", "/items/0/name", "/items/0/size"],
        ),
        (
            {"label": "x", "items": [{"name": "a\x00"}, {"name": "b\ud800"}]},
            ["/items/0/name", "/items/1/name"],
        ),
    ],
)
def test_every_field_is_named_those_of_listed_objects_too(
    body: Any, blamed: list[str], settings: Settings
) -> None:
    assert pointers(body, settings) == blamed


@pytest.mark.parametrize(
    ("opening", "closing", "levels"),
    [("[", "]", 1), ('{"a":', "}", 1), ('[{"a":', "}]", 2), ('[{"]\\\\\\"[":', "}]", 2)],
)
def test_depth_is_counted_whatever_it_is_made_of(
    opening: str, closing: str, levels: int, settings: Settings
) -> None:
    for times, status in ((32 // levels, 422), (32 // levels + 1, 400)):
        body = opening * times + "0" + closing * times
        assert json.loads(body)
        assert refused(body.encode(), settings).status == status


def test_brackets_in_strings_are_no_depth(settings: Settings) -> None:
    text = json.dumps({"x": "[" * 99, '"' + "{" * 99: "\\", "y": "]"})
    assert refused(text.encode(), settings).status == 422


@pytest.mark.parametrize("body", [b"[" * 4, b"]" * 99, b"[}" * 99, b'{"a":' * 99, b'"[', b"\xff", b""])
def test_what_is_no_json_is_malformed(body: bytes, settings: Settings) -> None:
    problem = refused(body, settings)
    assert (problem.status, problem.errors) == (400, [])


@pytest.mark.parametrize(
    "body",
    [
        b'{"label": "x", "items": [' + b"{}," * 100_000 + b"{}]}",
        b'{"label": "x", "items": [' + b'"\\u0000",' * 100_000 + b"1]}",
        b"{" + b",".join(b'"%d":1' % n for n in range(100_000)) + b"}",
    ],
    ids=["items", "strings", "fields"],
)
def test_no_body_has_more_faults_than_can_be_told(body: bytes, settings: Settings) -> None:
    assert 1 <= len(refused(body, settings).errors) <= 100
