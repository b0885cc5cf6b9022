// The whole lookup of a case, forward and backward with SGD, but for one thing: it is told where each distinct row lies in the array.
// No hashing, no hot rows looked for, no checks, any order of sums, no locks where threads add to one place. One dtype, one pooling,
// 26 features of one dimension, bags of one length. What is left is what the bytes and the products take. Compiled by lookup_floor.py.
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

namespace {

constexpr int64_t kAhead = 16;

} // namespace

extern "C" struct Table {
  const int64_t* ids; // [bags * bag]
  const int32_t* places; // [distinct ids in order of first occurrence, pieces]
  float* projection; // [inner, dim]; inner == 0: none
  int32_t* numbers; // [bags * bag], left by forward
  float* reads; // [distinct ids or bags, padded], left by forward where projected
  int64_t prefix, block, pieces, width, inner, count;
};

namespace {

int64_t padded(int64_t width) {
  return (width + 7) / 8 * 8;
}

void number(Table& t, int64_t n) {
  int bits = 7;
  while ((int64_t(1) << bits) < 2 * n) {
    ++bits;
  }
  const int64_t mask = (int64_t(1) << bits) - 1;
  std::vector<int32_t> table(mask + 1);
  std::vector<int64_t> distinct(n);
  int32_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    int64_t at = static_cast<int64_t>((static_cast<uint64_t>(t.ids[i]) * 0x9E3779B97F4A7C15ULL) >> (64 - bits));
    int32_t place = table[at];
    while (place != 0 && distinct[place - 1] != t.ids[i]) {
      at = (at + 1) & mask;
      place = table[at];
    }
    if (place == 0) {
      distinct[count] = t.ids[i];
      table[at] = place = ++count;
    }
    t.numbers[i] = place - 1;
  }
  t.count = count;
}

template <typename Piece>
void each_piece(const Table& t, int64_t row, Piece piece) {
  const int32_t* places = t.places + row * t.pieces;
  int64_t at = 0;
  if (t.prefix != 0) {
    piece(*places++, at, t.prefix);
    at = t.prefix;
  }
  for (; at < t.width; at += t.block) {
    piece(*places++, at, t.block);
  }
}

void fetch(const Table& t, int64_t row, const float* array) {
  if (row < t.count) {
    each_piece(t, row, [&](int32_t place, int64_t, int64_t length) {
      for (int64_t d = 0; d < length; d += 16) {
        _mm_prefetch(reinterpret_cast<const char*>(array + place + d), _MM_HINT_T0);
      }
    });
  }
}

template <int64_t kLength>
void copy_piece(float* to, const float* from, int64_t length) {
  for (int64_t d = 0; d < (kLength != 0 ? kLength : length); ++d) {
    to[d] = from[d];
  }
}

// Distinct rows, `padded(width or inner)` apart, the bias's 1 behind each.
void read_rows(const Table& t, const float* array, float* rows) {
  const int64_t wide = padded(std::max(t.width, t.inner));
  for (int64_t row = 0; row < t.count; ++row) {
    fetch(t, row + kAhead, array);
    float* const to = rows + row * wide;
    each_piece(t, row, [&](int32_t place, int64_t at, int64_t length) {
      length == 1 ? copy_piece<1>(to + at, array + place, 1)
                  : length == 4 ? copy_piece<4>(to + at, array + place, 4) : copy_piece<0>(to + at, array + place, length);
    });
    for (int64_t d = t.width; d < wide; ++d) {
      to[d] = d < t.inner ? 1.0f : 0.0f;
    }
  }
}

void write_rows(const Table& t, float* array, const float* gradients, int64_t wide, float rate) {
  for (int64_t row = 0; row < t.count; ++row) {
    fetch(t, row + kAhead, array);
    const float* const from = gradients + row * wide;
    each_piece(t, row, [&](int32_t place, int64_t at, int64_t length) {
      for (int64_t d = 0; d < length; ++d) {
        array[place + d] -= rate * from[at + d];
      }
    });
  }
}

