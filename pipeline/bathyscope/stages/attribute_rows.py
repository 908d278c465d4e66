"""attribute_rows: the rows of each prompt's graph, shared by several workers.

A unit is a part of the targets of a prompt. Every worker runs the prompt, which is cheap, and takes
the rows of its part. `attribute` puts them together and removes them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from bathyscope.attribution.graphs.build import prepared
from bathyscope.config import Config
from bathyscope.runs.run import GRAPH_ROWS
from bathyscope.runs.work import Begun, Work
from bathyscope.runs.work import finish as publish
from bathyscope.stages import attribute
from bathyscope.stages.attribute import Context, graph_settings
from bathyscope.stages.graph_pieces import to_bytes
from bathyscope.stages.stage import Guard, Outcome
from bathyscope.values import Json, Receipt, Unit, UnitPlan

NAME = "attribute_rows"


def units(config: Config) -> Work:
    """`attribute.parts` units for each prompt, identified as the graphs are and by that number."""
    whole = attribute.units(config)
    parts = config.attribute.parts
    plan = UnitPlan((("all", 0, whole.plan.num_units * parts),), 1)
    identity = {**whole.identity, "stage": NAME, "parts": parts}
    artifact = f"{GRAPH_ROWS}/{config.attribute.name}"
    return Work(NAME, artifact, identity, plan, unit_name="parts", hint=whole.hint)


def open(config: Config, work: Work) -> Context:
    """The model, whole, and the dictionaries on its device."""
    return attribute.open(config, work)


def run(unit: Unit, context: Context, guard: Guard) -> Outcome:
    """Take the rows of a part of a prompt's targets."""
    parts = context.config.attribute.parts
    number, part = divmod(unit.start, parts)
    prompt = context.prompts[number]
    made = prepared(
        context.loaded.model,
        context.dictionaries,
        torch.tensor(prompt.tokens, device=context.loaded.input_device),
        settings=graph_settings(context.config, prompt),
    )
    guard.check()
    piece = made.piece(made.share(part, parts), progress=guard.progress)
    guard.check()
    key = f"{context.segment}/{unit.index:08d}.npz"
    context.objects.put(key, to_bytes(piece, made.chosen))
    return Outcome(valid=1, figures={"key": key})


def finish(config: Config, begun: Begun, receipts: Mapping[int, Receipt]) -> Json:
    """Publish where the parts lie."""
    facts: Json = {"keys": [receipts[index].figures["key"] for index in sorted(receipts)]}
    publish(begun, facts)
    return facts
