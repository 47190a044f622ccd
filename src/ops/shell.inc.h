/* Template: the public functions of an operation around its static functions. Needs
 *   QKV_OP(name)          qkv_projection_##name and so on
 *   LOCAL(name)           projection_##name and so on, of the static functions
 *   PREPARE               checks a descriptor and completes a copy of it
 *   LOCAL(check_call)     checks plan, descriptor, pointers and workspace of a run
 *   LOCAL(execute)        runs one task
 * and takes the macros back, as several operations may share one unit of translation.
 *
 * SPDX-License-Identifier: MIT */

qkv_status QKV_OP(check)(const qkv_plan *plan, const QKV_OP(desc) *desc, const void *workspace, size_t workspace_size) {
    QKV_OP(desc) d;
    return LOCAL(check_call)(plan, desc, workspace, workspace_size, &d);
}

qkv_status QKV_OP(run)(const qkv_plan *plan, const QKV_OP(desc) *desc, void *workspace, size_t workspace_size) {
    QKV_OP(desc) d;
    qkv_status status = LOCAL(check_call)(plan, desc, workspace, workspace_size, &d);
    if (status == QKV_OK)
        qkv_run_phases(plan, &d, workspace, LOCAL(execute), NULL, NULL);
    return status;
}

qkv_status QKV_OP(run_parallel)(const qkv_plan *plan, const QKV_OP(desc) *desc, void *workspace, size_t workspace_size,
                                qkv_parallel_for parallel_for, void *pool) {
    if (!parallel_for)
        return QKV_ERROR_WORKERS;
    QKV_OP(desc) d;
    qkv_status status = LOCAL(check_call)(plan, desc, workspace, workspace_size, &d);
    if (status == QKV_OK)
        qkv_run_phases(plan, &d, workspace, LOCAL(execute), parallel_for, pool);
    return status;
}

void QKV_OP(task)(const qkv_plan *plan, const QKV_OP(desc) *desc, void *workspace, int32_t phase, int64_t index,
                  int32_t worker) {
    QKV_OP(desc) d;
    if (PREPARE(desc, &d) == QKV_OK)
        LOCAL(execute)(plan, &d, workspace, phase, index, worker);
}

#undef QKV_OP
#undef LOCAL
#undef PREPARE
