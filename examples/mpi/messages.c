/* Messages between ranks that never block and never wait for ever.
 *
 * MPI's own waits know no time limit, and a rank that was killed on another machine, or stopped, may never be reported.
 * So nothing here waits inside MPI. A rank for which nothing has moved for the timeout asks all others for an answer;
 * ranks answer whenever they look at their messages, be it while waiting themselves or between two tasks of a
 * computation. Whoever does not answer is named, and MPI_Abort ends the run.
 *
 * SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "messages.h"
#include "ledger.h"
#include "support.h"

#include <limits.h>
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_OPEN = 64, EXIT_CODE = 3, PATIENCE = 5 }; /* seconds to answer in, or half the timeout */

int my_rank, num_ranks;

static MPI_Request requests[MOST_OPEN];
static struct transfer *transfers[MOST_OPEN];
static int num_open;
static double timeout = 30, last_move;
static int64_t sent, moves;
static int empty_looks, is_started, is_silent; /* silent: calls of the hook must not call it */
static void (*the_hook)(void *);
static void *hook_arg;

/* Roll calls: a question carries a number, the answer that number and what its rank is doing. */
static MPI_Request question_request, answer_request;
static int question, answer[2], own_question, still_waiting;
static int *replies; /* [2·num_ranks]: what to send, and at whom; −1: has not answered */

/* ------------------------------------------------------------------------------------------------------ errors */

static _Noreturn void give_up(const char *text) {
    fprintf(stderr, "%s: rank %d: %s\n", program_name, my_rank, text);
    fflush(stderr);
    is_started = 0;
    MPI_Abort(MPI_COMM_WORLD, EXIT_CODE);
    _Exit(EXIT_CODE);
}

static void check(int code, const char *what) {
    char reason[MPI_MAX_ERROR_STRING] = "", text[MPI_MAX_ERROR_STRING + 64];
    int length = 0;
    if (code == MPI_SUCCESS)
        return;
    MPI_Error_string(code, reason, &length);
    snprintf(text, sizeof text, "%s: %.*s", what, length, reason);
    give_up(text);
}

/* A rank that ends by exit(), be it by die(), ends the others too. */
static void abort_unless_ended(void) {
    if (is_started)
        MPI_Abort(MPI_COMM_WORLD, EXIT_CODE);
}

static void describe(char *text, size_t size, const struct transfer *t) {
    static const char *const names[] = {
        [ANY_QUESTION] = "a question", [ANY_ANSWER] = "an answer", [A_QUERY] = "queries", [A_STATE] = "states",
        [A_RESULT] = "results",        [A_TENSOR] = "a tensor",    [A_NOTE] = "a note"};
    int n = snprintf(text, size, "%s %s rank %d", names[t->kind], t->incoming ? "from" : "to", t->peer);
    if (t->first_row >= 0 && n > 0 && (size_t)n < size)
        snprintf(text + n, size - (size_t)n, " (query %lld on)", (long long)t->first_row);
}

/* -------------------------------------------------------------------------------------------------- roll calls */

static void listen(int *to, int count, int tag, MPI_Request *request) {
    check(MPI_Irecv(to, count, MPI_INT, MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, request), "MPI_Irecv");
}

/* Sends a few ints that stay as they are until the next roll call. */
static void send_word(const int *word, int count, int peer, int tag) {
    MPI_Request request;
    check(MPI_Isend(word, count, MPI_INT, peer, tag, MPI_COMM_WORLD, &request), "MPI_Isend");
    check(MPI_Request_free(&request), "MPI_Request_free");
}

static void answer_questions(void) {
    MPI_Status status;
    int done;
    check(MPI_Test(&question_request, &done, &status), "MPI_Test");
    if (done) {
        int *reply = replies + 2 * status.MPI_SOURCE;
        reply[0] = question;
        reply[1] = current_activity() == WAITING ? WAITING : COMPUTING;
        send_word(reply, 2, status.MPI_SOURCE, ANY_ANSWER);
        listen(&question, 1, ANY_QUESTION, &question_request);
    }
}

