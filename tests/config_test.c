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
        {"model: {layer_norm: maybe}\n", ":3", "no, yes"},
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_contract), cmocka_unit_test(test_defaults),
                                       cmocka_unit_test(test_mistakes), cmocka_unit_test(test_set),
                                       cmocka_unit_test(test_examples)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
