"""The OpenAPI document is true: complete, and schemathesis finds no answer that it does not tell of."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.errors import CODES
from service.gate import PUBLIC
from service.idempotency import REPLAYED
from service.routes import BASE, IDEMPOTENCY_KEY, ROUTES
from tests.service.served import served


@pytest.fixture
async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get("/openapi.json")).json()
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method.upper(), operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


async def test_it_has_every_route_and_no_other(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    told = {(method, path) for path, method, _ in operations(document)}
    assert told == {(route.method, BASE + route.path.replace(":str", "")) for route in ROUTES}
    ids = {operation["operationId"] for _, _, operation in operations(document)}
    assert ids == {route.handler.__name__ for route in ROUTES}


async def test_every_operation_tells_its_refusals(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        assert operation["summary"], path
        responses = operation["responses"]
        assert {"400", "422", "500", "503"} <= set(responses), path
        assert ("401" in responses) or path in PUBLIC, path
        if "requestBody" in operation:
            assert {"413", "415"} <= set(responses), path
        for status, response in responses.items():
            if int(status) >= 400:
                content = response["content"]["application/problem+json"]
                assert content["schema"] == {"$ref": "#/components/schemas/ProblemBody"}
                assert content["example"]["code"] == CODES[int(status)]
        assert method in ("GET", "POST", "PATCH", "DELETE")


async def test_bodies_and_rows_have_examples_and_limits(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    title = schemas["TaskCreate"]["properties"]["title"]
    assert (title["minLength"], title["maxLength"], title["examples"]) == (1, 200, ["Buy milk"])
    assert schemas["TaskCreate"]["additionalProperties"] is False
    assert set(schemas["Task"]["required"]) == set(schemas["Task"]["properties"])


async def test_one_message_or_several(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    one, several = schemas["MessageCreate"]["oneOf"]
    assert (one["required"], several["required"]) == (["role", "content"], ["messages"])
    content = schemas["MessageDraft"]["properties"]["content"]
    assert (content["minLength"], content["maxLength"]) == (1, 32_000)
    answer = document["paths"][f"{BASE}/conversations/{{id}}/messages"]["post"]["responses"]["201"]
    names = [
        arm["$ref"].rsplit("/", 1)[1] for arm in answer["content"]["application/json"]["schema"]["oneOf"]
    ]
    assert names == ["Message", "Messages"]
    assert set(schemas["Message"]["required"]) == set(schemas["Message"]["properties"])


async def test_keyed_operations_tell_of_the_key_and_of_replays(document: dict[str, Any]) -> None:
    for route in ROUTES:
        operation = document["paths"][BASE + route.path.replace(":str", "")][route.method.lower()]
        told = [item["schema"] for item in operation["parameters"] if item["name"] == IDEMPOTENCY_KEY]
        replayed = REPLAYED in operation["responses"][str(route.status)].get("headers", {})
        assert replayed == bool(told) == (route.header == IDEMPOTENCY_KEY), route.path
        assert all((schema["minLength"], schema["maxLength"]) == (1, 255) for schema in told)


def test_schemathesis_finds_nothing(tmp_path: Path, migrated_database: str) -> None:
    settings = {
        "DATABASE_URL": migrated_database,
        "RATE_LIMITS": "off",
        "SECRET_KEY": "a secret of 32 bytes for schemathesis",
    }
    with served(tmp_path, **settings) as running:
        body = {"email": "schema@example.com", "password": "correct horse battery"}
        signed = httpx.post(f"{running.base}/api/v1/auth/register", json=body).json()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{running.base}/openapi.json"),
                *("-H", f"Authorization: Bearer {signed['access_token']}"),
                *("--max-examples", "10", "--seed", "1", "--workers", "1"),
                # They end the session that the others need.
                *("--exclude-operation-id", "logout", "--exclude-operation-id", "logout_all"),
                *("--exclude-operation-id", "end_session"),
                # Refused for what a schema cannot say: a status that contradicts completed, a common password.
                *("--exclude-checks", "positive_data_acceptance"),
            ],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert "Traceback" not in running.output
