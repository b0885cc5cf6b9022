// Forward over some rows of one feature. Included once for each instruction set, see lanes.h.
namespace torchrec_pss {
namespace PSS_ISA {

// Whether a feature's columns are whole lines of the cache, so that they may be written past it.
template <typename T, typename Acc>
bool can_stream(const Problem& p, const Tensors<T, Acc>& t, const FeatureWork& f) {
  return p.stream && f.out_width % 16 == 0 && f.out_column % 16 == 0 && p.out_stride % 16 == 0 &&
      reinterpret_cast<uintptr_t>(t.out) % 64 == 0;
}

// Strides that no hardware foresees; `kWrite` for what will be written.
template <int kWrite, typename Acc>
PSS_INLINE void prefetch_row(const Acc* row, int64_t width) {
  for (int64_t n = 0; n < width; n += 64 / sizeof(Acc)) {
    __builtin_prefetch(row + n, kWrite);
  }
}

constexpr int64_t kRowsAhead = 16;

// Whether rows that repeat are worth reading once.
template <typename T, typename Acc>
bool may_repeat(const Problem& p, const Tensors<T, Acc>& t, const RowTile<Acc>& rows) {
  const FeatureWork& f = p.features[rows.feature];
  return !t.weights && (f.num_blocks() > 0 || (f.is_projected() && rows.unit));
}

// Rows of one index each, of which many repeat: the distinct ones are made, then copied.
template <bool kStream, typename T, typename Acc>
BadId forward_repeated(const Problem& p, const Tensors<T, Acc>& t, const RowTile<Acc>& rows, const Distinct& distinct) {
  const FeatureWork& f = p.features[rows.feature];
  const int64_t dim = f.out_width;
  Buffer<Acc> made(distinct.count * dim);
  Acc* const reads = reads_of(t, f, rows.first_row);
  const BadId bad = each_id_tile<0, Acc>(p, f, distinct.ids, nullptr, distinct.count, t.array, [&](const Tile<Acc>& tile, int64_t first) {
    Acc* const to = made.data + first * dim;
    if (f.is_projected()) {
      Acc* const read = reads + first * f.read_stride;
      assign_tile(tile, t.array, read, f.read_stride);
      multiply<false>(tile.size, read, f.read_stride, t.projections + f.projection, dim, to, dim, f.inner, dim);
    } else {
      assign_tile(tile, t.array, to, dim);
    }
  });
  if (bad.feature >= 0) {
    return bad;
  }
  const auto copy = [&](int64_t width) __attribute__((always_inline)) {
    Acc* out = t.out + f.out_column + rows.first_row * p.out_stride;
    for (int64_t i = 0; i < rows.rows(); ++i, out += p.out_stride) {
      if (!kStream && i + kRowsAhead < rows.rows()) {
        prefetch_row<1>(out + kRowsAhead * p.out_stride, width);
      }
      copy_run<kStream>(out, made.data + distinct.number[i] * width, width);
    }
  };
  with_constant<16, 64, 128>(dim, copy);
  return bad;
}

// Rows of one index each, of which few repeat.
template <bool kStream, typename T, typename Acc>
BadId forward_units(const Problem& p, const Tensors<T, Acc>& t, const RowTile<Acc>& rows, const Distinct& distinct) {
  const FeatureWork& f = p.features[rows.feature];
  const int64_t dim = f.out_width;
  const bool apart = !f.is_projected() && kStream; // written past the cache from a tile of its own
  Buffer<Acc> pooled(apart ? kTileIds * dim : 0);
  Acc* const reads = reads_of(t, f, rows.first_row);
  const Acc* const weights = t.weights ? t.weights + rows.begin : nullptr;
  return each_id_tile<0, Acc>(p, f, distinct.ids, weights, rows.rows(), t.array, [&](const Tile<Acc>& tile, int64_t first) {
    Acc* const out = t.out + f.out_column + (rows.first_row + first) * p.out_stride;
    if (f.is_projected()) {
      Acc* const read = reads + first * f.read_stride;
      assign_tile(tile, t.array, read, f.read_stride);
      multiply<kStream>(
          tile.size, read, f.read_stride, t.projections + f.projection, dim, out, p.out_stride, f.inner, dim);
      return;
    }
    assign_tile(tile, t.array, apart ? pooled.data : out, apart ? dim : p.out_stride);
    for (int64_t r = 0; apart && r < tile.size; ++r) {
      copy_run<kStream>(out + r * p.out_stride, pooled.data + r * dim, dim);
    }
  });
}

// Bags.
template <bool kStream, typename T, typename Acc>
BadId forward_rows(const Problem& p, const Tensors<T, Acc>& t, const RowTile<Acc>& rows, const Distinct& distinct) {
  const FeatureWork& f = p.features[rows.feature];
  const int64_t dim = f.out_width;
  PooledReads<T, Acc> reads(p, t, f, rows.begin, distinct);
  BadId bad = reads.bad;
  // Pooled rows go to the output, to what backward reads if they are projected, or to a tile of their own if written past the cache.
  const bool apart = !f.is_projected() && kStream;
  Buffer<Acc> pooled(apart ? kTileRows * f.room : 0);
  for (int64_t row = rows.first_row; bad.feature < 0 && row < rows.end_row; row += kTileRows) {
    const RowTile<Acc> tile(p, rows.feature, row, row + kTileRows < rows.end_row ? row + kTileRows : rows.end_row);
    Acc* const out = t.out + f.out_column + row * p.out_stride;
    Acc* const to = f.is_projected() ? reads_of(t, f, row) : apart ? pooled.data : out;
    const int64_t stride = f.is_projected() ? f.read_stride : apart ? f.room : p.out_stride;
    bad = reads.pool(tile, to - row * stride, stride);
    if (f.is_projected()) {
      multiply<kStream>(
          tile.rows(), to, stride, t.projections + f.projection, dim, out, p.out_stride, f.inner, dim);
    } else if (apart) {
      for (int64_t r = 0; r < tile.rows(); ++r) {
        copy_run<true>(out + r * p.out_stride, to + r * stride, dim);
      }
    }
  }
  return bad;
}

template <typename T, typename Acc>
BadId forward_chunk(const Problem& p, const Tensors<T, Acc>& t, const RowTile<Acc>& rows, const Distinct& distinct) {
  const auto run = [&](auto by_rows, auto by_units, auto by_repeated) {
    return (!rows.unit ? by_rows : distinct.found() ? by_repeated : by_units)(p, t, rows, distinct);
  };
  return can_stream(p, t, p.features[rows.feature])
      ? run(forward_rows<true, T, Acc>, forward_units<true, T, Acc>, forward_repeated<true, T, Acc>)
      : run(forward_rows<false, T, Acc>, forward_units<false, T, Acc>, forward_repeated<false, T, Acc>);
}

constexpr int64_t kMostUnpacked = 1 << 17; // elements, that the second cache holds

template <typename T, typename Acc>
BadId forward(const Problem& p, const Tensors<T, Acc>& t, int64_t feature, int64_t first, int64_t last) {
  const RowTile<Acc> rows(p, feature, first, last);
  const FeatureWork& f = p.features[feature];
  Buffer<int64_t> ids(rows.end - rows.begin);
  const Distinct distinct(p, f, rows.begin, rows.end, may_repeat(p, t, rows), t.numbers + rows.begin, ids.data);
  if (rows.unit && !distinct.found()) {
    copy_ids(p, rows.begin, rows.end, ids.data);
  }
  if constexpr (kIsPacked<decltype(t.array)>) {
    // If the region that hashed blocks lie in is read a quarter or more, each of its elements is better made into a number once.
    const int64_t region = f.slots * f.block, reads = (distinct.found() ? distinct.count : rows.end - rows.begin) * (f.width - f.prefix);
    if (f.num_blocks() > 0 && p.hash != kRobe && region <= kMostUnpacked && 4 * reads >= region) {
      Buffer<float> unpacked(region);
      unpack_run(t.array, f.first, f.first + region, unpacked.data);
      Tensors<T, Acc> of_numbers = t;
      of_numbers.array.unpacked = unpacked.data - f.first;
      return forward_chunk(p, of_numbers, rows, distinct);
    }
  }
  return forward_chunk(p, t, rows, distinct);
}

} // namespace PSS_ISA
} // namespace torchrec_pss
