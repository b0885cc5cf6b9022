// Forward and backward over the rows of one feature. Included once for each instruction set, see gemm.h.
#include "gemm.h"
#include "tile.h"

namespace torchrec_pss {
namespace PSS_ISA {

// The indices of a tile of rows.
template <typename Acc>
struct RowTile {
  int64_t first_row, end_row; // of the output
  int64_t first_bag; // of the feature
  int64_t begin, end; // indices
  bool unit; // one index a row

  RowTile(const Problem& p, int64_t feature, int64_t first, int64_t last)
      : first_row(first), end_row(last), first_bag(feature * p.batch_size) {
    if (p.pooling_mode == kNone) {
      begin = first;
      end = last;
      unit = true;
      return;
    }
    const int64_t* const offsets = p.offsets + first_bag;
    begin = offsets[first];
    end = offsets[last];
    unit = end - begin == last - first;
    for (int64_t r = first; r < last; ++r) {
      unit &= offsets[r + 1] - offsets[r] == 1;
    }
  }
  int64_t rows() const { return end_row - first_row; }
};

// Calls visit(tile) for tiles of the rows' indices, in order; what it returns names an id out of range.
template <typename Acc, typename Visit>
PSS_INLINE BadId each_tile(const RowTile<Acc>& rows, Tile<Acc>& tile, const Acc* weights, Visit&& visit) {
  BadId bad;
  int64_t bag = rows.first_bag + rows.first_row;
  for (int64_t i = rows.begin; i < rows.end; i += tile.capacity) {
    const int64_t to = i + tile.capacity < rows.end ? i + tile.capacity : rows.end;
    if (!tile.take(i, to, &bad)) {
      return bad;
    }
    if (rows.unit) {
      tile.place_units(rows.first_row + i - rows.begin, weights);
    } else {
      tile.place_in_bags(&bag, rows.first_bag, weights);
    }
    visit();
  }
  return bad;
}

template <typename Acc, int n>
struct Short {
  typedef Acc Type __attribute__((vector_size(n * sizeof(Acc))));
};

// to[0 .. n) = or += factor * from[0 .. n)
template <bool kAssign, int n, typename T, typename Acc>
PSS_INLINE void add_lanes(Acc* to, const T* from, Acc factor) {
  typename Short<Acc, n>::Type value{}, old;
  if constexpr (sizeof(T) == sizeof(Acc)) {
    __builtin_memcpy(&value, from, sizeof(value));
  } else {
    for (int k = 0; k < n; ++k) {
      value[k] = static_cast<Acc>(from[k]);
    }
  }
  if (kAssign) {
    value = factor * value;
  } else {
    __builtin_memcpy(&old, to, sizeof(old));
    value = old + factor * value;
  }
  __builtin_memcpy(to, &value, sizeof(value));
}

// The same for any length. Runs are short: no loop but over sixteens, which would be vectorised for long ones.
template <bool kAssign, typename T, typename Acc>
PSS_INLINE void add_run(Acc* to, const T* from, int64_t length, Acc factor) {
  if (length == 1) {
    const Acc value = factor * static_cast<Acc>(*from);
    *to = kAssign ? value : *to + value;
    return;
  }
  int64_t j = 0;
  for (; j + 16 <= length; j += 16) {
    add_lanes<kAssign, 16>(to + j, from + j, factor);
  }
  if (length & 8) {
    add_lanes<kAssign, 8>(to + j, from + j, factor);
    j += 8;
  }
  if (length & 4) {
    add_lanes<kAssign, 4>(to + j, from + j, factor);
    j += 4;
  }
  if (length & 2) {
    add_lanes<kAssign, 2>(to + j, from + j, factor);
    j += 2;
  }
  if (length & 1) {
    const Acc value = factor * static_cast<Acc>(from[j]);
    to[j] = kAssign ? value : to[j] + value;
  }
}

// Rows of one index each, whose coordinates and bias fit one register of `n` numbers, and lie in the array one after another: of hot
// rows, or of exact tables. `to` has room for the register, and what of it is no coordinate becomes the bias and zeros.
template <int n, typename T, typename Acc, typename Address>
PSS_INLINE void assign_whole_rows(
    const Tile<Acc>& tile, int64_t count, const T* array, Acc* to, int64_t stride, Address&& address_of) {
  const FeatureWork& f = tile.f;
  typename Short<Acc, n>::Type keep{}, rest{};
  for (int j = 0; j < n; ++j) {
    keep[j] = j < f.width ? Acc(1) : Acc(0);
    rest[j] = f.bias && j == f.width ? Acc(1) : Acc(0);
  }
  const auto mask = keep != 0;
  for (int64_t i = 0; i < count; ++i) {
    const auto [k, address] = address_of(i);
    Acc* const row = to + tile.row[k] * stride;
    if (address + n > tile.problem.numel) { // the last row of the array
      add_run<true>(row, array + address, f.width, tile.factor[k]);
      for (int64_t j = f.width; j < n; ++j) {
        row[j] = rest[j] * tile.factor[k];
      }
      continue;
    }
    typename Short<Acc, n>::Type value{};
    if constexpr (sizeof(T) == sizeof(Acc)) {
      __builtin_memcpy(&value, array + address, sizeof(value));
    } else {
      for (int j = 0; j < n; ++j) {
        value[j] = static_cast<Acc>(array[address + j]);
      }
    }
    value = tile.factor[k] * (mask ? value : rest);
    __builtin_memcpy(row, &value, sizeof(value));
  }
}

struct Place {
  int64_t index, address;
};

// Rows of one index each.
template <typename T, typename Acc>
void assign_tile(const Tile<Acc>& tile, const T* array, Acc* to, int64_t stride) {
  const FeatureWork& f = tile.f;
  const int64_t width = f.width + f.bias, own = f.width - f.prefix;
  const auto exact = [&](int64_t k) { return Place{k, f.base + tile.id[k] * f.prefix}; };
  const auto hot = [&](int64_t h) { return Place{tile.hot[h], tile.own[h]}; };
  const int64_t count = f.prefix == 0 ? tile.num_hot : own == 0 ? tile.size : 0; // whole rows, if they fit a register
  const auto whole = [&](auto by) { f.prefix == 0 ? by(hot) : by(exact); };
  const bool is_whole = f.projected && (f.prefix == 0 || own == 0) && width <= 16;
  if (is_whole && width <= 8) {
    whole([&](auto place) { assign_whole_rows<8>(tile, count, array, to, stride, place); });
  } else if (is_whole && f.room >= 16) {
    whole([&](auto place) { assign_whole_rows<16>(tile, count, array, to, stride, place); });
  } else {
    for (int64_t k = 0; f.prefix > 0 && k < tile.size; ++k) {
      add_run<true>(to + tile.row[k] * stride, array + exact(k).address, f.prefix, tile.factor[k]);
    }
    for (int64_t h = 0; h < tile.num_hot; ++h) {
      const int64_t k = tile.hot[h];
      add_run<true>(to + tile.row[k] * stride + f.prefix, array + tile.own[h], own, tile.factor[k]);
    }
  }
  for (int64_t c = 0; c < tile.num_cold; ++c) {
    const int64_t k = tile.cold[c];
    Acc* const row = to + tile.row[k] * stride;
    each_cold_run(tile, c, [&](int64_t j, int64_t address, int64_t length, Acc sign) {
      add_run<true>(row + j, array + address, length, sign * tile.factor[k]);
    });
  }
  for (int64_t k = 0; f.projected && !(is_whole && count == tile.size) && k < tile.size; ++k) {
    Acc* const row = to + tile.row[k] * stride;
    for (int64_t j = f.width; j < f.room; ++j) {
      row[j] = j < width ? tile.factor[k] : Acc(0);
    }
  }
}

// Sums over the indices [first, last) of one row: to[j] += their factors times what lies `length` long at their addresses.
template <typename T, typename Acc, typename Address>
PSS_INLINE void add_sum(
    Acc* to, const T* array, int64_t length, int64_t first, int64_t last, Address&& address_and_factor) {
  int64_t j = 0;
  const auto lanes = [&](auto tag) __attribute__((always_inline)) {
    constexpr int n = sizeof(tag) / sizeof(Acc);
    typename Short<Acc, n>::Type sum, value{};
    __builtin_memcpy(&sum, to + j, sizeof(sum));
    for (int64_t i = first; i < last; ++i) {
      Acc factor;
      const T* const from = array + address_and_factor(i, &factor) + j;
      if constexpr (sizeof(T) == sizeof(Acc)) {
        __builtin_memcpy(&value, from, sizeof(value));
      } else {
        for (int k = 0; k < n; ++k) {
          value[k] = static_cast<Acc>(from[k]);
        }
      }
      sum += factor * value;
    }
    __builtin_memcpy(to + j, &sum, sizeof(sum));
    j += n;
  };
  while (j + 16 <= length) {
    lanes(typename Short<Acc, 16>::Type{});
  }
  if (length & 8) {
    lanes(typename Short<Acc, 8>::Type{});
  }
  if (length & 4) {
    lanes(typename Short<Acc, 4>::Type{});
  }
  if (length & 2) {
    lanes(typename Short<Acc, 2>::Type{});
  }
  if (length & 1) {
    Acc sum = to[j];
    for (int64_t i = first; i < last; ++i) {
      Acc factor;
      const int64_t address = address_and_factor(i, &factor);
      sum += factor * static_cast<Acc>(array[address + j]);
    }
    to[j] = sum;
  }
}

// Calls visit(row, first, last) for each run of entries of the same row; row_of is ascending.
template <typename Row, typename Visit>
PSS_INLINE void each_row(int64_t count, Row&& row_of, Visit&& visit) {
  for (int64_t first = 0, last; first < count; first = last) {
    const int64_t row = row_of(first);
    for (last = first + 1; last < count && row_of(last) == row;) {
      ++last;
    }
    visit(row, first, last);
  }
}

// Rows of several indices: a row's sum stays in a register over its indices.
template <typename T, typename Acc>
void add_tile(const Tile<Acc>& tile, const T* array, Acc* to, int64_t stride) {
  const FeatureWork& f = tile.f;
  if (f.prefix > 0 || f.bias) {
    const auto row_of = [&](int64_t k) { return tile.row[k]; };
    each_row(tile.size, row_of, [&](int64_t r, int64_t first, int64_t last) {
      add_sum(to + r * stride, array, f.prefix, first, last, [&](int64_t k, Acc* factor) {
        *factor = tile.factor[k];
        return f.base + tile.id[k] * f.prefix;
      });
      for (int64_t k = first; f.bias && k < last; ++k) {
        to[r * stride + f.width] += tile.factor[k];
      }
    });
  }
  const auto row_of_hot = [&](int64_t h) { return tile.row[tile.hot[h]]; };
  each_row(tile.num_hot, row_of_hot, [&](int64_t r, int64_t first, int64_t last) {
    add_sum(to + r * stride + f.prefix, array, f.width - f.prefix, first, last, [&](int64_t h, Acc* factor) {
      *factor = tile.factor[tile.hot[h]];
      return tile.own[h];
    });
  });
  const int64_t blocks = f.num_blocks(), n = tile.num_cold;
  const auto row_of_cold = [&](int64_t c) { return tile.row[tile.cold[c]]; };
  each_row(n, row_of_cold, [&](int64_t r, int64_t first, int64_t last) {
    const auto of_length = [&](int64_t length) __attribute__((always_inline)) {
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t* const address = tile.addresses.data + b * n;
        add_sum(to + r * stride + f.prefix + b * length, array, length, first, last, [&](int64_t c, Acc* factor) {
          const int64_t a = address[c];
          const Acc positive = tile.factor[tile.cold[c]];
          *factor = a < 0 ? -positive : positive;
          return a ^ (a >> 63);
        });
      }
    };
    switch (f.block) { // the usual lengths as constants
      case 1: return of_length(1);
      case 4: return of_length(4);
      default: return of_length(f.block);
    }
  });
}

template <typename Acc>
void stream_rows(const Acc* from, int64_t rows, int64_t width, Acc* to, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t n = 0; n < width; n += 16) {
      store_out<true>(to + r * stride + n, load(from + r * width + n));
    }
  }
}

