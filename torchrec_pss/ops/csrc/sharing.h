// Which features' gradients meet in the array, and so how threads may divide them.
#pragma once

#include <vector>

#include "inputs.h"

namespace torchrec_pss {

// Features to be taken in order, by one thread; or by `parts` threads, each adding to the elements that it owns.
struct FeatureGroup {
  std::vector<int64_t> features;
  int64_t parts = 1;
};

// No element of the array belongs to two groups, and a group's sums do not depend on its parts: gradients have the same bits
// for any number of threads.
std::vector<FeatureGroup> groups_of(const Inputs& inputs, int64_t threads);

} // namespace torchrec_pss
