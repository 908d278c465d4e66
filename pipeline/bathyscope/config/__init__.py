"""The configuration: dataclasses are the schema, YAML files in `conf/` hold values.

Every field carries a line of help, which `bathyscope <command> --help` prints, and the numbers that
it may be. Rules that join settings are in `config_rules`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass

from bathyscope.config.attribute import AttributeConfig
from bathyscope.config.cluster import ClusterConfig, HardwareConfig
from bathyscope.config.data import DataConfig
from bathyscope.config.dictionary import (
    DictionaryConfig,
    FineTuneConfig,
    LoggingConfig,
    SweepConfig,
    TrainConfig,
)
from bathyscope.config.exchange import ConvertConfig
from bathyscope.config.intervene import InterveneConfig
from bathyscope.config.ladder import LadderConfig
from bathyscope.config.measures import DescribeConfig, EvaluateConfig
from bathyscope.config.model import HooksConfig, ModelConfig
from bathyscope.config.nightly import NightlyConfig
from bathyscope.config.option import option
from bathyscope.config.store import RedoConfig, StatusConfig, StoreConfig, VerifyConfig
from bathyscope.config.study import FamilyConfig, StudyConfig

__all__ = [
    "AttributeConfig",
    "ClusterConfig",
    "Config",
    "ConvertConfig",
    "DataConfig",
    "DescribeConfig",
    "DictionaryConfig",
    "EvaluateConfig",
    "FamilyConfig",
    "FineTuneConfig",
    "HardwareConfig",
    "HooksConfig",
    "InterveneConfig",
    "LadderConfig",
    "LoggingConfig",
    "ModelConfig",
    "NightlyConfig",
    "RedoConfig",
    "StatusConfig",
    "StoreConfig",
    "StudyConfig",
    "SweepConfig",
    "TrainConfig",
    "VerifyConfig",
    "setting_names",
]


@dataclass
class Config:
    """A run: one folder, and everything that decides what is in it."""

    url: str = option("runs/default", "folder of the run: a path, s3://… or gs://…")
    cache: str | None = option(None, "folder for converted models and extracted text")
    force: bool = option(False, "replace artifacts that were made from something else")
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    hooks: HooksConfig = field(default_factory=HooksConfig)
    dictionary: DictionaryConfig = field(default_factory=DictionaryConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    fine_tune: FineTuneConfig = field(default_factory=FineTuneConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    describe: DescribeConfig = field(default_factory=DescribeConfig)
    attribute: AttributeConfig = field(default_factory=AttributeConfig)
    ladder: LadderConfig = field(default_factory=LadderConfig)
    family: FamilyConfig = field(default_factory=FamilyConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    nightly: NightlyConfig = field(default_factory=NightlyConfig)
    status: StatusConfig = field(default_factory=StatusConfig)
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    redo: RedoConfig = field(default_factory=RedoConfig)
    convert: ConvertConfig = field(default_factory=ConvertConfig)
    intervene: InterveneConfig = field(default_factory=InterveneConfig)

    @property
    def hook(self) -> str:
        """The hook point that the dictionary reads, the first of several."""
        return self.inputs[0]

    @property
    def inputs(self) -> list[str]:
        """The hook points that the dictionary reads."""
        chosen = self.dictionary
        if chosen.layer is not None:
            return [f"mlp_in.{chosen.layer}"]
        return list(chosen.inputs) or [chosen.hook or self.hooks.points[0]]

    @property
    def outputs(self) -> list[str]:
        """The hook points that it writes; those that it reads where no others are set."""
        if self.dictionary.layer is not None:
            return [f"mlp_out.{self.dictionary.layer}"]
        return list(self.dictionary.outputs) or self.inputs


def setting_names(kind: type = Config, prefix: str = "") -> list[str]:
    """Every setting as the command line spells it, and every group."""
    names: list[str] = []
    for item in fields(kind):
        names.append(f"{prefix}{item.name}")
        inner = item.default_factory
        if isinstance(inner, type) and is_dataclass(inner):
            names += setting_names(inner, f"{prefix}{item.name}.")
    return names if prefix else [*names, "experiment"]
