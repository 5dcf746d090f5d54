"""Our models as those of timm, torchvision and Hugging Face, with equal features (section 11).

Each function returns the other library's own model, weights and LayerNorm epsilons in place. A pre-trained model keeps
the norm of its last tap as its final norm; the norms of other taps, decoders and targets are left behind. Swin of
published geometry comes out with its merges in the standard order (`conversion.standard_merges`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from lmim.classifiers import SwinClassifier, VitClassifier
from lmim.conversion import encoder_state
from lmim.swin import SparseSwin
from lmim.swin_mim import SwinLocalMim
from lmim.vit import LocalMim
from sextet.files import write_atomic

Model = LocalMim | SwinLocalMim | VitClassifier | SwinClassifier
Vit = LocalMim | VitClassifier
Swin = SwinLocalMim | SwinClassifier
Rules = Mapping[str, str]
_EPS = 1e-6


@dataclass(frozen=True)
class Final:
    """What comes behind the blocks.

    Attributes:
        norm: the last LayerNorm.
        pooled: whether patch tokens are pooled before it (the fine-tuning models) or it is applied to all tokens.
        head: the classifier, None in a pre-trained model.
    """

    norm: nn.LayerNorm
    pooled: bool
    head: nn.Linear | None


def final_of(model: Model) -> Final:
    """The last norm and the head of a model."""
    if isinstance(model, LocalMim):
        return Final(_layer_norm(model.norm[-1]), False, None)
    if isinstance(model, SwinLocalMim):
        assert isinstance(model.encoder.norm, nn.ModuleList)
        return Final(_layer_norm(model.encoder.norm[-1]), False, None)
    if isinstance(model, SwinClassifier):
        return Final(_layer_norm(model.norm), True, model.head)
    norm = model.norm if model.fc_norm is None else model.fc_norm
    return Final(_layer_norm(norm), model.fc_norm is not None, model.head)


def _layer_norm(module: Any) -> nn.LayerNorm:
    assert isinstance(module, nn.LayerNorm)
    return module


@dataclass(frozen=True)
class VitShape:
    """The sizes of a ViT, as its weights have them."""

    image: int
    patch: int
    channels: int
    dim: int
    depth: int
    heads: int

    @classmethod
    def of(cls, model: Vit) -> VitShape:
        """Of a model."""
        dim, channels, patch = model.patch_embed.proj.weight.shape[:3]
        grid = round((model.pos_embed.shape[1] - 1) ** 0.5)
        heads: Any = model.get_submodule("blocks.0.attn")
        return cls(grid * patch, patch, channels, dim, len(model.blocks), heads.num_heads)


def export(model: Model, library: str) -> nn.Module:
    """The model as one of `timm`, `torchvision` or `transformers`, in evaluation mode.

    Raises:
        ValueError: an unknown library, or one that cannot hold this model; the message says why.
    """
    makers = {
        ("timm", False): timm_vit, ("timm", True): timm_swin,
        ("torchvision", False): torchvision_vit, ("torchvision", True): torchvision_swin,
        ("transformers", False): transformers_vit, ("transformers", True): transformers_swin,
    }  # fmt: skip
    maker: Any = makers.get((library, isinstance(model, SwinLocalMim | SwinClassifier)))
    if maker is None:
        raise ValueError(f"library: expected timm, torchvision or transformers, got {library!r}")
    return maker(model).eval()


def save_safetensors(module: nn.Module, path: str | Path) -> None:
    """Write a module's weights to a safetensors file, whole or not at all."""
    tensors = {name: value.contiguous() for name, value in module.state_dict().items()}
    write_atomic(Path(path), safetensors.torch.save(tensors))


def timm_vit(model: Vit) -> nn.Module:
    """timm's VisionTransformer: the names are the same.

    A fine-tuned model gives equal logits; a pre-trained one, without a head, the normalised tokens of its last tap in
    `forward_features`.
    """
    from timm.models.vision_transformer import VisionTransformer

    shape, final = VitShape.of(model), final_of(model)
    norm: Any = partial(nn.LayerNorm, eps=_EPS)
    other = VisionTransformer(
        img_size=shape.image, patch_size=shape.patch, in_chans=shape.channels, embed_dim=shape.dim, depth=shape.depth,
        num_heads=shape.heads, num_classes=final.head.out_features if final.head else 0, norm_layer=norm,
        global_pool="avg" if final.pooled else "token", fc_norm=final.pooled,
    )  # fmt: skip
    state = encoder_state(model) | _module_state("fc_norm" if final.pooled else "norm", final.norm)
    return _filled(other, state | _module_state("head", final.head))


