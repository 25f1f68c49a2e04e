/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The calls of vz_machine.h, by the Virtualization framework's classes (Apple's documentation, "Virtualization"). Compiled with
 * ARC, on macOS only. It has never run (vz.h).
 *
 * A machine belongs to a serial queue: each call to it is made there, and its answer comes there. The C side waits for a
 * KelpieAnswer, which the answer's block holds too, so that an answer that comes too late finds it still there. A machine that ends
 * gives the answer that is waited for itself: who knows whether the framework does. A machine cannot be stopped while it is
 * between two states; one that is to end is then stopped by the next answer.
 */
#include "backend/vz/vz_machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#import <Foundation/Foundation.h>
#import <Virtualization/Virtualization.h>

#include "base/assert.h"
#include "base/error.h"

/* ---- The end ---------------------------------------------------------------------------------- */

static const char *text_of(NSError *error) {
    const char *text = error.localizedDescription.UTF8String;
    return text ? text : "it says no more";
}

/* What the C side waits for. Given on the queue, once. */
@interface KelpieAnswer : NSObject
@property(nonatomic, strong) dispatch_semaphore_t given;
@property(nonatomic, copy) NSString *failure; /* nil: none */
@end

@implementation KelpieAnswer
@end

@interface KelpieMachine : NSObject <VZVirtualMachineDelegate>
@property(nonatomic, strong) VZVirtualMachine *machine;
@property(nonatomic, strong) VZGenericMachineIdentifier *identifier;
@property(nonatomic, strong) dispatch_queue_t queue;
@property(nonatomic, strong) KelpieAnswer *pending; /* the queue's; nil: nobody waits */
@property(nonatomic) BOOL doomed; /* the queue's: it is to be stopped as soon as it can be */
@property(nonatomic) void (*ended)(void *context, const char *text);
@property(nonatomic) void *context;
@end

@implementation KelpieMachine
- (void)give:(KelpieAnswer *)answer failure:(const char *)text {
    if (answer && answer == self.pending) {
        answer.failure = text ? [NSString stringWithUTF8String:text] : nil;
        self.pending = nil;
        dispatch_semaphore_signal(answer.given);
    }
}
- (void)tell:(const char *)text {
    if (self.ended) {
        self.ended(self.context, text);
        self.ended = NULL;
    }
    [self give:self.pending failure:text[0] ? text : "the guest powered off"];
}
- (void)stop {
    self.doomed = YES;
    if (self.machine.canStop) {
        [self.machine stopWithCompletionHandler:^(NSError *error) {
          [self tell:error ? text_of(error) : "it was killed"];
        }];
    }
}
- (void)guestDidStopVirtualMachine:(VZVirtualMachine *)virtualMachine {
    (void)virtualMachine;
    [self tell:""];
}
- (void)virtualMachine:(VZVirtualMachine *)virtualMachine didStopWithError:(NSError *)error {
    (void)virtualMachine;
    [self tell:text_of(error)];
}
@end

static KelpieMachine *machine_of(struct vz_machine *machine) {
    ASSERT(machine);
    return (__bridge KelpieMachine *)(void *)machine;
}

/* ---- Waiting ---------------------------------------------------------------------------------- */

typedef void (^answer_block)(NSError *error);
typedef void (^question_block)(VZVirtualMachine *vm, answer_block answer);

/* On the queue. */
static void put(KelpieMachine *owner, KelpieAnswer *pending, question_block question) {
    ASSERT(owner && pending);
    owner.pending = pending;
    question(owner.machine, ^(NSError *error) {
      [owner give:pending failure:error ? text_of(error) : NULL];
      if (owner.doomed) {
          [owner stop];
      }
    });
}

