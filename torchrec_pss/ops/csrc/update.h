// A fused optimizer's step on what backward added up. Included once for each instruction set, see lanes.h.
namespace torchrec_pss {
namespace PSS_ISA {

// In the number's own precision: PyTorch's, and a register takes several.
PSS_INLINE float root(float square) { return __builtin_sqrtf(square); }
PSS_INLINE double root(double square) { return __builtin_sqrt(square); }

template <int kKind, typename T, typename Acc>
PSS_INLINE void update_run(const Tensors<T, Acc>& t, int64_t address, int64_t length) {
  using Stepped = typename SourceOf<T>::Stepped;
  Stepped* const values = t.updated + address;
  Acc* const sink = t.sink + address;
  const Acc rate = static_cast<Acc>(t.update.rate), eps = static_cast<Acc>(t.update.eps);
  for (int64_t j = 0; j < length; ++j) {
    const Acc gradient = sink[j];
    Acc step = gradient;
    if (kKind == kAdagrad) {
      Acc& squares = t.state[address + j];
      squares += gradient * gradient;
      step = gradient == 0 ? Acc(0) : gradient / (root(squares) + eps); // 0 / 0 where eps is 0, or too small
    }
    values[j] = static_cast<Stepped>(static_cast<Acc>(values[j]) - rate * step);
    sink[j] = 0;
  }
}

// An element whose gradient is zero, by now or from the start, stays as it is.
template <int kKind, typename T, typename Acc>
void apply_kind(const Problem& p, const Tensors<T, Acc>& t, const Chunk<Acc>& chunk, Share share) {
  const FeatureWork& f = p.features[chunk.feature];
  const auto update = [&](int64_t address, int64_t length) {
    if (share.parts == 1 || share.owns(address)) {
      update_run<kKind>(t, address, length);
    }
  };
  each_gradient(p, t, chunk, [&](const Tile<Acc>& tile, const Acc*, int64_t) {
    for (int64_t k = 0; f.prefix > 0 && k < tile.size; ++k) {
      update(f.base + tile.id[k] * f.prefix, f.prefix);
    }
    for (int64_t h = 0; h < tile.num_hot; ++h) {
      update(tile.own[h], f.width - f.prefix);
    }
    for (int64_t c = 0; c < tile.num_cold; ++c) {
      each_cold_run(tile, c, [&](int64_t, int64_t address, int64_t length, Acc) { update(address, length); });
    }
  });
}

template <typename T, typename Acc>
void apply(const Problem& p, const Tensors<T, Acc>& t, const Chunk<Acc>& chunk, Share share) {
  t.update.kind == kSgd ? apply_kind<kSgd>(p, t, chunk, share) : apply_kind<kAdagrad>(p, t, chunk, share);
}

template <int kKind, typename T, typename Acc>
void apply_kind_to_all(const Tensors<T, Acc>& t, int64_t first, int64_t last) {
  const Acc rate = t.update.rate, eps = t.update.eps, decay = t.update.decay, beta2 = t.update.beta2;
  const Acc rest1 = 1 - t.update.beta1, rest2 = 1 - t.update.beta2;
  const Acc step = t.update.rate / t.update.correction1, correction2 = t.update.correction2;
  using Stepped = typename SourceOf<T>::Stepped;
  Stepped* __restrict values = t.updated;
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
    values[i] = static_cast<Stepped>(value - step * mean / (root(square) / correction2 + eps));
    sink[i] = 0;
  }
}

template <typename T, typename Acc>
void apply_to_all(const Tensors<T, Acc>& t, int64_t first, int64_t last) {
  t.update.kind == kAdam ? apply_kind_to_all<kAdam>(t, first, last) : apply_kind_to_all<kAdamW>(t, first, last);
}

} // namespace PSS_ISA
} // namespace torchrec_pss
