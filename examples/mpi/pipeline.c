/* The ring: units of queries go from rank to rank, each works on one while the next comes and the last one leaves.
 *
 * A rank has three parts, which don't wait for each other:
 *
 *   station    takes the units that see its keys, in order: receives, works, sends on
 *   outbox     sends the rank's own queries to the first rank that they visit
 *   inbox      receives from the last one what has become of them
 *
 * Between two ranks messages of a kind keep their order, and all ranks take units in the same order, so none carries a
 * number. Nothing can lock: of all units that are not done the first one can always go on, because every rank asks for
 * units in order and the boxes move whatever the station waits for.
 *
 * SPDX-License-Identifier: MIT */
#include "pipeline.h"
#include "ledger.h"
#include "messages.h"
#include "support.h"

enum { BOXES = 2 };

enum state { FREE, COMING, ARRIVED, LEAVING };

/* A record and the message it is in. */
struct place {
    struct unit unit;
    enum state state;
    struct transfer transfer;
    float *record;
};

struct run {
    const struct pass *pass;
    int64_t units;
    int64_t next_here, next_out, next_in; /* units that the parts have not looked at yet */
    int64_t asked, worked;                /* units of the station; number i is in slot i mod slots */
    struct place slot[MOST_SLOTS], outbox[BOXES], inbox[BOXES];
};

static size_t record_bytes(const struct unit *u, int64_t floats) {
    return (size_t)(u->rows * floats) * sizeof(float);
}

static float *results_of(const struct run *r, const struct place *at) {
    return at->record + at->unit.rows * r->pass->inputs;
}

/* -------------------------------------------------------------------------------------------------- the parts */

static int comes_here(const struct unit *u) {
    return u->first_rank <= my_rank && my_rank <= u->last_rank;
}

static int goes_out(const struct unit *u) {
    return u->owner == my_rank && u->first_rank != my_rank;
}

static int comes_back(const struct unit *u) {
    return u->owner == my_rank && u->last_rank != my_rank;
}

/* The next unit from *index on that is wanted, if there is one. */
static int find_unit(const struct run *r, int64_t *index, int (*is_wanted)(const struct unit *), struct unit *unit) {
    while (*index < r->units) {
        struct unit u = unit_at(r->pass->sharding, (*index)++);
        if (is_wanted(&u)) {
            *unit = u;
            return 1;
        }
    }
    return 0;
}

static void settle(struct place *at) {
    if (at->state == COMING && !at->transfer.open)
        at->state = ARRIVED;
    if (at->state == LEAVING && !at->transfer.open)
        at->state = FREE;
}

static void ask_for(struct run *r, struct place *at) {
    const struct pass *p = r->pass;
    const struct unit *u = &at->unit;
    at->state = COMING;
    if (u->first_rank != my_rank) {
        post_receive(&at->transfer, at->record, record_bytes(u, p->inputs + p->results), my_rank - 1, A_STATE,
                     u->first_row);
    } else if (u->owner != my_rank) {
        post_receive(&at->transfer, at->record, record_bytes(u, p->inputs), u->owner, A_QUERY, u->first_row);
    } else {
        p->pack(p->arg, u, at->record);
        at->state = ARRIVED;
    }
}

static void send_on(struct run *r, struct place *at) {
    const struct pass *p = r->pass;
    const struct unit *u = &at->unit;
    if (u->last_rank == my_rank && u->owner == my_rank) {
        p->unpack(p->arg, u, results_of(r, at)); /* looks at messages, too: the place is not free before */
        at->state = FREE;
        return;
    }
    at->state = LEAVING;
    if (u->last_rank != my_rank)
        post_send(&at->transfer, at->record, record_bytes(u, p->inputs + p->results), my_rank + 1, A_STATE,
                  u->first_row);
    else
        post_send(&at->transfer, results_of(r, at), record_bytes(u, p->results), u->owner, A_RESULT, u->first_row);
}

static void move_station(struct run *r) {
    for (int i = 0; i < r->pass->slots; i++)
        settle(&r->slot[i]);
    for (struct place *at; (at = &r->slot[r->asked % r->pass->slots])->state == FREE; r->asked++) {
        if (!find_unit(r, &r->next_here, comes_here, &at->unit))
            return;
        ask_for(r, at);
    }
}

