// Rows of prepared columns: what torchrec_pss/datasets/prepared_part.py calls by ctypes, without Python's lock.
#include <cstdint>

namespace torchrec_pss {
namespace {

// As prepared_part.py lays it out. Row i has values[places[i]], or values[i] where a place has no bytes; they go `stride` apart.
struct Column {
  const void* values;
  const void* places;
  void* out;
  int64_t stride;
  int32_t value_bytes; // 4 or 8
  int32_t place_bytes; // 0, 1, 2 or 4
};

template <typename Value, typename Place>
void look_up(const Column& column, int64_t start, int64_t rows) {
  const Value* const values = static_cast<const Value*>(column.values);
  const Place* const places = static_cast<const Place*>(column.places) + start;
  Value* const out = static_cast<Value*>(column.out);
  for (int64_t row = 0; row < rows; ++row) {
    out[row * column.stride] = values[places[row]];
  }
}

template <typename Value>
void read(const Column& column, int64_t start, int64_t rows) {
  switch (column.place_bytes) {
    case 1:
      return look_up<Value, uint8_t>(column, start, rows);
    case 2:
      return look_up<Value, uint16_t>(column, start, rows);
    case 4:
      return look_up<Value, uint32_t>(column, start, rows);
    default:
      for (int64_t row = 0; row < rows; ++row) {
        static_cast<Value*>(column.out)[row * column.stride] = static_cast<const Value*>(column.values)[start + row];
      }
  }
}

} // namespace
} // namespace torchrec_pss

extern "C" int64_t torchrec_pss_read_columns(const torchrec_pss::Column* columns, int64_t number, int64_t start, int64_t rows) {
  for (int64_t c = 0; c < number; ++c) {
    if (columns[c].value_bytes == 8) {
      torchrec_pss::read<uint64_t>(columns[c], start, rows);
    } else {
      torchrec_pss::read<uint32_t>(columns[c], start, rows);
    }
  }
  return rows;
}
