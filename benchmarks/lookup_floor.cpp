// What a lookup of one id a bag must do for each id, however little its rows cost: find out which ids repeat, copy a row of `dim`
// numbers to the output, add one of the gradient. No hashing, no array, no products. Compiled by lookup_floor.py.
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <vector>

namespace {

int64_t number(const int64_t* ids, int64_t n, int32_t* numbers, int64_t* distinct) {
  int bits = 7;
  while ((int64_t(1) << bits) < 2 * n) {
    ++bits;
  }
  const int64_t mask = (int64_t(1) << bits) - 1;
  std::vector<int32_t> table(mask + 1);
  int32_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    int64_t at = static_cast<int64_t>((static_cast<uint64_t>(ids[i]) * 0x9E3779B97F4A7C15ULL) >> (64 - bits));
    int32_t place = table[at];
    while (place != 0 && distinct[place - 1] != ids[i]) {
      at = (at + 1) & mask;
      place = table[at];
    }
    if (place == 0) {
      distinct[count] = ids[i];
      table[at] = place = ++count;
    }
    numbers[i] = place - 1;
  }
  return count;
}

} // namespace

// Of `features` runs of `n` ids each: numbers them, and copies row numbers[i] of a feature's distinct rows to out[i, feature].
extern "C" void forward(
    const int64_t* ids, int64_t features, int64_t n, int64_t dim, int32_t* numbers, int64_t* counts, float* out, int stream,
    int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t f = 0; f < features; ++f) {
    std::vector<int64_t> distinct(n);
    counts[f] = number(ids + f * n, n, numbers + f * n, distinct.data());
    std::vector<float> rows(counts[f] * dim);
    for (int64_t i = 0; i < n; ++i) {
      const float* const from = rows.data() + numbers[f * n + i] * dim;
      float* const to = out + (i * features + f) * dim;
      for (int64_t d = 0; d < dim; d += 8) {
        const __m256 value = _mm256_loadu_ps(from + d);
        stream ? _mm256_stream_ps(to + d, value) : _mm256_storeu_ps(to + d, value);
      }
    }
  }
}

// Adds grad[i, feature] to row numbers[i] of the feature's distinct rows, as `forward` left them.
extern "C" void backward(
    int64_t features, int64_t n, int64_t dim, const int32_t* numbers, const int64_t* counts, const float* grad, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t f = 0; f < features; ++f) {
    std::vector<float> rows(counts[f] * dim);
    for (int64_t i = 0; i < n; ++i) {
      float* const to = rows.data() + numbers[f * n + i] * dim;
      const float* const from = grad + (i * features + f) * dim;
      for (int64_t d = 0; d < dim; d += 8) {
        _mm_prefetch(reinterpret_cast<const char*>(from + 16 * features * dim + d), _MM_HINT_T0);
        _mm256_storeu_ps(to + d, _mm256_add_ps(_mm256_loadu_ps(to + d), _mm256_loadu_ps(from + d)));
      }
    }
    volatile float kept = rows[0]; // the sums are wanted
    (void)kept;
  }
}
