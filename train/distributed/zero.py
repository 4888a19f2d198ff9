"""ZeRO by DeepSpeed (extra ``deepspeed``): optimiser state over the ranks (stage 1), gradients and weights too (3).

DeepSpeed averages gradients, clips them and does the optimiser's step; what is computed before is the trainer's.
Parameters keep their names, so what is put together is what a single process has, and files go both ways. It wants all
parameters in float32: frozen matrices are rounded by autocast at every product instead of once. A gradient that is not
finite leaves its step out, and has the norm inf.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lorat.shards.base.errors import UserError

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Zero:
    """A module and its AdamW, both equal on all ranks, in the hands of DeepSpeed from here on."""

    def __init__(
        self, module: nn.Module, optimizer: Optimizer, stage: int, clip_norm: float, device: torch.device
    ) -> None:
        """Spread what `stage` says over all ranks; the optimiser's state, if it has one, goes on."""
        os.environ.setdefault("DS_ACCELERATOR", "cpu" if device.type == "cpu" else "cuda")
        try:
            import deepspeed
        except ImportError:
            raise UserError("train.parallel=deepspeed needs DeepSpeed; pip install 'lorat[deepspeed]'") from None
        # Of processors alone: its operator for sums in shared memory is compiled for a minute at the first start, and
        # gloo sums as well.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        self._api, self._stage, self._groups = deepspeed, stage, optimizer.state_dict()["param_groups"]
        self._trained: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
        before = dict(optimizer.state)
        optimizer.state.clear()  # from here on it is of parts
        config = {
            "train_micro_batch_size_per_gpu": 1,  # of its own counts alone
            "gradient_accumulation_steps": 1,  # the trainer says itself when a step is due
            "gradient_clipping": clip_norm,
            "zero_optimization": {"stage": stage, "contiguous_gradients": True, "overlap_comm": device.type != "cpu"},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": None,
        }
        self.module, self.optimizer, _, _ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
        self._spread(before)

    def accumulate(self, inputs: Sequence[Tensor | None], *, last: bool) -> Any:
        """Add a micro-batch's gradients and return what the module did; after the `last`, ranks share theirs."""
        self.module.set_gradient_accumulation_boundary(last)
        losses = self.module(*inputs)
        self.module.backward(losses.total)
        return losses

    def step(self, left_out: bool) -> Tensor:
        """Do the optimiser's step unless it is `left_out`; return the gradient's norm before clipping, which is inf or
        NaN where DeepSpeed left it out.
        """
        if left_out:
            self.module.optimizer.zero_grad()
            return torch.full((), torch.nan, device=self.module.device)
        self.module.step()
        return torch.as_tensor(self.module.get_global_grad_norm(), dtype=torch.float32, device=self.module.device)

    def whole(self) -> tuple[Callable[[nn.Parameter], Tensor], dict[str, Any]]:
        """Return what gathers a parameter's values, for every rank to call, and the ``state_dict`` of one process's
        optimiser, with values on rank 0 alone.
        """
        steps = next(iter(self.optimizer.optimizer.state.values()))["step"]
        keeper = "cpu" if torch.distributed.get_rank() == 0 else "meta"
        moments = [{key: self._moment(p, key).to(keeper) for key in _MOMENTS} for p in self._trained]
        state = {number: {"step": steps.detach().clone(), **found} for number, found in enumerate(moments) if steps}
        groups = [
            told | {key: now[key] for key in told.keys() - {"params"}}
            for told, now in zip(self._groups, self.optimizer.param_groups, strict=True)
        ]
        return self._gather, {"state": state, "param_groups": groups}

    def _gather(self, parameter: nn.Parameter) -> Tensor:
        with self._api.zero.GatheredParameters([parameter]) if self._stage == 3 else nullcontext():
            return parameter.detach().clone()

    def _moment(self, parameter: nn.Parameter, key: str) -> Tensor:
        found = self._api.utils.safe_get_full_optimizer_state(parameter, key)
        return found.detach().reshape(getattr(parameter, "ds_shape", parameter.shape))

    def _spread(self, before: Mapping[Tensor, dict[str, Tensor]]) -> None:
        """Make room for the optimiser's state, and give each rank its part of what there was. DeepSpeed would do so at
        its first step, but then it finds the state of the first group of parameters alone.
        """
        zero = self.optimizer
        flat = zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups
        steps = next(iter(before.values()))["step"] if before else torch.zeros(())
        for part in flat:
            zero.optimizer.state[part] = {"step": steps.clone(), **{key: torch.zeros_like(part) for key in _MOMENTS}}
        if self._stage != 3:
            zero._lazy_init_hp_params_optimizer_state()
        for parameter, state in before.items():
            for key in _MOMENTS:
                value = state[key].to(self.module.device)
                self._api.utils.safe_set_full_optimizer_state(parameter, value, key)