// Whether a feature's columns are whole lines of the cache, so that they may be written past it.
template <typename T, typename Acc>
bool can_stream(const Problem& p, const Tensors<T, Acc>& t, const FeatureWork& f) {
  return p.stream && f.out_width % 16 == 0 && f.out_column % 16 == 0 && p.out_stride % 16 == 0 &&
      reinterpret_cast<uintptr_t>(t.out) % 64 == 0;
}

template <typename T, typename Acc>
BadId forward(const Problem& p, const Tensors<T, Acc>& t, int64_t feature, int64_t first, int64_t last) {
  const FeatureWork& f = p.features[feature];
  const bool stream = can_stream(p, t, f);
  const int64_t width = f.width + f.bias;
  Acc* const out = t.out + f.out_column;
  // Pooled rows go to `read`, to the output, or, if that is written past the cache, to a tile of it first.
  Buffer<Acc> pooled(stream && !f.projected ? kTileRows * width : 0);
  Tile<Acc> tile(p, f);
  for (int64_t row = first; row < last; row += kTileRows) {
    const RowTile<Acc> rows(p, feature, row, row + kTileRows < last ? row + kTileRows : last);
    Acc* to = out;
    int64_t stride = p.out_stride;
    if (f.projected) {
      to = t.read + f.read_column;
      stride = p.read_stride;
    } else if (stream) {
      to = pooled.data - row * width;
      stride = width;
    }
    for (int64_t r = rows.first_row; !rows.unit && r < rows.end_row; ++r) {
      __builtin_memset(to + r * stride, 0, f.room * sizeof(Acc));
    }
    const BadId bad = each_tile(rows, tile, t.weights, [&] {
      if (p.prefetch) {
        tile.prefetch(t.array);
      }
      rows.unit ? assign_tile(tile, t.array, to, stride) : add_tile(tile, t.array, to, stride);
    });
    if (bad.feature >= 0) {
      return bad;
    }
    if (f.projected) {
      const auto project = [&](auto multiply_by) {
        multiply_by(
            rows.rows(), to + row * stride, stride, t.projections[feature], f.out_width, out + row * p.out_stride,
            p.out_stride, width, f.out_width);
      };
      stream ? project(multiply<true, Acc>) : project(multiply<false, Acc>);
    } else if (stream) {
      stream_rows(pooled.data, rows.rows(), width, out + row * p.out_stride, p.out_stride);
    }
  }
  return {};
}

