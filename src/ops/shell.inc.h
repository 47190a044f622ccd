/* Template: the public functions of an operation around its static functions. Needs
 *   QKV_OP(name)          qkv_projection_##name and so on
 *   DESC, PREPARE         the descriptor's type, and what checks and completes a copy of it
 *   check_call            checks plan, descriptor, pointers and workspace of a run
 *   execute               runs one task
 *
 * SPDX-License-Identifier: MIT */

qkv_status QKV_OP(check)(const qkv_plan *plan, const DESC *desc, const void *workspace, size_t workspace_size) {
    DESC d;
    return check_call(plan, desc, workspace, workspace_size, &d);
}

qkv_status QKV_OP(run)(const qkv_plan *plan, const DESC *desc, void *workspace, size_t workspace_size) {
    DESC d;
    qkv_status status = check_call(plan, desc, workspace, workspace_size, &d);
    if (status == QKV_OK)
        qkv_run_phases(plan, &d, workspace, execute, NULL, NULL);
    return status;
}

qkv_status QKV_OP(run_parallel)(const qkv_plan *plan, const DESC *desc, void *workspace, size_t workspace_size,
                                qkv_parallel_for parallel_for, void *pool) {
    if (!parallel_for)
        return QKV_ERROR_WORKERS;
    DESC d;
    qkv_status status = check_call(plan, desc, workspace, workspace_size, &d);
    if (status == QKV_OK)
        qkv_run_phases(plan, &d, workspace, execute, parallel_for, pool);
    return status;
}

void QKV_OP(task)(const qkv_plan *plan, const DESC *desc, void *workspace, int32_t phase, int64_t index,
                  int32_t worker) {
    DESC d;
    if (PREPARE(desc, &d) == QKV_OK)
        execute(plan, &d, workspace, phase, index, worker);
}
