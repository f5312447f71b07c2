"""The configuration: one YAML file, strictly validated, overridden by `dotted.key=value`."""

from smorm.config.objective import METHODS, ObjectiveSection
from smorm.config.reading import dump_config, load_config, load_section, parse_config, parse_section
from smorm.config.sections import (
    BOOKKEEPING,
    Architecture,
    BaseDtype,
    Config,
    LoraConfig,
    SourceConfig,
    TrainedTokenizer,
    decisive,
)

__all__ = [
    "BOOKKEEPING",
    "METHODS",
    "Architecture",
    "BaseDtype",
    "Config",
    "LoraConfig",
    "ObjectiveSection",
    "SourceConfig",
    "TrainedTokenizer",
    "decisive",
    "dump_config",
    "load_config",
    "load_section",
    "parse_config",
    "parse_section",
]
