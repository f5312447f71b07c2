"""The token limit of a run, which the positions of its backbone bound."""

from smorm.config import Architecture, Config
from smorm.errors import ConfigError
from smorm.model.backbone import architecture_positions, positions_of
from smorm.printing import get_logger

log = get_logger(__name__)


def positions_of_run(config: Config) -> int | None:
    """How many positions a run's backbone has, without loading it; None where it does not say."""
    spec = config.model.backbone
    if isinstance(spec, Architecture):
        return architecture_positions(spec.architecture, spec.fields())
    return positions_of(spec)


def over_positions(max_tokens: int, positions: int) -> str:
    """What is wrong with a limit that is chosen larger than the backbone's positions."""
    problem = f"data.max_tokens: {max_tokens}, the backbone has {positions} positions"
    return f"{problem}: set data.max_tokens={positions} or less"


def within_positions(config: Config) -> Config:
    """The configuration with a limit that the backbone can read, told before anything is tokenised:
    a default limit is lowered to its positions, one that was chosen is a ConfigError."""
    positions, data = positions_of_run(config), config.data
    if positions is None or data.max_tokens <= positions:
        return config
    if "max_tokens" in data.model_fields_set:
        raise ConfigError(over_positions(data.max_tokens, positions))
    log.info("data.max_tokens: %d, the backbone's positions", positions)
    data = data.model_copy(update={"max_tokens": positions})
    return config.model_copy(update={"data": data})
