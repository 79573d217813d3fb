"""Which settings of a case an adapter need not read, by component, and the check that it read all others.

A setting without a value here has no say in what its component records: it describes the recording, or says what the shapes of the case's
tensors say too, which do not load where they differ. One with values has a say, and the project reproduces these values alone.
Everything else that an adapter leaves unread is refused by its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from tests.conformance.cases import Case

__all__ = ["unknown"]

Values = tuple[Any, ...] | None
"""The values that a setting may have; None: any."""
Table = dict[str, dict[str, Values]]
"""Component → what need not be read; `*` stands for any text."""


def _any(*names: str) -> dict[str, Values]:
    return dict.fromkeys(names)


def _below(place: str, settings: Mapping[str, Values]) -> dict[str, Values]:
    return {f"{place}.{name}": values for name, values in settings.items()}


NOTES = _any(
    "source*", "inputs*", "outputs*", "expected*", "tolerance*", "notes*", "ranges*", "margins*", "measured*",
    *(f"weights.{name}" for name in ("salt", "skipped*", "aliases*", "tied*", "scale", "note", "checkpoint_*")),
)  # fmt: skip
"""Of every case."""

ABSORBING_SIZES = _any("config.emb_dim", "config.batch_size")
ABSORBING_NETWORK = ABSORBING_SIZES | _any("config.*_pdrop", "config.loss_type", "config.mask_schedule")
VQGAN = {"config.n_channels": (3,)} | _any("config.latent_shape")
VQGAN_ALONE = VQGAN | _any(
    "config.perceptual_weight", "config.disc_start_step", "config.disc_weight_max", "config.diff_aug", "config.large", "config.*_stride"
)
ABSORBING: Table = {
    "transformer": ABSORBING_NETWORK | _any("config.total_steps"),
    "absorbing_process": ABSORBING_NETWORK,
    "elbo": ABSORBING_NETWORK,
    "sample": ABSORBING_NETWORK,
    "sample_mlm": ABSORBING_NETWORK,
    "sample_autoregressive": ABSORBING_NETWORK,
    "sample_shape": ABSORBING_NETWORK | _any("config.total_steps", "config.time_steps*"),
    "sampler_training": ABSORBING_SIZES,
    "vqgan": VQGAN_ALONE,
    "vqgan_training": VQGAN,
    "checkpoint_mapping": VQGAN_ALONE | _any("config.ndf", "config.disc_layers"),
    "lpips": {"config.version": ("0.1",)},
    "diffaug": {"config.translation_ratio": (0.125,), "config.cutout_ratio": (0.5,)},
}

V_DIFFUSION: Table = {
    "script": _any("config.drop", "config.model.shape", "config.model.min_t") | {
        "config.model.clip_conditioned": (True,),
        "config.denoiser_formula": ("the network of config.model with the weights of manifest.json",),
    },
    "sampler": _any("config.model.formula") | {
        "config.cond_fn": (
            "cond_fn(x,t,pred,cond) = -d/dx [ 0.5 * guidance_scale * sum((pred - target)^2) ], "
            "differentiated through pred = alpha x - sigma v(x,t,cond) including v",
        ),
    },
    "images": {"config.size_order": ("width, height",)},
    "network": _any("config.class", "config.full_size", "layer_stats*"),
    "init": _any("law*"),
    "prompt_parsing": _any("behaviour*", "parse.*.prompt", "parse.*.weight", "parse.*.error"),
    "schedules": _any("models*"),
}  # fmt: skip

UNET = _any("use_checkpoint")
NEXT = _below("config.image.args", UNET | {"parts": (["global", "data", "context"],)}) | _below(
    "config.text.args", UNET | {"parts": (["data", "context"],)}
)
VD = {"config.vd.type": ("vd_v2_0",), "config.vd.global_layer_ptr": ("image",)}
UNSCALED = VD | _any("config.vd.latent_scale_factor*")
FOUR_FLOW = {"config.image.type": ("openai_unet_2d_next",), "config.text.type": ("openai_unet_0d_next",)} | NEXT | VD
BETAS = _any("config.vd.beta_linear_*")
SPATIAL = {"use_spatial_transformer": (True,), "transformer_depth": (1,), "legacy": (False,)} | _any("image_size")
KL = {"double_z": (True,), "in_channels": (3,), "out_ch": (3,)} | _any("dropout")
TOWER = {"hidden_act": ("quick_gelu",), "layer_norm_eps": (1e-5,)} | _any(
    "hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size", "max_position_embeddings", "image_size", "patch_size"
)
CLIP = _below("text_config", TOWER) | _below("vision_config", TOWER) | _any("projection_dim")
TRANSFORMERS = _any(
    "architectures", "finetuning_task", "output_attentions", "output_hidden_states", "pruned_heads", "torchscript", "num_labels",
    "initializer_range", "hidden_size", "intermediate_size", "num_hidden_layers", "max_position_embeddings", "vocab_size",
    "type_vocab_size", "latent_size", "n_embd", "n_layer", "n_positions", "n_ctx", "attn_pdrop", "embd_pdrop", "resid_pdrop",
    "attention_probs_dropout_prob", "hidden_dropout_prob",
)  # fmt: skip
OPTIMUS = (
    _below("encoder", TRANSFORMERS | {"hidden_act": ("gelu",), "layer_norm_eps": (1e-12,)})
    | _below("decoder", TRANSFORMERS | {"layer_norm_epsilon": (1e-5,)})
    | _any("latent_size")
)
VERSATILE: Table = {
    "four_flow_diffuser": FOUR_FLOW | UNSCALED | BETAS | _any("layer_order*", "parameters*"),
    "multi_context_diffuser": FOUR_FLOW | UNSCALED | BETAS,
    "ddim_sampler": FOUR_FLOW | UNSCALED | _any("runs.shape", "runs.multicontext"),
    "diffusion_losses": FOUR_FLOW | UNSCALED | _any("variants.l_elbo_weight", "variants.logvar_init"),
    "ddim_schedule": UNSCALED,
    "applications": FOUR_FLOW
    | _below("config.vae_image.ddconfig", KL)
    | _below("config.vae_text", OPTIMUS)
    | _below("config.clip", CLIP)
    | _any("runs.args.seed"),
    "deprecated_vd_unet": {"config.unet_image_cfg.type": ("openai_unet_2d",), "config.unet_text_cfg.type": ("openai_unet_0dmd",)}
    | _below("config.*.args", UNET)
    | _any("old_to_new*"),
    "dual_context_unet": _below("config.unet_config.args", UNET | SPATIAL) | {"config.unet_config.type": ("openai_unet_dual_context",)},
    "sd_unet": _below("config.unet_config.args", UNET | SPATIAL) | {"config.unet_config.type": ("openai_unet",), "mixed": ([],)},
    "autoencoder_kl": _below("config.ddconfig", KL) | _any("config.lossconfig*"),
    "clip_context_encoders": _below("config", CLIP),
    "optimus_vae": _below("config", OPTIMUS) | _any("config.special_ids.bos", "config.special_ids.eos"),
    "optimus_tokenizers": _any("config.original_files*"),
    "clip_image_preprocess": {"config.resample": ("bicubic",)},
}

MODELS = "image_synthesis.modeling"
CONTENT = {"target": (f"{MODELS}.embeddings.dalle_mask_image_embedding.DalleMaskImageEmbedding",)} | _below(
    "params", {"pos_emb_type": ("embedding", "parameter")} | _any("embed_dim", "trainable")
)
TOKENS = _below("content_emb_config", CONTENT) | _any("transformer_config.params.condition_seq_len")
EVALUATED = TOKENS | _any("transformer_config.params.attn_pdrop")
TRAINED = TOKENS | {"transformer_config.params.attn_pdrop": (0.0,)} | _any("condition_emb_config*")
DIFFUSION = {"config.diffusion_config.target": (f"{MODELS}.transformers.diffusion_transformer.DiffusionTransformer",)}
UNUSED_LOSS = _any("auxiliary_loss_weight", "adaptive_auxiliary_loss", "mask_weight")
DRAWN = DIFFUSION | _below("config.diffusion_config.params", EVALUATED | UNUSED_LOSS)
CONDITION = _below(
    "config.diffusion_config.params.condition_emb_config",
    {"target": (f"{MODELS}.embeddings.clip_text_embedding.CLIPTextEmbedding", f"{MODELS}.embeddings.class_embedding.ClassEmbedding")}
    | _below("params", {"normalize": (True,), "pick_last_embedding": (False,), "additional_last_embedding": (False,), "identity": (True,)})
    | _below("params", _any("clip_name*", "num_embed", "embed_dim", "keep_seq_len_dim")),
)
ENDS = {"in_channels": (3,), "out_ch": (3,), "activate_output": (False,)} | _any("dropout")
CODEC = (
    _below("ddconfig", ENDS)
    | _below("encoder_config.params", ENDS)
    | _below("decoder_config.params", ENDS)
    | {"encoder_config.target": (f"{MODELS}.codecs.image_codec.patch_vqgan.Encoder",)}
    | {"decoder_config.target": (f"{MODELS}.codecs.image_codec.patch_vqgan.Decoder",)}
    | _any("trainable", "kl_weight")
)
MODEL = {"config.model": ("DALLE", "C_DALLE", "UC_DALLE")}
RELEASED = DRAWN | CONDITION | MODEL | _below("config.content_codec.params", CODEC) | _any(
    "config.codec", "config.t", "config.prompt", "config.label", "config.diffusion_config.params.learnable_cf"
)  # fmt: skip
CODEC_ALONE = _below("config.params", CODEC) | _any("config.batch", "config.stored_mapping_file")
NETWORK_ALONE = _below("config", EVALUATED) | _any(
    "config.t", "config.label", "config.label_null", "config.batch", "config.cond_len", "kind"
)  # fmt: skip
VQ_DIFFUSION: Table = {
    **dict.fromkeys(("Text2ImageTransformer", "Condition2ImageTransformer", "UnCondition2ImageTransformer"), NETWORK_ALONE),
    **dict.fromkeys(("TamingGumbelVQVAE", "TamingVQVAE", "TamingFFHQVQVAE", "PatchVQVAE"), CODEC_ALONE),
    **dict.fromkeys(("DALLE checkpoint", "C_DALLE checkpoint", "UC_DALLE checkpoint"), RELEASED),
    "port to diffusers": DRAWN | CONDITION | MODEL | _below("config.codec.params", CODEC) | _any(
        *(f"config.{name}" for name in ("n_layer", "n_embd", "n_head", "K", "spatial", "text*", "diffusers_components*")),
        "config.diffusion_config.params.learnable_cf", "versions*", "min_argmax_margin*", "prompts_tokenized_differently*",
    ),
    "sampling": DRAWN | MODEL | _any(
        "config.batch", "config.K", "config.want_margin", "config.diffusion_config.params.condition_emb_config*"
    ),
    "training loss": DIFFUSION | _below("config.diffusion_config.params", TRAINED) | _any(
        "config.t", "config.label", "config.n_text_tokens", "config.importance", "grad_norm_names"
    ),
    "training steps": DIFFUSION | _below("config.diffusion_config.params", TRAINED) | {
        "config.optimiser.scheduler.threshold_mode": ("rel",), "config.optimiser.clip_grad_norm.start_iteration": (0,),
    } | _any("config.batch", "config.watch", "config.optimiser.clip_grad_norm.end_iteration", "config.optimiser.ema.device", "names"),
    "mask-and-uniform process": _any("config.L", "config.t", "config.big"),
    "CLIPTextEmbedding": _any("config.clip_name", "config.embed_dim", "config.embed_dim_argument", "prompts*"),
    "Tokenize": {"config.tokenizer": ("SimpleTokenizer, end_idx 49152",)},
}  # fmt: skip

DESCRIBED: dict[str, Table] = {
    "absorbing": ABSORBING, "v_diffusion": V_DIFFUSION, "versatile": VERSATILE, "vq_diffusion": VQ_DIFFUSION,
}  # fmt: skip


def unknown(case: Case) -> list[str]:
    """The settings, with their values, that the adapter did not read although they may say something."""
    known = NOTES | DESCRIBED[case.family].get(case.component, {})
    return [f"{path} = {value!r}" for unread in case.spec.unread() for path, value in _refused(*unread, known)]


def _refused(path: str, value: Any, known: Mapping[str, Values]) -> Iterator[tuple[str, Any]]:
    """What of an unread setting is not known: itself, or, of a dictionary, settings inside it."""
    rules = [values for pattern, values in known.items() if fnmatchcase(path, pattern)]
    if any(values is None or value in values for values in rules):
        return
    if isinstance(value, dict) and not rules:
        for name, inside in value.items():
            yield from _refused(f"{path}.{name}", inside, known)
    else:
        yield path, value
