"""Bytes and collectives of compiled texts; the texts are what XLA wrote, cut to a few lines."""

import jax
import jax.numpy as jnp
import pytest

from repre_jax.training.traffic import Collective, read_traffic

# Of the gradient of an attention over two H100 (jaxlib 0.10.2).
GPU = """HloModule jit_f, is_scheduled=true, num_partitions=2

%fused_reduce (param_0: f32[64,64,64]) -> f32[64,64] {
  %param_0 = f32[64,64,64]{2,1,0} parameter(0)
  %constant_1 = f32[] constant(0)
  ROOT %reduce.4 = f32[64,64]{1,0} reduce(%param_0, %constant_1), dimensions={0}, to_apply=%add
}

ENTRY %main.0_spmd (param: bf16[16,197,4,64]) -> f32[64,64] {
  %param = bf16[16,197,4,64]{3,2,1,0} parameter(0), sharding={devices=[2,1,1,1]<=[2]}
  %wrapped_transpose = bf16[16,4,64,197]{3,2,1,0} fusion(%param), kind=kInput, calls=%transposed
  %bitcast.37.0 = bf16[64,64,197]{2,1,0} bitcast(%wrapped_transpose)
  %gemm = (f32[64,64,64]{2,1,0}, s8[4194304]{0}) custom-call(%bitcast.37.0, %bitcast.37.0), \
custom_call_target="__cublas$lt$matmul", backend_config={"operation_queue_id":"0"}
  %get-tuple-element = f32[64,64,64]{2,1,0} get-tuple-element(%gemm), index=0
  %input_reduce_fusion = f32[64,64]{1,0} fusion(%get-tuple-element), kind=kInput, \
calls=%fused_reduce, metadata={op_name="jit(f)/transpose(jvp())/reduce_sum(0)"}
  %all-reduce-start = f32[64,64]{1,0} all-reduce-start(%input_reduce_fusion), channel_id=1, \
replica_groups=[1,2]<=[2], use_global_device_ids=true, to_apply=%add.clone
  ROOT %all-reduce-done = f32[64,64]{1,0} all-reduce-done(%all-reduce-start)
}
"""

# Of the same for TPU v5e (libtpu 0.0.42.1), where S(1) is memory on the chip.
TPU = """HloModule jit_f, is_scheduled=true

ENTRY %main.0_spmd (param: bf16[16,197,4,64]) -> f32[64,64] {
  %param = bf16[16,197,4,64]{1,3,2,0:T(8,128)(2,1)} parameter(0)
  %copy-start = (bf16[16,197,4,64]{1,3,2,0:T(8,128)(2,1)S(1)}, \
bf16[16,197,4,64]{1,3,2,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%param)
  %copy-done = bf16[16,197,4,64]{1,3,2,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %fusion.20 = (f32[16,4,197]{2,1,0:T(4,128)S(1)}, /*index=1*/f32[64,64]{1,0:T(8,128)}) \
fusion(%copy-done), kind=kOutput, calls=%fused_computation.18
  %get-tuple-element = f32[64,64]{1,0:T(8,128)} get-tuple-element(%fusion.20), index=1
  ROOT %all-reduce = f32[64,64]{1,0:T(8,128)} all-reduce(%get-tuple-element), channel_id=1
}
"""

# Of train.accumulate, and of keys that are gathered while something else runs.
LOOP = """HloModule jit_g, is_scheduled=true

%body (arg: (s32[], f32[256])) -> (s32[], f32[256]) {
  %arg = (s32[], f32[256]{0}) parameter(0)
  %number = s32[] get-tuple-element(%arg), index=0
  %x = f32[256]{0} get-tuple-element(%arg), index=1
  %doubled = f32[256]{0} fusion(%x), kind=kLoop, calls=%fused
  %all-reduce.1 = f32[256]{0} all-reduce(%doubled), channel_id=1, to_apply=%add
  ROOT %tuple = (s32[], f32[256]{0}) tuple(%number, %all-reduce.1)
}

%condition (arg.1: (s32[], f32[256])) -> pred[] {
  %arg.1 = (s32[], f32[256]{0}) parameter(0)
  ROOT %less = pred[] fusion(%arg.1), kind=kLoop, calls=%compared
}

ENTRY %main (p: (s32[], f32[256]), k: bf16[8,4]) -> bf16[16,4] {
  %p = (s32[], f32[256]{0}) parameter(0)
  %k = bf16[8,4]{1,0} parameter(1)
  %while.1 = (s32[], f32[256]{0}) while(%p), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  %all-gather-start = (bf16[8,4]{1,0}, bf16[16,4]{1,0}) all-gather-start(%k), dimensions={0}
  ROOT %all-gather-done = bf16[16,4]{1,0} all-gather-done(%all-gather-start)
}
"""


