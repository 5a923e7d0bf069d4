// SPDX-License-Identifier: Apache-2.0
// The similarity y = s R x + t that fits K weighted point pairs best, and its derivative.
//
//   moments   p_k = w_k / sum w,  x' = x - sum p x,  y' = y - sum p y
//             M = sum p y' x'^T,  X = sum p |x'|^2,  Y = sum p |y'|^2
//   rotation  R = R(q) maximizes tr(R^T M) = q^T N q: q is the dominant eigenvector of Horn's
//             symmetric 4 x 4 matrix N(M), so det R = +1 always
//   scale     s = tr(R^T M) / X,  translation t = mean y - s R mean x
//
// N has the eigenvalues lambda, lambda - 2 kappa_i, and kappa_i are those of K = tr(S) I - S with
// S = R^T M. A small turn omega of R costs omega^T K omega / 2, so R is undetermined where
//   kappa_i <= tau (|x|/|x'| + |y|/|y'|) |x'| |y'|        (|.|: weighted root mean square)
// which is what rounding of the inputs does to N. Of all rotations that are then equally good the
// smallest is taken: q is the projection of the identity on their eigenvectors. Derivative:
//   dR = R [omega]x,   K omega = vee(R^T dM - dM^T R),   0 along undetermined turns
// and K's eigenvectors e_i are those of N: v_i = q (0, e_i).
//
// Horn, "Closed-form solution of absolute orientation using unit quaternions", JOSA A 1987.
// Everything is a function of scalars in registers, free of branches: the CPU runs a fit per vector
// lane, CUDA one per thread.
#pragma once

#include "scalar.h"

// On the CPU a loop around a step is a vector loop only if the step is inlined, has no loop left,
// and chooses between values by masks: several choices by one condition would become a branch.
#if defined(__CUDACC__)
#define FIT_STEP HD
#elif defined(__GNUC__)
#define FIT_STEP inline __attribute__((always_inline))
#else
#define FIT_STEP inline
#endif
#if defined(__CUDA_ARCH__)
#define FIT_UNROLL _Pragma("unroll")
#elif defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define FIT_UNROLL _Pragma("GCC unroll 16")
#else
#define FIT_UNROLL
#endif

