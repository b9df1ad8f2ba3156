"""From bytes to checked Structs. The good case is one msgspec call; only what it refuses is looked at closely."""

import json
import re
from collections.abc import Generator, Iterator
from typing import Annotated, Any, TypeVar, get_args, get_origin
from urllib.parse import parse_qsl

import msgspec
from litestar.dto import AbstractDTO
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from service.errors import Fault, Problem, invalid
from service.settings import Settings, plain

MAX_DEPTH = 32
T = TypeVar("T", bound=msgspec.Struct)

_DECODERS: dict[type, msgspec.json.Decoder[Any]] = {}
_UNFIT = re.compile("[\x00\ud800-\udfff]")


def decode(raw: bytes, kind: type[T], settings: Settings) -> T:
    """Read a JSON body; raises a `Problem`, 400 where it is no JSON, 422 with every field to blame else."""
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _depth(raw) > MAX_DEPTH:
        raise Problem(400, f"The body is nested deeper than {MAX_DEPTH} levels.")
    decoder = _DECODERS.get(kind) or _DECODERS.setdefault(kind, msgspec.json.Decoder(kind))
    try:
        data: T = decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _explained(raw, kind, error) from None
    if b"\\u0000" in raw and (faults := list(_unfit(_parsed(raw)))):
        raise invalid(*faults)
    check(data, settings)
    return data


def check(data: object, settings: Settings) -> None:
    """Raise the faults that a Struct finds in itself."""
    if (look := getattr(data, "faults", None)) and (faults := list(look(settings))):
        raise invalid(*faults)


def query(raw: bytes, kind: type[T]) -> T:
    """Read a query string into a Struct; raises a 422 `Problem` that names every parameter to blame."""
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=200)
    except ValueError:
        raise Problem(
            422, "The query string is not UTF-8, percent-encoded, with at most 200 fields."
        ) from None
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    values: dict[str, Any] = {}
    faults = []
    for name, text in pairs:
        if name not in fields:
            faults.append(Fault(f"is not known here{_among(fields)}", parameter=_printable(name)))
            continue
        item = _repeatable(fields[name].type)
        if _UNFIT.search(text):
            faults.append(Fault("must not contain a NUL", parameter=name))
        elif name in values and not item:
            faults.append(Fault("is given twice", parameter=name))
        else:
            try:
                value = msgspec.convert(text, item or fields[name].type, strict=False)
                values[name] = (*values.get(name, ()), value) if item else value
            except msgspec.ValidationError as error:
                faults.append(Fault(plain(error), parameter=name))
    if faults:
        raise invalid(*faults)
    return kind(**values)


def _repeatable(kind: Any) -> Any:
    """What a parameter that may come more than once has of each, None for the others."""
    plain_kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return get_args(plain_kind)[0] if get_origin(plain_kind) is tuple else None


def _explained(raw: bytes, kind: type[msgspec.Struct], error: Exception) -> Problem:
    """Why msgspec refused a body: every field to blame, not only the first."""
    value = _parsed(raw)
    faults = list(_unfit(value))
    if not isinstance(value, dict):
        return invalid(Fault("must be an object", pointer=""))
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    faults += [
        Fault(f"is not known here{_among(fields)}", pointer=f"/{_escaped(name)}")
        for name in value
        if name not in fields
    ]
    for name, field in fields.items():
        if name in value:
            try:
                msgspec.convert(value[name], field.type)
            except msgspec.ValidationError as fault:
                faults.append(Fault(plain(fault), pointer=f"/{name}{_path(fault)}"))
        elif field.required:
            faults.append(Fault("is required", pointer=f"/{name}"))
    return invalid(*faults) if faults else Problem(422, f"The body cannot be taken: {error}.")


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8", "surrogatepass"), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise Problem(400, f"The body is not JSON: {error.msg.lower()} at character {error.pos}.") from None
    except ValueError:
        raise Problem(400, "The body is not JSON in UTF-8.") from None


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _unfit(value: Any, pointer: str = "") -> Iterator[Fault]:
    """Strings that PostgreSQL cannot hold: NUL and lone surrogates."""
    match value:
        case str() if _UNFIT.search(value):
            yield Fault("must not contain a NUL or half a surrogate pair", pointer=pointer)
        case dict():
            for name, item in value.items():
                yield from _unfit(name, f"{pointer}/{_escaped(name)}")
                yield from _unfit(item, f"{pointer}/{_escaped(name)}")
        case list():
            for index, item in enumerate(value):
                yield from _unfit(item, f"{pointer}/{index}")


def _depth(raw: bytes) -> int:
    """Levels of nesting, strings left out; what is not JSON is found later."""
    deepest = depth = 0
    for token in re.finditer(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', raw, re.DOTALL):
        if token[0] in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token[0] in b"]}":
            depth -= 1
    return deepest


def _among(fields: dict[str, Any]) -> str:
    return f"; known are {', '.join(fields)}" if fields else ""


def _printable(name: str) -> str:
    return name.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")[:100]


def _escaped(name: str) -> str:
    """A key as a part of a JSON pointer (RFC 6901)."""
    return _printable(name).replace("~", "~0").replace("/", "~1")


def _path(error: msgspec.ValidationError) -> str:
    """The rest of a pointer, from msgspec's `$.a[0]`."""
    _, _, path = str(error).partition(" - at `$")
    return re.sub(r"\.(\w+)|\[(\d+|\.\.\.)\]", lambda m: f"/{m[1] or m[2]}", path.rstrip("`"))


class Body(AbstractDTO[msgspec.Struct]):
    """How Litestar reads the `data` of a handler: `decode`, with its errors, in place of its own reading."""

    model_type = msgspec.Struct
    kinds: dict[str, type[msgspec.Struct]] = {}  # noqa: RUF012 (by handler, filled at registration)

    def decode_bytes(self, value: bytes) -> Any:
        connection = self.asgi_connection
        kind = self.kinds[connection.route_handler.handler_id]
        return decode(value, kind, connection.app.state.settings)

    @classmethod
    def create_for_field_definition(
        cls,
        field_definition: FieldDefinition,
        handler_id: str,
        backend_cls: Any = None,  # noqa: ARG003
    ) -> None:
        cls.kinds[handler_id] = field_definition.annotation

    @classmethod
    def create_openapi_schema(
        cls,
        field_definition: FieldDefinition,
        handler_id: str,  # noqa: ARG003
        schema_creator: Any,
    ) -> Reference | Schema:
        schema: Reference | Schema = schema_creator.for_field_definition(field_definition)
        return schema

    @classmethod
    def generate_field_definitions(cls, model_type: type[Any]) -> Generator[Any, None, None]:  # noqa: ARG003
        yield from ()

    @classmethod
    def detect_nested_field(cls, field_definition: FieldDefinition) -> bool:  # noqa: ARG003
        return False
