"""What is known of a reward model without its weights: how it renders, and which views it has."""

from __future__ import annotations

from typing import Any

from smorm.errors import ConfigError
from smorm.model import views
from smorm.model.card import ModelCard
from smorm.printing import get_logger
from smorm.text.chat import Renderer

log = get_logger(__name__)


class ModelDescription:
    """Tokenizer, renderer and card of a reward model; `name` is what messages call it."""

    def __init__(self, tokenizer: Any, card: ModelCard, *, name: str = "model") -> None:
        self.tokenizer, self.card, self.name = tokenizer, card, name
        self.renderer = Renderer(tokenizer, card.chat_template, card.max_tokens)

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attribute rows."""
        return self.card.attributes

    @property
    def has_both_heads(self) -> bool:
        """Whether it has attribute rows, and a preference row that was trained."""
        return bool(self.attributes) and self.card.preference_trained

    def view(self, value: Any = None) -> views.View:
        """A view by name (F, L, M or a published set of weights) or by definition, linear or
        pessimistic; None is the model's default. Raises ConfigError for an unknown view or row, a
        row that was not trained, ratings on another scale than a published set is for, or a default
        that is not linear."""
        requested = self.card.default_view if value is None else value
        if self.card.foreign and requested in ("F", "L", "M"):
            raise ConfigError(self._without_preference(requested))
        view = views.parse_view(requested, self.attributes)
        if views.PREFERENCE in view.rows and not self.card.preference_trained:
            raise ConfigError(
                f"view {view.name}: this model was trained on ratings alone: its preference row "
                "is not trained. Use L."
            )
        if value is None and isinstance(view, views.PessimisticView):
            raise ConfigError(
                f"{self.name}: its default view {view.name} is not linear: a model's own view must "
                "be, so that it can be exported. Name one."
            )
        if view.name in views.PUBLISHED and not isinstance(requested, views.View):
            doubt = views.doubt_of_scale(view.name, self.card.scales, self.card.means)
            if doubt is not None:
                log.warning("%s", doubt)
        # One that was resolved before has the constant already.
        if self.card.offset and not isinstance(value, views.View):
            view = views.shift_preference(view, self.card.offset)
        return view

    def _without_preference(self, name: str) -> str:
        labels, example = ", ".join(self.attributes), views.label_example(self.attributes)
        if self.card.classifier:
            return (
                f"view {name}: {self.name} is a classifier of {labels} (its problem_type is not "
                f"regression), so no label is the reward: say which one to read: {example}"
            )
        return (
            f"view {name}: {self.name} has no preference row, its rows are {labels}: say which "
            f"to read: {example}"
        )
