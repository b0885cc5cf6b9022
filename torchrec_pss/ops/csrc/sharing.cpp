#include "sharing.h"

#include <algorithm>
#include <numeric>

namespace torchrec_pss {
namespace {

// A region of the array that a feature reads, in runs of `run` elements from `begin` on.
struct Region {
  int64_t begin, end, run, feature;
  bool slice; // hashed

  // Runs of one page (`Share`) and no other: they are aligned to a power of two.
  bool is_paged() const {
    return slice && run <= (int64_t(1) << Share::kPageBits) && (run & (run - 1)) == 0 && begin % run == 0;
  }
};

std::vector<Region> regions_of(const Inputs& inputs) {
  std::vector<Region> regions;
  const auto add = [&](const Region& region) {
    if (region.begin < region.end) {
      regions.push_back(region);
    }
  };
  for (int64_t i = 0; i < inputs.num_features(); ++i) {
    const FeatureWork& f = inputs.features[i];
    const int64_t own = f.width - f.prefix;
    add({f.base, f.base + f.rows * f.prefix, f.prefix, i, false});
    if (own > 0 && inputs.problem.hash == kRobe) {
      add({0, inputs.elements.numel, 0, i, false});
    } else if (own > 0) {
      add({f.first, f.first + f.slots * f.block, f.block, i, true});
      add({f.hot_base, f.hot_base + f.num_hot() * own, own, i, false});
    }
  }
  std::sort(regions.begin(), regions.end(), [](const Region& a, const Region& b) { return a.begin < b.begin; });
  return regions;
}

} // namespace

std::vector<FeatureGroup> groups_of(const Inputs& inputs, int64_t threads) {
  const int64_t n = inputs.num_features();
  std::vector<int64_t> parent(n);
  std::iota(parent.begin(), parent.end(), 0);
  const auto root = [&](int64_t i) {
    while (parent[i] != i) {
      i = parent[i] = parent[parent[i]];
    }
    return i;
  };
  // Regions that overlap join their features. A run may be owned whole if all regions it can meet have the same runs.
  std::vector<bool> divisible(n, true);
  std::vector<Region> regions = regions_of(inputs);
  size_t cluster = 0;
  int64_t end = -1;
  for (size_t r = 0; r < regions.size(); ++r) {
    const Region &region = regions[r], &first = regions[cluster];
    if (r == 0 || region.begin >= end) {
      cluster = r;
      end = region.end;
    } else {
      const bool same_runs = region.begin == first.begin && region.run == first.run && region.run > 0;
      if (!(same_runs && region.slice == first.slice) && !(region.is_paged() && first.is_paged())) {
        divisible[region.feature] = false;
      }
      parent[root(region.feature)] = root(first.feature);
      end = std::max(end, region.end);
    }
  }
  std::vector<FeatureGroup> groups;
  std::vector<int64_t> group_of(n, -1);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t r = root(i);
    if (group_of[r] < 0) {
      group_of[r] = static_cast<int64_t>(groups.size());
      groups.emplace_back();
    }
    groups[group_of[r]].features.push_back(i);
  }
  if (static_cast<int64_t>(groups.size()) < 2 * threads && inputs.num_indices > 1024) {
    for (FeatureGroup& group : groups) {
      const bool all = std::all_of(group.features.begin(), group.features.end(), [&](int64_t i) { return divisible[i]; });
      group.parts = all ? threads : 1;
    }
  }
  return groups;
}

} // namespace torchrec_pss
