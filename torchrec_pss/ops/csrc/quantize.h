// An array as it is read where its elements have few bits: docs/hashing.md, section 6, and ops/quantize.py, whose bits these are. Included
// once for each instruction set, see lanes.h.
namespace torchrec_pss {
namespace PSS_ISA {

// bf16 of `value`, rounded to even, as fp32; not below the smallest normal number.
PSS_INLINE float rounded_scale(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  if (value != value) {
    return value;
  }
  bits = (bits + 0x7FFFU + (bits >> 16 & 1U)) & 0xFFFF0000U;
  constexpr uint32_t kSmallest = 0x00800000U;
  bits = bits < kSmallest ? kSmallest : bits;
  __builtin_memcpy(&value, &bits, sizeof bits);
  return value;
}

// By the largest of `length` elements.
PSS_INLINE float scale_of_group(const float* from, int64_t length, float factor) {
  int32_t largest = 0; // numbers without their sign are in the order of their bits, NaN above all
  for (int64_t i = 0; i < length; ++i) {
    int32_t bits;
    __builtin_memcpy(&bits, from + i, sizeof bits);
    bits &= 0x7FFFFFFF;
    largest = bits > largest ? bits : largest;
  }
  float amplitude;
  __builtin_memcpy(&amplitude, &largest, sizeof amplitude);
  return rounded_scale(amplitude * factor);
}

// Registers by name, for what a compiler makes of the comparisons differs: whole numbers q of a group, of which `from` has `length`.
typedef float Floats __attribute__((vector_size(PSS_REGISTER_BYTES)));
typedef int32_t Ints __attribute__((vector_size(PSS_REGISTER_BYTES)));
constexpr int64_t kFloats = PSS_REGISTER_BYTES / sizeof(float);

template <typename Visit>
PSS_INLINE void each_level(const float* from, float scale, float half, Visit&& visit) {
  const float inverse = 1 / scale;
  const Floats least = -half - Floats{}, most = half - 0.5F - Floats{};
#pragma GCC unroll 16
  for (int64_t i = 0; i < kGroup; i += kFloats) {
    Floats level;
    __builtin_memcpy(&level, from + i, sizeof level);
    level *= inverse;
    level = level > least ? level : least; // a NaN too: the scale is one then
    level = level < most ? level : most;
    const Ints whole = __builtin_convertvector(level, Ints); // towards zero
    visit(i, whole + (level < __builtin_convertvector(whole, Floats)));
  }
}

PSS_INLINE void quantize_group(const float* from, float* to, float scale, float half) {
  each_level(from, scale, half, [&](int64_t i, Ints q) __attribute__((always_inline)) {
    const Floats value = (__builtin_convertvector(q, Floats) + 0.5F) * scale;
    __builtin_memcpy(to + i, &value, sizeof value);
  });
}

// Calls visit(group, elements, scale) for groups [first, last), a shorter one with zeros behind.
template <typename Visit>
PSS_INLINE void each_group(const float* from, int64_t numel, float factor, int64_t first, int64_t last, Visit&& visit) {
  for (int64_t group = first; group < last; ++group) {
    const float* const elements = from + group * kGroup;
    const int64_t length = numel - group * kGroup;
    if (length >= kGroup) {
      visit(group, elements, scale_of_group(elements, kGroup, factor));
    } else {
      float some[kGroup] = {};
      __builtin_memcpy(some, elements, length * sizeof(float));
      visit(group, static_cast<const float*>(some), scale_of_group(some, kGroup, factor));
    }
  }
}

void quantize(const float* from, float* to, int64_t numel, float factor, float half, int64_t first, int64_t last) {
  each_group(from, numel, factor, first, last, [&](int64_t group, const float* elements, float scale) __attribute__((always_inline)) {
    const int64_t at = group * kGroup;
    if (at + kGroup <= numel) {
      return quantize_group(elements, to + at, scale, half);
    }
    float some[kGroup];
    quantize_group(elements, some, scale, half);
    __builtin_memcpy(to + at, some, (numel - at) * sizeof(float));
  });
}

} // namespace PSS_ISA
} // namespace torchrec_pss
