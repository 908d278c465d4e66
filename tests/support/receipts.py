"""Receipts of units that nobody did, in numbers, for tests and benchmarks of their storage."""

import numpy as np

from bathyscope.stores.receipt_json import encode
from bathyscope.values import Moments, Receipt, ShardRecord


def receipt_of(unit, *, seed=0, host="node-1", sums=True, shards=2, width=3):
    """A receipt whose every field depends on the unit."""
    rng = np.random.default_rng([seed, unit])
    records = tuple(
        ShardRecord(f"resid/seg/c.{unit * shards + i}.0", 1000 + unit % 7, *_digests(rng))
        for i in range(shards)
    )
    return Receipt(
        unit=unit,
        term=1 + unit % 3,
        valid=500 + unit % 11,
        shards=records,
        moments={"resid": {c: _moments(rng, width) for c in (0, 5)}} if sums else {},
        figures={"edge": [unit, 0.1 * unit]},
        writer={"host": f"{host}-{unit % 4}", "pid": 7, "device": "cpu"},
    )


def put_receipts(receipts, units, **changes):
    """Store the receipts of units without waiting for the disk."""
    for unit in units:
        receipts.objects.put(receipts.key(unit), encode(receipt_of(unit, **changes)))


def _digests(rng):
    return [rng.bytes(16).hex() for _ in range(2)]


def _moments(rng, width):
    return Moments(int(rng.integers(1, 9)), rng.normal(size=width), rng.normal(size=width) ** 2)
