"""Stores: how they are laid out, checked and mended."""

from __future__ import annotations

from dataclasses import dataclass

from bathyscope.config.option import not_negative, option, positive


@dataclass
class StoreConfig:
    """How stores are laid out and read."""

    items_per_unit: int = not_negative(0, "items of a unit of work; 0 aims at unit_tokens")
    unit_tokens: int = positive(200_000, "tokens of a unit when items_per_unit is 0")
    min_units: int = positive(8, "small runs are cut into at least this many units")
    chunk_bytes: int = positive(2 * 2**20, "size of a chunk, the unit of reading")
    shard_bytes: int = positive(256 * 2**20, "largest shard, the unit of writing")
    streams: int = positive(128, "virtual streams of a shuffled read; fewer with few chunks")
    window_chunks: int = positive(16, "chunks of a stream that are shuffled together")
    memory_bytes: int = not_negative(
        2 * 2**30, "training rows that take no more than this are kept in memory; 0 keeps none"
    )
    limit_bytes: int = not_negative(
        0, "activations that are there at once, for `bathyscope stream`; 0 keeps all"
    )
    stream_units: int = not_negative(
        0, "units whose rows are shuffled together in a stream; 0 takes half of limit_bytes"
    )
    codec: str = option(
        "none", "activations on disk: none, zstd_bitshuffle (loses nothing), int8 or fp8 (half)"
    )
    fsync: bool = option(True, "shards are on the local disk before their receipt is written")
    lease_s: float = positive(600.0, "seconds after which a silent worker loses its unit")


@dataclass
class VerifyConfig:
    """How thoroughly `bathyscope verify` checks a run."""

    share: float = option(1.0, "share of the shards whose bytes are read; sizes are checked of all")
    seed: int = not_negative(0, "which shards these are")
    threads: int = positive(2, "shards that are read at once")


@dataclass
class RedoConfig:
    """What `bathyscope redo` takes back; url is the folder of the artifact."""

    segment: str | None = option(None, "segment, as `bathyscope verify` names it")
    units: list[int] = option([], "units that are to be done again")
    packs: list[int] = option([], "packs of receipts that cannot be read")
    reason: str = option("taken back by hand", "kept beside the receipts in quarantine/")


@dataclass
class StatusConfig:
    """What `bathyscope status` tells of a run."""

    errors: int = not_negative(5, "last errors, retries and notes that are told")
    slow: int = not_negative(5, "units of what is under way that took longest")
