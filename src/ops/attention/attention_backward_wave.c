/* Attention backward where whole KV heads would leave workers idle: in which phase a worker does which part of which
 * sweep.
 *
 * A sweep's cells go in order, and each after the same cell of the key block before; so sums have the order of one
 * thread. Phases are as long as the work that is ready allows, and take the sweeps with the most behind them, which may
 * pause in between: that fills causal attention's triangle, where blocks of keys meet ever fewer queries.
 *
 * SPDX-License-Identifier: MIT */
#include <string.h>

#include "attention_backward.h"

#if QKV_WITH(BACKWARD)

/* Units [first, end) of a head that see something of a key block, as far as the plan knows; at least one. */
static key_range units_of_block(const gradient_shape *shape, const qkv_attention_desc *d, int64_t block) {
    key_range queries = {0, d->seq_q};
    if (qkv_offset_is_planned(d)) {
        int64_t offset = qkv_batch_q_offset(d, 0);
        if (d->flags & QKV_RIGHT) /* key ≤ query + offset + right */
            queries.first = qkv_max(0, block * QKV_KEY_BLOCK - bounded(d->right) - offset);
        if (d->flags & QKV_LEFT) /* key ≥ query + offset − left */
            queries.end = qkv_min(d->seq_q, (block + 1) * QKV_KEY_BLOCK + bounded(d->left) - offset);
    }
    int64_t first = qkv_min(queries.first, d->seq_q - 1) / shape->unit_rows;
    return (key_range){first, qkv_max(first + 1, qkv_ceil_div(qkv_max(0, queries.end), shape->unit_rows))};
}

/* Pairs of a unit's queries and a block's keys, as far as the plan knows, and a little for each query. */
static int64_t cell_work(const gradient_shape *shape, const qkv_attention_desc *d, int64_t block, int64_t unit) {
    enum { ROW_WORK = 20 };
    int64_t first = unit * shape->unit_rows, last = qkv_min(first + shape->unit_rows, d->seq_q) - 1;
    key_range a = {0, QKV_KEY_BLOCK}, b = a;
    if (qkv_offset_is_planned(d)) {
        const attention_task all = {.desc = d, .kv_len = d->seq_k, .q_offset = qkv_batch_q_offset(d, 0)};
        a = within_block(window_of(&all, first), block); /* key_ranges belong to the run */
        b = within_block(window_of(&all, last), block);
    }
    return (last + 1 - first) * (ROW_WORK + (a.end - a.first + b.end - b.first) / 2);
}

static int64_t sweep_work(const gradient_shape *shape, const qkv_attention_desc *d, int64_t block) {
    key_range units = units_of_block(shape, d, block);
    int64_t work = 0;
    for (int64_t unit = units.first; unit < units.end; unit++)
        work += cell_work(shape, d, block, unit);
    return work * shape->scores.group;
}

int64_t qkv_gradient_cells(const gradient_shape *shape, const qkv_attention_desc *d) {
    int64_t units = 0;
    for (int64_t block = 0; block < shape->key_blocks; block++) {
        key_range x = units_of_block(shape, d, block);
        units += x.end - x.first;
    }
    const int64_t factors[3] = {units, shape->scores.group, shape->kv_heads};
    return qkv_product(factors, 3, INT64_MAX, &units) ? units : INT64_MAX;
}

int64_t qkv_gradient_head_work(const gradient_shape *shape, const qkv_attention_desc *d) {
    int64_t work = 0;
    for (int64_t block = 0; block < shape->key_blocks; block++)
        work += sweep_work(shape, d, block);
    return work;
}

static void set_next(gradient_schedule *s, const gradient_shape *shape, const qkv_attention_desc *d, int64_t kv_head,
                     int64_t block) {
    int64_t work = block < shape->key_blocks ? sweep_work(shape, d, block) : 0;
    s->next[kv_head % MAX_OPEN] = (gradient_sweep){(int32_t)kv_head, (int32_t)block, -1, 0, work};
}

void qkv_gradient_start(gradient_schedule *s, const gradient_shape *shape, const qkv_attention_desc *d) {
    memset(s, 0, sizeof *s);
    for (int64_t head = 0; head < qkv_min(shape->kv_heads, MAX_OPEN); head++)
        set_next(s, shape, d, head, 0);
}

/* What a sweep could do in a phase: cells up to `end`. */
typedef struct candidate {
    gradient_sweep *sweep;
    int64_t end, work, behind; /* behind: the work on the longest way from here to the end of the head */
} candidate;

/* Cells of the sweep before that are done. */
static int64_t cells_before(const gradient_schedule *s, const gradient_sweep *x) {
    for (int32_t i = 0; i < s->num_open; i++) {
        if (s->open[i].kv_head == x->kv_head && s->open[i].block == x->block - 1)
            return s->open[i].done;
    }
    return INT64_MAX;
}