def test_gpu():
    tokens, product, sums = 2 * 16 * 197 * 4 * 64, 4 * 64**3, 4 * 64**2
    transposed, gemm, reduced = 2 * tokens, 2 * tokens + product, product + sums
    traffic = read_traffic(GPU)
    assert traffic.bytes == transposed + gemm + reduced + 2 * sums
    assert traffic.collectives == (Collective("all-reduce", "f32", 1, sums),)


def test_memory_on_the_chip_is_not_the_devices_and_tiles_are_filled_up():
    tokens, sums = 2 * 16 * 256 * 4 * 64, 4 * 64 * 128  # 197 x 64 in tiles of 128 x 8, 64 of 128
    assert read_traffic(TPU).bytes == tokens + sums + 2 * sums


def test_of_a_slice_nothing_else_is_read():
    text = """ENTRY %main (p: u8[128,2,8]) -> u8[128,1,8] {
  %p = u8[128,2,8]{2,1,0} parameter(0)
  %slice-start = ((u8[128,2,8]{2,1,0}), u8[128,1,8]{2,1,0:S(1)}, s32[]{:S(2)}) slice-start(%p)
  %slice-done = u8[128,1,8]{2,1,0:S(1)} slice-done(%slice-start)
  ROOT %copy = u8[128,1,8]{2,1,0} copy(%slice-done)
}
"""
    assert read_traffic(text).bytes == 2 * 128 * 8


def test_a_loop_counts_as_often_as_it_runs():
    traffic = read_traffic(LOOP)
    assert traffic.bytes == 3 * 4 * 1024 + 64 + 128
    assert traffic.collectives == (
        Collective("all-reduce", "f32", 3, 3 * 1024),
        Collective("all-gather", "bf16", 1, 128),
    )


def test_exchanges_within_fusions_and_what_a_scatter_leaves():
    """A TPU's compiler puts exchanges into fusions."""
    text = """HloModule jit_h, is_scheduled=true

%gathered (param_0: bf16[8,4]) -> bf16[16,4] {
  %param_0 = bf16[8,4]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[16,4]{1,0} all-gather(%param_0), dimensions={0}
}

ENTRY %main (p: bf16[8,4], x: f32[32]) -> bf16[16,4] {
  %p = bf16[8,4]{1,0} parameter(0)
  %x = f32[32]{0} parameter(1)
  %scattered = (f32[32]{0}, f32[4]{0}) reduce-scatter-start(%x), dimensions={0}, to_apply=%add
  %done = f32[4]{0} reduce-scatter-done(%scattered)
  ROOT %fusion.1 = bf16[16,4]{1,0} fusion(%p), kind=kCustom, calls=%gathered
}
"""
    assert read_traffic(text).collectives == (
        Collective("all-gather", "bf16", 1, 128),
        Collective("reduce-scatter", "f32", 1, 16),
    )


def test_a_program_compiled_here():
    """A scan that XLA for CPU keeps as a loop: both products of each of its five rounds."""
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    body = lambda x, _: (x @ x, None)  # noqa: E731
    compiled = jax.jit(lambda x: jax.lax.scan(body, x, length=5)[0]).lower(x).compile()
    assert read_traffic(compiled.as_text()).bytes == pytest.approx(5 * 3 * 4 * 64**2, rel=0.5)
