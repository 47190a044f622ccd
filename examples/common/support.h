/* What every example needs: giving up with a message, memory, files, threads, time.  SPDX-License-Identifier: MIT */
#ifndef SUPPORT_H
#define SUPPORT_H

#include <qkv.h>
#include <qkv/pthreads.h>
#include <stddef.h>
#include <stdint.h>

/* What messages begin with. Every program defines its own. */
extern const char program_name[];

/* Prints the program's name and the message on standard error and ends the program with exit status 1. */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same with "note: "; the program goes on. */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Ends the program with `what` and the reason unless status is QKV_OK. */
void must(qkv_status status, const char *what);

/* Memory or the end of the program. */
void *allocate(size_t count, size_t element_size);
void *reallocate(void *memory, size_t count, size_t element_size);
void *allocate_bytes(size_t count);   /* 64-byte aligned, not set to 0; free() releases them */
float *allocate_floats(size_t count); /* the same */

/* "directory/name", to be freed. */
char *join_path(const char *directory, const char *name);

/* The whole file, followed by a byte 0 that `size` does not count. Without the file: NULL if optional, else die(). */
char *read_file(const char *path, size_t *size, int optional);

/* The value of --option, a whole number from low to high, or the end of the program. */
int64_t whole_number(const char *text, const char *option, int64_t low, int64_t high);

/* What ends the program of all that getopt_long returns: 'h' prints the help, exit status 0; the rest, of which getopt
 * has complained, exit status 1. */
_Noreturn void end_options(int option, const char *help);

/* The kernel set that the environment asks for by QKV_ISA, or NULL. */
const char *wanted_kernels(void);

/* The kernel set of that name, or the best of this machine for NULL, or the end of the program. */
void choose_kernels(qkv_ctx *ctx, const char *isa);

/* How many threads this machine can run at once. */
int32_t num_cpus(void);

/* Starts a pool of that many, or ends the program. qkv_pthreads_stop ends it. */
void start_threads(qkv_pthreads *pool, int32_t num_threads);

/* Seconds since some fixed moment. */
double seconds_now(void);

/* A bar on standard error, rewritten in place; where that is no terminal, one line that grows by every quarter. */
void show_progress(const char *what, double share);
void end_progress(void);

#endif
