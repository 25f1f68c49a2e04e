/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A double of the Virtualization framework's classes, for vz_machine.m: what it is told it keeps as text, and answers as its test
 * wants it to. What the framework ends a program for (a call that is not on the machine's queue) ends this one too; a
 * call in a wrong state is answered by an NSError. Its guest does nothing.
 *
 * One machine at a time; for the thread of the test, unless something else is said.
 */
#ifndef KELPIE_TESTS_VZ_FRAMEWORK_H
#define KELPIE_TESTS_VZ_FRAMEWORK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

enum vz_double_call {
    VZ_DOUBLE_START = 0,
    VZ_DOUBLE_STOP,
    VZ_DOUBLE_PAUSE,
    VZ_DOUBLE_RESUME,
    VZ_DOUBLE_SAVE,
    VZ_DOUBLE_RESTORE,
    VZ_DOUBLE_CALL_COUNT
};

enum vz_double_answer {
    VZ_DOUBLE_DOES = 0, /* what it is asked */
    VZ_DOUBLE_FAILS,    /* with the NSError "the double fails" */
    VZ_DOUBLE_HOLDS,    /* answers when vz_double_answer_held() is called, or never */
};

struct vz_double_script {
    enum vz_double_answer answers[VZ_DOUBLE_CALL_COUNT];
    bool is_old;         /* macOS 13 */
    bool is_unsupported; /* no entitlement */
    bool refuses;        /* validateWithError: */
    bool refuses_saving; /* validateSaveRestoreSupportWithError: */
    bool refuses_disks;  /* their attachments */
};

void vz_double_reset(const struct vz_double_script *script);

/* What was held is done and answered, on its queue; false: nothing was. */
bool vz_double_answer_held(void);

/* What was held is forgotten, and its blocks are released. */
void vz_double_drop_held(void);

/* Whether something is held; waits for it a little. */
bool vz_double_holds(void);

/* The last machine that was made, as text, and the calls that were made since the reset, one word each. */
const char *vz_double_description(void);
const char *vz_double_calls(void);

/* The machine's end, of itself; the delegate is told. text NULL: the guest powered off. */
void vz_double_end(const char *text);

/* The descriptor that the console device's port has. */
int vz_double_port_fd(size_t index);

/* Machines that were released while they ran. */
int vz_double_abandoned(void);

/* Those that are alive now are the library's own. */
void vz_double_set_baseline(void);

/* Objects of vz_machine.m's, the framework's and Foundation's classes that are alive beyond the baseline, by GNUstep's count; waits a little for 0.
 * The names of their classes are written to names. */
size_t vz_double_live(char *names, size_t size);

#if defined(__OBJC__)
bool vz_double_is_on(dispatch_queue_t queue);
#endif
int vz_double_queue_count(void);

#endif
