"""SPMTrack: several templates, and a token that carries the target's state from frame to frame.

Follows "SPMTrack: Spatio-Temporal Parameter-Efficient Fine-Tuning with Mixture of Experts" (Cai et al., 2025) as its
published system computes it. The state token stands right before the search tokens and not first of all: the blocks
treat tokens as a set, and so the last one leaves all templates out. Axes as in `lorat`; N templates.
"""

import torch
from torch import Tensor, nn

from lorat.train.network.blocks.layers import without_autocast
from lorat.train.network.blocks.lorat import OneStream, Prediction, Tracked
from lorat.train.network.blocks.positions import Rotary
from lorat.train.network.blocks.vit import Transformer


class SPMTrack(OneStream):
    """The network of SPMTrack. All templates have the same positions and token types."""

    def __init__(
        self, backbone: Transformer, template_grid: int, search_grid: int, token_type_std: float, templates: int
    ) -> None:
        """Take over the parts of `backbone`; its positions are brought to the search grid."""
        self.templates = templates
        super().__init__(backbone, template_grid, search_grid, token_type_std)
        # Drawn: where they are left as memory was, as in published code, losses may begin as NaN.
        self.track_query, self.query_embed = (nn.Parameter(torch.empty(1, self.plan.width)) for _ in range(2))
        nn.init.trunc_normal_(self.track_query, std=0.02)
        nn.init.trunc_normal_(self.query_embed, std=0.02)

    def _rotations(self, rotary: Rotary) -> Tensor:
        templates = rotary.table((self.template_grid,) * self.templates)
        return torch.cat((templates, rotary.table((self.search_grid,), prefix=1)), dim=1)

    @property
    def new_parts(self) -> tuple[nn.Module | nn.Parameter, ...]:
        """What is trained beside adapters."""
        return *super().new_parts, self.track_query, self.query_embed

    @property
    def tokens(self) -> int:
        """How many tokens pass the blocks for a frame."""
        return self.templates * self.template_length + 1 + self.search_grid**2

    def predict(
        self, template: Tensor, template_mask: Tensor, search: Tensor, reference: Tensor | None = None
    ) -> tuple[Prediction, ...]:
        """Find the object in each search crop, with the state that the one before left, without its gradient."""
        memory, state = self.remember(template, template_mask), None
        found: list[Prediction] = []  # not list[…](), which PyTorch's compiler cannot follow
        for crop in search.unbind(1):
            prediction, state = self.follow(memory, crop, state)
            found.append(prediction)
        return tuple(found)

    def remember(self, template: Tensor, template_mask: Tensor, reference: Tensor | None = None) -> Tensor:
        """Return the tokens of all templates, one after another."""
        tokens = self.embed_template(template.flatten(0, 1), template_mask.flatten(0, 1))
        return tokens.reshape(template.shape[0], -1, tokens.shape[2])

    def follow(self, memory: Tensor, search: Tensor, state: Tensor | None = None) -> Tracked:
        """Find the object of templates' tokens. The state (B, 1, D), float32, is the token's after the last norm; None
        is as good as zeros.
        """
        query = (self.track_query + self.query_embed).expand(search.shape[0], 1, -1)
        query = query if state is None else query + state
        found = self._pass(memory, torch.cat((query, self._embed_search(search)), dim=1))
        with without_autocast(found):
            # Not scaled, so the products are beyond float16.
            own, tokens = found.float().split((1, found.shape[1] - 1), dim=1)
            weighed = tokens * (tokens * own).sum(-1, keepdim=True)
            return Tracked(Prediction(*self.head(weighed)), own.detach())
