/* Readers of the examples under libFuzzer. They end the program when a file is damaged: here that ends the input. What
 * they ask for is counted: nothing far larger than the file. scripts/check/fuzz_readers.sh compiles the examples so
 * that exit, calloc … are these.  SPDX-License-Identifier: MIT */
#ifndef FUZZ_READER_H
#define FUZZ_READER_H

#undef exit
#undef malloc
#undef calloc
#undef realloc
#undef aligned_alloc
#undef free
#undef fopen
#undef fclose

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

FILE *fopen(const char *path, const char *mode); /* <stdio.h> may have been read before, with the other names */
int fclose(FILE *file);

const char program_name[] = "fuzz";

enum { FUZZ_MOST = 1 << 20 };

static jmp_buf fuzz_end;
static void *fuzz_blocks[FUZZ_MOST];
static size_t fuzz_num_blocks, fuzz_size;
static FILE *fuzz_file;
static int fuzz_reads; /* a reader is at work */

_Noreturn void fuzz_exit(int status) {
    (void)status;
    longjmp(fuzz_end, 1);
}

static void *fuzz_keep(void *block) {
    if (!block || fuzz_num_blocks == FUZZ_MOST)
        abort();
    fuzz_blocks[fuzz_num_blocks++] = block;
    return block;
}

static size_t fuzz_check(size_t count, size_t size) {
    if (size && count > (4 * fuzz_size + 65536) / size) {
        fprintf(stderr, "%zu times %zu bytes for a file of %zu\n", count, size, fuzz_size);
        abort();
    }
    return count * size;
}

static void fuzz_forget(void *block) {
    for (size_t i = fuzz_num_blocks; block && i-- > 0;)
        if (fuzz_blocks[i] == block) {
            fuzz_blocks[i] = fuzz_blocks[--fuzz_num_blocks];
            return;
        }
    if (block)
        abort();
}

void *fuzz_malloc(size_t size) {
    return fuzz_keep(malloc(fuzz_check(size, 1)));
}

void *fuzz_calloc(size_t count, size_t size) {
    fuzz_check(count, size);
    return fuzz_keep(calloc(count, size));
}

void *fuzz_aligned_alloc(size_t alignment, size_t size) {
    return fuzz_keep(aligned_alloc(alignment, fuzz_check(size, 1)));
}

void *fuzz_realloc(void *block, size_t size) {
    fuzz_check(size, 1);
    fuzz_forget(block);
    return fuzz_keep(realloc(block, size));
}

void fuzz_free(void *block) {
    fuzz_forget(block);
    free(block);
}

FILE *fuzz_fopen(const char *path, const char *mode) {
    return fuzz_file = fopen(path, mode);
}

/* What glibc makes of fopen in files that ask for offsets of 64 bits, whatever the name; libFuzzer calls it, too. */
FILE *fopen64(const char *path, const char *mode);
FILE *fopen64(const char *path, const char *mode) {
    return fuzz_reads ? fuzz_fopen(path, mode) : fopen(path, mode);
}

int fuzz_fclose(FILE *file) {
    fuzz_file = NULL;
    return fclose(file);
}

/* Runs the reader, and frees what it left behind when the file was refused; when it was not, that is a leak. */
static int fuzz_run(size_t size, void (*reader)(const void *arg), const void *arg) {
    fuzz_size = size;
    fuzz_num_blocks = 0;
    fuzz_reads = 1;
    if (setjmp(fuzz_end) == 0) {
        reader(arg);
        fuzz_reads = 0;
        if (fuzz_num_blocks > 0 || fuzz_file)
            abort();
        return 0;
    }
    fuzz_reads = 0;
    while (fuzz_num_blocks > 0)
        free(fuzz_blocks[--fuzz_num_blocks]);
    if (fuzz_file)
        fuzz_fclose(fuzz_file);
    return 0;
}

/* A file in memory with these bytes, for readers that open one; the same path every time. */
static const char *fuzz_path(const uint8_t *data, size_t size) {
    static char path[64];
    snprintf(path, sizeof path, "/dev/shm/qkv-fuzz-%ld", (long)getpid());
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0)
        abort();
    return path;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
