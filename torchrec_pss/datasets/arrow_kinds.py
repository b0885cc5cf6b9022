"""What Arrow columns may hold, by a schema."""

from typing import Any

from torchrec_pss.datasets.schema import Schema

INTEGERS, TEXTS, NOTHING = "whole numbers", "text", "nothing"


def kinds_of(types: Any, schema: Schema) -> dict[str, str]:
    """Of each feature of an Arrow schema's columns, whether it holds `INTEGERS`, `TEXTS` or `NOTHING`.

    Raises:
        ValueError: a column is missing, or of a type that is not taken; names it.
    """
    from pyarrow import types as is_

    schema.columns(types.names)
    kinds = {}
    for name in (schema.label, *schema.dense, *([] if schema.time is None else [schema.time])):
        kind = types.field(name).type
        if name == schema.time and (is_.is_date(kind) or is_.is_timestamp(kind)):
            continue
        if not (is_.is_boolean(kind) or is_.is_integer(kind) or is_.is_floating(kind)):
            raise ValueError(f"the column {name!r} is {kind}, and must be a whole or floating-point number: cast it")
    for name in schema.sparse:
        kinds[name] = _kind_of_ids(name, types.field(name).type)
    for bag in schema.bags:
        kind = types.field(bag.name).type
        if is_list(kind):
            kinds[bag.name] = _kind_of_ids(bag.name, kind.value_type)
        elif is_text(kind.value_type if is_.is_dictionary(kind) else kind):
            kinds[bag.name] = TEXTS
        else:
            raise ValueError(f"the bags {bag.name!r} are {kind}, and must be lists, or text with a separator")
        if bag.weights is not None:
            kind = types.field(bag.weights).type
            inside = kind.value_type if is_list(kind) else kind
            if not (is_list(kind) and (is_.is_integer(inside) or is_.is_floating(inside) or is_.is_null(inside))):
                raise ValueError(f"the weights {bag.weights!r} are {kind}, and must be lists of numbers")
    return kinds


def _kind_of_ids(name: str, kind: Any) -> str:
    from pyarrow import types as is_

    inside = kind.value_type if is_.is_dictionary(kind) else kind
    if is_.is_integer(inside) or is_.is_boolean(inside):
        return INTEGERS
    if is_text(inside):
        return TEXTS
    if is_.is_null(inside):  # of a file that has no value of it
        return NOTHING
    hint = "name it under bags" if is_list(inside) else "cast it"
    raise ValueError(f"the column {name!r} is {kind}, and must be whole numbers or text: {hint}")


def time_kind(kind: Any) -> str:
    """What times are measured by: those of files of several kinds are not compared."""
    from pyarrow import types as is_

    return str(kind) if is_.is_date(kind) or is_.is_timestamp(kind) else "a number"


def is_text(kind: Any) -> bool:
    from pyarrow import types as is_

    return any(is_of(kind) for is_of in (is_.is_string, is_.is_large_string, is_.is_binary, is_.is_large_binary))


def is_list(kind: Any) -> bool:
    from pyarrow import types as is_

    return is_.is_list(kind) or is_.is_large_list(kind) or is_.is_fixed_size_list(kind)
