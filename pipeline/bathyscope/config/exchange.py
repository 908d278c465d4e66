"""Files of other projects."""

from __future__ import annotations

from dataclasses import dataclass

from bathyscope.config.option import option


@dataclass
class ConvertConfig:
    """What `bathyscope convert` writes; url is the folder that it reads."""

    to: str | None = option(None, "folder to write")
    format: str = option(
        "saelens", "format to write: saelens, sparsify, circuit_tracer or bathyscope"
    )
    source_format: str | None = option(None, "format to read; null goes by the names of the files")
    layer: int | None = option(
        None,
        "layer to read of a set of transcoders (null: all), or to write as (null: by its hooks)",
    )
    k: int | None = option(None, "L0 of a dictionary whose file does not say it")
    inputs: list[str] = option([], "names for the hook points that it reads: [mlp_in.3]")
    outputs: list[str] = option([], "names for the hook points that it writes: [mlp_out.3]")
