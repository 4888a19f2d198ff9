"""A backbone is the same under timm's, its authors', transformers' and training programs' names."""

import re
from pathlib import Path

import pytest
import timm
import torch

from lorat.configs.schema import BackboneConfig
from lorat.shards.base.errors import UserError
from lorat.train.network.blocks.positions import place_positions
from lorat.train.network.reading import read_weights
from lorat.train.network.weights.backbones import load_backbone
from lorat.train.network.weights.naming import without_prefix
from tests.train.network.conftest import transformer_of
from tests.train.network.published_files import make, variant_of, write

WIDTH, DEPTH = 32, 3
SIZES = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": 2}
MODELS = {
    "plain": ("vit_small_patch14_dinov2.lvd142m", {"img_size": 56}),
    "gated": ("vit_giant_patch14_dinov2.lvd142m", {"img_size": 56, "mlp_ratio": 5.5}),
    "registers": ("vit_small_patch14_reg4_dinov2.lvd142m", {"img_size": 56}),
    "gated registers": ("vit_giant_patch14_reg4_dinov2.lvd142m", {"img_size": 56, "mlp_ratio": 5.5}),
    "dinov3": ("vit_small_patch16_dinov3.lvd1689m", {}),
}
LONG = {"q": "query", "k": "key", "v": "value"}
TO_TRANSFORMERS = {  # of both families: timm's names → those that transformers 5.24 saves
    r"^(cls_token|mask_token)$": r"embeddings.\1",
    r"^reg_token$": "embeddings.register_tokens",
    r"^pos_embed$": "embeddings.position_embeddings",
    r"\.ls([12])\.gamma$": r".layer_scale\1.lambda1",
    r"\.gamma_([12])$": r".layer_scale\1.lambda1",
}
TO_DINOV2 = {
    r"^patch_embed\.proj": "embeddings.patch_embeddings.projection",
    r"^blocks\.": "encoder.layer.",
    r"\.attn\.proj": ".attention.output.dense",
    r"\.attn\.([qkv])\.": lambda match: f".attention.attention.{LONG[match[1]]}.",
    r"^norm\.": "layernorm.",
}
TO_DINOV3 = {
    r"^patch_embed\.proj": "embeddings.patch_embeddings",
    r"^blocks\.": "layer.",
    r"\.attn\.proj": ".attention.o_proj",
    r"\.attn\.([qkv])\.": r".attention.\1_proj.",
    r"\.mlp\.fc1": ".mlp.up_proj",
    r"\.mlp\.fc2": ".mlp.down_proj",
}


def config_of(kind, prefix="none"):
    name, args = MODELS[kind]
    return BackboneConfig(timm=name, args=SIZES | args, prefix_tokens=prefix)


def timms(kind):
    """timm's tensors, invented."""
    config = config_of(kind)
    torch.manual_seed(3)
    model = timm.create_model(config.timm, num_classes=0, **config.args)
    return {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}


def official(kind):
    """The same as the authors' files have it: a class token of its own, chunks as DINOv2 trains."""
    tensors = {"mask_token": torch.zeros(1, WIDTH)}
    for name, tensor in timms(kind).items():
        name = re.sub(r"gamma_([12])", r"ls\1.gamma", name)
        if "gated" in kind:
            name = name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
        tensors[name.replace("reg_token", "storage_tokens" if kind == "dinov3" else "register_tokens")] = tensor
    if "registers" in kind:  # timm's have the class token's position added
        tensors["pos_embed"] = torch.cat((torch.full((1, 1, WIDTH), 0.5), tensors["pos_embed"]), dim=1)
        tensors["cls_token"] = tensors["cls_token"] - 0.5
    if kind == "dinov3":
        tensors["rope_embed.periods"] = torch.ones(4)
        for i in range(DEPTH):
            bias = torch.zeros(3 * WIDTH)
            bias[WIDTH : 2 * WIDTH] = torch.randn(WIDTH)  # masked
            tensors[f"blocks.{i}.attn.qkv.bias"] = bias
            tensors[f"blocks.{i}.attn.qkv.bias_mask"] = (bias == 0).float()
    return tensors


