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

/* Writes the text as a file and loads it. */
static int load_text(const char *text, size_t length, const char *const *sets, int n_sets, struct config *c) {
    char path[] = "/tmp/vaecf-config-XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0 && write(file, text, length) == (ssize_t)length);
    close(file);
    int code = config_load(path, sets, n_sets, c);
    unlink(path);
    return code;
}

/* The value of a key, in a file or as a --set: EX_CONFIG, and the message has the word, or what comes of it.
 */
static void check_value(const char *key, const char *value, const char *want, const char *word) {
    char set[256], text[512], got[CONFIG_TEXT_MAX], path[] = "/tmp/vaecf-config-XXXXXX";
    int file = mkstemp(path), length = snprintf(text, sizeof text, "# x\n%s: %s\n", key, value);
    const char *sets[] = {set};
    assert_true(file >= 0 && write(file, text, (size_t)length) == length);
    close(file);
    snprintf(set, sizeof set, "%s=%s", key, value);
    for (int by_set = 0; by_set < 2; by_set++) {
        int code = config_value(by_set ? NULL : path, sets, by_set, key, got);
        if (code != (want ? 0 : EX_CONFIG)) fail_msg("%s: %d, %s", set, code, error_message());
        if (want && strcmp(got, want) != 0) fail_msg("%s: %s, not %s", set, got, want);
        if (!want && !strstr(error_message(), word)) fail_msg("%s: %s", set, error_message());
        if (!want && !by_set && !strstr(error_message(), ":2: ")) fail_msg("%s: %s", set, error_message());
    }
    unlink(path);
}

static void test_booleans(void **state) {
    (void)state;
    static const char *const yes[] = {"y",    "Y",  "yes", "Yes", "YES",   "true",   "True",
                                      "TRUE", "on", "On",  "ON",  "'yes'", "\"on\"", "'True'"},
                             *const no[] = {"n",     "N",     "no",  "No",  "NO",  "false",
                                            "False", "FALSE", "off", "Off", "OFF", "'no'"},
                             *const bad[] = {"1", "0", "tRUE", "yep", "''", "nO", "truee", "0.0", "t"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) check_value("model.layer_norm", yes[i], "true", "");
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) check_value("model.layer_norm", no[i], "false", "");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        check_value("model.layer_norm", bad[i], NULL, "true or false");
    }
    check_value("model.layer_norm", "null", NULL, "has no value");
}

