// Products of a few rows with a small matrix, for projections. Included once for each instruction set, see lanes.h.
namespace torchrec_pss {
namespace PSS_ISA {

// c[r, 0 .. n) = sum over k of a[r, k] * b[k, 0 .. n), for r of `R` rows.
template <int R, int n, bool kStream, typename Acc>
PSS_INLINE void multiply_block(
    const Acc* a, int64_t a_stride, const Acc* b, int64_t b_stride, Acc* c, int64_t c_stride, int64_t inner) {
  Lanes<Acc, n> sum[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    sum[r] = Lanes<Acc, n>{};
  }
  for (int64_t k = 0; k < inner; ++k) {
    const auto bk = load<n, Acc>(b + k * b_stride);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      sum[r].add_product(a[r * a_stride + k], bk);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    store_out<kStream>(c + r * c_stride, sum[r]);
  }
}

constexpr int within(int number, int least, int most) { return number < least ? least : number > most ? most : number; }

// Rows at once: chains enough to hide an addition's latency, their sums in half of the registers.
template <typename Acc, int n>
constexpr int kRowsAtOnce = within(PSS_REGISTERS / 2 / Lanes<Acc, n>::kParts, 1, 8);

// Columns in blocks of n, of which there are `columns`, all blocks of some rows after another.
template <int n, bool kStream, typename Acc>
PSS_INLINE void multiply_columns(
    int64_t rows, const Acc* a, int64_t a_stride, const Acc* b, int64_t b_stride, Acc* c, int64_t c_stride, int64_t inner,
    int64_t columns) {
  constexpr int R = kRowsAtOnce<Acc, n>;
  int64_t r = 0;
  for (; r + R <= rows; r += R) {
    for (int64_t j = 0; j < columns; j += n) {
      multiply_block<R, n, kStream>(a + r * a_stride, a_stride, b + j, b_stride, c + r * c_stride + j, c_stride, inner);
    }
  }
  for (; r < rows; ++r) {
    for (int64_t j = 0; j < columns; j += n) {
      multiply_block<1, n, kStream>(a + r * a_stride, a_stride, b + j, b_stride, c + r * c_stride + j, c_stride, inner);
    }
  }
}

// c = a * b, for a of `rows` rows and `inner` columns.
template <bool kStream, typename Acc>
void multiply(
    int64_t rows, const Acc* a, int64_t a_stride, const Acc* b, int64_t b_stride, Acc* c, int64_t c_stride,
    int64_t inner, int64_t columns) {
  const int64_t wide = columns / 16 * 16, even = columns / 8 * 8;
  multiply_columns<16, kStream>(rows, a, a_stride, b, b_stride, c, c_stride, inner, wide);
  multiply_columns<8, false>(rows, a, a_stride, b + wide, b_stride, c + wide, c_stride, inner, even - wide);
  for (int64_t r = 0; even < columns && r < rows; ++r) {
    for (int64_t j = even; j < columns; ++j) {
      Acc sum = 0;
      for (int64_t k = 0; k < inner; ++k) {
        sum += a[r * a_stride + k] * b[k * b_stride + j];
      }
      c[r * c_stride + j] = sum;
    }
  }
}

// c[j, :] += sum over r of a[r, j] * b[r, :], for j of `J` rows of c, in the order of r.
template <int J, typename Acc>
PSS_INLINE void add_outer_rows(
    int64_t rows, const Acc* a, int64_t a_stride, const Acc* b, int64_t b_stride, Acc* c, int64_t c_stride,
    int64_t columns) {
  int64_t n = 0;
  for (; n + 16 <= columns; n += 16) {
    Lanes<Acc, 16> sum[J];
#pragma GCC unroll 9
    for (int j = 0; j < J; ++j) {
      sum[j] = load<16, Acc>(c + j * c_stride + n);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const auto br = load<16, Acc>(b + r * b_stride + n);
#pragma GCC unroll 9
      for (int j = 0; j < J; ++j) {
        sum[j].add_product(a[r * a_stride + j], br);
      }
    }
#pragma GCC unroll 9
    for (int j = 0; j < J; ++j) {
      store(c + j * c_stride + n, sum[j]);
    }
  }
  for (; n < columns; ++n) {
    for (int j = 0; j < J; ++j) {
      Acc sum = c[j * c_stride + n];
      for (int64_t r = 0; r < rows; ++r) {
        sum += a[r * a_stride + j] * b[r * b_stride + n];
      }
      c[j * c_stride + n] = sum;
    }
  }
}

// Rows of c at once: nine, 8 and a bias, or as many as the registers hold sums of.
template <typename Acc>
constexpr int kOuterAtOnce = within((PSS_REGISTERS - 1) / Lanes<Acc, 16>::kParts - 1, 1, 9);

template <int J, typename Acc>
PSS_INLINE void add_outer_of(
    int64_t count, int64_t rows, const Acc* a, int64_t a_stride, const Acc* b, int64_t b_stride, Acc* c,
    int64_t c_stride, int64_t columns) {
  if constexpr (J > 1) {
    if (count < J) {
      return add_outer_of<J - 1>(count, rows, a, a_stride, b, b_stride, c, c_stride, columns);
    }
  }
  add_outer_rows<J>(rows, a, a_stride, b, b_stride, c, c_stride, columns);
}

// c[j, :] += sum over r of a[r, j] * b[r, :], for j below `inner`.
template <typename Acc>
void add_outer(
    int64_t rows, const Acc* a, int64_t a_stride, const Acc* b, int64_t b_stride, Acc* c, int64_t c_stride,
    int64_t inner, int64_t columns) {
  constexpr int most = kOuterAtOnce<Acc>;
  while (inner > 0) { // in passes over the rows of much the same work
    const int64_t passes = (inner + most - 1) / most, count = (inner + passes - 1) / passes;
    add_outer_of<most>(count, rows, a, a_stride, b, b_stride, c, c_stride, columns);
    inner -= count;
    a += count;
    c += count * c_stride;
  }
}

} // namespace PSS_ISA
} // namespace torchrec_pss
