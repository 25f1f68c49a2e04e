/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * model.h: what one VM promises, as small as can be: a state, a few files, and the bundles that were made of it. Pure.
 *
 * THEORY OF OPERATION
 *
 * An operation happens at one moment between its call and its return. model_step() says what it may have made of
 * the VM, if what it returned is true; nothing, if it cannot be true then. The table of rules (model.c) says for each kind where
 * it is allowed and what a failure may leave behind.
 *
 * A start is one moment too: the one at which the VM is running. `starting` is seen while one is under way, which
 * is why model_step() is told what goes on around it.
 *
 * A write that failed may still come: its command was on the way when the caller gave up. And a command that was under way
 * when a bundle was made goes on in each VM that is restored from it. Such writes are "loose": they come before a read that
 * sees them, or never.
 */
#ifndef KELPIE_SIM_RUN_MODEL_H
#define KELPIE_SIM_RUN_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kelpie.h"

#define MODEL_FILE_COUNT 8
#define MODEL_BUNDLE_COUNT 16
#define MODEL_IMAGE_COUNT_MAX 4096    /* different ones, of all histories of a run */
#define MODEL_ALTERNATIVE_COUNT_MAX 8 /* what one bundle may hold, as far as can be told */
#define MODEL_LOOSE_COUNT_MAX 8       /* writes under way when a bundle was made */
#define MODEL_AROUND_COUNT_MAX 32     /* writes under way at one moment */
#define MODEL_OUTCOME_COUNT_MAX 64    /* of one operation at one moment */
#define MODEL_ABSENT 0u               /* the content of a file that does not exist */
#define MODEL_UNKNOWN UINT32_MAX      /* a content that nobody looked at */
#define MODEL_GONE KELPIE_STATE_COUNT /* the state of a VM that was destroyed */

enum model_kind {
    MODEL_START = 0,
    MODEL_STOP,
    MODEL_PAUSE,
    MODEL_RESUME,
    MODEL_SNAPSHOT, /* bundle */
    MODEL_RESTORE,  /* bundle, paused */
    MODEL_COPY_IN,  /* file, id */
    MODEL_COPY_OUT, /* file -> value. NOT_FOUND says that there was none */
    MODEL_EXEC_WRITE,
    MODEL_EXEC_READ, /* file -> value, MODEL_ABSENT if there was none */
    MODEL_EXEC_ECHO, /* id -> value */
    MODEL_PING,
    MODEL_STATE, /* -> value: enum kelpie_state */
    MODEL_FORK,  /* -> values: what a child's files were; MODEL_UNKNOWN: not looked at */
    MODEL_DESTROY,
    MODEL_KIND_COUNT
};

struct model_op {
    enum model_kind kind;
    uint8_t file;
    uint8_t bundle;
    bool paused;
    uint32_t id;
    /* what came of it */
    bool ended; /* false: nobody knows */
    enum kelpie_status status;
    uint32_t value;
    uint32_t values[MODEL_FILE_COUNT];
};

struct model_write {
    uint32_t file;
    uint32_t id;
};

/* What a bundle holds. */
struct model_image {
    uint32_t files[MODEL_FILE_COUNT];
    struct model_write loose[MODEL_LOOSE_COUNT_MAX];
    uint32_t loose_count;
};

/* The images of all histories of a run, and which of them a bundle may be. The first image knows nothing. */
struct model_shelf {
    struct model_image images[MODEL_IMAGE_COUNT_MAX];
    size_t image_count;
    uint16_t alternatives[MODEL_BUNDLE_COUNT][MODEL_ALTERNATIVE_COUNT_MAX];
    size_t alternative_count[MODEL_BUNDLE_COUNT];
    bool full; /* an image was wanted that had no room */
};

/* A VM. Without padding: compared as bytes. */
struct model {
    uint32_t files[MODEL_FILE_COUNT];
    uint16_t bundles[MODEL_BUNDLE_COUNT]; /* made by this VM: an image, plus 1; 0: none */
    uint16_t loose_image;                 /* which image's loose writes may come */
    uint8_t loose_mask;                   /* and which of them still */
    uint8_t state;                        /* enum kelpie_state but starting, or MODEL_GONE */
};

/* A write under way that has not come yet. */
struct model_around_write {
    struct model_write write;
    bool optional; /* it did not say that it succeeded, so that it may come or not */
    uint32_t slot; /* the caller's name for it */
};

/* What goes on around an operation at that moment. */
struct model_around {
    bool faults;        /* the VM may crash */
    bool starting;      /* a start or restore is under way */
    bool interruptible; /* … and it did not say that it succeeded */
    bool stopping;      /* a stop or destroy is under way */
    size_t write_count;
    struct model_around_write writes[MODEL_AROUND_COUNT_MAX];
};

#define MODEL_SLOT_NONE UINT32_MAX

struct model_outcome {
    struct model model;
    bool machine_lost; /* what was loose cannot come any more */
    bool interrupts;   /* the start under way ends here, too */
    uint32_t landed;   /* the slot of the write that came just before; or MODEL_SLOT_NONE */
};

/* A VM that was just created. */
void model_init(struct model *model);
void model_shelf_init(struct model_shelf *shelf);

/* A bundle that a VM made whose history is not checked yet: it may hold anything. */
void model_shelf_allow(struct model_shelf *shelf, uint8_t bundle);

/* Notes what a bundle may hold: an image's index. */
void model_shelf_note(struct model_shelf *shelf, uint8_t bundle, uint16_t image);

/* Everything that the operation may have made of the VM at that moment. Returns how many. */
size_t model_step(const struct model *model, const struct model_op *op,
                  const struct model_around *around, struct model_shelf *shelf,
                  struct model_outcome outcomes[MODEL_OUTCOME_COUNT_MAX]);

/* The VM's process dies. */
void model_crash(struct model *model);

bool model_has_machine(const struct model *model);

/* It writes a file. */
bool model_writes(const struct model_op *op);

/* It did not succeed, and says nothing about the VM's state. */
bool model_is_vague(const struct model_op *op);

/* It was not refused at once. */
bool model_began(const struct model_op *op);

/* What it returned says that it held the VM, in a state that allowed it. */
bool model_had_turn(const struct model_op *op);

/* A write that did not succeed may have come, or still come, all the same. */
bool model_may_land(const struct model_op *op);

/* It succeeded, and so the guest has taken up everything that was sent before its call. */
bool model_passed_guest(const struct model_op *op);

/* It changes nothing, whatever became of it. */
bool model_is_pure(const struct model_op *op);

/* "copy_in" */
const char *model_kind_name(enum model_kind kind);

/* "copy_in /f3 of id 9: ok". Returns the number of characters, at most size - 1. */
size_t model_describe(const struct model_op *op, char *text, size_t size);

#endif