static void test_numbers(void **state) {
    (void)state;
    static const struct {
        const char *key, *value, *want;
    } good[] = {
        {"train.learning_rate", "1e-3", "0.001"},
        {"train.learning_rate", "'1e-3'", "0.001"},
        {"train.learning_rate", "1.0e-05", "1.0e-05"},
        {"train.learning_rate", "\"0.5\"", "0.5"},
        {"train.learning_rate", ".5", "0.5"},
        {"train.learning_rate", "5.", "5"},
        {"train.learning_rate", "+1", "1"},
        {"train.learning_rate", "1E2", "100"},
        {"train.learning_rate", "5.e-1", "0.5"},
        {"train.learning_rate", "1_0.5", "10.5"},
        {"train.learning_rate", "00.5", "0.5"},
        {"model.popularity_power", "-.5", "-0.5"},
        {"train.weight_decay", "-0.0", "-0"},
        {"train.epochs", "1_000", "1000"},
        {"train.epochs", "+7", "7"},
        {"train.epochs", "500.0", "500"},
        {"train.epochs", "5e2", "500"},
        {"train.epochs", "1.2e+3", "1200"},
        {"train.epochs", "0", "0"},
        {"train.epochs", "0e0", "0"},
        {"train.epochs", "'12'", "12"},
        {"train.seed", "9223372036854775807", "9223372036854775807"},
        {"train.seed", "1e15", "1000000000000000"},
        {"model.hidden", "[6e2, 200.0, '1_0']", "[600, 200, 10]"},
        {"model.hidden", "[]", "[]"},
        {"train.loss_scale", "'dynamic'", "dynamic"},
        {"train.loss_scale", "1e3", "1000"},
        {"device", "'cpu'", "cpu"},
    };
    static const struct {
        const char *key, *value, *word;
    } bad[] = {
        {"train.learning_rate", "inf", "finite"},
        {"train.learning_rate", ".inf", "finite"},
        {"train.learning_rate", "-.INF", "finite"},
        {"train.learning_rate", ".nan", "finite"},
        {"train.learning_rate", "NaN", "finite"},
        {"train.learning_rate", "Infinity", "finite"},
        {"train.learning_rate", "1e999", "too large"},
        {"train.learning_rate", "0x10", "decimal"},
        {"train.learning_rate", "1,5", "not a number"},
        {"train.learning_rate", "1:30", "not a number"},
        {"train.learning_rate", "1e", "not a number"},
        {"train.learning_rate", ".", "not a number"},
        {"train.learning_rate", "e5", "not a number"},
        {"train.learning_rate", "1 2", "not a number"},
        {"train.learning_rate", "--1", "not a number"},
        {"train.learning_rate", "1__0", "not a number"},
        {"train.learning_rate", "_1", "not a number"},
        {"train.learning_rate", "1_", "not a number"},
        {"train.learning_rate", "1._5", "not a number"},
        {"train.learning_rate", "''", "not a number"},
        {"train.learning_rate", "true", "not a number"},
        {"train.learning_rate", "1e-400", "not in (0, inf)"},
        {"train.epochs", "1.5", "whole"},
        {"train.epochs", "15e-1", "whole"},
        {"train.epochs", "010", "octal"},
        {"train.epochs", "-01", "octal"},
        {"train.epochs", "0o10", "decimal"},
        {"train.epochs", "0b1", "decimal"},
        {"train.epochs", "2e7", "not in"},
        {"train.epochs", "yes", "whole"},
        {"train.epochs", "~", "no value"},
        {"train.seed", "9223372036854775808", "too large"},
        {"train.seed", "1e18", "too large"},
        {"train.seed", "99999999999999999999", "too large"},
        {"model.hidden", "[010]", "octal"},
        {"model.hidden", "[600.5]", "whole"},
        {"model.hidden", "[[600]]", "whole"},
        {"train.loss_scale", "Dynamic", "not a number"},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        check_value(good[i].key, good[i].value, good[i].want, "");
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        check_value(bad[i].key, bad[i].value, NULL, bad[i].word);
    }
    char text[CONFIG_TEXT_MAX];
    assert_int_equal(config_value(NULL, NULL, 0, "train.epoch", text), EX_CONFIG);
    assert_int_equal(config_value(NULL, NULL, 0, "train", text), EX_CONFIG);
    assert_int_equal(config_value(NULL, NULL, 0, "data.path", text), EX_CONFIG);
}

