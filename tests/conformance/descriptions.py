"""Which settings of a case an adapter need not read, and the check that it read all others.

Some only describe the recording. Sizes that the shapes of the case's tensors carry are met by loading these, which fails where they differ.
Others have one value in all that the project reproduces; a case with another is refused by name.
"""

from __future__ import annotations

from typing import Any

from tests.conformance.cases import Case

__all__ = ["unknown"]

ASKED = ("config", "runs", "variants", "mixes", "dual", "old", "decodes")
"""Where a case asks for something; what else it says is the layout of cases and notes of the recording."""
DESCRIBED = {
    # what a recording consists of, and how it was made
    "formula", "denoiser_formula", "encoder_formula", "schedule", "size_order", "full_size", "class", "slices", "drop", "batch_size",
    "batch", "canvas_stride", "image_stride", "latent_stride", "qlogits_stride", "large", "big", "want_margin", "watch", "time_steps",
    "shape", "multicontext", "seed", "policy", "translation_ratio", "cutout_ratio", "model", "label", "label_null", "t", "text",
    "spatial", "importance", "n_text_tokens", "diffusers_components", "min_t", "conditioning",
    # sizes that shapes carry
    "emb_dim", "embed_dim", "embed_dim_argument", "latent_shape", "hidden_size", "intermediate_size", "latent_size", "n_embd",
    "n_head", "n_layer", "n_positions", "n_ctx", "num_hidden_layers", "num_labels", "max_position_embeddings", "vocab_size",
    "type_vocab_size", "projection_dim", "patch_size", "image_size", "resolution", "ch", "z_channels", "in_channels", "out_ch", "K",
    "L", "cond_len", "content_seq_len", "condition_seq_len", "decoder_config", "condition_emb_config", "params", "size",
    # what stands for the network's training or its first values, where a case has neither
    "attention_probs_dropout_prob", "attn_pdrop", "embd_pdrop", "resid_pdrop", "hidden_dropout_prob", "dropout", "initializer_range",
    "loss_type", "mask_schedule", "total_steps", "diff_aug", "disc_layers", "disc_start_step", "disc_weight_max", "ndf",
    "perceptual_weight", "kl_weight", "adaptive_auxiliary_loss", "auxiliary_loss_weight", "mask_weight", "learnable_cf", "trainable",
    "use_checkpoint", "lossconfig", "l_elbo_weight", "logvar_init", "device", "start_iteration", "end_iteration",
    # names in the originals' code
    "original_files", "architectures", "finetuning_task", "output_attentions", "output_hidden_states", "pruned_heads", "torchscript",
    "target", "clip_name", "tokenizer", "attn_type", "pos_emb_type", "bpe_merges", "bos", "eos", "start", "vae_image", "vae_text",
    "vd",
}  # fmt: skip
"""Settings with no say in what an adapter computes that does not read them."""
FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu", "quick_gelu"), "layer_norm_eps": (1e-5, 1e-12), "layer_norm_epsilon": (1e-5,), "attn_resolutions": ([],),
    "double_z": (True,), "transformer_depth": (1,), "use_spatial_transformer": (True,), "legacy": (False,), "resample": ("bicubic",),
    "version": ("0.1",), "ema": (True,), "n_channels": (3,), "activate_output": (False,), "threshold_mode": ("rel",),
    "clip_conditioned": (True,),
    "global_layer_ptr": ("image",), "beta_linear_start": (0.00085,), "beta_linear_end": (0.012,),
    "latent_scale_factor": ({"image": 0.18215},),
    "parts": (["global", "data", "context"], ["data", "context"]),
    "type": (
        "vd_v2_0", "openai_unet_2d_next", "openai_unet_0d_next", "openai_unet_2d", "openai_unet_0dmd", "openai_unet",
        "openai_unet_dual_context",
    ),
    "cond_fn": (
        "cond_fn(x,t,pred,cond) = -d/dx [ 0.5 * guidance_scale * sum((pred - target)^2) ], "
        "differentiated through pred = alpha x - sigma v(x,t,cond) including v",
    ),
}  # fmt: skip


def unknown(case: Case) -> list[str]:
    """The settings, with their values, that the adapter did not read although they may say something."""
    found = []
    for path, value in case.spec.unread():
        first, _, name = path.partition(".")
        last = path.rpartition(".")[2]
        if first in ASKED and name and last not in DESCRIBED and value not in FIXED.get(last, ()):
            found.append(f"{path} = {value!r}")
    return found
