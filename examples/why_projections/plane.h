/* Points of many dimensions in the plane in which they spread most: principal component analysis.
 * SPDX-License-Identifier: MIT */
#ifndef PLANE_H
#define PLANE_H

enum { MAX_PLANE_DIM = 32 };

/* points[count], each of dim ≤ MAX_PLANE_DIM floats, `stride` floats apart → plane[count][2]. Gives back the plane's
 * share of the variance. */
double project_on_plane(const float *points, int count, int dim, int stride, double (*plane)[2]);

#endif
