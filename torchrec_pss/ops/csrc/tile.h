// Some indices of one feature: their ids, the rows they go to, and where they live in the array. Included once for each
// instruction set, see lanes.h.
namespace torchrec_pss {
namespace PSS_ISA {

constexpr int64_t kTileIds = 64;
constexpr int64_t kBucket = 8; // hot keys compared at once
constexpr int64_t kFarBits = int64_t(1) << 24; // of codes that no core's own cache holds

// Memory that is not initialised. Not std::vector: its code would be shared with other instruction sets.
template <typename X>
struct Buffer {
  X* const data;
  explicit Buffer(int64_t size) : data(static_cast<X*>(__builtin_malloc((size > 0 ? size : 1) * sizeof(X)))) {
    if (data == nullptr) {
      out_of_memory(size * sizeof(X));
    }
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { __builtin_free(data); }
};

// Place of `key` among kBucket keys, of which at most one is it, or kBucket.
PSS_INLINE int64_t find_key(const int32_t* keys, int32_t key) {
#ifdef PSS_FIND_KEY
  return PSS_FIND_KEY(keys, key);
#else
  int64_t lane = kBucket;
  for (int64_t j = 0; j < kBucket; ++j) {
    lane = keys[j] == key ? j : lane;
  }
  return lane;
#endif
}

// The indices [begin, end) as they are.
PSS_INLINE void copy_ids(const Problem& p, int64_t begin, int64_t end, int64_t* ids) {
  if (!p.narrow_indices) {
    __builtin_memcpy(ids, static_cast<const int64_t*>(p.indices) + begin, (end - begin) * sizeof(int64_t));
    return;
  }
  for (int64_t i = begin; i < end; ++i) {
    ids[i - begin] = static_cast<const int32_t*>(p.indices)[i];
  }
}

template <typename Acc>
struct Tile {
  const Problem& problem;
  const FeatureWork& f;
  const int64_t capacity; // few where a row has many blocks, so that addresses stay in the cache
  Buffer<int64_t> addresses; // of block b of the c-th cold index: [b * num_cold + c]; ~address where the sign is -1
  int64_t first = 0, size = 0, num_hot = 0, num_cold = 0;
  int64_t id[kTileIds], row[kTileIds], own[kTileIds];
  uint64_t state[kTileIds];
  int32_t hot[kTileIds], cold[kTileIds]; // indices within the tile
  Acc scale[kTileIds], factor[kTileIds]; // 1 or, for MEAN, 1 / length; times the weight

  Tile(const Problem& p, const FeatureWork& feature)
      : problem(p), f(feature), capacity(capacity_of(feature.num_blocks())),
        addresses(capacity * feature.num_blocks()) {
    for (int64_t k = 0; k < kTileIds; ++k) {
      scale[k] = factor[k] = Acc(1);
    }
  }

  static int64_t capacity_of(int64_t blocks) {
    const int64_t fitting = blocks == 0 ? kTileIds : 1024 / blocks;
    return fitting > kTileIds ? kTileIds : fitting < 8 ? 8 : fitting;
  }

  // Takes indices [from, to); false where an id is out of the table's range.
  bool take(int64_t from, int64_t to, BadId* bad) {
    first = from;
    size = to - from;
    copy_ids(problem, from, to, id);
    if (!in_range(bad)) {
      return false;
    }
    locate();
    return true;
  }

  // The rows that the indices go to, and their factors: row `first_row` on, one each, or those of their bags.
  void place_units(int64_t first_row, const Acc* weights) {
    for (int64_t k = 0; k < size; ++k) {
      row[k] = first_row + k;
    }
    for (int64_t k = 0; problem.pooling_mode == kMean && k < size; ++k) { // bags of an earlier tile may have been longer
      scale[k] = factor[k] = Acc(1);
    }
    weigh(weights);
  }

