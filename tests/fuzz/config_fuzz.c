/* Any text as a configuration, and as a --set: read or refused; what is read is written and read back to the
 * same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_back(const struct config *config) {
    struct config back;
    char written[CONFIG_TEXT_MAX];
    config_text(config, written);
    if (config_parse(written, "written", &back) || memcmp(config, &back, sizeof back) != 0) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct config config;
    char *text = malloc(size + 1);
    if (!text) return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    const char *const sets[] = {"data.path=x", "output.path=y", text};
    if (config_parse(text, "fuzz", &config) == 0) check_back(&config);
    if (config_load(NULL, sets, 3, &config) == 0) check_back(&config);
    free(text);
    return 0;
}
