/* The configuration: defaults, YAML, --set, what is refused and how, and back again as text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "config.h"
#include "error.h"

static const char paths[] = "data: {path: data/x}\noutput: {path: results/x}\n";

static void test_contract(void **state) {
    (void)state;
    static const char text[] =
        "data:   {path: data/ml-20m}\n"
        "model:  {type: dae, hidden: [600, 300], latent: 200, activation: relu, dropout: 0.25,\n"
        "         decoder: linear, layer_norm: yes}\n"
        "train:\n"
        "  seed: 9\n"
        "  epochs: 20\n"
        "  batch_size: 300\n"
        "  learning_rate: 1.0e-4   # a comment\n"
        "  optimizer: adamw\n"
        "  weight_decay: 0.01\n"
        "  warmup_steps: 7\n"
        "  kl: {cap: 0.3, anneal_steps: 100}\n"
        "  turns: 3\n"
        "  precision: fp16\n"
        "  loss_scale: 1024\n"
        "  early_stopping: {metric: recall_all@20, patience: 5}\n"
        "  validate_every: 2\n"
        "  checkpoint: {every_epochs: 3, every_minutes: 1.5, keep: 4}\n"
        "device: cpu\n"
        "output: {path: results/ml-20m}\n";
    struct config c, back;
    char written[CONFIG_TEXT_MAX];
    if (config_parse(text, "x.yaml", &c)) fail_msg("%s", error_message());
    assert_string_equal(c.data_path, "data/ml-20m");
    assert_int_equal(c.model.type, MODEL_DAE);
    assert_int_equal(c.model.n_hidden, 2);
    assert_int_equal(c.model.hidden[1], 300);
    assert_int_equal(c.model.activation, ACTIVATION_RELU);
    assert_true(c.model.layer_norm == 1 && c.model.decoder == DECODER_LINEAR && c.train.turns == 3);
    assert_true(c.model.dropout == 0.25 && c.train.learning_rate == 1e-4 && c.train.weight_decay == 0.01);
    assert_int_equal(c.train.optimizer, OPTIMIZER_ADAMW);
    assert_int_equal(c.train.warmup_steps, 7);
    assert_true(c.train.kl.cap == 0.3 && c.train.loss_scale == 1024 &&
                c.train.checkpoint.every_minutes == 1.5);
    assert_int_equal(c.train.early_stopping.metric.kind, METRIC_RECALL_ALL);
    assert_int_equal(c.train.early_stopping.metric.at, 20);
    assert_int_equal(c.train.checkpoint.keep, 4);
    assert_int_equal(c.device, DEVICE_CPU);
    config_text(&c, written);
    if (config_parse(written, "written", &back)) fail_msg("%s\n%s", error_message(), written);
    assert_memory_equal(&c, &back, sizeof c);
}

static void test_defaults(void **state) {
    (void)state;
    struct config defaults, c;
    config_defaults(&defaults);
    assert_int_equal(config_parse(paths, "x.yaml", &c), 0);
    snprintf(defaults.data_path, sizeof defaults.data_path, "data/x");
    snprintf(defaults.output_path, sizeof defaults.output_path, "results/x");
    assert_memory_equal(&c, &defaults, sizeof c);
    assert_int_equal(c.model.hidden[0], 600);
    assert_int_equal(c.train.batch_size, 500);
    assert_int_equal(c.train.early_stopping.metric.at, 100);
    assert_true(c.train.loss_scale == 0);
}

/* Every mistake is refused with the line and a word of what is wrong. */
static void test_mistakes(void **state) {
    (void)state;
    static const struct {
        const char *text, *line, *word;
    } cases[] = {
        {"train: {epoch: 5}\n", ":3", "epoch"},
        {"nonsense: 5\n", ":3", "nonsense"},
        {"train:\n  epochs: five\n", ":4", "epochs"},
        {"train:\n  epochs: 1.5\n", ":4", "epochs"},
        {"train:\n  epochs: -1\n", ":4", "epochs"},
        {"train:\n  learning_rate: 0\n", ":4", "learning_rate"},
        {"train:\n  learning_rate: nan\n", ":4", "learning_rate"},
        {"train:\n  optimizer: sgd\n", ":4", "adamw"},
        {"train:\n  epochs: [5]\n", ":4", "epochs"},
        {"train: 5\n", ":3", "train"},
        {"train:\n  epochs: 5\n  epochs: 6\n", ":5", "epochs"},
        {"train:\n  early_stopping: {metric: auc}\n", ":4", "ndcg@R"},
        {"model: {hidden: 600}\n", ":3", "hidden"},
        {"model: {hidden: [0]}\n", ":3", "hidden"},
        {"model: {dropout: 1}\n", ":3", "dropout"},
        {"model: {hidden: [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}\n", ":3", "hidden"},
        {"device: tpu\n", ":3", "cuda"},
        {"model: {layer_norm: maybe}\n", ":3", "true or false"},
        {"model: {hidden: [], layer_norm: yes}\n", "", "model.hidden"},
        {"model: {type: dae}\ntrain: {kl: {gamma: 0.005}}\n", "", "model.type vae"},
        {"model: {type: ease}\ntrain: {turns: 3}\n", "", "train.turns"},
        {"train:\n\tepochs: 5\n", ":", ""},
        {"train: {epochs: 5\n", ":", ""},
        {"- 5\n", ":", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[1024], where[64];
        struct config c;
        snprintf(text, sizeof text, "%s%s", paths, cases[i].text);
        snprintf(where, sizeof where, "x.yaml%s", cases[i].line);
        if (config_parse(text, "x.yaml", &c) != EX_CONFIG) fail_msg("not refused: %s", cases[i].text);
        if (!strstr(error_message(), where) || !strstr(error_message(), cases[i].word)) {
            fail_msg("%s: %s", cases[i].text, error_message());
        }
        assert_null(strchr(error_message(), '\n'));
    }
}

static void test_set(void **state) {
    (void)state;
    static const char *const good[] = {"train.epochs=7", "model.hidden=[10, 20]", "train.kl.cap=0.5",
                                       "output.path=elsewhere", "train.epochs=8"};
    static const struct {
        const char *set;
        int code;
    } bad[] = {{"train.epochs", EX_USAGE},    {"train.epoch=5", EX_CONFIG},
               {"train.epochs=x", EX_CONFIG}, {"=5", EX_CONFIG},
               {"train=5", EX_CONFIG},        {"model.type=gan", EX_CONFIG},
               {"train.epochs=", EX_CONFIG},  {"model.hidden=10,20", EX_CONFIG}};
    char path[] = "/tmp/vaecf-config-XXXXXX";
    struct config c;
    int file = mkstemp(path);
    assert_true(file >= 0 && write(file, paths, sizeof paths - 1) == sizeof paths - 1);
    close(file);
    if (config_load(path, good, 5, &c)) fail_msg("%s", error_message());
    assert_int_equal(c.train.epochs, 8);
    assert_int_equal(c.model.n_hidden, 2);
    assert_int_equal(c.model.hidden[1], 20);
    assert_true(c.train.kl.cap == 0.5);
    assert_string_equal(c.output_path, "elsewhere");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int code = config_load(path, &bad[i].set, 1, &c);
        if (code != bad[i].code) fail_msg("%s: %d, %s", bad[i].set, code, error_message());
    }
    unlink(path);
    assert_int_equal(config_load(path, NULL, 0, &c), EX_NOINPUT);
}

