"""The mask-and-uniform process over tokens (contract; the mathematics goes here)."""
# API (implement):
# LOG_FLOOR = -70.0
# def log_posterior(logits [b n k]) -> log p(x_0|x_t) float32 [b n k]: log_softmax in float64, cast, clamp to [-70, 0]
# class DiscreteProcess:
#     __init__(schedule: DiscreteSchedule, classes: int);  .steps = T;  .classes = K;  .mask = K
#     prior(batch, n_tokens, device) -> x_T [b n], all mask
#     noise(x_0 [b n], t [b], draws) -> x_t            (O(1) per token: keep x_0 | uniform code | mask)
#     log_q(x_s [b n], t [b], s [b]) -> log q(x_t | x_s) [b n K+1]          (s = 0: log q(x_t | x_0))
#     posterior(log_p [b n k], x_t [b n], t [b], s [b]) -> log p(x_s | x_t) [b n K+1]   (the originals' q_posterior generalised to s < t)
#     reverse(log_p, x_t, t, s, draws) -> x_s          (O(1): draw x_0 ~ p, then x_s ~ q(x_s | x_t, x_0))
