/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The vz backend: Apple's Virtualization framework (macOS 14 or later).
 *
 * THEORY OF OPERATION
 *
 * The framework runs the machine in a process of its own and is spoken to in Objective-C. Everything that is not that stands
 * in plain C in vz.c, over the calls of vz_machine.h, so that it is tested anywhere; vz_machine.m makes those calls of
 * the framework's classes and is compiled on macOS, and on Linux by the tests, over a double of the framework and GNUstep's
 * classes (tests/vz/). `struct host` is still to be written for macOS (src/host/ has Linux): the backend has never run on a Mac, which its probe says.
 *
 * The machine boots a kernel and an initramfs. Channel and console are ports of a virtio console device, each with one end of a
 * socket pair. A save is the file that the framework writes; a load needs a machine of the same description, its
 * identifier included, which is a feature of the bundle's manifest. What is on a writable disk is not in that file: a VM that has
 * one is not saved.
 */
#ifndef KELPIE_BACKEND_VZ_VZ_H
#define KELPIE_BACKEND_VZ_VZ_H

#include "backend/backend.h"
#include "backend/vz/vz_machine.h"

/* The operations over these calls, which outlive them. */
extern const struct backend_ops backend_vz_ops;

/* An instance whose machine is made by other calls than the framework's. */
KELPIE_CHECKED enum kelpie_status vz_create_with(const struct vz_machine_calls *calls,
                                                 const struct backend_launch *launch,
                                                 struct backend_instance **ret_instance,
                                                 struct kelpie_error *err);

#endif