// Adds a tile's gradient to what `share` owns.
template <bool kShared, typename Acc>
void add_gradient(
    const Tile<Acc>& tile, const Acc* grad, int64_t stride, Acc* sink, Acc sink_scale, const Share& share) {
  const FeatureWork& f = tile.f;
  const auto add = [&](int64_t address, const Acc* from, int64_t length, Acc factor) {
    if (!kShared || share.owns(address)) {
      add_run<false>(sink + address, from, length, factor);
    }
  };
  if (f.prefix > 0) {
    for (int64_t k = 0; k < tile.size; ++k) {
      add(f.base + tile.id[k] * f.prefix, grad + tile.row[k] * stride, f.prefix, sink_scale * tile.factor[k]);
    }
  }
  for (int64_t h = 0; h < tile.num_hot; ++h) {
    const int64_t k = tile.hot[h];
    add(tile.own[h], grad + tile.row[k] * stride + f.prefix, f.width - f.prefix, sink_scale * tile.factor[k]);
  }
  for (int64_t c = 0; c < tile.num_cold; ++c) {
    const int64_t k = tile.cold[c];
    const Acc* const row = grad + tile.row[k] * stride;
    const Acc factor = sink_scale * tile.factor[k];
    each_cold_run(tile, c, [&](int64_t j, int64_t address, int64_t length, Acc sign) {
      add(address, row + j, length, sign * factor);
    });
  }
}

