// Exact top-k of scores over columns that arrive a block at a time.
//
// What competes is a rule: positive scores (the ReLU), magnitudes above zero, or all scores.
//
// A score s of row r and column l may be rounded: its true value lies within
//     |s| * relative + row_error[r] * column_norm[l]
// of s + bias[l]. Kept are the columns whose upper end is not below `floor[r]`, a lower bound of the
// k-th largest true value; so no column of the true top k is lost. `finish` scores the few that are
// left again in float32 and takes the best k by (value, smaller column).
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "vector.h"

namespace bathyscope {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A NaN has a NaN as its upper end and +inf as its lower, so that ends can be sorted.
struct Candidate {
  float high, low;
  int32_t column;
};

// What the columns of a block have in common; biases are widened by their own rounding.
struct Columns {
  int64_t first, count, end;
  const float *bias_high, *bias_low, *norm;
};

enum Rule : int { kPositive = 0, kMagnitude = 1, kAll = 2 };

struct Row {
  float *floor;
  Candidate* kept;
  int32_t* count;  // -1 after an overflow: the caller must redo the row
  float error;
};

template <typename Score, int rule>
inline void bounds(const Score* scores, const Columns& c, int64_t i, float error, float relative,
                   Floats& high, Floats& low) {
  Floats s = load(scores + i);
  if (sizeof(Score) == 4) {
    // Magnitudes come without a bias, but padding has one of -inf.
    high = low = (rule == kMagnitude ? absolute(s) : s) + load(c.bias_high + i);
    return;
  }
  Floats margin = absolute(s) * relative + error * load(c.norm + i);
  if (rule == kMagnitude) s = absolute(s);
  high = s + load(c.bias_high + i) + margin;
  low = s + load(c.bias_low + i) - margin;
}

inline float kth_largest(float* values, int64_t count, int64_t k) {
  std::nth_element(values, values + (k - 1), values + count, std::greater<float>());
  return values[k - 1];
}

// Raise the floor to the k-th largest lower end and drop what fell below it.
static void prune(Row& row, int64_t k, std::vector<float>& scratch) {
  int32_t count = *row.count;
  if (count <= k) return;
  scratch.resize(count);
  for (int32_t i = 0; i < count; ++i) scratch[i] = row.kept[i].low;
  *row.floor = std::max(*row.floor, kth_largest(scratch.data(), count, k));
  int32_t left = 0;
  for (int32_t i = 0; i < count; ++i)
    if (!(row.kept[i].high < *row.floor)) row.kept[left++] = row.kept[i];
  *row.count = left;
}

// A first floor: the k-th largest of the maxima of small groups of lower ends. A group is one lane
// of `run` vectors that follow each other, so that the maxima need no work across lanes.
template <typename Score, int rule>
static float first_floor(const Score* scores, const Columns& c, float error, float relative,
                         int64_t k, std::vector<float>& scratch) {
  int64_t vectors = c.count / kLanes;
  int64_t run = std::max<int64_t>(1, std::min<int64_t>(32, c.count / (4 * k)));
  int64_t groups = (vectors + run - 1) / run * kLanes;
  float lowest = rule == kAll ? -kInfinity : 0;
  if (groups < k) return lowest;
  scratch.resize(groups);
  for (int64_t g = 0, v = 0; v < vectors; v += run, ++g) {
    Floats best = fill(-kInfinity), high, low;
    for (int64_t i = v; i < std::min(v + run, vectors); ++i) {
      bounds<Score, rule>(scores, c, i * kLanes, error, relative, high, low);
      best = larger(low, best);
    }
    store(&scratch[g * kLanes], best);
  }
  return std::max(lowest, kth_largest(scratch.data(), groups, k));
}

template <typename Score, int rule>
static void filter_row(const Score* scores, const Columns& c, float relative, Row row, int64_t k,
                       int64_t capacity, std::vector<float>& scratch) {
  if (*row.count < 0) return;
  if (*row.count == 0)
    *row.floor = std::max(*row.floor, first_floor<Score, rule>(scores, c, row.error, relative, k, scratch));
  Floats high, low;
  for (int64_t i = 0; i < c.count; i += kLanes) {
    bounds<Score, rule>(scores, c, i, row.error, relative, high, low);
    uint32_t mask = not_below(high, *row.floor);
    if (mask == 0) continue;
    if (*row.count + kLanes > capacity) {
      prune(row, k, scratch);
      if (*row.count + kLanes > capacity) {
        *row.count = -1;
        return;
      }
    }
    for (; mask != 0; mask &= mask - 1) {
      int lane = __builtin_ctz(mask);
      // Not above zero at its best: no entry, whatever the floor.
      if (rule != kAll && high[lane] <= 0) continue;
      // Padding beyond the last column, which only a floor of -inf lets through.
      if (rule == kAll && c.first + i + lane >= c.end) continue;
      float lower = std::isnan(low[lane]) ? kInfinity : low[lane];
      row.kept[(*row.count)++] = {high[lane], lower, int32_t(c.first + i + lane)};
    }
  }
  if (*row.count > 2 * k) prune(row, k, scratch);
}

template <typename Score, int rule>
static void filter_rows(const Score* scores, int64_t stride, int64_t rows, const Columns& c,
                   const float* row_error, float relative, int64_t k, int64_t capacity,
                   float* floor, Candidate* kept, int32_t* count, int threads) {
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> scratch;
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
      Row row{floor + r, kept + r * capacity, count + r, row_error ? row_error[r] : 0.0f};
      filter_row<Score, rule>(scores + r * stride, c, relative, row, k, capacity, scratch);
    }
  }
}

