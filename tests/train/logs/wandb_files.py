"""Reads the files that wandb leaves for ``wandb sync``: records of protobuf in LevelDB's log format."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wandb.proto import wandb_internal_pb2 as records

_BLOCK, _HEAD = 32768, struct.Struct("<IHB")
_WHOLE, _LAST = 1, 4


class Told(NamedTuple):
    """What a run says of itself, its summary, and its points."""

    run: Any
    summary: dict[str, Any]
    history: list[dict[str, Any]]
    exit_code: int | None


def read_run(file: Path) -> Told:
    run, summary, history, code = None, {}, [], None
    for raw in _raw_records(file.read_bytes()):
        record = records.Record.FromString(raw)
        match kind := record.WhichOneof("record_type"):
            case "run":
                run = record.run
            case "summary":
                summary |= _values(record.summary.update)
            case "history":
                history.append(_values(record.history.item))
            case "exit":
                code = record.exit.exit_code
            case _:
                assert kind is not None
    return Told(run, summary, history, code)


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _raw_records(data: bytes) -> Iterator[bytes]:
    place, parts = 7, b""  # behind the file's own head
    while place + _HEAD.size <= len(data):
        if (left := _BLOCK - place % _BLOCK) < _HEAD.size:
            place += left
            continue
        _, length, kind = _HEAD.unpack_from(data, place)
        place += _HEAD.size
        parts += data[place : place + length]
        place += length
        if kind in (_WHOLE, _LAST):
            yield parts
            parts = b""