/* Hears what ranks answer until all have, something else moves, or time is up. doing[rank]: −1 without an answer. */
static int hear_answers(int *doing, int64_t moves_before) {
    double until = seconds_now() + (timeout > 2 * PATIENCE ? timeout / 2 : PATIENCE);
    int missing = num_ranks - 1;
    while (missing > 0 && moves == moves_before && seconds_now() < until) {
        MPI_Status status;
        int done;
        progress();
        check(MPI_Test(&answer_request, &done, &status), "MPI_Test");
        if (!done) {
            nanosleep(&(struct timespec){0, 1000000}, NULL);
            continue;
        }
        if (answer[0] == own_question && doing[status.MPI_SOURCE] < 0) {
            doing[status.MPI_SOURCE] = answer[1];
            missing--;
        }
        listen(answer, 2, ANY_ANSWER, &answer_request);
    }
    return missing;
}

/* What this rank waits for: rather something that should come than something that nobody fetches. */
static const char *what_is_missing(char *text, size_t size) {
    int at = 0;
    while (at + 1 < num_open && !transfers[at]->incoming)
        at++;
    if (num_open == 0)
        return "its turn";
    describe(text, size, transfers[at]);
    return text;
}

/* Asks everyone, and ends the program if that brings to light a rank that is not there, or that nobody will go on. */
static void call_the_roll(void) {
    char text[1024], list[512] = "", what[128];
    int64_t moves_before = moves;
    int *doing = allocate((size_t)num_ranks, sizeof *doing), busy = 0;
    own_question++;
    for (int rank = 0; rank < num_ranks; rank++) {
        doing[rank] = -1;
        if (rank != my_rank)
            send_word(&own_question, 1, rank, ANY_QUESTION);
    }
    int missing = hear_answers(doing, moves_before);
    for (int rank = 0; rank < num_ranks; rank++) {
        size_t n = strlen(list);
        if (rank != my_rank && doing[rank] < 0)
            snprintf(list + n, sizeof list - n, "%s%d", n > 0 ? ", " : "", rank);
        busy |= rank != my_rank && doing[rank] >= 0 && doing[rank] != WAITING;
    }
    free(doing);
    if (moves != moves_before)
        return;
    int n = snprintf(text, sizeof text, "nothing has moved for %.1f s; it waits for %s. ", seconds_now() - last_move,
                     what_is_missing(what, sizeof what));
    if (missing > 0) {
        snprintf(text + n, sizeof text - (size_t)n, "No answer from rank %s: dead, stopped or cut off. Giving up.",
                 list);
        give_up(text);
    }
    still_waiting = busy ? 0 : still_waiting + 1;
    if (still_waiting == 2) { /* once may be a message that was on its way */
        snprintf(text + n, sizeof text - (size_t)n, "All ranks answer, and all wait: an error in this program.");
        give_up(text);
    }
    last_move = seconds_now();
}

/* -------------------------------------------------------------------------------------------------- transfers */

void messages_start(int *argc, char ***argv) {
    if (MPI_Init(argc, argv) != MPI_SUCCESS)
        die("MPI_Init failed");
    is_started = 1;
    atexit(abort_unless_ended);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    check(MPI_Comm_rank(MPI_COMM_WORLD, &my_rank), "MPI_Comm_rank");
    check(MPI_Comm_size(MPI_COMM_WORLD, &num_ranks), "MPI_Comm_size");
    replies = allocate(2 * (size_t)num_ranks, sizeof *replies);
    listen(&question, 1, ANY_QUESTION, &question_request);
    listen(answer, 2, ANY_ANSWER, &answer_request);
    last_move = seconds_now();
}

void messages_set_timeout(double seconds) {
    timeout = seconds;
}

static int prepare(struct transfer *t, size_t bytes, int peer, enum message_kind kind, int64_t first_row,
                   int incoming) {
    if (num_open == MOST_OPEN || bytes > INT_MAX)
        give_up(bytes > INT_MAX ? "a message of 2 GiB or more" : "too many messages at a time");
    *t = (struct transfer){1, incoming, peer, kind, first_row};
    transfers[num_open] = t;
    return (int)bytes;
}

void post_send(struct transfer *t, const void *data, size_t bytes, int peer, enum message_kind kind,
               int64_t first_row) {
    int count = prepare(t, bytes, peer, kind, first_row, 0);
    check(MPI_Isend(data, count, MPI_BYTE, peer, (int)kind, MPI_COMM_WORLD, &requests[num_open++]), "MPI_Isend");
    if (kind == A_QUERY || kind == A_STATE || kind == A_RESULT)
        sent += (int64_t)bytes;
}