template <typename Score>
static void filter(int rule, const Score* scores, int64_t stride, int64_t rows, const Columns& c,
                   const float* row_error, float relative, int64_t k, int64_t capacity,
                   float* floor, Candidate* kept, int32_t* count, int threads) {
  auto run = rule == kPositive    ? filter_rows<Score, kPositive>
             : rule == kMagnitude ? filter_rows<Score, kMagnitude>
                                  : filter_rows<Score, kAll>;
  run(scores, stride, rows, c, row_error, relative, k, capacity, floor, kept, count, threads);
}

// Compares like (value, smaller column) and never equal.
inline int64_t key(float value, int32_t column) {
  float positive = value + 0.0f;
  int32_t bits;
  std::memcpy(&bits, &positive, 4);
  if (std::isnan(value)) bits = 0x7fffffff;
  bits ^= (bits >> 31) & 0x7fffffff;
  return int64_t(bits) << 32 | int64_t(0xffffffffu - uint32_t(column));
}

// Keep the k largest positive scores of a row where they are and set the others to zero. Of equals
// the first stay; NaN is largest.
static void keep_largest(float* row, int64_t count, int64_t k, std::vector<int32_t>& orders,
                         std::vector<int32_t>& scratch) {
  orders.resize(count);
  scratch.clear();
  for (int64_t i = 0; i < count; ++i) {
    int32_t bits;
    std::memcpy(&bits, row + i, 4);
    // Positive floats compare like their bits, above which is only NaN, of either sign.
    bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
    orders[i] = is_nan ? 0x7fffffff : std::max(bits, 0);
  }
  for (int64_t i = 0; i < count; ++i)
    if (orders[i] > 0) scratch.push_back(orders[i]);
  int32_t least = 1;
  int64_t at_least = 0;
  if (int64_t(scratch.size()) > k) {
    std::nth_element(scratch.begin(), scratch.begin() + (k - 1), scratch.end(),
                     std::greater<int32_t>());
    least = scratch[k - 1];
    for (int32_t order : scratch) at_least += order >= least;
  }
  for (int64_t i = 0; i < count; ++i)
    if (orders[i] < least) row[i] = 0;
  for (int64_t i = count - 1; at_least > k; --i)
    if (orders[i] == least) row[i] = 0, --at_least;
}

// A score with its sign, and the key that it competes with.
struct Entry {
  int64_t key;
  float score;
  bool operator>(const Entry& other) const { return key > other.key; }
};

static void finish_row(int rule, const float* x, const float* W, const float* bias, int64_t d,
                       Row row, int64_t k, float* values, int32_t* indices, int32_t* found,
                       std::vector<float>& scratch, std::vector<Entry>& entries) {
  prune(row, k, scratch);
  int32_t count = std::max(*row.count, 0);
  entries.clear();
  for (int32_t i = 0; i < count; ++i) {
    int32_t column = row.kept[i].column;
    if (i + 2 < count) __builtin_prefetch(W + int64_t(row.kept[i + 2].column) * d);
    // Without W the ends of a candidate are its score.
    float score = W ? dot(x, W + column * d, d) : row.kept[i].high;
    if (W && bias) score += bias[column];
    float strength = rule == kMagnitude ? std::fabs(score) : score;
    if (rule == kAll || !(strength <= 0)) entries.push_back({key(strength, column), score});
  }
  int64_t taken = std::min<int64_t>(k, entries.size());
  std::partial_sort(entries.begin(), entries.begin() + taken, entries.end(), std::greater<Entry>());
  for (int64_t j = 0; j < k; ++j) {
    // Adding 0 turns -0 into 0.
    values[j] = j < taken ? entries[j].score + 0.0f : 0.0f;
    indices[j] = j < taken ? int32_t(0xffffffffu - uint32_t(entries[j].key & 0xffffffff)) : 0;
  }
  *found = int32_t(taken);
}

}  // namespace bathyscope