static void move_outbox(struct run *r) {
    const struct pass *p = r->pass;
    for (struct place *at = r->outbox; at < r->outbox + BOXES; at++) {
        settle(at);
        if (at->state == FREE && find_unit(r, &r->next_out, goes_out, &at->unit)) {
            p->pack(p->arg, &at->unit, at->record);
            post_send(&at->transfer, at->record, record_bytes(&at->unit, p->inputs), at->unit.first_rank, A_QUERY,
                      at->unit.first_row);
            at->state = LEAVING;
        }
    }
}

static void move_inbox(struct run *r) {
    const struct pass *p = r->pass;
    for (struct place *at = r->inbox; at < r->inbox + BOXES; at++) {
        settle(at);
        if (at->state == ARRIVED) {
            p->unpack(p->arg, &at->unit, at->record);
            at->state = FREE;
        }
        if (at->state == FREE && find_unit(r, &r->next_in, comes_back, &at->unit)) {
            post_receive(&at->transfer, at->record, record_bytes(&at->unit, p->results), at->unit.last_rank, A_RESULT,
                         at->unit.first_row);
            at->state = COMING;
        }
    }
}

static void move_all(void *arg) {
    move_station(arg);
    move_outbox(arg);
    move_inbox(arg);
}

/* ------------------------------------------------------------------------------------------------------ a pass */

static int is_busy(const struct place *places, int n) {
    int busy = 0;
    for (int i = 0; i < n; i++)
        busy |= places[i].state != FREE;
    return busy;
}

/* The unit that is next at the station, or NULL after the last one. */
static struct place *next_unit(struct run *r, struct pass_report *report) {
    struct place *at = &r->slot[r->worked % r->pass->slots];
    progress();
    int is_there = r->asked > r->worked && at->state == ARRIVED;
    begin_waiting();
    while (r->next_here < r->units && r->asked == r->worked) /* it waits for a slot, which a message is leaving */
        wait_a_moment();
    while (r->asked > r->worked && at->state != ARRIVED)
        wait_a_moment();
    end_waiting();
    if (r->asked == r->worked)
        return NULL;
    const struct unit *u = &at->unit;
    if (u->first_rank != my_rank || u->owner != my_rank)
        *(is_there ? &report->bytes_there : &report->bytes_late) +=
            (double)record_bytes(u, u->first_rank != my_rank ? r->pass->inputs + r->pass->results : r->pass->inputs);
    return at;
}

static void each_record(struct run *r, void (*call)(struct place *at, int64_t floats)) {
    const struct pass *p = r->pass;
    int64_t rows = p->sharding->problem.chunk_rows;
    for (int i = 0; i < p->slots; i++)
        call(&r->slot[i], rows * (p->inputs + p->results));
    for (int i = 0; i < BOXES; i++) {
        call(&r->outbox[i], rows * p->inputs);
        call(&r->inbox[i], rows * p->results);
    }
}

static void take_record(struct place *at, int64_t floats) {
    at->record = take_floats(floats);
}

static void release_record(struct place *at, int64_t floats) {
    (void)floats;
    release_floats(at->record);
}

struct pass_report run_pass(const struct pass *pass) {
    struct run r = {.pass = pass, .units = num_units(pass->sharding, pass->groups)};
    struct pass_report report = {0};
    double before[NUM_ACTIVITIES], after[NUM_ACTIVITIES], start = seconds_now();
    int64_t sent = bytes_sent();
    read_seconds(before);
    each_record(&r, take_record);
    set_progress_hook(move_all, &r);
    for (struct place *at; (at = next_unit(&r, &report)) != NULL; r.worked++) {
        begin_activity(COMPUTING);
        pass->work(pass->arg, &at->unit, at->record, results_of(&r, at), at->unit.first_rank == my_rank);
        begin_activity(OTHER);
        send_on(&r, at);
    }
    begin_waiting();
    while (r.next_out < r.units || r.next_in < r.units || is_busy(r.slot, pass->slots) || is_busy(r.outbox, BOXES) ||
           is_busy(r.inbox, BOXES))
        wait_a_moment();
    end_waiting();
    set_progress_hook(NULL, NULL);
    each_record(&r, release_record);
    read_seconds(after);
    report.seconds = seconds_now() - start;
    report.computing = after[COMPUTING] - before[COMPUTING];
    report.messaging = after[MESSAGING] - before[MESSAGING];
    report.waiting = after[WAITING] - before[WAITING];
    report.steps = (double)r.worked;
    report.bytes_sent = (double)(bytes_sent() - sent);
    return report;
}
