// Products with a [rows, latents] matrix S that has k nonzeros in each row, without atomics: every
// output row belongs to one thread and is summed in list order, so results repeat bit by bit.
#include <algorithm>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "vector.h"

using namespace bathyscope;

namespace {

// Fresh memory costs a fault per page at its first touch, which for gradients of many rows is most
// of the time: ask for large pages.
void ask_for_large_pages(float* memory, int64_t floats) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 2 << 20;
  uintptr_t first = (uintptr_t(memory) + kPage - 1) / kPage * kPage;
  uintptr_t last = (uintptr_t(memory) + floats * sizeof(float)) / kPage * kPage;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

// Columns that are summed in registers while a row's list is gone through.
constexpr int64_t kWide = 16 * kLanes;
constexpr int64_t kAhead = 6;

void gather_row(const float* coefficients, const int32_t* indices, const float* matrix,
                const float* start, int64_t k, int64_t d, float* out) {
  int64_t column = 0;
  for (; column + kWide <= d; column += kWide) {
    Floats sums[16];
    for (int i = 0; i < 16; ++i) sums[i] = start ? load(start + column + i * kLanes) : Floats{};
    for (int64_t j = 0; j < k; ++j) {
      if (j + kAhead < k) {
        const float* next = matrix + indices[j + kAhead] * d + column;
        for (int64_t line = 0; line < kWide; line += kLanes) __builtin_prefetch(next + line);
      }
      // Unused slots have index 0 and value 0: nothing of row 0, even where it is infinite.
      if (coefficients[j] == 0) continue;
      const float* row = matrix + indices[j] * d + column;
      for (int i = 0; i < 16; ++i) sums[i] += coefficients[j] * load(row + i * kLanes);
    }
    for (int i = 0; i < 16; ++i) store(out + column + i * kLanes, sums[i]);
  }
  int64_t rest = d - column;
  if (rest == 0) return;
  if (start) std::memcpy(out + column, start + column, rest * sizeof(float));
  else std::memset(out + column, 0, rest * sizeof(float));
  for (int64_t j = 0; j < k; ++j)
    if (coefficients[j] != 0)
      add_scaled(out + column, matrix + indices[j] * d + column, coefficients[j], rest);
}

}  // namespace

extern "C" {

// out[r] = start + sum_j coefficients[r, j] * matrix[indices[r, j]]; `start` is [d] or null.
void bathyscope_gather_sum(const float* coefficients, const int32_t* indices, const float* matrix,
                           const float* start, int64_t rows, int64_t k, int64_t d, float* out,
                           int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < rows; ++r)
    gather_row(coefficients + r * k, indices + r * k, matrix, start, k, d, out + r * d);
}

// The same for rows of any length: row r has the entries offsets[r] .. offsets[r + 1].
void bathyscope_gather_sum_ragged(const float* coefficients, const int32_t* indices,
                                  const int64_t* offsets, const float* matrix, const float* start,
                                  int64_t rows, int64_t d, float* out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 16)
  for (int64_t r = 0; r < rows; ++r)
    gather_row(coefficients + offsets[r], indices + offsets[r], matrix, start,
               offsets[r + 1] - offsets[r], d, out + r * d);
}

// Turn the lists around. `entries` gets, latent by latent, the places r * k + j of its nonzeros in
// ascending order; `latents` the latents that have any, ascending; `offsets` their starts. Without
// coefficients (null) every place is an entry.
// `starts` is scratch of num_latents + 1; latents with `always` (or null) are listed in any case.
// Returns how many latents there are.
int64_t bathyscope_rows_by_latent(const float* coefficients, const int32_t* indices, int64_t places,
                                  int64_t num_latents, const bool* always, int64_t* starts,
                                  int64_t* latents, int64_t* offsets, int64_t* entries) {
  std::fill(starts, starts + num_latents + 1, 0);
  for (int64_t p = 0; p < places; ++p)
    if (!coefficients || coefficients[p] != 0) ++starts[indices[p] + 1];
  int64_t found = 0;
  for (int64_t f = 0; f < num_latents; ++f) {
    if (starts[f + 1] > 0 || (always && always[f])) {
      latents[found] = f;
      offsets[found++] = starts[f];
    }
    starts[f + 1] += starts[f];
  }
  offsets[found] = starts[num_latents];
  for (int64_t p = 0; p < places; ++p)
    if (!coefficients || coefficients[p] != 0) entries[starts[indices[p]]++] = p;
  return found;
}

