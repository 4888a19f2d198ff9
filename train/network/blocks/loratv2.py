"""LoRATv2: frames pass the transformer one after another; each sees those before it, whose keys and values are kept.

Follows "LoRATv2: Enabling Low-Cost Temporal Modeling in One-Stream Trackers" (Lin et al., 2025) as its published system
computes it. The frames, a stream each: 0 the template behind the backbone's register tokens; in the second phase 1 a
reference, a later look at the object; last the search region. Streams have weights in common and pairs of their own.
What a frame gives does not depend on later ones, so training, which has all at once, and tracking, which has one at a
time, compute the same. In the second phase the streams and token types of the first are frozen; a network trained whole
has one phase.
Axes as in `lorat`; H heads, d channels of a head, L blocks, M tokens of earlier frames.
"""

import copy
from typing import cast

import torch
from torch import Tensor, nn

from lorat.train.network.blocks.layers import Block, Dense, Frames, add_residuals, attend, replace_layers, split_heads
from lorat.train.network.blocks.lora import StreamLinear, Streams
from lorat.train.network.blocks.lorat import SEARCH_TYPE, OneStream, Prediction, Tracked
from lorat.train.network.blocks.vit import Attention, Transformer

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of a block, (B, H, M, d) both."""


class CausalAttention(Attention):
    """Self-attention in which a frame gathers from itself and from those before it."""

    def forward(  # type: ignore[override]
        self, frames: Frames, first: int, past: KeyValue | None, kept: int
    ) -> tuple[list[Tensor], KeyValue]:
        """Return what each of the last `kept` frames gathers (B, T, D), and keys and values of all, behind those of
        the `past`. The frames are streams from `first` on.
        """
        gathered: list[Tensor] = []
        count = len(frames)
        for number, x in enumerate(frames):
            stream, goes_on = first + number, number >= count - kept
            query, *own = self._project(x, stream, goes_on)
            past = (
                (own[0], own[1]) if past is None else (torch.cat((past[0], own[0]), 2), torch.cat((past[1], own[1]), 2))
            )
            if goes_on:
                found = attend(query, *past).transpose(1, 2).flatten(2)
                gathered.append(self.proj(found, stream))
        assert past is not None
        return gathered, past

    def _project(self, x: Tensor, stream: int, with_query: bool) -> tuple[Tensor, ...]:
        """Return queries, keys and values (B, H, T, d) of a frame; without queries these are those of the keys."""
        if not with_query and isinstance(self.qkv, Streams):
            layer = cast("Dense", self.qkv[stream])
            width = layer.out_features // 3
            key, value = split_heads(layer.outputs(x, width, 3 * width), self.heads, 2)
            return key, key, value
        return split_heads(self.qkv(x, stream), self.heads, 3)


class CausalBlock(Block):
    """A transformer block of several frames, which samples are dropped from alike in training."""

    @classmethod
    def of(cls, block: nn.Module) -> "CausalBlock":
        """Take over the parts of a plain block."""
        assert isinstance(block, Block) and isinstance(block.attn, Attention)
        attention = CausalAttention(block.attn.qkv, block.attn.proj, block.attn.heads)
        return cls(attention, block.mlp, (block.norm1, block.norm2), (block.ls1, block.ls2), block.drop_path)

    def forward(self, frames: Frames, first: int, past: KeyValue | None, kept: int) -> tuple[list[Tensor], KeyValue]:  # type: ignore[override]
        """Return the last `kept` of the frames (B, T, D), streams from `first` on, as the next block takes them, and
        keys and values of all behind those of the `past`.
        """
        rate = self.drop_path if self.training else 0.0
        begin = first + len(frames) - kept
        if torch.is_grad_enabled() and kept and begin > first:
            frames = [*frames[:-1], frames[-1] + self._of_no_tokens(frames[-1], range(first, begin))]

        def gather(frames: Frames) -> list[Tensor]:
            nonlocal past
            gathered, past = self.attn([self.norm1(x) for x in frames], first, past, kept)
            return [self.ls1(x) for x in gathered]

        def think(frames: Frames) -> list[Tensor]:
            return [self.ls2(self.mlp(self.norm2(x), stream)) for stream, x in enumerate(frames, begin)]

        frames = add_residuals(frames[len(frames) - kept :], frames, gather, rate) if kept else gather(frames)
        assert past is not None
        return (add_residuals(frames, frames, think, rate) if kept else []), past

    def _of_no_tokens(self, x: Tensor, streams: range) -> Tensor:
        """Return 0, the sum of what layers behind the attention of the last block make of no tokens at all: nothing
        reads these streams there, but what is trained of them has a gradient of zero, for which processes that average
        theirs wait, and decays.
        """
        gathered = [cast("CausalAttention", self.attn).proj(x[:, :0], stream) for stream in streams]
        return torch.stack([self.mlp(x, stream).sum() for stream, x in zip(streams, gathered, strict=True)]).sum()


class LoRATv2(OneStream):
    """The network of LoRATv2. What earlier frames left, a memory, is a tensor (B, L, 2, H, M, d) of keys and values."""

    def __init__(
        self,
        backbone: Transformer,
        template_grid: int,
        search_grid: int,
        token_type_std: float,
        reference_grid: int | None = None,
    ) -> None:
        """Take over the parts of `backbone`; a grid of references is there in the second phase alone."""
        super().__init__(backbone, template_grid, search_grid, token_type_std)
        blocks = list(map(CausalBlock.of, self.blocks))
        self.reference_grid, self.heads = reference_grid, cast("Attention", blocks[0].attn).heads
        self.blocks = nn.ModuleList(blocks)
        self.register_parameter("search_type_embed", None)
        if reference_grid is not None:  # in the first phase it is a row of the table, which becomes the reference's
            self.search_type_embed = nn.Parameter(torch.empty(1, self.plan.width))
            nn.init.trunc_normal_(self.search_type_embed, std=token_type_std)

    @property
    def new_parts(self) -> tuple[nn.Module | nn.Parameter, ...]:
        """What is trained beside adapters."""
        return super().new_parts if self.reference_grid is None else (self.search_type_embed, self.head)

    @property
    def tokens(self) -> int:
        """How many tokens pass the blocks for a frame that is tracked."""
        return self.search_grid**2

    @property
    def memory_shape(self) -> tuple[int, ...]:
        """The shape of a sequence's whole memory, (L, 2, H, M, d)."""
        length, width = self.template_length + (self.reference_grid or 0) ** 2, self.plan.width
        return len(self.blocks), 2, self.heads, length, width // self.heads

    def predict(
        self, template: Tensor, template_mask: Tensor, search: Tensor, reference: Tensor | None = None
    ) -> tuple[Prediction, ...]:
        """Find the only template's object in the only search crop, with the reference in the second phase."""
        frames = [self.embed_template(template[:, 0], template_mask[:, 0])]
        if self.reference_grid is not None:
            assert reference is not None
            frames.append(self._embed_reference(reference))
        frames.append(self._embed_search(search[:, 0]))
        return (self._judge(frames, 0),)

    def remember(self, template: Tensor, template_mask: Tensor, reference: Tensor | None = None) -> Tensor:
        """Return the memory of the only template, with that of the reference in the second phase."""
        memory = self.remember_template(template[:, 0], template_mask[:, 0])
        return memory if reference is None else self.remember_reference(memory, reference)

    def follow(self, memory: Tensor, search: Tensor, state: Tensor | None = None) -> Tracked:
        """Find the object of a whole memory."""
        return Tracked(self._judge([self._embed_search(search)], 1 + (self.reference_grid is not None), memory), None)

    def remember_template(self, template: Tensor, template_mask: Tensor) -> Tensor:
        """Return the memory of a normalised template (B, 3, h, w) with its mask (B, g, g)."""
        memory: list[KeyValue] = []
        self._pass_frames([self.embed_template(template, template_mask)], 0, None, memory)
        return torch.stack([torch.stack(pair, 1) for pair in memory], 1)

    def remember_reference(self, memory: Tensor, reference: Tensor) -> Tensor:
        """Return the memory of a template with that of a normalised reference (B, 3, r, r) behind it, in the place of
        what was there.
        """
        after: list[KeyValue] = []
        known = memory[..., : self.template_length, :]
        self._pass_frames([self._embed_reference(reference)], 1, known, after)
        return torch.stack([torch.stack(pair, 1) for pair in after], 1)

    def _judge(self, frames: Frames, first: int, memory: Tensor | None = None) -> Prediction:
        """Find the object in the last of frames."""
        (tokens,) = self._pass_frames(frames, first, memory)
        return Prediction(*self.head(self.norm(tokens)))

    def _pass_frames(
        self, frames: Frames, first: int, memory: Tensor | None, remember: list[KeyValue] | None = None
    ) -> Frames:
        """Let frames, streams from `first` on, pass the blocks behind a memory. Return the last one, or, where there is
        a list to `remember` keys and values in, the memory's and theirs of each block, none.
        """
        frames = [frame.contiguous() for frame in frames]  # as patches give them, every norm would turn them round
        for number, block in enumerate(self.blocks, start=1):
            past = None if memory is None else memory[:, number - 1].unbind(1)
            # Nothing reads earlier frames after the last block's attention.
            kept = len(frames) if number < len(self.blocks) else int(remember is None)
            frames, past = self._run(block, frames, first, past, kept)
            if remember is not None:
                remember.append(past)
        return frames

    def _embed_reference(self, reference: Tensor) -> Tensor:
        assert self.reference_grid is not None
        return self._embed(reference, self.reference_grid) + self.token_type_embed[SEARCH_TYPE]

    def _embed_search(self, search: Tensor) -> Tensor:
        if self.reference_grid is None:
            return super()._embed_search(search)
        return self._embed(search, self.search_grid) + self.search_type_embed


def separate_streams(blocks: nn.Module, streams: int) -> None:
    """Give every stream the linear layers inside `blocks` as its own, in place: as they are, and copies."""

    def copies(path: str, layer: Dense) -> Streams:
        return Streams([layer, *(copy.deepcopy(layer) for _ in range(streams - 1))])

    replace_layers(blocks, Dense, copies)


def freeze_first_phase(network: OneStream) -> None:
    """Train only what the second phase adds to a network with pairs: the last stream's, its token type and the head."""
    for layer in network.blocks.modules():
        if isinstance(layer, StreamLinear):
            for factors in (layer.lora_a, layer.lora_b):
                factors[:-1].requires_grad_(False)