/* One configuration as different programs write it. */
static void test_writers(void **state) {
    (void)state;
    static const char *const texts[] = {
        /* PyYAML, default_flow_style None, False, True */
        "data: {path: data/x}\nmodel:\n  hidden: [600, 300]\n  layer_norm: true\noutput: {path: 'it''s "
        "#1'}\ntrain:\n"
        "  early_stopping: {metric: recall@20, patience: 5}\n  epochs: 20.0\n  epsilon: 1.0e-08\n"
        "  kl: {anneal_steps: 1000, cap: 1}\n  learning_rate: 1e-3\n",
        "data:\n  path: data/x\nmodel:\n  hidden:\n  - 600\n  - 300\n  layer_norm: true\noutput:\n  path: "
        "'it''s #1'\n"
        "train:\n  early_stopping:\n    metric: recall@20\n    patience: 5\n  epochs: 20.0\n  epsilon: "
        "1.0e-08\n  kl:\n"
        "    anneal_steps: 1000\n    cap: 1\n  learning_rate: 1e-3\n",
        "{data: {path: data/x}, model: {hidden: [600, 300], layer_norm: true}, output: {path: 'it''s\n      "
        "#1'}, "
        "train: {\n    early_stopping: {metric: recall@20, patience: 5}, epochs: 20.0, epsilon: 1.0e-08,\n"
        "    kl: {anneal_steps: 1000, cap: 1}, learning_rate: 1e-3}}\n",
        /* ruamel.yaml of YAML 1.2 with a document's marks; Go's writer */
        "%YAML 1.1\n---\ndata:\n  path: data/x # here\nmodel:\n  hidden:\n    - 600\n    - 300\n  "
        "layer_norm: yes\n"
        "output:\n  path: \"it's #1\"\n\n# more\ntrain:\n  early_stopping:\n    metric: recall@20\n    "
        "patience: 5\n"
        "  epochs: 20\n  epsilon: 1e-8\n  kl:\n    anneal_steps: 1_000\n    cap: 1.0\n  learning_rate: "
        "0.001\n...\n",
        "data:\n    path: data/x\nmodel:\n    hidden:\n        - 600\n        - 300\n    layer_norm: "
        "\"on\"\noutput:\n"
        "    path: 'it''s #1'\ntrain:\n    early_stopping:\n        metric: recall@20\n        patience: 5\n"
        "    epochs: 2e+01\n    epsilon: 1e-08\n    kl:\n        anneal_steps: 1000\n        cap: 1\n"
        "    learning_rate: 0.001\nparallel: null\nmodel.dropout: 0.5\n",
        /* JSON, in a line, and with tabs */
        "{\"data\":{\"path\":\"data\\/x\"},\"model\":{\"hidden\":[600,300],\"layer_norm\":true},\"output\":"
        "{\"path\":\"it's "
        "#1\"},\"train\":{\"early_stopping\":{\"metric\":\"recall@20\",\"patience\":5},\"epochs\":20.0,"
        "\"epsilon\":1e-08,\"kl\":{\"anneal_steps\":1000,\"cap\":1},\"learning_rate\":0.001}}",
        "{\n\t\"data\": {\n\t\t\"path\": \"data/x\"\n\t},\n\t\"model\": {\n\t\t\"hidden\": "
        "[\n\t\t\t600,\n\t\t\t300\n\t\t],\n"
        "\t\t\"layer_norm\": true\n\t},\n\t\"output\": {\"path\": \"it\\u0027s #1\"},\n\t\"train\": "
        "{\"early_stopping\": "
        "{\"metric\": \"recall@20\", \"patience\": 5}, \"epochs\": 20,\n\t\"epsilon\": 1E-8, \"kl\": "
        "{\"anneal_steps\": 1000, \"cap\": 1}, \"learning_rate\": 1e-3}\n}\n",
    };
    struct config want, c;
    config_defaults(&want);
    snprintf(want.data_path, sizeof want.data_path, "data/x");
    snprintf(want.output_path, sizeof want.output_path, "it's #1");
    want.model.n_hidden = 2;
    want.model.hidden[1] = 300;
    want.model.layer_norm = 1;
    want.train.early_stopping.metric = (struct metric){METRIC_RECALL, 20};
    want.train.early_stopping.patience = 5;
    want.train.epochs = 20;
    want.train.kl.anneal_steps = 1000;
    want.train.kl.cap = 1;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        /* as it is; a byte order mark, CRLF, CR; UTF-16 of both kinds */
        for (int form = 0; form < 6; form++) {
            static char text[8192];
            size_t n = 0, unit = form < 4 ? 1 : 2;
            if (form == 1) n = (size_t)sprintf(text, "\xef\xbb\xbf");
            if (form == 4) memcpy(text, "\xff\xfe", n = 2);
            if (form == 5) memcpy(text, "\xfe\xff", n = 2);
            memset(text + n, 0, sizeof text - n);
            for (const char *from = texts[i]; *from; from++) {
                if (*from == '\n' && form == 2) text[n++] = '\r';
                text[n + (form == 5)] = *from == '\n' && form == 3 ? '\r' : *from;
                n += unit;
            }
            if (load_text(text, n, NULL, 0, &c)) fail_msg("%zu, %d: %s", i, form, error_message());
            if (memcmp(&c, &want, sizeof c) != 0) fail_msg("%zu, %d: read as another one", i, form);
        }
    }
}