// For each listed latent f over its entries e (row r = row_of[e], value v), in one pass:
//     g = grad[r] . W_dec[f],   dW_dec[f] += v * grad[r]
// `dots` [entries] gets each g.
void bathyscope_backward_of_decoder(const float* grad, const float* values, const int32_t* row_of,
                                    const float* W_dec, const int64_t* latents,
                                    const int64_t* offsets, const int64_t* entries,
                                    int64_t num_listed, int64_t d, float* dW_dec, float* dots,
                                    int threads) {
  ask_for_large_pages(dW_dec, num_listed * d);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 32)
  for (int64_t i = 0; i < num_listed; ++i) {
    const float* decoder = W_dec + latents[i] * d;
    float* out = dW_dec + i * d;
    std::memset(out, 0, d * sizeof(float));
    for (int64_t e = offsets[i]; e < offsets[i + 1]; ++e) {
      const float* row = grad + row_of[entries[e]] * d;
      if (e + 1 < offsets[i + 1]) __builtin_prefetch(grad + row_of[entries[e + 1]] * d);
      dots[entries[e]] = dot(row, decoder, d);
      add_scaled(out, row, values[entries[e]], d);
    }
  }
}

// For each listed latent f over its entries (row r, coefficient c): dW_enc[f] += c * x[r] and
// db_enc[f] += c.
void bathyscope_backward_of_encoder(const float* coefficients, const int32_t* row_of,
                                    const float* x, const int64_t* offsets, const int64_t* entries,
                                    int64_t num_listed, int64_t d, float* dW_enc, float* db_enc,
                                    int threads) {
  ask_for_large_pages(dW_enc, num_listed * d);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 32)
  for (int64_t i = 0; i < num_listed; ++i) {
    float *out = dW_enc + i * d, bias = 0;
    std::memset(out, 0, d * sizeof(float));
    for (int64_t e = offsets[i]; e < offsets[i + 1]; ++e) {
      if (e + 1 < offsets[i + 1]) __builtin_prefetch(x + row_of[entries[e + 1]] * d);
      float c = coefficients[entries[e]];
      add_scaled(out, x + row_of[entries[e]] * d, c, d);
      bias += c;
    }
    db_enc[i] = bias;
  }
}

// For each listed latent f over its entries (row r, value v), in one pass:
//     g = grad[r] . W_dec[f] + grad_values[r, j]
//     dW_dec[f] += v * grad[r],   dW_enc[f] += g * x[r],   db_enc[f] += g
// `grad_values` may be null; `grad_pre` [rows, k] gets each g, or is null.
void bathyscope_backward(const float* grad, const float* x, const float* values,
                         const float* grad_values, const float* W_dec, const int64_t* latents,
                         const int64_t* offsets, const int64_t* entries, int64_t num_listed,
                         int64_t k, int64_t d_out, int64_t d_in, float* dW_dec, float* dW_enc,
                         float* db_enc, float* grad_pre, int threads) {
  ask_for_large_pages(dW_dec, num_listed * d_out);
  ask_for_large_pages(dW_enc, num_listed * d_in);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 32)
  for (int64_t i = 0; i < num_listed; ++i) {
    const float* decoder = W_dec + latents[i] * d_out;
    float *to_dec = dW_dec + i * d_out, *to_enc = dW_enc + i * d_in, bias = 0;
    std::memset(to_dec, 0, d_out * sizeof(float));
    std::memset(to_enc, 0, d_in * sizeof(float));
    for (int64_t e = offsets[i]; e < offsets[i + 1]; ++e) {
      int64_t place = entries[e], r = place / k;
      if (e + 1 < offsets[i + 1]) {
        int64_t next = entries[e + 1] / k;
        __builtin_prefetch(grad + next * d_out);
        __builtin_prefetch(x + next * d_in);
      }
      float g = dot(grad + r * d_out, decoder, d_out);
      if (grad_values) g += grad_values[place];
      add_scaled(to_dec, grad + r * d_out, values[place], d_out);
      add_scaled(to_enc, x + r * d_in, g, d_in);
      bias += g;
      if (grad_pre) grad_pre[place] = g;
    }
    db_enc[i] = bias;
  }
}
}
