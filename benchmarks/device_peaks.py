"""Peak rates of dense matrix products, as manufacturers state them; no entry, no claim."""

# Device kind as JAX names it -> bfloat16 operations a second of one JAX device, without sparsity.
# Sources: cloud.google.com/tpu/docs (system architecture) and NVIDIA's data sheets, whose figures
# "with sparsity" are halved here.
BFLOAT16_PEAKS = {
    "TPU v3": 61.5e12,  # a chip of 123e12 is two devices
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,  # v5p
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989.4e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA L4": 121e12,
}


def peak_flops_per_second(device_kind: str, compute_dtype: str) -> float | None:
    """Peak of one device; None when it is not known, as for any CPU or another dtype.

    Args:
      device_kind: ``jax.Device.device_kind``.
      compute_dtype: "bfloat16" or other.
    """
    return BFLOAT16_PEAKS.get(device_kind) if compute_dtype == "bfloat16" else None