/* Forms that are refused, with the line and what to do; and that are a configuration which sets nothing. */
static void test_forms(void **state) {
    (void)state;
    static const struct {
        const char *text, *word;
        int length;
    } bad[] = {
        {"train: &t {epochs: 3}\n", ":1: anchors", 0},
        {"train:\n  <<: {epochs: 3}\n", ":2: merge keys", 0},
        {"train:\n  epochs: *e\n", ":2: anchors", 0},
        {"train: !!map {epochs: 3}\n", ":1: tags", 0},
        {"train:\n  epochs: !!int 3\n", ":2: tags", 0},
        {"train: {epochs: 3}\n---\ntrain: {epochs: 4}\n", ":2: a second YAML document", 0},
        {"train: {epochs: 3}\n...\n---\n", "a second YAML document", 0},
        {"train: {epochs: 3}\nmodel: {latent: 3}\ntrain: {seed: 4}\n", ":3: train: given twice", 0},
        {"train: {epochs: 3, epochs: 3}\n", ":1: train.epochs: given twice", 0},
        {"train: {epochs: 3}\ntrain.epochs: 4\n", ":2: train.epochs: given twice", 0},
        {"train:\n\tepochs: 3\n", ":2: not valid YAML", 0},
        {"train:\n  seed: 3\n\tepochs: 3\n", ":3: not valid YAML", 0},
        {"\ttrain: 3\n", "a tab: want blanks", 0},
        {"train:\r  epochs: x\r", ":2: train.epochs", 0},
        {"train:\r\n  epochs: x\r\n", ":2: train.epochs", 0},
        {"train:\n  epochs: 3\n# \xff\n", ":3: not valid YAML", 0},
        {"train:\r  epochs: 3\r# \xff\r", ":3: not valid YAML", 0},
        {"# n\xe4mlich\n", "want UTF-8", 0},
        {"train: {epochs: 3}\n\0\n", ":2: not valid YAML", 21},
        {"train: {epochs: \"3\\0\"}\n", "NUL", 0},
        {"epochs = 3\n", "keys with values", 0},
        {"[train]\nepochs = 3\n", ":", 0},
    };
    static const char *const nothing[] = {"",
                                          "\n",
                                          "# nothing\n",
                                          "---\n",
                                          "---\n...\n",
                                          "null\n",
                                          "{}\n",
                                          "\xef\xbb\xbf",
                                          "~",
                                          "train:\nmodel:\n",
                                          "%YAML 1.1\n---\n",
                                          "train: ~\n",
                                          "train: {kl: null}\n",
                                          " \r\n"};
    const char *const sets[] = {"data.path=data/x", "output.path=results/x"};
    struct config want, c;
    config_parse(paths, "x.yaml", &want);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        size_t length = bad[i].length ? (size_t)bad[i].length : strlen(bad[i].text);
        int code = load_text(bad[i].text, length, sets, 2, &c);
        if (code != EX_CONFIG || !strstr(error_message(), bad[i].word)) {
            fail_msg("%s: %d, %s", bad[i].text, code, code ? error_message() : "");
        }
    }
    for (size_t i = 0; i < sizeof nothing / sizeof *nothing; i++) {
        if (load_text(nothing[i], strlen(nothing[i]), sets, 2, &c)) fail_msg("%zu: %s", i, error_message());
        assert_memory_equal(&c, &want, sizeof c);
    }
}

/* ~ and $ in paths. */
static void test_expansion(void **state) {
    (void)state;
    static const struct {
        const char *path, *want;
    } good[] = {
        {"~/x", "/h/x"},      {"~", "/h"},
        {"~/", "/h/"},        {"$V_A/x", "/a b/x"},
        {"${V_A}x", "/a bx"}, {"/s/$V_A$V_A", "/s//a b/a b"},
        {"x$$y", "x$y"},      {"x$$$$", "x$$"},
        {"./~x", "./~x"},     {"./$$x", "./$x"},
        {"a~b", "a~b"},       {"a/~", "a/~"},
        {"x$$V_A", "x$V_A"},  {"$V_D/x", "/1$V_A/x"},
    };
    static const struct {
        const char *path, *word;
    } bad[] = {
        {"$V_UNSET/x", "$V_UNSET is not set"},
        {"/s/${V_EMPTY}/x", "$V_EMPTY is not set"},
        {"~user/x", "~/ alone"},
        {"~x", "~/ alone"},
        {"/s/$", "or $$ for a $"},
        {"/s/$1", "or $$ for a $"},
        {"/s/$(id)", "or $$ for a $"},
        {"/s/${V_A", "or $$ for a $"},
        {"/s/${V_A:-x}", "or $$ for a $"},
        {"/s/${}", "or $$ for a $"},
        {"$$x", "./ before it"},
        {"$V_B/x", "./ before it"},
        {"$V_LATIN/x", "UTF-8"},
        {"$V_LINES/x", "control"},
        {"$V_LONG$V_LONG", "1023"},
    };
    char home[1024], longest[600], line[128];
    snprintf(home, sizeof home, "%s", getenv("HOME") ? getenv("HOME") : "");
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    setenv("HOME", "/h", 1);
    setenv("V_A", "/a b", 1);
    setenv("V_B", "~", 1);
    setenv("V_D", "/1$V_A", 1);
    setenv("V_EMPTY", " ", 1);
    setenv("V_LATIN", "n\xe4h", 1);
    setenv("V_LINES", "a\nb", 1);
    setenv("V_LONG", longest, 1);
    unsetenv("V_UNSET");
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct config c, back;
        char text[CONFIG_TEXT_MAX];
        check_value("output.path", strcmp(good[i].path, "~") == 0 ? "'~'" : good[i].path, good[i].want, "");
        /* and written so that it is the same wherever it is read again, by us or as a file */
        snprintf(line, sizeof line, "data: {path: x}\noutput: {path: '%s'}\n", good[i].path);
        assert_int_equal(load_text(line, strlen(line), NULL, 0, &c), 0);
        config_text(&c, text);
        setenv("V_A", "other", 1);
        assert_int_equal(load_text(text, strlen(text), NULL, 0, &back), 0);
        assert_memory_equal(&c, &back, sizeof c);
        assert_int_equal(config_parse(text, "written", &back), 0);
        assert_memory_equal(&c, &back, sizeof c);
        setenv("V_A", "/a b", 1);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        check_value("output.path", bad[i].path, NULL, bad[i].word);
        check_value("output.path", bad[i].path, NULL, "output.path");
    }
    unsetenv("HOME");
    check_value("data.path", "~/x", NULL, "$HOME is not set");
    setenv("HOME", home, 1);
    /* a checkpoint of before has a path as it stands */
    struct config c;
    assert_int_equal(config_parse("data: {path: $V_UNSET}\noutput: {path: '~'}\n", "old", &c), 0);
    assert_string_equal(c.data_path, "$V_UNSET");
    assert_string_equal(c.output_path, "~");
}

