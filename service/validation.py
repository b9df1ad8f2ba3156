"""From bytes to checked Structs. The good case is one msgspec call; only what it refuses is looked at closely."""

import json
import re
from collections.abc import Generator, Iterator
from itertools import chain, islice
from typing import Annotated, Any, TypeVar, get_args, get_origin
from urllib.parse import parse_qsl

import msgspec
from litestar.dto import AbstractDTO
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from service.errors import Fault, Problem, invalid
from service.settings import Settings, plain

MAX_DEPTH = 32
MAX_FAULTS = 100  # told of one body
MAX_ITEMS, MAX_NODES = 1000, 10_000  # looked at in a body that is refused
T = TypeVar("T", bound=msgspec.Struct)

_DECODERS: dict[type, msgspec.json.Decoder[Any]] = {}
_UNFIT = re.compile("[\x00\ud800-\udfff]")
_ALIKE, _NO_BRACKETS = bytes.maketrans(b"{}", b"[]"), bytes({*range(256)} - {*b"[]{}"})


def decode(raw: bytes, kind: type[T], settings: Settings) -> T:
    """Read a JSON body; raises a `Problem`, 400 where it is no JSON, 422 with every field to blame else."""
    decoder = _DECODERS.get(kind) or _DECODERS.setdefault(kind, msgspec.json.Decoder(kind))
    try:
        data: T = decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
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
    if _deep(raw):
        return Problem(400, f"The body is nested deeper than {MAX_DEPTH} levels.")
    value = _parsed(raw)
    faults = list(islice(chain(_unfit(value), _misfits(value, kind)), MAX_FAULTS))
    return invalid(*faults) if faults else Problem(422, f"The body cannot be taken: {error}.")


def _misfits(value: Any, kind: type[msgspec.Struct], pointer: str = "") -> Iterator[Fault]:
    """What of an object does not fit into a Struct, field by field."""
    if not isinstance(value, dict):
        yield Fault("must be an object", pointer=pointer)
        return
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for name in value:
        if name not in fields:
            yield Fault(f"is not known here{_among(fields)}", pointer=f"{pointer}/{_escaped(name)}")
    for name, field in fields.items():
        if name in value:
            yield from _misfit(value[name], field.type, f"{pointer}/{name}")
        elif field.required:
            yield Fault("is required", pointer=f"{pointer}/{name}")


def _misfit(value: Any, kind: Any, pointer: str) -> Iterator[Fault]:
    """What is wrong with a field; of a list of objects, with each of them."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        fault = Fault(plain(error), pointer=f"{pointer}{_path(error)}")
    else:
        return
    item = _item(kind)
    items = enumerate(value[:MAX_ITEMS]) if item and isinstance(value, list) else ()
    within = [one for index, it in items for one in _misfits(it, item, f"{pointer}/{index}")]
    yield from within or (fault,)


def _item(kind: Any) -> Any:
    """The Struct that a field has a list of, None for other fields."""
    if get_origin(kind) is list:
        (item,) = get_args(kind)
        return item if isinstance(item, type) and issubclass(item, msgspec.Struct) else None
    arms = get_args(kind)[:1] if get_origin(kind) is Annotated else get_args(kind)
    return next((item for arm in arms if (item := _item(arm))), None)


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8", "surrogatepass"), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise Problem(400, f"The body is not JSON: {error.msg.lower()} at character {error.pos}.") from None
    except ValueError:
        raise Problem(400, "The body is not JSON in UTF-8.") from None


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _unfit(value: Any) -> Iterator[Fault]:
    """Strings that PostgreSQL cannot hold: NUL and lone surrogates."""
    for pointer, node in islice(_nodes(value), MAX_NODES):
        if isinstance(node, str) and _UNFIT.search(node):
            yield Fault("must not contain a NUL or half a surrogate pair", pointer=pointer)


def _nodes(value: Any, pointer: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in a value, and every name, with where it is."""
    yield pointer, value
    if isinstance(value, dict):
        for name, item in value.items():
            yield f"{pointer}/{_escaped(name)}", name
            yield from _nodes(item, f"{pointer}/{_escaped(name)}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _nodes(item, f"{pointer}/{index}")


def _deep(raw: bytes) -> bool:
    """Whether JSON is nested too deep; what is no JSON and not found here is found later.

    Without its strings it is peeled from within, a level at a time: byte by byte, 4 MiB would keep everybody waiting.
    """
    outside = raw.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    brackets = b"".join(outside).translate(_ALIKE, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        whole, brackets = len(brackets), brackets.replace(b"[]", b"")
        if len(brackets) == whole:
            break
    return b"[]" in brackets or len(brackets) > MAX_DEPTH


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
