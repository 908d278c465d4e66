// Adam over all rows of a matrix whose gradient is zero but for some rows, in one pass.
#include <algorithm>
#include <cmath>

#include "vector.h"

using namespace bathyscope;

namespace {

struct Adam {
  // new1 is 1 - beta1 and new2 is 1 - beta2, rounded once: 1 - 0.999f is off by 5e-5.
  float new1, beta2, new2, step_size, eps, correction;

  template <typename T>
  inline T first(T m, T g) const { return m + new1 * (g - m); }
  template <typename T>
  inline T second(T v, T g) const { return beta2 * v + new2 * g * g; }
};

inline Floats root(Floats v) {
  Floats out;
  for (int i = 0; i < kLanes; ++i) out[i] = std::sqrt(v[i]);
  return out;
}

void update_row(const Adam& a, float* p, float* m, float* v, const float* g, int64_t d) {
  int64_t i = 0;
  for (; i + kLanes <= d; i += kLanes) {
    Floats grad = g ? load(g + i) : Floats{};
    Floats first = a.first(load(m + i), grad), second = a.second(load(v + i), grad);
    store(m + i, first);
    store(v + i, second);
    store(p + i, load(p + i) - a.step_size * first / (root(second) / a.correction + a.eps));
  }
  for (; i < d; ++i) {
    float grad = g ? g[i] : 0;
    m[i] = a.first(m[i], grad);
    v[i] = a.second(v[i], grad);
    p[i] -= a.step_size * m[i] / (std::sqrt(v[i]) / a.correction + a.eps);
  }
}

void to_unit_norm(float* p, int64_t d) {
  float norm = std::sqrt(dot(p, p, d));
  if (!(norm > 1.17549435e-38f)) return;
  for (int64_t i = 0; i < d; ++i) p[i] /= norm;
}

}  // namespace

extern "C" {

// `listed` are ascending row numbers with their gradients [num_listed, d]; the rest has none.
// With `lazy` rows without a gradient are left alone. correction = sqrt(1 - beta2^t),
// step_size = lr / (1 - beta1^t).
void bathyscope_adam(float* parameter, float* exp_avg, float* exp_avg_sq, int64_t rows, int64_t d,
                     const int64_t* listed, const float* gradient, int64_t num_listed, float new1,
                     float beta2, float new2, float step_size, float eps, float correction, int lazy,
                     int unit_rows, int threads) {
  Adam adam{new1, beta2, new2, step_size, eps, correction};
  constexpr int64_t kBlock = 64;
  int64_t blocks = (rows + kBlock - 1) / kBlock;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t b = 0; b < blocks; ++b) {
    int64_t at = std::lower_bound(listed, listed + num_listed, b * kBlock) - listed;
    for (int64_t r = b * kBlock; r < std::min(rows, (b + 1) * kBlock); ++r) {
      bool has = at < num_listed && listed[at] == r;
      const float* g = has ? gradient + at++ * d : nullptr;
      if (lazy && !has) continue;
      update_row(adam, parameter + r * d, exp_avg + r * d, exp_avg_sq + r * d, g, d);
      if (unit_rows) to_unit_norm(parameter + r * d, d);
    }
  }
}
}