void post_receive(struct transfer *t, void *data, size_t bytes, int peer, enum message_kind kind, int64_t first_row) {
    int count = prepare(t, bytes, peer, kind, first_row, 1);
    check(MPI_Irecv(data, count, MPI_BYTE, peer, (int)kind, MPI_COMM_WORLD, &requests[num_open++]), "MPI_Irecv");
}

/* Takes what is complete out of the list. */
static void look(void) {
    int index[MOST_OPEN], count = 0, left = 0;
    if (num_open > 0)
        check(MPI_Testsome(num_open, requests, &count, index, MPI_STATUSES_IGNORE), "MPI_Testsome");
    if (count == MPI_UNDEFINED)
        count = 0;
    for (int i = 0; i < count; i++)
        transfers[index[i]]->open = 0;
    for (int i = 0; i < num_open && count > 0; i++) {
        if (!transfers[i]->open)
            continue;
        requests[left] = requests[i];
        transfers[left++] = transfers[i];
    }
    num_open = count > 0 ? left : num_open;
    moves += count;
    empty_looks = count > 0 ? 0 : empty_looks + 1;
}

void progress(void) {
    enum activity before = current_activity();
    if (before != WAITING)
        begin_activity(MESSAGING);
    look();
    answer_questions();
    if (the_hook && !is_silent) {
        is_silent = 1;
        the_hook(hook_arg);
        is_silent = 0;
    }
    if (before != WAITING)
        begin_activity(before);
}

void set_progress_hook(void (*hook)(void *arg), void *arg) {
    the_hook = hook;
    hook_arg = arg;
}

void begin_waiting(void) {
    begin_activity(WAITING);
    last_move = seconds_now();
    empty_looks = 0;
}

void end_waiting(void) {
    begin_activity(OTHER);
}

void wait_a_moment(void) {
    enum { LOOKS_BEFORE_SLEEP = 2000 };
    int64_t before = moves;
    progress();
    if (moves != before) {
        last_move = seconds_now();
        still_waiting = 0;
    } else if (empty_looks < LOOKS_BEFORE_SLEEP) { /* there may be more ranks than processors */
        sched_yield();
    } else {
        nanosleep(&(struct timespec){0, 50000}, NULL);
        if (seconds_now() - last_move > timeout)
            call_the_roll();
    }
}

static void complete(const struct transfer *t) {
    begin_waiting();
    while (t->open)
        wait_a_moment();
    end_waiting();
}

void send_now(const void *data, size_t bytes, int peer, enum message_kind kind) {
    struct transfer t;
    post_send(&t, data, bytes, peer, kind, -1);
    complete(&t);
}

void receive_now(void *data, size_t bytes, int peer, enum message_kind kind) {
    struct transfer t;
    post_receive(&t, data, bytes, peer, kind, -1);
    complete(&t);
}

void messages_end(void) {
    float nothing = 0;
    for (int rank = 1; rank < num_ranks && my_rank == 0; rank++)
        receive_now(&nothing, sizeof nothing, rank, A_NOTE);
    if (my_rank > 0)
        send_now(&nothing, sizeof nothing, 0, A_NOTE);
    for (int rank = 1; rank < num_ranks && my_rank == 0; rank++)
        send_now(&nothing, sizeof nothing, rank, A_NOTE);
    if (my_rank > 0)
        receive_now(&nothing, sizeof nothing, 0, A_NOTE);
    MPI_Request *both[] = {&question_request, &answer_request};
    for (int i = 0; i < 2; i++) {
        check(MPI_Cancel(both[i]), "MPI_Cancel");
        check(MPI_Wait(both[i], MPI_STATUS_IGNORE), "MPI_Wait");
    }
    is_started = 0;
    MPI_Finalize();
    free(replies);
}

int64_t bytes_sent(void) {
    return sent;
}

void run_tasks(void *pool, int64_t num_tasks, void (*task)(void *arg, int64_t index, int32_t worker), void *arg) {
    (void)pool;
    for (int64_t i = 0; i < num_tasks; i++) {
        task(arg, i, 0);
        progress();
    }
}
