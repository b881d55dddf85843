"""DINO's self-distillation loss (arXiv 2104.14294, equation 2 and algorithm 1)."""

import jax
import jax.numpy as jnp


def self_distillation(
    student: jax.Array,
    teacher: jax.Array,
    *,
    centre: jax.Array,
    student_temperature: float,
    teacher_temperature: jax.Array | float,
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy from every teacher view to every *other* student view.

    -sum_k P_t log P_s = logsumexp(s) - P_t . s, so the log-softmax over the K prototypes is never
    written out for the V student views.

    Args:
      student: logits [B, V, K], the two global views first.
      teacher: logits [B, 2, K] of the global views; no gradient flows into them.
      centre: [K], subtracted from the teacher's logits.
      student_temperature: student's softmax temperature.
      teacher_temperature: teacher's softmax temperature at this step.

    Returns:
      (float32 loss [B], mean over the 2V - 2 ordered pairs; float32 teacher entropy [B] in nats).
    """
    views = student.shape[1]
    if teacher.shape != (student.shape[0], 2, student.shape[2]) or views < 2:
        raise ValueError(f"student {student.shape} needs [B, V>=2, K], teacher {teacher.shape}")
    student = student.astype(jnp.float32) / student_temperature
    teacher = (teacher.astype(jnp.float32) - centre) / teacher_temperature
    log_targets = jax.lax.stop_gradient(jax.nn.log_softmax(teacher, axis=-1))
    targets = jnp.exp(log_targets)
    agreement = jnp.einsum("btk,bvk->btv", targets, student, precision=jax.lax.Precision.HIGHEST)
    cross_entropy = jax.nn.logsumexp(student, axis=-1)[:, None] - agreement  # [B, 2, V]
    other_view = 1 - jnp.eye(2, views)
    loss = jnp.sum(cross_entropy * other_view, axis=(1, 2)) / (2 * views - 2)
    entropy = -jnp.mean(jnp.sum(targets * log_targets, axis=-1), axis=-1)
    return loss, entropy