/* Has the queue ask, and waits for the answer. */
static enum kelpie_status ask(struct vz_machine *machine, const char *what, uint32_t timeout_ms,
                              question_block question, struct kelpie_error *err) {
    KelpieMachine *owner = machine_of(machine);
    ASSERT(what);
    @autoreleasepool {
        KelpieAnswer *pending = [[KelpieAnswer alloc] init];
        pending.given = dispatch_semaphore_create(0);
        dispatch_async(owner.queue, ^{
          put(owner, pending, question);
        });
        dispatch_time_t deadline =
            dispatch_time(DISPATCH_TIME_NOW, (int64_t)timeout_ms * (int64_t)NSEC_PER_MSEC);
        if (dispatch_semaphore_wait(pending.given, deadline) != 0) {
            return error_set(err, KELPIE_TIMED_OUT,
                             "the Virtualization framework did not %s in %u ms", what, timeout_ms);
        }
        if (pending.failure) {
            return error_set(err, KELPIE_INTERNAL,
                             "the Virtualization framework did not %s: %.512s", what,
                             pending.failure.UTF8String);
        }
    }
    return KELPIE_OK;
}

/* ---- The description -------------------------------------------------------------------------- */

/* nil: the path is not UTF-8, which the framework's strings must be. */
static NSURL *url_of(const char *path) {
    ASSERT(path);
    NSString *text = [NSString stringWithUTF8String:path];
    return text ? [NSURL fileURLWithPath:text] : nil;
}

static enum kelpie_status not_utf8(const char *field, const char *text, struct kelpie_error *err) {
    ASSERT(field);
    ASSERT(text);
    return error_set_field(err, KELPIE_BAD_CONFIG, field,
                           "the Virtualization framework takes no text that is not UTF-8: %.512s",
                           text);
}

static VZVirtioConsolePortConfiguration *port_of(const char *name, int fd, BOOL is_console) {
    ASSERT(name);
    NSFileHandle *handle = [[NSFileHandle alloc] initWithFileDescriptor:fd closeOnDealloc:NO];
    VZVirtioConsolePortConfiguration *port = [[VZVirtioConsolePortConfiguration alloc] init];
    port.name = [NSString stringWithUTF8String:name];
    port.isConsole = is_console;
    port.attachment =
        [[VZFileHandleSerialPortAttachment alloc] initWithFileHandleForReading:handle
                                                          fileHandleForWriting:handle];
    return port;
}

static enum kelpie_status add_disks(VZVirtualMachineConfiguration *configuration,
                                    const struct vz_description *description,
                                    struct kelpie_error *err) {
    NSMutableArray *devices = [NSMutableArray array];
    ASSERT(description->disk_count <= KELPIE_DISK_COUNT_MAX);
    for (size_t i = 0; i < description->disk_count; i++) {
        NSError *error = nil;
        NSURL *url = url_of(description->disks[i].path);
        if (!url) {
            return not_utf8("disks", description->disks[i].path, err);
        }
        VZDiskImageStorageDeviceAttachment *attachment =
            [[VZDiskImageStorageDeviceAttachment alloc] initWithURL:url
                                                           readOnly:description->disks[i].read_only
                                                              error:&error];
        if (!attachment) {
            return error_set_field(err, KELPIE_BAD_CONFIG, "disks",
                                   "cannot use the disk %.512s: %.256s", description->disks[i].path,
                                   text_of(error));
        }
        [devices
            addObject:[[VZVirtioBlockDeviceConfiguration alloc] initWithAttachment:attachment]];
    }
    configuration.storageDevices = devices;
    return KELPIE_OK;
}

static VZGenericMachineIdentifier *identifier_of(const char *text) {
    if (!text) {
        return [[VZGenericMachineIdentifier alloc] init];
    }
    NSData *data = [[NSData alloc] initWithBase64EncodedString:[NSString stringWithUTF8String:text]
                                                       options:0];
    return data ? [[VZGenericMachineIdentifier alloc] initWithDataRepresentation:data] : nil;
}

