// The distinct ones among some ids. Most ids of a batch repeat others of it: rows are read, projected and given their gradients
// once each. Included once for each instruction set, see lanes.h.
namespace torchrec_pss {
namespace PSS_ISA {

// Indices that are worth it: enough of them, and, of the first of them as of all, not too many that are distinct.
constexpr int64_t kLeastIndices = 64, kTrial = 1024;
PSS_INLINE bool is_worth(int64_t distinct, int64_t indices) { return distinct * 8 <= indices * 5; }

struct Distinct {
  static constexpr int64_t kNotSought = -1;
  Buffer<int32_t> number; // of each index: its id's place in `ids`
  int64_t* const ids; // in the order in which they come
  int64_t count = kNotSought; // ids; kNotSought where few repeat

  // Of the indices [begin, end); `ids` has room for as many.
  Distinct(const Problem& p, int64_t begin, int64_t end, bool sought, int64_t* ids_)
      : number(sought ? end - begin : 0), ids(ids_) {
    if (!sought || end - begin < kLeastIndices) {
      return;
    }
    const int64_t n = end - begin;
    count = p.narrow_indices ? find(static_cast<const int32_t*>(p.indices) + begin, n)
                             : find(static_cast<const int64_t*>(p.indices) + begin, n);
  }

  bool found() const { return count >= 0; }

 private:
  // An open hash table of places in `ids`, counted from one.
  template <typename Id>
  int64_t find(const Id* from, int64_t n) {
    int bits = 7;
    while ((int64_t(1) << bits) < 2 * n) {
      ++bits;
    }
    const int64_t mask = (int64_t(1) << bits) - 1;
    Buffer<int32_t> table(mask + 1);
    __builtin_memset(table.data, 0, (mask + 1) * sizeof(int32_t));
    int64_t distinct = 0, steps = 0;
    const int64_t most_steps = 4 * n; // ids chosen to collide are not looked up for long
    for (int64_t i = 0; i < n; ++i) {
      const int64_t id = from[i];
      int64_t at = static_cast<int64_t>((static_cast<uint64_t>(id) * kGolden) >> (64 - bits));
      for (int32_t place; (place = table.data[at]) != 0; at = (at + 1) & mask) {
        if (ids[place - 1] == id) {
          number.data[i] = place - 1;
          goto next;
        }
        if (++steps > most_steps) {
          return kNotSought;
        }
      }
      number.data[i] = static_cast<int32_t>(distinct);
      ids[distinct++] = id;
      table.data[at] = static_cast<int32_t>(distinct);
    next:
      if (i + 1 == kTrial && !is_worth(distinct, kTrial)) {
        return kNotSought;
      }
    }
    return is_worth(distinct, n) ? distinct : kNotSought;
  }
};

} // namespace PSS_ISA
} // namespace torchrec_pss
