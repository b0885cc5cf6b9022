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

// Of `length` elements, by the largest of them.
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

// q of an element over its scale.
PSS_INLINE float floor_of_level(float level, float half) {
  level = level > -half ? level : -half; // a NaN too: the scale is one then
  level = level < half - 0.5F ? level : half - 0.5F;
  const float below = static_cast<float>(static_cast<int32_t>(level));
  return below - (level < below ? 1.0F : 0.0F);
}

PSS_INLINE void quantize_group(const float* from, float* to, int64_t length, float factor, float half) {
  const float scale = scale_of_group(from, length, factor), inverse = 1 / scale;
  for (int64_t i = 0; i < length; ++i) {
    to[i] = (floor_of_level(from[i] * inverse, half) + 0.5F) * scale;
  }
}

void quantize(const float* from, float* to, int64_t numel, float factor, float half, int64_t first, int64_t last) {
  for (int64_t group = first; group < last; ++group) {
    const int64_t at = group * kGroup;
    if (at + kGroup <= numel) {
      quantize_group(from + at, to + at, kGroup, factor, half);
    } else {
      quantize_group(from + at, to + at, numel - at, factor, half);
    }
  }
}

} // namespace PSS_ISA
} // namespace torchrec_pss
