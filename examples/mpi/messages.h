/* Messages between ranks that never block and never wait for ever: what a rank waits for is looked after while it
 * computes, and where nothing comes a roll call finds out which rank is dead or stopped and ends all of them.
 *
 * SPDX-License-Identifier: MIT */
#ifndef MESSAGES_H
#define MESSAGES_H

#include <stddef.h>
#include <stdint.h>

enum message_kind { ANY_QUESTION = 1, ANY_ANSWER, A_QUERY, A_STATE, A_RESULT, A_TENSOR, A_NOTE };

/* A message under way. It stays where it is until it is complete. */
struct transfer {
    int open; /* set when it is posted, 0 again when it is complete */
    int incoming, peer;
    enum message_kind kind;
    int64_t first_row; /* the query it is about, or −1: for whom it may concern */
};

/* Who am I, and how many are there? Known from messages_start on. `timeout`: seconds. */
extern int my_rank, num_ranks;
void messages_start(int *argc, char ***argv);
void messages_set_timeout(double timeout);

/* Nobody leaves before everyone is done, so that a rank that waits finds all others in place. */
void messages_end(void);

/* Posts a message; the data stay as they are, or unread, until it is complete. */
void post_send(struct transfer *t, const void *data, size_t bytes, int peer, enum message_kind kind, int64_t first_row);
void post_receive(struct transfer *t, void *data, size_t bytes, int peer, enum message_kind kind, int64_t first_row);

/* Looks what has become of messages, answers roll calls and calls the hook, if there is one. To be called often while
 * computing. */
void progress(void);
void set_progress_hook(void (*hook)(void *arg), void *arg);

/* A loop that waits begins with the first and goes round with the second, which does progress() and makes sure that
 * something happens within the timeout, or that whoever keeps it waiting is alive. */
void begin_waiting(void);
void wait_a_moment(void);
void end_waiting(void);

/* Complete messages, one after the other. */
void send_now(const void *data, size_t bytes, int peer, enum message_kind kind);
void receive_now(void *data, size_t bytes, int peer, enum message_kind kind);

/* Bytes that this rank has sent in states, queries and results. */
int64_t bytes_sent(void);

/* A qkv_parallel_for: all tasks in this thread, with a look at the messages after each. */
void run_tasks(void *pool, int64_t num_tasks, void (*task)(void *arg, int64_t index, int32_t worker), void *arg);

#endif
