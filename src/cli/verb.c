/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "cli/verb.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/suggest.h"
#include "kelpie_store.h"

static const struct option_spec specs[] = {
    {
        .name = "json",
        .help = "print one JSON array, an object for each VM",
        .set = option_set_flag,
        .offset = offsetof(struct verb_options, json),
    },
};
const struct option_table verb_option_table = {specs, ARRAY_SIZE(specs)};

/* What came of one VM. */
struct result {
    bool done;
    enum kelpie_status status;
    struct kelpie_error err;
    struct verb_note note;
};

/* What the threads share. Names, options and verb are not written to. */
struct work {
    const struct verb *verb;
    const struct verb_options *options;
    const char *const *names;
    size_t count;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a result is done */
    size_t next;            /* the first that no thread has taken */
    struct result *results;
};

static void work_check(const struct work *work) {
    ASSERT(work->verb && work->verb->apply);
    ASSERT(work->next <= work->count);
    ASSERT(work->results);
}

static void work_lock(struct work *work) {
    int result = pthread_mutex_lock(&work->lock);
    ASSERT(result == 0);
    ASSERT(work->next <= work->count);
}

static void work_unlock(struct work *work) {
    int result = pthread_mutex_unlock(&work->lock);
    ASSERT(result == 0);
    ASSERT(work->count > 0);
}

/* Applies the verb to the next VM. False: there is none. */
static bool work_step(struct work *work) {
    work_lock(work);
    work_check(work);
    size_t index = work->next;
    work->next += index < work->count ? 1 : 0;
    work_unlock(work);
    if (index == work->count) {
        return false;
    }
    struct result *result = &work->results[index];
    result->status =
        work->verb->apply(work->names[index], work->options, &result->note, &result->err);
    work_lock(work);
    result->done = true;
    int broadcast = pthread_cond_broadcast(&work->changed);
    ASSERT(broadcast == 0);
    work_unlock(work);
    return true;
}

static void *work_main(void *argument) {
    struct work *work = argument;
    ASSERT(work);
    ASSERT(work->count > 0);
    while (work_step(work)) {
    }
    return NULL;
}

static void await_result(struct work *work, size_t index) {
    ASSERT(index < work->count);
    work_lock(work);
    while (!work->results[index].done) {
        int result = pthread_cond_wait(&work->changed, &work->lock);
        ASSERT(result == 0);
    }
    work_unlock(work);
}

/* ---- Telling ---------------------------------------------------------------------------------- */

static void say(const char *name, const struct kelpie_error *err) {
    ASSERT(name);
    ASSERT(err->status != KELPIE_OK);
    struct kelpie_error told = *err;
    /* Most of the library's messages say which VM it is about. */
    if (!strstr(err->message, name)) {
        char message[sizeof(told.message)];
        memcpy(message, err->message, sizeof(message));
        snprintf(told.message, sizeof(told.message), "%.64s: %.900s", name, message);
    }
    output_error(NULL, &told);
}

void verb_hint_vms(const char *name) {
    struct kelpie_vm_info *list = NULL;
    size_t count = 0;
    ASSERT(name);
    struct suggestion suggestion = suggestion_init(name, strlen(name));
    if (kelpie_vm_list(NULL, &list, &count, NULL) == KELPIE_OK) {
        for (size_t i = 0; i < count; i++) {
            suggestion_offer(&suggestion, list[i].name);
        }
    }
    ASSERT(!suggestion.best || list);
    if (suggestion.best) {
        output_hint("did you mean %s? 'kelpie ls -a' lists the VMs", suggestion.best);
    } else {
        output_hint("'kelpie ls -a' lists the VMs");
    }
    kelpie_list_free(list);
}

void verb_say_error(const char *name, const struct kelpie_error *err) {
    ASSERT(name);
    ASSERT(err);
    say(name, err);
    if (err->status == KELPIE_NOT_FOUND) {
        verb_hint_vms(name);
    }
}

static void say_result(const struct verb *verb, const char *name, const struct result *result) {
    ASSERT(verb);
    ASSERT(result->done);
    if (result->status == KELPIE_NOT_FOUND && verb->not_found_hint) {
        say(name, &result->err);
        output_hint("%s", verb->not_found_hint);
        return;
    }
    verb_say_error(name, &result->err);
    if (result->status == KELPIE_WRONG_STATE && verb->wrong_state_hint) {
        output_hint("%s", verb->wrong_state_hint);
    }
}

static json_t *json_of_result(const char *name, struct result *result) {
    ASSERT(name);
    ASSERT(result->done);
    bool failed = result->status != KELPIE_OK;
    json_t *object = json_pack("{s:s, s:o}", "name", name, "error",
                               failed ? output_json_error(&result->err) : json_null());
    if (object && result->note.json) {
        (void)json_object_update(object, result->note.json);
    }
    return object;
}

/* Tells each result as soon as it is there. */
static int tell(struct work *work, bool json) {
    work_check(work);
    int code = CLI_EXIT_OK;
    json_t *array = json ? json_array() : NULL;
    ASSERT(array || !json);
    struct progress progress;
    progress_init(&progress, work->verb->doing && !json);
    for (size_t i = 0; i < work->count; i++) {
        progress_show(&progress, "%s %s", work->verb->doing ? work->verb->doing : "",
                      work->names[i]);
        await_result(work, i);
        progress_clear(&progress);
        struct result *result = &work->results[i];
        const char *name = work->names[i];
        if (json) {
            json_array_append_new(array, json_of_result(name, result));
        } else if (result->status == KELPIE_OK) {
            puts(result->note.text[0] != 0 ? result->note.text : name);
            fflush(stdout);
        }
        if (result->status != KELPIE_OK) {
            code = CLI_EXIT_FAILED;
            say_result(work->verb, name, result);
        }
        json_decref(result->note.json);
    }
    progress_deinit(&progress);
    if (json) {
        return output_json(array, code);
    }
    return ferror(stdout) ? CLI_EXIT_FAILED : code;
}

/* ---- Running ---------------------------------------------------------------------------------- */

static int apply_to_all(struct work *work, bool json) {
    pthread_t threads[CLI_VERB_THREADS_MAX];
    size_t started = 0;
    work_check(work);
    size_t wanted = min_size(work->count, ARRAY_SIZE(threads));
    while (started < wanted && pthread_create(&threads[started], NULL, work_main, work) == 0) {
        started++;
    }
    if (started == 0) {
        work_main(work);
    }
    int code = tell(work, json);
    for (size_t i = 0; i < started; i++) {
        int result = pthread_join(threads[i], NULL);
        ASSERT(result == 0);
    }
    ASSERT(work->next == work->count);
    return code;
}

int verb_run(const struct cli_command *command, const struct verb *verb,
             struct option_words *words) {
    ASSERT(command->rule.count_min > 0);
    ASSERT(command);
    ASSERT(verb->apply);
    struct verb_options options = {0};
    int code = CLI_EXIT_OK;
    AUTO_MEM struct cli_operands *names = calloc(1, sizeof(*names));
    if (!names) {
        return output_no_memory();
    }
    if (!cli_parse_all(command, words, &options, names, &code)) {
        return code;
    }
    AUTO_MEM struct result *results = calloc(names->count, sizeof(*results));
    if (!results) {
        return output_no_memory();
    }
    struct work work = {
        .verb = verb,
        .options = &options,
        .names = names->words,
        .count = names->count,
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .changed = PTHREAD_COND_INITIALIZER,
        .results = results,
    };
    return apply_to_all(&work, options.json);
}
