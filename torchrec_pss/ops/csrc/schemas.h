// The schemas of torch.ops.torchrec_pss, once: library.cpp defines them, and where there is no compiler ops/schemas.py, which reads the
// strings here. Their meaning stands in torchrec_pss/ops/lookup.py, packed.py, quantize.py, fused.py and read.py.
#pragma once

#define PSS_BATCH "Tensor features, Tensor hot_keys, Tensor projections, Tensor indices, Tensor offsets, Tensor? per_sample_weights, "
#define PSS_WIDTHS "SymInt total_width, SymInt read_width, "
#define PSS_FLAGS "int pooling_mode, int hash, bool sign"
#define PSS_PACKED "Tensor codes, Tensor scales, "

namespace torchrec_pss {

constexpr const char* kSchemas[] = {
    // The second result of a lookup, `saved` of its backward, is what an implementation leaves for itself: pooled reads, and on the CPU
    // numbers of repeated ids (distinct.h), on a GPU of hot rows.
    "lookup(Tensor array, " PSS_BATCH PSS_WIDTHS PSS_FLAGS ") -> (Tensor, Tensor[])",
    "lookup_backward(Tensor grad, Tensor[] saved, Tensor array, " PSS_BATCH PSS_FLAGS ") -> (Tensor, Tensor, Tensor)",
    // Backward and a fused optimizer's step on the array (ops/update_kinds.py: `update` and `numbers`); `sink` is fp32 (fp64) zeros, and
    // zero again afterwards; of UpdateKind.NONE it keeps the gradient.
    "lookup_backward_update_(Tensor grad, Tensor[] saved, Tensor(a!) array, Tensor(b!) sink, Tensor(c!)? state, Tensor(d!)? second, "
    PSS_BATCH PSS_FLAGS ", int update, float[] numbers) -> (Tensor, Tensor)",
    // Of an array whose elements have few bits, what is read: in fp32, or as it is stored, and the lookup in that; `array` takes the
    // gradient.
    "quantize(Tensor array, int bits) -> Tensor",
    "pack(Tensor array, int bits) -> (Tensor, Tensor)",
    "lookup_packed(" PSS_PACKED "Tensor? array, SymInt numel, int bits, " PSS_BATCH PSS_WIDTHS PSS_FLAGS ") -> (Tensor, Tensor[])",
    "lookup_packed_backward(Tensor grad, Tensor[] saved, " PSS_PACKED "SymInt numel, int bits, " PSS_BATCH PSS_FLAGS
    ") -> (Tensor, Tensor, Tensor)",
    "lookup_packed_backward_update_(Tensor grad, Tensor[] saved, " PSS_PACKED "int bits, Tensor(a!) array, Tensor(b!) sink, Tensor(c!)? state, "
    "Tensor(d!)? second, " PSS_BATCH PSS_FLAGS ", int update, float[] numbers) -> (Tensor, Tensor)",
    // To serve: the lookup in an array, or in the codes of one with their scales, that leaves nothing for a backward.
    "read(Tensor elements, Tensor? scales, SymInt numel, int bits, " PSS_BATCH PSS_WIDTHS PSS_FLAGS ") -> Tensor",
};

} // namespace torchrec_pss
