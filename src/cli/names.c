/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/names.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/assert.h"
#include "cli/cli_limits.h"

static const char *const adjectives[] = {
    "able",   "agile",  "amber",  "ample",  "apt",    "avid",   "bold",   "brave",   "breezy",
    "brisk",  "calm",   "candid", "clear",  "clever", "cosy",   "crisp",  "curious", "dapper",
    "daring", "deft",   "eager",  "early",  "easy",   "fair",   "fleet",  "fond",    "frank",
    "fresh",  "gentle", "glad",   "golden", "grand",  "handy",  "happy",  "hardy",   "hearty",
    "honest", "humble", "jolly",  "keen",   "kind",   "lively", "loyal",  "lucid",   "lucky",
    "mellow", "merry",  "mighty", "mild",   "modest", "neat",   "nimble", "noble",   "patient",
    "placid", "plucky", "polite", "prime",  "proud",  "quick",  "quiet",  "rapid",   "ready",
    "robust", "rosy",   "sage",   "serene", "sharp",  "silver", "sleek",  "smart",   "snug",
    "sober",  "solid",  "spry",   "steady", "stout",  "sturdy", "subtle", "sunny",   "sure",
    "swift",  "tidy",   "tough",  "trim",   "true",   "vivid",  "warm",   "wary",    "wise",
    "witty",  "zesty",
};

static const char *const nouns[] = {
    "alder",  "badger", "beaver", "birch",  "bison",    "bream",   "cedar",    "chough",  "cobra",
    "condor", "coot",   "crane",  "curlew", "dingo",    "dipper",  "dotterel", "dunlin",  "eider",
    "elk",    "elm",    "falcon", "fern",   "ferret",   "finch",   "fox",      "gannet",  "gecko",
    "goby",   "grebe",  "grouse", "gull",   "hare",     "hawk",    "hazel",    "heron",   "hoopoe",
    "ibex",   "ibis",   "jackal", "jay",    "kelp",     "kestrel", "kite",     "lapwing", "lark",
    "lemur",  "linnet", "lynx",   "magpie", "maple",    "marten",  "merlin",   "mink",    "mole",
    "moose",  "newt",   "oak",    "orca",   "osprey",   "otter",   "owl",      "pine",    "pipit",
    "plover", "puffin", "quail",  "raven",  "redstart", "robin",   "rook",     "rowan",   "sable",
    "seal",   "shrew",  "siskin", "skua",   "snipe",    "sparrow", "spruce",   "squid",   "stoat",
    "stork",  "swan",   "swift",  "teal",   "tern",     "thrush",  "trout",    "vole",    "wagtail",
    "walrus", "weasel", "wigeon", "willow", "wolf",     "wren",    "yew",
};

uint64_t names_count(void) {
    static_assert(ARRAY_SIZE(adjectives) > 0, "there are names");
    static_assert(ARRAY_SIZE(nouns) > 0, "there are names");
    return ARRAY_SIZE(adjectives) * ARRAY_SIZE(nouns);
}

void names_make(uint64_t number, char name[NAMES_SIZE]) {
    ASSERT(name);
    uint64_t round = number / names_count();
    uint64_t rest = number % names_count();
    const char *adjective = adjectives[rest % ARRAY_SIZE(adjectives)];
    const char *noun = nouns[rest / ARRAY_SIZE(adjectives)];
    int size = 0;
    if (round == 0) {
        size = snprintf(name, NAMES_SIZE, "%s-%s", adjective, noun);
    } else {
        size =
            snprintf(name, NAMES_SIZE, "%s-%s-%u", adjective, noun, (unsigned)(round % 1000) + 1);
    }
    ASSERT(size > 0 && size < NAMES_SIZE);
}

enum kelpie_status names_draw(uint64_t *ret_number, struct kelpie_error *err) {
    ASSERT(ret_number);
    uint64_t random = 0;
    /* So few bytes come whole, and without waiting once the system has started. */
    if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random)) {
        return error_set_os(err, errno, "cannot draw a name");
    }
    *ret_number = random % names_count();
    ASSERT(*ret_number < names_count());
    return KELPIE_OK;
}

enum kelpie_status names_try(const char *given, names_maker *make, void *context,
                             struct kelpie_error *err) {
    ASSERT(make);
    ASSERT(err);
    if (given) {
        return make(context, given, err);
    }
    uint64_t number = 0;
    TRY(names_draw(&number, err));
    enum kelpie_status status = KELPIE_OK;
    for (size_t i = 0; i < CLI_NAME_TRY_COUNT_MAX; i++) {
        char name[NAMES_SIZE];
        names_make(number + i, name);
        status = make(context, name, err);
        if (status != KELPIE_BAD_CONFIG || strcmp(err->field, "name") != 0) {
            break;
        }
    }
    return status;
}