static enum kelpie_status configure(VZVirtualMachineConfiguration *configuration,
                                    const struct vz_description *description,
                                    struct kelpie_error *err) {
    ASSERT(configuration);
    ASSERT(description->kernel && description->initramfs);
    NSURL *kernel = url_of(description->kernel);
    if (!kernel) {
        return not_utf8("kernel", description->kernel, err);
    }
    VZLinuxBootLoader *loader = [[VZLinuxBootLoader alloc] initWithKernelURL:kernel];
    loader.initialRamdiskURL = url_of(description->initramfs);
    loader.commandLine = [NSString stringWithUTF8String:description->command_line];
    if (!loader.initialRamdiskURL) {
        return not_utf8("XDG_CACHE_HOME", description->initramfs, err);
    }
    if (!loader.commandLine) {
        return not_utf8("kernel_args", description->command_line, err);
    }
    configuration.bootLoader = loader;
    configuration.CPUCount = description->vcpu_count;
    configuration.memorySize = (uint64_t)description->memory_mib << 20;
    configuration.entropyDevices = @[ [[VZVirtioEntropyDeviceConfiguration alloc] init] ];
    VZVirtioConsoleDeviceConfiguration *console = [[VZVirtioConsoleDeviceConfiguration alloc] init];
    [console.ports setObject:port_of("console", description->console_fd, YES) atIndexedSubscript:0];
    [console.ports setObject:port_of(description->channel_port, description->channel_fd, NO)
          atIndexedSubscript:1];
    configuration.consoleDevices = @[ console ];
    return add_disks(configuration, description, err);
}

/* ---- The calls -------------------------------------------------------------------------------- */

static bool vz_missing(char text[VZ_TEXT_SIZE]) {
    ASSERT(text);
    if (__builtin_available(macOS 14, *)) {
        if (VZVirtualMachine.supported) {
            return false;
        }
        snprintf(text, VZ_TEXT_SIZE,
                 "this Mac does not run virtual machines, or this program has not "
                 "the entitlement com.apple.security.virtualization");
        return true;
    }
    snprintf(text, VZ_TEXT_SIZE, "macOS 14 or later is needed");
    return true;
}

static BOOL validate(VZVirtualMachineConfiguration *configuration, NSError **ret_error) {
    ASSERT(configuration);
    ASSERT(ret_error);
    if (![configuration validateWithError:ret_error]) {
        return NO;
    }
#if defined(__arm64__)
    return [configuration validateSaveRestoreSupportWithError:ret_error];
#else
    return YES;
#endif
}

static enum kelpie_status vz_create_machine(const struct vz_description *description,
                                            struct vz_machine **ret_machine,
                                            struct kelpie_error *err) {
    ASSERT(description && ret_machine);
    @autoreleasepool {
        NSError *error = nil;
        KelpieMachine *owner = [[KelpieMachine alloc] init];
        VZVirtualMachineConfiguration *configuration = [[VZVirtualMachineConfiguration alloc] init];
        VZGenericPlatformConfiguration *platform = [[VZGenericPlatformConfiguration alloc] init];
        owner.identifier = identifier_of(description->identifier);
        if (!owner.identifier) {
            return error_set_field(err, KELPIE_SNAPSHOT_CORRUPT, "manifest",
                                   "the bundle's machine identifier is none");
        }
        platform.machineIdentifier = owner.identifier;
        configuration.platform = platform;
        TRY(configure(configuration, description, err));
        if (!validate(configuration, &error)) {
            return error_set(err, KELPIE_BAD_CONFIG,
                             "the Virtualization framework refuses this machine: %.512s",
                             text_of(error));
        }
        owner.ended = description->ended;
        owner.context = description->context;
        owner.queue = dispatch_queue_create("kelpie.vz", DISPATCH_QUEUE_SERIAL);
        owner.machine = [[VZVirtualMachine alloc] initWithConfiguration:configuration
                                                                  queue:owner.queue];
        dispatch_sync(owner.queue, ^{
          owner.machine.delegate = owner;
        });
        *ret_machine = (struct vz_machine *)CFBridgingRetain(owner);
    }
    return KELPIE_OK;
}

static void vz_stop_machine(struct vz_machine *machine) {
    @autoreleasepool {
        KelpieMachine *owner = machine_of(machine);
        dispatch_async(owner.queue, ^{
          [owner stop];
        });
    }
}

