// An array as it is read where its elements have few bits: docs/how/hashing.md, section 6, and ops/quantize.py, whose bits these are. Included
// once for each instruction set, see lanes.h.
namespace torchrec_pss {
namespace PSS_ISA {

// bf16 of `value`, rounded to even, as fp32; not below the smallest normal number.
PSS_INLINE float rounded_scale(float value) {
  constexpr uint32_t kSmallest = 0x00800000U;
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  bits = (bits + 0x7FFFU + (bits >> 16 & 1U)) & 0xFFFF0000U;
  bits = bits < kSmallest ? kSmallest : bits;
  float rounded;
  __builtin_memcpy(&rounded, &bits, sizeof rounded);
  return value == value ? rounded : value;
}

// Registers by name, for what a compiler makes of the comparisons differs.
typedef float Floats __attribute__((vector_size(PSS_REGISTER_BYTES)));
typedef int32_t Ints __attribute__((vector_size(PSS_REGISTER_BYTES)));
constexpr int64_t kFloats = PSS_REGISTER_BYTES / sizeof(float);

// Numbers of which the largest is that of a group's elements: without their sign they are in the order of their bits, NaN above all.
constexpr int64_t kLargest = 4;
PSS_INLINE void largest_of(const float* from, int32_t* to) {
  typedef int32_t Few __attribute__((vector_size(kLargest * sizeof(int32_t))));
  Ints largest = {};
#pragma GCC unroll 16
  for (int64_t i = 0; i < kGroup; i += kFloats) {
    Ints bits;
    __builtin_memcpy(&bits, from + i, sizeof bits);
    bits &= 0x7FFFFFFF;
    largest = bits > largest ? bits : largest;
  }
  Few parts[kFloats / kLargest];
  __builtin_memcpy(parts, &largest, sizeof parts);
#pragma GCC unroll 16
  for (int64_t i = 1; i < kFloats / kLargest; ++i) {
    parts[0] = parts[i] > parts[0] ? parts[i] : parts[0];
  }
  __builtin_memcpy(to, parts, sizeof(Few));
}

struct Scale {
  float value, inverse;
};

// Calls visit(i, q) for a group's whole numbers from the i-th on.
template <typename Visit>
PSS_INLINE void each_level(const float* from, Scale scale, float half, Visit&& visit) {
  const Floats least = -half - Floats{}, most = half - 0.5F - Floats{};
#pragma GCC unroll 16
  for (int64_t i = 0; i < kGroup; i += kFloats) {
    Floats level;
    __builtin_memcpy(&level, from + i, sizeof level);
    level *= scale.inverse;
    level = level > least ? level : least; // a NaN too: the scale is one then
    level = level < most ? level : most;
    const Ints whole = __builtin_convertvector(level, Ints); // towards zero
    visit(i, whole + (level < __builtin_convertvector(whole, Floats)));
  }
}

PSS_INLINE void quantize_group(const float* from, float* to, Scale scale, float half) {
  each_level(from, scale, half, [&](int64_t i, Ints q) __attribute__((always_inline)) {
    const Floats value = (__builtin_convertvector(q, Floats) + 0.5F) * scale.value;
    __builtin_memcpy(to + i, &value, sizeof value);
  });
}

// Calls visit(group, elements, scale) for groups [first, last), a shorter one with zeros behind. Of some groups the scales are found first: one
// after the other each would wait for its division.
template <typename Visit>
PSS_INLINE void each_group(const float* from, int64_t numel, float factor, int64_t first, int64_t last, Visit&& visit) {
  constexpr int64_t kAtOnce = 16;
  for (int64_t group = first; group < last; group += kAtOnce) {
    const int64_t count = group + kAtOnce < last ? kAtOnce : last - group;
    const int64_t whole = (group + count) * kGroup <= numel ? count : count - 1; // but for the array's last group
    float last_group[kGroup] = {};
    int32_t largest[kAtOnce * kLargest] = {};
    float scales[kAtOnce], inverses[kAtOnce];
    if (whole < count) {
      __builtin_memcpy(last_group, from + (group + whole) * kGroup, (numel - (group + whole) * kGroup) * sizeof(float));
    }
    const auto elements_of = [&](int64_t g) { return g < whole ? from + (group + g) * kGroup : static_cast<const float*>(last_group); };
    for (int64_t g = 0; g < count; ++g) {
      largest_of(elements_of(g), largest + g * kLargest);
    }
    for (int64_t g = 0; g < kAtOnce; ++g) {
      int32_t bits = largest[g * kLargest];
#pragma GCC unroll 4
      for (int64_t i = 1; i < kLargest; ++i) {
        const int32_t other = largest[g * kLargest + i];
        bits = other > bits ? other : bits;
      }
      float amplitude;
      __builtin_memcpy(&amplitude, &bits, sizeof amplitude);
      scales[g] = rounded_scale(amplitude * factor);
      inverses[g] = 1 / scales[g];
    }
    for (int64_t g = 0; g < count; ++g) {
      visit(group + g, elements_of(g), Scale{scales[g], inverses[g]});
    }
  }
}

void quantize(const float* from, float* to, int64_t numel, float factor, float half, int64_t first, int64_t last) {
  each_group(from, numel, factor, first, last, [&](int64_t group, const float* elements, Scale scale) __attribute__((always_inline)) {
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