/* What config_text writes, read and written again by PyYAML, where that is there. */
static void test_pyyaml(void **state) {
    (void)state;
    static const char program[] = "import sys, yaml\n"
                                  "d = yaml.safe_load(open(sys.argv[1] + '/0'))\n"
                                  "n = 1\n"
                                  "for sort in True, False:\n"
                                  "    for flow in None, False, True:\n"
                                  "        for more in {}, {'explicit_start': True, 'explicit_end': True, "
                                  "'version': (1, 1)}, {'width': 20},"
                                  " {'default_style': '\"'}:\n"
                                  "            yaml.safe_dump(d, open(sys.argv[1] + '/%d' % n, 'w'), "
                                  "default_flow_style=flow, sort_keys=sort, **more)\n"
                                  "            n += 1\n";
    if (system("/usr/bin/python3 -c 'import yaml' 2>/dev/null")) skip();
    char directory[] = "/tmp/vaecf-config-XXXXXX", path[128], command[256], text[CONFIG_TEXT_MAX];
    struct config c, back;
    assert_non_null(mkdtemp(directory));
    config_defaults(&c);
    snprintf(c.data_path, sizeof c.data_path, "/scratch/it's n\xc3\xa4her: \xf0\x9f\x98\x80 $x #1");
    snprintf(c.output_path, sizeof c.output_path, "12");
    c.model.n_hidden = c.model.hidden[0] = 0;
    c.train.learning_rate = 1e-5;
    c.train.kl.cap = 1.0 / 3;
    c.train.weight_decay = 1e-300;
    c.train.epochs = 0;
    c.train.seed = INT64_MAX;
    for (int i = 0; i < 25; i++) {
        snprintf(path, sizeof path, "%s/%d", directory, i);
        if (i == 0) {
            FILE *file = fopen(path, "w");
            assert_non_null(file);
            config_text(&c, text);
            fputs(text, file);
            fclose(file);
            snprintf(path, sizeof path, "%s/program", directory);
            file = fopen(path, "w");
            assert_non_null(file);
            fputs(program, file);
            fclose(file);
            snprintf(command, sizeof command, "/usr/bin/python3 %s %s", path, directory);
            assert_int_equal(system(command), 0);
            unlink(path);
            snprintf(path, sizeof path, "%s/0", directory);
        }
        if (i % 4 == 0 && i > 0) { /* all is quoted, with tags: refused, or the same */
            int code = config_load(path, NULL, 0, &back);
            if (code && !strstr(error_message(), "tags are not supported")) fail_msg("%s", error_message());
            if (!code) assert_memory_equal(&c, &back, sizeof c);
        } else {
            if (config_load(path, NULL, 0, &back)) fail_msg("%s", error_message());
            assert_memory_equal(&c, &back, sizeof c);
        }
        unlink(path);
    }
    rmdir(directory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contract),   cmocka_unit_test(test_defaults), cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_set),        cmocka_unit_test(test_examples), cmocka_unit_test(test_paths),
        cmocka_unit_test(test_characters), cmocka_unit_test(test_booleans), cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_writers),    cmocka_unit_test(test_forms),    cmocka_unit_test(test_expansion),
        cmocka_unit_test(test_pyyaml)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