// kRows rows [inner] by the projection [inner, kDim] to rows of `to`, `stride` apart.
template <int64_t kDim, int64_t kRows>
void product(const Table& t, const float* read, int64_t wide, float* to, int64_t stride, bool stream) {
  constexpr int64_t kVectors = std::min<int64_t>(kDim / 8, 8 / kRows);
  for (int64_t begin = 0; begin < kDim; begin += 8 * kVectors) {
    __m256 sums[kRows][kVectors] = {};
    for (int64_t k = 0; k < t.inner; ++k) {
      for (int64_t v = 0; v < kVectors; ++v) {
        const __m256 p = _mm256_loadu_ps(t.projection + k * kDim + begin + 8 * v);
        for (int64_t r = 0; r < kRows; ++r) {
          sums[r][v] = _mm256_fmadd_ps(_mm256_broadcast_ss(read + r * wide + k), p, sums[r][v]);
        }
      }
    }
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t v = 0; v < kVectors; ++v) {
        float* const at = to + r * stride + begin + 8 * v;
        stream ? _mm256_stream_ps(at, sums[r][v]) : _mm256_storeu_ps(at, sums[r][v]);
      }
    }
  }
}

template <int64_t kDim>
void products(const Table& t, const float* read, int64_t rows, int64_t wide, float* to, int64_t stride, bool stream) {
  constexpr int64_t kRows = kDim == 16 ? 4 : 2;
  int64_t row = 0;
  for (; row + kRows <= rows; row += kRows) {
    product<kDim, kRows>(t, read + row * wide, wide, to + row * stride, stride, stream);
  }
  for (; row < rows; ++row) {
    product<kDim, 1>(t, read + row * wide, wide, to + row * stride, stride, stream);
  }
}

// Of `rows` rows of the gradient, `stride` apart: what they were multiplied from, and the projection's gradient.
template <int64_t kDim>
void products_back(
    const Table& t, const float* transposed, const float* grad, int64_t stride, const float* read, int64_t rows, int64_t wide,
    float* grad_read, float* grad_projection) {
  for (int64_t begin = 0; begin < rows; begin += 8) {
    const int64_t number = std::min<int64_t>(8, rows - begin);
    for (int64_t k = 0; k < wide; k += 8) {
      __m256 sums[8] = {};
      for (int64_t d = 0; d < kDim; ++d) {
        const __m256 p = _mm256_loadu_ps(transposed + d * wide + k);
        for (int64_t r = 0; r < 8; ++r) {
          sums[r] = _mm256_fmadd_ps(_mm256_broadcast_ss(grad + (begin + std::min(r, number - 1)) * stride + d), p, sums[r]);
        }
      }
      for (int64_t r = 0; r < number; ++r) {
        _mm256_storeu_ps(grad_read + (begin + r) * wide + k, sums[r]);
      }
    }
    for (int64_t k = 0; k < t.inner; ++k) {
      for (int64_t d = 0; d < kDim; d += 8) {
        __m256 sum = _mm256_loadu_ps(grad_projection + k * kDim + d);
        for (int64_t r = 0; r < number; ++r) {
          const float* const from = grad + (begin + r) * stride + d;
          sum = _mm256_fmadd_ps(_mm256_broadcast_ss(read + (begin + r) * wide + k), _mm256_loadu_ps(from), sum);
        }
        _mm256_storeu_ps(grad_projection + k * kDim + d, sum);
      }
    }
  }
}

void add(float* to, const float* from, int64_t length) {
  for (int64_t d = 0; d < length; d += 8) {
    _mm256_storeu_ps(to + d, _mm256_add_ps(_mm256_loadu_ps(to + d), _mm256_loadu_ps(from + d)));
  }
}

void fetch_line(const float* from, int64_t length) {
  for (int64_t d = 0; d < length; d += 16) {
    _mm_prefetch(reinterpret_cast<const char*>(from + d), _MM_HINT_T0);
  }
}