/* Is the path that a configuration has given back by its text? */
static void check_back(const struct config *c, const char *from) {
    char text[CONFIG_TEXT_MAX];
    struct config back;
    config_text(c, text);
    if (config_parse(text, "written", &back)) fail_msg("%s: %s", from, error_message());
    if (memcmp(c, &back, sizeof back) != 0) fail_msg("%s: another one comes back from\n%s", from, text);
}

/* A path by --set: it is this very one, or it is refused by the name of its key. Returns whether it passed.
 */
static int check_set_path(const char *path) {
    char set[3 * CONFIG_PATH_MAX], quoted[2 * CONFIG_PATH_MAX + 1];
    const char *sets[] = {"data.path=x", set};
    size_t n = 0;
    int passed[2];
    for (int by_quotes = 0; by_quotes < 2; by_quotes++) {
        struct config c;
        for (const char *from = path; *from; from++) {
            if (from == path) n = 0;
            if (*from == '\'') quoted[n++] = '\'';
            quoted[n++] = *from;
        }
        quoted[n] = '\0';
        snprintf(set, sizeof set, by_quotes ? "output.path='%s'" : "output.path=%s",
                 by_quotes ? quoted : path);
        int code = config_load(NULL, sets, 2, &c);
        passed[by_quotes] = !code;
        if (code && code != EX_CONFIG) fail_msg("%s: %d", set, code);
        if (code && !strstr(error_message(), "output.path")) fail_msg("%s: %s", set, error_message());
        int is_quoted = path[0] == '"' || path[0] == '\''; /* by the user */
        if (!code && (by_quotes || !is_quoted)) assert_string_equal(c.output_path, path);
        if (!code) check_back(&c, set);
    }
    return passed[1];
}

