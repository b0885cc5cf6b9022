// Rows read from the array, and pooled. Included once for each instruction set, see lanes.h.
namespace torchrec_pss {
namespace PSS_ISA {

// Some rows of a feature, and their indices.
template <typename Acc>
struct RowTile {
  int64_t feature;
  int64_t first_row, end_row; // of the output
  int64_t first_bag; // of the feature
  int64_t begin, end; // indices
  bool unit; // one index a row

  RowTile(const Problem& p, int64_t feature_, int64_t first, int64_t last)
      : feature(feature_), first_row(first), end_row(last), first_bag(feature * p.batch_size) {
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

// Rows of one index each, whose coordinates and bias fit one register of `n` numbers, and lie in the array one after another: of hot
// rows, or of exact tables. `to` has room for the register, and what of it is no coordinate becomes the bias and zeros.
template <int n, typename Source, typename Acc, typename Address>
PSS_INLINE void assign_whole_rows(
    const Tile<Acc>& tile, int64_t count, Source array, Acc* to, int64_t stride, Address&& address_of) {
  const FeatureWork& f = tile.f;
  Acc keep[n], rest[n];
  for (int j = 0; j < n; ++j) {
    keep[j] = j < f.width ? Acc(1) : Acc(0);
    rest[j] = f.bias && j == f.width ? Acc(1) : Acc(0);
  }
  const auto kept = load<n, Acc>(keep), others = load<n, Acc>(rest);
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
    auto value = load<n, Acc>(array + address);
    store(row, value.choose(kept, others).scale(tile.factor[k]));
  }
}

struct Place {
  int64_t index, address;
};

// Blocks [b, b + each) of the cold rows of packed elements: row c's from to[rows[c]] on, times its factor.
template <typename Acc>
PSS_INLINE void load_packed(
    const Tile<Acc>& tile, const Packed& array, int64_t b, int64_t each, const Acc* factors, const int64_t* rows, Acc* to) {
  const int64_t n = tile.num_cold;
  const int64_t* const addresses = tile.addresses.data + b * n;
  tile.f.block == 1 ? load_ones(array, addresses, n, each, factors, rows, to) : load_fours(array, addresses, n, each, factors, rows, to);
}

// Calls visit(b, each) for blocks of the cold rows, as many as are loaded at once.
template <typename Acc, typename Visit>
PSS_INLINE void each_loaded(const Tile<Acc>& tile, Visit&& visit) {
  const int64_t blocks = tile.num_cold > 0 ? tile.f.num_blocks() : 0;
  for (int64_t b = 0; b < blocks; b += kMostEach) {
    visit(b, b + kMostEach < blocks ? kMostEach : blocks - b);
  }
}

// The cold coordinates of packed elements: of rows of one index each.
template <typename Acc>
PSS_INLINE void assign_packed(const Tile<Acc>& tile, const Packed& array, Acc* to, int64_t stride) {
  Acc factors[kMostRows];
  int64_t rows[kMostRows];
  for (int64_t c = 0; c < tile.num_cold; ++c) {
    const int64_t k = tile.cold[c];
    factors[c] = tile.factor[k];
    rows[c] = tile.row[k] * stride;
  }
  each_loaded(tile, [&](int64_t b, int64_t each) {
    load_packed(tile, array, b, each, factors, rows, to + tile.f.prefix + b * tile.f.block);
  });
}

// And of several.
template <typename Acc>
PSS_INLINE void add_packed(const Tile<Acc>& tile, const Packed& array, Acc* to, int64_t stride) {
  constexpr int64_t most = kMostEach * 4;
  Acc values[kMostRows * most], ones[kMostRows];
  int64_t rows[kMostRows];
  for (int64_t c = 0; c < tile.num_cold; ++c) {
    rows[c] = c * most;
    ones[c] = 1;
  }
  each_loaded(tile, [&](int64_t b, int64_t each) {
    load_packed(tile, array, b, each, ones, rows, values);
    Acc* const at = to + tile.f.prefix + b * tile.f.block;
    for (int64_t c = 0; c < tile.num_cold; ++c) {
      const int64_t k = tile.cold[c];
      add_run<false>(at + tile.row[k] * stride, values + rows[c], each * tile.f.block, tile.factor[k]);
    }
  });
}

// Cold coordinates, by the way that their elements want: by_words(array), many packed ones at once, or one_by_one(from).
template <typename Source, typename Acc, typename ByWords, typename OneByOne>
PSS_INLINE void read_cold(const Tile<Acc>& tile, Source array, ByWords&& by_words, OneByOne&& one_by_one) {
  if constexpr (kIsPacked<Source>) {
    if (array.unpacked) {
      return one_by_one(array.unpacked);
    }
    if (tile.has_words(array)) {
      return by_words(array);
    }
  }
  one_by_one(array);
}

// Rows of one index each.
template <typename Source, typename Acc>
void assign_tile(const Tile<Acc>& tile, Source array, Acc* to, int64_t stride) {
  const FeatureWork& f = tile.f;
  const int64_t width = f.width + f.bias, own = f.width - f.prefix;
  const auto exact = [&](int64_t k) { return Place{k, f.base + tile.id[k] * f.prefix}; };
  const auto hot = [&](int64_t h) { return Place{tile.hot[h], tile.own[h]}; };
  const int64_t count = f.prefix == 0 ? tile.num_hot : own == 0 ? tile.size : 0; // whole rows, if they fit a register
  const auto whole = [&](auto by) { f.prefix == 0 ? by(hot) : by(exact); };
  const bool is_whole = f.is_projected() && (f.prefix == 0 || own == 0) && width <= 16;
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
  const auto by_words = [&](auto from) { assign_packed(tile, from, to, stride); };
  read_cold(tile, array, by_words, [&](auto from) {
    for (int64_t c = 0; c < tile.num_cold; ++c) {
      const int64_t k = tile.cold[c];
      Acc* const row = to + tile.row[k] * stride;
      each_cold_run(tile, c, [&](int64_t j, int64_t address, int64_t length, Acc sign) {
        add_run<true>(row + j, from + address, length, sign * tile.factor[k]);
      });
    }
  });
  for (int64_t k = 0; f.is_projected() && !(is_whole && count == tile.size) && k < tile.size; ++k) {
    Acc* const row = to + tile.row[k] * stride;
    for (int64_t j = f.width; j < f.room; ++j) {
      row[j] = j < width ? tile.factor[k] : Acc(0);
    }
  }
}

// Sums over the indices [first, last) of one row: to[j] += their factors times what lies `length` long at their addresses.
template <typename Source, typename Acc, typename Address>
PSS_INLINE void add_sum(
    Acc* to, Source array, int64_t length, int64_t first, int64_t last, Address&& address_and_factor) {
  each_run<Acc>(
      length,
      [&](int64_t j, auto tag) __attribute__((always_inline)) {
        constexpr int n = LanesOf<decltype(tag)>::kCount;
        auto sum = load<n, Acc>(to + j);
        for (int64_t i = first; i < last; ++i) {
          Acc factor;
          const int64_t address = address_and_factor(i, &factor);
          sum.add_product(factor, load<n, Acc>(array + address + j));
        }
        store(to + j, sum);
      },
      [&](int64_t j) __attribute__((always_inline)) {
        Acc sum = to[j];
        for (int64_t i = first; i < last; ++i) {
          Acc factor;
          const int64_t address = address_and_factor(i, &factor);
          sum += factor * static_cast<Acc>(array[address + j]);
        }
        to[j] = sum;
      });
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
template <typename Source, typename Acc>
void add_tile(const Tile<Acc>& tile, Source array, Acc* to, int64_t stride) {
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
  const auto by_words = [&](auto from) { add_packed(tile, from, to, stride); };
  read_cold(tile, array, by_words, [&](auto from) {
    each_row(n, row_of_cold, [&](int64_t r, int64_t first, int64_t last) {
      const auto of_length = [&](int64_t length) __attribute__((always_inline)) {
        for (int64_t b = 0; b < blocks; ++b) {
          const int64_t* const address = tile.addresses.data + b * n;
          add_sum(to + r * stride + f.prefix + b * length, from, length, first, last, [&](int64_t c, Acc* factor) {
            const int64_t a = address[c];
            const Acc positive = tile.factor[tile.cold[c]];
            *factor = a < 0 ? -positive : positive;
            return a ^ (a >> 63);
          });
        }
      };
      with_constant<1, 4>(f.block, of_length);
    });
  });
}

// Calls visit(tile, first) for tiles of rows of one index each: of ids `first` on, of `count`, with their weights or null; tile.row
// counts from `first`. The next tile is located, and what it has in `fetched` fetched, before a tile is visited.
template <int kWrite, typename Acc, typename Source, typename Visit>
PSS_INLINE BadId each_id_tile(
    const Problem& p, const FeatureWork& f, const int64_t* ids, const Acc* weights, int64_t count, Source fetched, Visit&& visit) {
  Problem of_ids = p;
  of_ids.indices = ids;
  of_ids.narrow_indices = false;
  Tile<Acc> tiles[2]{{of_ids, f}, {of_ids, f}};
  const int64_t capacity = tiles[0].capacity;
  BadId bad;
  const auto take = [&](Tile<Acc>& tile, int64_t first) {
    const bool good = tile.take(first, first + capacity < count ? first + capacity : count, &bad);
    if (good) {
      tile.place_units(0, weights);
      if (p.prefetch) {
        tile.template prefetch<kWrite>(fetched);
      }
    }
    return good;
  };
  if (count > 0 && !take(tiles[0], 0)) {
    return bad;
  }
  for (int64_t i = 0, now = 0; i < count; i += capacity, now ^= 1) {
    if (i + capacity < count && !take(tiles[now ^ 1], i + capacity)) {
      return bad;
    }
    visit(tiles[now], i);
  }
  return bad;
}

// Of the reads of a bag, by its pooling mode.
template <typename Acc>
PSS_INLINE Acc scale_of(const Problem& p, int64_t bag) {
  return p.pooling_mode == kMean ? Acc(1) / static_cast<Acc>(p.offsets[bag + 1] - p.offsets[bag]) : Acc(1);
}

// Rows that are pooled read by read, from the array or, where ids repeat, from their distinct rows.
template <typename T, typename Acc>
struct PooledReads {
  const Problem& p;
  const Tensors<T, Acc>& t;
  const FeatureWork& f;
  const int64_t begin; // index of the chunk
  const Distinct& distinct;
  Buffer<Acc> rows; // of the distinct ids, `room` wide
  BadId bad;
  Tile<Acc> tile;

  PooledReads(const Problem& p_, const Tensors<T, Acc>& t_, const FeatureWork& f_, int64_t begin_, const Distinct& distinct_)
      : p(p_), t(t_), f(f_), begin(begin_), distinct(distinct_), rows(distinct.found() ? distinct.count * f.room : 0),
        tile(p, f) {
    if (distinct.found()) {
      bad = each_id_tile<0, Acc>(p, f, distinct.ids, nullptr, distinct.count, t.array, [&](const Tile<Acc>& of_ids, int64_t first) {
        assign_tile(of_ids, t.array, rows.data + first * f.room, f.room);
      });
    }
  }

  // Sums of a tile of rows, r's at to + r * stride.
  BadId pool(const RowTile<Acc>& of, Acc* to, int64_t stride) {
    const bool assigned = of.unit && !distinct.found();
    for (int64_t r = of.first_row; !assigned && r < of.end_row; ++r) {
      __builtin_memset(to + r * stride, 0, f.room * sizeof(Acc));
    }
    if (!distinct.found()) {
      return each_tile(of, tile, t.weights, [&] {
        if (p.prefetch) {
          tile.template prefetch<0>(t.array);
        }
        of.unit ? assign_tile(tile, t.array, to, stride) : add_tile(tile, t.array, to, stride);
      });
    }
    for (int64_t r = of.first_row; r < of.end_row; ++r) {
      const int64_t bag = of.first_bag + r;
      const Acc factor_of_bag = scale_of<Acc>(p, bag);
      add_sum(to + r * stride, rows.data, f.room, p.offsets[bag], p.offsets[bag + 1], [&](int64_t i, Acc* factor) {
        *factor = factor_of_bag;
        return distinct.number[i - begin] * f.room;
      });
    }
    return {};
  }
};

} // namespace PSS_ISA
} // namespace torchrec_pss
