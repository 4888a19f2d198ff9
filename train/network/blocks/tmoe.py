"""SPMTrack's mixture of experts on frozen linear layers (TMoE, Cai et al., 2025): trained beside them as LoRA's pairs
are, and, since a router weighs the experts anew for each token, never merged.

A layer computes ``x·Wᵀ + b + s·Σ_e g_e(x)·(x·Aᵀ)·B_eᵀ`` with ``g(x) = softmax(x·Rᵀ)``. All experts share A, so the sum
is one product: of ``[g_1·u, …, g_E·u]``, where ``u = x·Aᵀ``, with the experts side by side. Of a token only u and g are
kept for the backward pass, which a sum of experts one by one would keep the wide results for.
Axes: N rows (tokens of all samples), P parts of a layer that have experts, E experts, r rank.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lorat.configs.schema import LoraConfig
from lorat.train.network.blocks.layers import Adapter, Pairing, operand, product, product_over_rows, without_autocast


class _Plan(NamedTuple):
    """How the factors of a layer are laid out."""

    pairing: Pairing
    rank: int
    own_first: bool  # whether each expert has a first factor of its own
    shared: bool  # whether there is an expert without a gate

    def split(self, inner: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        """Return a part's inner values (N, C, r) of (N, C·r), and what the experts are weighed by (N, E, 1), of its
        gates (N, E): these times the scale, and the scale of the shared one.
        """
        shares = (F.pad(gate, (0, 1), value=1.0) if self.shared else gate) * self.pairing.scale
        return inner.unflatten(1, (-1, self.rank)), shares.to(inner.dtype).unsqueeze(-1)


class TmoeLinear(Adapter):
    """A frozen linear layer with a mixture of low-rank experts: `lora_a` (P, C·r, in) the first factors, C being 1, or
    E where each expert has its own; `lora_b` (P, out / results, E·r) the experts side by side, the shared one last
    where there is one; `lora_router` (P, E, in).
    """

    def __init__(self, linear: nn.Linear, config: LoraConfig, results: tuple[str, ...] = ()) -> None:
        """Take over the tensors of a layer (see `Adapter`)."""
        super().__init__(linear, config, results)
        count, width, rank = len(self.pairing.slots), linear.in_features, config.rank
        self.plan = _Plan(self.pairing, rank, config.route_compression, config.shared_expert)
        first, second = config.experts if config.route_compression else 1, config.experts + config.shared_expert

        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(count, *shape, device=linear.weight.device))

        self.lora_a = empty(first * rank, width)
        self.lora_b = empty(linear.out_features // self.pairing.results, second * rank)
        self.lora_router = empty(config.experts, width)
        init_factors(self.lora_a, self.lora_b, config)
        nn.init.uniform_(self.lora_router, -(width**-0.5), width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, out) for x (…, in), in autocast's number type or else the weight's."""
        x = operand(x, self)
        thinned = F.dropout(x, self.dropout) if self.dropout and self.training else None
        factors = self.lora_a, self.lora_b, self.lora_router
        return _Mixture.apply(x, thinned, self.weight, self.bias, *factors, self.plan)

    def factors(self) -> dict[str, Tensor]:
        """Return the published names below the layer's: ``tmoe.…``, of each part where there are several."""
        named = dict[str, Tensor]()
        for part, a, b, router in zip(self.parts or ("",), self.lora_a, self.lora_b, self.lora_router, strict=True):
            firsts, seconds = a.detach().split(self.plan.rank), b.detach().split(self.plan.rank, dim=1)
            own = {f"compress_expert.{e}": first for e, first in enumerate(firsts)}
            own = own if self.plan.own_first else {"compress_expert": firsts[0]}
            own |= {f"routed_experts.{e}": second for e, second in enumerate(seconds[: len(router)])}
            own |= {"shared_expert": seconds[-1]} if self.plan.shared else {}
            own["expert_route.weight"] = router.detach()
            named |= {f"{part}.tmoe.{name}".lstrip("."): tensor for name, tensor in own.items()}
        return named


def init_factors(a: Tensor, b: Tensor, config: LoraConfig) -> None:
    """Draw the first and second factors of products of rank r, a (…, in) and b, as ``lora.init`` says."""
    if config.init == "bert":
        nn.init.trunc_normal_(a, std=0.02)
        nn.init.trunc_normal_(b, std=0.02)
        return
    nn.init.zeros_(b)
    if config.init == "gaussian":
        nn.init.normal_(a, std=1.0 / config.rank)
    else:
        nn.init.uniform_(a, -(a.shape[-1] ** -0.5), a.shape[-1] ** -0.5)


class _Mixture(torch.autograd.Function):
    """``x·Wᵀ + bias`` and the mixture; gradients for x, its thinned copy (or None), A, B and R only."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        thinned: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        router: Tensor,
        plan: _Plan,
    ) -> Tensor:
        with without_autocast(x):
            rows = x.flatten(0, -2)
            thin = rows if thinned is None else thinned.flatten(0, -2)
            inner = product(thin, a.flatten(0, 1).to(x.dtype))
            gates = product(rows, router.flatten(0, 1).to(x.dtype)).unflatten(1, router.shape[:2]).float().softmax(-1)
            y = product(rows, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
            for slot, part, gate, second in zip(
                plan.pairing.slots, inner.chunk(len(b), 1), gates.unbind(1), b, strict=True
            ):
                part, shares = plan.split(part, gate)
                y.chunk(plan.pairing.results, 1)[slot].add_(product((shares * part).flatten(1), second.to(x.dtype)))
        ctx.save_for_backward(x, thinned, weight, a, b, router, inner, gates)
        ctx.plan = plan
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, thinned, weight, a, b, router, inner, gates), plan = ctx.saved_tensors, ctx.plan
        grad_b: list[Tensor] = []
        grad_inner: list[Tensor] = []
        grad_logits: list[Tensor] = []
        with without_autocast(x):
            rows, grad = x.flatten(0, -2), grad.flatten(0, -2)
            thin = rows if thinned is None else thinned.flatten(0, -2)
            pieces = grad.chunk(plan.pairing.results, 1)
            for slot, part, gate, second in zip(
                plan.pairing.slots, inner.chunk(len(b), 1), gates.unbind(1), b, strict=True
            ):
                part, shares = plan.split(part, gate)
                grad_b.append(product_over_rows(pieces[slot], (shares * part).flatten(1)))
                wide = product(pieces[slot], second.to(x.dtype).t()).view(*shares.shape[:2], plan.rank)
                own = wide * shares
                grad_inner.append(own.flatten(1) if plan.own_first else own.sum(1))
                grad_gate = (wide * part)[:, : gate.shape[1]].sum(-1, dtype=torch.float32) * plan.pairing.scale
                grad_logits.append(gate * (grad_gate - (gate * grad_gate).sum(-1, keepdim=True)))
            inside, logits = torch.cat(grad_inner, 1), torch.cat(grad_logits, 1).to(x.dtype)
            grad_thin = product(inside, a.flatten(0, 1).to(x.dtype).t())
            grad_x = product(grad, weight.to(x.dtype).t()).add_(product(logits, router.flatten(0, 1).to(x.dtype).t()))
            grad_a, grad_router = product_over_rows(thin, inside).t(), product_over_rows(rows, logits).t()
        if thinned is None:
            grad_x = grad_x.add_(grad_thin)
        grads = (
            g.to(p.dtype).reshape(p.shape) for g, p in ((grad_a, a), (torch.stack(grad_b), b), (grad_router, router))
        )
        return grad_x.view_as(x), None if thinned is None else grad_thin.view_as(x), None, None, *grads, None