def transformers(kind):
    """The same as transformers saves it."""
    tensors = {}
    table = TO_TRANSFORMERS | (TO_DINOV3 if kind == "dinov3" else TO_DINOV2)
    for name, tensor in official(kind).items():
        if name.startswith("rope") or name.endswith("bias_mask"):
            continue
        name = re.sub("register_tokens|storage_tokens", "reg_token", name)
        name = name.replace("mlp.w12", "mlp.weights_in").replace("mlp.w3", "mlp.weights_out")
        pieces = {name: tensor}
        if ".qkv." in name:
            pieces = {name.replace(".qkv.", f".{p}."): t for p, t in zip("qkv", tensor.chunk(3), strict=True)}
        for piece, value in pieces.items():
            if kind == "dinov3" and piece.endswith("attn.k.bias"):
                continue  # its keys have no bias
            for pattern, written in table.items():
                piece = re.sub(pattern, written, piece)
            tensors[piece] = value.contiguous()
    return tensors


def prefixed(text):
    return lambda kind: {f"{text}{name}": tensor for name, tensor in official(kind).items()}


def chunked(kind):
    return {re.sub(r"^blocks\.(\d+)", r"blocks.0.\1", name): t for name, t in official(kind).items()}


def of_training(kind):
    """DINOv2's own training state: a student and a teacher, both with heads, blocks in chunks."""
    state = {f"teacher.backbone.{name}": tensor for name, tensor in chunked(kind).items()}
    state |= {f"student.backbone.{name}": torch.zeros_like(tensor) for name, tensor in chunked(kind).items()}
    return state | {f"{who}.dino_head.mlp.0.weight": torch.ones(2) for who in ("student", "teacher")}


FORMS = {
    "official": official,
    "transformers": transformers,
    "transformers' classifier": lambda kind: (
        {f"dinov2.{name}": tensor for name, tensor in transformers(kind).items()} | {"classifier.weight": torch.ones(2)}
    ),
    "DDP": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "FSDP": lambda kind: {
        name.replace(".attn.", ".attn._fsdp_wrapped_module."): t for name, t in official(kind).items()
    },
    "a model around it": lambda kind: prefixed("module.backbone.")(kind) | {"head.weight": torch.ones(2)},
    "in chunks": chunked,
    "a table of the teacher": lambda kind: {"teacher": prefixed("backbone.")(kind), "epoch": 7},
    "a table in a table": lambda kind: {"model": {"state_dict": official(kind)}},
    "a state of training": of_training,
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("form", FORMS)
def test_a_backbone_is_the_same_under_every_name(form, kind, tmp_path):
    wanted = load_backbone(config_of(kind), write(tmp_path / "timm.safetensors", timms(kind)))
    torch.save(FORMS[form](kind), tmp_path / "other.pth")
    found = load_backbone(config_of(kind), tmp_path / "other.pth")
    assert found.fingerprint() == wanted.fingerprint()
    with torch.device("meta"):
        transformer = transformer_of(config_of(kind))
    found.load_into(transformer)


@pytest.mark.parametrize("kind", ["registers", "gated registers", "dinov3"])
@pytest.mark.parametrize("form", [official, transformers])
def test_class_and_register_tokens_are_read_where_they_are_kept(form, kind, tmp_path):
    torch.save(form(kind), tmp_path / "other.pth")
    tensors = timms(kind)
    for prefix, names in (("registers", ["reg_token"]), ("all", ["cls_token", "reg_token"])):
        weights = load_backbone(config_of(kind, prefix), tmp_path / "other.pth")
        wanted = torch.cat([tensors[name] for name in names], dim=1)
        torch.testing.assert_close(weights.tensors["prefix_tokens"], wanted, rtol=0, atol=1e-6)
        weights.load_into(transformer_of(config_of(kind, prefix)))


def test_a_class_token_brings_its_position(tmp_path):
    tensors = timms("plain")
    weights = load_backbone(config_of("plain", "all"), write(tmp_path / "a.safetensors", tensors))
    assert torch.equal(weights.tensors["prefix_tokens"], tensors["cls_token"] + tensors["pos_embed"][:, :1])


def test_biases_that_act_are_not_left_out(tmp_path):
    tensors = official("dinov3")
    tensors["blocks.1.attn.qkv.bias"][0] = 1.0
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"unexpected: blocks\.1\.attn\.qkv\.bias\)"):
        load_backbone(config_of("dinov3"), tmp_path / "a.pth").load_into(transformer_of(config_of("dinov3")))


def test_a_trackers_file_is_read_under_a_prefix_too(tmp_path):
    tracker = make("official")
    path = write(tmp_path / "m.bin", {f"module.{name}": t for name, t in tracker.trained().items()})
    assert read_weights(path, tracker.variant).trained.keys() == tracker.trained().keys()