/* The caller closes the machine's descriptors next: so its end is waited for. */
static void vz_destroy_machine(struct vz_machine *machine) {
    @autoreleasepool {
        KelpieMachine *owner = machine_of(machine);
        dispatch_sync(owner.queue, ^{
          owner.ended = NULL;
        });
        enum kelpie_status ignored = ask(
            machine, "stop the machine", VZ_END_TIMEOUT_MS,
            ^(VZVirtualMachine *vm, answer_block answer) {
              if (vm.state == VZVirtualMachineStateStopped ||
                  vm.state == VZVirtualMachineStateError) {
                  answer(nil);
              } else {
                  [owner stop]; /* its answer is this one */
              }
            },
            NULL);
        (void)ignored; /* nothing more can be done about it */
        (void)CFBridgingRelease(machine);
    }
}

static enum kelpie_status vz_start_machine(struct vz_machine *machine, uint32_t timeout_ms,
                                           struct kelpie_error *err) {
    return ask(
        machine, "start the machine", timeout_ms,
        ^(VZVirtualMachine *vm, answer_block answer) {
          [vm startWithCompletionHandler:answer];
        },
        err);
}

static enum kelpie_status vz_pause_machine(struct vz_machine *machine, uint32_t timeout_ms,
                                           struct kelpie_error *err) {
    return ask(
        machine, "pause the machine", timeout_ms,
        ^(VZVirtualMachine *vm, answer_block answer) {
          [vm pauseWithCompletionHandler:answer];
        },
        err);
}

static enum kelpie_status vz_resume_machine(struct vz_machine *machine, uint32_t timeout_ms,
                                            struct kelpie_error *err) {
    return ask(
        machine, "resume the machine", timeout_ms,
        ^(VZVirtualMachine *vm, answer_block answer) {
          [vm resumeWithCompletionHandler:answer];
        },
        err);
}

/* Apple's headers have these two calls for its own processors only. */
#if defined(__arm64__)
static enum kelpie_status vz_save_machine(struct vz_machine *machine, const char *path,
                                          uint32_t timeout_ms, struct kelpie_error *err) {
    @autoreleasepool {
        NSURL *url = url_of(path);
        return ask(
            machine, "save the machine", timeout_ms,
            ^(VZVirtualMachine *vm, answer_block answer) {
              [vm saveMachineStateToURL:url completionHandler:answer];
            },
            err);
    }
}

static enum kelpie_status vz_load_machine(struct vz_machine *machine, const char *path,
                                          uint32_t timeout_ms, struct kelpie_error *err) {
    @autoreleasepool {
        NSURL *url = url_of(path);
        return ask(
            machine, "load the machine", timeout_ms,
            ^(VZVirtualMachine *vm, answer_block answer) {
              [vm restoreMachineStateFromURL:url completionHandler:answer];
            },
            err);
    }
}
#else
static enum kelpie_status no_state(struct vz_machine *machine, const char *path,
                                   uint32_t timeout_ms, struct kelpie_error *err) {
    ASSERT(machine);
    ASSERT(path);
    (void)timeout_ms;
    return error_set(err, KELPIE_UNSUPPORTED,
                     "the Virtualization framework saves and loads no machine on an Intel Mac");
}
#define vz_save_machine no_state
#define vz_load_machine no_state
#endif

static void vz_identify_machine(struct vz_machine *machine, char *buffer, size_t size) {
    ASSERT(buffer && size > 0);
    @autoreleasepool {
        NSString *text =
            [machine_of(machine).identifier.dataRepresentation base64EncodedStringWithOptions:0];
        int length = snprintf(buffer, size, "%s", text.UTF8String);
        if (length < 0 || (size_t)length >= size) {
            buffer[0] = '\0';
        }
    }
}

const struct vz_machine_calls vz_machine_calls = {
    .missing = vz_missing,
    .create = vz_create_machine,
    .destroy = vz_destroy_machine,
    .start = vz_start_machine,
    .pause = vz_pause_machine,
    .resume = vz_resume_machine,
    .save = vz_save_machine,
    .load = vz_load_machine,
    .stop = vz_stop_machine,
    .identifier = vz_identify_machine,
};
