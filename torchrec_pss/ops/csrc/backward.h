// Backward over the rows of one feature. Included once for each instruction set, see lanes.h.
namespace torchrec_pss {
namespace PSS_ISA {

// Those of hashed blocks, block by block; of several shares the owned ones are listed first: no processor foresees which they are.
template <bool kShared, typename Acc>
void add_blocks(const Tile<Acc>& tile, const Acc* grad, int64_t stride, Acc* sink, Acc sink_scale, const Share& share) {
  const FeatureWork& f = tile.f;
  const int64_t n = tile.num_cold, blocks = f.num_blocks();
  const auto of_length = [&](int64_t length) __attribute__((always_inline)) {
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t* const addresses = tile.addresses.data + b * n;
      const auto add = [&](int64_t c) __attribute__((always_inline)) {
        const int64_t k = tile.cold[c], a = addresses[c];
        const Acc factor = sink_scale * tile.factor[k];
        const Acc* const from = grad + tile.row[k] * stride + f.prefix + b * length;
        add_run<false>(sink + (a ^ (a >> 63)), from, length, a < 0 ? -factor : factor);
      };
      if constexpr (kShared) {
        int32_t owned[kTileIds];
        int64_t count = 0;
        for (int64_t c = 0; c < n; ++c) {
          owned[count] = static_cast<int32_t>(c);
          count += share.owns(addresses[c] ^ (addresses[c] >> 63));
        }
        for (int64_t i = 0; i < count; ++i) {
          add(owned[i]);
        }
      } else {
        for (int64_t c = 0; c < n; ++c) {
          add(c);
        }
      }
    }
  };
  with_constant<1, 4>(f.block, of_length);
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
  add_blocks<kShared>(tile, grad, stride, sink, sink_scale, share);
}

template <typename Source, typename Acc>
PSS_INLINE Acc dot(Source values, const Acc* grad, int64_t length) {
  Acc sum = 0;
  for (int64_t j = 0; j < length; ++j) {
    sum += static_cast<Acc>(values[j]) * grad[j];
  }
  return sum;
}

template <typename Acc>
PSS_INLINE Acc dot(Packed values, const Acc* grad, int64_t length) {
  Acc sum = 0;
  each_run<Acc>(
      length,
      [&](int64_t j, auto tag) __attribute__((always_inline)) {
        constexpr int n = LanesOf<decltype(tag)>::kCount;
        Acc made[n];
        store(made, load<n, Acc>(values + j));
        sum += dot(static_cast<const Acc*>(made), grad + j, n);
      },
      [&](int64_t j) __attribute__((always_inline)) { sum += values[j] * grad[j]; });
  return sum;
}

template <typename Source, typename Acc>
void weight_gradient(const Tile<Acc>& tile, Source array, const Acc* grad, int64_t stride, Acc* to) {
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

// The projection of a feature, transposed: [out_width, room].
template <typename T, typename Acc>
void transpose(const Tensors<T, Acc>& t, const FeatureWork& f, Acc* to) {
  const int64_t dim = f.out_width;
  const Acc* const from = t.projections + f.projection;
  __builtin_memset(to, 0, dim * f.room * sizeof(Acc));
  for (int64_t j = 0; j < f.inner; ++j) {
    for (int64_t d = 0; d < dim; ++d) {
      to[d * f.room + j] = from[j * dim + d];
    }
  }
}

// Gradients of `rows` rows of the output taken through a projection: to its own gradient, by what the rows had read, and to `to`.
template <typename T, typename Acc>
void project_back(
    const Tensors<T, Acc>& t, const FeatureWork& f, const Acc* transposed, int64_t rows, const Acc* read, const Acc* grad,
    int64_t stride, Acc* to) {
  const int64_t dim = f.out_width;
  add_outer(rows, read, f.read_stride, grad, stride, t.grad_projections + f.grad_projection, dim, f.inner, dim);
  multiply<false>(rows, grad, stride, transposed, f.room, to, f.room, dim, f.room);
}

// Rows of one index each, of which many repeat: the output's gradients are summed for each distinct id, then taken through the
// projection.
template <typename T, typename Acc>
void prepare_repeated(const Problem& p, const Tensors<T, Acc>& t, const Distinct& distinct, const RowTile<Acc>& rows, Chunk<Acc>& chunk) {
  const FeatureWork& f = p.features[chunk.feature];
  const int64_t dim = f.out_width;
  Buffer<Acc> projected(f.is_projected() ? distinct.count * dim : 0), transposed(f.is_projected() ? dim * f.room : 0);
  Acc* const sums = f.is_projected() ? projected.data : chunk.row_grads;
  __builtin_memset(sums, 0, distinct.count * dim * sizeof(Acc));
  const auto add = [&](int64_t width) __attribute__((always_inline)) {
    const Acc* grad = t.grad + f.out_column + chunk.first * p.out_stride;
    for (int64_t i = 0; i < rows.rows(); ++i, grad += p.out_stride) {
      if (i + kRowsAhead < rows.rows()) {
        prefetch_row<0>(grad + kRowsAhead * p.out_stride, width);
      }
      add_run<false>(sums + distinct.number[i] * width, grad, width, Acc(1));
    }
  };
  with_constant<16, 64, 128>(dim, add);
  if (!f.is_projected()) {
    return;
  }
  transpose(t, f, transposed.data);
  const Acc* const reads = reads_of(t, f, chunk.first);
  for (int64_t first = 0; first < distinct.count; first += kTileRows) {
    const int64_t n = first + kTileRows < distinct.count ? kTileRows : distinct.count - first;
    project_back(t, f, transposed.data, n, reads + first * f.read_stride, sums + first * dim, dim, chunk.row_grads + first * f.room);
  }
}

template <typename T, typename Acc>
BadId prepare_rows(const Problem& p, const Tensors<T, Acc>& t, const Distinct& distinct, const RowTile<Acc>& rows, Chunk<Acc>& chunk) {
  const FeatureWork& f = p.features[chunk.feature];
  const int64_t dim = f.out_width;
  BadId bad;
  if (!f.is_projected() && !t.grad_weights && !distinct.found()) {
    return bad; // the output's gradients are those of the rows
  }
  Tile<Acc> of_weights(p, f);
  Buffer<Acc> transposed(f.is_projected() ? dim * f.room : 0);
  Buffer<Acc> of_tile(f.is_projected() && distinct.found() ? kTileRows * f.room : 0);
  if (f.is_projected()) {
    transpose(t, f, transposed.data);
  }
  if (distinct.found()) {
    __builtin_memset(chunk.row_grads, 0, distinct.count * f.room * sizeof(Acc));
  }
  for (int64_t row = chunk.first; bad.feature < 0 && row < chunk.last; row += kTileRows) {
    const RowTile<Acc> tile(p, chunk.feature, row, row + kTileRows < chunk.last ? row + kTileRows : chunk.last);
    const Acc* grad = t.grad + f.out_column + row * p.out_stride;
    int64_t stride = p.out_stride;
    for (int64_t r = kTileRows; r < 2 * kTileRows && row + r < chunk.last; ++r) {
      prefetch_row<0>(grad + r * stride, dim);
    }
    if (f.is_projected()) {
      Acc* const to = distinct.found() ? of_tile.data : chunk.row_grads + (row - chunk.first) * f.room;
      project_back(t, f, transposed.data, tile.rows(), reads_of(t, f, row), grad, stride, to);
      grad = to;
      stride = f.room;
    }
    if (distinct.found()) {
      for (int64_t r = 0; r < tile.rows(); ++r) {
        const int64_t bag = tile.first_bag + row + r;
        const Acc factor = scale_of<Acc>(p, bag);
        for (int64_t i = p.offsets[bag]; i < p.offsets[bag + 1]; ++i) {
          Acc* const sum = chunk.row_grads + distinct.number[i - rows.begin] * f.room;
          add_run<false>(sum, grad + r * stride, f.width, factor);
        }
      }
    } else if (t.grad_weights) {
      bad = each_tile(tile, of_weights, t.weights, [&] {
        weight_gradient(of_weights, t.array, grad - row * stride, stride, t.grad_weights);
      });
    }
  }
  return bad;
}

template <typename T, typename Acc>
BadId prepare(const Problem& p, const Tensors<T, Acc>& t, Chunk<Acc>& chunk) {
  const RowTile<Acc> rows(p, chunk.feature, chunk.first, chunk.last);
  const Distinct distinct(p, rows.begin, rows.end, t.numbers + rows.begin, chunk.ids);
  chunk.num_ids = distinct.count;
  chunk.begin = rows.begin;
  chunk.unit = rows.unit;
  if (rows.unit && distinct.found()) {
    prepare_repeated(p, t, distinct, rows, chunk);
    return {};
  }
  if (rows.unit) {
    copy_ids(p, rows.begin, rows.end, chunk.ids);
  }
  return prepare_rows(p, t, distinct, rows, chunk);
}

// Calls visit(tile, grad, stride) for tiles of a chunk's distinct ids or indices; tile.row's gradient is at grad + row * stride.
template <typename T, typename Acc, typename Visit>
PSS_INLINE BadId each_gradient(const Problem& p, const Tensors<T, Acc>& t, const Chunk<Acc>& chunk, Visit&& visit) {
  const FeatureWork& f = p.features[chunk.feature];
  const bool distinct = chunk.num_ids >= 0, from_output = !distinct && !f.is_projected();
  const Acc* const grad = from_output ? t.grad + f.out_column + chunk.first * p.out_stride : chunk.row_grads;
  const int64_t stride = from_output ? p.out_stride : f.room, rows = chunk.last - chunk.first;
  const auto fetch_rows = [&](int64_t first, int64_t number) __attribute__((always_inline)) {
    for (int64_t r = first; from_output && r < first + number && r < rows; ++r) {
      prefetch_row<0>(grad + r * stride, f.width);
    }
  };
  if (distinct || chunk.unit) {
    const int64_t count = distinct ? chunk.num_ids : rows;
    const Acc* const weights = t.weights ? t.weights + chunk.begin : nullptr;
    return each_id_tile<1, Acc>(p, f, chunk.ids, weights, count, t.sink, [&](const Tile<Acc>& tile, int64_t first) {
      fetch_rows(first + tile.size, tile.size);
      visit(tile, grad + first * stride, stride);
    });
  }
  Tile<Acc> tile(p, f);
  return each_tile(RowTile<Acc>(p, chunk.feature, chunk.first, chunk.last), tile, t.weights, [&] {
    if (p.prefetch) {
      tile.template prefetch<1>(t.sink);
    }
    const int64_t end = tile.row[tile.size - 1] + 1;
    fetch_rows(end - chunk.first, end - tile.row[0]);
    visit(tile, grad - chunk.first * stride, stride);
  });
}

template <typename T, typename Acc>
BadId add(const Problem& p, const Tensors<T, Acc>& t, const Chunk<Acc>& chunk, Share share) {
  return each_gradient(p, t, chunk, [&](const Tile<Acc>& tile, const Acc* grad, int64_t stride) {
    share.parts > 1 ? add_gradient<true>(tile, grad, stride, t.sink, t.sink_scale, share)
                    : add_gradient<false>(tile, grad, stride, t.sink, t.sink_scale, share);
  });
}

} // namespace PSS_ISA
} // namespace torchrec_pss
