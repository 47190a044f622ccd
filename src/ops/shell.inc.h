/* Template: the public functions of an operation around its own. Needs
 *   QKV_OP(name)          qkv_projection_##name and so on
 *   DESC, OPERATION       the descriptor's type; its enum qkv_operation
 * and, by the names QKV_OP makes of them,
 *   complete              copies a descriptor and fills in what 0 stands for
 *   validate              checks all of it but tensors
 *   operands              lists its tensors
 *   CHECK_VALUES          if defined: checks what a run finds in them, after all pointers; may list them anew
 *   checksum              of what a run may not change, and so of all that validate looks at
 *   make_plan             cuts the work of a valid descriptor
 *   run_one               runs one task
 *
 * SPDX-License-Identifier: MIT */

QKV_HIDDEN qkv_status QKV_OP(prepare)(const DESC *desc, DESC *d, qkv_problem *why);

/* A complete and valid copy. */
QKV_NOINLINE qkv_status QKV_OP(prepare)(const DESC *desc, DESC *d, qkv_problem *why) {
    qkv_status status = QKV_OP(complete)(desc, d, why);
    if (status == QKV_OK)
        status = QKV_OP(validate)(d, why);
    if (status != QKV_OK || !QKV_WITH(CHECKS))
        return status;
    qkv_operands operands;
    operands.count = 0;
    operands.within = QKV_OUTERMOST;
    QKV_OP(operands)(&operands, d);
    return qkv_check_strides(&operands, why);
}

static qkv_status QKV_OP(call_plan)(const qkv_ctx *ctx, const DESC *desc, int32_t max_workers, qkv_plan *plan,
                                    qkv_problem *why) {
    DESC d;
    if (!ctx)
        return qkv_refuse(why, QKV_ERROR_NULL, "ctx", -1, "is NULL", 0, 0);
    qkv_status status = QKV_OP(prepare)(desc, &d, why);
    if (status != QKV_OK)
        return status;
    if (max_workers < 1)
        return qkv_refuse(why, QKV_ERROR_WORKERS, "max_workers", -1, "is %, below 1", max_workers, 0);
    if (!QKV_WITH(WORKERS) && max_workers > 1)
        return qkv_refuse(why, QKV_ERROR_LEFT_OUT, "max_workers", -1, "is %, but this build has one", max_workers, 0);
    qkv_plan p = {.max_workers = max_workers,
                  .kernels = ctx->kernels,
                  .operation = OPERATION,
                  .checksum = QKV_WITH(CHECKS) ? QKV_OP(checksum)(&d) : 0};
    status = QKV_OP(make_plan)(ctx, &d, &p);
    if (status != QKV_OK)
        return qkv_refuse(why, status, NULL, -1, "the workspace would exceed what memory can hold", 0, 0);
    *plan = p;
    return QKV_OK;
}

/* Why a descriptor is not the planned one. By itself, as it needs much stack. */
static QKV_NOINLINE qkv_status QKV_OP(refuse_change)(const DESC *desc, qkv_problem *why) {
    DESC unused;
    qkv_status status = QKV_OP(prepare)(desc, &unused, why);
    return status != QKV_OK ? status
                            : qkv_refuse(why, QKV_ERROR_PLAN, "plan", -1,
                                         "is of another descriptor: more than addresses has changed", 0, 0);
}

