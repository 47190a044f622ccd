/* Giving up with a message, memory, files, threads, time.  SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "support.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* No JSON or vocabulary file of a model comes near this; weights are not read through read_file. */
#define MAX_FILE_SIZE ((long long)256 << 20)

static int progress_shown, quarters;

_Noreturn void die(const char *format, ...) {
    va_list args;
    end_progress();
    fprintf(stderr, "%s: ", program_name);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

void note(const char *format, ...) {
    va_list args;
    end_progress();
    fprintf(stderr, "%s: note: ", program_name);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

void must(qkv_status status, const char *what) {
    if (status != QKV_OK)
        die("%s: %s", what, qkv_status_string(status));
}

void *allocate(size_t count, size_t element_size) {
    void *memory = calloc(count ? count : 1, element_size);
    if (!memory)
        die("out of memory: %zu elements of %zu bytes", count, element_size);
    return memory;
}

void *reallocate(void *memory, size_t count, size_t element_size) {
    if (count > SIZE_MAX / element_size || !(memory = realloc(memory, count * element_size)))
        die("out of memory: %zu elements of %zu bytes", count, element_size);
    return memory;
}

void *allocate_bytes(size_t count) {
    void *memory = count < SIZE_MAX - 64 ? aligned_alloc(64, (count + 64) / 64 * 64) : NULL;
    if (!memory)
        die("out of memory: %zu bytes", count);
    return memory;
}

float *allocate_floats(size_t count) {
    if (count > SIZE_MAX / sizeof(float))
        die("out of memory: %zu floats", count);
    return allocate_bytes(count * sizeof(float));
}

char *join_path(const char *directory, const char *name) {
    size_t length = strlen(directory) + strlen(name) + 2;
    char *path = allocate(length, 1);
    snprintf(path, length, "%s/%s", directory, name);
    return path;
}

char *read_file(const char *path, size_t *size, int optional) {
    struct stat status;
    FILE *file = fopen(path, "rb");
    if (!file && optional && errno == ENOENT)
        return NULL;
    if (!file)
        die("%s: %s", path, strerror(errno));
    if (fstat(fileno(file), &status) != 0 || !S_ISREG(status.st_mode))
        die("%s: not a regular file", path);
    if (status.st_size > MAX_FILE_SIZE)
        die("%s: %lld bytes are too many for a file of this kind", path, (long long)status.st_size);
    *size = (size_t)status.st_size;
    char *text = allocate(*size + 1, 1);
    if (fread(text, 1, *size, file) != *size)
        die("%s: can't be read", path);
    fclose(file);
    return text;
}

int64_t whole_number(const char *text, const char *option, int64_t low, int64_t high) {
    char *end;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || value < low || value > high)
        die("--%s takes a whole number from %lld to %lld, not \"%s\"", option, (long long)low, (long long)high, text);
    return value;
}

_Noreturn void end_options(int option, const char *help) {
    if (option != 'h')
        die("--help lists what can be asked for");
    fputs(help, stdout);
    exit(0);
}

const char *wanted_kernels(void) {
    const char *isa = getenv("QKV_ISA");
    return isa && *isa ? isa : NULL;
}

void choose_kernels(qkv_ctx *ctx, const char *isa) {
    qkv_config config = {.size = sizeof config, .isa = isa};
    qkv_status status = qkv_init(ctx, &config);
    if (status != QKV_OK)
        die("kernel set \"%s\": %s; qkv-info shows what this machine can run", isa ? isa : "any",
            qkv_status_string(status));
}

int32_t num_cpus(void) {
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count < 1 ? 1 : count > QKV_PTHREADS_MAX ? QKV_PTHREADS_MAX : (int32_t)count;
}

void start_threads(qkv_pthreads *pool, int32_t num_threads) {
    int error = qkv_pthreads_start(pool, num_threads, num_threads <= num_cpus() ? QKV_PTHREADS_SPINS : 0);
    if (error != 0)
        die("%d threads can't be started: %s; try a smaller --threads", num_threads, strerror(error));
}

double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void show_progress(const char *what, double share) {
    enum { WIDTH = 30 };
    static const char bar[] = "##############################";
    if (isatty(STDERR_FILENO)) {
        fprintf(stderr, "\r%s [%-*.*s] %3d %%", what, WIDTH, (int)(share * WIDTH), bar, (int)(share * 100.0));
    } else {
        if (!progress_shown) {
            fputs(what, stderr);
            quarters = 0;
        }
        for (; quarters < (int)(share * 4.0); quarters++)
            fprintf(stderr, " %d %%", 25 * (quarters + 1));
    }
    progress_shown = 1;
}

void end_progress(void) {
    if (progress_shown)
        fputc('\n', stderr);
    progress_shown = 0;
}
