"""Logging: readable on a terminal, one JSON object a line elsewhere. No log line holds a value of a statement."""

import asyncio
import logging
import re
import sys
from datetime import UTC, datetime
from functools import lru_cache
from typing import TextIO
from urllib.parse import quote

import msgspec
import structlog

from service.settings import Settings

access_log = structlog.get_logger("access")
_quiet = logging.getLogger("access")
_stream: TextIO | None = None  # where lines of JSON go
_lines: list[str] = []  # of this turn of the loop
_PLAIN = re.compile(r"[A-Za-z0-9_.~/:@-]*", re.ASCII)


def access(method: str, path: str, status: int, seconds: float, request_id: str, address: str) -> None:
    """Tell of an answered request. JSON is written here: structlog and the standard library take 100 us for it.

    The lines of one turn of the event loop are one write, at its end.
    """
    if not _quiet.isEnabledFor(logging.INFO):
        return
    event = f"{method} {path if _PLAIN.fullmatch(path) else quote(path, safe='/:@')}"
    if _stream is None:
        ms = round(seconds * 1000, 1)
        access_log.info(event, status=status, ms=ms, request_id=request_id, address=address)
        return
    if not _lines:
        asyncio.get_running_loop().call_soon(_write, _stream)
    _lines.append(
        f'{{"event":"{event}","status":{status},"ms":{seconds * 1000:.1f},"request_id":"{request_id}"'
        f',"address":{_text(address)}'
    )


@lru_cache(1000)
def _text(value: str) -> str:
    return msgspec.json.encode(value).decode()


def _write(stream: TextIO) -> None:
    end = f',"logger":"access","level":"info","timestamp":"{datetime.now(UTC).isoformat().replace("+00:00", "Z")}"}}\n'
    text = end.join((*_lines, ""))
    _lines.clear()  # also where nobody reads them any more
    stream.write(text)


def configure(settings: Settings) -> None:
    """Send the standard library's records and structlog's the same way, to standard error."""
    global _stream  # noqa: PLW0603 (logging is the process's)
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.types.Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if console else "iso", utc=not console),
    ]
    render: list[structlog.types.Processor] = (
        [structlog.dev.ConsoleRenderer(pad_event_to=40, exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    _stream = None if console else handler.stream
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    logging.getLogger("alembic").setLevel("INFO")
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
