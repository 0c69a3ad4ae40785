"""A whole run: its sections, its phases, and their way to JSON and back.

A recipe is a Python file whose ``get_config()`` returns a `FineTuneConfig`; it
states only what differs from these defaults. This module imports neither
TensorFlow nor Keras, so that a mistake in a recipe is reported at once.
"""

# No `from __future__ import annotations` here: it would turn the fields' types
# into strings, and config_flags parses `--config.fit.epochs=3` by the type itself.
import dataclasses
import json
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from tf_finetune.config_checks import check_values
from tf_finetune.errors import UserError
from tf_finetune.fit_settings import FitConfig
from tf_finetune.phase_checks import check_phases
from tf_finetune.settings import DataConfig, ModelConfig, ResultsConfig, TuneConfig
from tf_finetune.value_checks import check_types, nearest


@dataclasses.dataclass(slots=True, kw_only=True)
class Phase:
    """One stretch of training with a fixed set of trained layers.

    Attributes:
        name: for logs and reports; empty means the value of `train`.
        train: `head`; `all`; `last:K`, the head and the last K blocks; `from:NAME`,
            all from that layer or block on; `norm` or `bias`, the head and the
            normalisations' or all biases' variables; `lora`, the head and the adapters;
            `re:PATTERN`, the variables whose path holds the regular expression.
        epochs: passes over the training split.
        learning_rate: peak rate.
        schedule: of the rate: `linear`, `cosine`, `one_cycle`, `slanted_triangular`,
            `constant`, or `plateau`: halved after an epoch without a better
            validation figure, and without warm-up.
        warmup: share of the phase's updates in which the rate rises from 0.
        layer_decay: each block's rate is that of the one above it times this; 1 means
            one rate for all.
        batch_norm: of the backbone: `freeze` statistics, scale and shift; train scale
            and shift alone (`affine`); or `update` all of them, where `train` opens
            them.
        patience: epochs without a better validation figure, that by which the best epoch is
            chosen, before the phase ends; 0 means never.
    """

    name: str = ""
    train: str = "all"
    epochs: int = 1
    learning_rate: float = 1e-4
    schedule: str = "linear"
    warmup: float = 0.1
    layer_decay: float = 1.0
    batch_norm: str = "freeze"
    patience: int = 0


@dataclasses.dataclass(slots=True, kw_only=True)
class FineTuneConfig:
    """A whole run.

    Attributes:
        phases: the name of a recipe (`probe_then_tune`, `gradual`, `lora`, `probe`,
            `full`), or in Python a sequence of `Phase`.
    """

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    phases: Any = "probe_then_tune"
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)
    results: ResultsConfig = dataclasses.field(default_factory=ResultsConfig)
    tune: TuneConfig = dataclasses.field(default_factory=TuneConfig)

    def validate(self) -> None:
        """Checks every value that can be checked without reading data.

        Raises:
            UserError: naming the first wrong value, what is allowed and the mend.
        """
        check_types(self, "config")
        check_phases(self.phases, Phase)
        check_values(self)

    def to_json(self) -> str:
        """The whole configuration as indented JSON, from which `from_json` reads."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "FineTuneConfig":
        """Reads what `to_json` wrote.

        Raises:
            UserError: if it is not JSON or has an unknown key, with the nearest one.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"the configuration is not JSON: {error}.") from None
        config = _from_mapping(cls, values, "config")
        if isinstance(config.phases, list):
            config.phases = tuple(_from_mapping(Phase, p, "config.phases") for p in config.phases)
        return config


def differences(old: FineTuneConfig, new: FineTuneConfig) -> list[str]:
    """One line for each setting that differs: `fit.epochs: 2 -> 3`."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{key}: {before[key]!r} -> {after[key]!r}" for key in before if before[key] != after[key]
    ]


def _leaves(config: FineTuneConfig) -> Iterator[tuple[str, Any]]:
    for section, values in json.loads(config.to_json()).items():
        if isinstance(values, Mapping):
            yield from ((f"{section}.{key}", value) for key, value in values.items())
        else:
            yield section, values


def _from_mapping(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise UserError(f"{where} is {values!r}; it must be a JSON object.")
    hints = typing.get_type_hints(cls)
    made = {}
    for key, value in values.items():
        if key not in hints:
            raise UserError(f'{where} has no "{key}".{nearest(key, hints)}')
        if dataclasses.is_dataclass(hints[key]):
            value = _from_mapping(hints[key], value, f"{where}.{key}")
        elif typing.get_origin(hints[key]) is tuple and isinstance(value, list):
            value = tuple(value)
        made[key] = value
    return cls(**made)
