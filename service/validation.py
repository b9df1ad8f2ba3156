"""From bytes to checked Structs. The good case is one msgspec call; only what it refuses is looked at closely."""

import json
import re
from collections.abc import Generator, Iterator, Sequence
from functools import cache
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin
from urllib.parse import parse_qsl

import msgspec
from litestar.dto import AbstractDTO
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from service.errors import Fault, Problem, invalid
from service.settings import Settings, plain

MAX_DEPTH = 32
MAX_VALUES = 20_000  # commas and brackets in a body whose faults are all named
T = TypeVar("T", bound=msgspec.Struct)

_DECODERS: dict[type, msgspec.json.Decoder[Any]] = {}
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
UNFIT = re.compile("[\x00\ud800-\udfff]")  # what no text of PostgreSQL can hold


def decode(raw: bytes, kind: type[T], settings: Settings) -> T:
    """Read a JSON body; raises a `Problem`, 400 where it is no JSON, 422 with every field to blame else."""
    decoder = _DECODERS.get(kind) or _DECODERS.setdefault(kind, msgspec.json.Decoder(kind))
    try:
        data: T = decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _explained(raw, kind, error, settings) from None
    if b"\\u0000" in raw and (faults := list(_unfit(_parsed(raw)))):
        raise invalid(*faults)
    check(data, settings)
    return data


def check(data: object, settings: Settings) -> None:
    """Raise the faults that a Struct finds in itself and in what it holds."""
    if faults := list(_faults(data, settings)):
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
        if UNFIT.search(text):
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


def _faults(data: Any, settings: Settings, at: str = "") -> Iterator[Fault]:
    """What a Struct finds in itself and in the Structs that it holds, with pointers from the body's root."""
    if isinstance(data, list):
        for index, item in enumerate(data):
            yield from _faults(item, settings, f"{at}/{index}")
        return
    yield from _own_faults(data, settings, at)
    for name in _holders(data.__class__):
        yield from _faults(getattr(data, name), settings, f"{at}/{name}")


def _own_faults(data: object, settings: Settings, at: str) -> Iterator[Fault]:
    if look := getattr(data, "faults", None):
        for fault in look(settings):
            yield msgspec.structs.replace(fault, pointer=at + fault.pointer) if at else fault


def _explained(raw: bytes, kind: type[msgspec.Struct], error: Exception, settings: Settings) -> Problem:
    """Why msgspec refused a body: every field to blame, not only the first.

    What is nested too deep is found here, for none of our Structs takes it. A body with more in it than any that is
    meant well is not looked at closely: that would hold up everybody else.
    """
    outside = b"".join(raw.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])  # of strings
    brackets = outside.translate(None, _NO_BRACKETS)
    if _depth(brackets[:MAX_VALUES]) > MAX_DEPTH:
        return Problem(400, f"The body is nested deeper than {MAX_DEPTH} levels.")
    if outside.count(b",") + len(brackets) > MAX_VALUES:
        if isinstance(error, msgspec.ValidationError):
            return invalid(Fault(plain(error), pointer=_path(error)))
        return Problem(400, "The body is not JSON in UTF-8.")
    value = _parsed(raw)
    faults = [*_unfit(value), *_wrong(value, kind, settings)]
    return invalid(*faults) if faults else Problem(422, f"The body cannot be taken: {error}.")


def _wrong(value: Any, kind: Any, settings: Settings, at: str = "") -> Iterator[Fault]:
    """Every fault in a value: an object is looked at field by field, a list item by item."""
    arms = _arms(kind)
    structs = [arm for arm in arms if isinstance(arm, type) and issubclass(arm, msgspec.Struct)]
    if structs and isinstance(value, dict):
        yield from _wrong_object(value, structs, settings, at)
        return
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        within = _path(error)
        if within and isinstance(value, list) and get_origin(arms[0]) is list:
            for index, item in enumerate(value):
                yield from _wrong(item, get_args(arms[0])[0], settings, f"{at}/{index}")
        else:
            yield Fault("must be an object" if structs else plain(error), pointer=f"{at}{within}")


def _wrong_object(
    value: dict[str, Any], kinds: Sequence[type[msgspec.Struct]], settings: Settings, at: str
) -> Iterator[Fault]:
    """Every fault in an object that shall be one of some Structs: of a single one, or of those that a tag tells apart."""
    kind, tag = kinds[0], kinds[0].__struct_config__.tag_field
    if tag is not None:
        tagged = {kind.__struct_config__.tag: kind for kind in kinds}
        if tag not in value or str(value[tag]) not in tagged:
            detail = f"must be one of {', '.join(map(str, tagged))}" if tag in value else "is required"
            yield Fault(detail, pointer=f"{at}/{tag}")
            return
        kind = tagged[str(value[tag])]
    fields = _fields(kind)
    unknown = [name for name in value if name not in fields and name != tag]
    for name in unknown:
        yield Fault(f"is not known here{_among(fields)}", pointer=f"{at}/{_escaped(name)}")
    good = {}
    for name, field in fields.items():
        if name in value:
            faults = list(_wrong(value[name], field.type, settings, f"{at}/{name}"))
            yield from faults
            if not faults:
                good[field.name] = msgspec.convert(value[name], field.type)
        elif field.required:
            yield Fault("is required", pointer=f"{at}/{name}")
    if all(field.name in good for field in fields.values() if field.required):
        yield from _own_faults(kind(**good), settings, at)


@cache
def _holders(kind: type[Any]) -> tuple[str, ...]:
    """The fields of a Struct that may hold others."""
    found = _fields(kind).values() if issubclass(kind, msgspec.Struct) else ()
    return tuple(
        field.name
        for field in found
        if any(get_origin(arm) is list or hasattr(arm, "__struct_fields__") for arm in _arms(field.type))
    )


def _arms(kind: Any) -> tuple[Any, ...]:
    """The types that a type allows, without what it is annotated with."""
    if get_origin(kind) is Annotated:
        return _arms(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return tuple(arm for one in get_args(kind) for arm in _arms(one))
    return (kind,)


@cache
def _fields(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.encode_name: field for field in msgspec.structs.fields(kind)}


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
        case str() if UNFIT.search(value):
            yield Fault("must not contain a NUL or half a surrogate pair", pointer=pointer)
        case dict():
            for name, item in value.items():
                yield from _unfit(name, f"{pointer}/{_escaped(name)}")
                yield from _unfit(item, f"{pointer}/{_escaped(name)}")
        case list():
            for index, item in enumerate(value):
                yield from _unfit(item, f"{pointer}/{index}")


def _depth(brackets: bytes) -> int:
    """Levels of nesting; what is not JSON is found later."""
    deepest = depth = 0
    for bracket in brackets:
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
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