  void place_in_bags(int64_t* bag, int64_t first_bag, const Acc* weights) {
    for (int64_t k = 0; k < size; ++k) {
      while (problem.offsets[*bag + 1] <= first + k) {
        ++*bag;
      }
      row[k] = *bag - first_bag;
      if (problem.pooling_mode == kMean) {
        scale[k] = factor[k] = Acc(1) / static_cast<Acc>(problem.offsets[*bag + 1] - problem.offsets[*bag]);
      }
    }
    weigh(weights);
  }

  // Whether hashed blocks are read from packed elements many at once.
  bool has_words(const Packed& array) const { return array.has_words(f.block, f.first) && problem.hash != kRobe; }

  // Fetches what the tile reads of an array that no near cache holds, so that misses overlap; `kWrite` takes it from other cores.
  template <int kWrite, typename Source>
  void prefetch(Source array) const {
    const auto fetch = [&](int64_t address, int64_t length) {
      if constexpr (kIsPacked<Source>) {
        const int64_t begin = address * array.bits >> 3, end = (address + length - 1) * array.bits >> 3;
        for (int64_t j = begin; j <= end; j += 64) {
          __builtin_prefetch(array.codes + j, kWrite);
        }
        __builtin_prefetch(array.scales + (address >> kGroupBits), kWrite);
      } else {
        constexpr int64_t line = 64 / sizeof(*array);
        for (int64_t j = 0; j < length; j += line) {
          __builtin_prefetch(array + address + j, kWrite);
        }
      }
    };
    for (int64_t k = 0; f.prefix > 0 && k < size; ++k) {
      fetch(f.base + id[k] * f.prefix, f.prefix);
    }
    for (int64_t h = 0; h < num_hot; ++h) {
      fetch(own[h], f.width - f.prefix);
    }
    const int64_t runs = num_cold * f.num_blocks();
    const auto each_address = [&](auto visit) {
      for (int64_t r = 0; r < runs; ++r) {
        const int64_t a = addresses.data[r];
        visit(a ^ (a >> 63));
      }
    };
    if constexpr (kIsPacked<Source>) {
      if (array.unpacked) {
        return;
      }
      if (has_words(array)) { // many misses overlap without this, but for those that are far
        if (problem.numel * array.bits > kFarBits) {
          each_address([&](int64_t address) { __builtin_prefetch(array.codes + (address * array.bits >> 3), kWrite); });
        }
        return;
      }
    }
    each_address([&](int64_t address) { fetch(address, f.block); });
  }

 private:
  void weigh(const Acc* weights) {
    for (int64_t k = 0; weights && k < size; ++k) {
      factor[k] = scale[k] * weights[first + k];
    }
  }

  bool in_range(BadId* bad) const {
    if (f.prefix == 0 && problem.hash != kRobe) {
      return true;
    }
    bool good = true;
    for (int64_t k = 0; k < size; ++k) {
      good &= static_cast<uint64_t>(id[k]) < static_cast<uint64_t>(f.rows);
    }
    for (int64_t k = 0; !good && k < size; ++k) {
      if (static_cast<uint64_t>(id[k]) >= static_cast<uint64_t>(f.rows)) {
        *bad = {&f - problem.features, id[k], f.rows};
        return false;
      }
    }
    return true;
  }

  void locate() {
    num_hot = num_cold = 0;
    const int64_t blocks = f.num_blocks();
    if (blocks == 0) {
      return;
    }
    int64_t* const to = addresses.data;
    if (problem.hash == kRobe) {
      num_cold = size;
      for (int64_t k = 0; k < size; ++k) {
        cold[k] = static_cast<int32_t>(k);
        for (int64_t b = 0; b < blocks; ++b) {
          to[b * size + k] = robe_address(static_cast<uint64_t>(f.key) + static_cast<uint64_t>(id[k]), b, static_cast<uint64_t>(f.slots));
        }
      }
      return;
    }
    for (int64_t k = 0; k < size; ++k) {
      state[k] = row_hash(f.key, id[k]);
    }
    part_hot_from_cold();
    const uint32_t slots = static_cast<uint32_t>(f.slots);
    const int64_t first_shared = f.first, block = f.block, n = num_cold;
    for (int64_t b = 0; b < blocks; ++b) {
      if (problem.sign) {
        for (int64_t c = 0; c < n; ++c) {
          const uint64_t h = block_hash(state[c], b);
          const int64_t address = first_shared + static_cast<int64_t>(slot_of(h, slots)) * block;
          to[b * n + c] = address ^ -static_cast<int64_t>(h & 1);
        }
      } else {
        for (int64_t c = 0; c < n; ++c) {
          to[b * n + c] = first_shared + static_cast<int64_t>(slot_of(block_hash(state[c], b), slots)) * block;
        }
      }
    }
  }

