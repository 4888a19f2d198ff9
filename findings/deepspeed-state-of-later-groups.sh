#!/bin/sh
# DeepSpeed 0.19.8 with ZeRO stage 1, PyTorch 2.14.1, an optimiser of two parameter groups.
#
# Expected: after a step safe_get_full_optimizer_state() returns Adam's means of every trained parameter.
# Seen: it does for the first group's; for the second group's it raises ValueError (exp_avg not found in optimizer state
# fragment). The state is linked to the parameters when the first group's step is done, when the others have none yet.
# Here: the optimiser's state is made before the first step, so that all groups are linked (train/distributed/zero.py).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet setuptools wheel 'torch==2.14.1'
DS_BUILD_OPS=0 "$folder/env/bin/pip" install --quiet --no-build-isolation 'deepspeed==0.19.8'
cat > "$folder/groups.py" <<'PYTHON'
import deepspeed
import torch
from deepspeed.utils import safe_get_full_optimizer_state

model = torch.nn.Linear(8, 8)
groups = [{"params": [model.weight], "weight_decay": 0.1}, {"params": [model.bias], "weight_decay": 0.0}]
optimizer = torch.optim.AdamW(groups, lr=1e-3)
config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 1}, "zero_allow_untested_optimizer": True}
engine = deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]
engine.backward(engine(torch.ones(1, 8)).square().mean())
engine.step()
for name, parameter in model.named_parameters():
    try:
        said = tuple(safe_get_full_optimizer_state(parameter, "exp_avg").shape)
    except ValueError as error:
        said = f"ValueError: {error}"
    print(f"{name}: {said}")
print("deepspeed", deepspeed.__version__, "torch", torch.__version__.split("+")[0])
PYTHON
cd "$folder"
PATH="$folder/env/bin:$PATH" DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=29555 \
    "$folder/env/bin/python" groups.py > seen.txt 2> log.txt || { cat log.txt; exit 2; }
grep -E '^(weight|bias|deepspeed):? ' seen.txt | tee found.txt
grep -q '^weight: (8, 8)$' found.txt
grep -q '^bias: ValueError: exp_avg not found in optimizer state fragment$' found.txt
echo "still so"
