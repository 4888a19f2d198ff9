"""Names of a backbone's tensors: as timm, its authors, transformers and training programs write them → in memory.

The tables of transformers' names are of its release 5.24; what it computed from such files and what is computed here
agreed to float32 rounding, for DINOv2 with both kinds of MLP, with and without registers, and for DINOv3.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from lorat.shards.base.errors import UserError, some

PARTS = ("q", "k", "v")
TYPES = "token_type_embed"
"""A tensor that every tracker's file has, and no backbone's."""
GATED = {r"\.mlp\.fc1\b": ".mlp.w12", r"\.mlp\.fc2\b": ".mlp.w3"}
"""timm's names of a gated MLP's layers → the names in memory."""
_EVA = {  # its official names → timm's
    r"\.mlp\.w1\.": ".mlp.fc1_g.",
    r"\.mlp\.w2\.": ".mlp.fc1_x.",
    r"\.mlp\.w3\.": ".mlp.fc2.",
    r"\.mlp\.ffn_ln\.": ".mlp.norm.",
    r"\.attn\.([qv])_bias": r".attn.\1_proj.bias",
}
_ALL = {
    # transformers: DINOv2 with and without registers, DINOv3
    r"^embeddings\.(cls_token|mask_token|register_tokens)$": r"\1",
    r"^embeddings\.position_embeddings$": "pos_embed",
    r"^embeddings\.patch_embeddings\.(projection\.)?": "patch_embed.proj.",
    r"^(encoder\.)?layer\.": "blocks.",
    r"\.attention\.(attention\.)?([qkv])(uery|ey|alue|_proj)\.": r".attn.qkv.\2.",
    r"\.attention\.(output\.dense|o_proj)\.": ".attn.proj.",
    r"\.layer_scale([12])\.lambda1$": r".ls\1.gamma",
    r"\.mlp\.weights_in\.": ".mlp.w12.",
    r"\.mlp\.weights_out\.": ".mlp.w3.",
    r"\.mlp\.up_proj\.": ".mlp.fc1.",
    r"\.mlp\.down_proj\.": ".mlp.fc2.",
    r"^layernorm\.": "norm.",
    # DINOv2 as it trains, its blocks in chunks
    r"^blocks\.\d+\.(\d+)\.": r"blocks.\1.",
    r"^(register|storage)_tokens$": "reg_token",
    # DINOv3 in timm's form
    r"\.gamma_([12])$": r".ls\1.gamma",
}
_UNUSED = r"mask_token|(head|fc_norm|lm_head|rope|rope_embed|classifier|(dino|ibot)_head)\..*|.*\.(rope\..*|bias_mask)"
_WRAPPED = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_PATCHES = (
    "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embeddings.weight",
)


def renamed(name: str, table: Mapping[str, str]) -> str:
    """Return a name after all substitutions of a table: pattern → replacement."""
    for pattern, replacement in table.items():
        name = re.sub(pattern, replacement, name)
    return name


def block_of(name: str) -> int | None:
    """Return the number of the block that a tensor belongs to, or None."""
    match = re.match(r"blocks\.(\d+)\.", name)
    return int(match[1]) if match else None


def last_block(names: Iterable[str]) -> int:
    """Return the number of the last block that names speak of, or -1."""
    return max((block for name in names if (block := block_of(name)) is not None), default=-1)


def without_prefix(source: Path | str, tensors: Mapping[str, Tensor], known: Iterable[str]) -> dict[str, Tensor]:
    """Return tensors without what training programs put before their names (``module.``, ``teacher.backbone.``): what
    stands before the one of `known` names that is there. Where several networks are, the teacher's is returned, and a
    ``UserError`` lists those of which none is.
    """
    tensors = {_WRAPPED.sub("", name): tensor for name, tensor in tensors.items()}
    ends = [(name, end) for name in tensors for end in known if name == end or name.endswith(f".{end}")]
    prefixes = {name.removesuffix(end) for name, end in ends}
    if len(prefixes) > 1:
        teachers = [prefix for prefix in prefixes if re.search(r"\bteacher\.", prefix)]
        if len(teachers) != 1:
            raise UserError(f"{source}: holds several networks ({some(sorted(prefixes), 4)}); save one of them alone")
        prefixes, tensors = set(teachers), {n: t for n, t in tensors.items() if n.startswith(teachers[0])}
    prefix = next(iter(prefixes), "")
    inside = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    return {name: t for name, t in tensors.items() if not name.startswith(prefix)} | inside


def join_parts(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in which one layer is made of query, key and value, where all of these stand apart."""
    joined = dict(tensors)
    for name in [name for name in tensors if re.search(r"\.qkv\.q\.(weight|bias)$", name)]:
        pieces = [name.replace(".qkv.q.", f".qkv.{part}.") for part in PARTS]
        if all(piece in joined for piece in pieces):
            joined[name.replace(".qkv.q.", ".qkv.")] = torch.cat([joined.pop(piece) for piece in pieces])
    return joined


def named_in_memory(source: Path | str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a backbone's tensors under the names in memory: DINOv2's official ones, for CLIP, MAE and EVA-02 timm's,
    with class and register tokens as ``cls_token`` and ``reg_token``. What no tracker uses is left out.
    """
    tensors = without_prefix(source, tensors, _PATCHES)
    is_eva = "blocks.0.attn.q_proj.weight" in tensors
    table = _ALL | (_EVA if is_eva else GATED if _is_gated(tensors) else {})
    # EVA-02's last norm belongs to its pretraining; timm's model does not have it either.
    unused = re.compile(rf"{_UNUSED}|norm\..*" if is_eva else _UNUSED)
    named = {renamed(name, table): tensor for name, tensor in tensors.items()}
    named = {name: tensor for name, tensor in named.items() if not unused.fullmatch(name)}
    if "pos_embed" not in named:
        # DINOv3 was trained with biases that are zero: timm's models have none.
        named = {name: t for name, t in named.items() if not _is_zero_bias(name, t)}
    return join_parts(named)


def _is_zero_bias(name: str, tensor: Tensor) -> bool:
    if re.search(r"\.attn\.qkv\.bias$", name):
        return not tensor.unflatten(0, (3, -1))[::2].any()  # that of the keys is masked
    return bool(re.search(r"\.attn\.(qkv\.[qkv]\.bias|[qv]_bias)$", name)) and not tensor.any()


def _is_gated(tensors: Mapping[str, Tensor]) -> bool:
    """Whether timm's MLP halves its width between the layers, which only a gate does."""
    first, second = (tensors.get(f"blocks.0.mlp.fc{number}.weight") for number in (1, 2))
    if first is None or second is None or (first.dim(), second.dim()) != (2, 2):
        return False
    return first.shape[0] == 2 * second.shape[1]