template <typename T, typename Acc>
PSS_INLINE Acc dot(const T* values, const Acc* grad, int64_t length) {
  Acc sum = 0;
  for (int64_t j = 0; j < length; ++j) {
    sum += static_cast<Acc>(values[j]) * grad[j];
  }
  return sum;
}

template <typename T, typename Acc>
void weight_gradient(const Tile<Acc>& tile, const T* array, const Acc* grad, int64_t stride, Acc* to) {
  const FeatureWork& f = tile.f;
  Acc sums[kTileIds];
  for (int64_t k = 0; k < tile.size; ++k) {
    const Acc* const row = grad + tile.row[k] * stride;
    sums[k] = f.prefix > 0 ? dot(array + f.base + tile.id[k] * f.prefix, row, f.prefix) : Acc(0);
    sums[k] += f.bias ? row[f.width] : Acc(0);
  }
  for (int64_t h = 0; h < tile.num_hot; ++h) {
    const int64_t k = tile.hot[h];
    sums[k] += dot(array + tile.own[h], grad + tile.row[k] * stride + f.prefix, f.width - f.prefix);
  }
  for (int64_t c = 0; c < tile.num_cold; ++c) {
    const int64_t k = tile.cold[c];
    const Acc* const row = grad + tile.row[k] * stride;
    each_cold_run(tile, c, [&](int64_t j, int64_t address, int64_t length, Acc sign) {
      sums[k] += sign * dot(array + address, row + j, length);
    });
  }
  for (int64_t k = 0; k < tile.size; ++k) {
    to[tile.first + k] = tile.scale[k] * sums[k];
  }
}

