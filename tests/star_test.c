/* Where rank 0 listens for the others. What the connections then bear is in tests/watchdog_test.sh. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "star.h"

/* A place from "MACHINE ADDRESS/BITS ADDRESS/BITS ...". */
static struct star_place place(const char *text) {
    struct star_place place = {0};
    char rest[256], *word;
    snprintf(rest, sizeof rest, "%s", text);
    snprintf(place.machine, sizeof place.machine, "%s", strtok(rest, " "));
    while ((word = strtok(NULL, " "))) {
        char *slash = strchr(word, '/');
        int bits;
        assert_non_null(slash);
        assert_int_equal(sscanf(slash, "/%d", &bits), 1);
        *slash = 0;
        assert_int_equal(inet_aton(word, &place.at[place.n_addresses].address), 1);
        place.at[place.n_addresses++].mask.s_addr = htonl((in_addr_t)(UINT64_C(0xffffffff) << (32 - bits)));
    }
    return place;
}

/* The candidates are these: "ADDRESS ADDRESS ...". */
static void assert_candidates(const char *want, const char *const *text, int n) {
    struct star_place places[8];
    struct in_addr candidate[STAR_ADDRESSES_MAX];
    char got[256] = "";
    for (int i = 0; i < n; i++) places[i] = place(text[i]);
    int found = star_candidates(places, n, candidate);
    for (int i = 0; i < found; i++) {
        size_t length = strlen(got);
        snprintf(got + length, sizeof got - length, "%s%s", i ? " " : "", inet_ntoa(candidate[i]));
    }
    assert_string_equal(got, want);
}
#define assert_listens(want, ...)                                                                            \
    assert_candidates(want, (const char *const[]){__VA_ARGS__},                                              \
                      sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *))

static void one_machine(void **state) {
    (void)state;
    assert_listens("127.0.0.1", "a 10.0.0.1/24", "a 10.0.0.1/24");
    assert_listens("127.0.0.1", "a", "a");
}

static void a_common_network_first(void **state) {
    (void)state;
    assert_listens("10.1.0.1 192.168.7.1", "a 192.168.7.1/24 10.1.0.1/16", "a 192.168.7.1/24 10.1.0.1/16",
                   "b 192.168.8.2/24 10.1.3.2/16");
    assert_listens("10.0.0.1 10.1.0.1", "a 10.0.0.1/24 10.1.0.1/24", "b 10.1.0.2/24 10.0.0.2/24");
    /* of all machines, not of some */
    assert_listens("10.2.0.1 10.1.0.1", "a 10.1.0.1/24 10.2.0.1/24", "b 10.1.0.2/24 10.2.0.2/24",
                   "c 10.2.0.3/24");
}

static void networks_apart(void **state) {
    (void)state;
    assert_listens("10.1.0.1 10.2.0.1", "a 10.1.0.1/24 10.2.0.1/24", "b 10.3.0.1/24");
    assert_listens("10.1.0.1", "a 10.1.0.1/24", "b");
    assert_listens("", "a", "b 10.1.0.1/24");
}

/* As the bridges of containers have: the same on every machine, and no way to another. */
static void the_same_address_elsewhere_last(void **state) {
    (void)state;
    assert_listens("10.0.0.1 172.17.0.1", "a 172.17.0.1/16 10.0.0.1/24", "b 172.17.0.1/16 10.0.0.2/24");
    assert_listens("10.0.0.1 172.17.0.1", "a 172.17.0.1/16 10.0.0.1/24", "b 172.17.0.1/16 10.9.0.2/24");
    /* of rank 0's own machine it is no wonder */
    assert_listens("10.0.0.1", "a 10.0.0.1/24", "a 10.0.0.1/24", "b 10.0.0.2/24");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_machine),
        cmocka_unit_test(a_common_network_first),
        cmocka_unit_test(networks_apart),
        cmocka_unit_test(the_same_address_elsewhere_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
