/* Principal component analysis by Jacobi's rotations: only the square root is asked of the maths library.
 * SPDX-License-Identifier: MIT */
#include "plane.h"

#include <math.h>
#include <string.h>

typedef double square_matrix[MAX_PLANE_DIM][MAX_PLANE_DIM];

/* The rotation of axes p and q that makes a[p][q] zero; the columns of v gather all rotations. */
static void rotate(square_matrix a, square_matrix v, int dim, int p, int q) {
    if (a[p][q] == 0.0)
        return;
    double theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
    double t = (theta < 0.0 ? -1.0 : 1.0) / (fabs(theta) + sqrt(theta * theta + 1.0));
    double c = 1.0 / sqrt(t * t + 1.0), s = t * c;
    for (int k = 0; k < dim; k++) {
        double kp = a[k][p], kq = a[k][q];
        a[k][p] = c * kp - s * kq;
        a[k][q] = s * kp + c * kq;
    }
    for (int k = 0; k < dim; k++) {
        double pk = a[p][k], qk = a[q][k], kp = v[k][p], kq = v[k][q];
        a[p][k] = c * pk - s * qk;
        a[q][k] = s * pk + c * qk;
        v[k][p] = c * kp - s * kq;
        v[k][q] = s * kp + c * kq;
    }
}

static void covariance(const float *points, int count, int dim, int stride, const double *mean, square_matrix a) {
    for (int n = 0; n < count; n++)
        for (int i = 0; i < dim; i++)
            for (int j = 0; j < dim; j++)
                a[i][j] += ((double)points[n * stride + i] - mean[i]) * ((double)points[n * stride + j] - mean[j]);
}

/* An axis may point either way; its largest coordinate is made positive. */
static double direction(square_matrix v, int dim, int axis) {
    int largest = 0;
    for (int i = 1; i < dim; i++)
        if (fabs(v[i][axis]) > fabs(v[largest][axis]))
            largest = i;
    return v[largest][axis] < 0.0 ? -1.0 : 1.0;
}

double project_on_plane(const float *points, int count, int dim, int stride, double (*plane)[2]) {
    enum { SWEEPS = 12 }; /* it converges quadratically: six are enough for 32 dimensions */
    double mean[MAX_PLANE_DIM] = {0.0}, total = 0.0, share = 0.0;
    square_matrix a, v;
    memset(a, 0, sizeof a);
    memset(v, 0, sizeof v);
    for (int n = 0; n < count; n++)
        for (int i = 0; i < dim; i++)
            mean[i] += (double)points[n * stride + i] / count;
    covariance(points, count, dim, stride, mean, a);
    for (int i = 0; i < dim; i++)
        v[i][i] = 1.0;
    for (int sweep = 0; sweep < SWEEPS; sweep++)
        for (int p = 0; p < dim; p++)
            for (int q = p + 1; q < dim; q++)
                rotate(a, v, dim, p, q);
    int taken = -1;
    for (int axis = 0; axis < 2; axis++) { /* the largest eigenvalue, then the next */
        int best = -1;
        for (int i = 0; i < dim; i++)
            if (i != taken && (best < 0 || a[i][i] > a[best][best]))
                best = i;
        double sign = direction(v, dim, best);
        for (int n = 0; n < count; n++) {
            plane[n][axis] = 0.0;
            for (int i = 0; i < dim; i++)
                plane[n][axis] += sign * v[i][best] * ((double)points[n * stride + i] - mean[i]);
        }
        share += a[best][best];
        taken = best;
    }
    for (int i = 0; i < dim; i++)
        total += a[i][i];
    return total > 0.0 ? share / total : 0.0;
}
