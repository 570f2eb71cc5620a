/* Any line as a choice: read or passed over; what is read has a key that ends and no ';' in it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "choices.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct choice choice;
    char *line = malloc(size + 1);
    if (!line) return 0;
    memcpy(line, data, size);
    line[size] = '\0';
    if (choice_read(line, &choice)) {
        size_t length = strnlen(choice.key, CHOICE_KEY_MAX);
        if (length == 0 || length == CHOICE_KEY_MAX || strchr(choice.key, ';')) abort();
        if (strlen(line) != length + 1 + CHOICE_WORDS * 16 + 1) abort();
    }
    free(line);
    return 0;
}
