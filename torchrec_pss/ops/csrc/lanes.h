// Numbers side by side, in as many registers of the instruction set as they take: the compiler spills a vector type that is
// wider than a register. Included once for each instruction set: no include guard, PSS_ISA names the namespace,
// PSS_REGISTERS and PSS_REGISTER_BYTES its registers.
namespace torchrec_pss {
namespace PSS_ISA {

template <typename Acc, int n>
struct Lanes {
  static constexpr int kBytes = n * sizeof(Acc);
  static constexpr int kParts = kBytes > PSS_REGISTER_BYTES ? kBytes / PSS_REGISTER_BYTES : 1;
  static constexpr int kEach = n / kParts;
  typedef Acc Part __attribute__((vector_size(kEach * sizeof(Acc))));
  typedef Part Unaligned __attribute__((aligned(sizeof(Acc)), may_alias));

  Part part[kParts];

  // By register: the compiler copies a whole of several through the stack.
  PSS_INLINE void load(const Acc* from) {
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p) {
      part[p] = *reinterpret_cast<const Unaligned*>(from + p * kEach);
    }
  }
  PSS_INLINE void store(Acc* to) const {
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p) {
      *reinterpret_cast<Unaligned*>(to + p * kEach) = part[p];
    }
  }

  PSS_INLINE Lanes& add_product(Acc factor, const Lanes& other) {
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p) {
      part[p] += factor * other.part[p];
    }
    return *this;
  }
  PSS_INLINE Lanes& scale(Acc factor) {
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p) {
      part[p] *= factor;
    }
    return *this;
  }
  // Where `keep` is zero, those of `other`.
  PSS_INLINE Lanes& choose(const Lanes& keep, const Lanes& other) {
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p) {
      part[p] = keep.part[p] != 0 ? part[p] : other.part[p];
    }
    return *this;
  }
};

template <int n, typename Acc>
PSS_INLINE Lanes<Acc, n> load(const Packed& from); // packed_lanes.h

template <int n, typename Acc, typename T>
PSS_INLINE Lanes<Acc, n> load(const T* from) {
  Lanes<Acc, n> v;
  if constexpr (std::is_same_v<T, Acc>) {
    v.load(from);
  } else {
    Acc wide[n];
    for (int k = 0; k < n; ++k) {
      wide[k] = static_cast<Acc>(from[k]);
    }
    v.load(wide);
  }
  return v;
}

template <typename Acc, int n>
PSS_INLINE void store(Acc* to, const Lanes<Acc, n>& v) {
  v.store(to);
}

// Past the caches, where `kStream`: what is written is too much for them, and `to` is aligned to 64 bytes.
template <bool kStream, typename Acc, int n>
PSS_INLINE void store_out(Acc* to, const Lanes<Acc, n>& v) {
#ifdef PSS_STREAM
  if constexpr (kStream && sizeof(Acc) == 4 && n == 16) {
#pragma GCC unroll 8
    for (int p = 0; p < v.kParts; ++p) {
      PSS_STREAM(to + p * v.kEach, v.part[p]);
    }
    return;
  }
#endif
  store(to, v);
}

// Calls run(value), for the usual values with a constant.
template <int64_t... kUsual, typename Run>
PSS_INLINE void with_constant(int64_t value, Run&& run) {
  if (!((value == kUsual && (run(kUsual), true)) || ...)) {
    run(value);
  }
}

// Calls visit(j, lanes) for runs of sixteen, then at most one of eight, four and two; the rest is one number or none: visit(j).
// Not a loop, which would be vectorised for long runs: most are short.
template <typename Acc, typename Visit, typename Last>
PSS_INLINE void each_run(int64_t length, Visit&& visit, Last&& last) {
  int64_t j = 0;
  for (; j + 16 <= length; j += 16) {
    visit(j, Lanes<Acc, 16>{});
  }
  if (length & 8) {
    visit(j, Lanes<Acc, 8>{});
    j += 8;
  }
  if (length & 4) {
    visit(j, Lanes<Acc, 4>{});
    j += 4;
  }
  if (length & 2) {
    visit(j, Lanes<Acc, 2>{});
    j += 2;
  }
  if (length & 1) {
    last(j);
  }
}

template <typename V>
struct LanesOf;
template <typename Acc, int n>
struct LanesOf<Lanes<Acc, n>> {
  static constexpr int kCount = n;
};

// to[0 .. length) = or += factor * from[0 .. length)
template <bool kAssign, typename Source, typename Acc>
PSS_INLINE void add_run(Acc* to, Source from, int64_t length, Acc factor) {
  const auto one = [&](int64_t j) __attribute__((always_inline)) {
    const Acc value = factor * static_cast<Acc>(from[j]);
    to[j] = kAssign ? value : to[j] + value;
  };
  if (length == 1) {
    return one(0);
  }
  each_run<Acc>(
      length,
      [&](int64_t j, auto tag) __attribute__((always_inline)) {
        constexpr int n = LanesOf<decltype(tag)>::kCount;
        auto value = load<n, Acc>(from + j);
        if (kAssign) {
          store(to + j, value.scale(factor));
        } else {
          auto sum = load<n, Acc>(to + j);
          store(to + j, sum.add_product(factor, value));
        }
      },
      one);
}

// to[0 .. width) = from[0 .. width)
template <bool kStream, typename Acc>
PSS_INLINE void copy_run(Acc* to, const Acc* from, int64_t width) {
  each_run<Acc>(
      width,
      [&](int64_t j, auto tag) __attribute__((always_inline)) {
        store_out<kStream>(to + j, load<LanesOf<decltype(tag)>::kCount, Acc>(from + j));
      },
      [&](int64_t j) __attribute__((always_inline)) { to[j] = from[j]; });
}

} // namespace PSS_ISA
} // namespace torchrec_pss
