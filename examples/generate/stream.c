/* What of a text that grows token by token can be shown already.  SPDX-License-Identifier: MIT */
#include "stream.h"

#include "support.h"

#include <stdlib.h>
#include <string.h>

/* How many bytes of the stop string the text ends with, at `end`: all of them, or some first ones. */
static size_t stop_overlap(const char *stop, const char *text, size_t end) {
    size_t n = strlen(stop);
    for (n = n < end ? n : end; n > 0; n--)
        if (memcmp(text + end - n, stop, n) == 0)
            return n;
    return 0;
}

void append_to_stream(struct stream *stream, const char *text, size_t size) {
    if (stream->size + size > stream->capacity) {
        stream->capacity = 2 * (stream->size + size) + 64;
        stream->text = reallocate(stream->text, stream->capacity, 1);
    }
    for (size_t i = 0; i < size && !stream->stopped; i++) {
        stream->text[stream->size++] = text[i];
        for (size_t s = 0; s < stream->num_stops && !stream->stopped; s++) {
            const size_t length = strlen(stream->stops[s]);
            if (stream->size >= length && memcmp(stream->text + stream->size - length, stream->stops[s], length) == 0) {
                stream->size -= length;
                stream->stopped = 1;
            }
        }
    }
}

/* The bytes at the end that begin a character whose rest is still to come. */
static size_t unfinished(const char *text, size_t size) {
    for (size_t n = 1; n <= 3 && n <= size; n++) {
        const unsigned char c = (unsigned char)text[size - n];
        if (c >= 0xc0)
            return n < (c >= 0xf0 ? 4u : c >= 0xe0 ? 3u : 2u) ? n : 0;
        if (c < 0x80)
            return 0;
    }
    return 0;
}

size_t take_from_stream(struct stream *stream, int at_the_end) {
    size_t end = stream->size;
    if (!at_the_end && !stream->stopped) {
        size_t kept = 0;
        for (size_t s = 0; s < stream->num_stops; s++) {
            const size_t n = stop_overlap(stream->stops[s], stream->text, end);
            kept = n > kept ? n : kept;
        }
        end -= kept;
        end -= unfinished(stream->text, end);
    }
    if (end < stream->shown)
        return 0;
    const size_t count = end - stream->shown;
    stream->shown = end;
    return count;
}

void free_stream(struct stream *stream) {
    free(stream->text);
    *stream = (struct stream){0};
}