static void test_paths(void **state) {
    (void)state;
    static const char *const good[] = {"a b",
                                       " a",
                                       "a ",
                                       "'",
                                       "''",
                                       "it's",
                                       "\"",
                                       "#",
                                       "a #b",
                                       "a: b",
                                       ": ",
                                       "a:",
                                       "\\",
                                       "a\\nb",
                                       "null",
                                       "yes",
                                       "12",
                                       "1.5",
                                       "-",
                                       "- a",
                                       "---",
                                       "...",
                                       "?",
                                       "[a]",
                                       "{a}",
                                       "*a",
                                       "&a",
                                       "!a",
                                       "|",
                                       ">",
                                       "%a",
                                       "@a",
                                       "`a",
                                       "a, b",
                                       "n\xc3\xa4",
                                       "\xe6\x97\xa5\xe6\x9c\xac",
                                       "\xf0\x9f\x98\x80",
                                       "\xc2\xa0"};
    static const char *const bad[] = {"~x",
                                      "nl\nx",
                                      "a\tb",
                                      "a\rb",
                                      "\x01",
                                      "\x7f",
                                      "\xc2\x85",
                                      "\xff",
                                      "\xff\xfe"
                                      "ab",
                                      "a\xc3",
                                      "\xe2\x80\xa8",
                                      "\xef\xbb\xbf"
                                      "a"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        if (!check_set_path(good[i])) fail_msg("\"%s\" is refused: %s", good[i], error_message());
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (check_set_path(bad[i])) fail_msg("\"%s\" is not refused", bad[i]);
    }
    /* any that pieces of these make */
    uint32_t random = 1;
    for (uint32_t k = 0; k < 1500; k++) {
        char path[64] = "";
        for (uint32_t left = 1 + k % 4; left; left--) {
            random = random * 1664525u + 1013904223u;
            uint32_t at = (random >> 8) % (sizeof good / sizeof *good + sizeof bad / sizeof *bad / 2);
            size_t n = sizeof good / sizeof *good;
            strcat(path, at < n ? good[at] : bad[2 * (at - n)]);
        }
        check_set_path(path);
    }
    char longest[CONFIG_PATH_MAX + 1];
    memset(longest, '\'', sizeof longest - 1);
    longest[CONFIG_PATH_MAX] = '\0';
    assert_false(check_set_path(longest));
    assert_non_null(strstr(error_message(), "1023"));
    assert_true(check_set_path(longest + 1));
}

/* The same of every character that YAML's escapes can write, and a few in a row. */
static void test_characters(void **state) {
    (void)state;
    for (uint32_t i = 1; i < 0x110000; i++) {
        /* the Latin ones, line ends and marks, the borders of surrogates and planes; the others in leaps */
        int is_special = i < 0x300 || (i & 0x1fff00) == 0x2000 || i >> 4 == 0xd7f || i >> 4 == 0xd80 ||
                         i >> 4 == 0xe00 || (i & 0xffff) > 0xffe0;
        if (!is_special && i % 4093 != 0 && i >> 4 != 0xfef) continue;
        char text[256], name[32];
        struct config c;
        snprintf(name, sizeof name, "U+%04X", (unsigned)i);
        snprintf(text, sizeof text, "data: {path: x}\noutput: {path: \"a\\U%08xb\"}\n", (unsigned)i);
        int code = config_parse(text, "x.yaml", &c);
        if (!code) {
            assert_true(strlen(c.output_path) >= 3);
            check_back(&c, name);
        } else if (code != EX_CONFIG) {
            fail_msg("%s: %d, %s", name, code, error_message());
        } else if ((i < 0x20 || i == 0x7f) && !strstr(error_message(), "output.path")) {
            fail_msg("%s: %s", name, error_message());
        }
        if ((i < 0x20 || (i >= 0x7f && i < 0xa0)) != (code && i < 0xa0)) fail_msg("%s: %d", name, code);
    }
}

static void test_examples(void **state) {
    (void)state;
    static const char *const names[] = {"demo", "ml-100k", "ml-1m", "ml-20m", "gowalla", "ml-1m-recvae"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        struct config c;
        snprintf(path, sizeof path, "jobs/configs/%s.yaml", names[i]);
        if (config_load(path, NULL, 0, &c)) fail_msg("%s", error_message());
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_contract),  cmocka_unit_test(test_defaults),
                                       cmocka_unit_test(test_mistakes),  cmocka_unit_test(test_set),
                                       cmocka_unit_test(test_examples),  cmocka_unit_test(test_paths),
                                       cmocka_unit_test(test_characters)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
