"""The variational-bound loss of VQ-Diffusion (contract)."""
# class DiscreteLoss(nn.Module):
#     __init__(process, auxiliary_weight=5e-4, adaptive_auxiliary=True, mask_weight=(1.0, 1.0)); buffers: history [T], count [T]
#     draw_times(batch, draws/generator) -> (t [b] in 1..T, p_t [b])     importance sampling by sqrt(history)
#     forward(predict_logits: Callable[[x_t, t], logits], x_0, draws, t=None, p_t=None) -> LossOutput
#         LossOutput(loss, per_image, log_p, x_t, t, kl, ...); updates history/count when self.training
