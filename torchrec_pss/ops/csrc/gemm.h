// Products of a few rows with a small matrix, for projections. Included once for each instruction set: no include guard,
// PSS_ISA names the namespace.
namespace torchrec_pss {
namespace PSS_ISA {

// Sixteen numbers; the compiler makes one or more registers of them.
template <typename Acc>
struct Lanes {
  typedef Acc Type __attribute__((vector_size(16 * sizeof(Acc))));
};

template <typename Acc>
using Vector = typename Lanes<Acc>::Type;

template <typename Acc>
PSS_INLINE Vector<Acc> load(const Acc* from) {
  Vector<Acc> v;
  __builtin_memcpy(&v, from, sizeof(v));
  return v;
}

template <typename Acc>
PSS_INLINE void store(Acc* to, const Vector<Acc>& v) {
  __builtin_memcpy(to, &v, sizeof(v));
}

// Past the caches, where `kStream`: what is written is too much for them, and `to` is aligned to 64 bytes.
template <bool kStream, typename Acc>
PSS_INLINE void store_out(Acc* to, const Vector<Acc>& v) {
#ifdef PSS_STREAM
  if constexpr (kStream && sizeof(Acc) == 4) {
    PSS_STREAM(to, v);
    return;
  }
#endif
  store(to, v);
}

// c[r, :] = sum over k of a[r, k] * b[k, :], for r of `R` rows and columns of b up to a multiple of sixteen.
template <int R, bool kStream, typename Acc>
PSS_INLINE void multiply_rows(
    const Acc* a, int64_t a_stride, const Acc* b, int64_t b_stride, Acc* c, int64_t c_stride, int64_t inner,
    int64_t columns) {
  int64_t n = 0;
  for (; n + 16 <= columns; n += 16) {
    Vector<Acc> sum[R];
    for (int r = 0; r < R; ++r) {
      sum[r] = Vector<Acc>{};
    }
    for (int64_t k = 0; k < inner; ++k) {
      const Vector<Acc> bk = load(b + k * b_stride + n);
      for (int r = 0; r < R; ++r) {
        sum[r] += a[r * a_stride + k] * bk;
      }
    }
    for (int r = 0; r < R; ++r) {
      store_out<kStream>(c + r * c_stride + n, sum[r]);
    }
  }
  for (; n < columns; ++n) {
    for (int r = 0; r < R; ++r) {
      Acc sum = 0;
      for (int64_t k = 0; k < inner; ++k) {
        sum += a[r * a_stride + k] * b[k * b_stride + n];
      }
      c[r * c_stride + n] = sum;
    }
  }
}

template <bool kStream, typename Acc>
void multiply(
    int64_t rows, const Acc* a, int64_t a_stride, const Acc* b, int64_t b_stride, Acc* c, int64_t c_stride,
    int64_t inner, int64_t columns) {
  int64_t r = 0;
  for (; r + 8 <= rows; r += 8) { // chains enough to hide an addition's latency
    multiply_rows<8, kStream>(a + r * a_stride, a_stride, b, b_stride, c + r * c_stride, c_stride, inner, columns);
  }
  for (; r < rows; ++r) {
    multiply_rows<1, kStream>(a + r * a_stride, a_stride, b, b_stride, c + r * c_stride, c_stride, inner, columns);
  }
}

// c[j, :] += sum over r of a[r, j] * b[r, :], for j of `J` rows of c, in the order of r.
template <int J, typename Acc>
PSS_INLINE void add_outer_rows(
    int64_t rows, const Acc* a, int64_t a_stride, const Acc* b, int64_t b_stride, Acc* c, int64_t c_stride,
    int64_t columns) {
  int64_t n = 0;
  for (; n + 16 <= columns; n += 16) {
    Vector<Acc> sum[J];
    for (int j = 0; j < J; ++j) {
      sum[j] = load(c + j * c_stride + n);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const Vector<Acc> br = load(b + r * b_stride + n);
      for (int j = 0; j < J; ++j) {
        sum[j] += a[r * a_stride + j] * br;
      }
    }
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

template <typename Acc>
void add_outer(
    int64_t rows, const Acc* a, int64_t a_stride, const Acc* b, int64_t b_stride, Acc* c, int64_t c_stride,
    int64_t inner, int64_t columns) {
  for (; inner > 9; inner -= 8, a += 8, c += 8 * c_stride) {
    add_outer_rows<8>(rows, a, a_stride, b, b_stride, c, c_stride, columns);
  }
  switch (inner) { // the rest in one pass over the rows; 9 are 8 and a bias, for which a pass of its own would take as long
    case 9: return add_outer_rows<9>(rows, a, a_stride, b, b_stride, c, c_stride, columns);
    case 8: return add_outer_rows<8>(rows, a, a_stride, b, b_stride, c, c_stride, columns);
    case 7: return add_outer_rows<7>(rows, a, a_stride, b, b_stride, c, c_stride, columns);
    case 6: return add_outer_rows<6>(rows, a, a_stride, b, b_stride, c, c_stride, columns);
    case 5: return add_outer_rows<5>(rows, a, a_stride, b, b_stride, c, c_stride, columns);
    case 4: return add_outer_rows<4>(rows, a, a_stride, b, b_stride, c, c_stride, columns);
    case 3: return add_outer_rows<3>(rows, a, a_stride, b, b_stride, c, c_stride, columns);
    case 2: return add_outer_rows<2>(rows, a, a_stride, b, b_stride, c, c_stride, columns);
    default: return add_outer_rows<1>(rows, a, a_stride, b, b_stride, c, c_stride, columns);
  }
}

} // namespace PSS_ISA
} // namespace torchrec_pss
