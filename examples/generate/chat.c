/* How what people say is put to a model.  SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* memmem */
#include "chat.h"

#include "support.h"

#include <stdlib.h>
#include <string.h>

static const struct chat chats[] = {
    {"SmolLM2", "named SmolLM, trained by Hugging Face",
     "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n",
     "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n"},
    {"Gemma", "<start_of_turn>", "", "<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n",
     "<end_of_turn>\n"},
};

const struct chat *find_chat(const struct gguf *file) {
    const struct gguf_string text = gguf_text(file, "tokenizer.chat_template");
    for (size_t i = 0; text.text && i < sizeof chats / sizeof chats[0]; i++)
        if (memmem(text.text, text.size, chats[i].sign, strlen(chats[i].sign)))
            return &chats[i];
    return NULL;
}

void tokenize_turn(const struct text_tokens *tokens, const struct chat *chat, const char *text, size_t size, int first,
                   struct token_list *out) {
    static const struct chat none = {"", "", "", "", "", ""};
    const int plain = !chat;
    chat = chat ? chat : &none;
    if (first && tokens->begin >= 0)
        append_token(out, tokens->begin);
    const char *lead = first ? chat->system : plain ? "" : chat->answer_end;
    const size_t before = strlen(lead) + strlen(chat->before), after = strlen(chat->after);
    char *whole = allocate(before + size + after + 1, 1);
    strcpy(whole, lead);
    strcat(whole, chat->before);
    memcpy(whole + before, text, size);
    memcpy(whole + before + size, chat->after, after);
    tokenize_text(tokens, whole, before + size + after, plain ? SIZE_MAX : before, plain ? 0 : before + size, out);
    free(whole);
}
