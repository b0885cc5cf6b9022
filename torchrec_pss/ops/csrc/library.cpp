// torch.ops.torchrec_pss: its schemas. What implements them for the CPU is in lookup_cpu.cpp.
#include <string_view>
#include <vector>

#include <torch/library.h>

#include "schemas.h"

TORCH_LIBRARY(torchrec_pss, m) {
  for (const char* schema : torchrec_pss::kSchemas) {
    const std::string_view text(schema);
    const bool in_place = text.substr(0, text.find('(')).back() == '_';
    const std::vector<at::Tag> tags(in_place ? 0 : 1, at::Tag::pt2_compliant_tag); // const: another overload takes one that is not
    m.def(schema, tags);
  }
}