def torchvision_vit(model: Vit) -> nn.Module:
    """torchvision's VisionTransformer, which classifies by the class token and normalises all tokens.

    Raises:
        ValueError: a fine-tuned model that pools patch tokens, or images that have not three channels.
    """
    from torchvision.models.vision_transformer import VisionTransformer

    shape, final = VitShape.of(model), final_of(model)
    if final.pooled:
        raise ValueError("model: torchvision's ViT cannot pool patch tokens; export to timm, or before fine-tuning")
    if shape.channels != 3:
        raise ValueError(f"model: torchvision's ViT has 3 channels, this one {shape.channels}")
    other = VisionTransformer(
        shape.image, shape.patch, shape.depth, shape.heads, shape.dim, 4 * shape.dim,
        num_classes=final.head.out_features if final.head else 1, norm_layer=partial(nn.LayerNorm, eps=_EPS),
    )  # fmt: skip
    rules = {
        r"cls_token": "class_token", r"pos_embed": "encoder.pos_embedding", r"patch_embed\.proj": "conv_proj",
        r"blocks\.(\d+)\.norm(\d)": r"encoder.layers.encoder_layer_\1.ln_\2",
        r"blocks\.(\d+)\.attn\.qkv\.": r"encoder.layers.encoder_layer_\1.self_attention.in_proj_",
        r"blocks\.(\d+)\.attn\.proj": r"encoder.layers.encoder_layer_\1.self_attention.out_proj",
        r"blocks\.(\d+)\.mlp\.fc1": r"encoder.layers.encoder_layer_\1.mlp.0",
        r"blocks\.(\d+)\.mlp\.fc2": r"encoder.layers.encoder_layer_\1.mlp.3",
    }  # fmt: skip
    if final.head is None:
        other.heads = nn.Sequential()
    state = _named(encoder_state(model), rules) | _module_state("encoder.ln", final.norm)
    return _filled(other, state | _module_state("heads.head", final.head))