namespace pose_kernels {

// Of the stored type T: tau above, and the off-diagonal of N / (|x'| |y'|) that counts as zero.
template <class T>
struct FitTolerance {
  static constexpr double tau = 1e-6, zero = 1e-12;
};
template <>
struct FitTolerance<double> {
  static constexpr double tau = 1e-13, zero = 1e-15;
};

constexpr int kMostSweeps = 8; // 6 reach double precision on everything tried

struct FitMoments {
  double W = 0;                              // sum of the weights
  double x[3] = {0, 0, 0};                   // weighted means
  double y[3] = {0, 0, 0};                   //
  double M[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0}; // row y, column x
  double X = 0, Y = 0;
};

using FitMask = uint64_t; // all ones or all zeros

FIT_STEP FitMask fit_mask(bool condition) {
  return condition ? ~FitMask(0) : FitMask(0);
}

// x where the mask is set, else 0.
FIT_STEP double masked(FitMask mask, double x) {
  FitMask bits;
  memcpy(&bits, &x, sizeof bits);
  bits &= mask;
  memcpy(&x, &bits, sizeof bits);
  return x;
}

// A negative weight counts as 0, and a point of weight 0 is not looked at. NaN stays NaN.
FIT_STEP double fit_weight(double w) {
  return masked(fit_mask(!(w <= 0.0)), w);
}

FIT_STEP void fit_point(double weight, double x[3], double y[3]) {
  const FitMask counts = fit_mask(weight != 0.0);
  x[0] = masked(counts, x[0]), x[1] = masked(counts, x[1]), x[2] = masked(counts, x[2]);
  y[0] = masked(counts, y[0]), y[1] = masked(counts, y[1]), y[2] = masked(counts, y[2]);
}

FIT_STEP void add_to_means(double w, const double x[3], const double y[3], FitMoments& m) {
  m.W += w;
  m.x[0] += w * x[0], m.x[1] += w * x[1], m.x[2] += w * x[2];
  m.y[0] += w * y[0], m.y[1] += w * y[1], m.y[2] += w * y[2];
}

FIT_STEP double inverse_weight(double W) {
  return masked(fit_mask(W > 0.0), 1.0 / W);
}

FIT_STEP void finish_means(FitMoments& m) {
  const double p = inverse_weight(m.W);
  m.x[0] *= p, m.x[1] *= p, m.x[2] *= p;
  m.y[0] *= p, m.y[1] *= p, m.y[2] *= p;
}

// x, y: relative to the means.
FIT_STEP void add_to_moments(double w, const double x[3], const double y[3], FitMoments& m) {
  const double a = w * y[0], b = w * y[1], c = w * y[2];
  m.M[0] += a * x[0], m.M[1] += a * x[1], m.M[2] += a * x[2];
  m.M[3] += b * x[0], m.M[4] += b * x[1], m.M[5] += b * x[2];
  m.M[6] += c * x[0], m.M[7] += c * x[1], m.M[8] += c * x[2];
  m.X += w * (x[0] * x[0] + x[1] * x[1] + x[2] * x[2]);
  m.Y += a * y[0] + b * y[1] + c * y[2];
}

FIT_STEP void finish_moments(FitMoments& m) {
  const double p = inverse_weight(m.W);
  m.M[0] *= p, m.M[1] *= p, m.M[2] *= p, m.M[3] *= p, m.M[4] *= p;
  m.M[5] *= p, m.M[6] *= p, m.M[7] *= p, m.M[8] *= p;
  m.X *= p, m.Y *= p;
}

// What the moments say before the rotation is known.
struct FitCase {
  FitMask finite;       // else the fit is NaN
  FitMask source_point; // no spread: translation only
  FitMask turns;        // there is a rotation to find
  double reach;         // |x'| |y'|
  double limit;         // kappa / reach of an undetermined turn
};

template <class T>
FIT_STEP FitCase fit_case(const FitMoments& m) {
  constexpr double tau = FitTolerance<T>::tau;
  const double x2 = m.X + (m.x[0] * m.x[0] + m.x[1] * m.x[1] + m.x[2] * m.x[2]);
  const double y2 = m.Y + (m.y[0] * m.y[0] + m.y[1] * m.y[1] + m.y[2] * m.y[2]);
  const double all = x2 + y2 + m.W;
  FitCase c;
  c.finite = fit_mask(all - all == 0.0);
  c.source_point = fit_mask(!(m.X > tau * tau * x2));
  c.turns = c.finite & ~c.source_point & fit_mask(m.Y > tau * tau * y2);
  c.reach = sqrt(m.X) * sqrt(m.Y);
  c.limit = tau * (sqrt(x2 / m.X) + sqrt(y2 / m.Y));
  return c;
}

// ---- dominant eigenvectors of N by cyclic Jacobi rotations

// Row-major upper triangle of a symmetric 4 x 4 matrix.
FIT_STEP constexpr int packed(int i, int j) {
  return i <= j ? i * (7 - i) / 2 + j : j * (7 - j) / 2 + i;
}

// N / reach; the zero matrix, whose best rotation is the identity, where nothing can be turned.
FIT_STEP void horn_matrix(const FitMoments& m, const FitCase& c, double a[10]) {
  const double f = 1.0 / c.reach;
  const double xx = f * m.M[0], yy = f * m.M[4], zz = f * m.M[8];
  a[0] = masked(c.turns, xx + yy + zz);
  a[1] = masked(c.turns, f * (m.M[7] - m.M[5]));
  a[2] = masked(c.turns, f * (m.M[2] - m.M[6]));
  a[3] = masked(c.turns, f * (m.M[3] - m.M[1]));
  a[4] = masked(c.turns, xx - yy - zz);
  a[5] = masked(c.turns, f * (m.M[3] + m.M[1]));
  a[6] = masked(c.turns, f * (m.M[2] + m.M[6]));
  a[7] = masked(c.turns, yy - xx - zz);
  a[8] = masked(c.turns, f * (m.M[7] + m.M[5]));
  a[9] = masked(c.turns, zz - xx - yy);
}

FIT_STEP void turn_pair(double& a, double& b, double c, double s) {
  const double first = c * a - s * b, second = s * a + c * b;
  a = first, b = second;
}

// Nearly zeroes a(P, Q) and turns the eigenvectors v, [4, 4] by columns, along.
//
// With r = a(P, Q) / d the angle has tan(angle / 2) = tan(atan(2 r) / 4), here within 11 % by a
// rational function that is exact to second order: what is left falls with r^4 and the next sweep
// removes it. One quotient, in float, and no square root; the reciprocal in cosine and sine is then
// refined, so that the rotation itself is one to double precision.
template <int P, int Q>
FIT_STEP void jacobi_rotation(double a[10], double v[16], double zero) {
  constexpr int R = P != 0 && Q != 0 ? 0 : P != 1 && Q != 1 ? 1 : 2; // the two other rows
  constexpr int U = 6 - P - Q - R;
  const double off = a[packed(P, Q)], d = a[packed(Q, Q)] - a[packed(P, P)];
  const float f = fabs(off) > zero ? float(off) : 0.0f, e = float(d);
  const float n = fabsf(e) + 1.0355f * fabsf(f);
  const float half = f * n / (2.0f * (fabsf(e) * n) + 2.5f * (f * f) + 1e-37f);
  const float u = half * half; // at most 0.174
  const float near = 1.0f - u * (0.99994475f - u * (0.9970477f - u * (0.9501536f - 0.652024f * u)));
  const double t = d < 0.0 ? -double(half) : double(half), tt = t * t, y = near;
  const double rest = (1.0 - y) - tt * y, k = y + y * rest * (1.0 + rest); // 1 / (1 + t^2)
  const double c = 1.0 - 2.0 * tt * k, s = 2.0 * t * k;
  const double move = s * (s * d - 2.0 * c * off);
  a[packed(P, P)] += move;
  a[packed(Q, Q)] -= move;
  a[packed(P, Q)] = (c * c - s * s) * off - c * s * d;
  turn_pair(a[packed(R, P)], a[packed(R, Q)], c, s);
  turn_pair(a[packed(U, P)], a[packed(U, Q)], c, s);
  turn_pair(v[0 + P], v[0 + Q], c, s);
  turn_pair(v[4 + P], v[4 + Q], c, s);
  turn_pair(v[8 + P], v[8 + Q], c, s);
  turn_pair(v[12 + P], v[12 + Q], c, s);
}

// True when another sweep would change nothing. Rotations go in independent pairs.
FIT_STEP bool jacobi_sweep(double a[10], double v[16], double zero) {
  jacobi_rotation<0, 1>(a, v, zero);
  jacobi_rotation<2, 3>(a, v, zero);
  jacobi_rotation<0, 2>(a, v, zero);
  jacobi_rotation<1, 3>(a, v, zero);
  jacobi_rotation<0, 3>(a, v, zero);
  jacobi_rotation<1, 2>(a, v, zero);
  // "not greater", as a NaN never gets smaller
  return !(fabs(a[1]) > zero) & !(fabs(a[2]) > zero) & !(fabs(a[3]) > zero) & !(fabs(a[5]) > zero) &
         !(fabs(a[6]) > zero) & !(fabs(a[8]) > zero);
}

// ---- the similarity

struct Fit {
  double q[4]; // unit quaternion, scalar first
  double R[9];
  double s;
  double pull[4]; // per eigenvector of N: reach / kappa, 0 where it is undetermined or q itself
};

FIT_STEP void rotation_of(const double q[4], double R[9]) {
  const double w = q[0], x = q[1], y = q[2], z = q[3];
  R[0] = 1.0 - 2.0 * (y * y + z * z), R[1] = 2.0 * (x * y - w * z), R[2] = 2.0 * (x * z + w * y);
  R[3] = 2.0 * (x * y + w * z), R[4] = 1.0 - 2.0 * (x * x + z * z), R[5] = 2.0 * (y * z - w * x);
  R[6] = 2.0 * (x * z - w * y), R[7] = 2.0 * (y * z + w * x), R[8] = 1.0 - 2.0 * (x * x + y * y);
}

FIT_STEP double larger(double a, double b) {
  return a > b ? a : b;
}

// From the diagonal a and the eigenvectors v that the sweeps left. Without `scale`, s is 1.
FIT_STEP void solve_fit(const FitMoments& m, const FitCase& c, const double a[10],
                        const double v[16], FitMask scale, Fit& fit) {
  const double top = larger(larger(a[0], a[4]), larger(a[7], a[9]));
  const double limit = masked(c.turns, c.limit); // where nothing turns, all is 0
  const double kappa[4] = {0.5 * (top - a[0]), 0.5 * (top - a[4]), 0.5 * (top - a[7]),
                           0.5 * (top - a[9])};

  // Project the identity on the best eigenvectors; where they are all half turns, an axis.
  double best[4], w2 = 0.0, x2 = 0.0, y2 = 0.0;
  FIT_UNROLL
  for (int i = 0; i < 4; ++i) {
    const FitMask equal = fit_mask(kappa[i] <= limit);
    fit.pull[i] = masked(~equal, 1.0 / kappa[i]);
    best[i] = masked(equal, 1.0);
    w2 += best[i] * v[i] * v[i];
    x2 += best[i] * v[4 + i] * v[4 + i];
    y2 += best[i] * v[8 + i] * v[8 + i];
  }
  const double pw = masked(fit_mask(w2 > 1e-12), 1.0), left = 1.0 - pw;
  const double px = left * masked(fit_mask(x2 > 0.3), 1.0);
  const double py = (left - px) * masked(fit_mask(y2 > 0.3), 1.0), pz = left - px - py;
  double q0 = 0.0, q1 = 0.0, q2 = 0.0, q3 = 0.0;
  FIT_UNROLL
  for (int i = 0; i < 4; ++i) {
    const double along = best[i] * (pw * v[i] + px * v[4 + i] + py * v[8 + i] + pz * v[12 + i]);
    q0 += along * v[i], q1 += along * v[4 + i];
    q2 += along * v[8 + i], q3 += along * v[12 + i];
  }
  const double unit = 1.0 / sqrt(q0 * q0 + q1 * q1 + q2 * q2 + q3 * q3);
  fit.q[0] = q0 * unit, fit.q[1] = q1 * unit, fit.q[2] = q2 * unit, fit.q[3] = q3 * unit;
  rotation_of(fit.q, fit.R);

  const double* M = m.M;
  const double* R = fit.R;
  const double trace = R[0] * M[0] + R[1] * M[1] + R[2] * M[2] + R[3] * M[3] + R[4] * M[4] +
                       R[5] * M[5] + R[6] * M[6] + R[7] * M[7] + R[8] * M[8];
  const double s = masked(c.turns, larger(trace / m.X, 0.0)) + masked(c.source_point, 1.0);
  fit.s = masked(scale, s) + masked(~scale, 1.0);
}

// The transform [3, 4]: NaN where an input is not finite, the identity where nothing has a weight.
FIT_STEP void transform_of(const FitMoments& m, const FitCase& c, const Fit& fit, double out[12]) {
  const double bad = masked(~c.finite, NAN);
  FIT_UNROLL
  for (int i = 0; i < 3; ++i) {
    double* row = out + 4 * i;
    row[0] = fit.s * fit.R[3 * i] + bad;
    row[1] = fit.s * fit.R[3 * i + 1] + bad;
    row[2] = fit.s * fit.R[3 * i + 2] + bad;
    row[3] = m.y[i] - (row[0] * m.x[0] + row[1] * m.x[1] + row[2] * m.x[2]);
  }
}

// ---- its gradient

struct FitGradient {
  FitMask flows; // else every gradient is 0
  double M[9];   // to M
  double X;      // to X
  double x[3];   // to mean x
  double y[3];   // to mean y
  double share;  // 1 / sum w
};

// g [3, 4]: what arrives at the transform.
FIT_STEP void moment_gradient(const FitMoments& m, const FitCase& c, const Fit& fit,
                              const double v[16], FitMask scale, const double g[12],
                              FitGradient& out) {
  const double* R = fit.R;
  out.flows = c.finite & fit_mask(m.W > 0.0);
  out.share = inverse_weight(m.W);
  double C[9]; // R^T B with B = g - g_t mean x^T, the whole gradient to s R
  FIT_UNROLL
  for (int j = 0; j < 3; ++j) {
    const double B0 = g[j] - g[3] * m.x[j], B1 = g[4 + j] - g[7] * m.x[j],
                 B2 = g[8 + j] - g[11] * m.x[j];
    C[j] = R[0] * B0 + R[3] * B1 + R[6] * B2;
    C[3 + j] = R[1] * B0 + R[4] * B1 + R[7] * B2;
    C[6 + j] = R[2] * B0 + R[5] * B1 + R[8] * B2;
    out.x[j] = -fit.s * (R[j] * g[3] + R[3 + j] * g[7] + R[6 + j] * g[11]);
  }
  out.y[0] = g[3], out.y[1] = g[7], out.y[2] = g[11];
  const double b = C[0] + C[4] + C[8];

  // u = s K^-1 vee(C - C^T): through q (0, vee), the eigenvectors of N, and back.
  const double cx = C[7] - C[5], cy = C[2] - C[6], cz = C[3] - C[1];
  const double* q = fit.q;
  const double p0 = -q[1] * cx - q[2] * cy - q[3] * cz, p1 = q[0] * cx + q[2] * cz - q[3] * cy,
               p2 = q[0] * cy + q[3] * cx - q[1] * cz, p3 = q[0] * cz + q[1] * cy - q[2] * cx;
  double r[4] = {0.0, 0.0, 0.0, 0.0};
  FIT_UNROLL
  for (int i = 0; i < 4; ++i) {
    const double along = fit.pull[i] * (v[i] * p0 + v[4 + i] * p1 + v[8 + i] * p2 + v[12 + i] * p3);
    r[0] += along * v[i], r[1] += along * v[4 + i];
    r[2] += along * v[8 + i], r[3] += along * v[12 + i];
  }
  const double f = masked(c.turns, fit.s / c.reach);
  const double d = masked(c.turns & scale, b / m.X);
  const double ux = f * (q[0] * r[1] - q[1] * r[0] - q[2] * r[3] + q[3] * r[2]);
  const double uy = f * (q[0] * r[2] - q[2] * r[0] - q[3] * r[1] + q[1] * r[3]);
  const double uz = f * (q[0] * r[3] - q[3] * r[0] - q[1] * r[2] + q[2] * r[1]);
  FIT_UNROLL
  for (int i = 0; i < 3; ++i) { // R ([u]x + d I)
    const double R0 = R[3 * i], R1 = R[3 * i + 1], R2 = R[3 * i + 2];
    out.M[3 * i] = R0 * d + R1 * uz - R2 * uy;
    out.M[3 * i + 1] = -R0 * uz + R1 * d + R2 * ux;
    out.M[3 * i + 2] = R0 * uy - R1 * ux + R2 * d;
  }
  out.X = -fit.s * d;
}

// To one pair; x, y relative to the means, w as fit_weight left it. `to_w` of weight 0 is 0.
FIT_STEP void point_gradient(const FitGradient& g, double w, const double x[3], const double y[3],
                             double to_x[3], double to_y[3], double& to_w) {
  const FitMask flows = g.flows & fit_mask(w > 0.0);
  const double p = w * g.share;
  const double* M = g.M;
  double sum = g.X * (x[0] * x[0] + x[1] * x[1] + x[2] * x[2]);
  FIT_UNROLL
  for (int i = 0; i < 3; ++i) {
    const double row = M[3 * i] * x[0] + M[3 * i + 1] * x[1] + M[3 * i + 2] * x[2] + g.y[i];
    const double column = M[i] * y[0] + M[3 + i] * y[1] + M[6 + i] * y[2] + g.x[i];
    sum += row * y[i] + g.x[i] * x[i];
    to_y[i] = masked(flows, p * row);
    to_x[i] = masked(flows, p * (column + 2.0 * g.X * x[i]));
  }
  to_w = masked(flows, g.share * sum);
}

} // namespace pose_kernels