template <typename T, typename Acc>
BadId backward(const Problem& p, const Tensors<T, Acc>& t, int64_t feature, Share share) {
  const FeatureWork& f = p.features[feature];
  const bool leads = feature % share.parts == share.part; // alone writes what belongs to no element of the array
  const int64_t width = f.width + f.bias, dim = f.out_width;
  // Of the bias, which no element of the array is multiplied with, only the weights need what the gradient makes.
  const int64_t needed = f.width + (f.bias && t.grad_weights), padded = (needed + 15) / 16 * 16;
  // The projection, transposed, and what it makes of a tile's gradient.
  Buffer<Acc> transposed(f.projected ? dim * padded : 0), read_grad(f.projected ? kTileRows * padded : 0);
  if (f.projected) {
    __builtin_memset(transposed.data, 0, dim * padded * sizeof(Acc));
    for (int64_t j = 0; j < needed; ++j) {
      for (int64_t d = 0; d < dim; ++d) {
        transposed.data[d * padded + j] = t.projections[feature][j * dim + d];
      }
    }
  }
  Tile<Acc> tile(p, f);
  const int64_t last = p.end_row(feature);
  for (int64_t row = p.first_row(feature); row < last; row += kTileRows) {
    const RowTile<Acc> rows(p, feature, row, row + kTileRows < last ? row + kTileRows : last);
    const Acc* grad = t.grad + f.out_column;
    int64_t stride = p.out_stride;
    const int64_t next_end = row + 2 * kTileRows < last ? row + 2 * kTileRows : last;
    for (int64_t r = row + kTileRows; r < next_end; ++r) { // strides that no hardware foresees
      for (int64_t n = 0; n < dim; n += 64 / sizeof(Acc)) {
        __builtin_prefetch(grad + r * stride + n);
      }
    }
    if (f.projected) {
      const Acc* const out_grad = grad + row * stride;
      if (leads && t.sink) {
        add_outer(
            rows.rows(), t.read + row * p.read_stride + f.read_column, p.read_stride, out_grad, stride,
            t.grad_projections[feature], dim, width, dim);
      }
      multiply<false>(rows.rows(), out_grad, stride, transposed.data, padded, read_grad.data, padded, dim, padded);
      grad = read_grad.data - row * padded;
      stride = padded;
    }
    const BadId bad = each_tile(rows, tile, t.weights, [&] {
      if (t.sink && p.prefetch) {
        tile.prefetch(t.sink);
      }
      if (leads && t.grad_weights) {
        weight_gradient(tile, t.array, grad, stride, t.grad_weights);
      }
      if (t.sink) {
        share.parts > 1 ? add_gradient<true>(tile, grad, stride, t.sink, t.sink_scale, share)
                        : add_gradient<false>(tile, grad, stride, t.sink, t.sink_scale, share);
      }
    });
    if (bad.feature >= 0) {
      return bad;
    }
  }
  return {};
}

