/* A language model on qkv: continues texts, answers, talks.   generate --model FILE.gguf "PROMPT"
 * SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "chat.h"
#include "decoder.h"
#include "generation.h"
#include "measurements.h"
#include "command_line.h"
#include "support.h"
#include "text.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char program_name[] = "generate";

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number) {
    (void)number;
    interrupted = 1;
}

static void catch_interrupts(void) {
    struct sigaction action = {.sa_handler = on_interrupt}; /* no SA_RESTART: waiting for a line ends, too */
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

/* ------------------------------------------------------------------------------------------------ showing texts */

/* Bytes that are no text become U+FFFD. */
static void write_text(const char *text, size_t size) {
    for (size_t i = 0; i < size;) {
        char character[4];
        int32_t c;
        i += decode_utf8(text + i, size - i, &c);
        fwrite(character, 1, encode_utf8(c, character), stdout);
    }
}

static void show_stream(struct text *text) {
    const size_t from = text->stream.shown, count = take_from_stream(&text->stream, text->ending != GOES_ON);
    write_text(text->stream.text + from, count);
    if (text->ending != GOES_ON)
        putchar('\n');
    fflush(stdout);
}

static void write_json(const struct text *text, const char *prompt, size_t prompt_size) {
    fputs("{\"prompt\": ", stdout);
    write_json_string(stdout, prompt, prompt_size);
    fputs(", \"text\": ", stdout);
    write_json_string(stdout, text->stream.text, text->stream.size);
    printf(", \"prompt_tokens\": %zu, \"tokens\": [", text->num_prompt);
    for (size_t i = text->num_prompt; i < text->tokens.count; i++)
        printf("%s%d", i > text->num_prompt ? ", " : "", (int)text->tokens.ids[i]);
    printf("], \"ended_by\": \"%s\"}\n", ending_name(text->ending));
}

/* ------------------------------------------------------------------------------------------------ the program */

struct program {
    struct settings settings;
    struct gguf file;
    struct text_tokens tokens;
    const struct chat *chat;
    struct decoder decoder;
    struct generation generation;
    char reason[96];
};

/* Adds words to a text. Returns NULL, or why the model can't go on from there. */
static const char *add_turn(struct program *program, struct text *text, const char *words, size_t size) {
    tokenize_turn(&program->tokens, program->chat, words, size, text->tokens.count == 0, &text->tokens);
    text->num_prompt = text->tokens.count;
    text->most_tokens = (size_t)program->settings.max_answer;
    text->ending = GOES_ON;
    if (text->num_prompt == 0)
        return "there is no token in it; say something";
    if (text->num_prompt <= (size_t)program->decoder.options.max_tokens)
        return NULL;
    snprintf(program->reason, sizeof program->reason, "%zu tokens don't fit into the context of %lld; see --ctx",
             text->num_prompt, (long long)program->decoder.options.max_tokens);
    return program->reason;
}

static void begin_text(const struct program *program, struct text *text) {
    *text = (struct text){.sequence = -1,
                          .stream = {.stops = program->settings.stops, .num_stops = program->settings.num_stops}};
    start_sampler(&text->sampler, &program->settings.sampling);
}

static void answer_prompt(struct program *program) {
    const struct settings *settings = &program->settings;
    struct text text;
    begin_text(program, &text);
    const char *reason = add_turn(program, &text, settings->prompt, strlen(settings->prompt));
    if (reason)
        die("the prompt: %s", reason);
    program->generation.show = settings->json ? NULL : show_stream;
    generate_texts(&program->generation, &text, 1, 0);
    if (settings->json)
        write_json(&text, settings->prompt, strlen(settings->prompt));
    free_text(&text);
}

/* A talk is one text that grows. An answer that was cut short stays as far as it came. */
static void talk(struct program *program) {
    struct text text;
    char *line = NULL;
    size_t capacity = 0;
    begin_text(program, &text);
    program->generation.show = show_stream;
    for (;;) {
        if (isatty(STDIN_FILENO))
            fputs("> ", stdout);
        fflush(stdout);
        const ssize_t size = getline(&line, &capacity, stdin);
        if (size <= 0 || interrupted)
            break;
        const size_t length = (size_t)size - (line[size - 1] == '\n');
        if (length == 0)
            continue;
        const char *reason = add_turn(program, &text, line, length);
        if (reason) {
            note("%s", reason);
            break;
        }
        free_stream(&text.stream);
        text.stream.stops = program->settings.stops;
        text.stream.num_stops = program->settings.num_stops;
        generate_texts(&program->generation, &text, 1, 1);
        interrupted = 0;
        if (text.ending == ENDED_BY_CONTEXT) {
            note("the context of %lld tokens is full", (long long)program->decoder.options.max_tokens);
            break;
        }
    }
    free(line);
    free_text(&text);
}

