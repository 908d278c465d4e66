"""Receipts: created once, never overwritten, found by unit.

Keys are `receipts/<segment>/<thousand>/<unit>.json`, so that no folder holds more than a
thousand of them.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from bathyscope.errors import MissingArtifact, ReceiptConflict
from bathyscope.stores.objects import Objects
from bathyscope.values import FloatArray, Json, Moments, Receipt, ShardRecord


class Receipts:
    """The receipts of one segment."""

    def __init__(self, objects: Objects, segment: str) -> None:
        self._objects = objects
        self._folder = f"receipts/{segment}"
        self._quarantine = f"quarantine/{segment}"

    def get(self, unit: int) -> Receipt | None:
        """The receipt of a unit, or None when it is not done."""
        try:
            return decode(self._objects.get(self._key(unit)))
        except MissingArtifact:
            return None

    def create(self, receipt: Receipt) -> Receipt:
        """Store a receipt, or accept the one that is there when it says the same.

        Raises `ReceiptConflict`, and sets both aside, when another worker made something else
        of this unit: neither can be trusted until somebody has looked.
        """
        if self._objects.create(self._key(receipt.unit), encode(receipt), fsync=True):
            return receipt
        there = decode(self._objects.get(self._key(receipt.unit)))
        if there.same_result(receipt):
            return there
        self._set_aside(there, receipt)
        raise ReceiptConflict(
            f"Unit {receipt.unit} of {self._objects.location} was done twice with different "
            f"results: by {_who(there)} and by {_who(receipt)}. Both receipts are in "
            f"{self._quarantine}/ and the unit counts as not done. The same device kind, dtype, "
            "attention kernel, batch shape and thread count give the same bytes: compare the two "
            "records, then run again."
        )

    def all(self) -> dict[int, Receipt]:
        """Every receipt by its unit, in order of units."""
        keys = sorted(key for key, _ in self._objects.walk(self._folder) if key.endswith(".json"))
        found = (decode(self._objects.get(key)) for key in keys)
        return {receipt.unit: receipt for receipt in found}

    def done(self) -> set[int]:
        """Units that have a receipt, from the listing alone."""
        listed = self._objects.walk(self._folder)
        names = (key.rsplit("/", 1)[-1] for key, _ in listed if key.endswith(".json"))
        return {int(name.removesuffix(".json")) for name in names}

    def _set_aside(self, *receipts: Receipt) -> None:
        for i, receipt in enumerate(receipts):
            self._objects.put(f"{self._quarantine}/{receipt.unit}.{i}.json", encode(receipt))
        self._objects.delete(self._key(receipts[0].unit))

    def _key(self, unit: int) -> str:
        return f"{self._folder}/{unit // 1000:05d}/{unit:08d}.json"


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
    """The receipt that `encode` wrote."""
    record = json.loads(data)
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


def _who(receipt: Receipt) -> str:
    writer: Any = receipt.writer
    return f"{writer.get('host', 'an unknown host')} (process {writer.get('pid', '?')})"
