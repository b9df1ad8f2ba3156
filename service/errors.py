"""One error language: every refusal, wherever it arises, leaves as the same RFC 9457 problem."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, InternalServerException, ValidationException

from db.errors import Refused, Unavailable, Unstorable

log = structlog.get_logger("service")

CODES = {
    400: "malformed_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    410: "gone",
    412: "precondition_failed",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid",
    429: "rate_limited",
    431: "too_large",
    500: "internal",
    503: "unavailable",
}

# Titles of RFC 9110, which Python 3.11 does not know yet.
TITLES = {status: HTTPStatus(status).phrase for status in CODES} | {
    413: "Content Too Large",
    422: "Unprocessable Content",
}

DETAILS = {
    401: "Sign in: send a valid access token as Authorization: Bearer <token>.",
    403: "Only admins may do this.",
    404: "There is nothing here, or it is not yours.",
    405: "This path does not take that method; Allow lists those that it takes.",
    410: "What changed since then can no longer be told in full; start from 0, with nothing kept.",
    412: "It has changed since the version that If-Match names; read it again.",
    413: "The body is larger than this route takes.",
    500: "Something went wrong here; the request id finds it in our log.",
    503: "The database cannot answer now; try again after the seconds in Retry-After.",
}

_GONE = "client disconnected prematurely"  # what Litestar says of it


class Fault(msgspec.Struct, omit_defaults=True, frozen=True):
    """One field to blame: exactly one of `pointer`, `parameter` and `header` says where it is."""

    detail: str
    pointer: str | None = None
    parameter: str | None = None
    header: str | None = None


class ProblemBody(msgspec.Struct, omit_defaults=True):
    """The body of every error: RFC 9457, with a stable `code`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[Fault] | None = None


class Problem(Exception):
    """A refusal on its way to the client."""

    def __init__(
        self,
        status: int,
        detail: str | None = None,
        *,
        errors: Iterable[Fault] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail or DETAILS.get(status, ""))
        self.status = status
        self.detail = detail or DETAILS.get(status) or TITLES[status]
        self.errors = list(errors)
        self.headers = headers or {}
        if status == HTTPStatus.UNAUTHORIZED:
            self.headers.setdefault("WWW-Authenticate", "Bearer")

    def body(self, request_id: str) -> bytes:
        """The problem as JSON."""
        return msgspec.json.encode(
            ProblemBody(
                type="about:blank",
                title=TITLES[self.status],
                status=self.status,
                detail=self.detail,
                code=CODES[self.status],
                request_id=request_id,
                errors=self.errors or None,
            )
        )


def invalid(*errors: Fault) -> Problem:
    """422, naming every field to blame."""
    return Problem(422, "The request has fields that cannot be taken; errors names each.", errors=errors)


# What a named constraint of the schema means to a client, where our own checks cannot know it before.
CONSTRAINTS = {
    "users_email_key": lambda: Problem(
        409, "This e-mail address has an account.", errors=[Fault("is taken", pointer="/email")]
    ),
    "users_email_valid": lambda: invalid(Fault("is not an e-mail address", pointer="/email")),
    "tasks_title_length": lambda: invalid(Fault("must have 1 to 500 characters", pointer="/title")),
}


def problem_of(error: Exception) -> Problem:
    """The problem that an exception becomes; what nobody foresaw is a 500 whose detail is only in the log."""
    match error:
        case Problem():
            return error
        case Unavailable():
            log.warning("unavailable", reason=str(error))
            return Problem(503, headers={"Retry-After": str(error.retry_after)})
        case Refused() if error.constraint in CONSTRAINTS:
            return CONSTRAINTS[error.constraint]()
        case Unstorable():
            log.warning("unstorable", reason=str(error))
            return Problem(422, "The request holds a value that cannot be stored.")
        case InternalServerException() if error.detail == _GONE:
            return Problem(400, "The body ended before its end.")
        case ValidationException():  # bodies and queries are read by ourselves; what is left is a body not there
            return Problem(400, "The body is empty.")
        case HTTPException() if (
            error.status_code in CODES and error.status_code != HTTPStatus.INTERNAL_SERVER_ERROR
        ):
            detail = DETAILS.get(error.status_code) or error.detail
            return Problem(error.status_code, detail, headers=dict(error.headers or {}))
        case _:
            log.error("crash", exc_info=error)
            return Problem(500)


def handle(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's exception handler, for every exception there is."""
    return refusal(error, request.scope.get("request_id", ""))  # type: ignore[arg-type]


def refusal(error: Exception, request_id: str) -> Response[bytes]:
    """The answer that an exception becomes."""
    problem = problem_of(error)
    return Response(
        problem.body(request_id),
        status_code=problem.status,
        media_type="application/problem+json",
        headers=problem.headers,
    )
