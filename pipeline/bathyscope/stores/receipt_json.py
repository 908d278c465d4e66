"""Receipts as JSON, one object each, until they are packed."""

from __future__ import annotations

import base64
import json

import numpy as np

from bathyscope.values import FloatArray, Json, Moments, Receipt, ShardRecord


def encode(receipt: Receipt) -> bytes:
    """A receipt as JSON; sums are base64 of little-endian float64, so that no digit is lost."""
    moments = {
        array: {str(c): _encode_moments(m) for c, m in sorted(classes.items())}
        for array, classes in receipt.moments.items()
    }
    record: Json = {
        "unit": receipt.unit,
        "term": receipt.term,
        "valid": receipt.valid,
        "shards": [vars(s) for s in receipt.shards],
        "moments": moments,
        "figures": dict(receipt.figures),
        "writer": dict(receipt.writer),
    }
    return json.dumps(record).encode()


def decode(data: bytes) -> Receipt:
    """The receipt that `encode` wrote. Raises `ValueError` or `KeyError` for anything else."""
    record = json.loads(data)
    if not isinstance(record, dict):
        raise ValueError(f"a {type(record).__name__} and no record")
    moments = {
        array: {int(c): _decode_moments(m) for c, m in classes.items()}
        for array, classes in record["moments"].items()
    }
    return Receipt(
        unit=record["unit"],
        term=record["term"],
        valid=record["valid"],
        shards=tuple(ShardRecord(**s) for s in record["shards"]),
        moments=moments,
        figures=record["figures"],
        writer=record["writer"],
    )


def _encode_moments(moments: Moments) -> Json:
    return {"n": moments.n, "sum": _pack(moments.sum), "sum_sq": _pack(moments.sum_sq)}


def _decode_moments(data: Json) -> Moments:
    return Moments(data["n"], _unpack(data["sum"]), _unpack(data["sum_sq"]))


def _pack(values: FloatArray) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f8").tobytes()).decode()


def _unpack(text: str) -> FloatArray:
    # A copy, because torch refuses arrays that it may not write to.
    return np.frombuffer(base64.b64decode(text), dtype="<f8").copy()