def test_of_several_networks_none_is_guessed():
    tensors = {f"{who}.token_type_embed": torch.ones(1) for who in ("first", "second")}
    with pytest.raises(UserError, match=r"a\.pth: holds several networks \(first\., second\.\)"):
        without_prefix(Path("a.pth"), tensors, ["token_type_embed"])


def test_what_stands_beside_the_prefix_is_kept_but_does_not_win():
    tensors = {"net.types": torch.ones(1), "net.norm": torch.ones(2), "norm": torch.zeros(3), "alpha": torch.ones(4)}
    found = without_prefix("a.pth", tensors, ["types"])
    assert {name: len(t) for name, t in found.items()} == {"types": 1, "norm": 2, "alpha": 4}


def misfit(path, tensors, config):
    with pytest.raises(UserError) as error:
        load_backbone(config, write(path, tensors)).load_into(transformer_of(config))
    assert "\n" not in error.value.message
    assert "another network" not in error.value.message
    return error.value.message


def test_the_real_cause_is_named(tmp_path):
    path, tensors, config = tmp_path / "a.safetensors", timms("plain"), config_of("plain")
    larger = config.model_copy(update={"args": config.args | {"embed_dim": 48, "depth": 4}})
    assert "a network of 3 blocks instead of 4 and 32 channels instead of 48" in misfit(path, tensors, larger)
    part = {name: t for name, t in tensors.items() if not name.startswith("blocks.1.")}
    assert "weights of a part of the network (missing: blocks.1." in misfit(path, part, config)
    other = {f"vision_model.{name}": t for name, t in tensors.items() if "norm" in name}
    text = misfit(path, other, config)
    assert "no backbone under names that are known here (vision_model.blocks.0.norm1.bias" in text
    assert "transformers'; fetch https://" in text
    tracker = misfit(path, make("official").trained(), config)
    assert "a tracker's weights, no backbone's (token_type_embed); give it with --weights" in tracker


def test_a_backbone_given_for_a_tracker_is_told(tmp_path):
    path = write(tmp_path / "a.safetensors", make("official").backbone)
    with pytest.raises(UserError, match=r"no tracker's weights.*--backbone"):
        read_weights(path, variant_of("official"))


def test_a_training_file_without_a_known_table_lists_what_it_holds(tmp_path):
    torch.save({"network": {}, "optimizer": {}}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"not a table of named tensors \(it holds network, optimizer\)"):
        load_backbone(config_of("plain"), tmp_path / "a.pth")


@pytest.mark.parametrize("kind", MODELS)
def test_transformers_models_compute_the_same(kind, tmp_path):
    """Needs ``pip install transformers``, which no extra brings."""
    library = pytest.importorskip("transformers")
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 2, "layerscale_value": 0.5}
    if kind == "dinov3":
        settings = library.DINOv3ViTConfig(**sizes, image_size=64, intermediate_size=4 * WIDTH, num_register_tokens=4)
        theirs = library.DINOv3ViTModel(settings)
    else:
        family = "Dinov2WithRegisters" if "registers" in kind else "Dinov2"
        shape = {"image_size": 56, "patch_size": 14, "use_swiglu_ffn": "gated" in kind}
        settings = getattr(library, f"{family}Config")(**sizes, **shape)
        theirs = getattr(library, f"{family}Model")(settings)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in theirs.eval().named_parameters():
            if kind != "dinov3" or not name.endswith(("q_proj.bias", "v_proj.bias")):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(tmp_path)
    ours = transformer_of(config_of(kind, "all")).eval()
    load_backbone(config_of(kind, "all"), tmp_path / "model.safetensors").load_into(ours)
    image = torch.randn(2, 3, settings.image_size, settings.image_size)
    with torch.no_grad():
        x = ours.patch_embed(image)
        if ours.pos_embed is not None:
            x = x + place_positions(ours.pos_embed, 4, "official")
        x = torch.cat((ours.prefix_tokens.expand(2, -1, -1), x), dim=1)
        context = () if ours.plan.rotary is None else (ours.plan.rotary.table((4,), prefix=5),)
        for block in ours.blocks:
            x = block(x, 0, *context)
        wanted = theirs(pixel_values=image).last_hidden_state
    torch.testing.assert_close(ours.norm(x), wanted, rtol=1e-5, atol=1e-5)
