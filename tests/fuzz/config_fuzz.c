/* Any text as a configuration: read or refused; what is read is written and read back to the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct config config, back;
    char *text = malloc(size + 1), written[CONFIG_TEXT_MAX];
    if (!text) return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    if (config_parse(text, "fuzz", &config) == 0) {
        config_text(&config, written);
        if (config_parse(written, "written", &back) || memcmp(&config, &back, sizeof config) != 0) abort();
    }
    free(text);
    return 0;
}
