// The distinct ones among some ids. Most ids of a batch repeat others of it: rows are read, projected and given their gradients
// once each. Included once for each instruction set, see lanes.h.
namespace torchrec_pss {
namespace PSS_ISA {

// Indices that are worth it: enough of them, and, of the first of them as of all, not too many that are distinct.
constexpr int64_t kLeastIndices = 64, kTrial = 1024, kMostIndices = int64_t(1) << 29;
PSS_INLINE bool is_worth(int64_t distinct, int64_t indices) { return distinct * 8 <= indices * 5; }

struct Distinct {
  const int32_t* number = nullptr; // of each index: its id's place in `ids`
  int64_t* ids; // in the order in which they come
  int64_t count = kFewRepeat; // of `ids`

  // Of the indices [begin, end) of a feature: numbers them where they are `sought` and many repeat. `ids` has room for as many.
  Distinct(const Problem& p, const FeatureWork& f, int64_t begin, int64_t end, bool sought, int32_t* number_, int64_t* ids_)
      : number(number_), ids(ids_) {
    const int64_t n = end - begin;
    if (sought && n >= kLeastIndices && n <= kMostIndices) {
      count = p.narrow_indices ? find(f, static_cast<const int32_t*>(p.indices) + begin, n, number_)
                               : find(f, static_cast<const int64_t*>(p.indices) + begin, n, number_);
    }
    for (int64_t i = 0; !found() && i < n; ++i) {
      number_[i] = kFewRepeat;
    }
  }

  // The same from the numbers that forward left.
  Distinct(const Problem& p, int64_t begin, int64_t end, const int32_t* number_, int64_t* ids_) : number(number_), ids(ids_) {
    count = p.narrow_indices ? recall(static_cast<const int32_t*>(p.indices) + begin, end - begin)
                             : recall(static_cast<const int64_t*>(p.indices) + begin, end - begin);
  }

  bool found() const { return count >= 0; }

 private:
  template <typename Id>
  int64_t recall(const Id* from, int64_t n) {
    int32_t most = -1;
    for (int64_t i = 0; i < n; ++i) {
      if (number[i] < 0 || number[i] > most + 1) {
        return kFewRepeat; // or these are no numbers of forward's
      }
      ids[number[i]] = from[i];
      most = number[i] > most ? number[i] : most;
    }
    return most < 0 ? kFewRepeat : int64_t(most) + 1; // no index at all
  }

  // A table of places in `ids`, counted from one: by the id where it has room for all rows of an exact table, else by a hash.
  template <typename Id>
  int64_t find(const FeatureWork& f, const Id* from, int64_t n, int32_t* number_) {
    int bits = 7;
    while ((int64_t(1) << bits) < 2 * n) {
      ++bits;
    }
    Buffer<int32_t> table(int64_t(1) << bits);
    __builtin_memset(table.data, 0, sizeof(int32_t) << bits);
    const bool direct = f.prefix > 0 && f.rows <= (int64_t(1) << bits);
    return direct ? number_all<true>(from, n, table.data, bits, f.rows, number_)
                  : number_all<false>(from, n, table.data, bits, 0, number_);
  }

  // A branch on whether an id is new is often mispredicted, and still faster than to store what is known: the stores of frequent
  // ids would hold up the loads of the next.
  template <bool kDirect, typename Id>
  int64_t number_all(const Id* from, int64_t n, int32_t* table, int bits, int64_t rows, int32_t* to) {
    const int64_t mask = (int64_t(1) << bits) - 1;
    int32_t distinct = 0;
    int64_t steps = 4 * n; // ids chosen to collide are not looked up for long
    for (int64_t i = 0; i < n; ++i) {
      const int64_t id = from[i];
      int64_t at = id;
      if constexpr (kDirect) {
        if (static_cast<uint64_t>(id) >= static_cast<uint64_t>(rows)) {
          return kFewRepeat; // who reads it says so
        }
      } else {
        at = static_cast<int64_t>((static_cast<uint64_t>(id) * kGolden) >> (64 - bits));
      }
      int32_t place = table[at];
      if constexpr (!kDirect) {
        while (place != 0 && ids[place - 1] != id) {
          at = (at + 1) & mask;
          place = table[at];
          if (--steps < 0) {
            return kFewRepeat;
          }
        }
      }
      if (place == 0) {
        ids[distinct] = id;
        table[at] = place = ++distinct;
      }
      to[i] = place - 1;
      if (i + 1 == kTrial && !is_worth(distinct, kTrial)) {
        return kFewRepeat;
      }
    }
    return is_worth(distinct, n) ? distinct : kFewRepeat;
  }
};

} // namespace PSS_ISA
} // namespace torchrec_pss
