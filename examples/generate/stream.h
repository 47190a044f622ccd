/* What of a text that grows token by token can be shown already.  SPDX-License-Identifier: MIT */
#ifndef STREAM_H
#define STREAM_H

#include <stddef.h>

/* Text becomes visible in whole characters, and only once it can't be the beginning of a stop string. */
struct stream {
    const char *const *stops; /* not empty */
    size_t num_stops;
    char *text; /* invalid UTF-8 as it came */
    size_t size, capacity;
    size_t shown; /* bytes of it that have been handed out */
    int stopped;  /* a stop string has come: text ends before it */
};

void append_to_stream(struct stream *stream, const char *text, size_t size);

/* The bytes that may be shown now, from text + shown on, and at the end all that are left; counts them as shown. */
size_t take_from_stream(struct stream *stream, int at_the_end);

void free_stream(struct stream *stream);

#endif