  // Moves the states of cold indices to the front.
  void part_hot_from_cold() {
    if (f.num_hot() == 0) {
      for (int64_t k = 0; k < size; ++k) {
        cold[k] = static_cast<int32_t>(k);
      }
      num_cold = size;
      return;
    }
    const int64_t own_width = f.width - f.prefix;
    if (has_directory()) {
      for (int64_t k = 0; k < size; ++k) {
        __builtin_prefetch(directory_entry(hot_key(state[k])));
      }
      for (int64_t k = 0; k < size; ++k) {
        __builtin_prefetch(problem.hot_keys + f.hot_begin + clamp(*directory_entry(hot_key(state[k])), f.num_hot() - kBucket));
      }
    }
    for (int64_t k = 0; k < size; ++k) {
      const int64_t at = hot_position(hot_key(state[k]));
      own[num_hot] = f.hot_base + at * own_width;
      hot[num_hot] = cold[num_cold] = static_cast<int32_t>(k);
      state[num_cold] = state[k];
      num_hot += at >= 0;
      num_cold += at < 0;
    }
  }

  bool has_directory() const { return f.hot_shift > 0 && f.num_hot() >= kBucket; }
  const int32_t* directory_entry(uint32_t key) const { return problem.hot_keys + f.hot_directory + (key >> f.hot_shift); }

  int64_t hot_position(uint32_t key) const {
    const int32_t* const keys = problem.hot_keys + f.hot_begin;
    const int32_t signed_key = static_cast<int32_t>((key ^ 0x80000000U) >> f.hot_drop << f.hot_drop);
    const int64_t n = f.num_hot();
    if (has_directory()) {
      // The caller's numbers are not trusted to lie within the keys.
      const int32_t* const begin = directory_entry(key);
      int64_t low = clamp(begin[0], n - kBucket);
      const int64_t end = clamp(begin[1], n);
      const int64_t lane = find_key(keys + low, signed_key); // without a branch, whatever the bucket's length
      int64_t found = lane < kBucket ? low + lane : -1;
      for (low += kBucket; low < end; ++low) { // hardly ever
        found = keys[low] == signed_key ? low : found;
      }
      return found;
    }
    int64_t low = 0;
    for (int64_t rest = n; rest > 1;) {
      const int64_t half = rest / 2;
      low += keys[low + half - 1] < signed_key ? half : 0;
      rest -= half;
    }
    return keys[low] == signed_key ? low : -1;
  }

  static int64_t clamp(int64_t value, int64_t most) { return value < 0 ? 0 : value > most ? most : value; }
};

// Calls visit(coordinate, address, length, sign) for each run of one row's coordinates that is contiguous.
template <typename Acc, typename Visit>
PSS_INLINE void each_cold_run(const Tile<Acc>& tile, int64_t c, Visit&& visit) {
  const int64_t prefix = tile.f.prefix, block = tile.f.block, n = tile.num_cold, blocks = tile.f.num_blocks();
  const int64_t* const address = tile.addresses.data + c;
  const auto each = [&](int64_t length) __attribute__((always_inline)) {
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t a = address[b * n];
      visit(prefix + b * length, a ^ (a >> 63), length, a < 0 ? Acc(-1) : Acc(1));
    }
  };
  with_constant<1, 4>(block, each);
}

} // namespace PSS_ISA
} // namespace torchrec_pss
