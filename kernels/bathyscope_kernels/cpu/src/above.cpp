// Every score above the floor of its column, in the order of rows, then columns.
//
// A score may be rounded, as in select.cpp: what may be above its floor at its upper end is scored
// again in float32, and kept if it is. So the choice is that of float32 scores.
#include <cmath>
#include <vector>

#include "vector.h"

using namespace bathyscope;

namespace {

struct Found {
  std::vector<float> values;
  std::vector<int32_t> columns;
};

// What one call found, thread by thread; a thread has rows that follow each other.
struct Handle {
  std::vector<Found> threads;
};

struct Block {
  const float *x, *W, *bias, *floor;
  int64_t d, first, count;
  const float *high, *norm;  // of rounded scores: bias - floor and a little more; column norms
  float relative;
};

inline void keep(const Block& b, const float* row, int64_t column, Found& found) {
  float pre = dot(row, b.W + column * b.d, b.d) + b.bias[column];
  if (pre <= (b.floor ? b.floor[column] : 0.0f)) return;
  found.values.push_back(pre);
  found.columns.push_back(int32_t(b.first + column));
}

void scan(const uint16_t* scores, const Block& b, const float* row, float error, Found& found) {
  for (int64_t i = 0; i < b.count; i += kLanes) {
    Floats s = load(scores + i);
    Floats high = s + load(b.high + i) + absolute(s) * b.relative + error * load(b.norm + i);
    for (uint32_t mask = not_below(high, 0.0f); mask != 0; mask &= mask - 1)
      keep(b, row, i + __builtin_ctz(mask), found);
  }
}

void scan(const float* scores, const Block& b, const float*, float, Found& found) {
  for (int64_t i = 0; i < b.count; i += kLanes) {
    // `high` is the bias, and -inf where the padding is.
    Floats pre_of = load(scores + i) + load(b.high + i), limit{};
    if (b.floor) limit = load(b.floor + i);
    for (uint32_t mask = not_below(pre_of - limit, 0.0f); mask != 0; mask &= mask - 1) {
      int64_t column = i + __builtin_ctz(mask);
      float pre = scores[column] + b.bias[column];
      if (pre <= (b.floor ? b.floor[column] : 0.0f)) continue;
      found.values.push_back(pre);
      found.columns.push_back(int32_t(b.first + column));
    }
  }
}

template <typename Score>
Handle* above(const Score* scores, int64_t stride, int64_t rows, const Block& b,
              const float* row_error, int64_t* counts, int threads) {
  auto* handle = new Handle;
  handle->threads.resize(threads);
  // A static schedule without a chunk size gives each thread one run of rows, in order.
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t t = 0; t < threads; ++t) {
    Found& found = handle->threads[t];
    for (int64_t r = rows * t / threads; r < rows * (t + 1) / threads; ++r) {
      size_t before = found.columns.size();
      scan(scores + r * stride, b, b.x ? b.x + r * b.d : nullptr, row_error ? row_error[r] : 0.0f,
           found);
      counts[r] = int64_t(found.columns.size() - before);
    }
  }
  return handle;
}

}  // namespace

extern "C" {

// Columns 0 .. count of the scores are those from `first` on; count is a multiple of 16, and padding
// has a `high` of -inf. W, bias and floor (or null: 0) begin at `first` too. Returns a handle.
void* bathyscope_above_bf16(const uint16_t* scores, int64_t stride, int64_t rows, const float* x,
                            const float* W, const float* bias, const float* floor, int64_t d,
                            int64_t first, int64_t count, const float* high, const float* norm,
                            const float* row_error, float relative, int64_t* counts, int threads) {
  Block b{x, W, bias, floor, d, first, count, high, norm, relative};
  return above(scores, stride, rows, b, row_error, counts, threads);
}

void* bathyscope_above_fp32(const float* scores, int64_t stride, int64_t rows, const float* bias,
                            const float* floor, int64_t first, int64_t count, const float* high,
                            int64_t* counts, int threads) {
  Block b{nullptr, nullptr, bias, floor, 0, first, count, high, nullptr, 0};
  return above(scores, stride, rows, b, nullptr, counts, threads);
}

// Copy out what a handle holds, and free it.
void bathyscope_take_above(void* given, float* values, int32_t* columns) {
  auto* handle = static_cast<Handle*>(given);
  for (const Found& found : handle->threads) {
    std::memcpy(values, found.values.data(), found.values.size() * sizeof(float));
    std::memcpy(columns, found.columns.data(), found.columns.size() * sizeof(int32_t));
    values += found.values.size();
    columns += found.columns.size();
  }
  delete handle;
}
}