template <int64_t kDim>
void forward_of(Table& t, int64_t bags, int64_t bag, const float* array, float* out, int64_t stride, bool stream) {
  number(t, bags * bag);
  const int64_t wide = padded(std::max(t.width, t.inner));
  std::unique_ptr<float[]> kept, rows;
  if (t.inner == 0 || bag > 1) {
    kept.reset(new float[t.count * wide]);
  }
  float* const read = kept ? kept.get() : t.reads;
  read_rows(t, array, read);
  if (bag == 1) {
    const float* from = read;
    if (t.inner != 0) {
      rows.reset(new float[t.count * kDim]);
      products<kDim>(t, read, t.count, wide, rows.get(), kDim, false);
      from = rows.get();
    }
    for (int64_t i = 0; i < bags; ++i) {
      for (int64_t d = 0; d < kDim; d += 8) {
        const __m256 value = _mm256_loadu_ps(from + t.numbers[i] * kDim + d);
        stream ? _mm256_stream_ps(out + i * stride + d, value) : _mm256_storeu_ps(out + i * stride + d, value);
      }
    }
    return;
  }
  for (int64_t b = 0; b < bags; ++b) {
    float* const to = t.inner != 0 ? t.reads + b * wide : out + b * stride;
    for (int64_t d = 0; d < wide; d += 8) {
      __m256 sum = _mm256_setzero_ps();
      for (int64_t i = b * bag; i < (b + 1) * bag; ++i) {
        sum = _mm256_add_ps(sum, _mm256_loadu_ps(read + t.numbers[i] * wide + d));
      }
      stream && t.inner == 0 ? _mm256_stream_ps(to + d, sum) : _mm256_storeu_ps(to + d, sum);
    }
  }
  if (t.inner != 0) {
    products<kDim>(t, t.reads, bags, wide, out, stride, stream);
  }
}

template <int64_t kDim>
void backward_of(Table& t, int64_t bags, int64_t bag, float* array, const float* grad, int64_t stride, float rate) {
  const int64_t wide = padded(std::max(t.width, t.inner)), sum_width = bag == 1 ? kDim : wide;
  std::vector<float> sums(t.count * sum_width), grad_projection(t.inner * kDim), transposed(kDim * wide);
  std::unique_ptr<float[]> grad_read;
  for (int64_t k = 0; k < t.inner; ++k) {
    for (int64_t d = 0; d < kDim; ++d) {
      transposed[d * wide + k] = t.projection[k * kDim + d];
    }
  }
  const float* added = grad;
  int64_t added_stride = stride;
  if (bag > 1 && t.inner != 0) {
    grad_read.reset(new float[bags * wide]);
    products_back<kDim>(
        t, transposed.data(), grad, stride, t.reads, bags, wide, grad_read.get(), grad_projection.data());
    added = grad_read.get();
    added_stride = wide;
  }
  for (int64_t b = 0; b < bags; ++b) {
    if (b + kAhead < bags) {
      fetch_line(added + (b + kAhead) * added_stride, sum_width);
    }
    for (int64_t i = b * bag; i < (b + 1) * bag; ++i) {
      add(sums.data() + t.numbers[i] * sum_width, added + b * added_stride, sum_width);
    }
  }
  const float* gradients = sums.data();
  if (bag == 1 && t.inner != 0) {
    grad_read.reset(new float[t.count * wide]);
    products_back<kDim>(
        t, transposed.data(), sums.data(), kDim, t.reads, t.count, wide, grad_read.get(), grad_projection.data());
    gradients = grad_read.get();
  }
  write_rows(t, array, gradients, wide, rate);
  for (int64_t d = 0; d < t.inner * kDim; ++d) {
    t.projection[d] -= rate * grad_projection[d];
  }
}

template <int64_t kDim>
void step_of(
    Table* tables, int64_t features, int64_t bags, int64_t bag, float* array, float* out, const float* grad, float rate, bool stream,
    int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t f = 0; f < features; ++f) {
    grad == nullptr ? forward_of<kDim>(tables[f], bags, bag, array, out + f * kDim, features * kDim, stream)
                    : backward_of<kDim>(tables[f], bags, bag, array, grad + f * kDim, features * kDim, rate);
  }
}

} // namespace

// Forward, or, with a gradient, backward: `out` and `grad` are [bags, features * dim]. Returns whether the dimension is one of those compiled.
extern "C" int run(
    Table* tables, int64_t features, int64_t bags, int64_t bag, int64_t dim, float* array, float* out, const float* grad, float rate,
    int stream, int threads) {
  switch (dim) {
    case 16:
      step_of<16>(tables, features, bags, bag, array, out, grad, rate, stream != 0, threads);
      return 1;
    case 64:
      step_of<64>(tables, features, bags, bag, array, out, grad, rate, stream != 0, threads);
      return 1;
    case 128:
      step_of<128>(tables, features, bags, bag, array, out, grad, rate, stream != 0, threads);
      return 1;
    default:
      return 0;
  }
}