template <int kKind, typename T, typename Acc>
PSS_INLINE void update_run(const Tensors<T, Acc>& t, int64_t address, int64_t length) {
  T* const values = t.updated + address;
  Acc* const sink = t.sink + address;
  const Acc rate = static_cast<Acc>(t.update.rate), eps = static_cast<Acc>(t.update.eps);
  for (int64_t j = 0; j < length; ++j) {
    const Acc gradient = sink[j];
    Acc step = gradient;
    if (kKind == kAdagrad) {
      Acc& squares = t.state[address + j];
      squares += gradient * gradient;
      step = gradient / (__builtin_sqrt(squares) + eps);
    }
    values[j] = static_cast<T>(static_cast<Acc>(values[j]) - rate * step);
    sink[j] = 0;
  }
}

// An element whose gradient is zero, by now or from the start, stays as it is.
template <int kKind, typename T, typename Acc>
void apply_kind(const Problem& p, const Tensors<T, Acc>& t, int64_t feature, Share share) {
  const FeatureWork& f = p.features[feature];
  const auto update = [&](int64_t address, int64_t length) {
    if (share.parts == 1 || share.owns(address)) {
      update_run<kKind>(t, address, length);
    }
  };
  Tile<Acc> tile(p, f);
  BadId bad;
  const int64_t last = p.offsets[(feature + 1) * p.batch_size];
  for (int64_t i = p.offsets[feature * p.batch_size]; i < last; i += tile.capacity) {
    if (!tile.take(i, i + tile.capacity < last ? i + tile.capacity : last, &bad)) {
      return; // backward refused it
    }
    for (int64_t k = 0; f.prefix > 0 && k < tile.size; ++k) {
      update(f.base + tile.id[k] * f.prefix, f.prefix);
    }
    for (int64_t h = 0; h < tile.num_hot; ++h) {
      update(tile.own[h], f.width - f.prefix);
    }
    for (int64_t c = 0; c < tile.num_cold; ++c) {
      each_cold_run(tile, c, [&](int64_t, int64_t address, int64_t length, Acc) { update(address, length); });
    }
  }
}

template <typename T, typename Acc>
void apply(const Problem& p, const Tensors<T, Acc>& t, int64_t feature, Share share) {
  t.update.kind == kSgd ? apply_kind<kSgd>(p, t, feature, share) : apply_kind<kAdagrad>(p, t, feature, share);
}

template <int kKind, typename T, typename Acc>
void apply_kind_to_all(const Tensors<T, Acc>& t, int64_t first, int64_t last) {
  const Acc rate = t.update.rate, eps = t.update.eps, decay = t.update.decay, beta2 = t.update.beta2;
  const Acc rest1 = 1 - t.update.beta1, rest2 = 1 - t.update.beta2;
  const Acc step = t.update.rate / t.update.correction1, correction2 = t.update.correction2;
  T* __restrict values = t.updated;
  Acc* __restrict sink = t.sink;
  Acc* __restrict means = t.state;
  Acc* __restrict squares = t.second;
  for (int64_t i = first; i < last; ++i) {
    Acc value = static_cast<Acc>(values[i]), gradient = sink[i];
    if constexpr (kKind == kAdamW) {
      value -= rate * decay * value;
    } else {
      gradient += decay * value;
    }
    const Acc mean = means[i] + rest1 * (gradient - means[i]);
    const Acc square = beta2 * squares[i] + rest2 * gradient * gradient;
    means[i] = mean;
    squares[i] = square;
    values[i] = static_cast<T>(value - step * mean / (__builtin_sqrt(square) / correction2 + eps));
    sink[i] = 0;
  }
}

template <typename T, typename Acc>
void apply_to_all(const Tensors<T, Acc>& t, int64_t first, int64_t last) {
  t.update.kind == kAdam ? apply_kind_to_all<kAdam>(t, first, last) : apply_kind_to_all<kAdamW>(t, first, last);
}

const Kernels kKernels = {
    {forward<float, float>, backward<float, float>, apply<float, float>, apply_to_all<float, float>},
    {forward<double, double>, backward<double, double>, apply<double, double>, apply_to_all<double, double>},
    {forward<c10::Half, float>, backward<c10::Half, float>, apply<c10::Half, float>, apply_to_all<c10::Half, float>},
    {forward<c10::BFloat16, float>, backward<c10::BFloat16, float>, apply<c10::BFloat16, float>, apply_to_all<c10::BFloat16, float>},
};

} // namespace PSS_ISA
} // namespace torchrec_pss
