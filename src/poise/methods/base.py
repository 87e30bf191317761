"""The contract of a method: features in, a reward distribution out, and the loss that trains it.

Head and loss are one class, so the loss never holds the model and the type between the two is checked. A method sees
neither text nor backbone, and nothing downstream sees the method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from poise.data.batch import Batch, Targets
from poise.distributions import RewardDistribution
from poise.errors import ConfigError, unknown_choice
from poise.features import Features

ConfigT = TypeVar("ConfigT")
Evidence = Literal["pairs", "ratings"]
RESERVED = "reward"  # no attribute's name: in tables of beliefs it is that of the whole


class Output(Protocol):
    """What ``forward`` returns: the reward, plus whatever only the method's own loss reads."""

    @property
    def reward(self) -> RewardDistribution:
        """The belief about each of the B responses."""
        ...


OutputT = TypeVar("OutputT", bound=Output)


class Method(nn.Module, ABC, Generic[ConfigT, OutputT]):
    """A head with its loss. Subclasses fill the class attributes, ``forward`` and ``loss``.

    ``input_scale`` multiplies the features (chosen once from the training features, folded into the weights at the end
    of training), so that one learning rate suits backbones whose states differ in size.
    """

    name: ClassVar[str]
    reference: ClassVar[str]
    Config: ClassVar[type[Any]]
    needs_prompt_state: ClassVar[bool] = False
    reads_margin: ClassVar[bool] = False
    """Whether the loss takes the pairs' own margins; where it does not, a run whose data has some says so."""
    default_stages: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    """The stages of a recipe that names none, for heads on frozen features."""

    input_scale: Tensor

    def __init__(self, config: ConfigT, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.hidden_size = hidden_size
        self.register_buffer("input_scale", torch.ones(()))

    @classmethod
    def for_data(cls, config: ConfigT, rated: Sequence[str]) -> ConfigT:
        """The configuration completed by what the training data has: ``rated`` names the attributes with ratings."""
        return config

    @property
    def learns_from(self) -> tuple[Evidence, ...]:
        """What the loss of this objective reads: preference pairs, rated responses, or both."""
        return ("pairs",)

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the A rated attributes that this head predicts or is supervised by."""
        return ()

    @property
    def rating_tokens(self) -> tuple[str, ...]:
        """The words that the head starts from as the language-model head knows them; see ``start_from``."""
        return ()

    def start_from(self, token_rows: Tensor) -> None:
        """Take over the backbone's own output weights [K, H] of the ``rating_tokens``."""
        raise ConfigError(f"method {self.name!r} does not start from the weights of tokens")

    @property
    def fits_features(self) -> bool:
        """Whether ``fit`` reads the features of all data; where they must be computed for it, the others get blank ones."""
        return False

    def fit(self, features: Features, batch: Batch) -> dict[str, float] | None:
        """Called once per stage with all its data, before any step.

        An objective that has a solver of its own solves itself here and returns figures to log: no step follows. The
        others prepare what depends on the whole data (the scale of an attribute, for instance) and return None.
        """
        return None

    @abstractmethod
    def forward(self, features: Features) -> OutputT:
        """B responses → their output; deterministic outside training."""

    @abstractmethod
    def loss(self, output: OutputT, batch: Batch) -> dict[str, Tensor]:
        """Named scalar terms; their sum is minimised and each is logged."""

    def diagnostics(self, output: OutputT, batch: Batch) -> dict[str, float]:
        """Cheap numbers worth watching while training, beyond the loss terms."""
        return {}

    def check_targets(self, targets: Targets) -> None:
        """Refuse (``ConfigError``) data that this loss cannot learn from; called once, before training."""

    def notes(self, targets: Targets) -> tuple[str, ...]:
        """What is odd about the training data though it can be learnt from: one line each, said once."""
        return ()

    def steered(self, output: OutputT, weights: Tensor) -> RewardDistribution:
        """The reward where a request weighs the attributes itself: ``weights`` [A], in the order of ``attributes``."""
        raise ConfigError(f"method {self.name!r} has no attributes to weigh; leave out weights=")

    def of_attributes(self, output: OutputT) -> Mapping[str, RewardDistribution]:
        """What it believes raters say about each attribute, on the unit scale [0, 1]; empty for methods without any."""
        return {}

    def trainable(self, parameter_name: str) -> bool:
        """Which parameters this objective trains."""
        return True

    @property
    def needs_reference(self) -> bool:
        """Whether the loss reads ``batch.reference``, the frozen distributions of the previous stage."""
        return False

    @property
    def needs_previous(self) -> bool:
        """Whether this objective goes on from what an earlier stage has learnt, and so cannot come first."""
        return self.needs_reference

    def linear_head(self) -> nn.Linear | None:
        """The one linear map that the whole head is, if it is one: such a head can live in any engine's checkpoint."""
        return None

    def fold_input_scale(self) -> None:
        """Move ``input_scale`` into the weights of the linear head, so that plain engines need not know of it."""
        head = self.linear_head()
        if head is not None:
            with torch.no_grad():
                head.weight.mul_(self.input_scale)
                self.input_scale.fill_(1.0)


def chosen_attributes(wanted: Sequence[str], rated: Sequence[str], method: str) -> tuple[str, ...]:
    """``wanted``, or everything that is rated where nothing is; ConfigError where the data lacks one or all, or where one
    has the name of the reward that is made of them."""
    if not rated:
        raise ConfigError(f"method {method!r} learns from ratings, and the data has none; name files in data.ratings")
    for name in wanted:
        if name not in rated:
            raise ConfigError(unknown_choice("attribute", name, rated))
    chosen = tuple(wanted) or tuple(rated)
    if RESERVED in chosen:
        raise ConfigError(
            f"an attribute of the ratings is called {RESERVED!r}, as the reward itself is in every table; "
            "rename it in the data, or list the others in the method's attributes"
        )
    return chosen