using namespace bathyscope;

extern "C" {

int64_t bathyscope_candidate_bytes() { return sizeof(Candidate); }

// Both filters: columns `first` .. `first + count` of the scores, count a multiple of 16, those from
// `end` on being padding. Magnitudes of float32 scores lose their sign here: finish with W.
void bathyscope_filter_bf16(int rule, const uint16_t* scores, int64_t stride, int64_t rows, int64_t first,
                            int64_t count, int64_t end, const float* bias_high, const float* bias_low,
                            const float* norm, const float* row_error, float relative, int64_t k,
                            int64_t capacity, float* floor, void* kept, int32_t* kept_count,
                            int threads) {
  Columns c{first, count, end, bias_high, bias_low, norm};
  filter(rule, scores, stride, rows, c, row_error, relative, k, capacity, floor,
         static_cast<Candidate*>(kept), kept_count, threads);
}

void bathyscope_filter_fp32(int rule, const float* scores, int64_t stride, int64_t rows, int64_t first,
                            int64_t count, int64_t end, const float* bias, int64_t k, int64_t capacity,
                            float* floor, void* kept, int32_t* kept_count, int threads) {
  Columns c{first, count, end, bias, bias, nullptr};
  filter(rule, scores, stride, rows, c, nullptr, 0.0f, k, capacity, floor,
         static_cast<Candidate*>(kept), kept_count, threads);
}

// Take the best k of each row. With W the candidates are scored again in float32.
void bathyscope_finish(int rule, const float* x, const float* W, const float* bias, int64_t rows, int64_t d,
                       int64_t k, int64_t capacity, float* floor, void* kept, int32_t* kept_count,
                       float* values, int32_t* indices, int32_t* found, int threads) {
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> scratch;
    std::vector<Entry> entries;
#pragma omp for schedule(dynamic, 16)
    for (int64_t r = 0; r < rows; ++r) {
      Row row{floor + r, static_cast<Candidate*>(kept) + r * capacity, kept_count + r, 0.0f};
      finish_row(rule, W ? x + r * d : nullptr, W, bias, d, row, k, values + r * k, indices + r * k,
                 found + r, scratch, entries);
    }
  }
}

// In place: of each row [count] the k largest positive scores stay, the others become zero.
void bathyscope_keep_largest(float* scores, int64_t rows, int64_t count, int64_t k, int threads) {
#pragma omp parallel num_threads(threads)
  {
    std::vector<int32_t> orders, scratch;
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; ++r) keep_largest(scores + r * count, count, k, orders, scratch);
  }
}

// Round rows to bfloat16 (to nearest, ties to even); their norms and the norms of what was lost.
void bathyscope_round_rows(const float* from, int64_t rows, int64_t d, uint16_t* to, float* norm,
                           float* lost, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = from + r * d;
    uint16_t* out = to + r * d;
    Floats squares{}, errors{};
    int64_t i = 0;
    for (; i + kLanes <= d; i += kLanes) {
      Floats v = load(row + i);
      Bits bits = (Bits)v;
      Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
      Halves half = __builtin_convertvector(rounded >> 16, Halves);
      std::memcpy(out + i, &half, sizeof half);
      Floats error = v - (Floats)rounded;
      squares += v * v;
      errors += error * error;
    }
    float square = sum(squares), error_square = sum(errors);
    for (; i < d; ++i) {
      uint32_t bits;
      std::memcpy(&bits, row + i, 4);
      uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
      float back;
      std::memcpy(&back, &rounded, 4);
      out[i] = uint16_t(rounded >> 16);
      square += row[i] * row[i];
      error_square += (row[i] - back) * (row[i] - back);
    }
    norm[r] = std::sqrt(square);
    lost[r] = std::sqrt(error_square);
  }
}
}