/* What a run checks; d becomes the complete descriptor. One that is as planned has been validated. */
static QKV_NOINLINE qkv_status QKV_OP(check_call)(const qkv_plan *plan, const DESC *desc, const void *workspace,
                                                  size_t workspace_size, DESC *d, qkv_problem *why) {
    if (!plan)
        return qkv_refuse(why, QKV_ERROR_NULL, "plan", -1, "is NULL", 0, 0);
    qkv_status status = QKV_OP(complete)(desc, d, why);
    if (status != QKV_OK)
        return status;
    if (!QKV_WITH(CHECKS))
        return workspace_size < plan->workspace_size ? QKV_ERROR_WORKSPACE : QKV_OK;
    if (plan->operation != OPERATION)
        return qkv_refuse(why, QKV_ERROR_PLAN, "plan", -1, "is of another operation", 0, 0);
    if (plan->checksum != QKV_OP(checksum)(d))
        return QKV_OP(refuse_change)(desc, why);
    qkv_operands operands;
    operands.count = 0;
    operands.within = QKV_OUTERMOST;
    QKV_OP(operands)(&operands, d);
    status = qkv_check_pointers(&operands, why);
#ifdef CHECK_VALUES
    if (status == QKV_OK)
        status = CHECK_VALUES(&operands, d, why);
#endif
    return status != QKV_OK ? status : qkv_check_workspace(&operands, plan, workspace, workspace_size, why);
}

qkv_status QKV_OP(plan)(const qkv_ctx *ctx, const DESC *desc, int32_t max_workers, qkv_plan *plan) {
    qkv_problem unused;
    qkv_no_problem(&unused);
    return plan ? QKV_OP(call_plan)(ctx, desc, max_workers, plan, &unused) : QKV_ERROR_NULL;
}

qkv_status QKV_OP(check)(const qkv_plan *plan, const DESC *desc, const void *workspace, size_t workspace_size) {
    DESC d;
    qkv_problem unused;
    qkv_no_problem(&unused);
    return QKV_OP(check_call)(plan, desc, workspace, workspace_size, &d, &unused);
}

qkv_status QKV_OP(run)(const qkv_plan *plan, const DESC *desc, void *workspace, size_t workspace_size) {
    DESC d;
    qkv_problem unused;
    qkv_no_problem(&unused);
    qkv_status status = QKV_OP(check_call)(plan, desc, workspace, workspace_size, &d, &unused);
    if (status == QKV_OK)
        qkv_run_phases(plan, &d, workspace, QKV_OP(run_one), NULL, NULL);
    return status;
}

qkv_status QKV_OP(run_parallel)(const qkv_plan *plan, const QKV_OP(desc) * desc, void *workspace, size_t workspace_size,
                                qkv_parallel_for parallel_for, void *pool) {
    if (!parallel_for)
        return QKV_ERROR_WORKERS;
    DESC d;
    qkv_problem unused;
    qkv_no_problem(&unused);
    qkv_status status = QKV_OP(check_call)(plan, desc, workspace, workspace_size, &d, &unused);
    if (status == QKV_OK)
        qkv_run_phases(plan, &d, workspace, QKV_OP(run_one), parallel_for, pool);
    return status;
}

void QKV_OP(task)(const qkv_plan *plan, const QKV_OP(desc) * desc, void *workspace, int32_t phase, int64_t index,
                  int32_t worker) {
    DESC d;
    qkv_problem unused;
    qkv_no_problem(&unused);
    if (QKV_OP(complete)(desc, &d, &unused) == QKV_OK && (!QKV_WITH(CHECKS) || plan->checksum == QKV_OP(checksum)(&d)))
        QKV_OP(run_one)(plan, &d, workspace, phase, index, worker);
}

#if QKV_WITH(EXPLAIN)
const char *QKV_OP(explain_plan)(const qkv_ctx *ctx, const DESC *desc, int32_t max_workers, char *text, size_t size) {
    qkv_plan plan;
    qkv_problem why = {0};
    QKV_OP(call_plan)(ctx, desc, max_workers, &plan, &why);
    return qkv_explain(&why, OPERATION, text, size);
}

const char *QKV_OP(explain_run)(const qkv_plan *plan, const DESC *desc, const void *workspace, size_t workspace_size,
                                char *text, size_t size) {
    DESC d;
    qkv_problem why = {0};
    QKV_OP(check_call)(plan, desc, workspace, workspace_size, &d, &why);
    return qkv_explain(&why, OPERATION, text, size);
}

#endif

#undef QKV_OP
#undef DESC
#undef OPERATION
#undef CHECK_VALUES