static candidate examine(const gradient_schedule *s, const gradient_shape *shape, const qkv_attention_desc *d,
                         gradient_sweep *x, int64_t most) {
    key_range units = units_of_block(shape, d, x->block), before = units;
    int64_t width = units.end - units.first, cells = width * shape->scores.group, ready = INT64_MAX;
    int64_t last = cell_work(shape, d, x->block, units.end - 1);
    candidate c = {x, x->done, 0, x->left + (shape->key_blocks - 1 - x->block) * last};
    if (x->block > 0) {
        before = units_of_block(shape, d, x->block - 1);
        ready = cells_before(s, x);
    }
    for (; c.end < cells && c.work < most; c.end++) {
        int64_t head = c.end / width, unit = units.first + c.end % width;
        int64_t needed = head * (before.end - before.first) + qkv_min(unit, before.end - 1) - before.first;
        if (ready <= needed)
            break;
        c.work += cell_work(shape, d, x->block, unit);
    }
    return c;
}

/* Keeps the lanes' candidates, those with the most behind them first. */
static int32_t insert(candidate list[MAX_LANES], int32_t n, int64_t lanes, const candidate *c) {
    if (c->work == 0 || (n == lanes && list[n - 1].behind >= c->behind))
        return n;
    int32_t at = n < lanes ? n++ : n - 1;
    for (; at > 0 && list[at - 1].behind < c->behind; at--)
        list[at] = list[at - 1];
    list[at] = *c;
    return n;
}

/* Gives a sweep a slot, and its place as the head's next one to the block behind it. */
static gradient_sweep *open_sweep(gradient_schedule *s, const gradient_shape *shape, const qkv_attention_desc *d,
                                  const gradient_sweep *next) {
    gradient_sweep *x = &s->open[s->num_open];
    *x = *next;
    x->slot = 0;
    for (int32_t i = 0; i < s->num_open;)
        i = s->open[i].slot == x->slot ? (x->slot++, 0) : i + 1;
    s->num_open++;
    set_next(s, shape, d, x->kv_head, x->block + 1);
    while (s->first_head < shape->kv_heads && s->next[s->first_head % MAX_OPEN].block == shape->key_blocks) {
        if (s->first_head + MAX_OPEN < shape->kv_heads)
            set_next(s, shape, d, s->first_head + MAX_OPEN, 0);
        s->first_head++;
    }
    return x;
}

/* Moves a sweep on until it has done about so much work. */
static gradient_step take_cells(const gradient_shape *shape, const qkv_attention_desc *d, const candidate *c,
                                int64_t work, int64_t *taken) {
    gradient_sweep *x = c->sweep;
    key_range units = units_of_block(shape, d, x->block);
    int64_t width = units.end - units.first;
    gradient_step step = {true, false, x->kv_head, x->block, x->slot, x->done, x->done, units};
    for (*taken = 0; step.end < c->end; step.end++) {
        int64_t next = cell_work(shape, d, x->block, units.first + step.end % width);
        if (*taken > 0 && *taken + next / 2 > work)
            break;
        *taken += next;
    }
    x->done = (int32_t)step.end;
    x->left -= *taken;
    step.closes = step.end == width * shape->scores.group;
    x->slot = step.closes ? -1 : x->slot;
    return step;
}

int64_t qkv_gradient_advance(gradient_schedule *s, const gradient_shape *shape, const qkv_attention_desc *d,
                             int64_t lane, gradient_step *own) {
    enum { MOST_CELLS = 2 };
    int64_t cell = shape->unit_rows * QKV_KEY_BLOCK, work = MOST_CELLS * cell, longest = 0;
    candidate list[MAX_LANES];
    int32_t n = 0, left = 0, slots = (int32_t)(LANE_SLOTS * shape->lanes) - s->num_open;
    for (int32_t i = 0; i < s->num_open; i++) {
        const candidate c = examine(s, shape, d, &s->open[i], work);
        n = insert(list, n, shape->lanes, &c);
    }
    for (int64_t head = s->first_head; head < qkv_min(shape->kv_heads, s->first_head + MAX_OPEN) && slots > 0; head++) {
        gradient_sweep *next = &s->next[head % MAX_OPEN];
        if (next->block == shape->key_blocks)
            continue;
        const candidate c = examine(s, shape, d, next, work);
        slots -= c.work > 0;
        n = insert(list, n, shape->lanes, &c);
    }
    for (int32_t i = 0; i < n; i++)
        work = qkv_min(work, list[i].work);
    work = qkv_max(work, cell);
    own->sweeps = false;
    for (int32_t i = 0; i < n; i++) {
        if (list[i].sweep->slot < 0)
            list[i].sweep = open_sweep(s, shape, d, list[i].sweep);
    }
    for (int32_t i = 0; i < n; i++) { /* slots are free again when the phase has ended */
        int64_t taken;
        const gradient_step step = take_cells(shape, d, &list[i], work, &taken);
        longest = qkv_max(longest, taken);
        if (i == lane)
            *own = step;
    }
    for (int32_t i = 0; i < s->num_open; i++) {
        if (s->open[i].slot >= 0)
            s->open[left++] = s->open[i];
    }
    s->num_open = left;
    return longest;
}

#endif