def transformers_vit(model: Vit) -> nn.Module:
    """Hugging Face's ViTModel.

    `last_hidden_state` of a pre-trained model is its last tap, normalised. Of a fine-tuned model that pools, the norm
    in `layernorm` belongs behind pooling: `layernorm(hidden_states[-1][:, 1:].mean(1))` are our features.
    """
    from transformers import ViTConfig, ViTModel

    shape, final = VitShape.of(model), final_of(model)
    config = ViTConfig(
        hidden_size=shape.dim, num_hidden_layers=shape.depth, num_attention_heads=shape.heads,
        intermediate_size=4 * shape.dim, image_size=shape.image, patch_size=shape.patch, num_channels=shape.channels,
        layer_norm_eps=_EPS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    block = r"encoder.layer.\1"
    rules = {
        r"cls_token": "embeddings.cls_token", r"pos_embed": "embeddings.position_embeddings",
        r"patch_embed\.proj": "embeddings.patch_embeddings.projection", **_transformers_block(r"blocks\.(\d+)", block),
    }  # fmt: skip
    state = _named(_split_qkv(encoder_state(model)), rules) | _module_state("layernorm", final.norm)
    return _hugging_face(ViTModel, config, state)


def swin_of(model: Swin) -> SparseSwin:
    """The encoder of a model."""
    return model.encoder if isinstance(model, SwinLocalMim) else model


def timm_swin(model: Swin) -> nn.Module:
    """timm's SwinTransformer.

    A fine-tuned model normalises behind pooling, timm's before: so `norm` does nothing there, and the head is norm and
    linear layer. A pre-trained model's `forward_features` are its last tap, normalised.
    """
    from timm.models.swin_transformer import SwinTransformer

    swin, final = swin_of(model), final_of(model)
    norm: Any = partial(nn.LayerNorm, eps=_EPS)
    other = SwinTransformer(
        img_size=swin.image, patch_size=swin.patch, in_chans=swin.channels, embed_dim=_first_width(swin),
        depths=swin.depths, num_heads=_stage_heads(swin), window_size=max(swin.windows), norm_layer=norm,
        num_classes=final.head.out_features if final.head else 0,
    )  # fmt: skip
    state = _named(encoder_state(model), {r"layers\.(\d+)\.downsample": _next_stage})
    if final.head is None:
        state |= _module_state("norm", final.norm)
    else:
        other.norm, other.head.fc = nn.Identity(), _norm_and_head(final)  # pyright: ignore[reportAttributeAccessIssue]
        state |= _module_state("head.fc", other.head.fc)
    return _filled(_with_eps(other, swin), state)


def _next_stage(found: re.Match[str]) -> str:
    """timm has the merging at the beginning of a stage."""
    return f"layers.{int(found[1]) + 1}.downsample"


def torchvision_swin(model: Swin) -> nn.Module:
    """torchvision's SwinTransformer; `features` gives our last tokens before their norm, as maps with channels last.

    Raises:
        ValueError: a stage whose grid is smaller than the window (torchvision fills it up with zeros that take part in
            the attention), images that have not three channels.
    """
    from torchvision.models.swin_transformer import SwinTransformer

    swin, final = swin_of(model), final_of(model)
    _check_equal_windows(swin, "torchvision")
    if swin.channels != 3:
        raise ValueError(f"model: torchvision's Swin has 3 channels, this one {swin.channels}")
    other = SwinTransformer(
        [swin.patch] * 2, _first_width(swin), list(swin.depths), list(_stage_heads(swin)), [swin.windows[0]] * 2,
        num_classes=final.head.out_features if final.head else 1, norm_layer=partial(nn.LayerNorm, eps=_EPS),
    )  # fmt: skip
    rules: dict[str, Any] = {
        r"patch_embed\.proj": "features.0.0", r"patch_embed\.norm": "features.0.2",
        r"layers\.(\d+)\.downsample": lambda found: f"features.{2 * int(found[1]) + 2}",
        r"layers\.(\d+)\.blocks": lambda found: f"features.{2 * int(found[1]) + 1}",
        r"mlp\.fc1": "mlp.0", r"mlp\.fc2": "mlp.3",
    }  # fmt: skip
    state = _named(encoder_state(model), rules)
    if final.head is None:
        other.head = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        state |= _module_state("norm", final.norm)
    else:
        other.norm, other.head = nn.Identity(), _norm_and_head(final)  # pyright: ignore[reportAttributeAccessIssue]
        state |= _module_state("head", other.head)
    return _filled(_with_eps(other, swin), state)


def transformers_swin(model: Swin) -> nn.Module:
    """Hugging Face's SwinModel.

    `last_hidden_state` of a pre-trained model is its last tap, normalised. Of a fine-tuned model, the norm in
    `layernorm` belongs behind pooling: `layernorm(hidden_states[-1].mean(1))` are our features. The epsilons of merges,
    patches and second norms are set on the modules; its configuration has no place for them.

    Raises:
        ValueError: a stage whose grid is smaller than the window, which SwinModel cannot run.
    """
    from transformers import SwinConfig, SwinModel

    swin, final = swin_of(model), final_of(model)
    _check_equal_windows(swin, "transformers")
    config = SwinConfig(
        image_size=swin.image, patch_size=swin.patch, num_channels=swin.channels, embed_dim=_first_width(swin),
        depths=list(swin.depths), num_heads=list(_stage_heads(swin)), window_size=swin.windows[0], mlp_ratio=4.0,
        layer_norm_eps=_EPS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, drop_path_rate=0.0,
    )  # fmt: skip
    block = r"encoder.layers.\1.blocks.\2"
    rules = {
        r"patch_embed\.proj": "embeddings.patch_embeddings.projection", r"patch_embed\.norm": "embeddings.norm",
        r"layers\.(\d+)\.downsample": r"encoder.layers.\1.downsample",
        r"layers\.(\d+)\.blocks\.(\d+)\.attn\.relative": rf"{block}.attention.self.relative",
        **_transformers_block(r"layers\.(\d+)\.blocks\.(\d+)", block, "self"),
    }  # fmt: skip
    state = _named(_split_qkv(encoder_state(model)), rules) | _module_state("layernorm", final.norm)
    return _with_eps(_hugging_face(SwinModel, config, state), swin)


def _transformers_block(pattern: str, block: str, inner: str = "attention") -> Rules:
    """Names inside a block, as files on the hub have them; newer versions of the library translate them."""
    return {
        rf"{pattern}\.norm1": f"{block}.layernorm_before", rf"{pattern}\.norm2": f"{block}.layernorm_after",
        rf"{pattern}\.attn\.proj": f"{block}.attention.output.dense",
        rf"{pattern}\.attn\.(?=query|key|value)": f"{block}.attention.{inner}.",
        rf"{pattern}\.mlp\.fc1": f"{block}.intermediate.dense", rf"{pattern}\.mlp\.fc2": f"{block}.output.dense",
    }  # fmt: skip


def _hugging_face(kind: Any, config: Any, state: dict[str, Tensor]) -> nn.Module:
    """A model of `transformers` with all weights from `state`."""
    state = {name: value.clone() for name, value in state.items()}  # it keeps the tensors that it is given
    other, report = kind.from_pretrained(
        None, config=config, state_dict=state, add_pooling_layer=False, output_loading_info=True
    )
    wrong = [name for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in report[key]]
    if wrong:
        raise ValueError(f"transformers: this version names weights otherwise: {sorted(map(str, wrong))[:4]}")
    return other


def _named(state: Mapping[str, Tensor], rules: Mapping[str, Any]) -> dict[str, Tensor]:
    """Every name with all rules (pattern -> replacement) applied in their order."""
    renamed = {}
    for name, value in state.items():
        other = name
        for pattern, replacement in rules.items():
            other = re.sub(pattern, replacement, other)
        renamed[other] = value
    return renamed


def _split_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One projection a query, key and value."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        parts = value.chunk(3) if ".attn.qkv." in name else ()
        split = {name.replace("qkv", each): part for each, part in zip(("query", "key", "value"), parts, strict=False)}
        found |= split or {name: value}
    return found


def _module_state(prefix: str, module: nn.Module | None) -> dict[str, Tensor]:
    """Weights of a module under a prefix; none of no module."""
    return {} if module is None else {f"{prefix}.{name}": value.detach() for name, value in module.state_dict().items()}


def _norm_and_head(final: Final) -> nn.Sequential:
    """A copy of norm and head, for what pools before them."""
    assert final.head is not None
    norm = nn.LayerNorm(list(final.norm.normalized_shape), eps=final.norm.eps)
    both = nn.Sequential(norm, nn.Linear(final.head.in_features, final.head.out_features)).to(final.norm.weight.dtype)
    both.load_state_dict(_module_state("0", final.norm) | _module_state("1", final.head))
    return both


def _filled(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """The module with `state`, which must have all its weights; buffers that follow from the sizes may be absent."""
    parameters = {name for name, _ in module.named_parameters()}
    missing, unknown = module.to(next(iter(state.values())).dtype).load_state_dict(dict(state), strict=False)
    wrong = sorted({*(parameters & set(missing)), *unknown})
    if wrong:
        raise ValueError(f"{type(module).__name__}: this version names weights otherwise: {wrong[:4]}")
    return module


def _with_eps(module: nn.Module, swin: SparseSwin) -> nn.Module:
    """The epsilons of a Swin's norms set to ours: 1e-6, and the blocks' second norms as they are."""
    second = _layer_norm(swin.get_submodule("layers.0.blocks.0.norm2")).eps
    for name, norm in module.named_modules():
        if isinstance(norm, nn.LayerNorm):
            norm.eps = second if name.endswith(("norm2", "layernorm_after")) else _EPS
    return module


def _first_width(swin: SparseSwin) -> int:
    return swin.patch_embed.proj.weight.shape[0]


def _stage_heads(swin: SparseSwin) -> tuple[int, ...]:
    first: Any = [swin.get_submodule(f"layers.{stage}.blocks.0.attn") for stage in range(len(swin.depths))]
    return tuple(attention.heads for attention in first)


def _check_equal_windows(swin: SparseSwin, library: str) -> None:
    if len(set(swin.windows)) > 1:
        raise ValueError(
            f"model: windows of {swin.windows} tokens by stage; {library} cannot cut a window to a smaller grid. "
            "Export to timm"
        )