/* Lines of a file: begin[i] … begin[i + 1] − 1, with their line ends. */
static char *read_lines(const char *path, size_t **begin, size_t *count) {
    size_t size = 0, capacity = 0;
    char *text = NULL;
    if (strcmp(path, "-") == 0) {
        for (size_t n = 1; n > 0; size += n) {
            if (capacity - size < 4096)
                text = reallocate(text, capacity = 2 * capacity + 8192, 1);
            n = fread(text + size, 1, capacity - size, stdin);
        }
    } else {
        text = read_file(path, &size, 0);
    }
    size_t lines = 0;
    for (size_t i = 0; i < size; i++)
        lines += i + 1 == size || text[i] == '\n';
    *begin = allocate(lines + 1, sizeof **begin);
    *count = lines;
    lines = 0;
    for (size_t i = 0; i < size; i++)
        if (i + 1 == size || text[i] == '\n')
            (*begin)[++lines] = i + 1;
    return text;
}

static size_t line_size(const char *text, const size_t *begin, size_t i) {
    const size_t size = begin[i + 1] - begin[i];
    return size - (size > 0 && text[begin[i + 1] - 1] == '\n');
}

static void answer_batch(struct program *program) {
    size_t *begin, count;
    char *lines = read_lines(program->settings.batch, &begin, &count);
    struct text *texts = allocate(count, sizeof *texts);
    for (size_t i = 0; i < count; i++) {
        begin_text(program, &texts[i]);
        const char *reason = add_turn(program, &texts[i], lines + begin[i], line_size(lines, begin, i));
        if (reason)
            die("%s: line %zu: %s", program->settings.batch, i + 1, reason);
    }
    generate_texts(&program->generation, texts, count, 0);
    for (size_t i = 0; i < count; i++) {
        if (program->settings.json) {
            write_json(&texts[i], lines + begin[i], line_size(lines, begin, i));
        } else {
            printf("> %.*s\n", (int)line_size(lines, begin, i), lines + begin[i]);
            show_stream(&texts[i]);
        }
        free_text(&texts[i]);
    }
    free(texts);
    free(begin);
    free(lines);
}

static void tokenize_lines(const struct program *program) {
    size_t *begin, count;
    char *lines = read_lines(program->settings.tokenize, &begin, &count);
    for (size_t i = 0; i < count; i++) {
        struct token_list list = {0};
        tokenize_text(&program->tokens, lines + begin[i], line_size(lines, begin, i), 0, SIZE_MAX, &list);
        putchar('[');
        for (size_t t = 0; t < list.count; t++)
            printf("%s%d", t ? "," : "", (int)list.ids[t]);
        puts("]");
        free(list.ids);
    }
    free(begin);
    free(lines);
}

static void open_decoder(struct program *program, qkv_pthreads *pool) {
    struct settings *settings = &program->settings;
    struct decoder_config config;
    qkv_ctx ctx;
    read_decoder_config(&config, &program->file);
    choose_kernels(&ctx, settings->isa);
    start_threads(pool, settings->num_threads);
    int64_t context = settings->context ? settings->context : config.max_context < 8192 ? config.max_context : 8192;
    if (context > config.max_context)
        note("the model was trained on texts of %lld tokens", (long long)config.max_context);
    const int64_t sequences = settings->batch ? settings->sequences : 1;
    const int64_t chunk = settings->chunk > sequences ? settings->chunk : sequences;
    const struct decoder_options options = {.num_sequences = sequences,
                                            .max_tokens = context,
                                            .max_rows = chunk,
                                            .cache_type = settings->cache_type,
                                            .arithmetic = settings->arithmetic,
                                            .attention = settings->attention};
    load_decoder(&program->decoder, &program->file, &config, &options, &ctx, pool);
    start_generation(&program->generation, &program->decoder, &program->tokens, &interrupted);
}

/* What is measured, and nothing else. */
static int measure(struct program *program) {
    const struct settings *settings = &program->settings;
    if (settings->perplexity) {
        catch_interrupts();
        measure_perplexity(&program->decoder, &program->tokens, settings->perplexity, &interrupted);
    } else if (settings->speed) {
        measure_speed(&program->decoder, settings->speed, 32);
    } else if (settings->logits) {
        write_logits(&program->decoder, &program->tokens, settings->prompt, settings->logits);
    } else {
        return 0;
    }
    return 1;
}

static void run_model(struct program *program) {
    const struct settings *settings = &program->settings;
    if (measure(program))
        return;
    catch_interrupts();
    if (!program->chat && !settings->raw)
        note("the model's file describes no talk that is known here: the prompt goes to it as it is");
    if (settings->interactive)
        talk(program);
    else if (settings->batch)
        answer_batch(program);
    else
        answer_prompt(program);
    print_closing_line(&program->generation, settings->cache_name);
}

int main(int argc, char **argv) {
    static struct program program;
    static qkv_pthreads pool;
    read_settings(&program.settings, argc, argv);
    open_gguf(&program.file, program.settings.model);
    read_text_tokens(&program.tokens, &program.file);
    if (program.settings.tokenize) {
        tokenize_lines(&program);
    } else {
        program.chat = program.settings.raw ? NULL : find_chat(&program.file);
        open_decoder(&program, &pool);
        run_model(&program);
        free_generation(&program.generation);
        free_decoder(&program.decoder);
        qkv_pthreads_stop(&pool);
    }
    free_text_tokens(&program.tokens);
    close_gguf(&program.file);
    free_settings(&program.settings);
    if (fflush(stdout) != 0 || ferror(stdout))
        die("standard output can't be written");
    return interrupted ? 130 : 0;
}
