"""Help texts of the command line, made from the dataclasses and the files in `conf/`."""

from __future__ import annotations

from dataclasses import Field, fields, is_dataclass
from difflib import get_close_matches
from importlib import resources
from inspect import cleandoc
from textwrap import indent

from bathyscope.config import (
    AttributeConfig,
    Config,
    ConvertConfig,
    InterveneConfig,
    RedoConfig,
    StatusConfig,
    VerifyConfig,
)
from bathyscope.errors import ConfigError

COMMANDS = {
    "run": "all stages in order; goes on where it stopped",
    "plan": "what a run would do and need; does nothing",
    "corpus": "text becomes token sequences, deduplicated and split",
    "harvest": "the model runs over the corpus; activations are stored",
    "train": "a dictionary is trained on the activations",
    "stream": "harvest and training at the same time, with a bounded disk",
    "sweep": "many dictionaries over a grid of settings, several to a pass, and a table of them",
    "fine-tune": "a trained dictionary goes on a little, its loss through the model",
    "encode": "every row becomes its active latents",
    "evaluate": "reconstruction and spliced-model figures, with controls",
    "describe": "densities, examples and promoted tokens of every latent",
    "report": "a static page that opens from disk",
    "attribute": "what outputs come from: a graph of latents for each prompt, checked",
    "study": "a question asked of a family of models: measurements, fits, verdicts, a report",
    "nightly": "what is new in watched checkpoints and text is extracted and compared",
    "ladder": "small decoders of growing size are trained alike, as a family to study",
    "intervene": "latents, heads or modules are changed in the model, and what follows is shown",
    "status": "how far a run is, how fast, what went wrong: from what lies in it alone",
    "verify": "compares a run with its receipts, byte by byte; changes nothing",
    "redo": "takes receipts back, so that their units are done again",
    "convert": "a dictionary of one project's format becomes one of another's",
}
# These take the folder that they are about, and settings of their own alone.
OF_A_FOLDER = {
    "status": ("bathyscope status RUN [key=value …]", StatusConfig),
    "verify": ("bathyscope verify RUN [key=value …]", VerifyConfig),
    "redo": ("bathyscope redo ARTIFACT redo.segment=… redo.units=[…]", RedoConfig),
    "convert": ("bathyscope convert FOLDER convert.to=FOLDER convert.format=…", ConvertConfig),
    "attribute": ("bathyscope attribute RUN attribute.prompts=['…']", AttributeConfig),
    "intervene": (
        "bathyscope intervene RUN intervene.prompt='…' intervene.latents=[…] intervene.values=[…]",
        InterveneConfig,
    ),
}
GROUPS = (
    "model",
    "data",
    "hooks",
    "dictionary",
    "train",
    "sweep",
    "logging",
    "store",
    "cluster",
    "hardware",
    "ladder",
    "family",
    "study",
    "experiment",
)


def all_commands() -> str:
    """The text of `bathyscope --help`."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}s}  {about}" for name, about in COMMANDS.items())
    return (
        "bathyscope <command> group=choice key=value …\n\n"
        f"{listed}\n\n"
        "bathyscope <command> --help   groups and settings\n"
        "bathyscope <command> --cfg    the resolved configuration\n"
        "First steps: bathyscope run experiment=demo url=runs/demo"
    )


def one_command(command: str) -> str:
    """The text of `bathyscope <command> --help`. Raises `ConfigError` for an unknown command."""
    if command not in COMMANDS:
        near = get_close_matches(command, COMMANDS, n=2)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(
            f"There is no command {command!r}.{hint} Commands: {', '.join(COMMANDS)}."
        )
    if command in OF_A_FOLDER:
        usage, kind = OF_A_FOLDER[command]
        return "\n".join([usage, "", COMMANDS[command], "", *_settings(kind, f"{command}.")])
    lines = [f"bathyscope {command} group=choice key=value …", "", COMMANDS[command], "", "Groups"]
    lines += [f"  {group:11s} {', '.join(choices(group))}" for group in GROUPS]
    lines += ["", "Settings", *_settings(Config)]
    return "\n".join(lines)


def choices(group: str) -> list[str]:
    """The YAML files of a group, by name."""
    folder = resources.files("bathyscope.conf") / group
    files = (entry.name for entry in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))


def _settings(kind: type, prefix: str = "") -> list[str]:
    lines: list[str] = []
    nested = []
    for item in fields(kind):
        inner = _dataclass_of(item)
        if inner is None:
            name, default = f"{prefix}{item.name}", _default(item)
            lines.append(f"  {name:31s} {item.metadata['help']} [{default}]")
        else:
            nested.append((item.name, inner))
    for name, inner in nested:
        about = indent(cleandoc(inner.__doc__ or ""), "  ")
        lines += ["", about, *_settings(inner, f"{prefix}{name}.")]
    return lines


def _dataclass_of(item: Field[object]) -> type | None:
    factory = item.default_factory
    return factory if isinstance(factory, type) and is_dataclass(factory) else None


def _default(item: Field[object]) -> object:
    if callable(item.default_factory):
        made = item.default_factory()
        return ", ".join(map(str, made)) if isinstance(made, list) else made or "none"
    return "none" if item.default is None else item.default
